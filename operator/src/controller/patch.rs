//! The merge patch (RFC 7396) from one document to another: only what differs is sent, and what is gone is removed.

use serde_json::{Map, Value};

/// The patch that turns `old` into `new`; none where they are equal.
///
/// No member of `new` may be null: a merge patch cannot write one. A status has none outside of lists, which are
/// replaced whole.
#[must_use]
pub fn diff(old: &Value, new: &Value) -> Option<Value> {
    match (old, new) {
        _ if old == new => None,
        (Value::Object(old), Value::Object(new)) => {
            let mut patch = Map::new();
            for (name, after) in new {
                match old.get(name) {
                    Some(before) => {
                        if let Some(changed) = diff(before, after) {
                            patch.insert(name.clone(), changed);
                        }
                    }
                    None => {
                        patch.insert(name.clone(), after.clone());
                    }
                }
            }
            for name in old.keys().filter(|name| !new.contains_key(*name)) {
                patch.insert(name.clone(), Value::Null);
            }
            Some(Value::Object(patch))
        }
        _ => Some(new.clone()),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::DeepMerge;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_patch_leads_from_the_one_to_the_other() {
        let documents = [
            json!({}),
            json!({"a": 1}),
            json!({"a": 2, "b": {"c": [1, 2], "d": "x"}}),
            json!({"b": {"c": [2]}, "e": {}}),
            json!({"b": [1], "a": {"c": 1}}),
        ];
        for old in &documents {
            for new in &documents {
                let mut merged = old.clone();
                if let Some(patch) = diff(old, new) {
                    merged.merge_from(patch);
                }
                assert_eq!(&merged, new, "from {old}");
            }
            assert_eq!(diff(old, old), None);
        }
    }

    #[test]
    fn what_is_equal_is_not_sent() {
        let patch = diff(
            &json!({"a": 1, "b": {"c": 1, "d": 2}}),
            &json!({"a": 1, "b": {"c": 3, "d": 2}}),
        );
        assert_eq!(patch, Some(json!({"b": {"c": 3}})));
    }
}
