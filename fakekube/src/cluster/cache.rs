//! The objects of a kind that the cluster has seen, by the watch and by the answers to its own writes, so that it never
//! acts on less than it knows.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use kube::{Resource, runtime::watcher::Event};

/// An object's namespace (empty where it has none) and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// A key.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The key of an object.
    pub fn of(object: &impl Resource) -> Self {
        let metadata = object.meta();
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The objects of a kind.
#[derive(Debug)]
pub struct Cache<K> {
    objects: BTreeMap<Key, Arc<K>>,
    /// During a list: its objects so far, and their newest version.
    listed: Option<(BTreeSet<Key>, u64)>,
}

/// An object before and after a change.
#[derive(Debug)]
pub struct Change<K> {
    /// Its key.
    pub key: Key,
    /// The object before; none where it is new.
    pub before: Option<Arc<K>>,
    /// The object after; none where it is gone.
    pub after: Option<Arc<K>>,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            listed: None,
        }
    }
}

impl<K: Resource> Cache<K> {
    /// An object.
    pub fn get(&self, key: &Key) -> Option<&Arc<K>> {
        self.objects.get(key)
    }

    /// All objects, by their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Arc<K>)> {
        self.objects.iter()
    }

    /// Takes over an event of a watch; returns the changes.
    pub fn observe(&mut self, event: Event<K>) -> Vec<Change<K>> {
        match event {
            Event::Init => {
                self.listed = Some((BTreeSet::new(), 0));
                Vec::new()
            }
            Event::InitApply(object) => {
                if let Some((listed, newest)) = &mut self.listed {
                    listed.insert(Key::of(&object));
                    *newest = version(&object).max(*newest);
                }
                self.put(object).into_iter().collect()
            }
            Event::InitDone => {
                let Some((listed, newest)) = self.listed.take() else {
                    return Vec::new();
                };
                // Objects that are newer than the list were written by ourselves since.
                let gone = |(key, object): (&Key, &Arc<K>)| {
                    let gone = !listed.contains(key) && version(&**object) <= newest;
                    gone.then(|| key.clone())
                };
                let gone: Vec<Key> = self.objects.iter().filter_map(gone).collect();
                gone.into_iter()
                    .filter_map(|key| self.remove(key))
                    .collect()
            }
            Event::Apply(object) => self.put(object).into_iter().collect(),
            Event::Delete(object) => {
                let key = Key::of(&object);
                let same = |known: &Arc<K>| known.meta().uid == object.meta().uid;
                if self.objects.get(&key).is_some_and(same) {
                    self.remove(key).into_iter().collect()
                } else {
                    Vec::new()
                }
            }
        }
    }

    /// Takes over an object, unless a newer one is known.
    pub fn put(&mut self, object: K) -> Option<Change<K>> {
        let key = Key::of(&object);
        let before = self.objects.get(&key).cloned();
        if before
            .as_ref()
            .is_some_and(|known| version(&**known) >= version(&object))
        {
            return None;
        }
        let after = Arc::new(object);
        self.objects.insert(key.clone(), Arc::clone(&after));
        Some(Change {
            key,
            before,
            after: Some(after),
        })
    }

    /// Takes over a change that was accepted, before the watch brings it.
    pub fn assume(&mut self, object: K) -> Change<K> {
        let key = Key::of(&object);
        let after = Arc::new(object);
        let before = self.objects.insert(key.clone(), Arc::clone(&after));
        Change {
            key,
            before,
            after: Some(after),
        }
    }

    fn remove(&mut self, key: Key) -> Option<Change<K>> {
        let before = self.objects.remove(&key)?;
        Some(Change {
            key,
            before: Some(before),
            after: None,
        })
    }
}

/// The version as a number: those of one kind can be compared so.
fn version(object: &impl Resource) -> u64 {
    let version = object.meta().resource_version.as_deref();
    version
        .and_then(|version| version.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;

    use super::*;

    fn node(name: &str, version: u64) -> Node {
        let mut node = Node::default();
        node.metadata.name = Some(name.into());
        node.metadata.uid = Some(name.into());
        node.metadata.resource_version = Some(version.to_string());
        node
    }

    fn names(cache: &Cache<Node>) -> Vec<String> {
        cache.iter().map(|(key, _)| key.name.clone()).collect()
    }

    #[test]
    fn what_was_written_meanwhile_outlives_an_older_list_and_event() {
        let mut cache = Cache::default();
        cache.observe(Event::Init);
        cache.observe(Event::InitApply(node("a", 3)));
        cache.observe(Event::InitApply(node("b", 9)));
        assert!(cache.observe(Event::InitDone).is_empty());
        // A list anew, which lacks `a`; `c` was written after it was made.
        assert!(cache.put(node("c", 10)).is_some());
        assert!(cache.observe(Event::Apply(node("c", 9))).is_empty(), "late");
        cache.observe(Event::Init);
        cache.observe(Event::InitApply(node("b", 9)));
        let gone = cache.observe(Event::InitDone);
        assert_eq!(gone.len(), 1);
        assert_eq!(names(&cache), ["b", "c"]);
        // The deletion of a namesake before.
        let mut old = node("b", 11);
        old.metadata.uid = Some("other".into());
        assert!(cache.observe(Event::Delete(old)).is_empty());
        cache.observe(Event::Delete(node("b", 12)));
        assert_eq!(names(&cache), ["c"]);
    }
}
