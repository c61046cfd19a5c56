//! The Job controller's decisions: a pure function of a Job, its pods and the time, after the one of Kubernetes 1.33
//! (`pkg/controller/job`). Finished pods are counted by way of `status.uncountedTerminatedPods` and the tracking
//! finalizer, so that none is counted twice or not at all, whatever is deleted when.

mod indexes;
mod template;

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods},
        core::v1::{ContainerStatus, Pod, PodCondition},
    },
    jiff::{SignedDuration, Timestamp},
};

use self::{
    indexes::{index, read_indexes, write_indexes},
    template::pod_of,
};
use super::{
    failure_policy::{Verdict, verdict},
    pod::{has_ended, is_tracked, phase, seconds},
    settings::Backoff,
};

/// Steps for a Job, to be done in the order of the fields. Where one fails, none after it may be done.
#[derive(Debug, Default)]
pub struct Next {
    /// Pods to delete.
    pub delete: Vec<String>,
    /// Pods to create.
    pub create: Vec<Pod>,
    /// The status to write, where it has changed.
    pub status: Option<JobStatus>,
    /// Pods whose tracking finalizer has to go.
    pub release: Vec<String>,
    /// Whether the Job is past its `ttlSecondsAfterFinished`, and has to be deleted.
    pub expired: bool,
    /// When to look again, if nothing happens before.
    pub again: Option<Duration>,
}

/// The next steps for a Job; `pods` are those that it controls.
#[must_use]
pub fn next(job: &Job, pods: &[&Pod], now: Timestamp, backoff: &Backoff) -> Next {
    let Some(spec) = &job.spec else {
        return Next::default();
    };
    if spec.managed_by.as_deref().unwrap_or(OURS) != OURS {
        return Next::default();
    }
    let old = job.status.clone().unwrap_or_default();
    let tracked = || pods.iter().filter(|pod| is_tracked(pod)).copied();
    if job.metadata.deletion_timestamp.is_some() {
        // Its pods are not counted any more, whatever becomes of them.
        return Next {
            release: tracked().map(name).collect(),
            ..Next::default()
        };
    }
    if let Some(finish) = finished(&old) {
        let mut next = Next {
            release: tracked().map(name).collect(),
            ..Next::default()
        };
        if let Some(ttl) = spec.ttl_seconds_after_finished {
            let end = finish.last_transition_time.as_ref().map_or(now, |at| at.0);
            let left = until(
                end,
                Duration::from_secs(u64::from(ttl.max(0).unsigned_abs())),
                now,
            );
            next.expired = left.is_none();
            next.again = left;
        }
        return next;
    }
    JobSync {
        job,
        spec,
        pods,
        now,
        backoff,
        status: old.clone(),
        completed: read_indexes(old.completed_indexes.as_deref().unwrap_or_default()),
        next: Next::default(),
    }
    .run(&old)
}

const OURS: &str = "kubernetes.io/job-controller";

/// One sync of an unfinished Job.
struct JobSync<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    pods: &'a [&'a Pod],
    now: Timestamp,
    backoff: &'a Backoff,
    status: JobStatus,
    completed: BTreeSet<i32>,
    next: Next,
}

impl JobSync<'_> {
    fn run(mut self, old: &JobStatus) -> Next {
        let policy_failure = self.count();
        let active: Vec<&Pod> = self.pods.iter().copied().filter(is_active).collect();
        let terminating = self.pods.iter().filter(|pod| is_terminating(pod)).count();
        let suspended = self.spec.suspend == Some(true);
        if self.status.start_time.is_none() && !suspended {
            self.status.start_time = Some(seconds(self.now));
        }
        let mut created = 0;
        let mut left = active.len();
        if let Some(target) = self.target(policy_failure, active.len()) {
            self.next.delete = active.iter().map(|pod| name(pod)).collect();
            self.finish(&target, active.len() + terminating);
            left = 0;
        } else if suspended {
            self.next.delete = active.iter().map(|pod| name(pod)).collect();
            self.say_suspended(true);
            self.status.start_time = None;
            left = 0;
        } else {
            self.say_suspended(false);
            let surplus = self.manage(&active, terminating);
            created = self.next.create.len();
            left -= surplus;
        }
        let ready = active.iter().filter(|pod| is_ready(pod)).count();
        self.status.active = some(left + created);
        self.status.terminating = Some(number(terminating + active.len() - left));
        self.status.ready = Some(number(ready));
        if self.is_indexed() {
            let text = write_indexes(&self.completed);
            self.status.completed_indexes = (!text.is_empty()).then_some(text);
            self.status.succeeded = some(self.completed.len());
        }
        if self.status != *old {
            self.next.status = Some(self.status);
        }
        self.next
    }

    fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    /// Advances the counts: pods that were noted and then released become numbers, pods that have finished
    /// since are noted, to be released. Returns why the Job fails, where a pod says so.
    fn count(&mut self) -> Option<String> {
        let mut noted = self
            .status
            .uncounted_terminated_pods
            .take()
            .unwrap_or_default();
        let tracked: BTreeSet<&str> = self
            .pods
            .iter()
            .filter(|pod| is_tracked(pod))
            .map(|pod| uid(pod))
            .collect();
        for (list, count) in [
            (&mut noted.succeeded, &mut self.status.succeeded),
            (&mut noted.failed, &mut self.status.failed),
        ] {
            let list = list.get_or_insert_default();
            let before = list.len();
            list.retain(|uid| tracked.contains(uid.as_str()));
            let counted = before - list.len();
            if counted > 0 {
                *count = Some(count.unwrap_or(0) + number(counted));
            }
        }
        let (succeeded, failed) = (
            noted.succeeded.get_or_insert_default(),
            noted.failed.get_or_insert_default(),
        );
        let mut failure = None;
        for pod in self.pods.iter().filter(|pod| is_tracked(pod)) {
            let uid = uid(pod).to_owned();
            match phase(pod) {
                "Succeeded" => {
                    if self.spec.completion_mode.as_deref() == Some("Indexed") {
                        let index = index(pod).filter(|&index| index < completions(self.spec));
                        self.completed.extend(index);
                    } else if !succeeded.contains(&uid) {
                        succeeded.push(uid);
                    }
                }
                "Failed" => match verdict(self.spec.pod_failure_policy.as_ref(), pod) {
                    Verdict::Ignore => {}
                    decided => {
                        if !failed.contains(&uid) {
                            failed.push(uid);
                        }
                        if let Verdict::FailJob(why) = decided {
                            failure.get_or_insert(why);
                        }
                    }
                },
                _ => continue,
            }
            self.next.release.push(name(pod));
        }
        for list in [&mut noted.succeeded, &mut noted.failed] {
            list.take_if(|list| list.is_empty());
        }
        self.status.uncounted_terminated_pods = Some(noted);
        failure
    }

    /// Pods that have succeeded, whether counted or only noted.
    fn succeeded(&self) -> usize {
        if self.is_indexed() {
            return self.completed.len();
        }
        let noted = self.noted(|noted| noted.succeeded.as_ref());
        noted + amount(self.status.succeeded)
    }

    fn failed(&self) -> usize {
        self.noted(|noted| noted.failed.as_ref()) + amount(self.status.failed)
    }

    fn noted(&self, list: impl Fn(&UncountedTerminatedPods) -> Option<&Vec<String>>) -> usize {
        let noted = self.status.uncounted_terminated_pods.as_ref();
        noted.and_then(list).map_or(0, Vec::len)
    }

    /// The interim condition that says how the Job is about to end, if it is.
    fn target(&mut self, policy_failure: Option<String>, active: usize) -> Option<JobCondition> {
        let interim = ["FailureTarget", "SuccessCriteriaMet"];
        let conditions = self.status.conditions.iter().flatten();
        let known = conditions
            .filter(|condition| condition.status == "True")
            .find(|condition| interim.contains(&condition.type_.as_str()));
        if let Some(known) = known {
            return Some(known.clone());
        }
        let fails =
            |reason: &str, message: String| Some(("FailureTarget", reason.to_owned(), message));
        let target = if let Some(why) = policy_failure {
            fails("PodFailurePolicy", why)
        } else if self.failed() > amount(self.spec.backoff_limit.or(Some(6))) {
            fails(
                "BackoffLimitExceeded",
                "Job has reached the specified backoff limit".into(),
            )
        } else if self.is_overdue() {
            fails(
                "DeadlineExceeded",
                "Job was active longer than specified deadline".into(),
            )
        } else if self.is_complete(active) {
            Some((
                "SuccessCriteriaMet",
                "CompletionsReached".into(),
                "Reached expected number of succeeded pods".into(),
            ))
        } else {
            None
        };
        let (kind, reason, message) = target?;
        let target = self.condition(kind, &reason, &message);
        self.status
            .conditions
            .get_or_insert_default()
            .push(target.clone());
        Some(target)
    }

    fn is_overdue(&mut self) -> bool {
        let deadline = self.spec.active_deadline_seconds;
        let Some((deadline, start)) = deadline.zip(self.status.start_time.clone()) else {
            return false;
        };
        if self.spec.suspend == Some(true) {
            return false;
        }
        let deadline = Duration::from_secs(deadline.max(0).unsigned_abs());
        let left = until(start.0, deadline, self.now);
        self.next.again = left;
        left.is_none()
    }

    fn is_complete(&self, active: usize) -> bool {
        match self.spec.completions {
            Some(_) => self.succeeded() >= usize::try_from(completions(self.spec)).unwrap_or(0),
            None => self.succeeded() > 0 && active == 0,
        }
    }

    /// Ends the Job, once nothing of it runs and all is counted.
    fn finish(&mut self, target: &JobCondition, unfinished: usize) {
        let noted = self.noted(|noted| noted.succeeded.as_ref())
            + self.noted(|noted| noted.failed.as_ref());
        if unfinished > 0 || noted > 0 || !self.next.release.is_empty() {
            return;
        }
        let kind = if target.type_ == "FailureTarget" {
            "Failed"
        } else {
            self.status.completion_time = Some(seconds(self.now));
            "Complete"
        };
        let condition = self.condition(
            kind,
            target.reason.as_deref().unwrap_or_default(),
            target.message.as_deref().unwrap_or_default(),
        );
        self.status
            .conditions
            .get_or_insert_default()
            .push(condition);
    }

    fn condition(&self, kind: &str, reason: &str, message: &str) -> JobCondition {
        JobCondition {
            type_: kind.into(),
            status: "True".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_probe_time: Some(seconds(self.now)),
            last_transition_time: Some(seconds(self.now)),
        }
    }

    fn say_suspended(&mut self, suspended: bool) {
        let (status, reason, message) = if suspended {
            ("True", "JobSuspended", "Job suspended")
        } else {
            ("False", "JobResumed", "Job resumed")
        };
        let mut condition = self.condition("Suspended", reason, message);
        condition.status = status.into();
        let conditions = self.status.conditions.get_or_insert_default();
        match conditions
            .iter_mut()
            .find(|known| known.type_ == "Suspended")
        {
            Some(known) if known.status == status => {}
            Some(known) => {
                *known = condition;
                if !suspended {
                    self.status.start_time = Some(seconds(self.now));
                }
            }
            None if suspended => conditions.push(condition),
            None => {
                self.status
                    .conditions
                    .take_if(|conditions| conditions.is_empty());
            }
        }
    }

    /// Creates or deletes pods until as many run as are wanted; returns the number to delete.
    fn manage(&mut self, active: &[&Pod], terminating: usize) -> usize {
        let parallelism = amount(self.spec.parallelism.or(Some(1)));
        let mut wanted = match self.spec.completions {
            Some(_) => {
                let all = usize::try_from(completions(self.spec)).unwrap_or(0);
                parallelism.min(all.saturating_sub(self.succeeded()))
            }
            None if self.succeeded() > 0 => active.len().min(parallelism),
            None => parallelism,
        };
        if active.len() > wanted {
            let mut active = active.to_vec();
            active.sort_by_key(|pod| {
                (
                    pod.metadata.creation_timestamp.clone().map(|at| at.0),
                    name(pod),
                )
            });
            let surplus = active.split_off(wanted);
            self.next.delete = surplus.iter().map(|pod| name(pod)).collect();
            return surplus.len();
        }
        wanted -= active.len();
        let replaces_failed_only = self.spec.pod_replacement_policy.as_deref() == Some("Failed")
            || self.spec.pod_failure_policy.is_some();
        if replaces_failed_only {
            wanted = wanted.saturating_sub(terminating);
        }
        if wanted == 0 {
            return 0;
        }
        if let Some(left) = self.backoff_left() {
            self.next.again = Some(self.next.again.map_or(left, |other| other.min(left)));
            return 0;
        }
        self.next.create = if self.is_indexed() {
            let taken: BTreeSet<i32> = self
                .pods
                .iter()
                .filter(|pod| is_active(pod) || (replaces_failed_only && is_terminating(pod)))
                .filter_map(|pod| index(pod))
                .chain(self.completed.iter().copied())
                .collect();
            (0..completions(self.spec))
                .filter(|index| !taken.contains(index))
                .take(wanted)
                .map(|index| pod_of(self.job, Some(index)))
                .collect()
        } else {
            (0..wanted).map(|_| pod_of(self.job, None)).collect()
        };
        0
    }

    /// How long the next pod has to wait for the failures before it, as far as their pods are still there.
    fn backoff_left(&self) -> Option<Duration> {
        let ended = |wanted: &'static str| {
            self.pods
                .iter()
                .filter(move |pod| phase(pod) == wanted)
                .map(|pod| end_of(pod))
        };
        let last_success = ended("Succeeded").max();
        let failures: Vec<Timestamp> = ended("Failed")
            .filter(|at| last_success.is_none_or(|success| *at > success))
            .collect();
        let last = failures.iter().max()?;
        let shift = u32::try_from(failures.len() - 1).unwrap_or(16).min(16);
        let wait = self.backoff.first.saturating_mul(1 << shift);
        until(*last, wait.min(self.backoff.longest), self.now)
    }
}

/// The condition that says how a Job has ended.
#[must_use]
pub fn finished(status: &JobStatus) -> Option<&JobCondition> {
    let conditions = status.conditions.as_deref().unwrap_or_default();
    conditions
        .iter()
        .filter(|condition| condition.status == "True")
        .find(|condition| matches!(condition.type_.as_str(), "Complete" | "Failed"))
}

fn is_active(pod: &&Pod) -> bool {
    !has_ended(pod) && pod.metadata.deletion_timestamp.is_none()
}

fn is_terminating(pod: &Pod) -> bool {
    !has_ended(pod) && pod.metadata.deletion_timestamp.is_some()
}

fn is_ready(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref());
    conditions
        .unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// When a failed or succeeded pod ended, as well as its object tells.
fn end_of(pod: &Pod) -> Timestamp {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_deref());
    let ended = |container: &ContainerStatus| {
        let ended = container.state.as_ref()?.terminated.as_ref()?;
        ended.finished_at.as_ref().map(|at| at.0)
    };
    let containers = containers.unwrap_or_default().iter();
    let conditions = status.and_then(|status| status.conditions.as_deref());
    let changed = |condition: &PodCondition| condition.last_transition_time.as_ref().map(|at| at.0);
    let metadata = &pod.metadata;
    let known = [&metadata.deletion_timestamp, &metadata.creation_timestamp];
    containers
        .filter_map(ended)
        .max()
        .or_else(|| {
            conditions
                .unwrap_or_default()
                .iter()
                .filter_map(changed)
                .max()
        })
        .or_else(|| known.into_iter().flatten().next().map(|at| at.0))
        .unwrap_or_default()
}

fn name(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

fn completions(spec: &JobSpec) -> i32 {
    spec.completions.unwrap_or(1)
}

/// The rest of a time span that began then; none where it is over.
fn until(since: Timestamp, span: Duration, now: Timestamp) -> Option<Duration> {
    let passed: SignedDuration = now.duration_since(since);
    let passed = Duration::try_from(passed).unwrap_or_default();
    span.checked_sub(passed).filter(|left| !left.is_zero())
}

fn amount(count: Option<i32>) -> usize {
    usize::try_from(count.unwrap_or(0)).unwrap_or(0)
}

fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

fn some(count: usize) -> Option<i32> {
    (count > 0).then(|| number(count))
}

#[cfg(test)]
mod tests;
