//! The section "What matters": effects, shares of variance, importances, correlations.

mod selected;

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, html};

use super::{Report, page};
use crate::{
    analysis::{
        Scope,
        attribution::{Against, Attribution, ShareMethod, Shares},
    },
    figures::{
        Question, Table,
        lookup::{effect_headline, metric_title, scope_name},
        matters::CORRELATIONS,
    },
    interval::t_quantile,
    numbers::{self, NOT_AVAILABLE},
    sample::Factor,
};

/// The metrics of the tables that stand open, as far as they were measured.
pub(super) const FIRST: [&str; 4] = ["ttftMs", "ttltMs", "tpotMs", "outputThroughput"];

/// The section, where factors have effects.
pub(super) fn section(report: &Report<'_>) -> Option<Markup> {
    let scopes = &report.analysis.scopes;
    let disagreements = disagreements(scopes);
    let (first, others) = scopes.split_first()?;
    let attributed = scopes.iter().any(|scope| !scope.attribution.is_empty());
    let names = ["effects", "importances"];
    if !attributed
        && !page::drawn(report.figures, &names)
        && !page::drawn(report.figures, &CORRELATIONS)
    {
        return None;
    }
    Some(html! {
        section id="matters" {
            h2 { "What matters" }
            @if let Some(selected) = &report.analysis.selected { (selected::section(selected)) }
            p {
                "An effect is the factor by which a metric changes when a level doubles, with all factors fitted "
                "together; ×1.00 means none. Shares and importances depend on the levels that were chosen: over a "
                "wider range a factor has a larger share."
            }
            (effects(first))
            (page::figures(report.figures, Question::Matters, &["effects"]))
            h3 { "Where the variance comes from" }
            p {
                "S₁ is a factor’s share of the variance by itself, Sₜ with all interactions that it takes part in. On the log scale, relative changes count; the raw scale, on which large values dominate, "
                "stands beside it for parity with the study. Permutation importance goes from 0 to 2 and is, for "
                "independent factors, twice Sₜ."
            }
            (shares(first))
            (interactions(first))
            @if !disagreements.is_empty() {
                h4 { "Where the two methods disagree" }
                ul { @for text in &disagreements { li { (page::cut(text)) } } }
            }
            (page::figures(report.figures, Question::Matters, &["importances", CORRELATIONS[0]]))
            @for (at, scope) in others.iter().enumerate() {
                @if let Some(name) = CORRELATIONS.get(at + 1).filter(|name| page::drawn(report.figures, &[**name])) {
                    details.keep {
                        summary { "Correlations of " bdi { (scope_name(scope)) } }
                        (page::figures(report.figures, Question::Matters, &[name]))
                    }
                }
            }
            @for scope in others {
                details.keep {
                    summary { "Effects and shares of " bdi { (scope_name(scope)) } }
                    (effects(scope))
                    (shares(scope))
                    (interactions(scope))
                }
            }
            @let rest = rest(first);
            @if !rest.is_empty() {
                details.keep {
                    summary { "Other metrics" }
                    (effects_of(&rest, first, &format!("Effects on other metrics, {}", scope_name(first))))
                    (shares_of(&rest, &format!("Shares of other metrics, {}", scope_name(first))))
                }
            }
        }
    })
}

fn first(scope: &Scope) -> Vec<&Attribution> {
    FIRST
        .iter()
        .filter_map(|metric| scope.attribution.iter().find(|of| of.metric == *metric))
        .collect()
}

fn rest(scope: &Scope) -> Vec<&Attribution> {
    scope
        .attribution
        .iter()
        .filter(|of| !FIRST.contains(&of.metric.as_str()))
        .collect()
}

fn effects(scope: &Scope) -> Markup {
    let caption = format!("Effects, {}", scope_name(scope));
    effects_of(&first(scope), scope, &caption)
}

fn shares(scope: &Scope) -> Markup {
    let caption = format!("Shares of the variance, {}", scope_name(scope));
    shares_of(&first(scope), &caption)
}

/// Pairs of factors whose interaction says as much of a variance are listed.
const INTERACTION: f64 = 0.01;

/// The interactions of two factors: their effect together beyond each one's own.
fn interactions(scope: &Scope) -> Markup {
    let mut table = Table::new(["metric", "factors", "share, log", "share, raw"]);
    for of in first(scope) {
        let pairs = [&of.log, &of.raw]
            .into_iter()
            .flatten()
            .find(|shares| !shares.interactions.is_empty());
        for pair in pairs.into_iter().flat_map(|shares| &shares.interactions) {
            let share = |shares: &Option<Shares>| {
                let pairs = &shares.as_ref()?.interactions;
                pairs
                    .iter()
                    .find(|found| found.factors == pair.factors)
                    .map(|found| found.share)
            };
            let both = [share(&of.log), share(&of.raw)];
            if both.iter().flatten().all(|share| *share < INTERACTION) {
                continue;
            }
            let [a, b] = &pair.factors;
            let mut row = vec![
                metric_title(&of.metric),
                format!("{} × {}", a.title(), b.title()),
            ];
            row.extend(
                both.map(|share| share.map_or_else(|| NOT_AVAILABLE.into(), numbers::share)),
            );
            table.push(row);
        }
    }
    html! {
        @if !table.rows.is_empty() {
            details.keep {
                summary { "Interactions of two factors, " bdi { (scope_name(scope)) } }
                (page::table("Shares of the variance that two factors have only together, from 1% on", &table, "analysis.json"))
            }
        }
    }
}

fn effects_of(attributions: &[&Attribution], scope: &Scope, caption: &str) -> Markup {
    let table = effects_table(attributions, scope);
    html! {
        @if table.rows.is_empty() {
            p.none { (caption) ": n/a, for no factor has two levels with valid trials." }
        } @else {
            (page::table(caption, &table, "analysis.json"))
            @if let Some(said) = evidence(attributions) { p.small { (page::cut(&said)) } }
        }
    }
}

/// The basis of the effects' intervals, in words; `None` where there is no interval.
pub(super) fn evidence(attributions: &[&Attribution]) -> Option<String> {
    let effects = || attributions.iter().flat_map(|of| &of.effects);
    let degrees = effects().map(|effect| effect.evidence.degrees).min()?;
    if degrees == 0 {
        return None;
    }
    let mut said = format!(
        "Intervals go over blocks, with {} of freedom or more (Student’s t: {:.2} standard errors to each side).",
        numbers::counted(degrees, "degree"),
        t_quantile(f64::from(degrees))
    );
    let mut started: BTreeMap<&Factor, u32> = BTreeMap::new();
    for effect in effects().filter(|effect| effect.evidence.against == Against::Starts) {
        if let Some(starts) = effect.evidence.starts {
            let least = started.entry(&effect.factor).or_insert(starts);
            *least = starts.min(*least);
        }
    }
    if !started.is_empty() {
        let each = started
            .iter()
            .map(|(factor, starts)| format!("{} {starts}", factor.title()));
        said += &format!(
            " Factors that take a fresh start of the engine are judged against the variation between starts; starts at \
             the level that has the fewest: {}.",
            each.collect::<Vec<_>>().join(", ")
        );
    }
    Some(said)
}

/// Metrics by factors.
pub(super) fn effects_table(attributions: &[&Attribution], scope: &Scope) -> Table {
    let effects = || attributions.iter().flat_map(|of| &of.effects);
    let factors: BTreeSet<&Factor> = effects().map(|effect| &effect.factor).collect();
    if factors.is_empty() {
        return Table::default();
    }
    let doubled = |factor: &Factor| {
        effects().any(|effect| effect.factor == *factor && effect.per_doubling.is_some())
    };
    let mut header = vec!["metric".to_owned()];
    header.extend(factors.iter().map(|factor| {
        if doubled(factor) {
            return format!("{}, per doubling", factor.title());
        }
        let compared = effects()
            .filter(|effect| effect.factor == **factor)
            .find_map(|effect| effect_headline(effect, scope));
        compared.map_or_else(|| factor.title().into(), |(levels, _)| levels)
    }));
    let mut table = Table::new(header);
    for of in attributions {
        let mut row = vec![metric_title(&of.metric)];
        row.extend(factors.iter().map(|factor| {
            let effect = of.effects.iter().find(|effect| effect.factor == **factor);
            match effect.and_then(|effect| effect_headline(effect, scope)) {
                Some((_, ratio)) => numbers::ratio(&ratio),
                None => NOT_AVAILABLE.into(),
            }
        }));
        table.push(row);
    }
    table
}

fn shares_of(attributions: &[&Attribution], caption: &str) -> Markup {
    let mut table = Table::new([
        "metric",
        "factor",
        "alone (S₁), log",
        "total (Sₜ), log",
        "importance, log",
        "alone (S₁), raw",
        "total (Sₜ), raw",
        "importance, raw",
    ]);
    for of in attributions {
        let shares = [&of.log, &of.raw].into_iter().flatten();
        let factors: BTreeSet<&Factor> = shares
            .flat_map(|shares| &shares.factors)
            .map(|share| &share.factor)
            .collect();
        for factor in factors {
            let cells = [&of.log, &of.raw].map(|shares| cells(shares.as_ref(), factor));
            if cells.iter().flatten().all(Option::is_none) {
                continue;
            }
            let mut row = vec![metric_title(&of.metric), factor.title().into()];
            row.extend(
                cells
                    .into_iter()
                    .flatten()
                    .map(|cell| cell.unwrap_or_else(|| NOT_AVAILABLE.into())),
            );
            table.push(row);
        }
    }
    let mut remarks = remarks(attributions);
    remarks.dedup();
    html! {
        @if table.rows.is_empty() {
            p.none { (caption) ": n/a, for no factor has two levels with valid trials." }
        } @else {
            (page::table(caption, &table, "analysis.json"))
        }
        @if !remarks.is_empty() {
            ul.small { @for remark in &remarks { li { (page::cut(remark)) } } }
        }
    }
}

/// S₁, S_T and importance.
fn cells(shares: Option<&Shares>, factor: &Factor) -> [Option<String>; 3] {
    let share = shares.and_then(|shares| shares.factors.iter().find(|of| of.factor == *factor));
    let importance = shares.and_then(|shares| {
        let factors = &shares.importance.factors;
        factors.iter().find(|of| of.factor == *factor)
    });
    [
        share.map(|share| numbers::share(share.first_order)),
        share.map(|share| numbers::share(share.total)),
        importance.map(|of| format!("{} ± {}", numbers::share(of.mean), numbers::share(of.sd))),
    ]
}

/// How shares were computed, why importances are missing, how large the noise is, and what else the analysis notes.
fn remarks(attributions: &[&Attribution]) -> Vec<String> {
    let mut remarks = Vec::new();
    let methods: Vec<ShareMethod> = attributions
        .iter()
        .flat_map(|of| [&of.log, &of.raw])
        .flatten()
        .map(|shares| shares.method)
        .collect();
    for (method, text) in [
        (
            ShareMethod::FullGrid,
            "The grid is full: shares are exact (Sobol indices for levels of equal weight).",
        ),
        (
            ShareMethod::TypeTwo,
            "Combinations are missing: shares are sums of squares of type II with two-way interactions.",
        ),
        (
            ShareMethod::TypeTwoMainEffects,
            "Too many levels or too few combinations for interactions: shares are sums of squares of type II, main \
             effects only.",
        ),
    ] {
        if methods.contains(&method) {
            remarks.push(text.to_owned());
        }
    }
    let mut refused: Vec<(&String, Vec<String>)> = Vec::new();
    for of in attributions {
        for (scale, shares) in [("log", &of.log), ("raw", &of.raw)] {
            let Some(shares) = shares else { continue };
            let title = metric_title(&of.metric);
            if let Some(reason) = &shares.importance.refused {
                let of = format!("{title} ({scale})");
                match refused.iter_mut().find(|(found, _)| *found == reason) {
                    Some((_, metrics)) => metrics.push(of),
                    None => refused.push((reason, vec![of])),
                }
            }
            let largest = shares
                .interactions
                .iter()
                .filter(|pair| pair.share >= 0.05)
                .max_by(|a, b| a.share.total_cmp(&b.share));
            if let Some(pair) = largest.filter(|_| scale == "log") {
                let [a, b] = &pair.factors;
                remarks.push(format!(
                    "{title}: {} and {} interact ({} of the variance of its logarithm).",
                    a.title(),
                    b.title(),
                    numbers::percent(pair.share)
                ));
            }
            if let Some(noise) = shares
                .replicate_noise
                .filter(|noise| scale == "log" && *noise >= 0.01)
            {
                remarks.push(format!(
                    "{title}: {} of the trials’ variance lies between replicates of one combination.",
                    numbers::percent(noise)
                ));
            }
        }
        if let Some(said) = of.log.as_ref().and_then(|shares| noise(&of.metric, shares)) {
            remarks.push(said);
        }
        for note in &of.notes {
            remarks.push(format!("{}: {note}", metric_title(&of.metric)));
        }
    }
    remarks.extend(refused.into_iter().map(|(reason, metrics)| {
        format!(
            "No importances for {}: {reason}.",
            numbers::listed(&metrics)
        )
    }));
    remarks
}

/// Shares at least as large that noise could make are named.
const NOTABLE: f64 = 0.01;
/// From this probability on, a share may be nothing but noise.
const MAY_BE_NOISE: f64 = 0.05;

/// The factors whose share may come of what replicates, or starts of the engine, differ by.
fn noise(metric: &str, shares: &Shares) -> Option<String> {
    let may_be = shares
        .factors
        .iter()
        .filter(|share| share.first_order >= NOTABLE && share.p.is_some_and(|p| p >= MAY_BE_NOISE));
    let titles: Vec<&str> = may_be.map(|share| share.factor.title()).collect();
    (!titles.is_empty()).then(|| {
        format!(
            "{}: the {} of {} may be nothing but what replicates and starts differ by (p ≥ 0.05).",
            metric_title(metric),
            if titles.len() == 1 { "share" } else { "shares" },
            numbers::listed(&titles)
        )
    })
}

fn disagreements(scopes: &[Scope]) -> Vec<String> {
    let mut found = Vec::new();
    for scope in scopes {
        for of in &scope.attribution {
            for (scale, shares) in [("log", &of.log), ("raw", &of.raw)] {
                for text in shares.iter().flat_map(|shares| &shares.disagreements) {
                    found.push(format!(
                        "{}, {}, {scale} scale: {text}",
                        scope_name(scope),
                        metric_title(&of.metric)
                    ));
                }
            }
        }
    }
    let more = found.len().saturating_sub(12);
    if more > 0 {
        found.truncate(12);
        found.push(format!("{more} more are in analysis.json."));
    }
    found
}
