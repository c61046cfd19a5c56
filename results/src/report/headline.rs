//! The answers in a few plain sentences, for the top of a report.

use super::Report;
use crate::{
    analysis::{
        Scope,
        attribution::Attribution,
        expectations::{Tally, Verdict},
    },
    figures::lookup::{Context, in_words, levels, metric_title, name, scope_name, sentence},
    interval::Interval,
    numbers,
    sample::{Factor, model},
    summary::{Best, CombinationSummary, Criterion},
    validity::MARK,
};

/// The sentences, each with what it answers.
pub(super) fn sentences(report: &Report<'_>) -> Vec<String> {
    let context = Context::new(report.summary, report.analysis);
    let mut said = Vec::new();
    said.extend(report.summary.basis.headline());
    said.extend(best(report));
    said.extend(doubted(report));
    said.extend(drivers(report, &context));
    said.extend(expected(report));
    said.push(trust(report));
    said
}

/// The best combination under the objectives, or the fastest one, of at most two models.
fn best(report: &Report<'_>) -> Vec<String> {
    let limits = report.limits();
    let criterion = if limits.is_some() {
        Criterion::HighestOutputThroughputWithinObjectives
    } else {
        Criterion::HighestOutputThroughput
    };
    let mut best: Vec<&Best> = report
        .summary
        .best
        .iter()
        .filter(|best| best.criterion == criterion && best.output_throughput.mean.is_finite())
        .collect();
    best.sort_by(|a, b| {
        b.output_throughput
            .mean
            .total_cmp(&a.output_throughput.mean)
    });
    let Some(first) = best.first() else {
        return vec![match limits {
            _ if report.summary.counts.succeeded == report.summary.counts.invalid => {
                "No trial has a valid measurement, so nothing can be recommended.".into()
            }
            Some(limits) => format!("No combination keeps to {limits}."),
            None => "Nothing can be recommended.".into(),
        }];
    };
    let within = limits.map_or_else(String::new, |limits| format!(" within {limits}"));
    let mut said = vec![format!(
        "Highest output throughput{within}: {} for {} at {}{}{}.",
        numbers::estimate_with_unit(&first.output_throughput, "tokens/s"),
        name(model(&first.levels)),
        in_words(&first.levels),
        first
            .cost_per_million_output_tokens
            .filter(|cost| cost.is_finite())
            .map_or_else(String::new, |cost| format!(
                ", at a cost of {} per million output tokens",
                numbers::number(cost)
            )),
        match first.near_ties {
            0 => String::new(),
            1 => "; another combination may be as good".into(),
            ties => format!("; {} others may be as good", numbers::count(ties)),
        }
    )];
    if let Some(other) = best.get(1) {
        said.push(format!(
            "{} reaches {} at {}.",
            name(model(&other.levels)),
            numbers::with_unit(other.output_throughput.mean, "tokens/s"),
            in_words(&other.levels)
        ));
    }
    said
}

/// The fastest combination of invalid trials, where none has a valid one.
fn doubted(report: &Report<'_>) -> Option<String> {
    if report.summary.basis.valid > 0 {
        return None;
    }
    let rate = |of: &CombinationSummary| of.metrics.get("outputThroughput").map(|of| of.mean);
    let measured = report
        .doubtful
        .iter()
        .filter_map(|of| Some((rate(of)?, of)));
    let (rate, of) = measured
        .filter(|(rate, _)| rate.is_finite())
        .max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    Some(format!(
        "What the invalid trials say is shown with {MARK}, and may be off: the highest output throughput is {}{MARK}, for \
         {} at {}.",
        numbers::with_unit(rate, "tokens/s"),
        name(model(&of.levels)),
        in_words(&of.levels)
    ))
}

/// What came of the expectations, and which were refuted.
fn expected(report: &Report<'_>) -> Option<String> {
    let judged = &report.analysis.expectations;
    if judged.is_empty() {
        return None;
    }
    let refuted: Vec<String> = judged
        .iter()
        .filter(|one| one.verdict == Verdict::Refuted)
        .map(|one| format!("“{}”", name(&one.name)))
        .collect();
    let which = match refuted.len() {
        0 => String::new(),
        1..=REFUTED => format!("; refuted: {}", numbers::listed(&refuted)),
        _ => format!("; refuted: {}, …", refuted[..REFUTED].join(", ")),
    };
    Some(format!(
        "Of {}: {}{which}.",
        numbers::counted(judged.len() as u64, "expectation"),
        Tally::of(judged).in_words()
    ))
}

/// Refuted expectations that are named.
const REFUTED: usize = 3;

/// The factors that drive TTLT and output throughput.
fn drivers(report: &Report<'_>, context: &Context<'_>) -> Vec<String> {
    let Some(scope) = report.analysis.scopes.first() else {
        return Vec::new();
    };
    ["ttltMs", "outputThroughput"]
        .into_iter()
        .filter_map(|metric| driver(metric, scope, context))
        .collect()
}

fn driver(metric: &str, scope: &Scope, context: &Context<'_>) -> Option<String> {
    let attribution = scope.attribution.iter().find(|of| of.metric == metric)?;
    let (factor, share) = dominant(attribution)?;
    let mut said = format!(
        "{} drives {} most",
        sentence(factor.title()),
        metric_title(metric)
    );
    let effect = attribution
        .effects
        .iter()
        .find(|effect| effect.factor == factor)?;
    if let Some(share) = share {
        said += &format!(
            ": {} of the variance of its logarithm",
            numbers::percent(share)
        );
    }
    let next = if share.is_some() { "," } else { ":" };
    if let Some(ratio) = effect.per_doubling.filter(|ratio| ratio.value.is_finite()) {
        said += &format!("{next} {} per doubling", with_bounds(&ratio));
    } else if let Some(last) = effect.ratios.last() {
        let first = levels(scope, &factor).first();
        said += &format!(
            "{next} {} at {}{}",
            with_bounds(&last.ratio),
            name(&last.level.to_string()),
            first.map_or_else(String::new, |first| format!(
                " as against {}",
                name(&first.to_string())
            ))
        );
    }
    if scope.model.is_none() || context.models.len() == 1 {
        said += ".";
    } else {
        said += &format!(" ({}).", scope_name(scope));
    }
    Some(said)
}

/// The factor with the largest total share on the log scale, else with the largest effect.
fn dominant(attribution: &Attribution) -> Option<(Factor, Option<f64>)> {
    let by_share = attribution.log.as_ref().and_then(|shares| {
        shares
            .factors
            .iter()
            .filter(|share| share.total.is_finite())
            .max_by(|a, b| a.total.total_cmp(&b.total))
    });
    if let Some(share) = by_share {
        return Some((share.factor.clone(), Some(share.total)));
    }
    attribution
        .effects
        .iter()
        .filter_map(|effect| Some((&effect.factor, effect.per_doubling?.value)))
        .filter(|(_, ratio)| ratio.is_finite() && *ratio > 0.0)
        .max_by(|(_, a), (_, b)| a.ln().abs().total_cmp(&b.ln().abs()))
        .map(|(factor, _)| (factor.clone(), None))
}

fn with_bounds(ratio: &Interval) -> String {
    let value = numbers::ratio(&Interval {
        low: None,
        high: None,
        ..*ratio
    });
    match numbers::bounds(ratio.low, ratio.high) {
        Some(bounds) => format!("{value} (95% interval {bounds})"),
        None => value,
    }
}

/// The line of trust: counts, coverage, outliers and drift.
pub(super) fn trust(report: &Report<'_>) -> String {
    let counts = &report.summary.counts;
    let valid = counts.succeeded.saturating_sub(counts.invalid);
    let mut said = format!(
        "{} of {} {} measured and valid",
        numbers::count(valid),
        numbers::counted(counts.trials, "trial"),
        if counts.trials == 1 { "is" } else { "are" }
    );
    for (number, what) in [
        (counts.invalid, "cannot be vouched for"),
        (counts.out_of_memory, "did not fit into memory"),
        (counts.unsupported, "cannot run"),
        (counts.timed_out, "took too long"),
        (counts.failed, "failed"),
        (counts.pending, "not ended"),
    ] {
        if number > 0 {
            said += &format!(", {} {what}", numbers::count(number));
        }
    }
    let trust = &report.analysis.trust;
    if trust.idle_gpus > 0 {
        said += &format!(
            "; in {} fewer GPUs were at work than asked for",
            numbers::count(trust.idle_gpus)
        );
    }
    let drifted: Vec<String> = trust
        .drift
        .iter()
        .filter(|drift| drift.flagged)
        .map(|drift| metric_title(&drift.metric))
        .collect();
    if !trust.drift.is_empty() {
        said += &match drifted.as_slice() {
            [] => "; no drift over the run".to_owned(),
            drifted => format!("; {} drifted over the run", numbers::listed(drifted)),
        };
    }
    if trust.outliers_among > 0 {
        let outlying: std::collections::BTreeSet<u32> = trust
            .outliers
            .iter()
            .map(|outlier| outlier.trial_index)
            .collect();
        said += &format!(
            "; {}",
            match outlying.len() {
                0 => "no outliers".into(),
                1 => "1 trial stands out".into(),
                n => format!("{} trials stand out", numbers::count(n as u64)),
            }
        );
    }
    said + "."
}
