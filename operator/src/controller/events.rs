//! The Kubernetes events of a resource: one for each transition of its status, none for a trial and none twice. A pure
//! function of the status before and after, and of the plan; `apply` posts them.

use inferbench_crds::{InferenceBenchmarkStatus, Outcome, status::Counts};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{
    plan::{Action, Ended, Plan},
    status,
    sweep::Sweep,
};

/// The most bytes of an event's note that the API server takes.
const NOTE_BYTES: usize = 1_024;

/// An event to post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whether somebody should have a look.
    pub warning: bool,
    /// One word for it.
    pub reason: String,
    /// The operator's task that it belongs to.
    pub action: &'static str,
    /// The text, within the bytes that the API server takes.
    pub note: String,
}

/// The events of a reconcile of an accepted resource.
#[must_use]
pub fn of_reconcile(
    sweep: &Sweep,
    old: &InferenceBenchmarkStatus,
    new: &InferenceBenchmarkStatus,
    plan: &Plan,
) -> Vec<Event> {
    let mut events = Vec::new();
    let (before, after) = (Seen::of(old), Seen::of(new));
    if before.status("Accepted") != "True" {
        let image = sweep.image();
        let (trials, combinations) = (sweep.plan.trials, sweep.plan.combinations);
        let what = if combinations == 1 {
            "combination"
        } else {
            "combinations"
        };
        let note = format!("{trials} trials of {combinations} {what}, by {image}.");
        events.push(normal("Accepted", "Validate", note));
    }
    match (before.status("Suspended"), after.status("Suspended")) {
        ("True", "True") => {}
        (_, "True") => events.push(normal("Suspended", "Suspend", after.message("Suspended"))),
        // One that has finished is not suspended any more, and not resumed either.
        ("True", _) if !sweep.spec.suspend => {
            events.push(normal("Resumed", "Suspend", "Jobs are created again."));
        }
        _ => {}
    }
    events.extend(preflight(old, plan));
    if !has_begun(old) && has_begun(new) {
        let note = format!("The first of {} trials has its Job.", sweep.plan.trials);
        events.push(normal("MeasuringStarted", "Measure", note));
    }
    events.extend(failures(sweep, old, new, plan));
    events.extend(decided(sweep, plan));
    if before.status("Valid") != "False" && after.status("Valid") == "False" {
        let note = format!(
            "{} status.counts.invalid counts those that follow.",
            after.message("Valid")
        );
        events.push(warning("InvalidTrials", "Measure", note));
    }
    events.extend(stuck(&before, &after, plan));
    let inputs = |status: &InferenceBenchmarkStatus| {
        let results = status.results.as_ref();
        results.map(|results| results.inputs.clone())
    };
    if let Some(results) = new.results.as_ref().filter(|_| inputs(old) != inputs(new)) {
        let note = format!("{} rows, report and summary: {}", results.rows, results.uri);
        events.push(normal("ResultsCollected", "Collect", note));
    }
    if before.status("Succeeded") != after.status("Succeeded") {
        let note = after.message("Succeeded");
        match after.status("Succeeded") {
            "True" => events.push(normal("Succeeded", "Measure", note)),
            "False" => events.push(warning("Failed", "Measure", note)),
            _ => {}
        }
    }
    events
}

/// The events of a resource that breaks rules.
#[must_use]
pub fn of_rejection(old: &InferenceBenchmarkStatus, new: &InferenceBenchmarkStatus) -> Vec<Event> {
    let (before, after) = (Seen::of(old), Seen::of(new));
    let said = |seen: &Seen<'_>| {
        let accepted = seen.condition("Accepted")?;
        Some((accepted.status.clone(), accepted.message.clone()))
    };
    if said(&before) == said(&after) {
        return Vec::new();
    }
    vec![warning("Rejected", "Validate", after.message("Accepted"))]
}

fn preflight(old: &InferenceBenchmarkStatus, plan: &Plan) -> Option<Event> {
    let pinned = old
        .plan
        .as_ref()
        .is_some_and(|plan| !plan.models.is_empty());
    let models = plan.actions.iter().find_map(|action| match action {
        Action::Pin(models) if !pinned => Some(models),
        _ => None,
    })?;
    let named = models.iter();
    let named = named.map(|model| format!("{}@{}", model.name, model.revision));
    let named = named.collect::<Vec<_>>().join(", ");
    let note = match plan.tally.count(Outcome::Unsupported) {
        0 => format!("Models: {named}"),
        never => {
            let why = plan.never.as_deref();
            let why = why.map_or(String::new(), |why| format!(" ({why})"));
            format!("{never} trials can never run{why}. Models: {named}")
        }
    };
    Some(normal("PreflightPassed", "Preflight", note))
}

/// Whether a trial has had a Job.
fn has_begun(status: &InferenceBenchmarkStatus) -> bool {
    let counts = status.counts.unwrap_or_default();
    counts.active > 0 || counts.done > counts.unsupported
}

/// The trials that a look has found not to be needed.
fn decided(sweep: &Sweep, plan: &Plan) -> Option<Event> {
    let blocks = plan.actions.iter().find_map(|action| match action {
        Action::Decide(blocks) => Some(*blocks),
        _ => None,
    })?;
    let fewer = status::not_needed(plan);
    let design = &sweep.spec.design;
    let most = sweep.expansion.blocks_of_all();
    if let Some(confirm) = design.confirm.filter(|_| blocks >= most) {
        let note = format!(
            "After {most} replicates, the best configurations are measured again in {} fresh ones: {fewer} trials of the \
             others are not needed.",
            confirm.replicates
        );
        return Some(normal("Confirming", "Measure", note));
    }
    (fewer > 0).then(|| {
        let note = format!(
            "After {blocks} of {most} replicates, {fewer} trials more are not needed: their combinations are narrow enough."
        );
        normal("NotNeeded", "Measure", note)
    })
}

/// The first failure, and the one that is too many.
fn failures(
    sweep: &Sweep,
    old: &InferenceBenchmarkStatus,
    new: &InferenceBenchmarkStatus,
    plan: &Plan,
) -> Vec<Event> {
    let mut events = Vec::new();
    let failed = |counts: Option<Counts>| counts.unwrap_or_default().failed.unsigned_abs();
    let (before, after) = (failed(old.counts), failed(new.counts));
    if before == 0 && after > 0 {
        let mut ended = plan.actions.iter().filter_map(|action| match action {
            Action::Record(ended) => Some(ended),
            _ => None,
        });
        let is_failed = |ended: &&Ended| ended.outcome == Outcome::Failed;
        if let Some(first) = ended.find_map(|ended| ended.iter().find(is_failed)) {
            let note = format!(
                "Trial {}, the first to fail; status.counts.failed counts the others. {}",
                first.index, first.why
            );
            events.push(warning("TrialFailed", "Measure", note));
        }
    }
    if plan.over_budget && !sweep.is_over_budget(before) {
        let note = format!(
            "{after} of {} trials failed: no more Jobs are created, and what there is will be collected.",
            sweep.plan.trials
        );
        events.push(warning("TooManyFailures", "Measure", note));
    }
    events
}

/// The problem that keeps the sweep from going on, when it begins to.
fn stuck(before: &Seen<'_>, after: &Seen<'_>, plan: &Plan) -> Option<Event> {
    let problem = plan.problem.as_ref()?;
    // Each attempt that fails has words of its own.
    let tried = status::ATTEMPTS.contains(&problem.reason.as_str());
    let said = |seen: &Seen<'_>| {
        let progressing = seen.condition("Progressing")?;
        let message = tried.then(|| progressing.message.clone());
        Some((progressing.reason.clone(), message))
    };
    let (was, is) = (said(before), said(after));
    let action = match problem.reason.as_str() {
        "PreflightFailed" => "Preflight",
        "CollectionFailed" | "LookFailed" => "Collect",
        _ => "StartPod",
    };
    let is_new = was != is && is.is_some_and(|(reason, _)| reason == problem.reason);
    is_new.then(|| warning(&problem.reason, action, problem.said(cut)))
}

/// The conditions of a status.
struct Seen<'a>(&'a [Condition]);

impl<'a> Seen<'a> {
    fn of(status: &'a InferenceBenchmarkStatus) -> Self {
        Self(&status.conditions)
    }

    fn condition(&self, kind: &str) -> Option<&'a Condition> {
        self.0.iter().find(|condition| condition.type_ == kind)
    }

    fn status(&self, kind: &str) -> &'a str {
        self.condition(kind)
            .map_or("", |condition| condition.status.as_str())
    }

    fn message(&self, kind: &str) -> &'a str {
        self.condition(kind)
            .map_or("", |condition| condition.message.as_str())
    }
}

fn normal(reason: &str, action: &'static str, note: impl Into<String>) -> Event {
    Event {
        warning: false,
        reason: reason.into(),
        action,
        note: cut(&note.into(), ""),
    }
}

fn warning(reason: &str, action: &'static str, note: impl Into<String>) -> Event {
    Event {
        warning: true,
        ..normal(reason, action, note)
    }
}

/// A note within the bound, with what stands behind it, cut between characters.
fn cut(note: &str, behind: &str) -> String {
    const END: &str = "...";
    let most = NOTE_BYTES.saturating_sub(behind.len());
    if note.len() <= most {
        return note.to_owned();
    }
    let end = note.floor_char_boundary(most.saturating_sub(END.len()));
    note.get(..end).unwrap_or_default().to_owned() + END
}

#[cfg(test)]
mod tests;
