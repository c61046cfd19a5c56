//! A Job's `podFailurePolicy`: what a failed pod means for the Job.

use k8s_openapi::api::{
    batch::v1::{PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement},
    core::v1::Pod,
};

/// The consequence for the Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It fails at once, for this reason.
    FailJob(String),
    /// The pod is replaced, and the failure does not count.
    Ignore,
    /// The failure counts towards `backoffLimit`. So does one that would fail an index: indices fail with their Job
    /// here.
    Count,
}

/// The first rule that matches decides; without one, the failure counts.
#[must_use]
pub fn verdict(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    let rules = policy.map_or(&[][..], |policy| &policy.rules);
    for (index, rule) in rules.iter().enumerate() {
        let codes = rule.on_exit_codes.as_ref();
        let conditions = rule.on_pod_conditions.as_deref().unwrap_or_default();
        let matched = codes.and_then(|codes| exit_code(codes, pod)).or_else(|| {
            conditions
                .iter()
                .find(|pattern| has_condition(pod, &pattern.type_, &pattern.status))
                .map(|pattern| format!("Pod {} has condition {}", named(pod), pattern.type_))
        });
        let Some(what) = matched else {
            continue;
        };
        return match rule.action.as_str() {
            "FailJob" => Verdict::FailJob(format!("{what} matching FailJob rule at index {index}")),
            "Ignore" => Verdict::Ignore,
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

fn named(pod: &Pod) -> String {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    format!("{namespace}/{name}")
}

fn exit_code(codes: &PodFailurePolicyOnExitCodesRequirement, pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = [&status.init_container_statuses, &status.container_statuses];
    all.into_iter()
        .flatten()
        .flatten()
        .filter(|container| {
            let wanted = codes.container_name.as_ref();
            wanted.is_none_or(|wanted| *wanted == container.name)
        })
        .find_map(|container| {
            let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
            let among = codes.values.contains(&code);
            let matches = code != 0 && among == (codes.operator == "In");
            matches.then(|| {
                format!(
                    "Container {} for pod {} failed with exit code {code}",
                    container.name,
                    named(pod)
                )
            })
        })
}

fn has_condition(pod: &Pod, kind: &str, status: &str) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref());
    conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == kind && condition.status == status)
}
