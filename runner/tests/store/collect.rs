//! The collection over whole stores: what is stored comes out, what is damaged does not, and twice is once.

use std::collections::BTreeSet;

use inferbench_crds::{layout::record_path, spec::Objectives};
use inferbench_results::{
    fixtures,
    key::{sha256_hex, trial_key},
    manifest::Manifest,
    record::{Outcome, TrialRecord},
    row::Planned,
    tables::read_trials_csv,
};
use inferbench_runner::{
    store::{Store, StoreError, StoreOptions},
    sweep::collect::{Stored, collect, find_attempts, read_records},
};
use tempfile::tempdir;

const SWEEP: &str = "fixture";

/// Two batch sizes × three replicates.
fn plan() -> Vec<Planned> {
    (0..6)
        .map(|trial_index| {
            let mut request = fixtures::request();
            request.replicate = trial_index / 2;
            request.combination.batch_size = 1 + 7 * (trial_index % 2);
            Planned {
                trial_index,
                run_order: 5 - trial_index,
                request,
                outcome: None,
            }
        })
        .collect()
}

fn record(planned: &Planned, attempt: u32) -> TrialRecord {
    let mut record = fixtures::measured(planned.request.clone(), planned.trial_index);
    record.attempt = attempt;
    record.trial_key = trial_key(&record.request, attempt);
    record
}

fn store_record(store: &Store, record: &TrialRecord) -> String {
    let path = record_path(&record.trial_key);
    store.create(&path, &record.write().unwrap()).unwrap();
    path
}

/// Trial 0 is measured, 1 twice (first not valid), 2 damaged, 3 known to have failed, 4 not begun, 5 measured; and
/// there is a record of another plan.
pub fn a_sweep_is_collected(store: &Store) {
    let mut plan = plan();
    store_record(store, &record(&plan[0], 0));
    let mut invalid = record(&plan[1], 0);
    invalid.valid = false;
    invalid
        .invalid_reasons
        .push("throttled for 12% of the window".into());
    store_record(store, &invalid);
    store_record(store, &record(&plan[1], 1));
    let whole = record(&plan[2], 0).write().unwrap();
    let damaged = record_path(&record(&plan[2], 0).trial_key);
    store.create(&damaged, &whole[..whole.len() / 2]).unwrap();
    plan[3].outcome = Some(Outcome::Failed);
    store_record(store, &record(&plan[5], 0));
    let mut other = plan[0].clone();
    other.request.seed += 1;
    store_record(store, &record(&other, 0));
    store.create("trials/notes.txt", b"not ours").unwrap();

    let collected = collect(
        store,
        SWEEP,
        plan.clone(),
        1,
        &Objectives::default(),
        &[],
        None,
    )
    .unwrap();
    assert_eq!(collected.strangers, 1);
    assert_eq!(collected.corrupt.len(), 1);
    assert_eq!(collected.corrupt[0].path, damaged);
    assert!(
        collected.corrupt[0].problem.contains("no complete record"),
        "{}",
        collected.corrupt[0].problem
    );
    assert_eq!(store.get(&damaged).unwrap(), None, "it is out of the way");
    assert_eq!(
        store.get(&collected.corrupt[0].aside).unwrap().unwrap(),
        whole[..whole.len() / 2],
        "but not lost"
    );

    let rows: Vec<_> = collected
        .rows
        .iter()
        .map(|row| (row.trial_index, row.attempt, row.outcome, row.valid))
        .collect();
    let good = (Some(Outcome::Succeeded), Some(true));
    assert_eq!(
        rows,
        [
            (0, 0, good.0, good.1),
            (1, 0, good.0, Some(false)),
            (1, 1, good.0, good.1),
            (2, 0, None, None),
            (3, 0, Some(Outcome::Failed), None),
            (4, 0, None, None),
            (5, 0, good.0, good.1),
        ]
    );
    let counts = &collected.summary.counts;
    assert_eq!(
        (
            counts.trials,
            counts.succeeded,
            counts.failed,
            counts.pending
        ),
        (6, 3, 1, 2)
    );
    assert_eq!((counts.attempts, counts.invalid), (4, 0));

    // The manifest lists exactly the files that lie there.
    let manifest: Manifest =
        serde_json::from_slice(&store.get("manifest.json").unwrap().unwrap()).unwrap();
    assert_eq!(manifest, collected.manifest);
    let records = manifest
        .trials
        .iter()
        .filter_map(|trial| trial.record.as_ref());
    let listed: Vec<_> = manifest.files.iter().chain(records).collect();
    for file in &listed {
        let contents = store.get(&file.name).unwrap().unwrap();
        assert_eq!(
            (contents.len() as u64, sha256_hex(&contents)),
            (file.bytes, file.sha256.clone()),
            "{}",
            file.name
        );
    }
    let names: BTreeSet<&str> = listed.iter().map(|file| file.name.as_str()).collect();
    for name in [
        "trials.csv",
        "trials.parquet",
        "iterations.parquet",
        "telemetry.parquet",
        "summary.json",
    ] {
        assert!(names.contains(name), "{name}");
    }
    let csv = store.get("trials.csv").unwrap().unwrap();
    assert_eq!(read_trials_csv(&csv).unwrap(), collected.rows);

    // Again, and nothing is new; the damaged trial measured anew is all that changes.
    let again = collect(
        store,
        SWEEP,
        plan.clone(),
        1,
        &Objectives::default(),
        &[],
        None,
    )
    .unwrap();
    assert_eq!(
        (again.manifest, again.corrupt),
        (collected.manifest, Vec::new())
    );
    store_record(store, &record(&plan[2], 0));
    let complete = collect(store, SWEEP, plan, 1, &Objectives::default(), &[], None).unwrap();
    assert_eq!(
        (
            complete.summary.counts.succeeded,
            complete.summary.counts.pending
        ),
        (4, 1)
    );
}

#[test]
fn a_folder_is_collected() {
    let folder = tempdir().unwrap();
    let store = Store::open(folder.path().to_str().unwrap(), &StoreOptions::default()).unwrap();
    a_sweep_is_collected(&store);
}

#[test]
fn nothing_stored_is_collected_too() {
    let store = Store::in_memory().unwrap();
    let collected = collect(&store, SWEEP, plan(), 0, &Objectives::default(), &[], None).unwrap();
    assert_eq!(
        (collected.rows.len(), collected.summary.counts.pending),
        (6, 6)
    );
}

#[test]
fn a_spec_that_gains_a_level_keeps_what_is_stored() {
    let store = Store::in_memory().unwrap();
    let old = plan();
    for planned in &old {
        store_record(&store, &record(planned, 0));
    }
    // Three levels instead of two: the same requests under other numbers, and new ones.
    let grown: Vec<Planned> = (0..9)
        .map(|trial_index| {
            let mut request = fixtures::request();
            request.replicate = trial_index / 3;
            request.combination.batch_size = [1, 8, 16][trial_index as usize % 3];
            Planned {
                trial_index,
                run_order: trial_index,
                request,
                outcome: None,
            }
        })
        .collect();
    let found = find_attempts(&store, &grown, 1).unwrap();
    assert_eq!((found.attempts.len(), found.strangers), (6, 0));
    let collected = collect(&store, SWEEP, grown, 1, &Objectives::default(), &[], None).unwrap();
    let indices: Vec<u32> = collected.rows.iter().map(|row| row.trial_index).collect();
    assert_eq!(indices, (0..9).collect::<Vec<u32>>());
    let pending: Vec<u32> = collected
        .rows
        .iter()
        .filter(|r| r.outcome.is_none())
        .map(|r| r.batch_size)
        .collect();
    assert_eq!(pending, [16, 16, 16]);
}

#[test]
fn records_come_in_order_and_every_damage_is_found() {
    let store = Store::in_memory().unwrap();
    let plan: Vec<Planned> = (0..1200)
        .map(|trial_index| {
            let mut request = fixtures::request();
            request.replicate = trial_index;
            Planned {
                trial_index,
                run_order: trial_index,
                request,
                outcome: None,
            }
        })
        .collect();
    for planned in &plan {
        let record = record(planned, 0);
        let document = record.write().unwrap();
        let end = if planned.trial_index % 500 == 499 {
            document.len() - 1
        } else {
            document.len()
        };
        store
            .create(&record_path(&record.trial_key), &document[..end])
            .unwrap();
    }
    let found = find_attempts(&store, &plan, 1).unwrap();
    let mut seen = Vec::new();
    let each = |_: &_, stored: Stored| stored.record.trial_index;
    let corrupt = read_records(&store, &found.attempts, each, |index| {
        seen.push(index);
        Ok::<(), StoreError>(())
    })
    .unwrap();
    assert!(seen.is_sorted());
    assert_eq!(
        (
            seen.len(),
            corrupt.iter().map(|(at, _)| *at).collect::<Vec<_>>()
        ),
        (1198, vec![499, 999])
    );
}
