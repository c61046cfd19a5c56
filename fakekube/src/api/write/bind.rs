//! Binding pods to nodes, as the scheduler does.

use serde_json::{Value, json};

use super::options::Options;
use crate::api::{
    cause::Cause,
    clock::seconds,
    json::{at, list, object, text},
    kinds::Kind,
    refusal::{Answered, Refusal},
    state::{State, key_of},
};

impl State {
    /// Puts a pod on the node that a binding names.
    pub fn bind(
        &mut self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        binding: &Value,
        options: &Options,
    ) -> Answered<()> {
        let key = key_of(kind, namespace, name);
        let Some(stored) = self.store.get(&key).cloned() else {
            return Err(Refusal::not_found(kind, name));
        };
        let node = text(binding, "target.name");
        if node.is_empty() {
            let cause = Cause::required("target.name", "");
            return Err(Refusal::invalid_as("", "Binding", name, &[cause]));
        }
        for field in ["uid", "resourceVersion"] {
            let (wanted, found) = (
                text(&binding["metadata"], field),
                text(&stored["metadata"], field),
            );
            if !wanted.is_empty() && wanted != found {
                let detail = format!(
                    "the {field} in the precondition ({wanted}) does not match that in record ({found})"
                );
                return Err(Refusal::precondition(kind, name, &detail));
            }
        }
        let taken = text(&stored, "spec.nodeName");
        let detail = if at(&stored, "metadata.deletionTimestamp").is_some() {
            format!("pod {name} is being deleted, cannot be assigned to a host")
        } else if taken.is_empty() {
            String::new()
        } else {
            format!("pod {name} is already assigned to node {taken:?}")
        };
        if !detail.is_empty() {
            let mut refusal = Refusal::modified(kind, name);
            refusal.message =
                format!("Operation cannot be fulfilled on pods/binding \"{name}\": {detail}");
            return Err(refusal);
        }
        let mut new = (*stored).clone();
        object(&mut new, "spec").insert("nodeName".into(), node.into());
        let mut conditions = list(&new, "status.conditions").to_vec();
        conditions.retain(|condition| text(condition, "type") != "PodScheduled");
        conditions.push(json!({
            "type": "PodScheduled", "status": "True", "lastTransitionTime": seconds(options.now),
        }));
        object(&mut new, "status").insert("conditions".into(), conditions.into());
        self.commit(kind, &key, new);
        Ok(())
    }
}
