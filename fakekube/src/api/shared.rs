//! The state that every request and watch works on: objects, the clock, and what is known of each client.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;

use super::{
    clock::Clock,
    faults::{Call, Counts, Fault, Hook},
    state::State,
};

pub(crate) struct Shared {
    state: Mutex<State>,
    /// The version of the last write: watches wait for it.
    pub changed: watch::Sender<u64>,
    clock: Clock,
    clients: Mutex<HashMap<String, Arc<Mutex<Known>>>>,
}

/// A client's counts, and the faults that it meets.
#[derive(Default)]
struct Known {
    counts: Counts,
    calls: u64,
    hook: Option<Hook>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub fn new(clock: Clock) -> Self {
        let state = State::new(clock.now());
        let (changed, _) = watch::channel(state.store.version());
        Self {
            state: Mutex::new(state),
            changed,
            clock,
            clients: Mutex::default(),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Changes the state, and wakes the watches.
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

    /// Counts a request of a client, and asks for its fault.
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

    pub fn counts(&self, client: &str) -> Counts {
        locked(&self.known(client)).counts.clone()
    }

    pub fn reset_counts(&self, client: &str) {
        let known = self.known(client);
        let mut known = locked(&known);
        known.counts = Counts::default();
        known.calls = 0;
    }

    pub fn set_hook(&self, client: &str, hook: Option<Hook>) {
        locked(&self.known(client)).hook = hook;
    }
}
