//! The part of a document that can be read although others cannot, so that a slip in one field does not hide what is
//! wrong with the others.
//!
//! A misshapen value is left out, and with it every value that requires it. A rule that such a resource breaks is
//! broken by the whole document too, unless it rests on something that was left out.

use std::collections::BTreeMap;

use super::other_kind;
use crate::{
    InferenceBenchmark,
    crd::schema,
    node::{Entry, Kind, Node},
    schema::{check, member},
    validate::{Scope, rules},
    violation::Violation,
};

/// The members, each within the one before, that a resource cannot do without; those that are missing are taken to be
/// empty.
const NEEDED: [&str; 4] = ["spec", "design", "factors", "model"];
/// The factors that the rules on engines, parameters and loads relate to each other.
const RELATED: [&str; 6] = [
    "engine",
    "parameters",
    "batchSize",
    "concurrency",
    "requestRate",
    "prefixShare",
];

/// A resource that lacks what could not be read.
pub(super) struct Partial<'a> {
    /// The resource.
    pub(super) resource: InferenceBenchmark,
    document: BTreeMap<String, &'a Node>,
    left_out: LeftOut,
}

/// The paths that were left out, each with whether it is a field that the resource does not have.
type LeftOut = BTreeMap<String, bool>;

/// Reads what can be read; none where nothing can.
pub(super) fn read(node: &Node) -> Option<Partial<'_>> {
    if !matches!(node.kind, Kind::Map(_)) || other_kind(node).is_some() {
        return None;
    }
    let mut document = BTreeMap::new();
    collect(node, String::new(), &mut document);
    let mut left_out = LeftOut::new();
    for path in needed() {
        if !is_given(&document, &path) {
            left_out.insert(path, false);
        }
    }
    loop {
        let rest = with_needed(without(node, "", &left_out), &NEEDED);
        let findings = check(&rest, schema(), "").into_iter();
        let misshapen: Vec<_> = findings
            .filter(|finding| finding.misshapen)
            .map(|finding| (original(&finding.path, &left_out), finding.unknown))
            .collect();
        if misshapen.is_empty() {
            let resource = serde_json::from_value(rest.to_json()).ok()?;
            return Some(Partial {
                resource,
                document,
                left_out,
            });
        }
        for (path, unknown) in misshapen {
            // A member that is required takes along what it is missing from.
            let mut gone = path.as_str();
            while left_out.contains_key(gone) || !document.contains_key(gone) {
                if gone.is_empty() {
                    return None;
                }
                gone = around(gone);
            }
            left_out.insert(gone.to_owned(), unknown);
        }
        if left_out.contains_key("") {
            return None;
        }
    }
}

impl Partial<'_> {
    /// The rules that the whole document breaks for certain.
    pub(super) fn rules(&self, scope: Scope) -> Vec<Violation> {
        let violations = rules(&self.resource, scope).into_iter();
        violations
            .map(|violation| Violation {
                path: original(&violation.path, &self.left_out),
                ..violation
            })
            .filter(|violation| {
                !rests_on(&violation.path)
                    .iter()
                    .any(|path| self.lacks(path))
            })
            .collect()
    }

    /// Whether something was left out at, below or around this path, or something that may be meant for it.
    fn lacks(&self, path: &str) -> bool {
        self.left_out.iter().any(|(gone, unknown)| {
            let parent = around(gone);
            is_within(path, gone)
                || is_within(gone, path)
                || (*unknown && is_within(path, parent) && !self.gives_next(parent, path))
        })
    }

    /// Whether the document gives the member of `parent` that leads to `path`.
    fn gives_next(&self, parent: &str, path: &str) -> bool {
        let below = path[parent.len()..].trim_start_matches('.');
        let next = below.split(['.', '[']).next().unwrap_or_default();
        is_given(&self.document, &member(parent, next))
    }
}

/// The paths of all values of a document.
fn collect<'a>(node: &'a Node, path: String, found: &mut BTreeMap<String, &'a Node>) {
    match &node.kind {
        Kind::List(items) => {
            for (index, item) in items.iter().enumerate() {
                collect(item, format!("{path}[{index}]"), found);
            }
        }
        Kind::Map(entries) => {
            for entry in entries {
                collect(&entry.value, member(&path, &entry.key), found);
            }
        }
        _ => {}
    }
    found.insert(path, node);
}

fn is_given(document: &BTreeMap<String, &Node>, path: &str) -> bool {
    document
        .get(path)
        .is_some_and(|node| node.kind != Kind::Null)
}

/// The paths of [`NEEDED`].
fn needed() -> impl Iterator<Item = String> {
    NEEDED.iter().scan(String::new(), |path, name| {
        *path = member(path, name);
        Some(path.clone())
    })
}

/// The value less what was left out.
fn without(node: &Node, path: &str, left_out: &LeftOut) -> Node {
    let kind = match &node.kind {
        Kind::List(items) => {
            let items = items.iter().enumerate();
            let items = items.map(|(index, item)| (format!("{path}[{index}]"), item));
            let kept = items.filter(|(path, _)| !left_out.contains_key(path));
            Kind::List(
                kept.map(|(path, item)| without(item, &path, left_out))
                    .collect(),
            )
        }
        Kind::Map(entries) => {
            let entries = entries.iter();
            let entries = entries.map(|entry| (member(path, &entry.key), entry));
            let kept = entries.filter(|(path, _)| !left_out.contains_key(path));
            Kind::Map(
                kept.map(|(path, entry)| Entry {
                    value: without(&entry.value, &path, left_out),
                    ..entry.clone()
                })
                .collect(),
            )
        }
        scalar => scalar.clone(),
    };
    Node { kind, at: node.at }
}

/// The value with these members, each within the one before: empty where they are missing.
fn with_needed(mut node: Node, needed: &[&str]) -> Node {
    let (Some((name, inner)), Kind::Map(entries)) = (needed.split_first(), &mut node.kind) else {
        return node;
    };
    let given = entries
        .iter()
        .position(|entry| entry.key == *name && entry.value.kind != Kind::Null);
    let value = match given {
        Some(at) => entries.remove(at).value,
        None if inner.is_empty() => Node::from(serde_json::json!([])),
        None => Node::from(serde_json::json!({})),
    };
    entries.retain(|entry| entry.key != *name);
    entries.push(Entry {
        key: (*name).to_owned(),
        key_at: None,
        value: with_needed(value, inner),
    });
    node
}

/// A path of what was left, as the whole document counts it.
fn original(path: &str, left_out: &LeftOut) -> String {
    let mut whole = String::new();
    for part in path.split_inclusive(']') {
        let item = part.rsplit_once('[').and_then(|(before, index)| {
            let index: usize = index.strip_suffix(']')?.parse().ok()?;
            Some((before, index))
        });
        let Some((before, index)) = item else {
            whole += part;
            continue;
        };
        whole += before;
        let mut kept = (0..).filter(|at| !left_out.contains_key(&format!("{whole}[{at}]")));
        let at = kept.nth(index).unwrap_or(index);
        whole += &format!("[{at}]");
    }
    whole
}

/// The paths that a rule rests on which is broken at this one.
fn rests_on(path: &str) -> Vec<String> {
    const FACTORS: &str = "spec.design.factors";
    const STORE: &str = "spec.results.store";
    let mut all = vec![path.to_owned()];
    if path == "spec.design.exclude" {
        all.push("spec.design".into());
    } else if let Some(entry) = path.strip_prefix("spec.design.exclude[") {
        let levels = entry.split_once("].").map_or("", |(_, levels)| levels);
        let factor = levels.split(['.', '[']).next().unwrap_or_default();
        all.push(member(FACTORS, factor));
    } else if is_within(path, STORE) {
        all.push(STORE.into());
    } else if is_within(path, "spec.expectations") {
        all.push(member(FACTORS, "parameters"));
    } else if path == "spec.execution.trialTimeout" {
        all.extend(["spec.measurement".into(), member(FACTORS, "gpus")]);
    } else if let Some(factor) = path.strip_prefix("spec.design.factors.")
        && !factor.starts_with("gpus[")
        && !factor.starts_with("model[")
    {
        all.extend(RELATED.map(|name| member(FACTORS, name)));
    }
    all
}

/// Whether a path is another one, or below it.
fn is_within(path: &str, other: &str) -> bool {
    match path.strip_prefix(other) {
        Some(rest) => other.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']),
        None => false,
    }
}

/// The path around another one.
fn around(path: &str) -> &str {
    &path[..path.rfind(['.', '[']).unwrap_or(0)]
}
