//! Containers that only pretend: after a while, of tokio's time, each ends as its script says.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};

use super::containers::{Containers, Exit, Signal, Start};

/// The course of a container.
pub struct Script {
    /// The time that it runs.
    pub takes: Duration,
    /// Its last act and its exit, unless something else ends it before.
    pub end: Box<dyn FnOnce() -> Exit + Send>,
    /// Its exit on SIGTERM; none where it ignores the signal.
    pub on_term: Option<Exit>,
}

impl Script {
    /// It runs for this time and exits like this. SIGTERM ends it with 1, as it does the runner.
    #[must_use]
    pub fn new(takes: Duration, end: impl FnOnce() -> Exit + Send + 'static) -> Self {
        Self {
            takes,
            end: Box::new(end),
            on_term: Some(Exit::new(1, "")),
        }
    }
}

type Write = dyn Fn(&Start) -> Script + Send + Sync;

/// Containers that follow a script.
#[derive(Clone)]
pub struct Scripted(Arc<Write>);

impl Scripted {
    /// Each container follows the script that this returns when it starts.
    pub fn new(script: impl Fn(&Start) -> Script + Send + Sync + 'static) -> Self {
        Self(Arc::new(script))
    }
}

impl Containers for Scripted {
    fn run(&self, start: Start) -> BoxFuture<'static, Exit> {
        let script = (self.0)(&start);
        let mut signals = start.signals;
        let catches = script.on_term.is_some();
        async move {
            let stop = if catches { Signal::Term } else { Signal::Kill };
            tokio::select! {
                biased;
                signal = signals.received(stop) => match (signal, script.on_term) {
                    (Signal::Term, Some(exit)) => exit,
                    _ => Exit::new(137, ""),
                },
                () = tokio::time::sleep(script.takes) => (script.end)(),
            }
        }
        .boxed()
    }
}
