//! What Kubernetes' controllers do about objects that are to go: the garbage collector, the end of a namespace's
//! content, and that of a definition's objects.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::{
    json::{at, has, list, text},
    kinds::Kind,
    request::DeleteOptions,
    state::State,
    store::Key,
    write::{Change, FOREGROUND, ORPHAN, Writing},
};

/// The finalizer that keeps a definition until its objects are gone.
pub(crate) const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

impl State {
    /// Looks at what has changed since the last time, and does what follows from it, and from that.
    pub fn collect(&mut self, now: Timestamp) {
        while self.swept < self.store.version() {
            let since = self.swept;
            self.swept = self.store.version();
            let mut queue: VecDeque<Key> = VecDeque::new();
            if since < self.store.oldest() {
                // What happened is forgotten: everything has to be looked at.
                let kinds: BTreeSet<Arc<str>> = self.kinds().map(|kind| kind.stored_as()).collect();
                for kind in kinds {
                    queue.extend(
                        self.store
                            .range(&kind, None, None)
                            .map(|(key, _)| key.clone()),
                    );
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

    /// Which objects a write may have consequences for.
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
        // Those that wait for it to be gone.
        for owner in list(gone, "metadata.ownerReferences") {
            keys.extend(self.owner(owner, &key.namespace).map(|(_, key)| key));
        }
        if !key.namespace.is_empty() {
            keys.insert(Key {
                kind: "namespaces".into(),
                namespace: String::new(),
                name: key.namespace.clone(),
            });
        }
        keys.insert(Key {
            kind: "customresourcedefinitions.apiextensions.k8s.io".into(),
            namespace: String::new(),
            name: key.kind.to_string(),
        });
    }

    /// The kind and the place of the owner that a reference names, whether or not anything is there.
    fn owner(&self, reference: &Value, namespace: &str) -> Option<(Arc<Kind>, Key)> {
        let kind = self.kind_named(text(reference, "apiVersion"), text(reference, "kind"))?;
        let namespace = if kind.namespaced { namespace } else { "" };
        let key = Key {
            kind: kind.stored_as(),
            namespace: namespace.to_owned(),
            name: text(reference, "name").to_owned(),
        };
        Some((kind, key))
    }

    fn kind_of(&self, key: &Key) -> Option<Arc<Kind>> {
        // The stored form of events is the one of events.k8s.io.
        self.kinds()
            .filter(|kind| kind.stored_as() == key.kind)
            .max_by_key(|kind| kind.group.len())
            .cloned()
    }

    /// Does what is due about one object.
    fn look(&mut self, key: &Key, now: Timestamp) {
        let (Some(kind), Some(stored)) = (self.kind_of(key), self.store.get(key).cloned()) else {
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
        let (Some(kind), Some(stored)) = (self.kind_of(key), self.store.get(key).cloned()) else {
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
            let owner = self.owner(reference, &key.namespace);
            let Some((_, owner)) = owner else {
                // Of a kind that nobody knows, nothing is known: it stays.
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

    fn delete_for_good(&mut self, kind: &Arc<Kind>, key: &Key, policy: &str, now: Timestamp) {
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
            &serde_json::json!({ "metadata": { "ownerReferences": kept } }),
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
            &serde_json::json!({ "metadata": { "finalizers": kept } }),
            None,
            now,
        );
    }

    fn patch(&mut self, key: &Key, patch: &Value, subresource: Option<&str>, now: Timestamp) {
        let Some(kind) = self.kind_of(key) else {
            return;
        };
        let how = Writing {
            now,
            manager: "kube-controller-manager".into(),
            validation: "Ignore".into(),
            dry_run: false,
            force: false,
        };
        let namespace = kind.namespaced.then_some(key.namespace.as_str());
        let done = self.change(
            &kind,
            namespace,
            &key.name,
            subresource,
            Change::Merge(patch),
            &how,
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
            let stored_as = kind.stored_as();
            let keys: Vec<Key> = self
                .store
                .range(&stored_as, Some(&key.name), None)
                .map(|(key, _)| key.clone())
                .collect();
            for key in keys {
                self.delete_for_good(&kind, &key, "Background", now);
            }
            left |= self
                .store
                .range(&stored_as, Some(&key.name), None)
                .next()
                .is_some();
        }
        if !left {
            let patch = serde_json::json!({ "spec": { "finalizers": [] } });
            self.patch(key, &patch, Some("finalize"), now);
        }
    }

    fn empty_definition(&mut self, key: &Key, now: Timestamp) {
        let Some(kind) = self
            .kinds()
            .find(|kind| kind.resource() == key.name)
            .cloned()
        else {
            return self.release(key, CLEANUP, now);
        };
        let stored_as = kind.stored_as();
        let keys: Vec<Key> = self
            .store
            .range(&stored_as, None, None)
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            self.delete_for_good(&kind, &key, "Background", now);
        }
        if self.store.range(&stored_as, None, None).next().is_none() {
            self.release(key, CLEANUP, now);
        }
    }
}
