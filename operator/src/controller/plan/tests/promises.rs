//! The promises, in a simulated world.

use proptest::prelude::*;

use super::{world::World, *};
use crate::controller::fixtures::fresh;

pub(super) fn with(execution: &str) -> String {
    format!("{SPEC}execution: {{maxFailedPercent: 100, {execution}}}\n")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// P1, P2, P3, P4 and P9, under crashes, rivals, lag, lost pods and edits.
    #[test]
    fn sweeps_converge_whatever_happens(
        seed in any::<u64>(),
        parallelism in 1_i32..12,
        per_job in 1_i32..9,
        retries in 0_i32..3,
        kept in 0_i32..4,
        edits in proptest::collection::vec((0_u32..6, 1_i32..12), 0..6),
    ) {
        let mut spec = with(&format!("parallelism: {parallelism}, trialsPerJob: {per_job}, retries: {retries}"));
        spec.push_str(&format!("retention: {{failedJobs: {kept}}}\n"));
        let mut world = World::new(fresh(&spec), seed);
        for (edit, number) in edits {
            for _ in 0..number * 3 {
                world.reconcile();
                world.step();
            }
            match edit {
                0 | 1 => world.sweep.spec.execution.parallelism = number,
                2 => {
                    world.sweep.spec.suspend = true;
                    let before = world.creates;
                    for _ in 0..10 {
                        world.reconcile();
                        world.step();
                    }
                    prop_assert_eq!(world.creates, before, "P9");
                }
                3 => world.sweep.spec.suspend = false,
                4 => world.sweep.spec.objectives.cost_per_gpu_hour = Some(number.to_string()),
                _ => {}
            }
        }
        world.sweep.spec.suspend = false;
        world.settle();
        world.check_end();
        prop_assert!(world.collections >= 1);
    }

    /// P1 for trials that no node has room for: they fail one at a time, and the others go on meanwhile.
    #[test]
    fn what_cannot_be_scheduled_fails_and_holds_up_nothing(seed in any::<u64>(), parallelism in 1_i32..6) {
        let spec = with(&format!("parallelism: {parallelism}, trialsPerJob: 4, pendingTimeout: 10m"));
        let mut world = World::new(fresh(&spec), seed);
        world.faults = false;
        world.impossible = [2].into();
        world.settle();
        world.check_end();
        for trial in world.sweep.expansion.trials().filter(|trial| trial.combination.gpus == 2) {
            let tokens = trial.combination.input_length + trial.combination.output_length;
            let expected = if tokens > 40 { Outcome::Unsupported } else { Outcome::Failed };
            prop_assert_eq!(world.known.ledger.get(trial.index), Some(expected));
        }
    }
}

#[test]
fn without_faults_nothing_is_tried_twice() {
    let mut world = World::new(fresh(&with("parallelism: 5, trialsPerJob: 3")), 1);
    world.settle();
    let creates = world.creates;
    let trials = world.sweep.expansion.len() as usize;
    assert!(creates < trials, "{creates} Jobs for {trials} trials");
    assert_eq!(world.collections, 1);
    // P9: suspended and resumed, it repeats nothing; P5: nothing changed, nothing to do.
    world.sweep.spec.suspend = true;
    world.settle();
    world.sweep.spec.suspend = false;
    world.settle();
    assert_eq!((world.creates, world.collections), (creates, 1));
    // New objectives ask for a new collection and for nothing else.
    world.sweep.spec.objectives.cost_per_gpu_hour = Some("2".into());
    world.settle();
    assert_eq!((world.creates, world.collections), (creates + 1, 2));
}
