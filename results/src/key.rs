//! The key of a trial: a hash of all that its request fixes, and of the attempt. Equal requests have equal keys on
//! every machine and in every release that keeps [`KEY_VERSION`].

use std::fmt::Write as _;

pub use inferbench_crds::sha256_hex;
use serde::Serialize;
use serde_json::{Value, json};

use crate::record::Request;

/// Part of what is hashed: another one would orphan every stored record. It has the form of a record's version, and was
/// one before records had a second; their versions come and go without it.
pub const KEY_VERSION: &str = "inferbench.dev/trial/v1";

/// Characters of a key.
pub const KEY_LEN: usize = 32;

/// The key of one attempt at a request: the first 32 hexadecimal characters of the SHA-256 of the canonical JSON (no
/// white space, members sorted by name) of `{"attempt", "request", "schemaVersion"}`.
#[must_use]
pub fn trial_key(request: &Request, attempt: u32) -> String {
    let document =
        json!({ "attempt": attempt, "request": to_value(request), "schemaVersion": KEY_VERSION });
    let mut text = String::with_capacity(512);
    write_canonical(&document, &mut text);
    let mut key = sha256_hex(text.as_bytes());
    key.truncate(KEY_LEN);
    key
}

/// Whether a name has the form of a key.
#[must_use]
pub fn is_key(name: &str) -> bool {
    name.len() == KEY_LEN && name.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

fn to_value(value: impl Serialize) -> Value {
    serde_json::to_value(value).expect("plain data with string keys always serializes")
}

/// Sorts members itself: whether `serde_json` keeps them sorted depends on features that any dependency can turn on.
fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            out.push('{');
            for (at, (name, member)) in members.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                let _ = write!(out, "{}:", Value::from(name.as_str()));
                write_canonical(member, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        scalar => {
            let _ = write!(out, "{scalar}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[test]
    fn keys_are_stable() {
        // A change of these orphans every stored record.
        let request = fixtures::request();
        assert_eq!(trial_key(&request, 0), "de7dbbfa889eaeb35c59d97d4d68ae7f");
        assert_eq!(trial_key(&request, 1), "188ba46967396654e638d60cacccb5ee");
    }

    #[test]
    fn everything_counts() {
        let base = fixtures::request();
        let mut keys = vec![trial_key(&base, 0), trial_key(&base, 1)];
        let changes: [fn(&mut Request); 11] = [
            |r| r.combination.batch_size += 1,
            |r| r.combination.model.name.push('x'),
            |r| r.model_revision.push('x'),
            |r| r.replicate += 1,
            |r| r.seed += 1,
            |r| r.measurement.iterations += 1,
            |r| r.measurement.min_duration_ms += 1,
            |r| r.runner.push('x'),
            |r| r.combination.gpus += 1,
            |r| r.combination.search = Some(fixtures::search()),
            |r| r.objectives = Some(inferbench_crds::spec::Objectives::default()),
        ];
        for change in changes {
            let mut request = base.clone();
            change(&mut request);
            keys.push(trial_key(&request, 0));
        }
        assert!(keys.iter().all(|key| is_key(key)));
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 13);
    }

    #[test]
    fn members_are_sorted_at_every_depth() {
        let mut text = String::new();
        write_canonical(
            &json!({ "b": [{ "d": 1, "c": "ü\n" }], "a": null }),
            &mut text,
        );
        assert_eq!(text, r#"{"a":null,"b":[{"c":"ü\n","d":1}]}"#);
    }

    #[test]
    fn a_key_looks_like_one() {
        assert!(is_key("0123456789abcdef0123456789abcdef"));
        for other in [
            "",
            "0123456789abcdef0123456789abcde",
            "0123456789ABCDEF0123456789abcdef",
            "ceilings",
        ] {
            assert!(!is_key(other), "{other}");
        }
    }
}
