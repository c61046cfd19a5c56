//! The parts of a sweep that its store holds already: `sweep.json` (what was settled when it began), the failures of
//! former runs, and the records of its trials.

use std::collections::BTreeMap;

use inferbench_crds::spec::{Dtype, ModelSource};
use inferbench_engine::ceilings::Ceilings;
use inferbench_results::{
    record::{Outcome, TrialRecord},
    row::{Planned, Row},
};
use serde::{Deserialize, Serialize};

use super::{
    collect::{self, find_attempts, read_records},
    prepared::Prepared,
    steps::Attempt,
};
use crate::store::{Store, StoreError, records::Corrupt};

/// The file that marks a sweep's folder.
pub const SWEEP_FILE: &str = "sweep.json";
/// The trials that failed in the last run, for the tables; they are tried again by the next one.
pub const FAILURES_FILE: &str = "failures.json";

/// The facts that are settled once per sweep.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct SweepFile {
    /// The sweep's name.
    pub name: String,
    /// The revisions that the models' sources were resolved to.
    pub models: Vec<Pin>,
    /// The ceilings of the machines that have measured.
    pub ceilings: Vec<KnownCeilings>,
}

/// A model's revision.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Pin {
    /// The name of the level.
    pub name: String,
    /// Its source, as the spec had it.
    pub source: ModelSource,
    /// The revision that it was resolved to.
    pub revision: String,
}

/// Ceilings and what they are of.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct KnownCeilings {
    /// The machine's name.
    pub node: String,
    /// The processor.
    pub cpu: String,
    /// CPUs in use.
    pub cpus: usize,
    /// The data type of the matrix products.
    pub dtype: Dtype,
    /// When, RFC 3339.
    pub measured_at: String,
    /// Whether they are those of its GPU.
    #[serde(default)]
    pub gpu: bool,
    /// The ceilings.
    pub ceilings: Ceilings,
}

/// A trial that failed.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The key of the attempt that failed.
    pub key: String,
    /// The trial's number in the design, when it failed.
    pub trial_index: u32,
    /// When, RFC 3339.
    pub at: String,
    /// Why.
    pub message: String,
}

impl SweepFile {
    /// Reads it; a sweep that has none is new. One that is damaged says so: it holds nothing that cannot be found
    /// out anew, but for the revision of a branch that may have moved on.
    ///
    /// # Errors
    /// Where the store fails.
    pub fn read(store: &Store) -> Result<(Self, Option<String>), StoreError> {
        read_json(store, SWEEP_FILE)
    }

    /// Writes it.
    ///
    /// # Errors
    /// Where the store fails.
    pub fn write(&self, store: &Store) -> Result<(), StoreError> {
        store.put(
            SWEEP_FILE,
            &serde_json::to_vec_pretty(self).unwrap_or_default(),
        )
    }

    /// The revision that a model was resolved to when its source was this.
    #[must_use]
    pub fn pinned(&self, name: &str, source: &ModelSource) -> Option<&str> {
        let pin = self
            .models
            .iter()
            .find(|pin| pin.name == name && pin.source == *source);
        pin.map(|pin| pin.revision.as_str())
    }
}

/// Reads the failures of the last run; none where there are none to be read.
///
/// # Errors
/// Where the store fails.
pub fn read_failures(store: &Store) -> Result<Vec<Failure>, StoreError> {
    Ok(read_json(store, FAILURES_FILE)?.0)
}

/// Writes the failures of this run.
///
/// # Errors
/// Where the store fails.
pub fn write_failures(store: &Store, failures: &[Failure]) -> Result<(), StoreError> {
    store.put(
        FAILURES_FILE,
        &serde_json::to_vec_pretty(failures).unwrap_or_default(),
    )
}

fn read_json<T: Default + for<'de> Deserialize<'de>>(
    store: &Store,
    path: &str,
) -> Result<(T, Option<String>), StoreError> {
    let Some(bytes) = store.get(path)? else {
        return Ok((T::default(), None));
    };
    Ok(match serde_json::from_slice(&bytes) {
        Ok(value) => (value, None),
        Err(error) => (
            T::default(),
            Some(format!("{path} cannot be read, and is made anew: {error}")),
        ),
    })
}

/// The ledger of a local sweep: the stored attempts at each trial, by its number in the design.
#[derive(Clone, Debug, Default)]
pub struct LocalLedger {
    rows: BTreeMap<u32, Vec<Row>>,
}

impl LocalLedger {
    /// Reads the records of a sweep's trials. A document that lies there under a trial's key but is no record of it is
    /// set aside, so that the trial is measured again; the second part of the answer names it.
    ///
    /// # Errors
    /// Where the store fails.
    pub fn read(store: &Store, sweep: &Prepared) -> Result<(Self, Vec<Corrupt>), StoreError> {
        let plan: Vec<Planned> = sweep.planned(&BTreeMap::new()).collect();
        let found = find_attempts(store, &plan, sweep.remeasure_invalid())?;
        let mut ledger = Self::default();
        let row = |attempt: &collect::StoredAttempt, stored: collect::Stored| {
            (plan[attempt.planned].trial_index, Row::of(&stored.record))
        };
        let corrupt = read_records(store, &found.attempts, row, |(index, row)| {
            ledger.add_row(index, row);
            Ok::<(), StoreError>(())
        })?;
        Ok((
            ledger,
            corrupt.into_iter().map(|(_, corrupt)| corrupt).collect(),
        ))
    }

    /// Adds the record of an attempt at the trial with this number.
    pub fn add(&mut self, index: u32, record: &TrialRecord) {
        self.add_row(index, Row::of(record));
    }

    /// The design may have grown since the record was written, so its number is the design's to say.
    fn add_row(&mut self, index: u32, row: Row) {
        let rows = self.rows.entry(index).or_default();
        rows.push(Row {
            trial_index: index,
            ..row
        });
        rows.sort_by_key(|row| row.attempt);
    }

    /// A trial's stored attempts, the first one first. After an attempt that was damaged none counts: it
    /// is measured again, and finds the later ones stored.
    #[must_use]
    pub fn attempts(&self, index: u32) -> Vec<Attempt> {
        let rows = self.rows.get(&index).map_or(&[][..], Vec::as_slice);
        rows.iter()
            .enumerate()
            .take_while(|(number, row)| row.attempt as usize == *number)
            .map(|(_, row)| {
                if row.valid == Some(false) {
                    Attempt::Invalid
                } else {
                    Attempt::Settled
                }
            })
            .collect()
    }

    /// The last stored attempt at a trial.
    #[must_use]
    pub fn last(&self, index: u32) -> Option<&Row> {
        self.rows.get(&index)?.last()
    }

    /// The last attempts at all trials that have one.
    pub fn latest(&self) -> impl Iterator<Item = &Row> {
        self.rows.values().filter_map(|rows| rows.last())
    }

    /// How many trials ended so, by their last attempts.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.latest()
            .filter(|row| row.outcome == Some(outcome))
            .count()
    }
}
