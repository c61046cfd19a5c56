//! Where two sweeps were not measured alike: machines, versions, weights.

use std::collections::{BTreeMap, BTreeSet};

use super::Difference;
use crate::{row::Row, sample::Combination};

/// A name, and the value that a trial has under it.
type Member = (&'static str, fn(&Row) -> Option<String>);

const MEMBERS: &[Member] = &[
    ("device", |row| row.device.clone()),
    ("device UUID", |row| row.device_uuid.clone()),
    ("driver", |row| row.driver.clone()),
    ("CUDA", |row| row.cuda.clone()),
    ("CPU", |row| row.cpu.clone()),
    ("compute threads", |row| {
        row.threads.map(|threads| threads.to_string())
    }),
    ("node", |row| row.node.clone()),
    ("engine", |row| row.engine.clone()),
    ("engine mode", |row| row.engine_mode.clone()),
    ("engine version", |row| row.engine_version.clone()),
    ("runner version", |row| row.runner_version.clone()),
    ("image digest", |row| row.image_digest.clone()),
];

/// Every member in which the trials of the matched combinations differ, and how many iterations were timed where that
/// differs for certain.
pub fn differences(matched: &[[&Combination<'_>; 2]]) -> Vec<Difference> {
    let mut found: Vec<Difference> = MEMBERS
        .iter()
        .filter_map(|(what, member)| {
            differing(
                (*what).into(),
                [0, 1].map(|at| trials(matched, at).filter_map(member).collect()),
            )
        })
        .collect();
    let mut revisions: BTreeMap<&str, [BTreeSet<String>; 2]> = BTreeMap::new();
    for at in [0, 1] {
        for row in trials(matched, at).filter(|row| !row.model_revision.is_empty()) {
            revisions.entry(&row.model).or_default()[at].insert(row.model_revision.clone());
        }
    }
    found.extend(
        revisions
            .into_iter()
            .filter_map(|(model, values)| differing(format!("revision of {model}"), values)),
    );
    found.extend(iterations(matched));
    found
}

/// Whether trials of different blocks were measured by one process.
pub fn blocks_share_processes(matched: &[[&Combination<'_>; 2]], at: usize) -> bool {
    let mut blocks: BTreeMap<&str, u32> = BTreeMap::new();
    trials(matched, at).any(|row| {
        row.process_id
            .as_deref()
            .is_some_and(|process| *blocks.entry(process).or_insert(row.replicate) != row.replicate)
    })
}

fn trials<'a>(matched: &'a [[&'a Combination<'a>; 2]], at: usize) -> impl Iterator<Item = &'a Row> {
    matched
        .iter()
        .flat_map(move |pair| pair[at].valid.iter().copied())
}

fn differing(what: String, [a, b]: [BTreeSet<String>; 2]) -> Option<Difference> {
    (a != b).then(|| Difference {
        what,
        a: a.into_iter().collect(),
        b: b.into_iter().collect(),
    })
}

/// Iterations depend on how fast a trial is, so only ranges that do not meet are a difference.
fn iterations(matched: &[[&Combination<'_>; 2]]) -> Option<Difference> {
    let [a, b] = [0, 1].map(|at| {
        let counts = || trials(matched, at).filter_map(|row| row.iterations);
        counts().min().zip(counts().max())
    });
    let (a, b) = a.zip(b)?;
    let shown = |(least, most)| {
        vec![if least == most {
            format!("{least}")
        } else {
            format!("{least} to {most}")
        }]
    };
    (a.1 < b.0 || b.1 < a.0).then(|| Difference {
        what: "timed iterations of a trial".into(),
        a: shown(a),
        b: shown(b),
    })
}
