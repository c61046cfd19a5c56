//! Each rule by itself, by the part of a sweep that it is about, and the promises in a simulated world.
#![expect(
    clippy::cloned_ref_to_slice_refs,
    reason = "a list of one reads like the lists of more"
)]

mod collection;
mod preflight;
mod promises;
mod trials;

use inferbench_crds::contract::TrialReport;
use k8s_openapi::jiff::SignedDuration;

use super::*;
use crate::controller::{fixtures::sweep, names::Role, observe::End};

const SPEC: &str = "
design:
  factors:
    model: [{name: a, source: {random: {preset: gpt2}}}, {name: b, source: {random: {preset: gpt2}}}]
    batchSize: [1, 2, 4]
    inputLength: [8, 16]
    outputLength: [8, 32]
    gpus: [1, 2, 3]
  exclude: [{model: [b], gpus: [2]}]
  replicates: 2
results: {store: {url: 's3://bucket'}}
";

fn at(seconds: i64) -> Timestamp {
    let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
    start + SignedDuration::from_secs(seconds)
}

fn known(sweep: &Sweep) -> Known {
    Known {
        ledger: Outcomes::new(sweep.expansion.len_before_exclusion()),
        decided: 0,
        inputs: String::new(),
        taken: None,
    }
}

fn job(role: Role, trials: &[u32]) -> JobView {
    JobView {
        name: format!("{}-{}", role.as_str(), trials.first().unwrap_or(&0)),
        uid: format!("uid-{}-{}", role.as_str(), trials.first().unwrap_or(&0)),
        role,
        trials: trials.to_vec(),
        gpus: 1,
        attempt: 1,
        inputs: String::new(),
        created: at(0),
        started: Some(at(0)),
        suspended: false,
        end: None,
        deleting: false,
    }
}

fn ended(mut job: JobView, complete: bool) -> JobView {
    let reason = if complete {
        "CompletionsReached"
    } else {
        "PodFailurePolicy"
    };
    job.end = Some(End {
        at: at(100),
        complete,
        reason: reason.into(),
    });
    job
}

fn pod(job: &JobView, phase: PodPhase) -> PodView {
    PodView {
        name: format!("{}-pod", job.name),
        job: job.uid.clone(),
        index: None,
        created: at(0),
        scheduled: Some(at(1)),
        deleting: false,
        phase,
        stuck: None,
        ran: phase != PodPhase::Pending,
        exit_code: None,
        reason: String::new(),
        report: String::new(),
        disrupted: false,
    }
}

fn said(job: &JobView, code: i32, reason: &str, report: &TrialReport) -> PodView {
    PodView {
        exit_code: Some(code),
        reason: reason.into(),
        report: serde_json::to_string(report).expect("JSON"),
        ..pod(
            job,
            if code == 0 {
                PodPhase::Succeeded
            } else {
                PodPhase::Failed
            },
        )
    }
}

fn outcomes(outcomes: &str) -> TrialReport {
    TrialReport {
        outcomes: outcomes.into(),
        ..TrialReport::default()
    }
}

fn creates(plan: &Plan) -> Vec<&Create> {
    plan.actions
        .iter()
        .filter_map(|action| match action {
            Action::Create(create) => Some(create),
            _ => None,
        })
        .collect()
}

fn deletes(plan: &Plan) -> Vec<(&str, bool)> {
    plan.actions
        .iter()
        .filter_map(|action| match action {
            Action::Delete { name, active, .. } => Some((name.as_str(), *active)),
            _ => None,
        })
        .collect()
}

fn records(plan: &Plan) -> Vec<(u32, Outcome)> {
    let records = plan.actions.iter().filter_map(|action| match action {
        Action::Record(ended) => Some(ended),
        _ => None,
    });
    records
        .flatten()
        .map(|ended| (ended.index, ended.outcome))
        .collect()
}

const ONE_SHAPE: &str = "
design:
  factors:
    model: [{name: a, source: {random: {preset: gpt2}}}]
    batchSize: [1, 2, 4, 8, 16, 32]
    gpus: [1]
  order: Sequential
results: {store: {url: 's3://bucket'}}
";

fn one_shape(execution: &str) -> Sweep {
    sweep(&format!(
        "{ONE_SHAPE}execution: {{maxFailedPercent: 50, {execution}}}\n"
    ))
}
