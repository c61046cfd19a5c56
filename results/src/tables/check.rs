//! Faults of a table of trials that was made elsewhere, and how they are mended.

use std::collections::{BTreeMap, btree_map::Entry};

use super::{TableError, write_text};
use crate::{
    columns::{Cell, Kind, TableRow as _},
    figures::lookup::{in_words, name},
    numbers,
    row::Row,
    sample::{Levels, factors, is_valid, latest_attempts, model},
};

/// A table of trials for figures to rest on.
#[derive(Clone, Debug, PartialEq)]
pub struct TrialsTable {
    /// One for each attempt at a trial, without a number that is not finite.
    pub rows: Vec<Row>,
    /// Notes on the table that a reader of any figure needs; empty for a table that a sweep has made.
    pub notes: Vec<String>,
}

/// A row, and the line at which it begins.
type Line = (u64, Row);

/// Columns that say which trial a row is of, and its place in a sweep: trials of one record may differ in these.
const PLACE: [&str; 5] = ["sweep", "trial_index", "replicate", "run_order", "model"];

/// Cases that a note names; it counts the others.
const NAMED: usize = 5;

/// Columns in which two rows differ that an error names.
const NAMED_COLUMNS: usize = 3;

pub(super) fn check(mut lines: Vec<Line>) -> Result<TrialsTable, TableError> {
    let mut notes = Vec::new();
    // Before rows are compared: a number that is none would not be equal to itself.
    notes.extend(not_finite(&mut lines));
    notes.extend(repeated(&mut lines)?);
    let (at, rows): (Vec<u64>, Vec<Row>) = lines.into_iter().unzip();
    notes.extend(copies(&at, &rows));
    notes.extend(several_in_a_replicate(&at, &rows));
    Ok(TrialsTable { rows, notes })
}

/// Empties cells of numbers that are not finite, and names those of valid rows.
fn not_finite(lines: &mut [Line]) -> Option<String> {
    let mut found = Vec::new();
    for (line, row) in lines {
        let valid = is_valid(row);
        for at in numbers_at() {
            let Cell::Number(number) = Row::CELLS[at](row) else {
                continue;
            };
            if number.is_finite() {
                continue;
            }
            if valid {
                let column = &Row::COLUMNS[at].name;
                found.push(format!("line {line}, {column}: {number}"));
            }
            Row::SETTERS[at](row, "");
        }
    }
    note(
        "Numbers of valid rows of the table that are not finite count as not measured",
        &found,
    )
}

/// Takes out rows that are there twice.
///
/// # Errors
/// Where two rows are of one attempt at one trial, or of one record, and differ.
fn repeated(lines: &mut Vec<Line>) -> Result<Option<String>, TableError> {
    let mut by_trial: BTreeMap<(u32, u32), usize> = BTreeMap::new();
    let mut by_record: BTreeMap<String, usize> = BTreeMap::new();
    let mut found = Vec::new();
    let mut kept: Vec<Line> = Vec::with_capacity(lines.len());
    for (line, row) in lines.drain(..) {
        let trial = (row.trial_index, row.attempt);
        if let Some(at) = by_trial.get(&trial) {
            let (first, other) = &kept[*at];
            let differing = differing(other, &row, &[]);
            if !differing.is_empty() {
                let (index, attempt) = trial;
                return Err(contradiction(
                    [*first, line],
                    &format!("both are of trial_index {index}, attempt {attempt}"),
                    &differing,
                    "give the other a trial_index of its own",
                ));
            }
            found.push(format!("lines {first} and {line}"));
            continue;
        }
        if let Some(at) = by_record.get(&row.trial_key) {
            let (first, other) = &kept[*at];
            let differing = differing(other, &row, &PLACE);
            if !differing.is_empty() {
                return Err(contradiction(
                    [*first, line],
                    &format!("both have the trial_key {:?}", row.trial_key),
                    &differing,
                    "leave trial_key empty where there is no record",
                ));
            }
            // One record may stand for models of several names.
            if other.levels() == row.levels() {
                found.push(format!("lines {first} and {line}"));
                continue;
            }
        }
        by_trial.insert(trial, kept.len());
        if !row.trial_key.is_empty() {
            by_record.entry(row.trial_key.clone()).or_insert(kept.len());
        }
        kept.push((line, row));
    }
    *lines = kept;
    Ok(note(
        "Rows of the table that are there twice count once",
        &found,
    ))
}

/// A column, and what each of two rows has there.
type Difference = (String, [String; 2]);

fn differing(a: &Row, b: &Row, but: &[&str]) -> Vec<Difference> {
    let text = |cell: Cell<'_>| {
        let mut text = String::new();
        write_text(cell, &mut text);
        if text.is_empty() {
            text.push_str("nothing");
        }
        text
    };
    let further = Row::further_columns(&[a.clone(), b.clone()]);
    let columns = Row::COLUMNS.iter().chain(&further);
    columns
        .zip(a.all_cells(&further).into_iter().zip(b.all_cells(&further)))
        .filter(|(column, (a, b))| a != b && !but.contains(&&*column.name))
        .map(|(column, (a, b))| (column.name.to_string(), [text(a), text(b)]))
        .collect()
}

fn contradiction(
    lines: [u64; 2],
    shared: &str,
    differing: &[Difference],
    remedy: &str,
) -> TableError {
    let mut named: Vec<String> = differing
        .iter()
        .take(NAMED_COLUMNS)
        .map(|(column, [a, b])| format!("{column} ({a}, {b})"))
        .collect();
    if differing.len() > NAMED_COLUMNS {
        let more = (differing.len() - NAMED_COLUMNS) as u64;
        named.push(format!("{} more", numbers::counted(more, "column")));
    }
    TableError::Contradiction {
        table: Row::NAME,
        lines,
        problem: format!(
            "{shared}, but they differ in {}, and nothing says which is right; take one out, or {remedy}",
            numbers::listed(&named)
        ),
    }
}

/// Names valid trials of one combination whose figures are the very same, as two measurements never are; `at` are the
/// rows' lines.
fn copies(at: &[u64], rows: &[Row]) -> Option<String> {
    let mut known: BTreeMap<(Levels, Vec<Option<u64>>), u64> = BTreeMap::new();
    let mut found = Vec::new();
    for (line, row) in at.iter().zip(rows).filter(|(_, row)| is_valid(row)) {
        let figures: Vec<Option<f64>> = numbers_at()
            .map(|at| match Row::CELLS[at](row) {
                Cell::Number(number) => Some(number),
                _ => None,
            })
            .collect();
        if figures.iter().flatten().copied().map(digits).sum::<usize>() < TELLING {
            continue;
        }
        let bits = figures.iter().map(|of| of.map(f64::to_bits)).collect();
        match known.entry((row.levels(), bits)) {
            Entry::Occupied(first) => found.push(format!("lines {} and {line}", first.get())),
            Entry::Vacant(place) => {
                place.insert(*line);
            }
        }
    }
    note(
        "Different trials of one combination have the very same figures in the table: if they are copies, take them out, for \
         a copy is no replicate",
        &found,
    )
}

/// Digits in all figures of a trial from which on another one does not have the same by chance: a few rounded numbers
/// may well come again.
const TELLING: usize = 12;

fn digits(number: f64) -> usize {
    let text = format!("{number:e}");
    let mantissa = text.split('e').next().unwrap_or_default();
    mantissa.chars().filter(char::is_ascii_digit).count()
}

/// Names combinations that have several valid trials in one replicate; `at` are the rows' lines.
fn several_in_a_replicate(at: &[u64], rows: &[Row]) -> Option<String> {
    let attempt = |row: &Row| (row.trial_index, row.attempt);
    let at: BTreeMap<(u32, u32), u64> = rows.iter().map(attempt).zip(at.iter().copied()).collect();
    let mut trials: BTreeMap<(Levels, u32), Vec<u64>> = BTreeMap::new();
    for row in latest_attempts(rows)
        .into_iter()
        .filter(|row| is_valid(row))
    {
        let of = trials.entry((row.levels(), row.replicate)).or_default();
        of.extend(at.get(&attempt(row)));
    }
    trials.retain(|_, lines| lines.len() > 1);
    let mut several: Vec<((Levels, u32), Vec<u64>)> = trials.into_iter().collect();
    several.sort_by_key(|(_, lines)| lines[0]);
    let asked = factors(several.iter().map(|((levels, _), _)| levels));
    let found: Vec<String> = several
        .iter()
        .map(|((levels, replicate), lines)| {
            let lines: Vec<String> = lines.iter().map(u64::to_string).collect();
            format!(
                "lines {} of {}, {}, in replicate {replicate}",
                numbers::listed(&lines),
                name(model(levels)),
                in_words(levels, &asked)
            )
        })
        .collect();
    note(
        "Several valid rows of one combination in one replicate of the table count as one, their mean, in every figure; \
         number those that are independent of each other in the column replicate",
        &found,
    )
}

/// Where the columns of numbers stand.
fn numbers_at() -> impl Iterator<Item = usize> {
    let columns = Row::COLUMNS.iter().enumerate();
    columns
        .filter(|(_, column)| column.kind == Kind::Number)
        .map(|(at, _)| at)
}

/// A note: the fault, and the cases of it, the first ones by name.
fn note(said: &str, found: &[String]) -> Option<String> {
    if found.is_empty() {
        return None;
    }
    let mut named: Vec<&str> = found.iter().take(NAMED).map(String::as_str).collect();
    let more = format!(
        "{} more",
        numbers::count((found.len().max(NAMED) - NAMED) as u64)
    );
    if found.len() > NAMED {
        named.push(&more);
    }
    Some(format!("{said}: {}.", named.join("; ")))
}
