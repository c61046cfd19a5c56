//! The handle of the server: a test holds it, hands out clients from it, and asks it what has happened.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::{
    clock::Clock,
    faults::{Call, Counts, Fault},
    kinds::Kind,
    service::Service,
    shared::Shared,
    state::key_of,
    write::{Options, UnknownFields},
};

/// An API server in memory. Clones are the same server.
#[derive(Clone)]
pub struct FakeKube(pub(crate) Arc<Shared>);

impl Default for FakeKube {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeKube {
    /// An empty one, with the namespaces `default` and `kube-system`, by the wall clock.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Clock::wall())
    }

    /// The same, by another clock.
    #[must_use]
    pub fn with_clock(clock: Clock) -> Self {
        Self(Arc::new(Shared::new(clock)))
    }

    /// The time now, by its clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.0.now()
    }

    /// A client in this process, without sockets. Its requests are counted, and can be made to fail, by its name. It
    /// does not retry.
    #[must_use]
    pub fn client(&self, name: &str) -> Client {
        Client::new(Service::new(&self.0, name), "default")
    }

    /// The number of requests that a client has made.
    #[must_use]
    pub fn counts(&self, client: &str) -> Counts {
        self.0.counts(client)
    }

    /// Starts counting a client's requests anew.
    pub fn reset_counts(&self, client: &str) {
        self.0.reset_counts(client);
    }

    /// From now on, asks this hook about every request of a client before it is answered.
    pub fn set_faults(&self, client: &str, hook: impl Fn(&Call) -> Fault + Send + Sync + 'static) {
        self.0.set_hook(client, Some(Arc::new(hook)));
    }

    /// Removes a client's hook.
    pub fn clear_faults(&self, client: &str) {
        self.0.set_hook(client, None);
    }

    /// Forgets all changes up to now: watches from before, and continued lists, get 410.
    pub fn compact(&self) {
        self.0.state().store.compact();
    }

    /// Sets the number of writes to remember.
    pub fn set_history(&self, writes: usize) {
        self.0.state().store.set_history(writes);
    }

    /// The version of the last write.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.0.state().store.version()
    }

    /// The objects of a resource such as `jobs.batch`, by namespace and name, unseen by counters and faults.
    #[must_use]
    pub fn objects(&self, resource: &str) -> Vec<Value> {
        let resource = resource.into();
        let state = self.0.state();
        let objects = state.store.range(&resource, None, None);
        objects.map(|(_, stored)| (**stored).clone()).collect()
    }

    /// The number of objects of a resource.
    #[must_use]
    pub fn count(&self, resource: &str) -> usize {
        let resource = resource.into();
        self.0.state().store.range(&resource, None, None).count()
    }

    /// Creates an object of any kind, unseen by counters and faults.
    ///
    /// # Errors
    /// The message of the refusal.
    pub fn create(&self, object: &Value) -> Result<Value, String> {
        let kind = self.kind(object)?;
        let options = Options {
            now: self.now(),
            manager: "test".into(),
            unknown_fields: UnknownFields::Refused,
        };
        self.0
            .write(|state| state.create(&kind, namespace(&kind, object), object.clone(), &options))
            .map(|written| written.object)
            .map_err(|refusal| refusal.message)
    }

    /// Puts an object as it is, with its uid and status, in place of any that is there; unchecked, and unseen by
    /// counters and faults.
    ///
    /// # Errors
    /// Where its kind is not known.
    pub fn put(&self, object: &Value) -> Result<Value, String> {
        let kind = self.kind(object)?;
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let key = key_of(&kind, namespace(&kind, object), name);
        Ok(self
            .0
            .write(|state| state.commit(&kind, &key, object.clone())))
    }

    /// Adds the kind that a CustomResourceDefinition defines.
    ///
    /// # Errors
    /// The message of the refusal.
    pub fn install_crd(&self, definition: &Value) -> Result<(), String> {
        self.create(definition).map(|_| ())
    }

    fn kind(&self, object: &Value) -> Result<Arc<Kind>, String> {
        let field = |key: &str| object[key].as_str().unwrap_or_default();
        let (version, kind) = (field("apiVersion"), field("kind"));
        let known = self.0.state().kind_named(version, kind);
        known.ok_or_else(|| format!("there is no kind {kind:?} in apiVersion {version:?}"))
    }

    /// Runs Kubernetes' garbage collector and namespace controller, this long after every change, until the server is
    /// dropped.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn_garbage_collector(&self, delay: Duration) -> JoinHandle<()> {
        let shared: Weak<Shared> = Arc::downgrade(&self.0);
        let mut changed = self.0.changed.subscribe();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(delay).await;
                let Some(shared) = shared.upgrade() else {
                    return;
                };
                changed.mark_unchanged();
                let now = shared.now();
                shared.write(|state| state.collect(now));
                drop(shared);
                if changed.changed().await.is_err() {
                    return;
                }
            }
        })
    }
}

/// The namespace that an object goes to; `default` where it does not say.
fn namespace<'a>(kind: &Kind, object: &'a Value) -> Option<&'a str> {
    let given = object["metadata"]["namespace"].as_str();
    kind.namespaced.then(|| given.unwrap_or("default"))
}
