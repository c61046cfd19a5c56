//! Which trials share a Job. The design alone decides: in every block, the trials that one start of the engine can
//! serve (that agree in every factor of scope start) are taken in the order of execution, `trialsPerJob` at a time; a
//! Job then has those of its group that have not ended.

use std::collections::HashMap;

use inferbench_crds::{design::Expansion, ledger::Outcomes};

/// The groups that still have trials to run, by what is left of them, in the order of execution.
#[derive(Clone, Debug)]
pub struct Groups<'a> {
    expansion: &'a Expansion,
    ledger: &'a Outcomes,
    per_job: usize,
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
            per_job: per_job.max(1),
            next_block: 0,
            ready: Vec::new().into_iter(),
        }
    }

    fn block(&self, replicate: u32) -> Vec<Vec<u32>> {
        let combinations = self.expansion.combinations_before_exclusion();
        let first = replicate.saturating_mul(combinations);
        let waits =
            |&index: &u32| self.ledger.get(index).is_none() && !self.expansion.is_excluded(index);
        if !(first..first.saturating_add(combinations)).any(|index| waits(&index)) {
            return Vec::new();
        }
        // By start: the group that is being filled, and its number of trials, ended ones counted.
        let mut open: HashMap<u32, (usize, usize)> = HashMap::new();
        let mut groups: Vec<Vec<u32>> = Vec::new();
        for index in self.expansion.block(replicate) {
            let place = open
                .entry(self.expansion.start(index))
                .and_modify(|(group, size)| {
                    if *size == self.per_job {
                        groups.push(Vec::new());
                        (*group, *size) = (groups.len() - 1, 0);
                    }
                })
                .or_insert_with(|| (usize::MAX, 0));
            if place.0 == usize::MAX {
                groups.push(Vec::new());
                place.0 = groups.len() - 1;
            }
            place.1 += 1;
            if waits(&index)
                && let Some(group) = groups.get_mut(place.0)
            {
                group.push(index);
            }
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
            if self.next_block >= self.expansion.replicates() {
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
        fn groups_have_every_waiting_trial_once_and_never_mix_starts(
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
                let trials: Vec<_> = group.iter().map(|&index| expansion.trial(index).expect("a trial")).collect();
                for trial in &trials {
                    let (first, this) = (&trials[0].combination, &trial.combination);
                    prop_assert_eq!((&first.model.name, first.gpus, first.dtype), (&this.model.name, this.gpus, this.dtype));
                    prop_assert_eq!(trials[0].replicate, trial.replicate);
                    prop_assert!(seen.insert(trial.index), "twice: {}", trial.index);
                }
                prop_assert!(trials.windows(2).all(|pair| pair[0].run_order < pair[1].run_order));
                // What has ended changes no group: it only leaves it.
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
