//! What a sweep says in its resource's status: the summary and the analysis, cut down to what a status has room for.

use inferbench_crds::{
    factor::{self, Level},
    limits,
    status::{Best, Effect, FactorSummary, MetricByLevel, Point, Summary as Status, significant},
};

use crate::{
    analysis::Analysis,
    interval::{Estimate, Over},
    sample::{Factor, Levels},
    summary::{Criterion, LevelSummary, Summary},
};

/// The metrics that a status has, in order of importance: their names in a summary, and as columns of trials.csv.
const METRICS: [(&str, &str); limits::SUMMARY_METRICS as usize] = [
    ("outputThroughput", "output_throughput"),
    ("ttftMs", "mean_ttft_ms"),
    ("tpotMs", "mean_tpot_ms"),
    ("ttltMs", "mean_ttlt_ms"),
    ("outputThroughputPerGpu", "output_throughput_per_gpu"),
    ("gpuUtilMeanPct", "gpu_util_mean_pct"),
];

/// The status' part of a summary and an analysis: at most [`limits::SUMMARY_BYTES`] as JSON. Where a design has so many
/// levels that all of it would not fit, the widths of intervals go first, then metrics from the last on.
#[must_use]
pub fn bounded(summary: &Summary, analysis: &Analysis) -> Status {
    let measured = |over: Over| {
        summary
            .combinations
            .iter()
            .filter_map(|combination| combination.metrics.get("ttltMs"))
            .any(|estimate| estimate.over == over)
    };
    let mut status = Status {
        trials: count(summary.counts.succeeded - summary.counts.invalid),
        invalid: count(summary.counts.invalid),
        intervals: if measured(Over::Replicates) || !measured(Over::Iterations) {
            "Replicates".into()
        } else {
            "Iterations".into()
        },
        factors: Factor::ALL
            .into_iter()
            .filter_map(|factor| levels(summary, factor))
            .collect(),
        effects: effects(analysis),
        best: best(summary),
        pareto: pareto(analysis),
    };
    if bytes(&status) > limits::SUMMARY_BYTES {
        for metric in status
            .factors
            .iter_mut()
            .flat_map(|factor| &mut factor.metrics)
        {
            metric.half_width.clear();
        }
    }
    while bytes(&status) > limits::SUMMARY_BYTES {
        let most = status
            .factors
            .iter()
            .map(|factor| factor.metrics.len())
            .max();
        let Some(most) = most.filter(|most| *most > 0) else {
            break;
        };
        for factor in &mut status.factors {
            factor.metrics.truncate(most - 1);
        }
    }
    status
}

fn bytes(status: &Status) -> usize {
    serde_json::to_vec(status).map_or(0, |bytes| bytes.len())
}

fn count(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Every metric at every level of a factor that has several.
fn levels(summary: &Summary, factor: Factor) -> Option<FactorSummary> {
    let levels: Vec<&LevelSummary> = summary
        .levels
        .iter()
        .filter(|level| level.factor == factor)
        .take(limits::LEVELS as usize)
        .collect();
    if levels.len() < 2 {
        return None;
    }
    let metrics = METRICS
        .iter()
        .filter(|(name, _)| levels.iter().any(|level| level.metrics.contains_key(*name)))
        .map(|(name, column)| {
            let of = |part: fn(&Estimate) -> Option<f64>| -> Vec<Option<f64>> {
                levels
                    .iter()
                    .map(|level| {
                        level
                            .metrics
                            .get(*name)
                            .and_then(part)
                            .and_then(significant)
                    })
                    .collect()
            };
            MetricByLevel {
                metric: (*column).into(),
                mean: of(|estimate| Some(estimate.mean)),
                half_width: of(|estimate| Some((estimate.high? - estimate.low?) / 2.0)),
            }
        })
        .collect();
    Some(FactorSummary {
        factor: factor.name().into(),
        levels: levels
            .iter()
            .map(|level| {
                level
                    .level
                    .to_string()
                    .chars()
                    .take(limits::MODEL_NAME as usize)
                    .collect()
            })
            .collect(),
        metrics,
    })
}

/// Over all models where there are several: logarithmic shares, since effects multiply.
fn effects(analysis: &Analysis) -> Vec<Effect> {
    let Some(scope) = analysis.scopes.first() else {
        return Vec::new();
    };
    let mut effects = Vec::new();
    for (name, column) in METRICS {
        let Some(shares) = scope
            .attribution
            .iter()
            .find(|attribution| attribution.metric == name)
            .and_then(|attribution| attribution.log.as_ref().or(attribution.raw.as_ref()))
        else {
            continue;
        };
        for share in &shares.factors {
            let importance = shares
                .importance
                .factors
                .iter()
                .find(|i| i.factor == share.factor);
            let pair = scope
                .correlation
                .pairs
                .iter()
                .find(|pair| pair.factor == share.factor && pair.metric == name);
            effects.push(Effect {
                metric: column.into(),
                factor: share.factor.name().into(),
                share: significant(share.first_order),
                total_share: significant(share.total),
                importance: importance.and_then(|importance| significant(importance.mean)),
                correlation: pair.and_then(|pair| pair.pearson).and_then(significant),
            });
        }
    }
    effects.truncate((limits::SUMMARY_METRICS * limits::FACTORS) as usize);
    effects
}

fn best(summary: &Summary) -> Vec<Best> {
    let rank = |criterion: Criterion| match criterion {
        Criterion::HighestOutputThroughputWithinObjectives => 0,
        Criterion::HighestOutputThroughput => 1,
        Criterion::LowestTtft => 2,
    };
    let mut best: Vec<_> = summary.best.iter().collect();
    best.sort_by(|a, b| {
        rank(a.criterion).cmp(&rank(b.criterion)).then(
            b.output_throughput
                .mean
                .total_cmp(&a.output_throughput.mean),
        )
    });
    best.into_iter()
        .take(limits::SUMMARY_BEST as usize)
        .map(|best| Best {
            goal: match best.criterion {
                Criterion::HighestOutputThroughputWithinObjectives => {
                    "highest output throughput within the objectives"
                }
                Criterion::HighestOutputThroughput => "highest output throughput",
                Criterion::LowestTtft => "lowest TTFT",
            }
            .into(),
            configuration: point(
                &best.levels,
                Some(best.output_throughput.mean),
                best.ttft_ms.map(|ttft| ttft.mean),
                best.tpot_ms.map(|tpot| tpot.mean),
                best.cost_per_million_output_tokens,
            ),
        })
        .collect()
}

/// The fronts of throughput against time to first token, of all models, the fastest first.
fn pareto(analysis: &Analysis) -> Vec<Point> {
    let mut points: Vec<_> = analysis
        .decisions
        .fronts
        .iter()
        .filter(|front| front.latency == "ttftMs")
        .flat_map(|front| &front.points)
        .collect();
    points.sort_by(|a, b| b.rate.mean.total_cmp(&a.rate.mean));
    points
        .into_iter()
        .take(limits::SUMMARY_PARETO as usize)
        .map(|found| {
            let devices = f64::from(found.levels.gpus.max(1));
            point(
                &found.levels,
                // On GPUs the front's rate is per GPU.
                Some(found.rate.mean * devices),
                Some(found.latency.mean),
                None,
                found.cost_per_million_output_tokens,
            )
        })
        .collect()
}

fn point(
    levels: &Levels,
    output_throughput: Option<f64>,
    ttft_ms: Option<f64>,
    tpot_ms: Option<f64>,
    cost_per_million: Option<f64>,
) -> Point {
    let name = |name: &str| -> String { name.chars().take(limits::MODEL_NAME as usize).collect() };
    let levels = [
        (
            factor::Factor::MODEL,
            Level::from(name(&levels.model).as_str()),
        ),
        (factor::Factor::BATCH_SIZE, levels.batch_size.into()),
        (factor::Factor::INPUT_LENGTH, levels.input_length.into()),
        (factor::Factor::OUTPUT_LENGTH, levels.output_length.into()),
        (factor::Factor::GPUS, levels.gpus.into()),
        (
            factor::Factor::DTYPE,
            Level::from(name(&levels.dtype).as_str()),
        ),
    ];
    Point {
        levels: factor::Levels::new(levels),
        output_throughput: output_throughput.and_then(significant),
        ttft_ms: ttft_ms.and_then(significant),
        tpot_ms: tpot_ms.and_then(significant),
        cost_per_million: cost_per_million.and_then(significant),
    }
}

#[cfg(test)]
mod tests {
    use inferbench_crds::spec::Objectives;

    use super::*;
    use crate::{analysis::analyze, fixtures::Sweep, row::Row, summary::summarize};

    fn status(rows: &[Row]) -> Status {
        let objectives = Objectives::default();
        let summary = summarize("sweep", rows, &objectives);
        bounded(&summary, &analyze(rows, &summary, &objectives))
    }

    #[test]
    fn a_status_has_what_the_analysis_says() {
        let rows = Sweep::default().rows(|row| f64::from(row.output_len) / f64::from(row.gpus));
        let status = status(&rows);
        assert_eq!((status.trials, status.invalid), (360, 0));
        assert_eq!(status.intervals, "Replicates");
        let factors: Vec<&str> = status
            .factors
            .iter()
            .map(|factor| &*factor.factor)
            .collect();
        assert_eq!(
            factors,
            ["batchSize", "inputLength", "outputLength", "gpus"]
        );
        let strongest = status
            .effects
            .iter()
            .filter(|effect| effect.metric == "mean_ttlt_ms")
            .max_by(|a, b| a.share.unwrap().total_cmp(&b.share.unwrap()))
            .unwrap();
        assert_eq!(strongest.factor, "outputLength");
        assert!(strongest.importance.is_some() && strongest.correlation.unwrap() > 0.5);
        assert_eq!(status.best.len(), 2);
        assert!(!status.pareto.is_empty());
    }

    #[test]
    fn the_largest_design_fits() {
        let all: Vec<u32> = (1..=64).map(|level| 1_000_000 - level).collect();
        let few = all.clone();
        // 64 levels of three factors, thinly covered: more than a resource may ask for.
        let mut rows = Sweep {
            batches: Box::leak(all.into_boxed_slice()),
            inputs: &[1],
            outputs: &[1],
            gpus: &[1],
            replicates: 2,
            ..Sweep::default()
        }
        .rows(|row| f64::from(row.batch_size) / 3.0);
        for (at, row) in rows.iter_mut().enumerate() {
            row.input_len = few[at % 64];
            row.output_len = few[at * 7 % 64];
            row.gpus = few[at * 11 % 64];
            row.mean_tpot_ms = row.mean_ttlt_ms;
            row.gpu_util_mean_pct = Some(100.0 / 3.0);
        }
        let status = status(&rows);
        assert!(
            bytes(&status) <= limits::SUMMARY_BYTES,
            "{}",
            bytes(&status)
        );
        assert_eq!(status.factors.len(), 4);
        assert!(
            status
                .factors
                .iter()
                .all(|factor| !factor.metrics.is_empty())
        );
    }

    #[test]
    fn nothing_measured_is_a_status_too() {
        let status = status(&[]);
        assert_eq!(
            (status.trials, status.factors.len(), status.best.len()),
            (0, 0, 0)
        );
    }
}
