//! `inferbench collect` in a pod: tables, summary, analysis and report of what is stored, and the bounded summary back
//! to the resource's status, in as many termination messages as it takes. Index 0 of an Indexed Job collects; all of them
//! hand over their part of the same whole, which depends on nothing but the store and the request.

use std::{collections::BTreeMap, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use inferbench_crds::{
    InferenceBenchmark,
    contract::{Chunk, Collected, SweepRequest, TERMINATION_MESSAGE_BYTES},
    ledger::Outcomes,
    outcome::Outcome,
    status::CollectedResults,
};
use inferbench_results::{
    analysis::Analysis, key::sha256_hex, manifest::Manifest, status, summary::Summary,
};
use miniz_oxide::deflate::compress_to_vec_zlib;
use serde::de::DeserializeOwned;

use super::{Broken, broken, leave, open, read_sweep, shortened};
use crate::{
    models::Need,
    process::{exit::Exit, print_error, signals},
    store::Store,
    sweep::{prepared::Prepared, tables},
};

/// Names this pod's number in an Indexed Job.
pub const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// Bytes of a chunk's JSON beside its part: numbers, names and the hash.
const FRAME_BYTES: usize = 160;
/// The best that zlib can do: what is compressed is small.
const LEVEL: u8 = 9;

/// Collects a sweep, or hands over a further part of what was collected.
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
    if index == 0 {
        make(request, &store, &ledger)?;
    }
    let whole = handed_over(&store, &ledger)?;
    let parts = cut(&whole);
    let chunks = request.chunks.unwrap_or(1) as usize;
    if parts.len() > chunks {
        return Err(broken(
            format!(
                "the summary takes {} termination messages, and there are {chunks} pods",
                parts.len()
            ),
            Exit::Failed,
        ));
    }
    let count = u32::try_from(parts.len()).unwrap_or(u32::MAX);
    Ok(parts.get(index as usize).map(|part| Chunk {
        part: index,
        parts: count,
        sha256: sha256_hex(&whole),
        data: STANDARD.encode(part),
        message: None,
    }))
}

fn ledger(request: &SweepRequest) -> Result<Outcomes, Broken> {
    let expansion = inferbench_crds::design::Expansion::new(&request.spec.design);
    let text = request.ledger.as_deref().unwrap_or_default();
    Outcomes::decode(text, expansion.len_before_exclusion())
        .map_err(|error| broken(format!("ledger: {error}"), Exit::BadRequest))
}

fn make(request: &SweepRequest, store: &Store, ledger: &Outcomes) -> Result<(), Broken> {
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
        .map_err(|error| broken(error, Exit::BadModel))?
        .on_runner(request.runner.clone());
    let outcomes: BTreeMap<u32, Outcome> = ledger.iter().collect();
    tables::make(store, &sweep, &outcomes)
        .map(drop)
        .map_err(|error| broken(error, Exit::Failed))
}

/// The part of the status that comes from here, compressed: from the documents as they are stored, so that every pod says the same.
fn handed_over(store: &Store, ledger: &Outcomes) -> Result<Vec<u8>, Broken> {
    let manifest_bytes = stored(store, "manifest.json")?;
    let manifest: Manifest = document("manifest.json", &manifest_bytes)?;
    let summary: Summary = document("summary.json", &stored(store, "summary.json")?)?;
    let analysis: Analysis = document("analysis.json", &stored(store, "analysis.json")?)?;
    let recovered: BTreeMap<u32, Outcome> = manifest
        .trials
        .iter()
        .filter(|trial| trial.record.is_some())
        .filter_map(|trial| Some((trial.trial_index, trial.outcome?)))
        .filter(|&(index, outcome)| ledger.get(index).is_some_and(|told| told != outcome))
        .collect();
    let collected = Collected {
        results: CollectedResults {
            uri: store.location().into(),
            sha256: sha256_hex(&manifest_bytes),
            rows: i32::try_from(manifest.trials.len()).unwrap_or(i32::MAX),
            report: "report.html".into(),
            ..CollectedResults::default()
        },
        summary: status::bounded(&summary, &analysis),
        recovered: recovered.into_iter().collect(),
    };
    let json = serde_json::to_vec(&collected).map_err(|error| broken(error, Exit::Failed))?;
    Ok(compress_to_vec_zlib(&json, LEVEL))
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

/// Parts that fit into a termination message each, in base64; at least one.
fn cut(whole: &[u8]) -> Vec<&[u8]> {
    const PART: usize = (TERMINATION_MESSAGE_BYTES - FRAME_BYTES) / 4 * 3;
    if whole.is_empty() {
        return vec![whole];
    }
    whole.chunks(PART).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_fits_into_a_termination_message() {
        let whole: Vec<u8> = (0..20_000_u32).map(|byte| byte as u8).collect();
        let parts = cut(&whole);
        assert_eq!(parts.concat(), whole);
        for part in parts {
            let chunk = Chunk {
                part: u32::MAX,
                parts: u32::MAX,
                sha256: sha256_hex(part),
                data: STANDARD.encode(part),
                message: None,
            };
            let bytes = serde_json::to_vec(&chunk).unwrap().len();
            assert!(bytes <= TERMINATION_MESSAGE_BYTES, "{bytes}");
        }
        assert_eq!(cut(&[]).len(), 1);
    }
}
