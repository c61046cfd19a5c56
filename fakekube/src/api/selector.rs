//! Which objects a list or a watch is about: label and field selectors.

use serde_json::Value;

use super::{
    json::{at, text},
    kinds::Kind,
    refusal::{Answered, Refusal},
};

/// What a request asks for; empty for everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    /// A dotted path, whether equal, and the value.
    fields: Vec<(String, bool, String)>,
}

#[derive(Clone, Debug)]
struct Requirement {
    key: String,
    is: Is,
}

#[derive(Clone, Debug)]
enum Is {
    There,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
}

impl Selector {
    pub fn parse(kind: &Kind, labels: &str, fields: &str) -> Answered<Self> {
        Ok(Self {
            labels: parse_labels(labels)?,
            fields: parse_fields(kind, fields)?,
        })
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The name, where a field selector fixes it.
    pub fn name(&self) -> Option<&str> {
        self.fields
            .iter()
            .find(|(path, equal, _)| path == "metadata.name" && *equal)
            .map(|(_, _, name)| name.as_str())
    }

    pub fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| {
            object["metadata"]["labels"]
                .get(key)
                .and_then(Value::as_str)
        };
        let labels = self.labels.iter().all(|requirement| {
            let found = label(&requirement.key);
            match &requirement.is {
                Is::There => found.is_some(),
                Is::Absent => found.is_none(),
                Is::In(values) => {
                    found.is_some_and(|found| values.iter().any(|value| value == found))
                }
                Is::NotIn(values) => {
                    !found.is_some_and(|found| values.iter().any(|value| value == found))
                }
            }
        });
        labels
            && self
                .fields
                .iter()
                .all(|(path, equal, value)| (plain(object, path) == *value) == *equal)
    }
}

/// A field as selectors compare it.
fn plain(object: &Value, path: &str) -> String {
    match at(object, path) {
        Some(Value::Bool(value)) => value.to_string(),
        Some(Value::Number(value)) => value.to_string(),
        _ => text(object, path).to_owned(),
    }
}

fn parse_labels(text: &str) -> Answered<Vec<Requirement>> {
    split(text).into_iter().map(requirement).collect()
}

/// At commas that are not in parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts.retain(|part| !part.trim().is_empty());
    parts
}

fn requirement(text: &str) -> Answered<Requirement> {
    let text = text.trim();
    let of = |key: &str, is| Requirement {
        key: key.trim().to_owned(),
        is,
    };
    if let Some((key, value)) = text.split_once("!=") {
        return Ok(of(key, Is::NotIn(vec![value.trim().to_owned()])));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(of(key, Is::In(vec![value.trim().to_owned()])));
    }
    if let Some(key) = text.strip_prefix('!') {
        return Ok(of(key, Is::Absent));
    }
    if let Some((head, set)) = text.split_once('(') {
        let values = set
            .trim_end_matches(')')
            .split(',')
            .map(|value| value.trim().to_owned())
            .collect();
        let words: Vec<&str> = head.split_whitespace().collect();
        match words.as_slice() {
            [key, "in"] => return Ok(of(key, Is::In(values))),
            [key, "notin"] => return Ok(of(key, Is::NotIn(values))),
            _ => {}
        }
    }
    let mut words = text.split_whitespace();
    match (words.next(), words.next()) {
        (Some(key), None) => Ok(of(key, Is::There)),
        (_, Some(word)) => Err(Refusal::bad_request(format!(
            "unable to parse requirement: found '{word}', expected: in, notin, =, ==, !=, gt, lt"
        ))),
        (None, None) => Err(Refusal::bad_request("unable to parse requirement")),
    }
}

/// The fields that a kind can be selected by, beside its name and namespace.
fn selectable(kind: &Kind) -> &'static [&'static str] {
    if kind.custom.is_some() {
        return &[];
    }
    match kind.plural.as_str() {
        "pods" => &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "status.phase",
            "status.podIP",
        ],
        "jobs" => &["status.successful"],
        "namespaces" => &["status.phase"],
        "nodes" => &["spec.unschedulable"],
        "secrets" => &["type"],
        "events" => &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "reason",
            "reportingController",
            "reportingComponent",
            "source",
            "type",
        ],
        _ => &[],
    }
}

fn parse_fields(kind: &Kind, text: &str) -> Answered<Vec<(String, bool, String)>> {
    text.split(',')
        .filter(|part| !part.trim().is_empty())
        .map(|part| {
            let (path, equal, value) = if let Some((path, value)) = part.split_once("!=") {
                (path, false, value)
            } else if let Some((path, value)) =
                part.split_once("==").or_else(|| part.split_once('='))
            {
                (path, true, value)
            } else {
                return Err(Refusal::bad_request(format!(
                    "invalid selector: '{part}'; can't understand '{part}'"
                )));
            };
            let path = path.trim();
            let known = matches!(path, "metadata.name" | "metadata.namespace")
                || selectable(kind).contains(&path);
            if !known {
                return Err(Refusal::bad_request(format!(
                    "field label not supported: {path}"
                )));
            }
            // Events are stored in the words of events.k8s.io.
            let path = match path.strip_prefix("involvedObject.") {
                Some(rest) => format!("regarding.{rest}"),
                None if path == "reportingComponent" => "reportingController".to_owned(),
                None if path == "source" => "deprecatedSource.component".to_owned(),
                None => path.to_owned(),
            };
            Ok((path, equal, value.trim().to_owned()))
        })
        .collect()
}
