//! Which trials a Job still has to run: those of its group (see [`Expansion::groups`]) that have not ended. A trial
//! that has ended changes no group: it only leaves it.

use inferbench_crds::{design::Expansion, ledger::Outcomes};

/// The groups that still have trials to run, by what is left of them, in the order of execution.
#[derive(Clone, Debug)]
pub struct Groups<'a> {
    expansion: &'a Expansion,
    ledger: &'a Outcomes,
    per_job: usize,
    blocks: u32,
    next_block: u32,
    ready: std::vec::IntoIter<Vec<u32>>,
}

impl<'a> Groups<'a> {
    /// The groups of at most `per_job` trials. Nothing is made before it is asked for, and then a block at a time.
    #[must_use]
    pub fn new(expansion: &'a Expansion, ledger: &'a Outcomes, per_job: usize) -> Self {
        Self {
            expansion,
            ledger,
            per_job,
            blocks: expansion.replicates(),
            next_block: 0,
            ready: Vec::new().into_iter(),
        }
    }

    /// Those of the first `blocks` blocks.
    #[must_use]
    pub fn of_first(self, blocks: u32) -> Self {
        Self {
            blocks: self.blocks.min(blocks),
            ..self
        }
    }

    fn block(&self, replicate: u32) -> Vec<Vec<u32>> {
        let combinations = self.expansion.combinations_before_exclusion();
        let first = replicate.saturating_mul(combinations);
        let waits =
            |&index: &u32| self.ledger.get(index).is_none() && !self.expansion.is_excluded(index);
        // Most blocks of a long sweep have ended: they are not sorted only to be dropped.
        if !(first..first.saturating_add(combinations)).any(|index| waits(&index)) {
            return Vec::new();
        }
        let mut groups = self.expansion.groups(replicate, self.per_job);
        for group in &mut groups {
            group.retain(waits);
        }
        groups.retain(|group| !group.is_empty());
        groups
    }
}

impl Iterator for Groups<'_> {
    type Item = Vec<u32>;

    fn next(&mut self) -> Option<Vec<u32>> {
        loop {
            if let Some(group) = self.ready.next() {
                return Some(group);
            }
            if self.next_block >= self.blocks {
                return None;
            }
            self.ready = self.block(self.next_block).into_iter();
            self.next_block += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use inferbench_crds::Outcome;
    use proptest::prelude::*;

    use super::*;
    use crate::controller::fixtures::fresh;

    fn expansion(replicates: u32, order: &str) -> Expansion {
        let spec = format!(
            "
design:
  factors:
    model: [{{name: a, source: {{random: {{preset: gpt2}}}}}}, {{name: b, source: {{random: {{preset: gpt2}}}}}}]
    batchSize: [1, 2, 4]
    inputLength: [8, 16]
    outputLength: [8]
    gpus: [1, 2, 8]
    dtype: [bf16, f32]
  exclude: [{{model: [b], gpus: [8]}}]
  replicates: {replicates}
  order: {order}
results: {{store: {{url: 's3://bucket'}}}}"
        );
        fresh(&spec).expansion
    }

    proptest! {
        #[test]
        fn groups_have_every_waiting_trial_once_and_stay_together(
            replicates in 1_u32..4,
            per_job in 1_usize..9,
            ended in proptest::collection::btree_set(0_u32..288, 0..200),
        ) {
            let expansion = expansion(replicates, "Randomized");
            let mut ledger = Outcomes::new(expansion.len_before_exclusion());
            for &index in ended.iter().filter(|&&index| !expansion.is_excluded(index)) {
                ledger.record(index, Outcome::Succeeded).expect("new");
            }
            let fresh = Outcomes::new(expansion.len_before_exclusion());
            let whole: Vec<Vec<u32>> = Groups::new(&expansion, &fresh, per_job).collect();
            let mut seen = BTreeSet::new();
            for group in Groups::new(&expansion, &ledger, per_job) {
                prop_assert!(!group.is_empty() && group.len() <= per_job);
                for &index in &group {
                    prop_assert!(seen.insert(index), "twice: {index}");
                }
                prop_assert!(whole.iter().any(|all| group.iter().all(|index| all.contains(index))));
            }
            let waiting: BTreeSet<u32> = expansion.order().filter(|&index| ledger.get(index).is_none()).collect();
            prop_assert_eq!(seen, waiting);
        }
    }

    #[test]
    fn groups_keep_the_order_of_execution() {
        let expansion = expansion(2, "Sequential");
        let ledger = Outcomes::new(expansion.len_before_exclusion());
        let order: Vec<u32> = Groups::new(&expansion, &ledger, 1).flatten().collect();
        assert_eq!(order, expansion.order().collect::<Vec<_>>());
    }
}
