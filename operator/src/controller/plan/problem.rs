//! What keeps a sweep from going on, in words for status and events; and a Job that could not be created.

use std::{fmt, time::Duration};

use k8s_openapi::jiff::Timestamp;

use super::backoff;
use crate::controller::observe::{NO_IMAGE, PodView};

/// The longest wait between two attempts at a Job that the API server refuses: Jobs of others, which end unseen, may make
/// room for it.
const LONGEST: Duration = Duration::from_secs(300);

/// How long a quota may go on counting a Job that has gone: Kubernetes brings it up to date about a second later, and
/// refuses until then what there is room for.
const SETTLES: Duration = Duration::from_secs(5);

/// Whether a refusal says nothing yet: a Job of the resource has gone only just, and refusals began only just, at `refused`,
/// after the last Job that was created. Then it is tried again at once, and is no problem.
#[must_use]
pub fn may_settle(gone: Option<Timestamp>, refused: Timestamp, now: Timestamp) -> bool {
    let lately = |then| now.duration_since(then).unsigned_abs() < SETTLES;
    gone.is_some_and(lately) && lately(refused)
}

/// Something that keeps a sweep from going on, and that a person may have to see to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// One word, as a condition's reason.
    pub reason: String,
    /// The problem, and where to look.
    pub message: String,
    /// The attempt that failed, where it is tried again and again. It stands behind the message, and where there is little
    /// room the message alone is cut.
    pub attempt: Option<Attempt>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said(|message, _| message.to_owned()))
    }
}

/// An attempt at something that is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Which one, from 1.
    pub number: u32,
    /// When the next one is; none where there is none for now.
    pub next: Option<Timestamp>,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, " (attempt {}", self.number)?;
        if let Some(at) = self.next {
            let seconds = Timestamp::from_second(at.as_second()).unwrap_or(at);
            write!(f, ", the next at {seconds}")?;
        }
        f.write_str(")")
    }
}

impl Problem {
    /// One that is not about an attempt.
    #[must_use]
    pub fn new(reason: &str, message: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            message: message.into(),
            attempt: None,
        }
    }

    /// A Job of somebody else has the name of one to create.
    #[must_use]
    pub fn name_taken(job: &str) -> Self {
        Self::new(
            "NameTaken",
            format!(
                "Job {job} is not this resource's and has the name of one to create: delete it"
            ),
        )
    }

    /// The API server refuses a Job for the nth time, and says why. What it says stands before the Job's name: where there
    /// is little room, the name is cut.
    #[must_use]
    pub fn job_refused(job: &str, why: &str, number: u32, now: Timestamp) -> Self {
        let next = now.checked_add(backoff(number).min(LONGEST)).ok();
        Self {
            attempt: Some(Attempt { number, next }),
            ..Self::new(
                "JobRefused",
                format!(
                    "the API server refuses a Job: {}; it is Job {job}",
                    without_name(why, job)
                ),
            )
        }
    }

    /// The problem of a pod that does not start, in words that stay the same while it lasts: the kubelet's own change with
    /// every try.
    #[must_use]
    pub fn of_pod(pod: &PodView, reason: &str, message: &str) -> Self {
        let name = &pod.name;
        match reason {
            reason if NO_IMAGE.contains(&reason) => Self::new(
                "ImagePullFailed",
                format!("pod {name} cannot pull {message}: kubectl describe pod {name}"),
            ),
            "Unschedulable" if is_of_claim(message) => Self::new(
                "ClaimNotReady",
                format!("pod {name} cannot be scheduled: {message}"),
            ),
            "Unschedulable" => {
                let apart = if message.contains("pod anti-affinity rules") {
                    ", as trials do not share a node (execution.colocation)"
                } else {
                    ""
                };
                Self::new(
                    "Unschedulable",
                    format!("pod {name} cannot be scheduled{apart}: {message}"),
                )
            }
            other => Self::new("PodCannotStart", format!("pod {name}: {other}: {message}")),
        }
    }

    /// The message with the attempt behind it, if there is one: `cut` shortens a text so that it leaves room for another
    /// one behind it.
    #[must_use]
    pub fn said(&self, cut: impl FnOnce(&str, &str) -> String) -> String {
        let attempt = self.attempt.map_or(String::new(), |of| of.to_string());
        cut(&self.message, &attempt) + &attempt
    }
}

/// A Job that could not be created, and what there was then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotCreated {
    /// Why.
    pub problem: Problem,
    /// The resource's generation.
    pub generation: i64,
    /// The resource's Jobs.
    pub jobs: usize,
}

impl NotCreated {
    /// Whether nothing has changed since that the next attempt may owe its success to: the resource, or that a Job has
    /// gone, which leaves room.
    #[must_use]
    pub const fn stands(&self, generation: i64, jobs: usize) -> bool {
        self.generation == generation && jobs >= self.jobs
    }

    /// The number of the next attempt.
    #[must_use]
    pub fn next_attempt(&self) -> u32 {
        let number = self.problem.attempt.map_or(0, |of| of.number);
        number.saturating_add(1)
    }

    /// How long the next attempt has to wait; none where it need not.
    pub(super) fn left(&self, now: Timestamp) -> Option<Duration> {
        let next = self.problem.attempt?.next?;
        let millis = next.as_millisecond().saturating_sub(now.as_millisecond());
        let left = Duration::from_millis(u64::try_from(millis).ok()?);
        Some(left).filter(|left| !left.is_zero())
    }
}

/// The API server's reason without the name that it begins with, as in `jobs.batch "NAME" is forbidden: exceeded quota`.
fn without_name<'a>(why: &'a str, job: &str) -> &'a str {
    let named = format!(" \"{job}\" is ");
    match why.split_once(&named) {
        Some((kind, rest)) if !kind.contains(' ') => {
            rest.strip_prefix("forbidden: ").unwrap_or(rest)
        }
        _ => why,
    }
}

/// Whether the scheduler waits for a claim. Where there is one, but no volume for it, it does not say which.
fn is_of_claim(message: &str) -> bool {
    [
        "persistentvolumeclaim ",
        "unbound immediate PersistentVolumeClaims",
        "find available persistent volumes to bind",
        "non-existent pv",
    ]
    .iter()
    .any(|part| message.contains(part))
}
