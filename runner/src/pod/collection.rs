//! `inferbench collect` in a pod: tables, summary, analysis and report of what is stored, and the bounded summary back
//! to the resource's status, in as many termination messages as it takes. Index 0 of an Indexed Job collects; all of
//! them hand over their part of the same whole, which depends on nothing but the store and the request.

use std::{collections::BTreeMap, path::Path};

use inferbench_crds::{
    InferenceBenchmark,
    contract::{Chunk, Collected, SweepRequest},
    handover::{self, CHUNK_BYTES},
    layout::{ANALYSIS, MANIFEST, REPORT, SUMMARY},
    ledger::Outcomes,
    outcome::Outcome,
    status::CollectedResults,
};
use inferbench_results::{
    analysis::Analysis,
    key::sha256_hex,
    manifest::{Manifest, TrialEntry},
    status,
    summary::Summary,
};
use serde::de::DeserializeOwned;

use super::{Broken, broken, leave, look, open, read_sweep, shortened};
use crate::{
    models::Need,
    process::{exit::Exit, print_error, signals},
    store::Store,
    sweep::{prepared::Prepared, tables},
};

/// Names this pod's number in an Indexed Job.
pub const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// Collects a sweep, or hands over a further part of what was collected; or of what a look between blocks decides.
pub fn run(requests: &Path) -> Exit {
    signals::exit_on_signal();
    let index = std::env::var(INDEX_VARIABLE).ok();
    let index = index.and_then(|index| index.parse().ok()).unwrap_or(0);
    match read_sweep(requests).and_then(|request| part(&request, index)) {
        Ok(Some(chunk)) => {
            leave(&chunk);
            Exit::Ok
        }
        Ok(None) => Exit::Ok,
        Err(Broken { message, exit }) => {
            print_error(&message);
            leave(&Chunk {
                message: Some(shortened(message)),
                ..Chunk::default()
            });
            exit
        }
    }
}

fn part(request: &SweepRequest, index: u32) -> Result<Option<Chunk>, Broken> {
    let store = open(&request.store)?;
    let ledger = ledger(request)?;
    let (what, parts) = if let Some(blocks) = request.look {
        let decided = look::decide(&prepared(request)?, &store, &ledger, blocks)?;
        (
            "what was decided takes",
            handover::cut(&decided, CHUNK_BYTES),
        )
    } else {
        if index == 0 {
            make(request, &store, &ledger)?;
        }
        let collected = handed_over(&store, &ledger)?;
        ("the summary takes", handover::cut(&collected, CHUNK_BYTES))
    };
    let parts = parts.map_err(|error| broken(error, Exit::Failed))?;
    let chunks = request.chunks.unwrap_or(1) as usize;
    if parts.len() > chunks {
        return Err(broken(
            format!(
                "{what} {} termination messages, and there are {chunks} pods",
                parts.len()
            ),
            Exit::Failed,
        ));
    }
    Ok(parts.into_iter().nth(index as usize))
}

fn ledger(request: &SweepRequest) -> Result<Outcomes, Broken> {
    let expansion = inferbench_crds::design::Expansion::new(&request.spec.design);
    let text = request.ledger.as_deref().unwrap_or_default();
    Outcomes::decode(text, expansion.len_before_exclusion())
        .map_err(|error| broken(format!("ledger: {error}"), Exit::BadRequest))
}

/// The sweep, with its models as they were pinned.
fn prepared(request: &SweepRequest) -> Result<Prepared, Broken> {
    let mut resource = InferenceBenchmark::new(&request.sweep, request.spec.clone());
    resource.metadata.namespace = Some(request.namespace.clone());
    let pinned = |name: &str| {
        let model = request
            .plan
            .models
            .iter()
            .find(|model| model.name == name)?;
        Some(model.revision.clone())
    };
    let sweep = Prepared::new(&resource, Need::Revision, &pinned)
        .map_err(|error| broken(error, Exit::BadModel))?;
    Ok(sweep.on_runner(request.runner.clone()))
}

fn make(request: &SweepRequest, store: &Store, ledger: &Outcomes) -> Result<(), Broken> {
    let sweep = prepared(request)?;
    let outcomes: BTreeMap<u32, Outcome> = ledger.iter().collect();
    tables::make(store, &sweep, &outcomes)
        .map(drop)
        .map_err(|error| broken(error, Exit::Failed))
}

/// The part of the status that the collection fills in: from the documents as they are stored, so that every pod says
/// the same.
fn handed_over(store: &Store, ledger: &Outcomes) -> Result<Collected, Broken> {
    let manifest_bytes = stored(store, MANIFEST)?;
    let manifest: Manifest = document(MANIFEST, &manifest_bytes)?;
    let summary: Summary = document(SUMMARY, &stored(store, SUMMARY)?)?;
    let analysis: Analysis = document(ANALYSIS, &stored(store, ANALYSIS)?)?;
    Ok(Collected {
        results: CollectedResults {
            uri: store.location().into(),
            sha256: sha256_hex(&manifest_bytes),
            rows: i32::try_from(manifest.trials.len()).unwrap_or(i32::MAX),
            report: REPORT.into(),
            ..CollectedResults::default()
        },
        summary: status::bounded(&summary, &analysis),
        recovered: recovered(&manifest.trials, ledger),
    })
}

/// The trials whose stored outcome, that of the latest attempt, is another than the ledger's.
fn recovered(trials: &[TrialEntry], ledger: &Outcomes) -> Vec<(u32, Outcome)> {
    let mut latest: BTreeMap<u32, (u32, Outcome)> = BTreeMap::new();
    for trial in trials.iter().filter(|trial| trial.record.is_some()) {
        let Some(outcome) = trial.outcome else {
            continue;
        };
        let known = latest.entry(trial.trial_index);
        let known = known.or_insert((trial.attempt, outcome));
        if trial.attempt > known.0 {
            *known = (trial.attempt, outcome);
        }
    }
    let stored = latest
        .into_iter()
        .map(|(index, (_, outcome))| (index, outcome));
    stored
        .filter(|&(index, outcome)| ledger.get(index).is_some_and(|told| told != outcome))
        .collect()
}

fn stored(store: &Store, name: &str) -> Result<Vec<u8>, Broken> {
    let bytes = store
        .get(name)
        .map_err(|error| broken(error, Exit::Failed))?;
    bytes.ok_or_else(|| {
        broken(
            format!("{name} is missing: nothing was collected"),
            Exit::Failed,
        )
    })
}

fn document<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, Broken> {
    serde_json::from_slice(bytes).map_err(|error| broken(format!("{name}: {error}"), Exit::Failed))
}

#[cfg(test)]
mod tests {
    use inferbench_results::manifest::FileEntry;

    use super::*;

    #[test]
    fn a_ledger_is_corrected_by_the_latest_attempt() {
        let entry = |trial_index, attempt, outcome, stored: bool| TrialEntry {
            trial_index,
            attempt,
            outcome: Some(outcome),
            record: stored.then(|| FileEntry::of("trials/k.json", b"{}")),
        };
        let trials = [
            // Measured again since it was not valid, and out of memory then: as the ledger says.
            entry(0, 0, Outcome::Succeeded, true),
            entry(0, 1, Outcome::OutOfMemory, true),
            // Its record came after the ledger had called it failed.
            entry(1, 1, Outcome::Succeeded, true),
            entry(1, 0, Outcome::TimedOut, true),
            // Nothing is stored of it.
            entry(2, 0, Outcome::Failed, false),
            entry(3, 0, Outcome::Succeeded, true),
        ];
        let mut ledger = Outcomes::new(4);
        for (index, outcome) in [
            (0, Outcome::OutOfMemory),
            (1, Outcome::Failed),
            (2, Outcome::OutOfMemory),
            (3, Outcome::Succeeded),
        ] {
            ledger.record(index, outcome).unwrap();
        }
        assert_eq!(recovered(&trials, &ledger), [(1, Outcome::Succeeded)]);
    }
}
