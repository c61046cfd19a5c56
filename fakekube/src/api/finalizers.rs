//! Finalizers that the server and its controllers act on, and those that a deletion leaves an object with.

use serde_json::Value;

use super::{
    json::{has, list},
    kinds::Kind,
};

/// Keeps an object until its dependents have lost it as an owner.
pub(crate) const ORPHAN: &str = "orphan";
/// Keeps an object until the dependents that block its deletion are gone.
pub(crate) const FOREGROUND: &str = "foregroundDeletion";
/// Keeps a definition until its objects are gone.
pub(crate) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// The finalizers of an object after a deletion with this propagation policy.
pub(crate) fn after_deletion(kind: &Kind, old: &Value, policy: Option<&str>) -> Vec<Value> {
    let held = |name| has(old, "metadata.finalizers", name);
    let (orphan, foreground) = match policy {
        Some(policy) => (policy == "Orphan", policy == "Foreground"),
        None if held(ORPHAN) => (true, false),
        None if held(FOREGROUND) => (false, true),
        // For the sake of old clients.
        None => (kind.is_job(), false),
    };
    let mut names: Vec<Value> = list(old, "metadata.finalizers")
        .iter()
        .filter(|name| *name != ORPHAN && *name != FOREGROUND)
        .cloned()
        .collect();
    // Events are not part of the graph of owners.
    if !kind.is_event() {
        names.extend(orphan.then(|| ORPHAN.into()));
        names.extend(foreground.then(|| FOREGROUND.into()));
    }
    names
}
