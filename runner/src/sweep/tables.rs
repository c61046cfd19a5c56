//! The tables of a sweep: a collection of its records, and of what is known of the trials that have left none.

use std::collections::BTreeMap;

use inferbench_results::record::Outcome;

use super::{
    collect::{CollectError, Collected, collect},
    prepared::Prepared,
    stored::Failure,
};
use crate::{process::print_error, store::Store};

/// Collects a sweep; `outcomes` are those known beside the records, by trial. Documents that are no records are named.
///
/// # Errors
/// Where the store cannot be read or written to.
pub fn make(
    store: &Store,
    sweep: &Prepared,
    outcomes: &BTreeMap<u32, Outcome>,
) -> Result<Collected, CollectError> {
    let collected = collect(
        store,
        &sweep.name,
        sweep.planned(outcomes),
        sweep.remeasure_invalid(),
        &sweep.spec.objectives,
        &sweep.spec.expectations,
        Some(&sweep.spec.design),
    )?;
    for corrupt in &collected.corrupt {
        print_error(corrupt);
    }
    Ok(collected)
}

/// The outcomes of trials that have failed.
#[must_use]
pub fn of_failures(sweep: &Prepared, failures: &[Failure]) -> BTreeMap<u32, Outcome> {
    let failed = |failure: &Failure| {
        let trial = sweep.expansion.trial(failure.trial_index)?;
        // A design that has grown since counts otherwise.
        let same = (0..=sweep.remeasure_invalid())
            .any(|attempt| sweep.key(&trial, attempt) == failure.key);
        same.then_some((trial.index, Outcome::Failed))
    };
    failures.iter().filter_map(failed).collect()
}
