//! `analysis.json`: which factors matter, by how much, how the metrics behave along them, what to run, and whether to
//! trust it. It depends on nothing but the rows and the objectives.
//!
//! The unit is the combination: its mean over valid trials is one observation, because trials of one combination are
//! no independent evidence of what a factor does. Replicates (blocks) make the intervals.

mod anova;
pub mod attribution;
pub mod capacities;
pub mod correlation;
pub mod cost;
pub mod curves;
pub mod decisions;
pub mod expectations;
pub mod forest;
mod grid;
pub mod importance;
mod least_squares;
pub mod selected;
pub mod trust;
#[cfg(test)]
mod whole_plots;

use std::collections::{BTreeMap, BTreeSet};

use inferbench_crds::spec::{Design, Objectives};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::grid::{Coverage, FactorLevels};

use self::grid::Grid;
use crate::{
    interval::t_quantile,
    numbers,
    row::Row,
    sample::{self, Combination, combine, latest_attempts, whole_blocks},
    summary::Summary,
};

/// Changes whenever the meaning or the shape of an analysis does.
pub const ANALYSIS_VERSION: &str = "inferbench.dev/analysis/v1";

/// The effects of a sweep's factors, and how far to trust them.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Analysis {
    /// [`ANALYSIS_VERSION`].
    pub schema_version: String,
    /// The sweep's name.
    pub sweep: String,
    /// Corrections that the table needed before any figure: notes on rows that are there twice, numbers that are none,
    /// several trials of one replicate. Absent for a table that a sweep has made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub table_notes: Vec<String>,
    /// Notes that a reader needs beside these figures, and why some are missing.
    pub notes: Vec<String>,
    /// The combinations to run.
    pub decisions: decisions::Decisions,
    /// Effects and behaviour: all models together first, where there are several, then each model.
    pub scopes: Vec<Scope>,
    /// The cost of an iteration, per level of every factor but the batch size and the lengths.
    pub cost_models: Vec<cost::CostModel>,
    /// Whether to trust it.
    pub trust: trust::Trust,
    /// Of a design that selects combinations: what was declared and what was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selected: Option<selected::Selected>,
    /// The expectations, with the verdict on each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expectations: Vec<expectations::Judgement>,
    /// Of trials that searched their load: the brackets of each configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capacities: Vec<capacities::Capacities>,
}

/// The analysis of one model's combinations, or of all.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Scope {
    /// The model; absent for all together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Every factor with its levels, also those that have one only.
    pub factors: Vec<FactorLevels>,
    /// How much of the grid of levels was measured.
    pub coverage: Coverage,
    /// How factors and metrics go together.
    pub correlation: correlation::Correlation,
    /// Which factors the metrics' variance comes from, per metric.
    pub attribution: Vec<attribution::Attribution>,
    /// How each metric behaves along each numeric factor.
    pub curves: Vec<curves::Curve>,
}

/// Analyses a sweep's rows, which `summary` summarizes under the same objectives.
#[must_use]
pub fn analyze(rows: &[Row], summary: &Summary, objectives: &Objectives) -> Analysis {
    let latest = latest_attempts(rows);
    let combinations = combine(&whole_blocks(&latest));
    let models: BTreeSet<&str> = combinations
        .iter()
        .map(|combination| sample::model(&combination.levels))
        .collect();
    let mut scopes = Vec::new();
    let mut nested = Vec::new();
    let mut push = |model: Option<&str>, combinations: &[&Combination<'_>]| {
        let grid = Grid::new(combinations);
        nested.extend(grid.notes());
        scopes.push(scope(model, grid));
    };
    if models.len() > 1 {
        push(None, &combinations.iter().collect::<Vec<_>>());
    }
    for model in &models {
        let own: Vec<&Combination<'_>> = combinations
            .iter()
            .filter(|combination| sample::model(&combination.levels) == *model)
            .collect();
        push(Some(model), &own);
    }
    nested.extend(starts_across_blocks(&latest));
    Analysis {
        schema_version: ANALYSIS_VERSION.into(),
        sweep: summary.sweep.clone(),
        table_notes: Vec::new(),
        notes: notes(&scopes, nested),
        decisions: decisions::decide(summary, objectives),
        scopes,
        cost_models: cost::model(&combinations),
        trust: trust::judge(&summary.counts, &latest, &combine(&latest)),
        selected: None,
        expectations: Vec::new(),
        capacities: capacities::of(&latest),
    }
}

/// The same for the rows of this design: where it selects combinations, effects are those of the model that it declares.
#[must_use]
pub fn analyze_design(
    rows: &[Row],
    summary: &Summary,
    objectives: &Objectives,
    design: &Design,
) -> Analysis {
    let mut analysis = analyze(rows, summary, objectives);
    if let Some(selection) = selected::Selection::new(rows, design) {
        selection.describe(&mut analysis);
    }
    analysis
}

fn scope(model: Option<&str>, grid: Grid<'_>) -> Scope {
    Scope {
        model: model.map(str::to_owned),
        factors: grid
            .axes
            .iter()
            .map(|axis| FactorLevels {
                factor: axis.factor.clone(),
                levels: axis.levels.clone(),
            })
            .collect(),
        correlation: correlation::correlate(&grid),
        attribution: attribution::attribute(&grid),
        curves: curves::follow(&grid),
        coverage: grid.coverage,
    }
}

/// A sentence where one start of the engine served several blocks, as it may in results from elsewhere.
fn starts_across_blocks(latest: &[&Row]) -> Option<String> {
    let mut blocks: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
    for row in latest {
        let process = row.process_id.as_deref();
        blocks
            .entry(process.unwrap_or_default())
            .or_default()
            .insert(row.replicate);
    }
    blocks.remove("");
    blocks.values().any(|blocks| blocks.len() > 1).then(|| {
        "Replicates shared starts of the engine: what starts differ by is not in the intervals, which are too narrow for \
         engines, GPUs and parameters."
            .into()
    })
}

fn notes(scopes: &[Scope], nested: Vec<String>) -> Vec<String> {
    let mut notes = Vec::new();
    if scopes.iter().all(|scope| scope.coverage.measured == 0) {
        notes.push("No valid trial: nothing could be analysed.".into());
        return notes;
    }
    notes.push(
        "Shares and importances say how the variance over the levels that were chosen divides: other levels, other \
         shares."
            .into(),
    );
    if scopes
        .iter()
        .any(|scope| scope.coverage.measured < scope.coverage.grid)
    {
        notes.push(
            "Combinations are missing from the grid of levels: shares are of type II, and means over levels go over the \
             balanced part only."
                .into(),
        );
    }
    notes.extend(scopes.first().and_then(few_starts));
    for note in nested {
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    notes.push(
        "normalizedLatencyMs is exactly the inverse of outputThroughput: no second finding. gpuUtil is the share of time \
         in which any kernel ran, not of the device in use."
            .into(),
    );
    notes
}

/// Starts at a level below which its interval is said to rest on few.
const FEW_STARTS: u32 = 3;

/// A sentence about factors that were judged by few starts of the engine.
fn few_starts(scope: &Scope) -> Option<String> {
    let mut effects: Vec<&attribution::Effect> = Vec::new();
    for effect in scope.attribution.iter().flat_map(|of| &of.effects) {
        let few = effect
            .evidence
            .starts
            .is_some_and(|starts| starts < FEW_STARTS);
        let is_of_start = effect.evidence.against == attribution::Against::Starts;
        if few && is_of_start && effects.iter().all(|known| known.factor != effect.factor) {
            effects.push(effect);
        }
    }
    let titles: Vec<&str> = effects.iter().map(|effect| effect.factor.title()).collect();
    let starts = effects
        .iter()
        .filter_map(|effect| effect.evidence.starts)
        .min()?;
    let blocks = effects.iter().map(|effect| effect.evidence.blocks).min()?;
    let started = match starts {
        1 => "started once".into(),
        starts => format!("started {starts} times"),
    };
    Some(format!(
        "At some level of {} the engine was {started} only: {}",
        numbers::listed(&titles),
        match blocks {
            0 | 1 =>
                "without a second block nothing tells an effect from what any two starts differ by."
                    .into(),
            blocks => format!(
                "with {} of freedom a 95% interval is {:.1} standard errors wide to each side; more replicates narrow it fast.",
                numbers::counted(blocks - 1, "degree"),
                t_quantile(f64::from(blocks) - 1.0)
            ),
        }
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixtures::Sweep,
        sample::{Factor, Level, Metric},
    };

    /// How often, of 1,000 seeded sweeps, four kinds of interval hold the truth.
    fn covered(replicates: u32) -> [u32; 4] {
        let mut counts = [0; 4];
        // The mean of a time of 1 ms under noise of 0.1 on the log scale.
        let centre = (0.1_f64 * 0.1 / 2.0).exp();
        let truth = |batch: f64, output: f64| 3.0 * batch.powf(0.3) * output;
        for seed in 0..1000 {
            let rows = Sweep {
                batches: &[1, 2, 4, 8, 16],
                inputs: &[16],
                outputs: &[16, 32],
                gpus: &[1],
                replicates,
                noise: 0.1,
                seed,
                ..Sweep::default()
            }
            .rows(|row| truth(row.batch_size.into(), row.output_len.into()));
            let latest = latest_attempts(&rows);
            let combinations = combine(&latest);
            let grid = Grid::new(&combinations.iter().collect::<Vec<_>>());
            let ttlt = Metric::named("ttltMs").unwrap();
            let logarithms = grid.values(ttlt).map(f64::ln).unwrap();
            let effects = attribution::effects(&grid, &logarithms);
            let batch = effects
                .iter()
                .find(|effect| effect.factor == Factor::BATCH_SIZE)
                .unwrap();
            let last = batch.ratios.last().unwrap();
            assert_eq!(last.level, Level::from(16));
            let (position, axis) = grid
                .varying()
                .find(|(_, axis)| axis.factor == Factor::BATCH_SIZE)
                .unwrap();
            let curve = curves::curve(&grid, position, axis, ttlt).unwrap();
            let first = curve.points[0];
            let found = [
                (
                    first.mean,
                    centre * (truth(1.0, 16.0) + truth(1.0, 32.0)) / 2.0,
                ),
                (batch.per_doubling.unwrap(), 2_f64.powf(0.3)),
                (last.ratio, 16_f64.powf(0.3)),
                (curve.exponent.unwrap(), 0.3),
            ];
            for (count, (interval, truth)) in counts.iter_mut().zip(found) {
                let (low, high) = (interval.low.unwrap(), interval.high.unwrap());
                *count += u32::from(low <= truth && truth <= high);
            }
        }
        counts
    }

    #[test]
    fn intervals_hold_the_truth_as_often_as_they_say() {
        for replicates in [3, 10] {
            for (what, count) in ["mean", "per doubling", "level", "exponent"]
                .iter()
                .zip(covered(replicates))
            {
                assert!(
                    (930..=970).contains(&count),
                    "{what}, {replicates} blocks: {count} of 1000"
                );
            }
        }
    }
}
