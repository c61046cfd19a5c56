//! The sample that all statistics go over: the combinations with the latest valid attempts at their trials, the factors that they
//! differ in and the metrics that were measured.

use std::{collections::BTreeMap, fmt};

use inferbench_crds::outcome::Outcome;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    interval::{Observation, Within},
    row::Row,
};

/// A factor of the design.
#[derive(
    Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
#[serde(rename_all = "camelCase")]
pub enum Factor {
    /// The model.
    Model,
    /// Sequences in a batch.
    BatchSize,
    /// Input tokens of each sequence.
    InputLength,
    /// Output tokens of each sequence.
    OutputLength,
    /// Devices that share the model.
    Gpus,
    /// Data type of weights and cache.
    Dtype,
}

/// A level of a factor.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord)]
#[serde(untagged)]
pub enum Level {
    /// A number.
    Number(u32),
    /// A name.
    Name(String),
}

/// One level of each factor.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct Levels {
    /// The model.
    pub model: String,
    /// Sequences in a batch.
    pub batch_size: u32,
    /// Input tokens of each sequence.
    pub input_length: u32,
    /// Output tokens of each sequence.
    pub output_length: u32,
    /// Devices that share the model; 0 for CPU.
    pub gpus: u32,
    /// Data type of weights and cache.
    pub dtype: String,
}

impl Levels {
    /// The levels of a trial.
    #[must_use]
    pub fn of(row: &Row) -> Self {
        Self {
            model: row.model.clone(),
            batch_size: row.batch_size,
            input_length: row.input_len,
            output_length: row.output_len,
            gpus: row.gpus,
            dtype: row.dtype.clone(),
        }
    }
}

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
        let within = match (mean, sd, row.iterations) {
            (Some(mean), Some(sd), Some(count)) if mean > 0.0 && count > 1 => Some(Within {
                sd: value * sd / mean,
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

impl Factor {
    /// All of them, in the order of the levels.
    pub const ALL: [Self; 6] = [
        Self::Model,
        Self::BatchSize,
        Self::InputLength,
        Self::OutputLength,
        Self::Gpus,
        Self::Dtype,
    ];

    /// Its name in text.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::BatchSize => "batch size",
            Self::InputLength => "input length",
            Self::OutputLength => "output length",
            Self::Gpus => "GPUs",
            Self::Dtype => "data type",
        }
    }

    /// Its name in documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::BatchSize => "batchSize",
            Self::InputLength => "inputLength",
            Self::OutputLength => "outputLength",
            Self::Gpus => "gpus",
            Self::Dtype => "dtype",
        }
    }

    /// Its level in a combination.
    #[must_use]
    pub fn level(self, levels: &Levels) -> Level {
        match self {
            Self::Model => Level::Name(levels.model.clone()),
            Self::BatchSize => Level::Number(levels.batch_size),
            Self::InputLength => Level::Number(levels.input_length),
            Self::OutputLength => Level::Number(levels.output_length),
            Self::Gpus => Level::Number(levels.gpus),
            Self::Dtype => Level::Name(levels.dtype.clone()),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
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

/// The latest attempt at each trial, by trial index.
#[must_use]
pub fn latest_attempts(rows: &[Row]) -> Vec<&Row> {
    let mut latest: BTreeMap<u32, &Row> = BTreeMap::new();
    for row in rows {
        let kept = latest.entry(row.trial_index).or_insert(row);
        if row.attempt > kept.attempt {
            *kept = row;
        }
    }
    latest.into_values().collect()
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
            .entry(Levels::of(row))
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
