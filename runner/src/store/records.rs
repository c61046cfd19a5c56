//! The records in a store: where they lie, writing and reading one, and setting a damaged one aside.

use std::fmt;

use inferbench_crds::layout::record_path;
use inferbench_results::{key::trial_key, record::TrialRecord};

use super::{Store, StoreError};

/// A document that was no record, and has been moved aside, so that its trial is measured again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corrupt {
    /// Where it had been.
    pub path: String,
    /// Where it is now.
    pub aside: String,
    /// The reason why it is no record.
    pub problem: String,
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            aside,
            problem,
        } = self;
        write!(
            f,
            "{path} is no record and its trial is measured again; kept as {aside}: {problem}"
        )
    }
}

/// Stores a record under its key; the one that is there already wins.
///
/// # Errors
/// Where the record is not fit to be read again, or the store fails.
pub fn store_record(store: &Store, record: &TrialRecord) -> Result<(), String> {
    debug_assert_eq!(record.trial_key, trial_key(&record.request, record.attempt));
    let bytes = record.write().map_err(|error| error.to_string())?;
    store
        .create(&record_path(&record.trial_key), &bytes)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// The record stored under a key, if there is one and it is whole.
///
/// # Errors
/// Where the store fails.
pub fn find_record(
    store: &Store,
    key: &str,
) -> Result<Option<Result<TrialRecord, Corrupt>>, StoreError> {
    let Some(document) = store.get(&record_path(key))? else {
        return Ok(None);
    };
    Ok(Some(match TrialRecord::read(key, &document) {
        Ok(record) => Ok(record),
        Err(problem) => Err(set_aside(store, key, &document, problem.to_string())?),
    }))
}

/// Moves the document aside that is stored under a key and is no record.
///
/// # Errors
/// Where the store fails.
pub fn set_aside(
    store: &Store,
    key: &str,
    document: &[u8],
    problem: String,
) -> Result<Corrupt, StoreError> {
    let path = record_path(key);
    let aside = store.set_aside(&path, document)?;
    Ok(Corrupt {
        path,
        aside,
        problem,
    })
}
