//! The conditions of a sweep: for each its value, its reason, and a message for people.

use std::{borrow::Cow, fmt::Write as _};

use inferbench_crds::{
    InferenceBenchmarkStatus, limits,
    spec::OnFailure,
    status::{CONDITIONS, Counts, EXPECTATIONS},
};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

use super::{collected, whole_seconds};
use crate::controller::{
    plan::{Action, Phase, Plan, Problem},
    sweep::Sweep,
};

pub(super) fn conditions(
    sweep: &Sweep,
    old: &InferenceBenchmarkStatus,
    new: &InferenceBenchmarkStatus,
    plan: &Plan,
    now: Timestamp,
) -> Vec<Condition> {
    let plan = &*still_failed(old, plan);
    let counts = new.counts.unwrap_or_default();
    let finished = plan.phase == Phase::Finished;
    let suspended = sweep.spec.suspend && !finished;
    let progressing = progressing(sweep, plan, counts, suspended);
    let valid = valid(sweep, old, new, plan);
    let succeeded = if finished {
        ended(sweep, new, plan, &valid.2)
    } else {
        None
    };
    let succeeded = succeeded.unwrap_or_else(|| {
        let reason = match (&plan.problem, plan.phase) {
            _ if suspended => "Suspended",
            (Some(problem), _) if stands(plan) => problem.reason.as_str(),
            (_, Phase::Preflight) => "Preflight",
            (_, Phase::Measuring) => "Measuring",
            (_, Phase::Collecting | Phase::Finished) => "Collecting",
        };
        ("Unknown", reason, "The sweep has not ended.".to_owned())
    });
    let results = match (&plan.actions, old.results.is_some()) {
        (actions, false)
            if !actions
                .iter()
                .any(|action| matches!(action, Action::Collect { .. })) =>
        {
            (
                "False",
                "NotCollected",
                "Results are collected when the trials have ended.",
            )
        }
        _ if finished => (
            "True",
            "Collected",
            "Tables, summary and report are in the store.",
        ),
        _ => (
            "True",
            "Outdated",
            "The results are of an earlier state and are being renewed.",
        ),
    };
    let pause = if suspended {
        (
            "True",
            "Suspended",
            "No Jobs are created; those that run end on their own.",
        )
    } else {
        ("False", "NotSuspended", "")
    };
    let said = [
        ("True", "Accepted", "The spec keeps to every rule."),
        (
            progressing.0,
            progressing.1.as_str(),
            progressing.2.as_str(),
        ),
        pause,
        (valid.0, valid.1, valid.2.as_str()),
        results,
        (succeeded.0, succeeded.1, succeeded.2.as_str()),
    ];
    let mut conditions: Vec<Condition> = std::iter::zip(CONDITIONS, said)
        .map(|(kind, (value, reason, message))| {
            condition(old, sweep.generation, now, kind, value, reason, message)
        })
        .collect();
    if !sweep.spec.expectations.is_empty() {
        let (value, reason, message) = expected(new, finished);
        conditions.push(condition(
            old,
            sweep.generation,
            now,
            EXPECTATIONS,
            value,
            reason,
            &message,
        ));
    }
    conditions
}

/// The verdicts on the expectations, once results are collected that know of them.
fn expected(
    status: &InferenceBenchmarkStatus,
    finished: bool,
) -> (&'static str, &'static str, String) {
    let summary = status.summary.as_ref().filter(|_| finished);
    let Some(judged) = summary.and_then(|summary| summary.expectations.as_ref()) else {
        return (
            "Unknown",
            "NotCollected",
            "Expectations are judged when the results are collected.".into(),
        );
    };
    let counts = [
        (judged.shown, "shown"),
        (judged.refuted, "refuted"),
        (judged.not_shown, "not shown"),
        (judged.untestable, "cannot be judged"),
    ];
    let counts: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    let mut message = counts.join(", ");
    let (value, reason) = if judged.refuted > 0 {
        // Writing to a string cannot fail.
        let _ = write!(message, ". Refuted: {}", judged.refuted_names.join(", "));
        let named = i32::try_from(judged.refuted_names.len()).unwrap_or(i32::MAX);
        if named < judged.refuted {
            message.push_str(", ...");
        }
        ("False", "Refuted")
    } else if judged.not_shown > 0 {
        ("Unknown", "NotShown")
    } else if judged.untestable > 0 {
        ("Unknown", "Untestable")
    } else {
        ("True", "AllShown")
    };
    message.push('.');
    (value, reason, message)
}

/// Whether a sweep that has finished has succeeded, and why; none where some of its trials have not ended.
fn ended(
    sweep: &Sweep,
    new: &InferenceBenchmarkStatus,
    plan: &Plan,
    why_invalid: &str,
) -> Option<(&'static str, &'static str, String)> {
    let counts = new.counts.unwrap_or_default();
    let why_unmeasured = new.summary.as_ref();
    let why_unmeasured = why_unmeasured.and_then(|summary| summary.unmeasured_reason.as_deref());
    // Of a reason that is too long, what to do about it stays.
    let mostly = |said: String| match why_unmeasured {
        None => said,
        Some(why) => {
            let (reason, to_do) = why.split_at(why.find(". What to do: ").unwrap_or(why.len()));
            let to_do = format!("{to_do}.");
            cut(&format!("{said} Mostly: {reason}"), &to_do) + &to_do
        }
    };
    let total = sweep.plan.trials;
    if plan.over_budget {
        let (failed, most) = (counts.failed, sweep.spec.execution.max_failed_percent);
        let stop = match sweep.spec.execution.on_failure {
            OnFailure::Stop => " and stops at the first",
            OnFailure::Continue => "",
        };
        let message =
            format!("{failed} of {total} trials failed, and execution allows {most}%{stop}.");
        return Some(("False", "TooManyFailures", message));
    }
    if counts.pending > 0 || counts.active > 0 {
        return None;
    }
    if counts.succeeded == 0 {
        let ended = [unmeasured(counts), others(&[(counts.failed, "Failed")])].concat();
        let ended = ended.join(", ");
        let message = mostly(format!(
            "None of {total} trials has a measurement: {ended}."
        ));
        return Some(("False", "NoValidResults", message));
    }
    if counts.invalid >= counts.succeeded {
        let message = format!("No trial is valid. {why_invalid}");
        return Some(("False", "NoValidResults", message));
    }
    let ended = [
        vec![format!("{} failed", counts.failed)],
        unmeasured(counts),
        others(&[
            (counts.invalid, "invalid"),
            (counts.not_needed, "not needed"),
        ]),
    ];
    let ended = ended.concat().join(", ");
    let message = mostly(format!("All {total} trials ended; {ended}."));
    Some(("True", "Succeeded", message))
}

/// How many trials ended without a measurement, but for those that failed.
fn unmeasured(counts: Counts) -> Vec<String> {
    others(&[
        (counts.out_of_memory, "OutOfMemory"),
        (counts.unsupported, "Unsupported"),
        (counts.timed_out, "TimedOut"),
    ])
}

/// Those of these numbers that there are, with what they count.
fn others(counts: &[(i32, &str)]) -> Vec<String> {
    let some = counts.iter().filter(|(count, _)| *count > 0);
    some.map(|(count, what)| format!("{count} {what}"))
        .collect()
}

/// Whether the measurements can be vouched for, as far as they are known. A message stays as it is until the number of
/// invalid trials is another one, or the collection has given the reason of most.
fn valid(
    sweep: &Sweep,
    old: &InferenceBenchmarkStatus,
    new: &InferenceBenchmarkStatus,
    plan: &Plan,
) -> (&'static str, &'static str, String) {
    let counts = new.counts.unwrap_or_default();
    let measured = counts.succeeded;
    if counts.invalid == 0 {
        return match plan.phase {
            Phase::Finished if measured > 0 => (
                "True",
                "AllValid",
                format!("All {measured} trials that were measured are valid."),
            ),
            Phase::Finished => (
                "Unknown",
                "NothingMeasured",
                "No trial has a measurement.".into(),
            ),
            _ => (
                "Unknown",
                "NotCollected",
                "No trial has been found invalid so far.".into(),
            ),
        };
    }
    let before = old.counts.unwrap_or_default();
    let said = old.conditions.iter();
    let said = said
        .filter(|condition| condition.type_ == "Valid" && condition.status == "False")
        .find(|_| before.invalid == counts.invalid && collected(plan).is_none());
    if let Some(said) = said {
        return ("False", "InvalidTrials", said.message.clone());
    }
    let invalid = counts.invalid;
    let summary = new.summary.as_ref().filter(|it| it.invalid == invalid);
    // The reason of most brings its remedy along.
    let message = match summary.and_then(|summary| summary.invalid_reason.as_deref()) {
        Some(why) => {
            format!("Invalid trials: {invalid}, mostly because {why}. See docs/operator.md.")
        }
        None => {
            let why = plan.measured.why_invalid.as_deref();
            let why = why.map_or(String::new(), |why| format!("; for example, {why}"));
            format!("Invalid trials: {invalid}{why}. {}", remedy(sweep))
        }
    };
    ("False", "InvalidTrials", message)
}

/// The remedy where measurements are disturbed.
fn remedy(sweep: &Sweep) -> &'static str {
    let factors = &sweep.spec.design.factors;
    let endpoint = factors.engine.iter().any(|one| one.endpoint.is_some());
    if factors.gpus == [0] && !endpoint {
        "Ask for whole CPUs, limits as requests, under a static CPU manager: docs/operator.md."
    } else {
        "See docs/operator.md, InvalidTrials."
    }
}

/// The reasons of problems that another attempt may end.
pub const ATTEMPTS: [&str; 3] = ["PreflightFailed", "LookFailed", "CollectionFailed"];

/// A plan with the problem that the status has, where another attempt is under way: what failed is not mended by being
/// tried again, and would come and go with every attempt.
fn still_failed<'p>(old: &InferenceBenchmarkStatus, plan: &'p Plan) -> Cow<'p, Plan> {
    let mut said = old.conditions.iter();
    let said = said.find(|it| it.type_ == "Progressing" && ATTEMPTS.contains(&it.reason.as_str()));
    match said {
        Some(said) if plan.retries && plan.problem.is_none() => Cow::Owned(Plan {
            problem: Some(Problem::new(&said.reason, said.message.as_str())),
            ..plan.clone()
        }),
        _ => Cow::Borrowed(plan),
    }
}

/// Whether a problem leaves nothing that moves: while some trials run, others may wait.
fn stands(plan: &Plan) -> bool {
    plan.problem.is_some() && (plan.phase != Phase::Measuring || !plan.running)
}

/// Whether the sweep moves, and if not, why.
fn progressing(
    sweep: &Sweep,
    plan: &Plan,
    counts: Counts,
    suspended: bool,
) -> (&'static str, String, String) {
    if plan.phase == Phase::Finished {
        return (
            "False",
            "Finished".into(),
            "There is nothing left to do.".into(),
        );
    }
    if let Some(problem) = &plan.problem {
        return (
            if stands(plan) { "False" } else { "True" },
            problem.reason.clone(),
            problem.said(cut),
        );
    }
    if suspended && counts.active == 0 {
        let message = "spec.suspend is true.".into();
        return ("False", "Suspended".into(), message);
    }
    let (reason, message) = match plan.phase {
        Phase::Preflight => (
            "Preflight",
            "Store, models and combinations are being checked.".into(),
        ),
        Phase::Measuring if plan.over_budget => (
            "TooManyFailures",
            "No more Jobs are created; those that run end on their own.".into(),
        ),
        Phase::Measuring => ("Measuring", planned(sweep)),
        Phase::Collecting | Phase::Finished => (
            "Collecting",
            "Tables, summary and report are being made.".into(),
        ),
    };
    ("True", reason.to_owned(), message)
}

/// How many trials are expected, in words.
fn planned(sweep: &Sweep) -> String {
    let (design, expansion) = (&sweep.spec.design, &sweep.expansion);
    let of_all = expansion.combinations_len() * expansion.blocks_of_all();
    let mut said = match design.until {
        Some(_) => format!("At most {of_all} trials are planned"),
        None => format!("{of_all} trials are planned"),
    };
    if let Some(confirm) = design.confirm {
        let most = expansion.most_confirmed() * confirm.replicates.unsigned_abs();
        // Writing to a string cannot fail.
        let _ = write!(
            said,
            ", and then at most {most} that measure the best again"
        );
    }
    said.push('.');
    said
}

/// A condition; its time is that of the last change of its value.
pub(super) fn condition(
    old: &InferenceBenchmarkStatus,
    generation: i64,
    now: Timestamp,
    kind: &str,
    value: &str,
    reason: &str,
    message: &str,
) -> Condition {
    let before = old
        .conditions
        .iter()
        .find(|condition| condition.type_ == kind);
    let since = before
        .filter(|condition| condition.status == value)
        .map_or_else(
            || Time(whole_seconds(now)),
            |condition| condition.last_transition_time.clone(),
        );
    Condition {
        type_: kind.into(),
        status: value.into(),
        reason: reason.into(),
        message: cut(message, ""),
        observed_generation: Some(generation),
        last_transition_time: since,
    }
}

/// A message that is not longer than a condition's may be, with what stands behind it.
pub(super) fn cut(message: &str, behind: &str) -> String {
    const END: &str = "...";
    let most = (limits::CONDITION_MESSAGE as usize).saturating_sub(behind.chars().count());
    if message.chars().count() <= most {
        return message.to_owned();
    }
    let kept = most.saturating_sub(END.len());
    message.chars().take(kept).collect::<String>() + END
}
