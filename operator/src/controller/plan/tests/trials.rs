//! The trials: the window of Jobs, and the ends of Jobs and pods.

use super::{promises::with, *};
use crate::controller::fixtures::fresh;

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
        RecordedSums {
            reused: 1,
            best: Some(12.5),
            took: Duration::from_secs(100),
            trials: 3,
            ..RecordedSums::default()
        }
    );
    world::check_order(&plan.actions);
}

#[test]
fn what_is_invalid_is_counted_with_its_record_and_once() {
    let sweep = one_shape("parallelism: 1, trialsPerJob: 3");
    let job = ended(job(Role::Trial, &[0, 1, 2]), true);
    let mut report = outcomes("662");
    report.invalid = Some("the CPU was busy".into());
    let pod = said(&job, 0, "Completed", &report);
    let mut memory = known(&sweep);
    let fresh = plan(&sweep, &memory, &[job.clone()], &[pod.clone()], at(101));
    assert_eq!(
        records(&fresh),
        [
            (0, Outcome::Succeeded),
            (1, Outcome::Succeeded),
            (2, Outcome::OutOfMemory)
        ]
    );
    assert_eq!(fresh.measured.invalid, 2);
    assert_eq!(
        fresh.measured.why_invalid.as_deref(),
        Some("the CPU was busy")
    );
    // One of them was recorded before.
    memory.ledger.record(0, Outcome::Succeeded).expect("new");
    let later = plan(&sweep, &memory, &[job], &[pod], at(101));
    assert_eq!(later.measured.invalid, 1);
}

#[test]
fn an_engine_whose_pods_do_not_start_holds_up_no_other() {
    let engines = "engine: [{name: own, candle: {}}, {name: vllm, server: {preset: vllm, image: a}}]\n    gpus: [1]";
    let spec = ONE_SHAPE.replace("gpus: [1]", engines);
    let sweep = sweep(&format!("{spec}execution: {{parallelism: 3}}\n"));
    // In the order of the factors, the engine's own six trials come first.
    let (runs, stuck) = (job(Role::Trial, &[0]), job(Role::Trial, &[6]));
    let mut waiting = pod(&stuck, PodPhase::Pending);
    waiting.stuck = Some(("ErrImagePull".into(), String::new()));
    let jobs = [runs.clone(), stuck];
    let plan = plan(
        &sweep,
        &known(&sweep),
        &jobs,
        &[pod(&runs, PodPhase::Running), waiting],
        at(5),
    );
    assert_eq!(creates(&plan), [&Create::Trials(vec![1])]);
    assert_eq!(plan.problem.expect("a problem").reason, "ImagePullFailed");
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
