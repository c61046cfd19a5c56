//! A trial's time: how much of it is left, what is being done, and who ends the trial.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use super::recording;

/// A trial's time, shared with the thread that watches over it.
#[derive(Debug)]
pub struct Clock {
    /// When it began, as records write it.
    pub started_at: String,
    deadline: Instant,
    limit: Duration,
    phase: AtomicU8,
    settled: Mutex<bool>,
}

/// The phases of a trial after the first one, preparing; each an index into [`PHASES`].
pub(super) const LOADING: u8 = 1;
pub(super) const WARMING_UP: u8 = 2;
pub(super) const MEASURING: u8 = 3;
pub(super) const JUDGING: u8 = 4;
const PHASES: [&str; 5] = [
    "preparing",
    "loading the model",
    "warming up",
    "measuring",
    "judging what was written",
];

impl Clock {
    /// Starts the time of a trial that may take so long.
    #[must_use]
    pub fn start(limit: Duration) -> Self {
        Self {
            started_at: recording::now(),
            deadline: Instant::now() + limit,
            limit,
            phase: AtomicU8::new(0),
            settled: Mutex::new(false),
        }
    }

    /// How long until the trial's time is over.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// When the trial's time is over.
    #[must_use]
    pub const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The message of a record when the time is over.
    #[must_use]
    pub fn message(&self) -> String {
        let phase = PHASES[usize::from(self.phase.load(Ordering::Relaxed))];
        format!(
            "{phase} when trialTimeout of {:.1} s was over",
            self.limit.as_secs_f64()
        )
    }

    /// Whether the caller is the first who wants to end the trial; it alone stores a record.
    #[must_use]
    pub fn settle(&self) -> bool {
        !std::mem::replace(
            &mut *self.settled.lock().unwrap_or_else(PoisonError::into_inner),
            true,
        )
    }

    pub(super) fn enter(&self, phase: u8) {
        self.phase.store(phase, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_party_ends_a_trial() {
        let clock = Clock::start(Duration::from_millis(1500));
        assert!(clock.settle());
        assert!(!clock.settle());
        clock.enter(MEASURING);
        assert_eq!(
            clock.message(),
            "measuring when trialTimeout of 1.5 s was over"
        );
    }
}
