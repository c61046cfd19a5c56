//! Several sweeps as one table, so that a report shows them side by side: another engine's as a control arm, say.

use std::collections::{BTreeMap, BTreeSet};

use crate::row::Row;

/// The rows of several sweeps as one, whose trials and run orders follow one another. A model that several of them
/// measured becomes a level of its own in each, named after what tells the sweeps apart: the engine where each has
/// another one, else the sweep's name, else its position.
#[must_use]
pub fn beside(sweeps: Vec<Vec<Row>>) -> Vec<Row> {
    let labels = labels(&sweeps);
    let mut measured_by: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    for (at, rows) in sweeps.iter().enumerate() {
        for row in rows {
            measured_by.entry(row.model.clone()).or_default().insert(at);
        }
    }
    let shared = |model: &str| {
        measured_by
            .get(model)
            .is_some_and(|sweeps| sweeps.len() > 1)
    };
    let mut all: Vec<Row> = Vec::new();
    for (rows, label) in sweeps.into_iter().zip(&labels) {
        let after = |last: Option<u32>| last.map_or(0, |last| last.saturating_add(1));
        let trials = after(all.iter().map(|row| row.trial_index).max());
        let orders = after(all.iter().map(|row| row.run_order).max());
        all.extend(rows.into_iter().map(|row| Row {
            trial_index: row.trial_index.saturating_add(trials),
            run_order: row.run_order.saturating_add(orders),
            model: if shared(&row.model) {
                format!("{} ({label})", row.model)
            } else {
                row.model.clone()
            },
            ..row
        }));
    }
    all
}

/// A name for each sweep that no other has.
fn labels(sweeps: &[Vec<Row>]) -> Vec<String> {
    let named = |of: fn(&Row) -> Option<&str>| -> Option<Vec<String>> {
        let names: Vec<String> = sweeps
            .iter()
            .map(|rows| {
                let names: BTreeSet<&str> = rows.iter().filter_map(of).collect();
                let mut names = names.into_iter().filter(|name| !name.is_empty());
                names
                    .next()
                    .filter(|_| names.next().is_none())
                    .map(str::to_owned)
            })
            .collect::<Option<_>>()?;
        let distinct: BTreeSet<&String> = names.iter().collect();
        (distinct.len() == names.len()).then_some(names)
    };
    named(|row| row.engine.as_deref())
        .or_else(|| named(|row| Some(&row.sweep)))
        .unwrap_or_else(|| (1..=sweeps.len()).map(|at| at.to_string()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sweep(name: &str, engine: &str, models: &[&str]) -> Vec<Row> {
        (0..)
            .zip(models)
            .map(|(at, model)| Row {
                sweep: name.into(),
                engine: Some(engine.into()),
                model: (*model).into(),
                trial_index: at,
                run_order: at,
                ..Row::default()
            })
            .collect()
    }

    fn models(rows: &[Row]) -> Vec<&str> {
        rows.iter().map(|row| row.model.as_str()).collect()
    }

    #[test]
    fn shared_models_are_told_apart() {
        let rows = beside(vec![
            sweep("ours", "candle", &["gpt2", "llama"]),
            sweep("theirs", "vllm", &["gpt2"]),
        ]);
        assert_eq!(models(&rows), ["gpt2 (candle)", "llama", "gpt2 (vllm)"]);
        let indices: Vec<u32> = rows.iter().map(|row| row.trial_index).collect();
        assert_eq!(indices, [0, 1, 2]);
        let same = || sweep("monday", "candle", &["gpt2"]);
        let rows = beside(vec![same(), sweep("friday", "candle", &["gpt2"])]);
        assert_eq!(models(&rows), ["gpt2 (monday)", "gpt2 (friday)"]);
        assert_eq!(
            models(&beside(vec![same(), same()])),
            ["gpt2 (1)", "gpt2 (2)"]
        );
    }

    #[test]
    fn one_sweep_stays_as_it_is() {
        let rows = sweep("ours", "candle", &["gpt2", "gpt2"]);
        assert_eq!(beside(vec![rows.clone()]), rows);
        assert_eq!(beside(Vec::new()), Vec::new());
    }
}
