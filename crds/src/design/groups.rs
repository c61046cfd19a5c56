//! Which trials share a start of the engine: those of a group are measured one after the other, in one Job of a cluster
//! or with one server on one machine. The design alone decides.

use std::collections::HashMap;

use super::Expansion;

impl Expansion {
    /// The groups of a block, by their trials' indices, in the order of execution: the trials that one start of the
    /// engine can serve (that agree in every factor of scope start), at most `most` at a time.
    #[must_use]
    pub fn groups(&self, replicate: u32, most: usize) -> Vec<Vec<u32>> {
        let most = most.max(1);
        // By start: the group that is being filled.
        let mut open: HashMap<u32, usize> = HashMap::new();
        let mut groups: Vec<Vec<u32>> = Vec::new();
        for index in self.block(replicate) {
            let start = self.start(index);
            let filling = open.get(&start).and_then(|&at| groups.get_mut(at));
            match filling.filter(|group| group.len() < most) {
                Some(group) => group.push(index),
                None => {
                    open.insert(start, groups.len());
                    groups.push(vec![index]);
                }
            }
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::spec::Design;

    fn expansion(replicates: u32, order: &str) -> Expansion {
        let design = format!(
            "
factors:
  engine: [{{name: own, candle: {{}}}}, {{name: vllm, server: {{preset: vllm, image: a}}}}]
  parameters:
    - {{name: slots, levels: [1, 2], engines: [vllm], flag: --max-num-seqs}}
    - {{name: topK, levels: [1, 2], engines: [vllm], field: top_k}}
  model: [{{name: a, source: {{random: {{preset: gpt2}}}}}}, {{name: b, source: {{random: {{preset: gpt2}}}}}}]
  batchSize: [1, 2, 4]
  inputLength: [8, 16]
  gpus: [1, 2]
exclude: [{{model: [b], gpus: [2]}}]
replicates: {replicates}
order: {order}"
        );
        let design: Design = serde_saphyr::from_str(&design).expect("a design");
        Expansion::new(&design)
    }

    proptest! {
        #[test]
        fn groups_have_every_trial_once_and_never_mix_starts(replicates in 1_u32..4, most in 0_usize..9) {
            let expansion = expansion(replicates, "Randomized");
            let mut seen = BTreeSet::new();
            for replicate in 0..replicates {
                for group in expansion.groups(replicate, most) {
                    prop_assert!(!group.is_empty() && group.len() <= most.max(1));
                    let trials: Vec<_> = group.iter().map(|&index| expansion.trial(index).expect("a trial")).collect();
                    let start = |at: usize| {
                        let combination = &trials[at].combination;
                        let slots = combination.parameters.get("slots").map(|slots| slots.level.clone());
                        (&combination.engine, &combination.model.name, combination.gpus, slots)
                    };
                    for (at, trial) in trials.iter().enumerate() {
                        prop_assert_eq!(start(at), start(0));
                        prop_assert_eq!(trial.replicate, replicate);
                        prop_assert!(seen.insert(trial.index), "twice: {}", trial.index);
                    }
                    prop_assert!(trials.windows(2).all(|pair| pair[0].run_order < pair[1].run_order));
                }
            }
            prop_assert_eq!(seen, expansion.order().collect::<BTreeSet<u32>>());
        }
    }

    #[test]
    fn all_loads_of_one_start_fit_into_one_group() {
        let expansion = expansion(2, "Randomized");
        for replicate in 0..2 {
            // Candle takes no parameters, and b has no level of 2 GPUs: (1 + 2 starts) × 3 pairs.
            let groups = expansion.groups(replicate, 1_000);
            assert_eq!(groups.len(), 9);
            let sizes: BTreeSet<usize> = groups.iter().map(Vec::len).collect();
            // Three batches and two lengths; a member of requests forces no start.
            assert_eq!(sizes, BTreeSet::from([6, 12]));
        }
    }

    #[test]
    fn groups_of_one_keep_the_order_of_execution() {
        let expansion = expansion(2, "Sequential");
        let groups = (0..2).flat_map(|replicate| expansion.groups(replicate, 1));
        let order: Vec<u32> = groups.flatten().collect();
        assert_eq!(order, expansion.order().collect::<Vec<_>>());
    }
}
