//! The records in a store: where they lie, and writing one.

use inferbench_results::{key::trial_key, record::TrialRecord};

use super::Store;

/// The folder of the records in a store.
pub const TRIALS: &str = "trials";

/// The path of a record in a store.
#[must_use]
pub fn record_path(key: &str) -> String {
    format!("{TRIALS}/{key}.json")
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
