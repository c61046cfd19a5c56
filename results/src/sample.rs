//! The sample that all statistics go over: the combinations with the latest valid attempts at their trials, the factors
//! that they differ in and the metrics that were measured.

use std::collections::{BTreeMap, BTreeSet};

pub use inferbench_crds::factor::{Factor, Level, Levels};
use inferbench_crds::outcome::Outcome;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    interval::{Observation, Within, magnitude},
    row::Row,
};

/// The times over whose iterations a metric's spread inside a trial is known.
#[derive(Clone, Copy, Debug)]
enum Basis {
    Ttft,
    Ttlt,
    Tpot,
    Unknown,
}

/// Which values of a metric are the better ones.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Better {
    /// The low ones.
    Lower,
    /// The high ones.
    Higher,
    /// It says nothing by itself.
    Neither,
}

/// A quantity that is measured of a trial.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name in documents.
    pub name: &'static str,
    /// Its name in text.
    pub title: &'static str,
    /// Its unit; empty for a ratio.
    pub unit: &'static str,
    /// Which values are the better ones.
    pub better: Better,
    basis: Basis,
    get: fn(&Row) -> Option<f64>,
}

/// Every metric that is summarized. Rates have the relative error of the mean time that they come from.
pub const METRICS: &[Metric] = &[
    Metric {
        name: "ttftMs",
        title: "TTFT",
        unit: "ms",
        better: Better::Lower,
        basis: Basis::Ttft,
        get: |row| row.mean_ttft_ms,
    },
    Metric {
        name: "ttltMs",
        title: "TTLT",
        unit: "ms",
        better: Better::Lower,
        basis: Basis::Ttlt,
        get: |row| row.mean_ttlt_ms,
    },
    Metric {
        name: "tpotMs",
        title: "TPOT",
        unit: "ms",
        better: Better::Lower,
        basis: Basis::Tpot,
        get: |row| row.mean_tpot_ms,
    },
    Metric {
        name: "medianItlMs",
        title: "median ITL",
        unit: "ms",
        better: Better::Lower,
        basis: Basis::Unknown,
        get: |row| row.median_itl_ms,
    },
    Metric {
        name: "p90ItlMs",
        title: "90th percentile of ITL",
        unit: "ms",
        better: Better::Lower,
        basis: Basis::Unknown,
        get: |row| row.p90_itl_ms,
    },
    Metric {
        name: "p50TtftMs",
        title: "median TTFT of requests",
        unit: "ms",
        better: Better::Lower,
        basis: Basis::Unknown,
        get: |row| row.p50_ttft_ms,
    },
    Metric {
        name: "p99TtftMs",
        title: "99th percentile of TTFT",
        unit: "ms",
        better: Better::Lower,
        basis: Basis::Unknown,
        get: |row| row.p99_ttft_ms,
    },
    Metric {
        name: "p99TpotMs",
        title: "99th percentile of TPOT",
        unit: "ms",
        better: Better::Lower,
        basis: Basis::Unknown,
        get: |row| row.p99_tpot_ms,
    },
    Metric {
        name: "p99E2eMs",
        title: "99th percentile of E2E",
        unit: "ms",
        better: Better::Lower,
        basis: Basis::Unknown,
        get: |row| row.p99_e2e_ms,
    },
    Metric {
        name: "outputThroughput",
        title: "output throughput",
        unit: "tokens/s",
        better: Better::Higher,
        basis: Basis::Ttlt,
        get: |row| row.output_throughput,
    },
    Metric {
        name: "decodeThroughput",
        title: "decode throughput",
        unit: "tokens/s",
        better: Better::Higher,
        basis: Basis::Tpot,
        get: |row| row.decode_throughput,
    },
    Metric {
        name: "prefillThroughput",
        title: "prefill throughput",
        unit: "tokens/s",
        better: Better::Higher,
        basis: Basis::Ttft,
        get: |row| row.prefill_throughput,
    },
    Metric {
        name: "normalizedLatencyMs",
        title: "normalized latency",
        unit: "ms",
        better: Better::Lower,
        basis: Basis::Ttlt,
        get: |row| row.normalized_latency_ms,
    },
    Metric {
        name: "outputThroughputPerGpu",
        title: "output throughput per GPU",
        unit: "tokens/s",
        better: Better::Higher,
        basis: Basis::Ttlt,
        get: |row| row.output_throughput_per_gpu,
    },
    Metric {
        name: "requestThroughput",
        title: "request throughput",
        unit: "requests/s",
        better: Better::Higher,
        basis: Basis::Unknown,
        get: |row| row.request_throughput,
    },
    Metric {
        name: "goodput",
        title: "goodput",
        unit: "requests/s",
        better: Better::Higher,
        basis: Basis::Unknown,
        get: |row| row.goodput,
    },
    Metric {
        name: "capacityRate",
        title: "capacity, open loop",
        unit: "requests/s",
        better: Better::Higher,
        basis: Basis::Unknown,
        get: |row| row.capacity_rate,
    },
    Metric {
        name: "capacityConcurrency",
        title: "capacity, closed loop",
        unit: "requests",
        better: Better::Higher,
        basis: Basis::Unknown,
        get: |row| row.capacity_concurrency,
    },
    Metric {
        name: "gpuUtilMeanPct",
        title: "GPU utilization, mean",
        unit: "%",
        better: Better::Neither,
        basis: Basis::Unknown,
        get: |row| row.gpu_util_mean_pct,
    },
    Metric {
        name: "gpuUtilMaxPct",
        title: "GPU utilization, maximum",
        unit: "%",
        better: Better::Neither,
        basis: Basis::Unknown,
        get: |row| row.gpu_util_max_pct,
    },
    Metric {
        name: "gpuDramActiveMeanPct",
        title: "GPU memory activity",
        unit: "%",
        better: Better::Neither,
        basis: Basis::Unknown,
        get: |row| row.gpu_dram_active_mean_pct,
    },
    Metric {
        name: "gpuTensorActiveMeanPct",
        title: "GPU matrix unit activity",
        unit: "%",
        better: Better::Neither,
        basis: Basis::Unknown,
        get: |row| row.gpu_tensor_active_mean_pct,
    },
    Metric {
        name: "gpuMemPeakMib",
        title: "GPU memory, peak",
        unit: "MiB",
        better: Better::Lower,
        basis: Basis::Unknown,
        get: |row| row.gpu_mem_peak_mib,
    },
    Metric {
        name: "gpuPowerMeanW",
        title: "GPU power, mean",
        unit: "W",
        better: Better::Neither,
        basis: Basis::Unknown,
        get: |row| row.gpu_power_mean_w,
    },
    Metric {
        name: "joulesPerOutputToken",
        title: "energy per output token",
        unit: "J",
        better: Better::Lower,
        basis: Basis::Unknown,
        get: |row| row.joules_per_output_token,
    },
    Metric {
        name: "rssPeakMib",
        title: "resident memory, peak",
        unit: "MiB",
        better: Better::Lower,
        basis: Basis::Unknown,
        get: |row| row.rss_peak_mib,
    },
    Metric {
        name: "decodeRooflineFraction",
        title: "roofline fraction, decode",
        unit: "",
        better: Better::Higher,
        basis: Basis::Unknown,
        get: |row| row.decode_roofline_fraction,
    },
    Metric {
        name: "prefillRooflineFraction",
        title: "roofline fraction, prefill",
        unit: "",
        better: Better::Higher,
        basis: Basis::Unknown,
        get: |row| row.prefill_roofline_fraction,
    },
    Metric {
        name: "meanLogLikelihood",
        title: "log-likelihood per token",
        unit: "nats",
        better: Better::Neither,
        basis: Basis::Unknown,
        get: |row| row.mean_log_likelihood,
    },
    Metric {
        name: "perplexity",
        title: "perplexity",
        unit: "",
        better: Better::Neither,
        basis: Basis::Unknown,
        get: |row| row.perplexity,
    },
    Metric {
        name: "repetitionRate",
        title: "repetition rate",
        unit: "",
        better: Better::Lower,
        basis: Basis::Unknown,
        get: |row| row.repetition_rate,
    },
    Metric {
        name: "promptSimilarity",
        title: "similarity to the prompt",
        unit: "",
        better: Better::Neither,
        basis: Basis::Unknown,
        get: |row| row.prompt_similarity,
    },
];

impl Metric {
    /// The metric of this name in documents.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        METRICS.iter().find(|metric| metric.name == name)
    }

    /// Its value in a row; `None` where it was not measured, or is no finite number.
    #[must_use]
    pub fn value(&self, row: &Row) -> Option<f64> {
        (self.get)(row).filter(|value| value.is_finite())
    }

    /// The metric of a trial, with how it varied over the iterations where that is known; `None` where it was not
    /// measured.
    #[must_use]
    pub fn observe(&self, row: &Row) -> Option<Observation> {
        let value = self.value(row)?;
        let (mean, sd, range) = match self.basis {
            Basis::Ttft => (
                row.mean_ttft_ms,
                row.std_ttft_ms,
                [row.median_ttft_ms, row.min_ttft_ms, row.max_ttft_ms],
            ),
            Basis::Ttlt => (
                row.mean_ttlt_ms,
                row.std_ttlt_ms,
                [row.median_ttlt_ms, row.min_ttlt_ms, row.max_ttlt_ms],
            ),
            Basis::Tpot => (
                row.mean_tpot_ms,
                row.std_tpot_ms,
                [row.median_tpot_ms, row.min_tpot_ms, row.max_tpot_ms],
            ),
            Basis::Unknown => (None, None, [None; 3]),
        };
        // Of requests that come one by one, a rate is no mean time's inverse.
        let follows = self.better != Better::Higher || !row.of_requests();
        let sd = sd.filter(|_| follows);
        let within = match (mean, sd, row.iterations) {
            // The ratio first: a product of two tiny values would be nothing.
            (Some(mean), Some(sd), Some(count)) if mean > 0.0 && count > 1 => Some(Within {
                sd: value * (sd / mean),
                count,
                range: self.range(value, mean, range),
            }),
            _ => None,
        };
        Some(Observation {
            replicate: row.replicate,
            value,
            within,
        })
    }

    /// Median, least and greatest value over the iterations, from those of the time that the metric follows: in
    /// proportion to it, or inversely for a rate.
    fn range(&self, value: f64, mean: f64, of_time: [Option<f64>; 3]) -> Option<[f64; 3]> {
        let [Some(median), Some(min), Some(max)] = of_time else {
            return None;
        };
        if min <= 0.0 {
            return None;
        }
        Some(match self.better {
            Better::Higher => [mean / median, mean / max, mean / min],
            _ => [median / mean, min / mean, max / mean],
        })
        .map(|range| range.map(|ratio| value * ratio))
    }
}

/// A combination with the latest attempts at its trials.
#[derive(Clone, Debug)]
pub struct Combination<'a> {
    /// Its levels.
    pub levels: Levels,
    /// Its valid trials.
    pub valid: Vec<&'a Row>,
    /// Its trials that cannot be vouched for.
    pub invalid: u32,
}

impl Combination<'_> {
    /// A metric of every replicate that has it, in the order of the trials. A sweep measures a combination once in each
    /// replicate; a table made elsewhere may hold several trials of one. They are no independent evidence, and stand for
    /// that replicate by their mean.
    #[must_use]
    pub fn observe(&self, metric: &Metric) -> Vec<Observation> {
        let mut found: Vec<Vec<Observation>> = Vec::new();
        for trial in self.valid.iter().filter_map(|row| metric.observe(row)) {
            let same = |known: &&mut Vec<Observation>| known[0].replicate == trial.replicate;
            match found.iter_mut().find(same) {
                Some(known) => known.push(trial),
                None => found.push(vec![trial]),
            }
        }
        found.iter().filter_map(|trials| pooled(trials)).collect()
    }
}

/// The trials of one replicate as one: their mean, and their iterations' spread pooled, with as many degrees of freedom
/// as they have together.
fn pooled(trials: &[Observation]) -> Option<Observation> {
    let (first, count) = match trials {
        [] => return None,
        [one] => return Some(*one),
        [first, ..] => (first, trials.len() as f64),
    };
    // Divided first, so that no sum of huge values overflows.
    let value = trials.iter().map(|trial| trial.value / count).sum();
    let within: Option<Vec<Within>> = trials.iter().map(|trial| trial.within).collect();
    let within = within.map(|within| {
        let scale = magnitude(within.iter().map(|of| of.sd));
        let degrees: u32 = within.iter().map(|of| of.count - 1).sum();
        let squares: f64 = within
            .iter()
            .map(|of| f64::from(of.count - 1) * (of.sd / scale).powi(2))
            .sum();
        Within {
            sd: scale * (squares / f64::from(degrees)).sqrt(),
            count: degrees + 1,
            range: None,
        }
    });
    Some(Observation {
        replicate: first.replicate,
        value,
        within,
    })
}

/// The latest attempt at each trial of the replicates that all combinations have, by trial index. What goes by all trials
/// goes by these: those that measure the best again are of a few combinations that were chosen.
#[must_use]
pub fn latest_attempts(rows: &[Row]) -> Vec<&Row> {
    in_replicates_of_all(latest_of_all(rows)).collect()
}

/// Of these rows, those in the replicates that all combinations have.
pub fn in_replicates_of_all<'a>(
    rows: impl IntoIterator<Item = &'a Row>,
) -> impl Iterator<Item = &'a Row> {
    rows.into_iter().filter(|row| row.confirming.is_none())
}

/// The latest attempt at each trial, those that measure the best again among them, by trial index.
#[must_use]
pub fn latest_of_all(rows: &[Row]) -> Vec<&Row> {
    let mut latest: BTreeMap<u32, &Row> = BTreeMap::new();
    for row in rows {
        let kept = latest.entry(row.trial_index).or_insert(row);
        if row.attempt > kept.attempt {
            *kept = row;
        }
    }
    latest.into_values().collect()
}

/// Of the latest attempts, those in blocks that hold every combination: all, where no combination ran no further than
/// others (see `design.until`). Figures over several combinations go over these: later blocks hold those that vary
/// most, and would differ by the combinations that they hold.
#[must_use]
pub fn whole_blocks<'a>(latest: &[&'a Row]) -> Vec<&'a Row> {
    let left_out = latest
        .iter()
        .filter(|row| row.outcome == Some(Outcome::NotNeeded));
    let whole = left_out.map(|row| row.replicate).min().unwrap_or(u32::MAX);
    let rows = latest.iter().filter(|row| row.replicate < whole);
    rows.copied().collect()
}

/// The factors that some of these levels state, in their order. One that is at its implied level throughout is none of
/// the sweep's: nobody asked for it.
#[must_use]
pub fn factors<'a>(levels: impl IntoIterator<Item = &'a Levels>) -> Vec<Factor> {
    let mut found: BTreeSet<Factor> = BTreeSet::new();
    for (factor, _) in levels.into_iter().flat_map(Levels::stated) {
        if !found.contains(factor) {
            found.insert(factor.clone());
        }
    }
    found.into_iter().collect()
}

/// The name of the model among levels; empty where there is none.
#[must_use]
pub fn model(levels: &Levels) -> &str {
    match levels.get(&Factor::MODEL) {
        Some(Level::Text(name)) => name,
        _ => "",
    }
}

/// The GPUs among levels; 0 for CPU.
#[must_use]
pub fn gpus(levels: &Levels) -> u32 {
    levels.number(&Factor::GPUS).map_or(0, |gpus| gpus as u32)
}

/// Whether a trial was measured and can be vouched for.
#[must_use]
pub fn is_valid(row: &Row) -> bool {
    row.outcome == Some(Outcome::Succeeded) && row.valid == Some(true)
}

/// Whether a trial was measured but cannot be vouched for.
#[must_use]
pub fn is_invalid(row: &Row) -> bool {
    row.outcome == Some(Outcome::Succeeded) && row.valid != Some(true)
}

/// The combinations of the latest attempts, in the order of their levels. A trial belongs to the levels that ran; where
/// they are not those it asked for, it is invalid and only counted.
#[must_use]
pub fn combine<'a>(latest: &[&'a Row]) -> Vec<Combination<'a>> {
    let mut combinations: BTreeMap<Levels, Combination<'a>> = BTreeMap::new();
    for row in latest {
        let combination = combinations
            .entry(row.levels())
            .or_insert_with_key(|levels| Combination {
                levels: levels.clone(),
                valid: Vec::new(),
                invalid: 0,
            });
        if is_invalid(row) {
            combination.invalid += 1;
        } else if row.outcome == Some(Outcome::Succeeded) {
            combination.valid.push(row);
        }
    }
    combinations.into_values().collect()
}
