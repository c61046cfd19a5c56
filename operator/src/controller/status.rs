//! The status of a resource: a pure function of the status before, of the plan and of the time. Where nothing has
//! changed, it is equal to the last letter, and nothing is written.

use std::fmt::Write as _;

use inferbench_crds::{
    InferenceBenchmarkStatus, Outcome, Violation,
    contract::Collected,
    limits,
    spec::OnFailure,
    status::{CONDITIONS, Counts, EXPECTATIONS, Ledger, MAX_BYTES, PinnedPlan, Progress},
};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::{SignedDuration, Timestamp},
};

use super::{
    plan::{Action, Phase, Plan, Problem},
    sweep::Sweep,
};

/// How much of the estimate a reconcile changes: Jobs differ, and a user wants a number that stands still.
const SMOOTHING: f64 = 0.2;

/// Bytes, at most, in which the API server keeps who wrote which field of a status.
const MANAGED_FIELDS: usize = 2_048;

/// The status of a sweep once the actions of a plan that record something are carried out.
#[must_use]
pub fn status(
    sweep: &Sweep,
    old: &InferenceBenchmarkStatus,
    plan: &Plan,
    now: Timestamp,
) -> InferenceBenchmarkStatus {
    let mut status = old.clone();
    status.observed_generation = Some(sweep.generation);
    status.plan = Some(sweep.plan.clone());
    let mut records = false;
    let mut decided = old.ledger.as_ref().map_or(0, |ledger| ledger.decided);
    for action in &plan.actions {
        match action {
            Action::Pin(models) => {
                let image = sweep.image().to_owned();
                let pinned: PinnedPlan =
                    Sweep::pin(&sweep.spec, &sweep.expansion, image, models.clone());
                status.plan = Some(pinned);
            }
            Action::Record(_) => records = true,
            Action::Decide(blocks) => {
                records = true;
                decided = i32::try_from(*blocks).unwrap_or(i32::MAX);
            }
            Action::Collect { collected, inputs } => {
                let mut results = collected.results.clone();
                results.inputs.clone_from(inputs);
                results.updated_at = Some(Time(whole_seconds(now)));
                status.results = Some(results);
                status.summary = Some(collected.summary.clone());
            }
            Action::Delete { .. } | Action::Create(_) | Action::Wait(_) => {}
        }
    }
    let before = old.counts.unwrap_or_default();
    let mut counts = counts(sweep, plan, before);
    if let Some(collected) = collected(plan) {
        // It has read every record, also those whose pods could not tell.
        counts.invalid = collected.summary.invalid;
    }
    status.counts = Some(counts);
    if records {
        status.ledger = Some(Ledger {
            decided,
            ..plan.ledger.status()
        });
        status.progress = Some(progress(sweep, old, plan, counts, now));
    }
    status.conditions = conditions(sweep, old, &status, plan, now);
    if records || status.results != old.results {
        fit(&mut status);
    }
    status
}

/// Whether a status says more than that trials have gone on as before: what people and controllers wait for is not to
/// wait itself.
#[must_use]
pub fn is_transition(old: &InferenceBenchmarkStatus, new: &InferenceBenchmarkStatus) -> bool {
    let said = |status: &InferenceBenchmarkStatus| -> Vec<(String, String)> {
        let conditions = status.conditions.iter();
        conditions
            .map(|condition| (condition.status.clone(), condition.reason.clone()))
            .collect()
    };
    old.observed_generation != new.observed_generation
        || old.plan != new.plan
        || old.results != new.results
        || said(old) != said(new)
}

/// Shortens what only people read where a status would be larger than it may be.
fn fit(status: &mut InferenceBenchmarkStatus) {
    const CUT: &str = ",...";
    let bytes = serde_json::to_vec(status).map_or(0, |json| json.len());
    let excess = bytes.saturating_sub(MAX_BYTES - MANAGED_FIELDS);
    if let Some(ledger) = status.ledger.as_mut().filter(|_| excess > 0) {
        let most = ledger.failed.len().saturating_sub(excess + CUT.len());
        let kept = ledger.failed.get(..most).unwrap_or_default();
        let kept = kept.rsplit_once(',').map_or("", |(kept, _)| kept);
        ledger.failed = format!("{kept}{CUT}");
    }
}

/// The status of a resource that breaks rules.
#[must_use]
pub fn rejected(
    generation: i64,
    old: &InferenceBenchmarkStatus,
    violations: &[Violation],
    now: Timestamp,
) -> InferenceBenchmarkStatus {
    let mut message = String::new();
    for violation in violations {
        let separator = if message.is_empty() { "" } else { "; " };
        // Writing to a string cannot fail.
        let _ = write!(message, "{separator}{violation}");
    }
    let mut status = old.clone();
    status.observed_generation = Some(generation);
    let said = [
        ("Accepted", "False", "Invalid", message.as_str()),
        (
            "Progressing",
            "False",
            "Invalid",
            "The spec breaks rules: see Accepted.",
        ),
        ("Suspended", "False", "NotSuspended", ""),
        (
            "Valid",
            "Unknown",
            "Invalid",
            "The spec breaks rules: see Accepted.",
        ),
        (
            "ResultsAvailable",
            "False",
            "Invalid",
            "There are no results.",
        ),
        (
            "Succeeded",
            "False",
            "Invalid",
            "The spec breaks rules: see Accepted.",
        ),
    ];
    status.conditions = said
        .into_iter()
        .map(|(kind, value, reason, message)| {
            condition(old, generation, now, kind, value, reason, message)
        })
        .collect();
    status
}

/// The handover of a collection that the plan records.
fn collected(plan: &Plan) -> Option<&Collected> {
    plan.actions.iter().find_map(|action| match action {
        Action::Collect { collected, .. } => Some(&**collected),
        _ => None,
    })
}

fn counts(sweep: &Sweep, plan: &Plan, before: Counts) -> Counts {
    let number = |count: u32| i32::try_from(count).unwrap_or(i32::MAX);
    let count = |outcome| number(plan.tally.count(outcome));
    let ended = plan.tally.ended();
    let waiting = sweep.expansion.len().saturating_sub(ended);
    let active = plan.active.min(waiting);
    Counts {
        done: number(ended),
        pending: number(waiting - active),
        active: number(active),
        succeeded: count(Outcome::Succeeded),
        out_of_memory: count(Outcome::OutOfMemory),
        unsupported: count(Outcome::Unsupported),
        timed_out: count(Outcome::TimedOut),
        failed: count(Outcome::Failed),
        not_needed: count(Outcome::NotNeeded),
        invalid: before.invalid.saturating_add(number(plan.measured.invalid)),
        reused: before.reused.saturating_add(number(plan.measured.reused)),
    }
}

fn progress(
    sweep: &Sweep,
    old: &InferenceBenchmarkStatus,
    plan: &Plan,
    counts: Counts,
    now: Timestamp,
) -> Progress {
    let before = old.progress.clone().unwrap_or_default();
    let best = before.best.into_iter().chain(plan.measured.best);
    let best = best.reduce(f64::max);
    let left = Left::of(sweep, old, plan, counts);
    Progress {
        best: best.and_then(inferbench_crds::status::significant),
        estimated_finish: estimate(sweep, &before, plan, &left, now),
    }
}

/// Trials that are expected to be measured still.
struct Left {
    now: i32,
    /// As many as there would be without those that have just been found not to be needed.
    before: i32,
}

impl Left {
    /// Until it is decided what is measured again, as many of those trials are expected as there can be.
    fn of(sweep: &Sweep, old: &InferenceBenchmarkStatus, plan: &Plan, counts: Counts) -> Self {
        let now = counts.pending.saturating_add(counts.active);
        let fewer = i32::try_from(not_needed(plan)).unwrap_or(i32::MAX);
        let before = now.saturating_add(fewer);
        let Some(confirm) = sweep.spec.design.confirm else {
            return Self { now, before };
        };
        let expansion = &sweep.expansion;
        let is_decided = |blocks: u32| blocks >= expansion.blocks_of_all();
        let decided_before = old.ledger.as_ref().map_or(0, |ledger| ledger.decided);
        let decided_before = is_decided(decided_before.max(0).unsigned_abs());
        let decides = plan
            .actions
            .iter()
            .any(|action| matches!(action, Action::Decide(blocks) if is_decided(*blocks)));
        let confirming = (0..expansion.len_before_exclusion())
            .filter(|&index| expansion.confirms(index) && !expansion.is_excluded(index))
            .filter(|&index| plan.ledger.get(index).is_none())
            .count();
        let confirming = i32::try_from(confirming).unwrap_or(i32::MAX);
        let most = i32::try_from(expansion.most_confirmed()).unwrap_or(i32::MAX);
        let most = most.saturating_mul(confirm.replicates);
        let expected = |left: i32, confirming: i32, decided: bool| match decided {
            true => left,
            false => left - confirming + confirming.min(most),
        };
        let confirming_before = confirming.saturating_add(if decides { fewer } else { 0 });
        Self {
            now: expected(now, confirming, decided_before || decides),
            before: expected(before, confirming_before, decided_before),
        }
    }
}

/// When the trials that are left should have ended, `parallelism` Jobs at a time, each trial taking as long as those
/// that were just recorded; smoothed with what was estimated before.
fn estimate(
    sweep: &Sweep,
    before: &Progress,
    plan: &Plan,
    left: &Left,
    now: Timestamp,
) -> Option<Time> {
    let measured = &plan.measured;
    if left.now <= 0 || plan.over_budget {
        return None;
    }
    if measured.trials == 0 {
        // Trials that are not needed take none of the time that was left.
        let estimated = before.estimated_finish.as_ref()?;
        let stood = estimated.0.duration_since(now).as_secs_f64().max(0.0);
        if left.now == left.before || stood == 0.0 {
            return Some(estimated.clone());
        }
        let seconds = stood * f64::from(left.now) / f64::from(left.before.max(1));
        let finish = now.checked_add(SignedDuration::from_secs(seconds as i64));
        return finish.ok().map(|finish| Time(whole_seconds(finish)));
    }
    let at_a_time = f64::from(sweep.spec.execution.parallelism.clamp(1, left.now));
    let each = measured.took.as_secs_f64() / f64::from(measured.trials);
    let fresh = f64::from(left.now) * each / at_a_time;
    let stood = before
        .estimated_finish
        .as_ref()
        .map(|time| time.0.duration_since(now).as_secs_f64());
    let seconds = match stood.filter(|seconds| *seconds > 0.0) {
        Some(stood) => stood + SMOOTHING * (fresh - stood),
        None => fresh,
    };
    // A century is as good as any longer time, and every clock can show it.
    let seconds = SignedDuration::from_secs(seconds.clamp(0.0, 3.2e9) as i64);
    let finish = now.checked_add(seconds).ok()?;
    Some(Time(whole_seconds(finish)))
}

/// Trials that have just been found not to be needed.
#[must_use]
pub fn not_needed(plan: &Plan) -> u32 {
    let ended = plan.actions.iter().filter_map(|action| match action {
        Action::Record(ended) => Some(ended),
        _ => None,
    });
    let count = ended
        .flatten()
        .filter(|trial| trial.outcome == Outcome::NotNeeded)
        .count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn conditions(
    sweep: &Sweep,
    old: &InferenceBenchmarkStatus,
    new: &InferenceBenchmarkStatus,
    plan: &Plan,
    now: Timestamp,
) -> Vec<Condition> {
    let counts = new.counts.unwrap_or_default();
    let finished = plan.phase == Phase::Finished;
    let suspended = sweep.spec.suspend && !finished;
    let progressing = progressing(sweep, plan, counts, suspended);
    let valid = valid(sweep, old, new, plan);
    let succeeded = if finished {
        ended(sweep, plan, counts, &valid.2)
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
    plan: &Plan,
    counts: Counts,
    why_invalid: &str,
) -> Option<(&'static str, &'static str, String)> {
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
        let Counts {
            out_of_memory,
            unsupported,
            timed_out,
            failed,
            ..
        } = counts;
        let message = format!(
            "None of {total} trials has a measurement: {out_of_memory} OutOfMemory, {unsupported} Unsupported, \
             {timed_out} TimedOut, {failed} Failed."
        );
        return Some(("False", "NoValidResults", message));
    }
    if counts.invalid >= counts.succeeded {
        let message = format!("No trial is valid. {why_invalid}");
        return Some(("False", "NoValidResults", message));
    }
    let invalid = match counts.invalid {
        0 => String::new(),
        invalid => format!(", {invalid} invalid"),
    };
    let not_needed = match counts.not_needed {
        0 => String::new(),
        not_needed => format!(", {not_needed} not needed"),
    };
    let message = format!(
        "All {total} trials ended; {} failed{invalid}{not_needed}.",
        counts.failed
    );
    Some(("True", "Succeeded", message))
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
    let why = summary.and_then(|summary| summary.invalid_reason.as_deref());
    let why = why.or(plan.measured.why_invalid.as_deref());
    let why = why.map_or(String::new(), |why| format!("; for example, {why}"));
    let message = format!("Invalid trials: {invalid}{why}. {}", remedy(sweep));
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
    if let Some(Problem { reason, message }) = &plan.problem {
        return (
            if stands(plan) { "False" } else { "True" },
            reason.clone(),
            message.clone(),
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
fn condition(
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
        message: cut(message),
        observed_generation: Some(generation),
        last_transition_time: since,
    }
}

/// A message that is not longer than a condition's may be.
fn cut(message: &str) -> String {
    const END: &str = "...";
    let most = limits::CONDITION_MESSAGE as usize;
    if message.chars().count() <= most {
        return message.to_owned();
    }
    let kept: String = message.chars().take(most - END.len()).collect();
    kept + END
}

/// Kubernetes writes these times in whole seconds: what is read back has to equal what was written.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests;
