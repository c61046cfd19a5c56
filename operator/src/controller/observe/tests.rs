//! Jobs and pods as they are read, and those that are not ours.

use serde_json::json;

use super::*;
use crate::controller::{
    build,
    fixtures::{UID, sweep},
};

const SPEC: &str = "
design: {factors: {model: [{name: gpt2, source: {random: {preset: gpt2}}}], gpus: [2], batchSize: [1, 2]}}
results: {store: {url: 's3://bucket'}}
execution: {trialsPerJob: 2}
";

/// A built Job as the API server hands it out.
fn stored(mut job: Job) -> Job {
    job.metadata.uid = Some("job-1".into());
    job.metadata.creation_timestamp = Some(Time("2026-01-01T00:00:00Z".parse().expect("a time")));
    job
}

fn trials() -> Job {
    let sweep = sweep(SPEC);
    let trials: Vec<_> = sweep.expansion.trials().collect();
    stored(build::trials(&sweep, &trials))
}

#[test]
fn what_was_built_is_read_back() {
    let view = JobView::of(&trials().into(), UID).expect("ours");
    assert_eq!(view.role, Role::Trial);
    assert_eq!((view.gpus, view.trials.len()), (2, 2));
    assert_eq!(
        (view.end, view.suspended, view.deleting),
        (None, false, false)
    );
    let sweep = sweep(SPEC);
    let preflight = JobView::of(&stored(build::preflight(&sweep, 3)).into(), UID).expect("ours");
    assert_eq!((preflight.role, preflight.attempt), (Role::Preflight, 3));
    let collector =
        JobView::of(&stored(build::collector(&sweep, "", 0, 2)).into(), UID).expect("ours");
    assert_eq!((collector.role, collector.attempt), (Role::Collector, 2));
    assert_eq!(collector.inputs, sweep.inputs(""));
}

#[test]
fn what_is_read_of_a_job_is_what_it_says() {
    let mut job = trials();
    job.spec.as_mut().expect("a spec").suspend = Some(true);
    job.status = Some(
        serde_json::from_value(json!({
            "startTime": "2026-01-01T00:00:30Z",
            "conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:01:00Z"}],
        }))
        .expect("a status"),
    );
    let text = serde_json::to_string(&job).expect("JSON");
    let read: SeenJob = serde_json::from_str(&text).expect("a Job");
    let view = JobView::of(&read, UID).expect("ours");
    assert!(view.suspended && view.started.is_some() && view.end.is_some());
    assert_eq!(view, JobView::of(&job.into(), UID).expect("ours"));
}

#[test]
fn jobs_of_others_are_not_seen() {
    assert_eq!(JobView::of(&trials().into(), "another-uid"), None);
    let mut orphan = trials();
    orphan.metadata.owner_references = None;
    assert_eq!(JobView::of(&orphan.into(), UID), None);
    let mut foreign = trials();
    foreign.metadata.labels = None;
    assert_eq!(JobView::of(&foreign.into(), UID), None);
    let mut broken = trials();
    broken.metadata.annotations = Some([(names::TRIALS.to_owned(), "x".to_owned())].into());
    assert_eq!(JobView::of(&broken.into(), UID), None);
}

#[test]
fn a_job_has_ended_when_its_condition_is_true() {
    let with = |conditions: serde_json::Value| {
        let mut job = trials();
        job.status =
            Some(serde_json::from_value(json!({ "conditions": conditions })).expect("a status"));
        JobView::of(&job.into(), UID).expect("ours").end
    };
    assert_eq!(
        with(json!([{"type": "FailureTarget", "status": "True"}])),
        None
    );
    assert_eq!(with(json!([{"type": "Complete", "status": "False"}])), None);
    let end = with(json!([{
        "type": "Failed", "status": "True", "reason": "PodFailurePolicy", "lastTransitionTime": "2026-01-01T00:01:00Z",
    }]))
    .expect("ended");
    assert!(!end.complete && end.reason == "PodFailurePolicy");
    assert_eq!(end.at, "2026-01-01T00:01:00Z".parse().expect("a time"));
    assert!(
        with(json!([{"type": "Complete", "status": "True"}]))
            .expect("ended")
            .complete
    );
}

fn pod(status: serde_json::Value) -> PodView {
    let pod = json!({
        "metadata": {
            "name": "p", "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {"batch.kubernetes.io/job-completion-index": "3"},
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "job-1", "controller": true}],
        },
        "status": status,
    });
    PodView::of(&serde_json::from_value(pod).expect("a pod")).expect("a Job's")
}

#[test]
fn a_pod_that_has_ended_says_why() {
    let killed = pod(json!({
        "phase": "Failed",
        "containerStatuses": [
            {"name": "sidecar", "image": "", "imageID": "", "ready": false, "restartCount": 0},
            {"name": "runner", "image": "", "imageID": "", "ready": false, "restartCount": 0,
             "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": "{}"}}},
        ],
    }));
    assert_eq!(
        (killed.phase, killed.exit_code, killed.ran),
        (PodPhase::Failed, Some(137), true)
    );
    assert_eq!(
        (killed.reason.as_str(), killed.report.as_str(), killed.index),
        ("OOMKilled", "{}", Some(3))
    );
    let late = pod(json!({
        "phase": "Failed", "reason": "DeadlineExceeded",
        "containerStatuses": [
            {"name": "runner", "image": "", "imageID": "", "ready": false, "restartCount": 0,
             "state": {"terminated": {"exitCode": 1, "reason": "Error"}}},
        ],
    }));
    assert_eq!(late.reason, "DeadlineExceeded");
    assert!(!late.disrupted);
    assert_eq!((killed.note.as_str(), late.note.as_str()), ("", ""));
}

#[test]
fn what_kubernetes_says_of_an_end_is_kept_apart_from_a_report() {
    let rejected = pod(json!({
        "phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "not enough cpus available\n",
    }));
    assert_eq!(rejected.note, "not enough cpus available");
    let ended = |reason: &str, message: &str| {
        pod(json!({
            "phase": "Failed",
            "containerStatuses": [
                {"name": "runner", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                 "state": {"terminated": {"exitCode": 128, "reason": reason, "message": message}}},
            ],
        }))
    };
    let never_ran = ended("StartError", "exec: inferbench: not found");
    assert_eq!(never_ran.note, "exec: inferbench: not found");
    assert_eq!(ended("Error", "{}").note, "", "that is its report");
}

#[test]
fn a_container_that_has_to_end_first_may_be_what_is_wrong() {
    let runner = json!({"name": "runner", "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"waiting": {"reason": "PodInitializing"}}});
    let with = |phase: &str, state: serde_json::Value| {
        let before = json!({"name": names::INSTALLER, "image": "engine:1", "imageID": "", "ready": false, "restartCount": 0,
            "state": state});
        pod(
            json!({"phase": phase, "initContainerStatuses": [before], "containerStatuses": [runner]}),
        )
    };
    let pulling = with(
        "Pending",
        json!({"waiting": {"reason": "ErrImagePull", "message": "why"}}),
    );
    assert_eq!(
        pulling.stuck,
        Some(("ErrImagePull".into(), "engine:1".into()))
    );
    let copying = with("Pending", json!({"running": {}}));
    assert_eq!((copying.stuck, copying.ran), (None, false));
    // It has measured nothing, so that this is no lack of memory of a trial.
    let killed = with(
        "Failed",
        json!({"terminated": {"exitCode": 137, "reason": "OOMKilled", "message": "its last lines"}}),
    );
    assert_eq!(
        (killed.reason.as_str(), killed.exit_code, killed.ran),
        ("Init:OOMKilled", Some(137), false)
    );
    assert_eq!(killed.note, "its last lines");
    let done = with(
        "Pending",
        json!({"terminated": {"exitCode": 0, "reason": "Completed"}}),
    );
    assert_eq!((done.reason.as_str(), done.exit_code), ("", None));
}

#[test]
fn a_pod_that_was_driven_out_is_told_from_one_that_broke() {
    let target =
        json!([{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]);
    assert!(pod(json!({"phase": "Failed", "conditions": target})).disrupted);
    assert!(pod(json!({"phase": "Failed", "reason": "Evicted"})).disrupted);
    let spared = json!([{"type": "DisruptionTarget", "status": "False"}]);
    assert!(!pod(json!({"phase": "Failed", "conditions": spared})).disrupted);
}

#[test]
fn a_pod_that_does_not_start_says_why() {
    let unschedulable = pod(json!({
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}],
    }));
    assert_eq!(
        unschedulable.stuck,
        Some(("Unschedulable".into(), "0/3 nodes".into()))
    );
    assert_eq!(unschedulable.scheduled, None);
    let gated = pod(json!({
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}],
    }));
    assert_eq!(gated.stuck, None);
    let waits = |reason: &str, message: &str| {
        pod(json!({
            "phase": "Pending",
            "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:05Z"},
            ],
            "containerStatuses": [
                {"name": "runner", "image": "runner:1", "imageID": "", "ready": false, "restartCount": 0,
                 "state": {"waiting": {"reason": reason, "message": message}}},
            ],
        }))
    };
    let waiting = |reason: &str| waits(reason, "why");
    let pulling = waiting("ImagePullBackOff");
    assert_eq!(
        pulling.stuck,
        Some(("ImagePullBackOff".into(), "runner:1".into())),
        "the message is another with every try"
    );
    assert_eq!(
        waiting("CreateContainerConfigError").stuck,
        Some(("CreateContainerConfigError".into(), "why".into()))
    );
    let syncs = "failed to sync secret cache: timed out waiting for the condition";
    assert_eq!(waits("CreateContainerConfigError", syncs).stuck, None);
    assert_eq!(
        pulling.scheduled,
        Some("2026-01-01T00:00:05Z".parse().expect("a time"))
    );
    assert_eq!(waiting("ContainerCreating").stuck, None);
    let set_up = |status: &str, phase: &str| {
        let condition = json!([{"type": "PodReadyToStartContainers", "status": status}]);
        pod(json!({"phase": phase, "conditions": condition})).bare
    };
    assert!(set_up("False", "Pending") && !set_up("True", "Pending"));
    assert!(!set_up("False", "Failed"), "it has been, and is no more");
}

#[test]
fn a_pod_without_a_job_is_not_seen() {
    assert_eq!(PodView::of(&SeenPod::default()), None);
}
