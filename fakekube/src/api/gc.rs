//! Kubernetes' controllers for objects that have to go: the garbage collector, and those that delete a namespace's
//! content and a definition's objects.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    finalizers::{CLEANUP, FOREGROUND, ORPHAN},
    json::{at, has, list, text},
    kinds::Kind,
    request::DeleteOptions,
    state::State,
    store::Key,
    write::{Change, Options, UnknownFields},
};

impl State {
    /// Acts on all changes since the last time, and on those that follow from them.
    pub fn collect(&mut self, now: Timestamp) {
        while self.swept < self.store.version() {
            let since = self.swept;
            self.swept = self.store.version();
            let mut queue: VecDeque<Key> = VecDeque::new();
            if since < self.store.oldest() {
                // The changes are forgotten: every object has to be looked at.
                for kind in self.kinds() {
                    let objects = self.store.range(&kind.resource, None, None);
                    queue.extend(objects.map(|(key, _)| key.clone()));
                }
            } else {
                let mut keys = BTreeSet::new();
                for change in self.store.since(since) {
                    self.touched(
                        change.before.as_deref(),
                        change.after.as_deref(),
                        &change.key,
                        &mut keys,
                    );
                }
                queue.extend(keys);
            }
            for key in queue {
                self.look(&key, now);
            }
        }
    }

    /// Adds the objects that a write may have consequences for.
    fn touched(
        &self,
        before: Option<&Value>,
        after: Option<&Value>,
        key: &Key,
        keys: &mut BTreeSet<Key>,
    ) {
        let deleting =
            after.is_some_and(|object| at(object, "metadata.deletionTimestamp").is_some());
        let references = |object: Option<&Value>| {
            object.map(|object| list(object, "metadata.ownerReferences").to_vec())
        };
        if deleting
            || after.is_some_and(|_| {
                references(before).unwrap_or_default() != references(after).unwrap_or_default()
            })
        {
            keys.insert(key.clone());
        }
        if deleting || after.is_none() {
            let uid = before.or(after).map(|object| text(object, "metadata.uid"));
            keys.extend(uid.into_iter().flat_map(|uid| self.store.dependents(uid)));
        }
        let Some(gone) = before.filter(|_| after.is_none()) else {
            return;
        };
        // The owners that wait for it to be gone.
        for owner in list(gone, "metadata.ownerReferences") {
            keys.extend(self.owner(owner, &key.namespace));
        }
        if !key.namespace.is_empty() {
            keys.insert(Key::of_namespace(&key.namespace));
        }
        let definitions = "customresourcedefinitions.apiextensions.k8s.io".into();
        keys.insert(Key::new(&definitions, "", &key.resource));
    }

    /// The place of the owner that a reference names, whether or not anything is there.
    fn owner(&self, reference: &Value, namespace: &str) -> Option<Key> {
        let kind = self.kind_named(text(reference, "apiVersion"), text(reference, "kind"))?;
        let namespace = if kind.namespaced { namespace } else { "" };
        Some(Key::new(&kind.resource, namespace, text(reference, "name")))
    }

    /// Acts on one object.
    fn look(&mut self, key: &Key, now: Timestamp) {
        let (Some(kind), Some(stored)) =
            (self.kind_of(&key.resource), self.store.get(key).cloned())
        else {
            return;
        };
        let deleting = at(&stored, "metadata.deletionTimestamp").is_some();
        if deleting && kind.is_namespace() {
            return self.empty_namespace(key, now);
        }
        if deleting && has(&stored, "metadata.finalizers", CLEANUP) {
            return self.empty_definition(key, now);
        }
        if deleting && has(&stored, "metadata.finalizers", ORPHAN) {
            for dependent in self.store.dependents(text(&stored, "metadata.uid")) {
                self.disown(&dependent, &[text(&stored, "metadata.uid").to_owned()], now);
            }
            return self.release(key, ORPHAN, now);
        }
        if deleting && has(&stored, "metadata.finalizers", FOREGROUND) {
            let uid = text(&stored, "metadata.uid");
            let blocks = |state: &Self, key: &Key| {
                state.store.get(key).is_some_and(|object| {
                    list(object, "metadata.ownerReferences")
                        .iter()
                        .any(|owner| {
                            text(owner, "uid") == uid && owner["blockOwnerDeletion"] == true
                        })
                })
            };
            for dependent in self.store.dependents(uid) {
                self.look_after_owners(&dependent, now);
            }
            if !self
                .store
                .dependents(uid)
                .iter()
                .any(|key| blocks(self, key))
            {
                self.release(key, FOREGROUND, now);
            }
            return;
        }
        self.look_after_owners(key, now);
    }

    /// Deletes an object whose owners are all gone, or going and taking it along.
    fn look_after_owners(&mut self, key: &Key, now: Timestamp) {
        let (Some(kind), Some(stored)) =
            (self.kind_of(&key.resource), self.store.get(key).cloned())
        else {
            return;
        };
        if at(&stored, "metadata.deletionTimestamp").is_some() {
            return;
        }
        let references = list(&stored, "metadata.ownerReferences");
        if references.is_empty() {
            return;
        }
        let (mut solid, mut waiting, mut void) = (0, 0, Vec::new());
        for reference in references {
            let uid = text(reference, "uid");
            let Some(owner) = self.owner(reference, &key.namespace) else {
                // Nothing is known of an unknown kind: the object stays.
                solid += 1;
                continue;
            };
            match self
                .store
                .get(&owner)
                .filter(|owner| text(owner, "metadata.uid") == uid)
            {
                None => void.push(uid.to_owned()),
                Some(owner) => {
                    let taking = at(owner, "metadata.deletionTimestamp").is_some()
                        && has(owner, "metadata.finalizers", FOREGROUND);
                    if taking {
                        waiting += 1;
                        void.push(uid.to_owned());
                    } else {
                        solid += 1;
                    }
                }
            }
        }
        if solid > 0 {
            if !void.is_empty() {
                self.disown(key, &void, now);
            }
            return;
        }
        let has_dependents = !self
            .store
            .dependents(text(&stored, "metadata.uid"))
            .is_empty();
        let policy = if waiting > 0 && has_dependents {
            "Foreground"
        } else if has(&stored, "metadata.finalizers", ORPHAN) {
            "Orphan"
        } else if has(&stored, "metadata.finalizers", FOREGROUND) {
            "Foreground"
        } else {
            "Background"
        };
        self.delete_for_good(&kind, key, policy, now);
    }

    fn delete_for_good(&mut self, kind: &Kind, key: &Key, policy: &str, now: Timestamp) {
        let options = DeleteOptions {
            propagation: Some(policy.to_owned()),
            ..DeleteOptions::default()
        };
        let namespace = kind.namespaced.then_some(key.namespace.as_str());
        // It may be gone already, which is as well.
        let _ = self.delete(kind, namespace, &key.name, &options, now);
    }

    /// Takes owners with these uids off an object.
    fn disown(&mut self, key: &Key, uids: &[String], now: Timestamp) {
        let Some(stored) = self.store.get(key).cloned() else {
            return;
        };
        let kept: Vec<Value> = list(&stored, "metadata.ownerReferences")
            .iter()
            .filter(|owner| !uids.iter().any(|uid| text(owner, "uid") == uid))
            .cloned()
            .collect();
        let kept = if kept.is_empty() {
            Value::Null
        } else {
            kept.into()
        };
        self.patch(
            key,
            &json!({ "metadata": { "ownerReferences": kept } }),
            None,
            now,
        );
    }

    /// Takes a finalizer off an object.
    fn release(&mut self, key: &Key, finalizer: &str, now: Timestamp) {
        let Some(stored) = self.store.get(key).cloned() else {
            return;
        };
        let kept: Vec<Value> = list(&stored, "metadata.finalizers")
            .iter()
            .filter(|name| *name != finalizer)
            .cloned()
            .collect();
        self.patch(
            key,
            &json!({ "metadata": { "finalizers": kept } }),
            None,
            now,
        );
    }

    fn patch(&mut self, key: &Key, patch: &Value, subresource: Option<&str>, now: Timestamp) {
        let Some(kind) = self.kind_of(&key.resource) else {
            return;
        };
        let options = Options {
            now,
            manager: "kube-controller-manager".into(),
            unknown_fields: UnknownFields::Dropped,
        };
        let namespace = kind.namespaced.then_some(key.namespace.as_str());
        let done = self.change(
            &kind,
            namespace,
            &key.name,
            subresource,
            Change::Merge(patch),
            &options,
        );
        if let Err(refusal) = done {
            tracing::warn!(
                kind = kind.kind,
                name = key.name,
                refusal.message,
                "garbage stays"
            );
        }
    }

    fn empty_namespace(&mut self, key: &Key, now: Timestamp) {
        let kinds: Vec<Arc<Kind>> = self
            .kinds()
            .filter(|kind| kind.namespaced)
            .cloned()
            .collect();
        let mut left = false;
        for kind in kinds {
            let keys: Vec<Key> = self
                .store
                .range(&kind.resource, Some(&key.name), None)
                .map(|(key, _)| key.clone())
                .collect();
            for key in keys {
                self.delete_for_good(&kind, &key, "Background", now);
            }
            left |= self
                .store
                .range(&kind.resource, Some(&key.name), None)
                .next()
                .is_some();
        }
        if !left {
            let patch = json!({ "spec": { "finalizers": [] } });
            self.patch(key, &patch, Some("finalize"), now);
        }
    }

    fn empty_definition(&mut self, key: &Key, now: Timestamp) {
        let Some(kind) = self.kind_of(&key.name) else {
            return self.release(key, CLEANUP, now);
        };
        let keys: Vec<Key> = self
            .store
            .range(&kind.resource, None, None)
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            self.delete_for_good(&kind, &key, "Background", now);
        }
        if self
            .store
            .range(&kind.resource, None, None)
            .next()
            .is_none()
        {
            self.release(key, CLEANUP, now);
        }
    }
}
