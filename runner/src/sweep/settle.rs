//! How a trial is settled: what becomes of one whose process has left no record.

use inferbench_results::record::{Outcome, TrialRecord};

use super::executor::Ended;
use crate::{
    machine::{self, Machine},
    trial::{protocol::TrialRequest, recording::unmeasured},
};

/// The record of a trial whose process could not store one itself: for want of memory, or because it did not keep its own
/// time-out. `None` where it ended in another way.
#[must_use]
pub fn without_process(
    ask: &TrialRequest,
    machine: &Machine,
    ended: &Ended,
    started_at: &str,
) -> Option<TrialRecord> {
    let (outcome, message) = match ended {
        Ended::OutOfMemory(message) => (Outcome::OutOfMemory, message.clone()),
        Ended::Overdue => (
            Outcome::TimedOut,
            format!(
                "no answer when trialTimeout of {:.1} s was over; the process was ended",
                ask.timeout_ms as f64 / 1e3
            ),
        ),
        _ => return None,
    };
    // Its process is gone, and shared with no other trial's record but those of this attempt.
    let process_id = machine::process_id(&format!("{}/{started_at}", machine.node));
    Some(unmeasured(
        ask,
        machine,
        &process_id,
        started_at,
        outcome,
        message,
    ))
}
