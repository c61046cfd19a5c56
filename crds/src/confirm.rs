//! `design.confirm`: what is best after all replicates is measured again in fresh ones before it is called the best. Which
//! combinations that are, `inferbench_results::confirm` decides from records; here is what a user may ask for.
//!
//! Every combination has its trials in the fresh blocks beforehand, so that an index says all about a trial, as ever; those
//! that are not chosen are not needed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits;

/// How what is best is measured again.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Confirm {
    /// How often, each time in a fresh process and a block of its own. They are counted after `design.replicates`.
    #[serde(default = "default_replicates")]
    #[schemars(range(min = 2, max = limits::REPLICATES))]
    pub replicates: i32,
    /// Choices that are measured again beside the best one of each workload, and of the mix: the first of those that were
    /// not shown to be worse.
    #[serde(default = "default_rivals")]
    #[schemars(range(min = 0, max = limits::RIVALS))]
    pub rivals: i32,
}

impl Confirm {
    /// Choices that are measured again for one workload, or for one mix, at most.
    #[must_use]
    pub const fn choices(&self) -> u32 {
        self.rivals.unsigned_abs().saturating_add(1)
    }
}

fn default_replicates() -> i32 {
    3
}

fn default_rivals() -> i32 {
    2
}
