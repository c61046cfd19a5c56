//! Records and a table that version 0.1.0 has written, when records had version 1: one trial that was measured and one
//! that cannot run.

use std::{fs, path::Path};

use inferbench_results::{
    record::{Outcome, SCHEMA_VERSION, TrialRecord},
    row::{IterationRow, Row},
    tables::{read_trials_csv, write_csv},
};
use serde_json::Value;

fn folder() -> &'static Path {
    Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/version1"
    ))
}

fn document(row: &Row) -> Vec<u8> {
    fs::read(folder().join(format!("{}.json", row.trial_key))).unwrap()
}

fn rows() -> Vec<Row> {
    read_trials_csv(&fs::read(folder().join("trials.csv")).unwrap()).unwrap()
}

#[test]
fn the_tables_are_as_they_were() {
    let stored = rows();
    assert_eq!(stored.len(), 2);
    let read: Vec<Row> = stored
        .iter()
        .map(|row| {
            let record = TrialRecord::read(&row.trial_key, &document(row)).unwrap();
            let read = Row::of(&record);
            assert_eq!(read.message, record.message);
            // A column that the table did not have yet.
            Row {
                message: None,
                ..read
            }
        })
        .collect();
    // By way of the table, which has fewer digits in a time.
    let read = read_trials_csv(&write_csv(&read).unwrap()).unwrap();
    assert_eq!(read, stored);
}

#[test]
fn every_sequence_has_the_times_of_its_batch() {
    for row in rows() {
        let document = document(&row);
        let before: Value = serde_json::from_slice(&document).unwrap();
        let record = TrialRecord::read(&row.trial_key, &document).unwrap();
        assert_eq!(record.schema_version, SCHEMA_VERSION);
        let before = before["iterations"].as_array().unwrap();
        assert_eq!(record.iterations.len(), before.len());
        assert_eq!(before.is_empty(), row.outcome == Some(Outcome::Unsupported));
        let after = record.iterations.iter().zip(IterationRow::of(&record, 0));
        for (before, (after, row)) in before.iter().zip(after) {
            let times: Vec<f64> = before["tokenMs"]
                .as_array()
                .unwrap()
                .iter()
                .map(|ms| ms.as_f64().unwrap())
                .collect();
            assert_eq!(after.sequences.len(), 1);
            assert_eq!(
                (after.sequences[0].count, &after.sequences[0].token_ms),
                (3, &times)
            );
            assert_eq!(
                (row.ttft_ms, row.ttlt_ms),
                (Some(times[0]), times.last().copied())
            );
        }
        // Written again it is of this version, and still the same.
        let again = record.write().unwrap();
        assert_eq!(TrialRecord::read(&row.trial_key, &again).unwrap(), record);
    }
}

#[test]
fn what_is_damaged_is_no_record_in_any_version() {
    for row in rows() {
        let document = document(&row);
        for end in [0, document.len() / 2, document.len() - 1] {
            assert!(TrialRecord::read(&row.trial_key, &document[..end]).is_err());
        }
        let lie = String::from_utf8(document)
            .unwrap()
            .replace("\"seed\":42", "\"seed\":43");
        assert!(TrialRecord::read(&row.trial_key, lie.as_bytes()).is_err());
    }
}
