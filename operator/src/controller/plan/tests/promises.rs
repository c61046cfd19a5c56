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

/// 24 combinations, looked at after two blocks and more: as many results as a combination's number says are enough.
fn looked_at(execution: &str) -> String {
    with(execution)
        .replace("batchSize: [1, 2, 4]", "batchSize: [1, 2]")
        .replace(
            "replicates: 2",
            "replicates: 5\n  until: {metric: outputThroughput, halfWidth: 3%, min: 2}",
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Nothing is measured that was decided against, and nothing is decided twice (the world asserts both at every
    /// write); a trial that is decided against stays so to the end.
    #[test]
    fn looks_decide_once(
        seed in any::<u64>(),
        parallelism in 1_i32..9,
        per_job in 1_i32..5,
        confirms in any::<bool>(),
        edits in proptest::collection::vec((0_u32..5, 1_i32..12), 0..6),
    ) {
        let mut spec = looked_at(&format!("parallelism: {parallelism}, trialsPerJob: {per_job}, retries: 1"));
        if confirms {
            spec = spec.replace("  replicates: 5\n", "  replicates: 5\n  confirm: {replicates: 2}\n");
        }
        let mut world = World::new(fresh(&spec), seed);
        for (edit, number) in edits {
            for _ in 0..number * 6 {
                world.reconcile();
                world.step();
            }
            match edit {
                0 => world.sweep.spec.execution.parallelism = number,
                1 => {
                    world.sweep.spec.suspend = true;
                    let before = world.creates;
                    for _ in 0..10 {
                        world.reconcile();
                        world.step();
                    }
                    prop_assert_eq!(world.creates, before, "P9");
                }
                // The choice of what is measured again depends on it; nothing is decided twice all the same.
                2 => world.sweep.spec.objectives.cost_per_gpu_hour = Some(number.to_string()),
                _ => world.sweep.spec.suspend = false,
            }
        }
        world.sweep.spec.suspend = false;
        world.settle();
        world.check_end();
        let expansion = &world.sweep.expansion;
        let combinations = expansion.combinations_before_exclusion();
        let of_all = expansion.blocks_of_all() * combinations;
        for (index, outcome) in world.known.ledger.iter() {
            if expansion.confirms(index) {
                let is_best = (index % combinations).is_multiple_of(3);
                prop_assert!(is_best != (outcome == Outcome::NotNeeded) || outcome == Outcome::Unsupported, "{}", index);
                continue;
            }
            let later = (index..of_all).step_by(combinations as usize);
            for later in later.filter(|_| outcome == Outcome::NotNeeded) {
                prop_assert_eq!(world.known.ledger.get(later), Some(Outcome::NotNeeded), "{} after {}", later, index);
            }
        }
    }
}

#[test]
fn what_is_not_needed_is_what_the_looks_say() {
    let mut world = World::new(fresh(&looked_at("parallelism: 5, trialsPerJob: 2")), 3);
    world.faults = false;
    world.settle();
    world.check_end();
    let expansion = &world.sweep.expansion;
    let combinations = expansion.combinations_before_exclusion();
    let mut not_needed = 0;
    for (combination, _) in expansion.combinations() {
        let stored = |block: u32| {
            world
                .store
                .get(&(block * combinations + combination))
                .copied()
        };
        let mut results = 0;
        let mut enough = false;
        for block in 0..expansion.replicates() {
            enough |= block >= 2 && results >= 2 + combination % 3;
            let ended = world.known.ledger.get(block * combinations + combination);
            assert_eq!(
                ended == Some(Outcome::NotNeeded),
                enough,
                "{combination} in block {block}"
            );
            not_needed += u32::from(enough);
            results += u32::from(stored(block) == Some(Outcome::Succeeded));
        }
    }
    assert!(not_needed > 20, "{not_needed}");
    // P5: nothing is left to do.
    assert!(
        world.plan().actions.is_empty(),
        "{:?}",
        world.plan().actions
    );
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
