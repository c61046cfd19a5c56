//! Each rule by itself, by the part of a sweep that it is about, and the promises in a simulated world.
#![expect(
    clippy::cloned_ref_to_slice_refs,
    reason = "a list of one reads like the lists of more"
)]

mod collection;
mod preflight;
mod promises;
mod trials;

use inferbench_crds::contract::TrialReport;
use k8s_openapi::jiff::SignedDuration;

use super::*;
use crate::controller::{
    fixtures::sweep,
    names::Role,
    observe::{End, NO_IMAGE},
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

fn at(seconds: i64) -> Timestamp {
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    start + SignedDuration::from_secs(seconds)
}

fn known(sweep: &Sweep) -> Known {
    Known {
        ledger: Outcomes::new(sweep.expansion.len_before_exclusion()),
        decided: 0,
        inputs: String::new(),
        not_created: None,
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
        bare: false,
        ran: phase != PodPhase::Pending,
        exit_code: None,
        reason: String::new(),
        report: String::new(),
        disrupted: false,
        note: String::new(),
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
fn a_pod_that_does_not_start_has_its_problem_named() {
    let pod = pod(&job(Role::Trial, &[0]), PodPhase::Pending);
    let reason = |reason: &str, message: &str| Problem::of_pod(&pod, reason, message).reason;
    for message in [
        r#"0/1 nodes are available: persistentvolumeclaim "results" not found."#,
        r#"persistentvolumeclaim "results" is being deleted"#,
        "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found",
        "0/1 nodes are available: 1 node(s) didn't find available persistent volumes to bind.",
        "0/1 nodes are available: 1 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s).",
    ] {
        assert_eq!(
            reason("Unschedulable", message),
            "ClaimNotReady",
            "{message}"
        );
    }
    let crowded = "0/1 nodes are available: 1 Insufficient cpu.";
    assert_eq!(reason("Unschedulable", crowded), "Unschedulable");
    let elsewhere = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match PersistentVolume's node affinity.";
    assert_eq!(reason("Unschedulable", elsewhere), "Unschedulable");
    let taken = "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.";
    let why =
        "cannot be scheduled, as trials do not share a node (execution.colocation): 0/1 nodes";
    let problem = Problem::of_pod(&pod, "Unschedulable", taken);
    assert!(problem.message.contains(why), "{}", problem.message);
    let secret = r#"secret "keys" not found"#;
    assert_eq!(
        reason("CreateContainerConfigError", secret),
        "PodCannotStart"
    );
    for waits in NO_IMAGE {
        let problem = Problem::of_pod(&pod, waits, "runner:1");
        assert_eq!(
            (problem.reason.as_str(), problem.message.as_str()),
            (
                "ImagePullFailed",
                "pod trial-0-pod cannot pull runner:1: kubectl describe pod trial-0-pod"
            )
        );
    }
}

#[test]
fn a_pod_whose_volumes_cannot_be_mounted_is_a_problem_after_a_while() {
    let sweep = sweep(SPEC);
    let job = job(Role::Trial, &[0]);
    let waits = PodView {
        bare: true,
        ..pod(&job, PodPhase::Pending)
    };
    let look = |pod: &PodView, seconds| {
        let (jobs, pods) = ([job.clone()], [pod.clone()]);
        plan(&sweep, &known(&sweep), &jobs, &pods, at(seconds))
    };
    let early = look(&waits, 31);
    assert_eq!(early.problem, None, "mounting takes a moment");
    assert!(
        early
            .actions
            .contains(&Action::Wait(Duration::from_secs(30)))
    );
    let problem = look(&waits, 61).problem.expect("a problem");
    assert_eq!(problem.reason, "PodCannotStart");
    assert!(problem.message.contains("volumes"), "{}", problem.message);
    let pulls = pod(&job, PodPhase::Pending);
    assert_eq!(look(&pulls, 61).problem, None, "a large image takes long");
}

#[test]
fn a_refusal_says_nothing_for_some_seconds_after_a_job_has_gone() {
    assert!(may_settle(Some(at(100)), at(100), at(100)));
    assert!(may_settle(Some(at(100)), at(102), at(104)));
    assert!(!may_settle(Some(at(100)), at(102), at(105)));
    assert!(!may_settle(None, at(100), at(100)));
    // Jobs go now and then, and none can be created.
    assert!(!may_settle(Some(at(104)), at(100), at(105)));
}

#[test]
fn the_name_of_a_refused_job_is_said_once_and_last() {
    let said = |why: &str| Problem::job_refused("thesis-0", why, 1, at(100)).message;
    let quota = "exceeded quota: jobs, requested: count/jobs.batch=1, used: count/jobs.batch=2, limited: count/jobs.batch=2";
    let invalid = "spec.template: Invalid value: \"x\" is not allowed";
    let hook = "admission webhook \"h\" denied the request: Job \"thesis-0\" is too big";
    for (why, kept) in [
        (
            &*format!("jobs.batch \"thesis-0\" is forbidden: {quota}"),
            quota,
        ),
        (
            &*format!("Job.batch \"thesis-0\" is invalid: {invalid}"),
            &*format!("invalid: {invalid}"),
        ),
        (hook, hook),
    ] {
        let wanted = format!("the API server refuses a Job: {kept}; it is Job thesis-0");
        assert_eq!(said(why), wanted);
    }
}

#[test]
fn a_job_that_was_refused_waits_for_its_next_attempt() {
    let sweep = one_shape("parallelism: 2");
    let refused = |number, generation, jobs| NotCreated {
        problem: Problem::job_refused("thesis-0", "no", number, at(100)),
        generation,
        jobs,
    };
    let look = |not_created: NotCreated, seconds| {
        let known = Known {
            not_created: Some(not_created),
            ..known(&sweep)
        };
        plan(&sweep, &known, &[], &[], at(seconds))
    };
    let same = refused(1, sweep.generation, 0);
    let early = look(same.clone(), 110);
    assert!(early.holds);
    assert_eq!(early.actions, [Action::Wait(Duration::from_secs(20))]);
    assert_eq!(
        early.problem.map(|it| it.to_string()).as_deref(),
        Some(
            "the API server refuses a Job: no; it is Job thesis-0 (attempt 1, the next at 2026-01-01T00:02:10Z)"
        )
    );
    // It is one until the Job is there.
    let due = look(same, 130);
    assert!(!due.holds && due.problem.is_some() && !creates(&due).is_empty());
    // It need not wait where the resource has changed since, or a Job has gone.
    for other in [
        refused(1, sweep.generation - 1, 0),
        refused(1, sweep.generation, 1),
    ] {
        let plan = look(other, 110);
        assert!(!plan.holds && !creates(&plan).is_empty());
    }
    let waits = (1..=6).map(|number| {
        let plan = look(refused(number, sweep.generation, 0), 100);
        plan.actions
    });
    let longer = [30, 60, 120, 240, 300, 300].map(|seconds| {
        let wait = Duration::from_secs(seconds);
        vec![Action::Wait(wait)]
    });
    assert_eq!(waits.collect::<Vec<_>>(), longer);
}
