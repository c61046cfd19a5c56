//! `manifest.json`: what a collection has made of which records. It is written last and commits the rest: a file whose
//! hash it does not carry belongs to a collection under way or given up.

use inferbench_crds::outcome::Outcome;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{counts::Counts, key::sha256_hex, summary::Summary};

/// Changes whenever the meaning or the shape of a manifest does.
pub const MANIFEST_VERSION: &str = "inferbench.dev/manifest/v1";

/// The files that a collection has made, and the records that it made them of.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// [`MANIFEST_VERSION`].
    pub schema_version: String,
    /// The sweep's name.
    pub sweep: String,
    /// How the trials ended.
    pub counts: Counts,
    /// The SHA-256 of the lines `trial index, outcome, key`, one per entry of `trials`: equal for equal results.
    pub outcomes_sha256: String,
    /// The files that were made, in the order of writing.
    pub files: Vec<FileEntry>,
    /// Every stored attempt, and every trial without one, by trial index and attempt.
    pub trials: Vec<TrialEntry>,
}

/// A file that a collection made.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FileEntry {
    /// Its name below the store's root.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// The SHA-256 of its contents, in hexadecimal.
    pub sha256: String,
}

impl FileEntry {
    /// The entry of a file with these contents.
    #[must_use]
    pub fn of(name: &str, contents: &[u8]) -> Self {
        Self {
            name: name.into(),
            bytes: contents.len() as u64,
            sha256: sha256_hex(contents),
        }
    }
}

/// A stored attempt at a trial, or a trial without one.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct TrialEntry {
    /// The trial's number in the design.
    pub trial_index: u32,
    /// The attempt.
    pub attempt: u32,
    /// How it ended; absent for a trial that has not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The record, `trials/<key>.json`; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<FileEntry>,
}

impl Manifest {
    /// The manifest of a collection.
    #[must_use]
    pub fn new(summary: &Summary, files: Vec<FileEntry>, trials: Vec<TrialEntry>) -> Self {
        let mut lines = String::new();
        for trial in &trials {
            use std::fmt::Write as _;
            let outcome = trial.outcome.map_or("", Outcome::as_str);
            let record = trial.record.as_ref().map_or("", |record| &record.name);
            let _ = writeln!(lines, "{},{outcome},{record}", trial.trial_index);
        }
        Self {
            schema_version: MANIFEST_VERSION.into(),
            sweep: summary.sweep.clone(),
            counts: summary.counts.clone(),
            outcomes_sha256: sha256_hex(lines.as_bytes()),
            files,
            trials,
        }
    }
}

#[cfg(test)]
mod tests {
    use inferbench_crds::spec::Objectives;

    use super::*;
    use crate::{fixtures, row::Row, summary::summarize};

    #[test]
    fn a_manifest() {
        let rows = [Row::of(&fixtures::record())];
        let summary = summarize("sweep", &rows, &Objectives::default());
        let name = format!("trials/{}.json", rows[0].trial_key);
        let trials = vec![
            TrialEntry {
                trial_index: 0,
                attempt: 0,
                outcome: Some(Outcome::Succeeded),
                record: Some(FileEntry::of(&name, b"{}")),
            },
            TrialEntry {
                trial_index: 1,
                attempt: 0,
                outcome: None,
                record: None,
            },
        ];
        let manifest = Manifest::new(&summary, vec![FileEntry::of("trials.csv", b"")], trials);
        insta::assert_snapshot!(serde_json::to_string_pretty(&manifest).unwrap());
    }
}
