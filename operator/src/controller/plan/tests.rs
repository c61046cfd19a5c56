//! The promises, in a simulated world; and each rule by itself.
#![expect(
    clippy::cloned_ref_to_slice_refs,
    reason = "a list of one reads like the lists of more"
)]

use inferbench_crds::contract::{ModelReport, PreflightReport, TrialReport};
use k8s_openapi::jiff::SignedDuration;
use proptest::prelude::*;

use super::{world::World, *};
use crate::controller::{
    fixtures::{collected, fresh, messages, sweep},
    names::Role,
    observe::End,
};

const SPEC: &str = "
design:
  factors:
    model: [{name: a, source: {random: {preset: gpt2}}}, {name: b, source: {random: {preset: gpt2}}}]
    batchSize: [1, 2, 4]
    inputLength: [8, 16]
    outputLength: [8, 32]
    gpus: [1, 2, 3]
  exclude: [{model: [b], gpus: [2]}]
  replicates: 2
results: {store: {url: 's3://bucket'}}
";

fn with(execution: &str) -> String {
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

fn at(seconds: i64) -> Timestamp {
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    start + SignedDuration::from_secs(seconds)
}

fn known(sweep: &Sweep) -> Known {
    Known {
        ledger: Outcomes::new(sweep.expansion.len_before_exclusion()),
        inputs: String::new(),
        taken: None,
    }
}

fn job(role: Role, trials: &[u32]) -> JobView {
    JobView {
        name: format!("{}-{}", role.as_str(), trials.first().unwrap_or(&0)),
        uid: format!("uid-{}-{}", role.as_str(), trials.first().unwrap_or(&0)),
        role,
        trials: trials.to_vec(),
        gpus: 1,
        attempt: 1,
        inputs: String::new(),
        created: at(0),
        started: Some(at(0)),
        suspended: false,
        end: None,
        deleting: false,
    }
}

fn ended(mut job: JobView, complete: bool) -> JobView {
    let reason = if complete {
        "CompletionsReached"
    } else {
        "PodFailurePolicy"
    };
    job.end = Some(End {
        at: at(100),
        complete,
        reason: reason.into(),
    });
    job
}

fn pod(job: &JobView, phase: PodPhase) -> PodView {
    PodView {
        name: format!("{}-pod", job.name),
        job: job.uid.clone(),
        index: None,
        created: at(0),
        scheduled: Some(at(1)),
        deleting: false,
        phase,
        stuck: None,
        ran: phase != PodPhase::Pending,
        exit_code: None,
        reason: String::new(),
        report: String::new(),
        disrupted: false,
    }
}

fn said(job: &JobView, code: i32, reason: &str, report: &TrialReport) -> PodView {
    PodView {
        exit_code: Some(code),
        reason: reason.into(),
        report: serde_json::to_string(report).expect("JSON"),
        ..pod(
            job,
            if code == 0 {
                PodPhase::Succeeded
            } else {
                PodPhase::Failed
            },
        )
    }
}

fn outcomes(outcomes: &str) -> TrialReport {
    TrialReport {
        outcomes: outcomes.into(),
        ..TrialReport::default()
    }
}

fn creates(plan: &Plan) -> Vec<&Create> {
    plan.actions
        .iter()
        .filter_map(|action| match action {
            Action::Create(create) => Some(create),
            _ => None,
        })
        .collect()
}

fn deletes(plan: &Plan) -> Vec<(&str, bool)> {
    plan.actions
        .iter()
        .filter_map(|action| match action {
            Action::Delete { name, active, .. } => Some((name.as_str(), *active)),
            _ => None,
        })
        .collect()
}

fn records(plan: &Plan) -> Vec<(u32, Outcome)> {
    let records = plan.actions.iter().filter_map(|action| match action {
        Action::Record(ended) => Some(ended),
        _ => None,
    });
    records
        .flatten()
        .map(|ended| (ended.index, ended.outcome))
        .collect()
}

const ONE_SHAPE: &str = "
design:
  factors:
    model: [{name: a, source: {random: {preset: gpt2}}}]
    batchSize: [1, 2, 4, 8, 16, 32]
    gpus: [1]
  order: Sequential
results: {store: {url: 's3://bucket'}}
";

fn one_shape(execution: &str) -> Sweep {
    sweep(&format!(
        "{ONE_SHAPE}execution: {{maxFailedPercent: 50, {execution}}}\n"
    ))
}

#[test]
fn a_fresh_sweep_begins_with_its_preflight_alone() {
    let sweep = fresh(ONE_SHAPE);
    let plan = plan(&sweep, &known(&sweep), &[], &[], at(0));
    assert_eq!(plan.actions, [Action::Create(Create::Preflight(1))]);
    assert_eq!(plan.phase, Phase::Preflight);
    let mut suspended = sweep.clone();
    suspended.spec.suspend = true;
    assert!(
        super::plan(&suspended, &known(&sweep), &[], &[], at(0))
            .actions
            .is_empty()
    );
}

#[test]
fn a_preflight_pins_models_and_records_what_cannot_run() {
    let sweep = fresh(SPEC);
    let job = ended(job(Role::Preflight, &[]), true);
    let model = |most| ModelReport {
        revision: "abc".into(),
        max_tokens: most,
        unsupported_gpus: vec![3],
    };
    let report = PreflightReport {
        models: vec![model(Some(30)), model(None)],
        message: None,
    };
    let mut pod = pod(&job, PodPhase::Succeeded);
    pod.report = serde_json::to_string(&report).expect("JSON");
    let plan = plan(&sweep, &known(&sweep), &[job], &[pod], at(101));
    assert!(
        matches!(&plan.actions[0], Action::Pin(models) if models[1].revision == "abc"),
        "{:?}",
        plan.actions
    );
    for trial in sweep.expansion.trials() {
        let combination = &trial.combination;
        let long = combination.model.name == "a"
            && combination.input_length + combination.output_length > 30;
        let expected = (long || combination.gpus == 3).then_some(Outcome::Unsupported);
        assert_eq!(plan.ledger.get(trial.index), expected);
    }
    assert_eq!(deletes(&plan), [("preflight-0", false)]);
}

#[test]
fn a_failed_preflight_is_a_problem_and_tried_again_later() {
    let sweep = fresh(ONE_SHAPE);
    let first = ended(job(Role::Preflight, &[]), false);
    let report = PreflightReport {
        message: Some("s3://bucket refuses the credentials".into()),
        ..PreflightReport::default()
    };
    let pod = PodView {
        exit_code: Some(73),
        report: serde_json::to_string(&report).expect("JSON"),
        ..pod(&first, PodPhase::Failed)
    };
    let look = |seconds| {
        plan(
            &sweep,
            &known(&sweep),
            &[first.clone()],
            &[pod.clone()],
            at(seconds),
        )
    };
    let early = look(110);
    assert_eq!(early.actions, [Action::Wait(Duration::from_secs(20))]);
    let problem = early.problem.expect("a problem");
    assert_eq!(problem.reason, "PreflightFailed");
    assert_eq!(
        problem.message,
        "pod preflight-0-pod ended with exit code 73: s3://bucket refuses the credentials"
    );
    assert_eq!(look(130).actions, [Action::Create(Create::Preflight(2))]);
    // The second attempt takes the first one's place, and it takes longer to the third.
    let mut second = first.clone();
    (second.uid, second.attempt) = ("second".into(), 2);
    let jobs = [first, second];
    let later = plan(&sweep, &known(&sweep), &jobs, &[], at(200));
    assert_eq!(deletes(&later), [("preflight-0", false)]);
    assert_eq!(later.actions[1], Action::Create(Create::Preflight(3)));
}

#[test]
fn a_shape_begins_with_one_job_and_then_fills_the_window() {
    let sweep = one_shape("parallelism: 4");
    let none = known(&sweep);
    let first = plan(&sweep, &none, &[], &[], at(0));
    assert_eq!(creates(&first), [&Create::Trials(vec![0])]);
    let probe = job(Role::Trial, &[0]);
    let waits = plan(
        &sweep,
        &none,
        &[probe.clone()],
        &[pod(&probe, PodPhase::Pending)],
        at(5),
    );
    assert!(creates(&waits).is_empty());
    let runs = plan(
        &sweep,
        &none,
        &[probe.clone()],
        &[pod(&probe, PodPhase::Running)],
        at(5),
    );
    assert_eq!(creates(&runs).len(), 3);
    assert_eq!(runs.active, 1);
    // Fewer are asked for now: what runs goes on, and nothing is added.
    let mut narrow = sweep.clone();
    narrow.spec.execution.parallelism = 1;
    let jobs = [probe.clone(), job(Role::Trial, &[1])];
    let drained = plan(
        &narrow,
        &none,
        &jobs,
        &[pod(&probe, PodPhase::Running)],
        at(5),
    );
    assert!(
        drained
            .actions
            .iter()
            .all(|action| matches!(action, Action::Wait(_))),
        "{:?}",
        drained.actions
    );
}

#[test]
fn a_job_that_ended_is_recorded_deleted_and_followed() {
    let sweep = one_shape("parallelism: 1, trialsPerJob: 3");
    let job = ended(job(Role::Trial, &[0, 1, 2]), true);
    let report = TrialReport {
        reused: 1,
        best: Some(12.5),
        ..outcomes("121")
    };
    let pod = said(&job, 0, "Completed", &report);
    let plan = plan(&sweep, &known(&sweep), &[job], &[pod], at(101));
    assert_eq!(
        records(&plan),
        [
            (0, Outcome::Succeeded),
            (1, Outcome::OutOfMemory),
            (2, Outcome::Succeeded)
        ]
    );
    assert_eq!(deletes(&plan), [("trial-0", false)]);
    assert_eq!(creates(&plan), [&Create::Trials(vec![3, 4, 5])]);
    assert_eq!(
        plan.measured,
        Measured {
            reused: 1,
            best: Some(12.5),
            took: Duration::from_secs(100),
            trials: 3
        }
    );
    world::check_order(&plan.actions);
}

#[test]
fn the_trial_that_a_job_broke_at_fails_and_those_after_it_wait_again() {
    let cases = [
        (65, "Error", true, Outcome::Failed),
        (137, "OOMKilled", true, Outcome::OutOfMemory),
        (137, "Error", true, Outcome::Failed),
        (1, "DeadlineExceeded", true, Outcome::TimedOut),
        (1, "DeadlineExceeded", false, Outcome::Failed),
    ];
    let sweep = one_shape("parallelism: 1, trialsPerJob: 3");
    for (code, reason, ran, outcome) in cases {
        let job = ended(job(Role::Trial, &[0, 1, 2]), false);
        let mut pod = said(&job, code, reason, &outcomes("1"));
        pod.ran = ran;
        let mut memory = known(&sweep);
        let first = plan(&sweep, &memory, &[job.clone()], &[pod.clone()], at(101));
        assert_eq!(
            records(&first),
            [(0, Outcome::Succeeded), (1, outcome)],
            "{reason}"
        );
        assert!(deletes(&first).is_empty(), "it is kept to be looked at");
        assert_eq!(creates(&first), [&Create::Trials(vec![2])]);
        // Looked at again, with or without its pods, it says nothing new.
        memory.ledger = first.ledger;
        for pods in [vec![pod], vec![]] {
            let again = plan(&sweep, &memory, &[job.clone()], &pods, at(500));
            assert!(
                records(&again).is_empty() && deletes(&again).is_empty(),
                "{:?}",
                again.actions
            );
        }
    }
}

#[test]
fn a_reason_is_given_for_a_trial_that_failed_and_for_no_other_with_a_record() {
    let sweep = one_shape("parallelism: 1, trialsPerJob: 4");
    let job = ended(job(Role::Trial, &[0, 1, 2, 3]), true);
    let pod = said(&job, 0, "Completed", &outcomes("1245"));
    let plan = plan(&sweep, &known(&sweep), &[job], &[pod], at(101));
    let Some(Action::Record(ended)) = plan.actions.first() else {
        panic!("{:?}", plan.actions);
    };
    let whys: Vec<&str> = ended.iter().map(|ended| ended.why.as_str()).collect();
    assert_eq!(whys, ["", "", "", "the runner recorded it as failed"]);
}

#[test]
fn what_an_earlier_pod_of_a_job_stored_is_not_forgotten() {
    let sweep = one_shape("trialsPerJob: 3");
    let job = ended(job(Role::Trial, &[0, 1, 2]), false);
    let first = said(&job, 1, "Error", &outcomes("12"));
    let mut second = said(&job, 1, "Error", &outcomes(""));
    second.created = at(50);
    let plan = plan(&sweep, &known(&sweep), &[job], &[second, first], at(101));
    assert_eq!(
        records(&plan),
        [
            (0, Outcome::Succeeded),
            (1, Outcome::OutOfMemory),
            (2, Outcome::Failed)
        ]
    );
}

#[test]
fn pods_that_are_not_seen_yet_are_waited_for_and_then_given_up() {
    let sweep = one_shape("trialsPerJob: 2");
    for (complete, lost) in [(true, vec![0, 1]), (false, vec![0])] {
        let job = ended(job(Role::Trial, &[0, 1]), complete);
        let soon = plan(&sweep, &known(&sweep), &[job.clone()], &[], at(110));
        assert_eq!(
            soon.actions,
            [Action::Wait(Duration::from_secs(50))],
            "it keeps its place in the window"
        );
        let late = plan(&sweep, &known(&sweep), &[job], &[], at(160));
        let expected: Vec<_> = lost
            .into_iter()
            .map(|index| (index, Outcome::Failed))
            .collect();
        assert_eq!(records(&late), expected);
    }
}

#[test]
fn a_pod_that_finds_no_node_fails_one_trial_after_its_time() {
    let sweep = one_shape("parallelism: 4, pendingTimeout: 10m, trialsPerJob: 2");
    let job = job(Role::Trial, &[0, 1]);
    let mut waiting = pod(&job, PodPhase::Pending);
    waiting.scheduled = None;
    waiting.stuck = Some((
        "Unschedulable".into(),
        "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.".into(),
    ));
    let early = plan(
        &sweep,
        &known(&sweep),
        &[job.clone()],
        &[waiting.clone()],
        at(599),
    );
    assert_eq!(early.actions, [Action::Wait(Duration::from_secs(1))]);
    let problem = early.problem.expect("a problem");
    assert_eq!(problem.reason, "Unschedulable");
    assert!(
        problem.message.ends_with("3 Insufficient nvidia.com/gpu."),
        "{}",
        problem.message
    );
    let late = plan(
        &sweep,
        &known(&sweep),
        &[job.clone()],
        &[waiting.clone()],
        at(600),
    );
    assert_eq!(records(&late), [(0, Outcome::Failed)]);
    assert_eq!(deletes(&late), [("trial-0", true)]);
    assert!(creates(&late).is_empty(), "its shape pauses");
    // While Kueue holds the Job, no time passes; one that is being deleted is left to go.
    for change in [
        |job: &mut JobView| job.suspended = true,
        |job: &mut JobView| job.deleting = true,
    ] {
        let mut held = job.clone();
        change(&mut held);
        let plan = plan(
            &sweep,
            &known(&sweep),
            &[held],
            &[waiting.clone()],
            at(9_999),
        );
        assert!(plan.actions.is_empty(), "{:?}", plan.actions);
    }
}

#[test]
fn a_pod_that_waits_behind_others_of_its_shape_waits_again() {
    let sweep = one_shape("parallelism: 2, pendingTimeout: 10m");
    let (runs, waits) = (job(Role::Trial, &[0]), job(Role::Trial, &[1]));
    let mut waiting = pod(&waits, PodPhase::Pending);
    waiting.scheduled = None;
    let pods = [pod(&runs, PodPhase::Running), waiting];
    let plan = plan(&sweep, &known(&sweep), &[runs, waits], &pods, at(600));
    assert!(records(&plan).is_empty());
    assert_eq!(deletes(&plan), [("trial-1", true)]);
}

#[test]
fn other_shapes_go_on_while_one_waits_for_a_node() {
    let sweep = sweep(&with("parallelism: 3"));
    let first = plan(&sweep, &known(&sweep), &[], &[], at(0));
    let shapes: Vec<u32> = creates(&first)
        .into_iter()
        .map(|create| match create {
            Create::Trials(trials) => {
                sweep
                    .expansion
                    .trial(trials[0])
                    .expect("a trial")
                    .combination
                    .gpus
            }
            _ => panic!("{create:?}"),
        })
        .collect();
    let mut distinct = shapes.clone();
    distinct.sort_unstable();
    assert_eq!(distinct, [1, 2, 3], "one of each");
}

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
    assert_eq!(deletes(&done), [("collector-0", false)]);
    let Some(Action::Collect { inputs, .. }) = done.actions.get(1) else {
        panic!("{:?}", done.actions);
    };
    // What it recovered asks for no other collection.
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

#[test]
fn of_the_failed_jobs_the_newest_are_kept() {
    let mut sweep = one_shape("parallelism: 1");
    sweep.spec.retention.failed_jobs = 2;
    let mut memory = known(&sweep);
    let jobs: Vec<JobView> = (0..4)
        .map(|index| {
            memory.ledger.record(index, Outcome::Failed).expect("new");
            let mut job = ended(job(Role::Trial, &[index]), false);
            if let Some(end) = &mut job.end {
                end.at = at(100 + i64::from(index));
            }
            job
        })
        .collect();
    sweep.spec.execution.max_failed_percent = 100;
    let plan = plan(&sweep, &memory, &jobs, &[], at(200));
    let mut deleted = deletes(&plan);
    deleted.sort_unstable();
    assert_eq!(deleted, [("trial-0", false), ("trial-1", false)]);
    assert_eq!(creates(&plan), [&Create::Trials(vec![4])]);
}

#[test]
fn a_job_whose_trials_have_ended_is_stopped() {
    let sweep = one_shape("parallelism: 1");
    let mut memory = known(&sweep);
    memory.ledger.record(0, Outcome::Succeeded).expect("new");
    let plan = plan(&sweep, &memory, &[job(Role::Trial, &[0])], &[], at(0));
    assert_eq!(deletes(&plan), [("trial-0", true)]);
    assert!(
        creates(&plan).is_empty(),
        "it keeps its place until it has gone"
    );
}

#[test]
fn a_trial_whose_pods_are_driven_out_again_and_again_fails() {
    let sweep = one_shape("parallelism: 1, trialsPerJob: 3");
    let job = job(Role::Trial, &[0, 1, 2]);
    let driven_out = |count: usize| -> Vec<PodView> {
        let pods = (0..count).map(|number| PodView {
            name: format!("p-{number}"),
            created: at(i64::try_from(number).expect("few")),
            disrupted: true,
            ..said(&job, 137, "Evicted", &outcomes("1"))
        });
        let current = PodView {
            created: at(99),
            ..pod(&job, PodPhase::Running)
        };
        pods.chain([current]).collect()
    };
    let look = |count| {
        plan(
            &sweep,
            &known(&sweep),
            &[job.clone()],
            &driven_out(count),
            at(100),
        )
    };
    let few = look(5);
    assert!(records(&few).is_empty() && deletes(&few).is_empty() && few.problem.is_none());
    let more = look(9);
    assert!(records(&more).is_empty() && deletes(&more).is_empty());
    assert_eq!(more.problem.expect("a problem").reason, "Evicted");
    let enough = look(10);
    assert_eq!(
        records(&enough),
        [(0, Outcome::Succeeded), (1, Outcome::Failed)]
    );
    assert_eq!(deletes(&enough), [("trial-0", true)]);
    assert!(
        creates(&enough).is_empty(),
        "it keeps its place until it has gone"
    );
    // Pods that break by themselves are for the Job's own retries to count.
    let mut broken = driven_out(10);
    for pod in &mut broken {
        pod.disrupted = false;
    }
    let plan = plan(&sweep, &known(&sweep), &[job.clone()], &broken, at(100));
    assert!(records(&plan).is_empty(), "{:?}", plan.actions);
}

#[test]
fn a_job_that_gets_no_pod_is_a_problem() {
    let sweep = one_shape("parallelism: 1");
    let waits = job(Role::Trial, &[0]);
    let early = plan(&sweep, &known(&sweep), &[waits.clone()], &[], at(59));
    assert_eq!(early.problem, None);
    assert_eq!(early.actions, [Action::Wait(Duration::from_secs(1))]);
    let late = plan(&sweep, &known(&sweep), &[waits.clone()], &[], at(60));
    assert_eq!(late.problem.expect("a problem").reason, "PodNotCreated");
    // While a queue holds it, that is as it should be.
    let mut held = waits;
    held.suspended = true;
    assert_eq!(
        plan(&sweep, &known(&sweep), &[held], &[], at(999)).problem,
        None
    );
    let fresh = fresh(ONE_SHAPE);
    let preflight = job(Role::Preflight, &[]);
    let late = plan(&fresh, &known(&fresh), &[preflight], &[], at(60));
    assert_eq!(late.problem.expect("a problem").reason, "PodNotCreated");
}
