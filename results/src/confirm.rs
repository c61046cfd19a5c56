//! Which combinations are measured again before any is called the best: `design.confirm`.
//!
//! After all replicates the best of each workload, by the criterion that decides what to run, and the first of those that
//! are not shown to be worse are chosen, and likewise for the mix: by the valid trials of these replicates alone. What
//! comes of measuring them again, [`crate::best::confirmed`] says, and no choice depends on it. So a choice depends on
//! nothing but stored records and the objectives, and an interruption, or asking again, finds the same.

use std::collections::BTreeSet;

use inferbench_crds::spec::{Design, Objectives};

use crate::{best, row::Row, sample::in_replicates_of_all, summary::Combined};

/// A design's choice of what is measured again, ready to be made.
#[derive(Clone, Copy, Debug)]
pub struct Confirming {
    choices: usize,
    combinations: u32,
}

impl Confirming {
    /// That of a design that validation has accepted; none where it measures nothing again.
    #[must_use]
    pub fn of(design: &Design) -> Option<Self> {
        let confirm = design.confirm?;
        Some(Self {
            choices: confirm.choices() as usize,
            combinations: design.combinations_before_exclusion().max(1),
        })
    }

    /// The numbers of the combinations that are measured again, by the latest attempts at the trials of all replicates.
    /// Others among these rows are left alone.
    #[must_use]
    pub fn chosen<'a>(
        &self,
        latest: impl IntoIterator<Item = &'a Row>,
        objectives: &Objectives,
    ) -> BTreeSet<u32> {
        let latest: Vec<&Row> = in_replicates_of_all(latest).collect();
        let combined = Combined::of(&latest);
        let candidates = combined.candidates();
        let chosen = best::contenders(&candidates, objectives, self.choices);
        candidates
            .iter()
            .filter(|of| chosen.contains(&of.levels))
            .flat_map(|of| of.trials)
            .map(|row| self.combination(row.trial_index))
            .collect()
    }

    /// The number of the combination of a trial.
    #[must_use]
    pub const fn combination(&self, trial_index: u32) -> u32 {
        trial_index % self.combinations
    }
}

#[cfg(test)]
mod tests;
