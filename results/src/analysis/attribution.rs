//! Which factors a metric's variance comes from, by exact decomposition and by a forest's permutation importance, and
//! by what factor the metric changes per doubling of each.

use std::collections::{BTreeSet, HashMap};

use inferbench_crds::factor;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    anova::{Decomposition, Design},
    grid::{Absent, Axis, Grid, Values, mean},
    importance::{Importance, importance},
    least_squares::Normal,
};
use crate::{
    interval::{Interval, magnitude, over_blocks},
    numbers,
    sample::{Factor, Level, Metric},
};

pub use super::anova::{FactorShare, InteractionShare, ShareMethod};

/// Which factors one metric's variance comes from.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Attribution {
    /// The metric.
    pub metric: String,
    /// By what factor it changes, for each factor that varies.
    pub effects: Vec<Effect>,
    /// Of the variance of the metric's logarithm: relative changes. Absent where a value is not positive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<Shares>,
    /// Of the variance of the metric itself, as the published study has it: large values dominate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<Shares>,
    /// Why something above is missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// By what factor a metric changes along a factor, averaged over the combinations of the other levels.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Effect {
    /// The factor.
    pub factor: Factor,
    /// The metric's ratio per doubling of a numeric factor: 2^slope of log₂ metric over log₂ level, all factors fitted
    /// together. Absent for names and for levels of 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_doubling: Option<Interval>,
    /// The metric's ratio at each level to that at the first one, in geometric means over the balanced part of the
    /// grid.
    pub ratios: Vec<LevelRatio>,
    /// The basis of the intervals.
    #[serde(default)]
    pub evidence: Evidence,
}

/// The basis of an effect's intervals. Each goes over blocks: a block has its own starts of the engine, so that
/// differences between starts are in the interval of a factor that takes a fresh start, and fall out of that of a
/// factor whose levels one start can have.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// The variation that the factor is judged against.
    pub against: Against,
    /// Blocks in which two levels or more were measured.
    pub blocks: u32,
    /// Degrees of freedom of the intervals: blocks − 1. Of a selected design with a single block, combinations − terms of
    /// its model.
    pub degrees: u32,
    /// Starts of the engine at the level that has the fewest, in all blocks together. Absent where records do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts: Option<u32>,
}

/// The variation that a factor is judged against.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Against {
    /// Between starts of the engine: a change of level takes a fresh one.
    Starts,
    /// Between trials: a start can have all levels.
    #[default]
    Trials,
}

/// A level's ratio to the first one.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LevelRatio {
    /// The level.
    pub level: Level,
    /// The ratio.
    pub ratio: Interval,
}

/// How a variance divides among factors.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Shares {
    /// How it was computed.
    pub method: ShareMethod,
    /// R² of what the terms below explain together; 1 for a full grid.
    pub explained: f64,
    /// Each factor that varies.
    pub factors: Vec<FactorShare>,
    /// Each pair of factors: what both do together beyond what each does alone.
    pub interactions: Vec<InteractionShare>,
    /// Share of the trials' variance that lies between replicates of one combination; absent without replicates. The
    /// shares above are of the combinations' means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicate_noise: Option<f64>,
    /// Permutation importance on combinations that the forest had not seen.
    pub importance: Importance,
    /// Where the two methods disagree.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disagreements: Vec<String>,
}

/// The metrics whose variance is divided among factors.
pub const ATTRIBUTED: [&str; 16] = [
    "ttftMs",
    "ttltMs",
    "tpotMs",
    "outputThroughput",
    "outputThroughputPerGpu",
    "normalizedLatencyMs",
    "capacityRate",
    "capacityConcurrency",
    "gpuUtilMeanPct",
    "gpuDramActiveMeanPct",
    "gpuTensorActiveMeanPct",
    "gpuMemPeakMib",
    "joulesPerOutputToken",
    "perplexity",
    "repetitionRate",
    "promptSimilarity",
];

/// Splits and forests are the same for every metric and every sweep.
pub(super) const FOREST_SEED: u64 = 0x01f0_7e57;

/// Where half the importance and the total share are further apart than this, they disagree.
const AGREEMENT: f64 = 0.1;

/// Divides every metric that was measured among the factors that vary.
pub(super) fn attribute(grid: &Grid<'_>) -> Vec<Attribution> {
    let mut designs: Vec<(Vec<bool>, Option<Design>)> = Vec::new();
    ATTRIBUTED
        .iter()
        .filter_map(|name| Metric::named(name))
        .filter_map(|metric| {
            let values = grid.values(metric);
            let measured: Vec<bool> = values.means.iter().map(Option::is_some).collect();
            if !measured.contains(&true) {
                return None;
            }
            // Metrics are known of the same cells, but for a few: the work on the factors is done once.
            let known = designs.iter().position(|(of, _)| *of == measured);
            let design = known.unwrap_or_else(|| {
                let design = Design::new(grid, &measured);
                designs.push((measured, design));
                designs.len() - 1
            });
            Some(one(grid, metric, &values, designs[design].1.as_ref()))
        })
        .collect()
}

fn one(grid: &Grid<'_>, metric: &Metric, values: &Values, design: Option<&Design>) -> Attribution {
    let mut notes = Vec::new();
    let positive = values.means.iter().flatten().all(|mean| *mean > 0.0);
    let logarithms = values.map(f64::ln).filter(|_| positive);
    if logarithms.is_none() {
        notes.push("Not all values are positive: no relative effects.".into());
    }
    let (mut log, mut raw) = (None, None);
    match design {
        None => notes.push(
            "No factor varies among the combinations that have this metric, or they are fewer than the levels to tell \
             apart."
                .into(),
        ),
        Some(design) => {
            log = logarithms.as_ref().and_then(|values| shares(design, values));
            raw = shares(design, values);
            if raw.is_none() {
                notes.push("It does not vary.".into());
            }
        }
    }
    Attribution {
        metric: metric.name.into(),
        effects: logarithms
            .as_ref()
            .map_or_else(Vec::new, |logarithms| effects(grid, logarithms)),
        log,
        raw,
        notes,
    }
}

/// How the variance of a metric divides, without a forest.
#[cfg(test)]
pub(super) fn decomposed(grid: &Grid<'_>, values: &Values) -> Option<Decomposition> {
    let measured: Vec<bool> = values.means.iter().map(Option::is_some).collect();
    let means: Vec<f64> = values.means.iter().flatten().copied().collect();
    Design::new(grid, &measured)?.decompose(&means, &by_block_of_measured(values))
}

fn shares(design: &Design, values: &Values) -> Option<Shares> {
    let means: Vec<f64> = values.means.iter().flatten().copied().collect();
    let Decomposition {
        method,
        explained,
        factors,
        interactions,
    } = design.decompose(&means, &by_block_of_measured(values))?;
    let importance = importance(&design.ranks, &means, FOREST_SEED);
    let disagreements = disagreements(&factors, &importance);
    Some(Shares {
        method,
        explained,
        factors,
        interactions,
        replicate_noise: replicate_noise(values),
        importance,
        disagreements,
    })
}

/// The values by block of the cells that have any.
fn by_block_of_measured(values: &Values) -> Vec<Vec<Option<f64>>> {
    let of_block = |block: &Vec<Option<f64>>| {
        let cells = block.iter().zip(&values.means);
        cells
            .filter_map(|(value, mean)| mean.map(|_| *value))
            .collect()
    };
    values.by_block.iter().map(of_block).collect()
}

/// The variance between replicates of a combination (pooled, with its degrees of freedom) over that of all trials.
fn replicate_noise(values: &Values) -> Option<f64> {
    let trials = || values.by_block.iter().flatten().flatten().copied();
    let scale = magnitude(trials());
    let overall = mean(trials())?;
    let square = |difference: f64| (difference / scale).powi(2);
    let total: f64 = trials().map(|value| square(value - overall)).sum();
    let count = trials().count() as f64;
    let cells = values.means.iter().flatten().count() as f64;
    let within: f64 = values
        .by_block
        .iter()
        .flat_map(|block| block.iter().zip(&values.means))
        .filter_map(|(value, mean)| Some(square((*value)? - (*mean)?)))
        .sum();
    let share = (within / (count - cells)) / (total / (count - 1.0));
    (count > cells && share.is_finite()).then(|| share.min(1.0))
}

fn disagreements(factors: &[FactorShare], importance: &Importance) -> Vec<String> {
    importance
        .factors
        .iter()
        .filter_map(|found| {
            let share = factors.iter().find(|share| share.factor == found.factor)?;
            let half = found.mean / 2.0;
            let apart = (half - share.total).abs();
            (apart > AGREEMENT && apart > found.sd).then(|| {
                format!(
                    "{}: its total share is {}, half its permutation importance {}",
                    found.factor.title(),
                    numbers::share(share.total),
                    numbers::share(half)
                )
            })
        })
        .collect()
}

/// Ratios along every factor that varies, from the logarithms of a metric.
pub(super) fn effects(grid: &Grid<'_>, logarithms: &Values) -> Vec<Effect> {
    let doublings = doublings(grid, logarithms);
    grid.varying()
        .map(|(position, axis)| Effect {
            factor: axis.factor.clone(),
            per_doubling: doublings.get(&axis.factor).copied(),
            ratios: ratios(grid, position, axis, logarithms),
            evidence: evidence(grid, position, axis, logarithms),
        })
        .collect()
}

fn evidence(grid: &Grid<'_>, position: usize, axis: &Axis, logarithms: &Values) -> Evidence {
    let blocks = logarithms.by_block.iter().filter(|block| {
        let levels: BTreeSet<u32> = grid
            .cells
            .iter()
            .zip(*block)
            .filter_map(|(cell, value)| value.map(|_| cell.at[position]))
            .collect();
        levels.len() > 1
    });
    let blocks = blocks.count() as u32;
    // A parameter may be a member of requests: then trials that shared a start differ in it.
    let takes_start = match &axis.factor {
        Factor::Parameter(_) => !grid.is_within_starts(position),
        builtin => builtin.scope() == factor::Scope::Start,
    };
    Evidence {
        against: if takes_start {
            Against::Starts
        } else {
            Against::Trials
        },
        blocks,
        degrees: blocks.saturating_sub(1),
        starts: grid.starts(position),
    }
}

/// Each factor's ratio per doubling: the slopes of one regression of the logarithm on the logarithms of all counts and
/// on the names, in each block.
fn doublings(grid: &Grid<'_>, logarithms: &Values) -> HashMap<Factor, Interval> {
    let mut columns = 1;
    let mut numeric: Vec<(usize, usize)> = Vec::new();
    let mut named: Vec<(usize, usize)> = Vec::new();
    for (position, axis) in grid.varying() {
        if axis.doubles() {
            numeric.push((position, columns));
            columns += 1;
        } else {
            named.push((position, columns));
            columns += axis.levels.len() - 1;
        }
    }
    // Having no level is the outer factor's effect where there is one; else it has a column of its own.
    let mut without: Vec<(usize, usize)> = Vec::new();
    for (position, _) in grid
        .varying()
        .filter(|(_, axis)| axis.absent == Absent::Counts)
    {
        without.push((position, columns));
        columns += 1;
    }
    if columns > MAX_COLUMNS {
        return HashMap::new();
    }
    let rows: Vec<Vec<(usize, f64)>> = grid
        .cells
        .iter()
        .map(|cell| {
            let mut row = vec![(0, 1.0)];
            for (position, column) in &numeric {
                let numbers = grid.axes[*position].numbers.as_ref();
                let number = numbers.and_then(|numbers| numbers.get(cell.at[*position] as usize));
                row.extend(number.map(|number| (*column, number.log2())));
            }
            for (position, column) in &named {
                let level = cell.at[*position];
                if level > 0 && level < grid.axes[*position].none() {
                    row.push((column + level as usize - 1, 1.0));
                }
            }
            for (position, column) in &without {
                if cell.at[*position] == grid.axes[*position].none() {
                    row.push((*column, 1.0));
                }
            }
            row
        })
        .collect();
    let slopes = |values: &[Option<f64>]| -> Option<Vec<f64>> {
        let mut normal = Normal::new(columns);
        for (row, value) in rows.iter().zip(values) {
            if let Some(value) = value {
                normal.add(row, *value);
            }
        }
        let all: Vec<usize> = (0..columns).collect();
        let fitted = normal.fit(&all);
        // In a block that misses a level some slope may be anything.
        (fitted.rank == columns).then(|| {
            numeric
                .iter()
                .map(|(_, c)| fitted.coefficients[*c])
                .collect()
        })
    };
    let mut blocks: Vec<Vec<f64>> = logarithms
        .by_block
        .iter()
        .filter_map(|block| slopes(block))
        .collect();
    if blocks.len() < 2 {
        blocks = slopes(&logarithms.means).into_iter().collect();
    }
    numeric
        .iter()
        .enumerate()
        .filter_map(|(nth, (position, _))| {
            let slopes: Vec<f64> = blocks.iter().map(|block| block[nth]).collect();
            let ratio = over_blocks(&slopes)?.map(f64::exp)?;
            Some((grid.axes[*position].factor.clone(), ratio))
        })
        .collect()
}

/// More levels than any design has would make the regression slow.
const MAX_COLUMNS: usize = 512;

/// Each level against the first one, over pairs of combinations of the balanced part that differ in nothing else but in
/// factors that lie inside of this one.
fn ratios(grid: &Grid<'_>, position: usize, axis: &Axis, logarithms: &Values) -> Vec<LevelRatio> {
    let within: Vec<usize> = grid.within(position).collect();
    let others = |at: &[u32]| {
        let mut key: Vec<u32> = at.to_vec();
        key[position] = 0;
        within.iter().for_each(|inside| key[*inside] = 0);
        key
    };
    let balanced = || {
        grid.cells
            .iter()
            .enumerate()
            .filter(|(_, cell)| cell.balanced)
    };
    let Some(first) = balanced().map(|(_, cell)| cell.at[position]).min() else {
        return Vec::new();
    };
    let mut bases: HashMap<Vec<u32>, Vec<usize>> = HashMap::new();
    for (at, cell) in balanced().filter(|(_, cell)| cell.at[position] == first) {
        bases.entry(others(&cell.at)).or_default().push(at);
    }
    let mut pairs: Vec<Vec<(usize, usize)>> = vec![Vec::new(); axis.levels.len()];
    for (at, cell) in balanced().filter(|(_, cell)| cell.at[position] != first) {
        // Combinations without a level are beyond the last one.
        if let (Some(bases), Some(pairs)) = (
            bases.get(&others(&cell.at)),
            pairs.get_mut(cell.at[position] as usize),
        ) {
            pairs.extend(bases.iter().map(|base| (at, *base)));
        }
    }
    pairs
        .iter()
        .zip(&axis.levels)
        .filter_map(|(pairs, level)| {
            let difference = |values: &[Option<f64>]| {
                mean(
                    pairs
                        .iter()
                        .filter_map(|(a, b)| Some(values[*a]? - values[*b]?)),
                )
            };
            let mut blocks: Vec<f64> = logarithms
                .by_block
                .iter()
                .filter_map(|block| difference(block))
                .collect();
            if blocks.len() < 2 {
                blocks = difference(&logarithms.means).into_iter().collect();
            }
            Some(LevelRatio {
                level: level.clone(),
                ratio: over_blocks(&blocks)?.map(f64::exp)?,
            })
        })
        .collect()
}
