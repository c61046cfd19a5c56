//! From Kubernetes objects to the plain data that planning looks at.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition, JobStatus},
        core::v1::{ContainerStateTerminated, ContainerStatus, PodStatus},
    },
    apimachinery::pkg::apis::meta::v1::{OwnerReference, Time},
    jiff::Timestamp,
};
use serde::Deserialize;

use super::names::{self, Role};

/// An object's metadata, as far as it is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Its name.
    pub name: Option<String>,
    /// Its namespace.
    pub namespace: Option<String>,
    /// Its uid.
    pub uid: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// Who owns it.
    pub owner_references: Vec<OwnerReference>,
    /// When it was created.
    pub creation_timestamp: Option<Time>,
    /// Since when it is being deleted.
    pub deletion_timestamp: Option<Time>,
}

/// A Job as the API server has it. The rest, which is most of it, is skipped unread: every reconcile reads every Job.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SeenJob {
    /// Its metadata.
    pub metadata: Metadata,
    spec: SeenJobSpec,
    status: JobStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SeenJobSpec {
    suspend: bool,
}

/// A pod as the API server has it, as far as it is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SeenPod {
    metadata: Metadata,
    status: PodStatus,
}

impl From<Job> for SeenJob {
    fn from(job: Job) -> Self {
        let metadata = job.metadata;
        let suspend = job.spec.and_then(|spec| spec.suspend).unwrap_or_default();
        Self {
            metadata: Metadata {
                name: metadata.name,
                namespace: metadata.namespace,
                uid: metadata.uid,
                labels: metadata.labels.unwrap_or_default(),
                annotations: metadata.annotations.unwrap_or_default(),
                owner_references: metadata.owner_references.unwrap_or_default(),
                creation_timestamp: metadata.creation_timestamp,
                deletion_timestamp: metadata.deletion_timestamp,
            },
            spec: SeenJobSpec { suspend },
            status: job.status.unwrap_or_default(),
        }
    }
}

/// A Job of a sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct JobView {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its role.
    pub role: Role,
    /// Its trials' indices in the order in which they run; empty unless it measures.
    pub trials: Vec<u32>,
    /// The GPUs of its pod: the shape that the scheduler has to find room for.
    pub gpus: u32,
    /// How often this was tried, from 1.
    pub attempt: u32,
    /// Of a collection or a look: the hash of what it collects from, or looks at.
    pub inputs: String,
    /// When it was created.
    pub created: Timestamp,
    /// When it was started: Kueue may have held it suspended before.
    pub started: Option<Timestamp>,
    /// Whether it is held suspended.
    pub suspended: bool,
    /// How it ended.
    pub end: Option<End>,
    /// Whether it is being deleted, and still there.
    pub deleting: bool,
}

/// How a Job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// When.
    pub at: Timestamp,
    /// Whether it completed; else it failed.
    pub complete: bool,
    /// The reason of its condition, such as `PodFailurePolicy`.
    pub reason: String,
}

/// The phase of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodPhase {
    /// Its container has not been started.
    Pending,
    /// Its container runs.
    Running,
    /// Its container ended with exit code 0.
    Succeeded,
    /// It ended otherwise.
    Failed,
}

/// A pod of a sweep's Job.
#[derive(Clone, Debug, PartialEq)]
pub struct PodView {
    /// Its name.
    pub name: String,
    /// The uid of its Job.
    pub job: String,
    /// Its completion index, in an Indexed Job.
    pub index: Option<u32>,
    /// When it was created.
    pub created: Timestamp,
    /// When it was given a node.
    pub scheduled: Option<Timestamp>,
    /// Whether it is being deleted, and still there.
    pub deleting: bool,
    /// Its phase.
    pub phase: PodPhase,
    /// Why it does not start, where that is known: reason and message; of an image that is not there, reason and image.
    pub stuck: Option<(String, String)>,
    /// Whether its node has yet to set up its volumes and its network. Events alone say why that takes long.
    pub bare: bool,
    /// Whether its container ever ran.
    pub ran: bool,
    /// The exit code of its container, or of one before it that failed.
    pub exit_code: Option<i32>,
    /// Why it ended: the pod's reason (`DeadlineExceeded`, `Evicted`), else its container's (`OOMKilled`, `Error`),
    /// else, as `Init:Error`, that of one before it.
    pub reason: String,
    /// Kubernetes' words about its end, where there are any: why it was rejected or driven out, or why its container
    /// could not be started; and why a container before it failed.
    pub note: String,
    /// Its container's termination message.
    pub report: String,
    /// Whether it was not its own doing: its node drove it out, or went away.
    pub disrupted: bool,
}

impl JobView {
    /// The Job, if the resource with this uid controls it and it is one of the operator's making.
    #[must_use]
    pub fn of(job: &SeenJob, owner: &str) -> Option<Self> {
        let metadata = &job.metadata;
        let owners = metadata.owner_references.iter();
        let owned = owners
            .filter(|reference| reference.controller == Some(true))
            .any(|reference| reference.uid == owner);
        let label = |key: &str| metadata.labels.get(key).map(String::as_str);
        if !owned || label(names::MANAGED_BY) != Some(names::MANAGER) {
            return None;
        }
        let role = Role::parse(label(names::COMPONENT)?)?;
        let annotation = |key: &str| metadata.annotations.get(key).map(String::as_str);
        let trials = match role {
            Role::Trial => names::read_indices(annotation(names::TRIALS)?)?,
            Role::Preflight | Role::Look | Role::Collector => Vec::new(),
        };
        let status = &job.status;
        let conditions = status.conditions.as_deref().unwrap_or_default();
        let created = metadata.creation_timestamp.as_ref().map(|time| time.0);
        let created = created.unwrap_or(Timestamp::UNIX_EPOCH);
        Some(Self {
            name: metadata.name.clone()?,
            uid: metadata.uid.clone()?,
            role,
            trials,
            gpus: label(names::GPUS)
                .and_then(|gpus| gpus.parse().ok())
                .unwrap_or(0),
            attempt: annotation(names::ATTEMPT)
                .and_then(|attempt| attempt.parse().ok())
                .unwrap_or(1),
            inputs: annotation(names::INPUTS).unwrap_or_default().to_owned(),
            created,
            started: status.start_time.as_ref().map(|time| time.0),
            suspended: job.spec.suspend,
            end: conditions
                .iter()
                .find_map(|condition| end(condition, created)),
            deleting: metadata.deletion_timestamp.is_some(),
        })
    }
}

fn end(condition: &JobCondition, created: Timestamp) -> Option<End> {
    let complete = match condition.type_.as_str() {
        "Complete" => true,
        "Failed" => false,
        _ => return None,
    };
    let at = |time: &Option<Time>| time.as_ref().map(|time| time.0);
    (condition.status == "True").then(|| End {
        at: at(&condition.last_transition_time).unwrap_or(created),
        complete,
        reason: condition.reason.clone().unwrap_or_default(),
    })
}

/// Reasons for which a container waits as its image is not there.
pub const NO_IMAGE: [&str; 7] = [
    "ImagePullBackOff",
    "ErrImagePull",
    "ImageInspectError",
    "InvalidImageName",
    "ErrImageNeverPull",
    "RegistryUnavailable",
    "SignatureValidationFailed",
];

/// Other reasons for which a container waits and that do not go away by waiting a moment.
const STUCK: [&str; 5] = [
    "CreateContainerConfigError",
    "CreateContainerError",
    "PreCreateHookError",
    "PreStartHookError",
    "RunContainerError",
];

impl PodView {
    /// The pod, if a Job controls it.
    #[must_use]
    pub fn of(pod: &SeenPod) -> Option<Self> {
        let metadata = &pod.metadata;
        let owners = metadata.owner_references.iter();
        let job = owners
            .filter(|reference| reference.controller == Some(true) && reference.kind == "Job")
            .map(|reference| reference.uid.clone())
            .next()?;
        let status = &pod.status;
        let text = |value: Option<&String>| value.cloned().unwrap_or_default();
        let containers = status.container_statuses.as_ref();
        let runner = containers
            .into_iter()
            .flatten()
            .find(|container| container.name == names::CONTAINER);
        // An init container has to end first; where it fails, the runner's container is never started.
        let before = status.init_container_statuses.as_deref();
        let before = before.unwrap_or_default();
        let broken = before.iter().find_map(broken);
        let state = runner.and_then(|runner| runner.state.as_ref());
        let ended = state.and_then(|state| state.terminated.as_ref());
        let running = state.is_some_and(|state| state.running.is_some());
        let conditions = status.conditions.as_ref();
        let scheduled = conditions
            .into_iter()
            .flatten()
            .find(|condition| condition.type_ == "PodScheduled");
        let unschedulable = scheduled
            .filter(|condition| condition.status == "False")
            .filter(|condition| condition.reason.as_deref() == Some("Unschedulable"))
            .map(|condition| ("Unschedulable".to_owned(), text(condition.message.as_ref())));
        let created = metadata.creation_timestamp.as_ref().map(|time| time.0);
        let created = created.unwrap_or(Timestamp::UNIX_EPOCH);
        let phase = match status.phase.as_deref() {
            Some("Running") => PodPhase::Running,
            Some("Succeeded") => PodPhase::Succeeded,
            Some("Failed") => PodPhase::Failed,
            _ => PodPhase::Pending,
        };
        let reason = status
            .reason
            .clone()
            .or_else(|| ended.and_then(|ended| ended.reason.clone()))
            .or_else(|| {
                let reason = broken?.reason.as_deref();
                Some(format!("Init:{}", reason.unwrap_or("Error")))
            });
        let target = conditions
            .into_iter()
            .flatten()
            .any(|condition| condition.type_ == "DisruptionTarget" && condition.status == "True");
        let bare = conditions.into_iter().flatten().any(|condition| {
            condition.type_ == "PodReadyToStartContainers" && condition.status == "False"
        });
        let index = metadata
            .annotations
            .get("batch.kubernetes.io/job-completion-index");
        Some(Self {
            name: text(metadata.name.as_ref()),
            job,
            index: index.and_then(|index| index.parse().ok()),
            created,
            scheduled: scheduled
                .filter(|condition| condition.status == "True")
                .map(|condition| condition.last_transition_time.as_ref())
                .map(|time| time.map_or(created, |time| time.0)),
            deleting: metadata.deletion_timestamp.is_some(),
            phase,
            stuck: unschedulable
                .or_else(|| before.iter().chain(runner).find_map(waits))
                .filter(|_| phase == PodPhase::Pending),
            bare: bare && phase == PodPhase::Pending,
            ran: running || ended.is_some(),
            exit_code: ended.or(broken).map(|ended| ended.exit_code),
            disrupted: target || reason.as_deref() == Some("Evicted"),
            note: note(status, ended, broken),
            reason: reason.unwrap_or_default(),
            report: ended
                .and_then(|ended| ended.message.clone())
                .unwrap_or_default(),
        })
    }
}

/// Reasons of an end that the runner had no part in: what is left is the container runtime's message, and no report.
const NEVER_RAN: [&str; 2] = ["StartError", "ContainerCannotRun"];

/// Kubernetes' words about a pod's end.
fn note(
    status: &PodStatus,
    ended: Option<&ContainerStateTerminated>,
    broken: Option<&ContainerStateTerminated>,
) -> String {
    let never_ran = |ended: &&ContainerStateTerminated| {
        let reason = ended.reason.as_deref();
        reason.is_some_and(|reason| NEVER_RAN.contains(&reason))
    };
    let notes = [
        status.message.as_ref(),
        ended
            .filter(never_ran)
            .and_then(|ended| ended.message.as_ref()),
        broken.and_then(|ended| ended.message.as_ref()),
    ];
    let mut notes = notes.into_iter().flatten().map(|note| note.trim());
    let note = notes.find(|note| !note.is_empty());
    note.unwrap_or_default().to_owned()
}

/// How a container ended that did not end well.
fn broken(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    let ended = container.state.as_ref()?.terminated.as_ref()?;
    (ended.exit_code != 0).then_some(ended)
}

fn waits(container: &ContainerStatus) -> Option<(String, String)> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.clone()?;
    if NO_IMAGE.contains(&reason.as_str()) {
        // The kubelet's words change with every try, and name the image only in some of them.
        return Some((reason, container.image.clone()));
    }
    let message = waiting.message.clone().unwrap_or_default();
    // The kubelet has not read a Secret or ConfigMap yet, which one that is busy tells as an error, and tries again.
    let syncs = message.starts_with("failed to sync ");
    (STUCK.contains(&reason.as_str()) && !syncs).then_some((reason, message))
}

#[cfg(test)]
mod tests;
