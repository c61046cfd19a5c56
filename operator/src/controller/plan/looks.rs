//! Between blocks, where the design has `until`: a Job looks at what is stored and says which combinations are narrow
//! enough to run no further. No trial of a block is begun before the decision after the block before it is recorded, so
//! that nothing is measured that was decided against; the first `min` blocks need none. And after all of them, where the
//! design has `confirm`: the Job says which combinations are not among the best, and so not measured again.
//!
//! A decision is recorded once, with the blocks that it was made after, in one write with the trials that are not needed:
//! whoever is killed before that finds the Job and reads it again, and whoever comes later finds it recorded.

use std::ops::Range;

use inferbench_crds::{Outcome, contract::Chunk, handover};

use super::{Create, GRACE, Planner, Tally, last_ended, why};
use crate::controller::{
    names::Role,
    observe::{JobView, PodView},
};

impl Planner<'_> {
    /// The blocks, from the first on, whose trials may have Jobs.
    pub(super) fn open_blocks(&self) -> u32 {
        let expansion = &self.sweep.expansion;
        let all = expansion.blocks_of_all();
        if self.decided >= all {
            return expansion.replicates();
        }
        let Some(until) = &self.sweep.spec.design.until else {
            return all;
        };
        let min = until.min.unsigned_abs();
        min.max(self.decided.saturating_add(1)).min(all)
    }

    /// The blocks after which a look is due: all that may have Jobs, where their trials have ended and others have not.
    fn due(&self) -> Option<u32> {
        let expansion = &self.sweep.expansion;
        let (open, all) = (self.open_blocks(), expansion.blocks_of_all());
        let waits = |blocks: Range<u32>| {
            let combinations = expansion.combinations_before_exclusion();
            let mut indices =
                blocks.start.saturating_mul(combinations)..blocks.end.saturating_mul(combinations);
            indices.any(|index| self.ledger.get(index).is_none() && !expansion.is_excluded(index))
        };
        let blocks = expansion.replicates();
        if open >= blocks || waits(0..open) || !waits(open..blocks) {
            return None;
        }
        let failed = Tally::of(&self.ledger).count(Outcome::Failed);
        // Where all that may run has ended, only what is best goes on.
        let due = if waits(open..all) { open } else { all };
        (!self.sweep.is_over_budget(failed)).then_some(due)
    }

    /// Goes on with the look that is due, if one is.
    pub(super) fn look(&mut self) {
        let due = self.due();
        let wanted = due.map(|blocks| self.sweep.looked_at(blocks));
        let looks = || self.jobs.iter().filter(|job| job.role == Role::Look);
        let attempts = || looks().filter(|job| Some(&job.inputs) == wanted.as_ref());
        let newest = attempts().max_by_key(|job| (job.attempt, job.created));
        let mut others = false;
        for other in looks().filter(|job| Some(&job.uid) != newest.map(|job| &job.uid)) {
            others |= Some(&other.inputs) != wanted.as_ref();
            self.delete(other);
        }
        let Some(blocks) = due else { return };
        if let Some(job) = newest
            && self.read_look(job, blocks)
        {
            return;
        }
        // One that looked at other objectives may have the name of the next.
        if !others
            && let Some(attempt) = self.next_attempt(newest)
            && !self.sweep.spec.suspend
        {
            self.creates.push(Create::Look { blocks, attempt });
        }
    }

    /// Goes on with a look; false where it has failed and another attempt is needed.
    fn read_look(&mut self, job: &JobView, blocks: u32) -> bool {
        self.retries = job.attempt > 1;
        let Some(end) = &job.end else {
            self.note_if_stuck(job);
            return true;
        };
        let pods = self.pods_of(job);
        let combinations = self.sweep.expansion.combinations_before_exclusion();
        let message = if end.complete {
            let reports = pods.iter().map(|pod| pod.report.as_str());
            match handover::join_decided(reports, blocks, combinations) {
                Ok(enough) => {
                    self.decide(&enough, blocks);
                    self.retries = false;
                    self.delete(job);
                    return true;
                }
                // Its pods may not all have been seen yet.
                Err(_) if !self.passed(end.at, GRACE) => return true,
                Err(error) => format!("Job {} completed, but {error}", job.name),
            }
        } else {
            let pod: Option<&PodView> = last_ended(&pods);
            let said: Option<Chunk> = pod.and_then(|pod| serde_json::from_str(&pod.report).ok());
            why(pod, job, said.and_then(|chunk| chunk.message).as_deref())
        };
        self.problem = Some(self.attempt_failed(job, "LookFailed", message));
        false
    }

    /// Records the trials of combinations that run no further after these blocks. Whether one is measured again is decided
    /// after all of them, however few it has taken to be narrow enough.
    fn decide(&mut self, enough: &[u32], blocks: u32) {
        let expansion = &self.sweep.expansion;
        let combinations = expansion.combinations_before_exclusion();
        let last = match expansion.blocks_of_all() {
            all if blocks < all => all,
            _ => expansion.replicates(),
        };
        for replicate in blocks..last {
            for combination in enough {
                let index = replicate
                    .saturating_mul(combinations)
                    .saturating_add(*combination);
                if self.ledger.get(index).is_none() {
                    self.record(index, Outcome::NotNeeded, "");
                }
            }
        }
        self.decided = blocks;
        self.has_decided = true;
    }
}
