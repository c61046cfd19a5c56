//! The time in the cluster: the wall clock's, or one that follows tokio's, so that tests can let hours pass.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// A source of timestamps.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Option<(Timestamp, Instant)>);

impl Clock {
    /// The wall clock.
    #[must_use]
    pub const fn wall() -> Self {
        Self(None)
    }

    /// One that shows `epoch` now and follows tokio's time: it stands still while that is paused.
    #[must_use]
    pub fn simulated(epoch: Timestamp) -> Self {
        Self(Some((epoch, Instant::now())))
    }

    /// The time now.
    #[must_use]
    pub fn now(self) -> Timestamp {
        let Some((epoch, began)) = self.0 else {
            return Timestamp::now();
        };
        let passed = SignedDuration::try_from(began.elapsed()).unwrap_or(SignedDuration::MAX);
        epoch.checked_add(passed).unwrap_or(Timestamp::MAX)
    }
}

/// As `metadata.creationTimestamp` has it: whole seconds.
pub(crate) fn seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second())
        .unwrap_or(time)
        .to_string()
}
