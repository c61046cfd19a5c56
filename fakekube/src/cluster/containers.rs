//! The containers of pods: one each, the first; this project's pods have no more.

use std::sync::Arc;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;

use super::environment::Environment;

/// Starts containers.
pub trait Containers: Send + Sync + 'static {
    /// Runs the container of a pod until it ends. Dropped, it has to be gone at once.
    fn run(&self, start: Start) -> BoxFuture<'static, Exit>;

    /// Forgets a container that has ended: its pod's object is gone.
    fn forget(&self, _uid: &str) {}
}

/// The start of a container: its pod, its environment, and how it hears of signals.
#[derive(Clone, Debug)]
pub struct Start {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its container's variables and files.
    pub environment: Environment,
    /// The signals that it gets while it runs.
    pub signals: Signals,
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code: 128 and the signal, where one killed it.
    pub code: i32,
    /// Its termination message.
    pub message: String,
    /// The reason, where the code alone does not say it: `StartError`, `OOMKilled`.
    pub reason: Option<String>,
}

impl Exit {
    /// An exit with this code and termination message.
    #[must_use]
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            reason: None,
        }
    }
}

/// A signal to a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Signal {
    /// Nothing yet.
    #[default]
    None,
    /// To end: SIGTERM.
    Term,
    /// It is ended: SIGKILL.
    Kill,
}

/// The receiving end of a container's signals.
#[derive(Clone, Debug)]
pub struct Signals(pub(super) watch::Receiver<Signal>);

impl Signals {
    /// Waits for a signal at least as strong as this one.
    pub async fn received(&mut self, at_least: Signal) -> Signal {
        let signal = self.0.wait_for(|signal| *signal >= at_least).await;
        let signal = signal.map(|signal| *signal).ok();
        match signal {
            Some(signal) => signal,
            // The sender is gone: no signal will come.
            None => std::future::pending().await,
        }
    }
}
