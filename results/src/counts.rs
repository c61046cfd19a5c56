//! How the trials of a sweep ended, in numbers.

use inferbench_crds::outcome::Outcome;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{row::Row, sample::is_invalid};

/// How the trials ended, each by its latest attempt.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Trials of the design.
    pub trials: u32,
    /// Those measured.
    pub succeeded: u32,
    /// Trials that did not fit into memory.
    pub out_of_memory: u32,
    /// Trials that cannot run.
    pub unsupported: u32,
    /// Trials that took too long.
    pub timed_out: u32,
    /// Trials that broke.
    pub failed: u32,
    /// Trials that were not measured, as their combinations were narrow enough without them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub not_needed: u32,
    /// Trials that have not ended.
    pub pending: u32,
    /// Of the measured trials, those left out of all figures because they cannot be vouched for.
    pub invalid: u32,
    /// Stored attempts at all trials.
    pub attempts: u32,
}

impl Counts {
    /// Those of a sweep: all of its rows, and the latest attempt at each of its trials.
    pub(crate) fn of(rows: &[Row], latest: &[&Row]) -> Self {
        let with = |outcome| latest.iter().filter(|row| row.outcome == outcome).count() as u32;
        Self {
            trials: latest.len() as u32,
            succeeded: with(Some(Outcome::Succeeded)),
            out_of_memory: with(Some(Outcome::OutOfMemory)),
            unsupported: with(Some(Outcome::Unsupported)),
            timed_out: with(Some(Outcome::TimedOut)),
            failed: with(Some(Outcome::Failed)),
            not_needed: with(Some(Outcome::NotNeeded)),
            pending: with(None),
            invalid: latest.iter().filter(|row| is_invalid(row)).count() as u32,
            attempts: rows.iter().filter(|row| !row.trial_key.is_empty()).count() as u32,
        }
    }
}

/// Whether a number is left out of what is written, as its absence is read as zero.
pub(crate) fn is_zero<N: Default + PartialEq>(number: &N) -> bool {
    *number == N::default()
}
