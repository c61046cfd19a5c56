//! Questions about a pod that several parts of the cluster ask.

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

/// The finalizer by which the Job controller keeps a pod's object until it is counted.
pub const FINALIZER: &str = "batch.kubernetes.io/job-tracking";

/// Whether the Job controller still holds a pod.
#[must_use]
pub fn is_tracked(pod: &Pod) -> bool {
    let finalizers = pod.metadata.finalizers.as_deref().unwrap_or_default();
    finalizers.iter().any(|finalizer| finalizer == FINALIZER)
}

/// A pod's phase.
#[must_use]
pub fn phase(pod: &Pod) -> &str {
    let status = pod.status.as_ref();
    status
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Pending")
}

/// Whether a pod has ended.
#[must_use]
pub fn has_ended(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// The node that a pod was given.
#[must_use]
pub fn node_of(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    spec.node_name.as_deref().filter(|node| !node.is_empty())
}

/// Name and uid of the Job that controls a pod.
#[must_use]
pub fn controlling_job(pod: &Pod) -> Option<(String, String)> {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    let job = owners.find(|owner| owner.controller == Some(true) && owner.kind == "Job")?;
    Some((job.name.clone(), job.uid.clone()))
}

/// A time as Kubernetes' objects have it: whole seconds.
#[must_use]
pub fn seconds(time: Timestamp) -> Time {
    Time(Timestamp::from_second(time.as_second()).unwrap_or(time))
}
