//! A pod's status as the kubelet, the scheduler and the garbage collector write it: pure.

use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
        ContainerStateWaiting, ContainerStatus, Pod, PodCondition, PodStatus,
    },
    jiff::Timestamp,
};

use super::{containers::Exit, pod::seconds};

/// The most bytes of a termination message.
const MESSAGE_BYTES: usize = 4_096;

/// A reason other than its container for the end of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It ran for longer than its `activeDeadlineSeconds`.
    Deadline,
    /// The node had too little of something.
    Evicted,
    /// It was to be deleted.
    Deleted,
    /// The kernel killed it for memory.
    OutOfMemory,
    /// The node went down and came back.
    Rebooted,
}

/// The status of a pod whose container waits, with the reason and message.
#[must_use]
pub fn waiting(pod: &Pod, reason: &str, message: &str, now: Timestamp) -> PodStatus {
    let state = ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.into()),
            message: (!message.is_empty()).then(|| message.to_owned()),
        }),
        ..ContainerState::default()
    };
    with_state(pod, "Pending", state, now)
}

/// The status of a pod whose container runs.
#[must_use]
pub fn running(pod: &Pod, now: Timestamp) -> PodStatus {
    let state = ContainerState {
        running: Some(ContainerStateRunning {
            started_at: Some(seconds(now)),
        }),
        ..ContainerState::default()
    };
    with_state(pod, "Running", state, now)
}

/// The status of a pod whose container has ended.
#[must_use]
pub fn ended(pod: &Pod, exit: &Exit, cause: Option<&Cause>, now: Timestamp) -> PodStatus {
    let code = match cause {
        Some(Cause::OutOfMemory) => 137,
        Some(Cause::Rebooted) => 255,
        _ => exit.code,
    };
    let reason = match cause {
        Some(Cause::OutOfMemory) => "OOMKilled",
        Some(Cause::Rebooted) => "Unknown",
        _ => match &exit.reason {
            Some(reason) => reason,
            None if code == 0 => "Completed",
            None => "Error",
        },
    };
    let message = last_bytes(&exit.message);
    let state = ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: code,
            reason: Some(reason.into()),
            message: (!message.is_empty()).then_some(message),
            started_at: started(pod),
            finished_at: Some(seconds(now)),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    };
    // A pod that was cut off has failed, whatever its container says.
    let cut_off = matches!(cause, Some(Cause::Deadline | Cause::Evicted));
    let phase = if code == 0 && !cut_off {
        "Succeeded"
    } else {
        "Failed"
    };
    let mut status = with_state(pod, phase, state, now);
    match cause {
        Some(Cause::Deadline) => {
            status.reason = Some("DeadlineExceeded".into());
            status.message =
                Some("Pod was active on the node longer than the specified deadline".into());
        }
        Some(Cause::Evicted) => {
            status.reason = Some("Evicted".into());
            status.message = Some("The node was low on resource: ephemeral-storage.".into());
            disrupt(
                &mut status,
                "TerminationByKubelet",
                "The node was low on resource: ephemeral-storage.",
                now,
            );
        }
        _ => {}
    }
    status
}

/// The status of a pod that will never run: it was deleted before it did, or its node is gone.
#[must_use]
pub fn given_up(pod: &Pod, node_gone: bool, now: Timestamp) -> PodStatus {
    let mut status = pod.status.clone().unwrap_or_default();
    status.phase = Some("Failed".into());
    set_condition(&mut status, "Ready", "False", "PodFailed", now);
    if node_gone {
        disrupt(
            &mut status,
            "DeletionByPodGC",
            "PodGC: node no longer exists",
            now,
        );
    }
    status
}

/// Marks a pod as ended by no fault of its own.
fn disrupt(status: &mut PodStatus, reason: &str, message: &str, now: Timestamp) {
    set_condition(status, "DisruptionTarget", "True", reason, now);
    for condition in status.conditions.iter_mut().flatten() {
        if condition.type_ == "DisruptionTarget" {
            condition.message = Some(message.into());
        }
    }
}

/// The status of a pod that no node can take.
#[must_use]
pub fn unschedulable(pod: &Pod, message: &str, now: Timestamp) -> PodStatus {
    let mut status = pod.status.clone().unwrap_or_default();
    status.phase.get_or_insert_with(|| "Pending".into());
    set_condition(&mut status, "PodScheduled", "False", "Unschedulable", now);
    for condition in status.conditions.iter_mut().flatten() {
        if condition.type_ == "PodScheduled" {
            condition.message = Some(message.into());
        }
    }
    status
}

fn with_state(pod: &Pod, phase: &str, state: ContainerState, now: Timestamp) -> PodStatus {
    let mut status = pod.status.clone().unwrap_or_default();
    status.phase = Some(phase.into());
    status.start_time.get_or_insert_with(|| seconds(now));
    status.host_ip.get_or_insert_with(|| "127.0.0.1".into());
    let containers = pod.spec.as_ref().map_or(&[][..], |spec| &spec.containers);
    let ready = phase == "Running";
    let old = status.container_statuses.take().unwrap_or_default();
    let of = |container: &Container| {
        let known = old.iter().find(|known| known.name == container.name);
        ContainerStatus {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            image_id: known.map_or_else(String::new, |known| known.image_id.clone()),
            ready,
            started: Some(ready),
            state: Some(state.clone()),
            ..ContainerStatus::default()
        }
    };
    status.container_statuses = Some(containers.iter().map(of).collect());
    set_condition(&mut status, "PodScheduled", "True", "", now);
    set_condition(&mut status, "Initialized", "True", "", now);
    let (truth, reason) = match phase {
        "Running" => ("True", ""),
        "Succeeded" => ("False", "PodCompleted"),
        "Failed" => ("False", "PodFailed"),
        _ => ("False", "ContainersNotReady"),
    };
    for condition in ["Ready", "ContainersReady"] {
        set_condition(&mut status, condition, truth, reason, now);
    }
    status
}

fn set_condition(status: &mut PodStatus, kind: &str, truth: &str, reason: &str, now: Timestamp) {
    let conditions = status.conditions.get_or_insert_default();
    let known = conditions.iter().position(|known| known.type_ == kind);
    let at = match known {
        Some(at) => at,
        None => {
            conditions.push(PodCondition {
                type_: kind.into(),
                ..PodCondition::default()
            });
            conditions.len() - 1
        }
    };
    let Some(condition) = conditions.get_mut(at) else {
        return;
    };
    if condition.status != truth {
        truth.clone_into(&mut condition.status);
        condition.last_transition_time = Some(seconds(now));
        condition.message = None;
    }
    condition.reason = (!reason.is_empty()).then(|| reason.to_owned());
}

fn started(pod: &Pod) -> Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time> {
    let status = pod.status.as_ref()?;
    let container = status.container_statuses.as_ref()?.first()?;
    container
        .state
        .as_ref()?
        .running
        .as_ref()?
        .started_at
        .clone()
}

/// The kubelet keeps the end of a message that is too long.
fn last_bytes(message: &str) -> String {
    let from = message.len().saturating_sub(MESSAGE_BYTES);
    String::from_utf8_lossy(&message.as_bytes()[from..]).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {"containers": [{"name": "runner", "image": "i"}]},
            "status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]},
        }))
        .expect("a pod")
    }

    fn condition<'a>(status: &'a PodStatus, kind: &str) -> &'a PodCondition {
        let conditions = status.conditions.as_ref().expect("conditions");
        let found = conditions.iter().find(|condition| condition.type_ == kind);
        found.expect("the condition")
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn terminated(status: &PodStatus) -> ContainerStateTerminated {
        let containers = status.container_statuses.as_ref().expect("containers");
        let state = containers[0].state.clone().expect("a state");
        state.terminated.expect("it has ended")
    }

    #[test]
    fn a_pod_starts_runs_and_ends() {
        let mut pod = pod();
        let status = waiting(&pod, "ErrImagePull", "not found", at(1));
        assert_eq!(status.phase.as_deref(), Some("Pending"));
        assert_eq!(status.start_time, Some(seconds(at(1))));
        pod.status = Some(status);
        pod.status = Some(running(&pod, at(2)));
        let status = pod.status.as_ref().expect("a status");
        assert_eq!(condition(status, "Ready").status, "True");
        assert_eq!(status.start_time, Some(seconds(at(1))), "it stays");
        let status = ended(&pod, &Exit::new(0, "done"), None, at(9));
        assert_eq!(status.phase.as_deref(), Some("Succeeded"));
        assert_eq!(
            condition(&status, "Ready").reason.as_deref(),
            Some("PodCompleted")
        );
        let end = terminated(&status);
        assert_eq!(
            (end.exit_code, end.reason.as_deref()),
            (0, Some("Completed"))
        );
        assert_eq!(end.message.as_deref(), Some("done"));
        assert_eq!(end.started_at, Some(seconds(at(2))));
        assert_eq!(end.finished_at, Some(seconds(at(9))));
    }

    #[test]
    fn what_ended_a_pod_is_told_apart() {
        let pod = pod();
        let how = |code, cause: Option<Cause>| {
            let status = ended(&pod, &Exit::new(code, ""), cause.as_ref(), at(3));
            let end = terminated(&status);
            (
                status.phase.clone().unwrap_or_default(),
                status.reason.clone().unwrap_or_default(),
                end.exit_code,
                end.reason.unwrap_or_default(),
            )
        };
        let expect = |phase: &str, reason: &str, code, why: &str| {
            (phase.to_owned(), reason.to_owned(), code, why.to_owned())
        };
        assert_eq!(how(65, None), expect("Failed", "", 65, "Error"));
        assert_eq!(
            how(0, Some(Cause::Deadline)),
            expect("Failed", "DeadlineExceeded", 0, "Completed")
        );
        assert_eq!(
            how(137, Some(Cause::OutOfMemory)),
            expect("Failed", "", 137, "OOMKilled")
        );
        assert_eq!(
            how(137, Some(Cause::Evicted)),
            expect("Failed", "Evicted", 137, "Error")
        );
        assert_eq!(
            how(0, Some(Cause::Deleted)),
            expect("Succeeded", "", 0, "Completed")
        );
        assert_eq!(
            how(0, Some(Cause::Rebooted)),
            expect("Failed", "", 255, "Unknown")
        );
        let status = ended(&pod, &Exit::new(137, ""), Some(&Cause::Evicted), at(3));
        assert_eq!(
            condition(&status, "DisruptionTarget").reason.as_deref(),
            Some("TerminationByKubelet")
        );
    }

    #[test]
    fn of_a_long_message_the_end_is_kept() {
        let long = format!("{}end", "é".repeat(3_000));
        let status = ended(&pod(), &Exit::new(1, long), None, at(3));
        let message = terminated(&status).message.expect("a message");
        assert!(message.ends_with("éend") && message.chars().count() <= 4_096);
    }

    #[test]
    fn a_condition_changes_its_time_only_with_its_truth() {
        let mut pod = pod();
        pod.status = Some(unschedulable(&pod, "0/1 nodes", at(5)));
        let again = unschedulable(&pod, "0/2 nodes", at(8));
        let scheduled = condition(&again, "PodScheduled");
        assert_eq!(scheduled.last_transition_time, Some(seconds(at(5))));
        assert_eq!(scheduled.message.as_deref(), Some("0/2 nodes"));
    }
}
