//! The answers in a few plain sentences, for the top of a report.

use inferbench_crds::workload::Choice;

use super::Report;
use crate::{
    analysis::{
        Scope,
        attribution::Attribution,
        expectations::{Tally, Verdict},
    },
    best::{
        against::Comparison,
        confirmed::{Shown, Verdict as Confirmed},
        mix::Mix,
    },
    figures::lookup::{
        Context, choice_in_words, in_words, levels, metric_title, mix_name, name, scope_name,
        sentence,
    },
    interval::{Estimate, Interval},
    numbers,
    sample::{Factor, model},
    summary::{CombinationSummary, Confirmation, Criterion},
    validity::MARK,
};

/// The sentences, each with what it answers.
pub(super) fn sentences(report: &Report<'_>) -> Vec<String> {
    let context = Context::new(report.summary, report.analysis);
    let mut said = Vec::new();
    said.extend(report.summary.basis.headline());
    said.extend(report.summary.basis.unmeasured_headline());
    said.extend(report.analysis.table_notes.iter().cloned());
    said.extend(best(report));
    said.extend(doubted(report));
    said.extend(drivers(report, &context));
    said.extend(expected(report));
    said.push(trust(report));
    said
}

/// A choice to recommend.
struct Pick<'a> {
    model: &'a str,
    /// The mix that it is for; none of a model's one workload.
    mix: Option<&'a Mix>,
    with: String,
    shown: Shown<'a>,
    near_ties: u32,
    comparison: Option<Comparison>,
}

/// The best choice under the objectives, or the fastest one, of each model: for its mix, or for its one workload.
fn picks<'a>(report: &Report<'a>, criterion: Criterion) -> Vec<Pick<'a>> {
    let summary = report.summary;
    let asked = &report.summary.asked();
    let mixed = |of: &str| summary.mixes.iter().any(|mix| mix.model == of);
    let single = summary
        .best
        .iter()
        .filter(|best| best.criterion == criterion && !mixed(model(&best.levels)))
        .map(|best| Pick {
            model: model(&best.levels),
            mix: None,
            with: in_words(&best.levels, asked),
            shown: best.shown(),
            near_ties: best.near_ties,
            comparison: best.comparison,
        });
    let mixes = summary.mixes.iter().flat_map(|mix| {
        let best = mix.best.iter().filter(|best| best.criterion == criterion);
        best.map(move |best| Pick {
            model: &mix.model,
            mix: Some(mix),
            with: choice_in_words(&best.of.choice, asked),
            shown: best.shown(),
            near_ties: best.near_ties,
            comparison: best.comparison,
        })
    });
    let mut picks: Vec<Pick<'_>> = single.chain(mixes).collect();
    let figure = |pick: &Pick<'_>| figure(criterion, pick.shown).mean;
    picks.retain(|pick| figure(pick).is_finite());
    picks.sort_by(|a, b| figure(b).total_cmp(&figure(a)));
    picks
}

/// The figure that a criterion which decides goes by.
fn figure(criterion: Criterion, shown: Shown<'_>) -> &Estimate {
    let capacity = shown
        .capacity
        .filter(|_| criterion == Criterion::HighestCapacity);
    capacity.map_or(shown.output_throughput, |capacity| &capacity.of)
}

/// The choices to run, of at most two models.
fn best(report: &Report<'_>) -> Vec<String> {
    let limits = report.limits();
    let criterion = report.summary.decides();
    let picks = picks(report, criterion);
    let Some(first) = picks.first() else {
        return vec![match limits {
            _ if report.summary.counts.succeeded == report.summary.counts.invalid => {
                "No trial has a valid measurement, so nothing can be recommended.".into()
            }
            _ if report
                .summary
                .mixes
                .iter()
                .any(|mix| mix.choices.is_empty()) =>
            {
                "No choice has a valid trial of every workload: see the best for each.".into()
            }
            Some(limits) if !report.summary.mixes.is_empty() => {
                format!("No choice keeps to {limits} in every workload: see the best for each.")
            }
            Some(limits) => format!("No combination keeps to {limits}."),
            None => "Nothing can be recommended.".into(),
        }];
    };
    let within = limits.map_or_else(String::new, |limits| format!(" within {limits}"));
    let over = first
        .mix
        .map_or_else(String::new, |mix| format!(" over {}", mix_name(mix)));
    let (what, unit) = match first.shown.capacity {
        Some(capacity) if criterion == Criterion::HighestCapacity => ("load", capacity.unit()),
        _ => ("output throughput", "tokens/s"),
    };
    let so_far = match first.shown.confirmation {
        Some(Confirmation {
            verdict: Confirmed::NotYet,
            ..
        }) => "Best so far, not confirmed: highest",
        _ => "Highest",
    };
    let mut said = vec![format!(
        "{so_far} {what}{within}{over}: {} for {} at {}{}{}{}.",
        numbers::estimate_with_unit(figure(criterion, first.shown), unit),
        name(first.model),
        first.with,
        first
            .shown
            .cost
            .filter(|cost| cost.is_finite())
            .map_or_else(String::new, |cost| format!(
                ", at a cost of {} per million output tokens",
                numbers::number(cost)
            )),
        confirmed(first.shown.confirmation, &report.summary.asked()),
        match (first.near_ties, first.comparison) {
            (0, _) => String::new(),
            (others, Some(test)) if test.tested == 0 => format!(
                "; {} not tested against it, for want of replicates",
                match others {
                    1 => "another choice is".into(),
                    others => format!("{} others are", numbers::count(others)),
                }
            ),
            (1, _) => "; another choice may be as good".into(),
            // Not that all are alike: so few blocks tell too little.
            (others, Some(test)) if test.worse == 0 && test.tested == others => format!(
                "; with {} none of the {} others could be shown to be worse",
                numbers::counted(test.blocks, "replicate"),
                numbers::count(others)
            ),
            (ties, _) => format!("; {} others may be as good", numbers::count(ties)),
        }
    )];
    said.extend(workload_by_workload(report, criterion, first));
    if let Some(other) = picks.get(1) {
        said.push(format!(
            "{} reaches {} at {}.",
            name(other.model),
            numbers::with_unit(figure(criterion, other.shown).mean, unit),
            other.with
        ));
    }
    said
}

/// The verdict of measuring the best again, after a comma.
fn confirmed(confirmation: Option<&Confirmation>, asked: &[Factor]) -> String {
    let Some(of) = confirmation else {
        return String::new();
    };
    let in_fresh = format!("in {}", numbers::counted(of.replicates, "fresh replicate"));
    match of.verdict {
        Confirmed::NotYet => String::new(),
        Confirmed::Confirmed => format!(", confirmed {in_fresh}"),
        Confirmed::MissesObjectives => {
            format!(
                ", measured again {in_fresh}, where it does not keep to the objectives: it is not confirmed"
            )
        }
        Confirmed::Beaten => {
            let better = of.better.iter().take(BETTER);
            let better: Vec<String> = better.map(|of| choice_in_words(of, asked)).collect();
            format!(
                ", measured again {in_fresh}, where {} is shown to be better: it is not confirmed",
                numbers::listed(&better)
            )
        }
    }
}

/// Choices that are named as better than the best.
const BETTER: usize = 3;

/// How often the choice for the mix is the best for a workload alone.
fn workload_by_workload(
    report: &Report<'_>,
    criterion: Criterion,
    pick: &Pick<'_>,
) -> Option<String> {
    let mix = pick
        .mix
        .filter(|_| report.summary.workloads_left_out == 0)?;
    let choice = mix.best.iter().find(|best| best.criterion == criterion)?;
    let own = || {
        let best = report.summary.best.iter();
        best.filter(|best| best.criterion == criterion && model(&best.levels) == mix.model)
            .filter(|best| {
                mix.workloads
                    .iter()
                    .any(|of| of.workload.matches(&best.levels))
            })
    };
    let same = own().filter(|best| Choice::of(&best.levels) == choice.of.choice);
    let (same, all) = (same.count(), mix.workloads.len());
    (all > 1).then(|| how_many_have_it(same, all))
}

/// How many of all workloads, of which there are several, have the choice for the mix as their own best.
fn how_many_have_it(same: usize, all: usize) -> String {
    let [of_these, of_all] = [same, all].map(|count| numbers::count(count as u64));
    let others = match all.saturating_sub(same) {
        1 => "the other has another one",
        _ => "the others have other ones",
    };
    match same {
        0 => "By itself, no workload has this best choice.".into(),
        _ if same == all => format!("It is the best choice for each of the {of_all} workloads."),
        1 => format!("By itself, 1 of the {of_all} workloads has this best choice, and {others}."),
        _ => format!(
            "By themselves, {of_these} of the {of_all} workloads have this best choice, and {others}."
        ),
    }
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
        in_words(&of.levels, &report.summary.asked())
    ))
}

/// The tally of the expectations, and which were refuted.
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
        (counts.not_needed, "were not needed"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_workload_has_and_several_have() {
        for (same, all, said) in [
            (0, 2, "By itself, no workload has this best choice."),
            (
                1,
                2,
                "By itself, 1 of the 2 workloads has this best choice, and the other has another one.",
            ),
            (
                1,
                3,
                "By itself, 1 of the 3 workloads has this best choice, and the others have other ones.",
            ),
            (
                2,
                3,
                "By themselves, 2 of the 3 workloads have this best choice, and the other has another one.",
            ),
            (
                2,
                1_200,
                "By themselves, 2 of the 1,200 workloads have this best choice, and the others have other ones.",
            ),
            (3, 3, "It is the best choice for each of the 3 workloads."),
        ] {
            assert_eq!(how_many_have_it(same, all), said);
        }
    }
}
