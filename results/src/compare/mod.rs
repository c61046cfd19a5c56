//! `comparison.json`: two sweeps, A and B, over the combinations that both measured; by how much B's metrics differ
//! and whether that is shown.
//!
//! All goes over logarithms, because what changes between two sweeps multiplies: a ratio is B's geometric mean over
//! A's. A combination's mean goes over its blocks (replicates), the overall ratio over combinations, each with the same
//! weight.
//!
//! Blocks are what is independent: all combinations of one block share the machine's state of that time. So the
//! overall interval compares A's blocks with B's, each block being one number: its mean over combinations. Where a
//! sweep has no replicates it goes over combinations instead, and says so. From
//! [`ratio::BOOTSTRAP_FROM`] of either on it is a bootstrap-t, with fewer Student's t.

pub mod gate;
mod metric;
mod provenance;
pub mod ratio;
pub mod text;

use std::collections::BTreeMap;

use inferbench_crds::splitmix::SplitMix64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::{
    gate::{Gate, GateDecision, Limit},
    metric::{Compared, compare_metric},
};
use crate::{
    numbers,
    row::Row,
    sample::{
        Better, Combination, Factor, Level, Levels, METRICS, Metric, combine, factors,
        latest_attempts, whole_blocks,
    },
};

/// Changes whenever the meaning or the shape of a comparison does.
pub const COMPARISON_VERSION: &str = "inferbench.dev/comparison/v1";

/// The seed of every bootstrap, so that the same rows always give the same interval.
const SEED: u64 = 42;

/// The options of a comparison.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The names of A and B; where absent, by their sweeps' names.
    pub names: Option<[String; 2]>,
    /// The limits that B must keep to.
    pub limits: Vec<Limit>,
}

/// Two sweeps compared.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// [`COMPARISON_VERSION`].
    pub schema_version: String,
    /// The sweep that is compared with.
    pub a: Side,
    /// The sweep that is compared.
    pub b: Side,
    /// Where the two were not measured alike.
    pub differences: Vec<Difference>,
    /// Notes that a reader needs beside these figures.
    pub notes: Vec<String>,
    /// The limits, and how they are judged.
    pub gates: Vec<Gate>,
    /// Combinations with a valid trial in both.
    pub matched: u32,
    /// Combinations with a valid trial in A only.
    pub only_in_a: Vec<Levels>,
    /// Combinations with a valid trial in B only.
    pub only_in_b: Vec<Levels>,
    /// Each metric that both measured.
    pub metrics: Vec<MetricComparison>,
}

/// One of the two sweeps.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Side {
    /// Its name.
    pub name: String,
    /// Valid trials of the matched combinations.
    pub trials: u32,
    /// Trials left out because they cannot be vouched for.
    pub invalid: u32,
    /// Blocks that those trials come from.
    pub blocks: u32,
}

/// Something in which the two were not measured alike.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// The member: device, driver, …
    pub what: String,
    /// A's values; empty where unknown.
    pub a: Vec<String>,
    /// B's values.
    pub b: Vec<String>,
}

/// The values that an overall interval goes over.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Over {
    /// Blocks of A against blocks of B.
    Replicates,
    /// The combinations' ratios: what differs between two runs as a whole is not in it.
    Combinations,
}

/// How an interval was made.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Method")]
pub enum RatioMethod {
    /// Welch's t on logarithms of two samples.
    WelchT,
    /// Student's t on the combinations' log ratios.
    PairedT,
    /// Bootstrap-t.
    BootstrapT,
}

/// The difference that is shown.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// A time is longer or a rate is lower.
    Slower,
    /// A time is shorter or a rate is higher.
    Faster,
    /// Another metric is higher.
    Higher,
    /// Another metric is lower.
    Lower,
    /// Nothing, which does not say that the two are equal.
    #[serde(rename = "~")]
    NotShown,
}

/// A metric over all combinations that both measured.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MetricComparison {
    /// The metric.
    pub metric: String,
    /// Its unit; empty for a ratio.
    pub unit: String,
    /// Which of its values are the better ones.
    pub better: Better,
    /// The geometric mean over combinations of B's over A's.
    pub ratio: f64,
    /// The lower end of its 95% interval; absent where nothing says how sure it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// The upper end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    /// The values that the interval goes over.
    pub over: Over,
    /// How it was made; absent without an interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<RatioMethod>,
    /// The difference that is shown: the interval lies on one side of 1.
    pub verdict: Verdict,
    /// Combinations that were tested each by itself: the number that Holm's adjustment goes over.
    pub tested: u32,
    /// Each combination.
    pub combinations: Vec<CombinationRatio>,
}

/// A metric of one combination.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CombinationRatio {
    /// Its levels.
    #[serde(flatten)]
    pub levels: Levels,
    /// A's geometric mean over blocks.
    pub a: f64,
    /// B's.
    pub b: f64,
    /// A's blocks.
    pub blocks_a: u32,
    /// B's.
    pub blocks_b: u32,
    /// B's over A's.
    pub ratio: f64,
    /// The lower end of its own 95% interval (Welch's t on logarithms, not adjusted); absent without two blocks in
    /// each, or where nothing varies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// The upper end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
    /// The p value of no difference (Welch's t on logarithms).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p: Option<f64>,
    /// The same, Holm-adjusted over the metric's tested combinations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p_adjusted: Option<f64>,
    /// The smallest change that this test would have found with a probability of 80%: this ratio, or its
    /// inverse. See [`ratio::LogDifference::detectable`]. Absent where nothing could have been found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detectable: Option<f64>,
    /// The difference that is shown: the adjusted p value is at most 0.05.
    pub verdict: Verdict,
}

impl Comparison {
    /// Whether a limit is shown to be exceeded.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.gates
            .iter()
            .any(|gate| gate.decision == GateDecision::Failed)
    }
}

/// Compares two sweeps: the latest attempts at their trials, where they succeeded and are valid.
#[must_use]
pub fn compare(a: &[Row], b: &[Row], options: &Options) -> Comparison {
    let latest = [a, b].map(latest_attempts);
    // Where combinations ran no further once they were narrow enough, their last blocks are those that happened to vary
    // little: no interval of such trials holds as often as it says.
    let whole = latest.each_ref().map(|latest| whole_blocks(latest));
    let mut combined = whole.each_ref().map(|rows| combine(rows));
    let engines = contrast(&combined);
    if engines.is_some() {
        for combination in combined.iter_mut().flatten() {
            combination.levels = std::mem::take(&mut combination.levels).without(&Factor::ENGINE);
        }
    }
    let [by_a, by_b] = combined
        .each_ref()
        .map(|combinations| by_levels(combinations));
    let matched: Vec<[&Combination<'_>; 2]> = by_a
        .iter()
        .filter_map(|(levels, a)| Some([*a, *by_b.get(levels)?]))
        .collect();
    let only = |these: &ByLevels<'_>, others: &ByLevels<'_>| -> Vec<Levels> {
        these
            .keys()
            .filter(|levels| !others.contains_key(*levels))
            .map(|levels| (*levels).clone())
            .collect()
    };
    let compared: Vec<(&Metric, Compared)> = METRICS
        .iter()
        .zip(0..)
        .filter_map(|(metric, at)| {
            let mut random = SplitMix64::stream(SEED, at);
            Some((metric, compare_metric(metric, &matched, &mut random)?))
        })
        .collect();
    let names = names(options, a, b);
    let [side_a, side_b] = [0, 1].map(|at| side(&names[at], &combined[at], &matched, at));
    let mut notes = notes(&compared, [&side_a, &side_b], &matched, &combined);
    for (name, at) in [("A", 0), ("B", 1)] {
        let left_out = latest[at].len() - whole[at].len();
        if left_out > 0 && !matched.is_empty() {
            notes.push(format!(
                "{name}'s combinations ran no further once they were narrow enough: of it goes in what all of them have, {}",
                numbers::counted([&side_a, &side_b][at].blocks, "replicate")
            ));
        }
    }
    notes.extend(engines.map(|[a, b]| {
        format!("A was measured with the engine {a}, B with {b}: combinations are matched without the engine")
    }));
    let metrics: Vec<MetricComparison> = compared
        .into_iter()
        .filter_map(|(_, compared)| compared.metric)
        .collect();
    let gates = options
        .limits
        .iter()
        .map(|limit| {
            let found = metrics
                .iter()
                .find(|metric| metric.metric == limit.metric.name);
            gate::judge(limit, found)
        })
        .collect();
    Comparison {
        schema_version: COMPARISON_VERSION.into(),
        a: side_a,
        b: side_b,
        differences: provenance::differences(&matched),
        notes,
        gates,
        matched: matched.len() as u32,
        only_in_a: only(&by_a, &by_b),
        only_in_b: only(&by_b, &by_a),
        metrics,
    }
}

/// The engines of two sweeps of one engine each, where these differ: then they are what is compared, and not part of
/// the combinations.
fn contrast(combined: &[Vec<Combination<'_>>; 2]) -> Option<[Level; 2]> {
    let [a, b] = combined.each_ref().map(|combinations| {
        let mut levels = combinations.iter().map(|c| c.levels.get(&Factor::ENGINE));
        let first = levels.next()??;
        levels
            .all(|level| level == Some(first))
            .then(|| first.clone())
    });
    let (a, b) = (a?, b?);
    (a != b).then_some([a, b])
}

type ByLevels<'a> = BTreeMap<&'a Levels, &'a Combination<'a>>;

/// The combinations that have a valid trial.
fn by_levels<'a>(combinations: &'a [Combination<'a>]) -> ByLevels<'a> {
    combinations
        .iter()
        .filter(|combination| !combination.valid.is_empty())
        .map(|combination| (&combination.levels, combination))
        .collect()
}

fn names(options: &Options, a: &[Row], b: &[Row]) -> [String; 2] {
    options.names.clone().unwrap_or_else(|| {
        [a, b].map(|rows| {
            rows.first()
                .map_or_else(String::new, |row| row.sweep.clone())
        })
    })
}

fn side(
    name: &str,
    combinations: &[Combination<'_>],
    matched: &[[&Combination<'_>; 2]],
    at: usize,
) -> Side {
    let trials = || matched.iter().flat_map(|pair| &pair[at].valid);
    let mut blocks: Vec<u32> = trials().map(|row| row.replicate).collect();
    blocks.sort_unstable();
    blocks.dedup();
    Side {
        name: name.into(),
        trials: trials().count() as u32,
        invalid: combinations.iter().map(|c| c.invalid).sum(),
        blocks: blocks.len() as u32,
    }
}

fn notes(
    compared: &[(&Metric, Compared)],
    sides: [&Side; 2],
    matched: &[[&Combination<'_>; 2]],
    combined: &[Vec<Combination<'_>>; 2],
) -> Vec<String> {
    let mut notes = Vec::new();
    if matched.is_empty() {
        let factors = factors(combined.iter().flatten().map(|c| &c.levels));
        let titles: Vec<&str> = factors.iter().map(Factor::title).collect();
        notes.push(format!(
            "no combination{}{} has a valid trial in both: there is nothing to compare",
            if titles.is_empty() { "" } else { " of " },
            numbers::listed(&titles)
        ));
        return notes;
    }
    let fewest = sides[0].blocks.min(sides[1].blocks);
    if fewest < 2 {
        notes.push(
            "without replicates in both sweeps the overall intervals go over combinations: what differs between two \
             runs as a whole, such as the machine's state, is not in them, and no combination is tested by itself"
                .into(),
        );
    } else if fewest < 4 {
        notes.push(format!(
            "{fewest} blocks say little of how much blocks differ, so that intervals are wide; five or more narrow them"
        ));
    }
    for (name, at) in [("A", 0), ("B", 1)] {
        if provenance::blocks_share_processes(matched, at) {
            notes.push(format!(
                "{name}'s replicates shared processes: they are less independent than the intervals take them to be"
            ));
        }
        if sides[at].invalid > 0 {
            notes.push(format!(
                "{} trials of {name} cannot be vouched for and are left out",
                sides[at].invalid
            ));
        }
    }
    for (metric, compared) in compared {
        if compared.without_logarithm > 0 {
            notes.push(format!(
                "{}: {} combinations have values that are not above 0 and have no ratio",
                metric.title, compared.without_logarithm
            ));
        }
    }
    notes.push(
        "TTLT, output throughput and normalized latency are one measurement in three units; nothing is adjusted for \
         looking at several metrics"
            .into(),
    );
    notes
}

#[cfg(test)]
mod tests;
