//! A container that was started: its signals, and why it has to end.

use std::time::Duration;

use tokio::{sync::watch, task::AbortHandle, time::Instant};

use super::{
    containers::{Exit, Signal},
    pod_status::Cause,
};

/// A container that was started.
#[derive(Debug)]
pub struct Run {
    /// Its pod's uid.
    pub uid: String,
    /// How it ended, once it has.
    pub exit: Option<Exit>,
    /// The first reason why it had to end.
    pub cause: Option<Cause>,
    /// When it is killed, if it has not ended by then.
    pub kill_at: Option<Instant>,
    /// Whether its termination message gets lost.
    pub loses_message: bool,
    signal: watch::Sender<Signal>,
    task: AbortHandle,
}

impl Run {
    /// A container of the pod with this uid, by its task and the channel of its signals.
    pub fn new(uid: String, signal: watch::Sender<Signal>, task: AbortHandle) -> Self {
        Self {
            uid,
            exit: None,
            cause: None,
            kill_at: None,
            loses_message: false,
            signal,
            task,
        }
    }

    /// Ends it at once; its exit is never reported.
    pub fn abort(&self) {
        self.task.abort();
    }

    /// Kills it.
    pub fn kill(&self) {
        self.signal.send_replace(Signal::Kill);
    }

    /// Tells it to end, and to be killed after the grace period; the first cause stays. Returns when it is killed.
    pub fn stop(&mut self, cause: Cause, grace: Duration) -> Instant {
        self.cause.get_or_insert(cause);
        let end = Instant::now() + grace;
        let end = self.kill_at.map_or(end, |earlier| earlier.min(end));
        self.kill_at = Some(end);
        let signal = if grace.is_zero() {
            Signal::Kill
        } else {
            Signal::Term
        };
        self.signal.send_if_modified(|known| {
            let stronger = *known < signal;
            *known = (*known).max(signal);
            stronger
        });
        end
    }
}
