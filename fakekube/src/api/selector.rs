//! Label selectors: the objects that a list or a watch is about.

use serde_json::Value;

use super::refusal::{Answered, Refusal};

/// The requirements that an object has to meet; none for everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector(Vec<Requirement>);

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
    pub fn parse(text: &str) -> Answered<Self> {
        split(text)
            .into_iter()
            .map(requirement)
            .collect::<Answered<_>>()
            .map(Self)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| {
            object["metadata"]["labels"]
                .get(key)
                .and_then(Value::as_str)
        };
        self.0.iter().all(|requirement| {
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
        })
    }
}

/// Splits at commas that are not in parentheses.
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
