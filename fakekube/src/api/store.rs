//! Objects, each with the version of its last write, and the latest writes: lists and watches are answered from here.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use serde_json::Value;
use tokio::time::Instant;

use super::json::{list, text};

/// The place of an object. Ordered as lists are: by resource, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// Such as `jobs.batch`.
    pub resource: Arc<str>,
    /// Empty for kinds without.
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(resource: &Arc<str>, namespace: &str, name: &str) -> Self {
        Self {
            resource: Arc::clone(resource),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// The place of a namespace.
    pub fn of_namespace(name: &str) -> Self {
        Self::new(&"namespaces".into(), "", name)
    }
}

/// An object as it is stored; never changed, only replaced.
pub(crate) type Stored = Arc<Value>;

/// One write.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub version: u64,
    pub at: Instant,
    pub key: Key,
    pub before: Option<Stored>,
    pub after: Option<Stored>,
}

/// The versioned store.
#[derive(Debug)]
pub(crate) struct Store {
    version: u64,
    objects: BTreeMap<Key, Stored>,
    /// The writes that are remembered, oldest first, with versions that follow on each other.
    log: VecDeque<Change>,
    /// The number of writes to remember.
    history: usize,
    /// The objects that name an owner, by its uid.
    dependents: HashMap<String, BTreeSet<Key>>,
}

impl Store {
    pub fn new(history: usize) -> Self {
        Self {
            version: 1,
            objects: BTreeMap::new(),
            log: VecDeque::new(),
            history,
            dependents: HashMap::new(),
        }
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    /// Sets the number of writes that are remembered.
    pub fn set_history(&mut self, history: usize) {
        self.history = history;
        self.shrink();
    }

    /// The oldest version whose later changes are all remembered.
    pub fn oldest(&self) -> u64 {
        self.log
            .front()
            .map_or(self.version, |change| change.version - 1)
    }

    /// Forgets all writes up to now.
    pub fn compact(&mut self) {
        self.log.clear();
    }

    pub fn get(&self, key: &Key) -> Option<&Stored> {
        self.objects.get(key)
    }

    /// The objects of a kind, in one namespace or in all, after a place in the order.
    pub fn range<'a>(
        &'a self,
        resource: &'a Arc<str>,
        namespace: Option<&'a str>,
        after: Option<&Key>,
    ) -> impl Iterator<Item = (&'a Key, &'a Stored)> {
        let start = match after {
            Some(key) => Bound::Excluded(key.clone()),
            None => Bound::Included(Key::new(resource, namespace.unwrap_or_default(), "")),
        };
        self.objects
            .range((start, Bound::Unbounded))
            .take_while(move |(key, _)| {
                key.resource == *resource
                    && namespace.is_none_or(|namespace| key.namespace == namespace)
            })
    }

    /// The same at an older version; none where that is forgotten.
    pub fn range_at(
        &self,
        version: u64,
        resource: &Arc<str>,
        namespace: Option<&str>,
        after: Option<&Key>,
    ) -> Option<Vec<(Key, Stored)>> {
        if version < self.oldest() {
            return None;
        }
        let mut then: BTreeMap<Key, Stored> = self
            .range(resource, namespace, after)
            .map(|(key, object)| (key.clone(), Arc::clone(object)))
            .collect();
        for change in self.since(version).collect::<Vec<_>>().into_iter().rev() {
            let key = &change.key;
            let wanted = key.resource == *resource
                && namespace.is_none_or(|namespace| key.namespace == namespace)
                && after.is_none_or(|after| key > after);
            if wanted {
                match &change.before {
                    Some(object) => then.insert(key.clone(), Arc::clone(object)),
                    None => then.remove(key),
                };
            }
        }
        Some(then.into_iter().collect())
    }

    /// The writes after a version that is still remembered.
    pub fn since(&self, version: u64) -> impl Iterator<Item = &Change> {
        let oldest = self.oldest();
        let skip = usize::try_from(version.saturating_sub(oldest)).unwrap_or(usize::MAX);
        self.log.range(skip.min(self.log.len())..)
    }

    /// The objects that name this uid as an owner.
    pub fn dependents(&self, uid: &str) -> Vec<Key> {
        self.dependents
            .get(uid)
            .map(|keys| keys.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Writes an object, or removes it; an object that is written gets the new version.
    pub fn write(&mut self, key: &Key, object: Option<Value>) -> Option<Stored> {
        self.version += 1;
        let after = object.map(|mut object| {
            object["metadata"]["resourceVersion"] = self.version.to_string().into();
            Arc::new(object)
        });
        let before = match &after {
            Some(object) => self.objects.insert(key.clone(), Arc::clone(object)),
            None => self.objects.remove(key),
        };
        for uid in before.iter().flat_map(|object| owners(object)) {
            if let Some(keys) = self.dependents.get_mut(uid) {
                keys.remove(key);
                if keys.is_empty() {
                    self.dependents.remove(uid);
                }
            }
        }
        for uid in after.iter().flat_map(|object| owners(object)) {
            self.dependents
                .entry(uid.to_owned())
                .or_default()
                .insert(key.clone());
        }
        self.log.push_back(Change {
            version: self.version,
            at: Instant::now(),
            key: key.clone(),
            before,
            after: after.clone(),
        });
        self.shrink();
        after
    }

    fn shrink(&mut self) {
        while self.log.len() > self.history {
            self.log.pop_front();
        }
    }
}

/// The uids of an object's owners.
pub(crate) fn owners(object: &Value) -> impl Iterator<Item = &str> {
    list(object, "metadata.ownerReferences")
        .iter()
        .map(|owner| text(owner, "uid"))
}

/// The version of an object's last write.
pub(crate) fn version_of(object: &Value) -> &str {
    text(object, "metadata.resourceVersion")
}
