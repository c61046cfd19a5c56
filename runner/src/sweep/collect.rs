//! The collection: reads the records of a sweep from its store and makes tables, summary and manifest of them.
//!
//! A sweep is resumed by the same means: [`find_attempts`] lists what is stored, [`read_records`] reads it. A document
//! that is no record is moved aside under its own name with `.corrupt-<number>` and reported, so that its trial is
//! measured again.

use std::{collections::HashMap, sync::mpsc::sync_channel, time::Duration};

use inferbench_crds::{
    expectation::Expectation,
    layout::{ANALYSIS, DESIGN, MANIFEST, REPORT, SUMMARY, TRIALS, record_key, record_path},
    spec::{Design, Objectives},
};
use inferbench_results::{
    analysis::{
        Analysis, analyze, analyze_design,
        expectations::{Judgement, judge},
    },
    columns::TableRow as _,
    confirm::Confirming,
    figures::{self, Figure},
    key::{is_key, trial_key},
    looks::Looks,
    manifest::{FileEntry, Manifest, TrialEntry},
    record::{Outcome, TrialRecord},
    report::{Report, html},
    row::{IterationRow, Planned, RequestRow, Row, TelemetryRow},
    sample::latest_attempts,
    summary::{CombinationSummary, Summary, doubtful, summarize_looked_at},
    tables::{ParquetTable, TableError, write_csv},
};
use rayon::prelude::*;
use thiserror::Error;

use crate::store::{
    Store, StoreError,
    records::{Corrupt, set_aside},
};

/// Records read and checked at a time, at most: enough to keep the store and every core busy, few enough for a small
/// memory.
const CHUNK: usize = 512;
/// Bytes of records read at a time, but for a record that has more: one with many requests may have megabytes.
const PORTION_BYTES: u64 = 32 << 20;

/// How old a half-written file has to be before it is taken for a killed writer's.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

/// A stored attempt at a trial of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAttempt {
    /// The trial's position in the plan that was given.
    pub planned: usize,
    /// The attempt.
    pub attempt: u32,
    /// The record's key.
    pub key: String,
    /// The length of its document.
    pub bytes: u64,
}

/// The part of a plan that a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Stored attempts, by position in the plan and attempt.
    pub attempts: Vec<StoredAttempt>,
    /// Records of other plans: of levels that a spec has lost, of another measurement or runner.
    pub strangers: usize,
}

/// A record with the size and hash of its document.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The record, which has passed its check.
    pub record: TrialRecord,
    /// Its document in the store.
    pub file: FileEntry,
}

/// The results of a collection.
#[derive(Clone, Debug)]
pub struct Collected {
    /// The rows of `trials.csv`, by trial index and attempt.
    pub rows: Vec<Row>,
    /// The sweep at a glance.
    pub summary: Summary,
    /// The expectations, with the verdict on each.
    pub judgements: Vec<Judgement>,
    /// The files and the trials.
    pub manifest: Manifest,
    /// Documents that were no records.
    pub corrupt: Vec<Corrupt>,
    /// Records in the store that belong to other plans.
    pub strangers: usize,
}

/// Why a collection cannot be made.
#[derive(Debug, Error)]
pub enum CollectError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A table cannot be written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A document cannot be written.
    #[error("{name}: {source}")]
    Document {
        /// Its name.
        name: &'static str,
        /// Why.
        source: serde_json::Error,
    },
}

/// Lists what the store holds of the plan, by name only: every attempt up to `max_attempt`, and beyond it as far as
/// there is one after the other.
///
/// # Errors
/// Where the store cannot be listed.
pub fn find_attempts(
    store: &Store,
    plan: &[Planned],
    max_attempt: u32,
) -> Result<Found, StoreError> {
    let stored: HashMap<String, u64> = store
        .list(TRIALS)?
        .into_iter()
        .filter_map(|entry| Some((record_key(&entry.path)?.to_owned(), entry.bytes)))
        .filter(|(key, _)| is_key(key))
        .collect();
    if stored.is_empty() {
        return Ok(Found::default());
    }
    let attempts_at = |(at, planned): (usize, &Planned)| {
        let mut attempts = Vec::new();
        for attempt in 0.. {
            let key = trial_key(&planned.request, attempt);
            if let Some(&bytes) = stored.get(&key) {
                attempts.push(StoredAttempt {
                    planned: at,
                    attempt,
                    key,
                    bytes,
                });
            } else if attempt >= max_attempt {
                break;
            }
        }
        attempts
    };
    let attempts: Vec<StoredAttempt> = plan
        .par_iter()
        .enumerate()
        .flat_map_iter(attempts_at)
        .collect();
    Ok(Found {
        strangers: stored.len().saturating_sub(attempts.len()),
        attempts,
    })
}

/// Reads and checks the records of these attempts, many at a time; `each` turns one into what is needed of it, on any
/// thread, and `take` gets these in the order of the attempts. Returns the documents that were no records, moved
/// aside by now, by their positions among the attempts. An attempt whose document has vanished is skipped.
///
/// # Errors
/// Where the store cannot be read, or a damaged document cannot be moved; or whatever `take` returns.
pub fn read_records<T: Send, E: From<StoreError>>(
    store: &Store,
    attempts: &[StoredAttempt],
    each: impl Fn(&StoredAttempt, Stored) -> T + Sync,
    mut take: impl FnMut(T) -> Result<(), E>,
) -> Result<Vec<(usize, Corrupt)>, E> {
    let mut damaged = Vec::new();
    let chunks = portions(attempts);
    std::thread::scope(|scope| {
        // One portion is read while another is checked.
        let (sender, portions) = sync_channel(1);
        let read = chunks.clone();
        scope.spawn(move || {
            for chunk in read {
                let paths: Vec<String> = chunk
                    .iter()
                    .map(|attempt| record_path(&attempt.key))
                    .collect();
                if sender.send(store.get_many(&paths)).is_err() {
                    return;
                }
            }
        });
        let mut first = 0;
        for (chunk, documents) in chunks.iter().zip(portions) {
            let checked: Vec<_> = chunk
                .par_iter()
                .zip(documents?)
                .map(|(attempt, document)| {
                    let document = document?;
                    Some(match TrialRecord::read(&attempt.key, &document) {
                        Ok(record) => {
                            let file = FileEntry::of(&record_path(&attempt.key), &document);
                            Ok(each(attempt, Stored { record, file }))
                        }
                        Err(problem) => Err((problem.to_string(), document)),
                    })
                })
                .collect();
            for (at, result) in (first..).zip(checked) {
                match result {
                    Some(Ok(item)) => take(item)?,
                    Some(Err((problem, document))) => damaged.push((at, problem, document)),
                    None => {}
                }
            }
            first += chunk.len();
        }
        Ok::<(), E>(())
    })?;
    let mut corrupt = Vec::new();
    for (at, problem, document) in damaged {
        let key = &attempts[at].key;
        corrupt.push((at, set_aside(store, key, &document, problem)?));
    }
    Ok(corrupt)
}

/// The attempts in portions that are small enough to be in memory at once, in their order.
fn portions(attempts: &[StoredAttempt]) -> Vec<&[StoredAttempt]> {
    let mut portions = Vec::new();
    let mut rest = attempts;
    while !rest.is_empty() {
        let mut bytes: u64 = 0;
        let fits = rest.iter().take(CHUNK).take_while(|attempt| {
            bytes = bytes.saturating_add(attempt.bytes);
            bytes <= PORTION_BYTES
        });
        let (portion, after) = rest.split_at(fits.count().max(1));
        portions.push(portion);
        rest = after;
    }
    portions
}

/// Collects a sweep: reads every stored attempt at the plan's trials and writes `trials.csv`, `trials.parquet`,
/// `iterations.parquet`, `requests.parquet`, `telemetry.parquet`, `design.json`, `summary.json`, `analysis.json`,
/// `report.html`, `figures/*.svg` and, last, `manifest.json`. The same records, plan, objectives and expectations make the same files.
/// Where the `design` is known, and selects combinations, the analysis goes by the model that it declares; where it has
/// `until` or `confirm`, trials without a record that were not needed are `NotNeeded`.
///
/// # Errors
/// Where the store cannot be read or written to.
pub fn collect(
    store: &Store,
    sweep: &str,
    plan: impl IntoIterator<Item = Planned>,
    max_attempt: u32,
    objectives: &Objectives,
    expectations: &[Expectation],
    design: Option<&Design>,
) -> Result<Collected, CollectError> {
    store.remove_leftovers(LEFTOVER_AGE)?;
    let mut plan: Vec<Planned> = plan.into_iter().collect();
    plan.sort_by_key(|planned| planned.trial_index);
    let found = find_attempts(store, &plan, max_attempt)?;

    let mut trials: Vec<(Row, Option<FileEntry>)> = Vec::with_capacity(plan.len());
    let mut has_record = vec![false; plan.len()];
    let mut tables = Tables::new()?;
    let corrupt = read_records(
        store,
        &found.attempts,
        |attempt, stored| {
            // A spec that has gained a level counts its trials anew: the plan's number holds, not the record's.
            let trial_index = plan[attempt.planned].trial_index;
            let row = Row {
                trial_index,
                ..Row::under(&stored.record, objectives)
            };
            let parts = Parts::of(&stored.record, trial_index);
            (attempt.planned, row, stored.file, parts)
        },
        |(planned, row, file, parts)| {
            has_record[planned] = true;
            tables.add(parts, file.bytes)?;
            trials.push((row, Some(file)));
            Ok::<(), CollectError>(())
        },
    )?;
    let missing = plan
        .iter()
        .zip(&has_record)
        .filter(|(_, has_record)| !**has_record);
    trials.extend(missing.map(|(planned, _)| (Row::without_record(sweep, planned), None)));
    trials.sort_by_key(|(row, _)| (row.trial_index, row.attempt));
    let (mut rows, records): (Vec<Row>, Vec<Option<FileEntry>>) = trials.into_iter().unzip();

    let looks = design.and_then(Looks::of);
    if let Some(design) = design {
        say_what_was_not_needed(&mut rows, looks.as_ref(), design, objectives);
    }
    let summary = summarize_looked_at(sweep, &rows, objectives, looks.as_ref());
    let mut table = ParquetTable::for_rows(&rows)?;
    for portion in rows.chunks(CHUNK) {
        table.push(portion)?;
    }
    let mut analysis = match design {
        Some(design) => analyze_design(&rows, &summary, objectives, design),
        None => analyze(&rows, &summary, objectives),
    };
    analysis.expectations = judge(&rows, expectations);
    let mut files = vec![
        (format!("{}.csv", Row::NAME), write_csv(&rows)?),
        (format!("{}.parquet", Row::NAME), table.finish()?),
    ];
    files.extend(tables.finish()?);
    if let Some(design) = design {
        files.push((
            DESIGN.into(),
            document(DESIGN, serde_json::to_vec_pretty(design))?,
        ));
    }
    files.extend([(
        SUMMARY.into(),
        document(SUMMARY, serde_json::to_vec_pretty(&summary))?,
    )]);
    let figures = figures::all(&summary, &analysis);
    files.extend(documents(&summary, &analysis, &figures, &doubtful(&rows))?);
    let entries = rows.iter().zip(records).map(|(row, record)| TrialEntry {
        trial_index: row.trial_index,
        attempt: row.attempt,
        outcome: row.outcome,
        record,
    });
    let listed = files
        .iter()
        .map(|(name, contents)| FileEntry::of(name, contents))
        .collect();
    let manifest = Manifest::new(&summary, listed, entries.collect());
    for (name, contents) in &files {
        store.put(name, contents)?;
    }
    store.put(
        MANIFEST,
        &document(MANIFEST, serde_json::to_vec(&manifest))?,
    )?;
    Ok(Collected {
        rows,
        summary,
        judgements: analysis.expectations,
        manifest,
        corrupt: corrupt.into_iter().map(|(_, corrupt)| corrupt).collect(),
        strangers: found.strangers,
    })
}

/// Gives trials that have neither a record nor another outcome theirs, where their combinations were narrow enough; and
/// those that would have measured again what is not among the best, once all others have ended.
fn say_what_was_not_needed(
    rows: &mut [Row],
    looks: Option<&Looks>,
    design: &Design,
    objectives: &Objectives,
) {
    let combinations = design.combinations_before_exclusion().max(1);
    let not_needed = |rows: &mut [Row], confirming: bool, is_left_out: &dyn Fn(u32) -> bool| {
        for row in rows.iter_mut() {
            let waits = row.outcome.is_none() && row.confirming.is_some() == confirming;
            if waits && is_left_out(row.trial_index % combinations) {
                row.outcome = Some(Outcome::NotNeeded);
            }
        }
    };
    if let Some(looks) = looks {
        let enough = looks.enough(latest_attempts(rows), combinations);
        not_needed(rows, false, &|of| enough.contains_key(&of));
    }
    let Some(confirming) = Confirming::of(design) else {
        return;
    };
    let latest = latest_attempts(rows);
    if latest.iter().all(|row| row.outcome.is_some()) {
        let chosen = confirming.chosen(latest, objectives);
        not_needed(rows, true, &|of| !chosen.contains(&of));
    }
}

/// The rows that a record has in the tables of its parts.
struct Parts {
    iterations: Vec<IterationRow>,
    requests: Vec<RequestRow>,
    telemetry: Vec<TelemetryRow>,
}

impl Parts {
    fn of(record: &TrialRecord, trial_index: u32) -> Self {
        Self {
            iterations: IterationRow::of(record, trial_index),
            requests: RequestRow::of(record, trial_index),
            telemetry: TelemetryRow::of(record, trial_index),
        }
    }
}

/// The tables of records' parts, while they are made.
struct Tables {
    iterations: ParquetTable<IterationRow>,
    requests: ParquetTable<RequestRow>,
    telemetry: ParquetTable<TelemetryRow>,
    pending: Parts,
    /// Records whose rows wait, and the bytes of their documents.
    waiting: (usize, u64),
}

impl Tables {
    fn new() -> Result<Self, TableError> {
        Ok(Self {
            iterations: ParquetTable::new()?,
            requests: ParquetTable::new()?,
            telemetry: ParquetTable::new()?,
            pending: Parts {
                iterations: Vec::new(),
                requests: Vec::new(),
                telemetry: Vec::new(),
            },
            waiting: (0, 0),
        })
    }

    /// Adds the rows of a record whose document has this number of bytes, and writes all that wait where these are
    /// enough.
    fn add(&mut self, mut parts: Parts, bytes: u64) -> Result<(), TableError> {
        self.pending.iterations.append(&mut parts.iterations);
        self.pending.requests.append(&mut parts.requests);
        self.pending.telemetry.append(&mut parts.telemetry);
        let (records, before) = self.waiting;
        self.waiting = (records + 1, before.saturating_add(bytes));
        match self.waiting.0 >= CHUNK || self.waiting.1 >= PORTION_BYTES {
            true => self.write(),
            false => Ok(()),
        }
    }

    fn write(&mut self) -> Result<(), TableError> {
        self.iterations.push(&self.pending.iterations)?;
        self.requests.push(&self.pending.requests)?;
        self.telemetry.push(&self.pending.telemetry)?;
        self.pending.iterations.clear();
        self.pending.requests.clear();
        self.pending.telemetry.clear();
        self.waiting = (0, 0);
        Ok(())
    }

    /// The files, by name.
    fn finish(mut self) -> Result<Vec<(String, Vec<u8>)>, TableError> {
        self.write()?;
        let name = |name: &str| format!("{name}.parquet");
        Ok(vec![
            (name(IterationRow::NAME), self.iterations.finish()?),
            (name(RequestRow::NAME), self.requests.finish()?),
            (name(TelemetryRow::NAME), self.telemetry.finish()?),
        ])
    }
}

/// The documents that are made of a summary, an analysis and their figures: `analysis.json`, `report.html` and
/// `figures/*.svg`; `doubtful` are the combinations without a valid trial that the report is to show.
///
/// # Errors
/// Where the analysis cannot be written as JSON: never in practice.
pub fn documents(
    summary: &Summary,
    analysis: &Analysis,
    figures: &[Figure],
    doubtful: &[CombinationSummary],
) -> Result<Vec<(String, Vec<u8>)>, CollectError> {
    let report = Report {
        summary,
        analysis,
        objectives: &summary.objectives,
        figures,
        doubtful,
    };
    let mut documents = vec![
        (
            ANALYSIS.into(),
            document(ANALYSIS, serde_json::to_vec_pretty(analysis))?,
        ),
        (REPORT.into(), html(&report).into_bytes()),
    ];
    for figure in figures {
        if let Some(svg) = figure.svg() {
            documents.push((format!("figures/{}.svg", figure.name), svg.into_bytes()));
        }
    }
    Ok(documents)
}

fn document(
    name: &'static str,
    written: serde_json::Result<Vec<u8>>,
) -> Result<Vec<u8>, CollectError> {
    written.map_err(|source| CollectError::Document { name, source })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn portions_are_small_and_leave_nothing_out(
            bytes in prop::collection::vec(prop_oneof![1_u64..4_000, PORTION_BYTES / 3..2 * PORTION_BYTES], 0..1_500)
        ) {
            let attempt = |(planned, &bytes): (usize, &u64)| StoredAttempt {
                planned,
                attempt: 0,
                key: String::new(),
                bytes,
            };
            let attempts: Vec<StoredAttempt> = bytes.iter().enumerate().map(attempt).collect();
            let portions = portions(&attempts);
            prop_assert_eq!(&portions.concat(), &attempts);
            for portion in portions {
                let bytes: u64 = portion.iter().map(|attempt| attempt.bytes).sum();
                prop_assert!(!portion.is_empty() && portion.len() <= CHUNK);
                prop_assert!(bytes <= PORTION_BYTES || portion.len() == 1);
            }
        }
    }
}
