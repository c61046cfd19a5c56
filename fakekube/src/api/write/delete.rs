//! Deleting objects: at once, or when finalizers and grace periods allow it.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::api::{
    cause::Cause,
    clock::seconds,
    finalizers::after_deletion,
    json::{at, metadata, number, object, text},
    kinds::Kind,
    refusal::{Answered, Refusal},
    request::DeleteOptions,
    state::{State, key_of},
    store::Key,
};

impl State {
    /// Deletes an object; returns its last state, and whether it is gone.
    pub fn delete(
        &mut self,
        kind: &Kind,
        namespace: Option<&str>,
        name: &str,
        options: &DeleteOptions,
        now: Timestamp,
    ) -> Answered<(Value, bool)> {
        check_policy(options)?;
        let key = key_of(kind, namespace, name);
        let Some(stored) = self.store.get(&key).cloned() else {
            return Err(Refusal::not_found(kind, name));
        };
        let old = &*stored;
        check_preconditions(kind, name, old, options)?;
        if kind.is_namespace() {
            return Ok(self.delete_namespace(kind, &key, old, now));
        }
        let deleting = at(old, "metadata.deletionTimestamp").is_some();
        let mut grace = None;
        if kind.is_pod() {
            match pod_grace(old, options, deleting) {
                // It is going already, and not to go sooner.
                None => return Ok((old.clone(), false)),
                Some(seconds) => grace = Some(seconds),
            }
        }
        let mut new = old.clone();
        let finalizers = after_deletion(kind, old, options.propagation.as_deref());
        let is_held = !finalizers.is_empty();
        let meta = metadata(&mut new);
        if is_held {
            meta.insert("finalizers".into(), finalizers.into());
        } else {
            meta.remove("finalizers");
        }
        let mark = |new: &mut Value, seconds_left: i64| {
            let deadline = now
                .checked_add(SignedDuration::from_secs(seconds_left))
                .unwrap_or(now);
            let generation = number(new, "metadata.generation");
            let meta = metadata(new);
            if !deleting && let Some(generation) = generation {
                meta.insert("generation".into(), (generation + 1).into());
            }
            if !deleting || seconds_left > 0 || kind.is_pod() {
                meta.insert("deletionTimestamp".into(), seconds(deadline).into());
            }
            meta.insert("deletionGracePeriodSeconds".into(), seconds_left.into());
        };
        if is_held || grace.is_some_and(|seconds| seconds > 0) {
            mark(&mut new, grace.unwrap_or_default());
            if new == *old {
                return Ok((new, false));
            }
            return Ok((self.commit(kind, &key, new), false));
        }
        if kind.is_pod() {
            mark(&mut new, 0);
        }
        self.remove(kind, &key);
        let version = self.store.version().to_string();
        metadata(&mut new).insert("resourceVersion".into(), version.into());
        Ok((new, true))
    }

    /// A namespace goes when its content has.
    fn delete_namespace(
        &mut self,
        kind: &Kind,
        key: &Key,
        old: &Value,
        now: Timestamp,
    ) -> (Value, bool) {
        let mut new = old.clone();
        if at(&new, "metadata.deletionTimestamp").is_none() {
            metadata(&mut new).insert("deletionTimestamp".into(), seconds(now).into());
            object(&mut new, "status").insert("phase".into(), "Terminating".into());
            new = self.commit(kind, key, new);
        }
        (new, false)
    }
}

fn check_policy(options: &DeleteOptions) -> Answered<()> {
    match options.propagation.as_deref() {
        None | Some("Foreground" | "Background" | "Orphan") => Ok(()),
        Some(policy) => {
            let allowed = ["Foreground", "Background", "Orphan", "nil"].map(Value::from);
            let cause = Cause::unsupported("propagationPolicy", &policy.into(), &allowed);
            Err(Refusal::invalid_as(
                "meta.k8s.io",
                "DeleteOptions",
                "",
                &[cause],
            ))
        }
    }
}

fn check_preconditions(
    kind: &Kind,
    name: &str,
    old: &Value,
    options: &DeleteOptions,
) -> Answered<()> {
    for (wanted, field, word, end) in [
        (&options.uid, "uid", "UID", "deleted and then recreated"),
        (
            &options.version,
            "resourceVersion",
            "ResourceVersion",
            "modified",
        ),
    ] {
        let found = text(&old["metadata"], field);
        if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != found) {
            let detail = format!(
                "the {word} in the precondition ({wanted}) does not match the {word} in record ({found}). The object might have been {end}"
            );
            return Err(Refusal::precondition(kind, name, &detail));
        }
    }
    Ok(())
}

/// The seconds that a pod gets to end; none where it is ending already and is not to end sooner.
fn pod_grace(pod: &Value, options: &DeleteOptions, deleting: bool) -> Option<i64> {
    if deleting {
        let left = number(pod, "metadata.deletionGracePeriodSeconds").unwrap_or_default();
        return options.grace.filter(|&grace| grace < left);
    }
    let asked = options
        .grace
        .or_else(|| number(pod, "spec.terminationGracePeriodSeconds"));
    let ended = matches!(text(pod, "status.phase"), "Succeeded" | "Failed");
    if ended || text(pod, "spec.nodeName").is_empty() {
        return Some(0);
    }
    let asked = asked.unwrap_or(30);
    Some(if asked < 0 { 1 } else { asked })
}
