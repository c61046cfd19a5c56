//! `analysis.json`: which factors matter, by how much, how the metrics behave along them, what to run, and whether to
//! trust it. It depends on nothing but the rows and the objectives.
//!
//! The unit is the combination: its mean over valid trials is one observation, because trials of one combination are
//! no independent evidence of what a factor does. Replicates (blocks) make the intervals.

mod anova;
pub mod attribution;
pub mod correlation;
pub mod cost;
pub mod curves;
pub mod decisions;
pub mod forest;
mod grid;
pub mod importance;
mod least_squares;
pub mod trust;

use inferbench_crds::spec::Objectives;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::grid::Grid;
use crate::{
    row::Row,
    sample::{Combination, Factor, Level, combine, latest_attempts},
    summary::Summary,
};

/// Changes whenever the meaning or the shape of an analysis does.
pub const ANALYSIS_VERSION: &str = "inferbench.dev/analysis/v1";

/// What a sweep says about its factors.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Analysis {
    /// [`ANALYSIS_VERSION`].
    pub schema_version: String,
    /// The sweep's name.
    pub sweep: String,
    /// What a reader has to know of these figures, and what could not be computed and why.
    pub notes: Vec<String>,
    /// What to run.
    pub decisions: decisions::Decisions,
    /// What matters and how it behaves: all models together first, where there are several, then each model.
    pub scopes: Vec<Scope>,
    /// What an iteration costs, per model, number of GPUs and data type.
    pub cost_models: Vec<cost::CostModel>,
    /// Whether to trust it.
    pub trust: trust::Trust,
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

/// A factor and its levels, in ascending order.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct FactorLevels {
    /// The factor.
    pub factor: Factor,
    /// Its levels.
    pub levels: Vec<Level>,
}

/// How much of the grid of levels was measured.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Coverage {
    /// Combinations in the full grid of the levels.
    pub grid: u32,
    /// Those with at least one valid trial.
    pub measured: u32,
    /// Combinations of the balanced part: a full grid over the levels that are left when those with holes are dropped.
    /// Means over a factor's levels are compared there. Equal to `grid` where nothing is missing.
    pub balanced: u32,
    /// The levels that the balanced part does without.
    pub dropped: Vec<FactorLevels>,
}

/// A figure with its 95% interval over replicates, where there are at least two.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Interval {
    /// The figure.
    pub value: f64,
    /// The interval's lower end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// The interval's upper end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
}

/// Analyses a sweep's rows, which `summary` summarizes under the same objectives.
#[must_use]
pub fn analyze(rows: &[Row], summary: &Summary, objectives: &Objectives) -> Analysis {
    let latest = latest_attempts(rows);
    let combinations = combine(&latest);
    let mut models: Vec<&str> = combinations
        .iter()
        .map(|combination| combination.levels.model.as_str())
        .collect();
    models.dedup();
    let mut scopes = Vec::new();
    if models.len() > 1 {
        scopes.push(scope(None, &combinations.iter().collect::<Vec<_>>()));
    }
    for model in &models {
        let own: Vec<&Combination<'_>> = combinations
            .iter()
            .filter(|combination| combination.levels.model == *model)
            .collect();
        scopes.push(scope(Some(model), &own));
    }
    Analysis {
        schema_version: ANALYSIS_VERSION.into(),
        sweep: summary.sweep.clone(),
        notes: notes(&scopes),
        decisions: decisions::decide(summary, objectives),
        scopes,
        cost_models: cost::model(&combinations),
        trust: trust::judge(&summary.counts, &latest, &combinations),
    }
}

fn scope(model: Option<&str>, combinations: &[&Combination<'_>]) -> Scope {
    let grid = Grid::new(combinations);
    Scope {
        model: model.map(str::to_owned),
        factors: grid
            .axes
            .iter()
            .map(|axis| FactorLevels {
                factor: axis.factor,
                levels: axis.levels.clone(),
            })
            .collect(),
        correlation: correlation::correlate(&grid),
        attribution: attribution::attribute(&grid),
        curves: curves::follow(&grid),
        coverage: grid.coverage,
    }
}

fn notes(scopes: &[Scope]) -> Vec<String> {
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
    notes.push(
        "normalizedLatencyMs is exactly the inverse of outputThroughput: no second finding. gpuUtil is the share of time \
         in which any kernel ran, not of the device in use."
            .into(),
    );
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixtures::Sweep, sample::Metric};

    /// How often, of 1,000 seeded sweeps, four kinds of interval hold the truth.
    fn covered(replicates: u32) -> [u32; 4] {
        let mut counts = [0; 4];
        // What a time of 1 ms is in the mean, under noise of 0.1 on the log scale.
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
                .find(|effect| effect.factor == Factor::BatchSize)
                .unwrap();
            let last = batch.ratios.last().unwrap();
            assert_eq!(last.level, Level::Number(16));
            let (position, axis) = grid
                .varying()
                .find(|(_, axis)| axis.factor == Factor::BatchSize)
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
