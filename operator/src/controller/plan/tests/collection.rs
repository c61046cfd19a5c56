//! After the trials.

use super::*;
use crate::controller::fixtures::{collected, messages};

#[test]
fn too_many_failures_end_the_sweep_and_it_is_collected() {
    let sweep = one_shape("parallelism: 2");
    let mut memory = known(&sweep);
    for index in 0..4 {
        memory.ledger.record(index, Outcome::Failed).expect("new");
    }
    let plan = plan(&sweep, &memory, &[], &[], at(0));
    assert!(plan.over_budget);
    assert_eq!(plan.actions, [Action::Create(Create::Collector(1))]);
    // With Stop, one failure is enough; what runs still ends by itself.
    let stop = one_shape("parallelism: 2, onFailure: Stop");
    let mut memory = known(&stop);
    memory.ledger.record(0, Outcome::Failed).expect("new");
    let job = job(Role::Trial, &[1]);
    let plan = super::plan(
        &stop,
        &memory,
        &[job.clone()],
        &[pod(&job, PodPhase::Running)],
        at(0),
    );
    assert!(
        plan.over_budget && plan.actions.is_empty(),
        "{:?}",
        plan.actions
    );
}

/// A sweep whose trials have all ended, one of them as failed.
fn all_ended() -> (Sweep, Known) {
    let sweep = one_shape("parallelism: 2");
    let mut memory = known(&sweep);
    for index in 0..6 {
        let outcome = if index == 2 {
            Outcome::Failed
        } else {
            Outcome::Succeeded
        };
        memory.ledger.record(index, outcome).expect("new");
    }
    (sweep, memory)
}

#[test]
fn a_collection_is_recorded_with_what_it_recovered() {
    let (sweep, mut memory) = all_ended();
    let start = plan(&sweep, &memory, &[], &[], at(0));
    assert_eq!(start.actions, [Action::Create(Create::Collector(1))]);
    assert_eq!(start.phase, Phase::Collecting);
    let mut job = ended(job(Role::Collector, &[]), true);
    job.inputs = sweep.inputs(&memory.ledger.encode());
    let pods: Vec<PodView> = messages(&collected(), 50)
        .into_iter()
        .map(|report| PodView {
            report,
            ..pod(&job, PodPhase::Succeeded)
        })
        .collect();
    let done = plan(&sweep, &memory, &[job.clone()], &pods, at(101));
    assert_eq!(records(&done), [(2, Outcome::Succeeded)]);
    let Some(Action::Record(corrected)) = done.actions.first() else {
        panic!("{:?}", done.actions);
    };
    assert_eq!(corrected[0].was, memory.ledger.get(2));
    assert!(corrected[0].was.is_some(), "it was known");
    assert_eq!(deletes(&done), [("collector-0", false)]);
    let Some(Action::Collect { inputs, .. }) = done.actions.get(1) else {
        panic!("{:?}", done.actions);
    };
    // A trial that it recovered asks for no other collection.
    memory.ledger = done.ledger.clone();
    memory.inputs.clone_from(inputs);
    let after = plan(&sweep, &memory, &[], &[], at(200));
    assert!(after.actions.is_empty(), "{:?}", after.actions);
    assert_eq!(after.phase, Phase::Finished);
    // A part that is missing is waited for; then the collection is tried again.
    memory.ledger = all_ended().1.ledger;
    memory.inputs.clear();
    let early = plan(&sweep, &memory, &[job.clone()], &pods[1..], at(120));
    assert_eq!(early.actions, [Action::Wait(Duration::from_secs(40))]);
    let late = plan(&sweep, &memory, &[job], &pods[1..], at(200));
    assert_eq!(creates(&late), [&Create::Collector(2)]);
    assert!(
        late.problem
            .expect("a problem")
            .message
            .contains("part 0 of")
    );
}

#[test]
fn an_outdated_collection_makes_room_first() {
    let (sweep, memory) = all_ended();
    let mut job = job(Role::Collector, &[]);
    job.inputs = "something else".into();
    let first = plan(&sweep, &memory, &[job.clone()], &[], at(0));
    assert_eq!(deletes(&first), [("collector-0", true)]);
    assert!(creates(&first).is_empty());
    job.deleting = true;
    assert!(plan(&sweep, &memory, &[job], &[], at(0)).actions.is_empty());
}

#[test]
fn suspending_keeps_the_collection_from_being_created_and_does_not_kill_it() {
    let (mut sweep, memory) = all_ended();
    sweep.spec.suspend = true;
    assert!(plan(&sweep, &memory, &[], &[], at(0)).actions.is_empty());
    let mut job = job(Role::Collector, &[]);
    job.inputs = sweep.inputs(&memory.ledger.encode());
    let running = pod(&job, PodPhase::Running);
    let plan = plan(&sweep, &memory, &[job], &[running], at(0));
    assert!(plan.actions.is_empty(), "{:?}", plan.actions);
}
