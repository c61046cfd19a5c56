//! The status of a resource: a pure function of the status before, of the plan and of the time. Where nothing has
//! changed, it is equal to the last letter, and nothing is written.

mod conditions;

use std::fmt::Write as _;

use inferbench_crds::{
    InferenceBenchmarkStatus, Outcome, Violation,
    contract::Collected,
    status::{Counts, Ledger, MAX_BYTES, PinnedPlan, Progress},
};
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::{SignedDuration, Timestamp},
};

pub use self::conditions::ATTEMPTS;
use self::conditions::{condition, conditions};
use super::{
    plan::{Action, Plan},
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
        let confirming = expansion
            .confirming()
            .filter(|&index| !expansion.is_excluded(index) && plan.ledger.get(index).is_none())
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

/// Kubernetes writes these times in whole seconds: what is read back has to equal what was written.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests;
