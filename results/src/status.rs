//! A sweep's summary for its resource's status: the summary and the analysis, cut down to what a status has room for.

use std::collections::{BTreeMap, BTreeSet};

use inferbench_crds::{
    limits,
    status::{
        Best, Confirmed, Effect, Expectations, FactorSummary, MeasuredConfiguration, MetricByLevel,
        Summary as Status, significant,
    },
    workload::{Choice, Workload},
};

use crate::{
    analysis::{
        Analysis,
        decisions::Front,
        expectations::{Tally, Verdict},
    },
    best::{
        confirmed::{self, Shown},
        workload,
    },
    figures::lookup::{mix_name, workload_in_words},
    interval::{Estimate, Over},
    sample::{Factor, Level, Levels, gpus, model},
    summary::{Criterion, LevelSummary, MixChoice, Summary},
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

/// The status' part of a summary and an analysis: at most [`limits::SUMMARY_BYTES`] as JSON. Where it would not fit,
/// the reason of trials without a measurement goes first, then the widths of intervals, the last points of the front, the
/// weakest effects, and metrics from the last on.
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
        invalid_reason: summary.basis.main_reason.as_ref().map(|main| {
            let said = format!("{}. What to do: {}", main.reason, main.remedy);
            cut_to(&said, limits::SUMMARY_REASON)
        }),
        unmeasured_reason: summary.basis.unmeasured_reason.as_ref().map(|main| {
            // With its figures it may be long, and the remedy is not to be what is cut.
            let why = cut_to(&main.reason, limits::INVALID_REASON);
            let said = format!("{why}. What to do: {}", main.remedy);
            cut_to(&said, limits::SUMMARY_REASON)
        }),
        intervals: if measured(Over::Replicates) || !measured(Over::Iterations) {
            "Replicates".into()
        } else {
            "Iterations".into()
        },
        factors: summary
            .asked()
            .iter()
            .filter_map(|factor| levels(summary, factor))
            .take(limits::FACTORS as usize)
            .collect(),
        effects: effects(analysis),
        best: best(summary),
        workloads_left_out: 0,
        pareto: pareto(summary, analysis),
        expectations: expectations(analysis),
    };
    let cuts: [fn(&mut Status) -> bool; 11] = [
        |status| status.unmeasured_reason.take().is_some(),
        half_widths,
        |status| shorten(&mut status.pareto, PARETO),
        |status| shorten(&mut status.best, BEST),
        |status| weakest_effect(status, EFFECTS),
        |status| last_metric(status, 1),
        |status| weakest_effect(status, 0),
        |status| shorten(&mut status.pareto, 0),
        |status| shorten(&mut status.best, 1),
        |status| last_metric(status, 0),
        |status| shorten(&mut status.factors, 0),
    ];
    for cut in cuts {
        // The number of workloads that are left out takes room too.
        while bytes(&status) + ROOM > limits::SUMMARY_BYTES && cut(&mut status) {}
    }
    status.workloads_left_out = left_out(summary, &status);
    status
}

/// Bytes of the number of workloads that are left out.
const ROOM: usize = r#""workloadsLeftOut":2147483647,"#.len();

/// Workloads, over all models, for which no best configuration is named.
fn left_out(summary: &Summary, status: &Status) -> i32 {
    let single = status.best.iter().map(|best| &best.configuration.levels);
    let named: BTreeSet<Levels> = single
        .filter(|levels| Workload::factors().any(|factor| levels.shown(&factor).is_some()))
        .map(workload)
        .collect();
    count(summary.workloads.saturating_sub(named.len() as u32))
}

/// Points of the front, best configurations and effects that stay until metrics are down to one.
const PARETO: usize = 4;
const BEST: usize = 3;
const EFFECTS: usize = 24;

/// Leaves out the widths of all intervals; false where there are none.
fn half_widths(status: &mut Status) -> bool {
    let metrics = status
        .factors
        .iter_mut()
        .flat_map(|factor| &mut factor.metrics);
    metrics.fold(false, |any, metric| {
        let some = !metric.half_width.is_empty();
        metric.half_width.clear();
        any | some
    })
}

/// Leaves out the last one, as long as more than `keep` are there; false where they are not.
fn shorten<T>(list: &mut Vec<T>, keep: usize) -> bool {
    list.len() > keep && list.pop().is_some()
}

/// Leaves out the effect of the least share, of equals the last one, as long as there are more than `keep`.
fn weakest_effect(status: &mut Status, keep: usize) -> bool {
    let share = |effect: &Effect| effect.total_share.or(effect.share).unwrap_or_default();
    let effects = status.effects.iter().enumerate().rev();
    let weakest = effects.min_by(|(_, a), (_, b)| share(a).total_cmp(&share(b)));
    match weakest.map(|(at, _)| at) {
        Some(at) if status.effects.len() > keep => {
            status.effects.remove(at);
            true
        }
        _ => false,
    }
}

/// Leaves out the last metric of the factors that have the most, as long as those are more than `keep`.
fn last_metric(status: &mut Status, keep: usize) -> bool {
    let metrics = status.factors.iter().map(|factor| factor.metrics.len());
    let most = metrics.max().unwrap_or_default();
    if most <= keep {
        return false;
    }
    for factor in &mut status.factors {
        factor.metrics.truncate(most - 1);
    }
    true
}

fn bytes(status: &Status) -> usize {
    serde_json::to_vec(status).map_or(0, |bytes| bytes.len())
}

fn count(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Every metric at every level of a factor that has several.
fn levels(summary: &Summary, factor: &Factor) -> Option<FactorSummary> {
    let levels: Vec<&LevelSummary> = summary
        .levels
        .iter()
        .filter(|level| level.factor == *factor)
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
            .map(|level| cut(&level.level.to_string()))
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

/// For the mixes first and for models with one workload, goal by goal; then for the workloads of the others by the
/// criterion that decides, those of the largest weight first.
fn best(summary: &Summary) -> Vec<Best> {
    let decides = summary.decides();
    let rank = |criterion: Criterion| match criterion {
        Criterion::HighestOutputThroughputWithinObjectives | Criterion::HighestCapacity => 0,
        Criterion::HighestOutputThroughput => 1,
        Criterion::LowestTtft => 2,
    };
    let several = |model: &str| {
        let own = summary.best.iter().map(|best| &best.levels);
        let own: BTreeSet<Levels> = own
            .filter(|of| crate::sample::model(of) == model)
            .map(workload)
            .collect();
        own.len() > 1
    };
    let mut first = Vec::new();
    for mix in &summary.mixes {
        first.extend(mix.best.iter().map(|best| {
            let levels = levels_of(&mix.model, &best.of.choice);
            let workload = cut_to(&mix_name(mix), limits::SUMMARY_WORKLOAD);
            (
                best.criterion,
                named(best.criterion, &levels, workload, best.shown()),
            )
        }));
    }
    let mut each = Vec::new();
    let asked = summary.asked();
    for best in &summary.best {
        let of = model(&best.levels);
        let mixed = summary.mixes.iter().any(|mix| mix.model == of);
        let several = mixed || several(of);
        let workload = if several {
            cut_to(
                &workload_in_words(&best.levels, &asked),
                limits::SUMMARY_WORKLOAD,
            )
        } else {
            String::new()
        };
        let found = (
            best.criterion,
            named(best.criterion, &best.levels, workload, best.shown()),
        );
        if !several {
            first.push(found);
        } else if best.criterion == decides {
            each.push(found);
        }
    }
    let rate = |best: &Best| best.configuration.output_throughput.unwrap_or_default();
    first.sort_by(|a, b| {
        rank(a.0)
            .cmp(&rank(b.0))
            .then(rate(&b.1).total_cmp(&rate(&a.1)))
    });
    let weight = |best: &Best| summary.objectives.weight(&best.configuration.levels);
    each.sort_by(|a, b| weight(&b.1).total_cmp(&weight(&a.1)));
    first
        .into_iter()
        .chain(each)
        .take(limits::SUMMARY_BEST as usize)
        .map(|(_, best)| best)
        .collect()
}

/// The best by a criterion, with the figures that are shown of it.
fn named(criterion: Criterion, levels: &Levels, workload: String, shown: Shown<'_>) -> Best {
    let configuration = MeasuredConfiguration {
        workload,
        capacity: shown.capacity.and_then(|found| significant(found.of.mean)),
        ..point(
            levels,
            Some(shown.output_throughput.mean),
            shown.ttft_ms.map(|ttft| ttft.mean),
            shown.tpot_ms.map(|tpot| tpot.mean),
            shown.cost,
        )
    };
    Best {
        goal: criterion.title().into(),
        confirmation: shown.confirmation.map(|of| match of.verdict {
            confirmed::Verdict::NotYet => Confirmed::NotYet,
            confirmed::Verdict::Confirmed => Confirmed::Confirmed,
            confirmed::Verdict::MissesObjectives => Confirmed::MissesObjectives,
            confirmed::Verdict::Beaten => Confirmed::Beaten,
        }),
        configuration,
    }
}

/// The levels of a choice of a model.
fn levels_of(model: &str, choice: &Choice) -> Levels {
    let mut levels = choice.levels().clone();
    levels.set(Factor::MODEL, Level::from(model));
    levels
}

/// The figures of a choice for a mix.
fn mixed(model: &str, of: &MixChoice) -> MeasuredConfiguration {
    point(
        &levels_of(model, &of.choice),
        Some(of.output_throughput.mean),
        of.ttft_ms.map(|ttft| ttft.mean),
        of.tpot_ms.map(|tpot| tpot.mean),
        of.cost_per_million_output_tokens,
    )
}

/// The fronts of throughput against time to first token, of all models, the fastest first: for the mix, else for the
/// workload of the largest weight, of equals the first.
fn pareto(summary: &Summary, analysis: &Analysis) -> Vec<MeasuredConfiguration> {
    let decisions = &analysis.decisions;
    let mut points: Vec<(f64, MeasuredConfiguration)> = Vec::new();
    let against_ttft = |latency: &str| latency == "ttftMs";
    let mixes = decisions.mix_fronts.iter();
    for front in mixes.clone().filter(|front| against_ttft(&front.latency)) {
        let mix = summary.mixes.iter().find(|mix| mix.model == front.model);
        for found in &front.points {
            let choices = mix.into_iter().flat_map(|mix| &mix.choices);
            let choice = choices.into_iter().find(|of| of.choice == found.choice);
            points.extend(choice.map(|of| {
                let name = mix.map(mix_name).unwrap_or_default();
                let configuration = MeasuredConfiguration {
                    workload: cut_to(&name, limits::SUMMARY_WORKLOAD),
                    tpot_ms: None,
                    ..mixed(&front.model, of)
                };
                (found.rate.mean, configuration)
            }));
        }
    }
    let mut heaviest: BTreeMap<&str, &Front> = BTreeMap::new();
    let weight = |front: &Front| {
        let first = front.points.first();
        first.map_or(0.0, |point| summary.objectives.weight(&point.levels))
    };
    for front in decisions
        .fronts
        .iter()
        .filter(|front| against_ttft(&front.latency))
    {
        let mixed = mixes.clone().any(|mix| mix.model == front.model);
        let kept = heaviest.get(&*front.model);
        if !mixed && kept.is_none_or(|kept| weight(front) > weight(kept)) {
            heaviest.insert(&front.model, front);
        }
    }
    for found in heaviest.values().flat_map(|front| &front.points) {
        let devices = f64::from(gpus(&found.levels).max(1));
        let configuration = point(
            &found.levels,
            // On GPUs the front's rate is per GPU.
            Some(found.rate.mean * devices),
            Some(found.latency.mean),
            None,
            found.cost_per_million_output_tokens,
        );
        points.push((found.rate.mean, configuration));
    }
    points.sort_by(|a, b| b.0.total_cmp(&a.0));
    points
        .into_iter()
        .take(limits::SUMMARY_PARETO as usize)
        .map(|(_, point)| point)
        .collect()
}

fn point(
    levels: &Levels,
    output_throughput: Option<f64>,
    ttft_ms: Option<f64>,
    tpot_ms: Option<f64>,
    cost_per_million: Option<f64>,
) -> MeasuredConfiguration {
    // With the implied level of nothing that it does not have.
    let mut cut_levels = levels.clone();
    for (factor, level) in levels.iter() {
        if let Level::Text(name) = level {
            cut_levels.set(factor.clone(), Level::from(cut(name).as_str()));
        }
    }
    MeasuredConfiguration {
        levels: cut_levels,
        workload: String::new(),
        output_throughput: output_throughput.and_then(significant),
        ttft_ms: ttft_ms.and_then(significant),
        tpot_ms: tpot_ms.and_then(significant),
        cost_per_million: cost_per_million.and_then(significant),
        capacity: None,
    }
}

/// How many expectations came out which way, and the first that are refuted.
fn expectations(analysis: &Analysis) -> Option<Expectations> {
    let judged = &analysis.expectations;
    if judged.is_empty() {
        return None;
    }
    let tally = Tally::of(judged);
    let refuted = judged.iter().filter(|one| one.verdict == Verdict::Refuted);
    Some(Expectations {
        shown: count(tally.shown),
        refuted: count(tally.refuted),
        not_shown: count(tally.not_shown),
        untestable: count(tally.untestable),
        refuted_names: refuted
            .take(limits::SUMMARY_REFUTED as usize)
            .map(|one| {
                one.name
                    .chars()
                    .take(limits::EXPECTATION_NAME as usize)
                    .collect()
            })
            .collect(),
    })
}

/// A level's text, as long as a status has room for.
fn cut(level: &str) -> String {
    cut_to(level, limits::MODEL_NAME)
}

fn cut_to(text: &str, most: u32) -> String {
    text.chars().take(most as usize).collect()
}

#[cfg(test)]
mod tests;
