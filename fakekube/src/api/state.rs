//! The state of the server: the store, the kinds, and the source of names and uids.

use std::sync::Arc;

use inferbench_crds::splitmix::SplitMix64;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    clock::seconds,
    kinds::{self, BUILT_IN, Kind},
    request::Target,
    store::{Key, Store},
};

/// The number of writes that are remembered for watches and paged lists.
const HISTORY: usize = 8_192;

#[derive(Debug)]
pub(crate) struct State {
    pub store: Store,
    custom: Vec<Arc<Kind>>,
    random: SplitMix64,
    /// The version up to which the garbage collector has looked.
    pub swept: u64,
}

impl State {
    pub fn new(now: Timestamp) -> Self {
        let mut state = Self {
            store: Store::new(HISTORY),
            custom: Vec::new(),
            random: SplitMix64::new(0x6661_6b65),
            swept: 0,
        };
        for name in ["default", "kube-system"] {
            let uid = state.uid();
            let namespace = json!({
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": {
                    "name": name,
                    "uid": uid,
                    "creationTimestamp": seconds(now),
                    "labels": { "kubernetes.io/metadata.name": name },
                },
                "spec": { "finalizers": ["kubernetes"] },
                "status": { "phase": "Active" },
            });
            state.store.write(&Key::of_namespace(name), Some(namespace));
        }
        state
    }

    pub fn kinds(&self) -> impl Iterator<Item = &Arc<Kind>> {
        BUILT_IN.iter().chain(&self.custom)
    }

    /// The kind of the object or list that a path names.
    pub fn kind(&self, target: &Target) -> Option<Arc<Kind>> {
        self.kinds()
            .find(|kind| kind.is(&target.group, &target.plural) && kind.version == target.version)
            .cloned()
    }

    /// The kind that an object names.
    pub fn kind_named(&self, api_version: &str, name: &str) -> Option<Arc<Kind>> {
        self.kinds()
            .find(|kind| kind.kind == name && kind.api_version() == api_version)
            .cloned()
    }

    /// The kind of this resource, such as `jobs.batch`.
    pub fn kind_of(&self, resource: &str) -> Option<Arc<Kind>> {
        self.kinds()
            .find(|kind| &*kind.resource == resource)
            .cloned()
    }

    /// Writes an object, whatever is there; returns it with its new version.
    pub fn commit(&mut self, kind: &Kind, key: &Key, object: Value) -> Value {
        if kind.is_definition() {
            self.define(&key.name, Some(&object));
        }
        let stored = self.store.write(key, Some(object));
        stored.map(|stored| (*stored).clone()).unwrap_or_default()
    }

    /// Removes an object for good.
    pub fn remove(&mut self, kind: &Kind, key: &Key) {
        self.store.write(key, None);
        if kind.is_definition() {
            self.define(&key.name, None);
        }
    }

    /// Adds the kind of a definition as it is now; without one, forgets the kind.
    fn define(&mut self, name: &str, definition: Option<&Value>) {
        self.custom.retain(|kind| &*kind.resource != name);
        if let Some(kind) = definition.and_then(kinds::custom) {
            self.custom.push(kind);
        }
    }

    /// A uid that nobody has had: random, but the same in every run.
    pub fn uid(&mut self) -> String {
        let (high, low) = (self.random.next_u64(), self.random.next_u64());
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xfff,
            0x8000 | ((low >> 48) & 0x3fff),
            low & 0xffff_ffff_ffff,
        )
    }

    /// The end of a generated name.
    pub fn suffix(&mut self) -> String {
        const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        (0..5)
            .map(|_| {
                let index = self.random.next_u64() % LETTERS.len() as u64;
                char::from(LETTERS[usize::try_from(index).unwrap_or_default()])
            })
            .collect()
    }

    pub fn namespace(&self, name: &str) -> Option<&Value> {
        self.store
            .get(&Key::of_namespace(name))
            .map(|stored| &**stored)
    }
}

/// The place of an object of a kind.
pub(crate) fn key_of(kind: &Kind, namespace: Option<&str>, name: &str) -> Key {
    Key::new(&kind.resource, namespace.unwrap_or_default(), name)
}
