//! The handle of the server: what a test holds, hands clients out from and asks about what has happened.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde_json::Value;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    clock::Clock,
    faults::{Call, Counts, Fault, Hook},
    kinds::Kind,
    refusal::Refusal,
    service::Service,
    state::State,
    write::{Writing, presented},
};

/// An API server in memory. Clones are the same server.
#[derive(Clone)]
pub struct FakeKube(pub(crate) Arc<Shared>);

pub(crate) struct Shared {
    state: Mutex<State>,
    /// The version of the last write: watches wait for it.
    pub changed: watch::Sender<u64>,
    clock: Clock,
    clients: Mutex<HashMap<String, Arc<Mutex<Known>>>>,
}

/// What is known about a client, and what is to befall it.
#[derive(Default)]
pub(crate) struct Known {
    counts: Counts,
    calls: u64,
    hook: Option<Hook>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Does something to the state, and tells those who watch.
    pub fn write<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state();
        let before = state.store.version();
        let result = change(&mut state);
        let version = state.store.version();
        drop(state);
        if version != before {
            self.changed.send_replace(version);
        }
        result
    }

    fn known(&self, client: &str) -> Arc<Mutex<Known>> {
        Arc::clone(locked(&self.clients).entry(client.to_owned()).or_default())
    }

    /// Counts a request of a client, and asks what is to go wrong with it.
    pub fn admit(&self, client: &str, mut call: Call) -> Fault {
        let known = self.known(client);
        let mut known = locked(&known);
        known.calls += 1;
        call.nth = known.calls;
        known.counts.add(&call);
        let hook = known.hook.clone();
        drop(known);
        hook.map_or(Fault::None, |hook| hook(&call))
    }
}

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
        let state = State::new(clock.now());
        let (changed, _) = watch::channel(state.store.version());
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            changed,
            clock,
            clients: Mutex::default(),
        }))
    }

    /// What time it is.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.0.now()
    }

    /// A client in this process, without sockets. Its requests are counted, and can be made to go wrong, by its name.
    /// It does not retry.
    #[must_use]
    pub fn client(&self, name: &str) -> Client {
        Client::new(Service::new(self, name), "default")
    }

    /// How many requests a client has made.
    #[must_use]
    pub fn counts(&self, client: &str) -> Counts {
        locked(&self.0.known(client)).counts.clone()
    }

    /// Starts counting a client's requests anew.
    pub fn reset_counts(&self, client: &str) {
        let known = self.0.known(client);
        let mut known = locked(&known);
        known.counts = Counts::default();
        known.calls = 0;
    }

    /// Has this asked, from now on, about every request of a client: what is to go wrong with it.
    pub fn set_faults(&self, client: &str, hook: impl Fn(&Call) -> Fault + Send + Sync + 'static) {
        locked(&self.0.known(client)).hook = Some(Arc::new(hook));
    }

    /// Lets a client's requests go well again.
    pub fn clear_faults(&self, client: &str) {
        locked(&self.0.known(client)).hook = None;
    }

    /// Forgets what happened up to now: watches from before, and continued lists, get 410.
    pub fn compact(&self) {
        self.0.state().store.compact();
    }

    /// How many writes to remember.
    pub fn set_history(&self, writes: usize) {
        self.0.state().store.set_history(writes);
    }

    /// The version of the last write.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.0.state().store.version()
    }

    /// The objects of a resource such as `jobs.batch`, as they are, unseen by counters and faults.
    #[must_use]
    pub fn objects(&self, resource: &str) -> Vec<Value> {
        let state = self.0.state();
        let kind = state
            .kinds()
            .find(|kind| kind.resource() == resource)
            .cloned();
        let Some(kind) = kind else {
            return Vec::new();
        };
        let stored_as = kind.stored_as();
        state
            .store
            .range(&stored_as, None, None)
            .map(|(_, stored)| presented(&kind, stored).into_owned())
            .collect()
    }

    /// How many objects of a resource there are.
    #[must_use]
    pub fn count(&self, resource: &str) -> usize {
        let state = self.0.state();
        state.store.range(&resource.into(), None, None).count()
    }

    /// Creates an object of any kind, unseen by counters and faults.
    ///
    /// # Errors
    /// The message of the refusal.
    pub fn create(&self, object: &Value) -> Result<Value, String> {
        let kind = self.kind(object).ok_or("no such kind")?;
        let namespace = object["metadata"]["namespace"]
            .as_str()
            .unwrap_or("default");
        let namespace = kind.namespaced.then_some(namespace);
        let how = self.how();
        self.0
            .write(|state| state.create(&kind, namespace, object.clone(), &how))
            .map(|written| written.object)
            .map_err(|refusal: Refusal| refusal.message)
    }

    /// Adds the kind that a CustomResourceDefinition defines.
    ///
    /// # Errors
    /// The message of the refusal.
    pub fn install_crd(&self, definition: &Value) -> Result<(), String> {
        self.create(definition).map(|_| ())
    }

    fn kind(&self, object: &Value) -> Option<Arc<Kind>> {
        let field = |key: &str| object[key].as_str().unwrap_or_default();
        self.0
            .state()
            .kind_named(field("apiVersion"), field("kind"))
    }

    fn how(&self) -> Writing {
        Writing {
            now: self.now(),
            manager: "test".into(),
            validation: "Strict".into(),
            dry_run: false,
            force: false,
        }
    }

    /// Does at once what Kubernetes' garbage collector and namespace controller would do by and by.
    pub fn collect_garbage(&self) {
        let now = self.now();
        self.0.write(|state| state.collect(now));
    }

    /// Does the same by itself, this long after every change, until the server is dropped.
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
