//! The section "What to run": the best choices of each model, for its mix of workloads and for each of them.

use std::collections::{BTreeMap, BTreeSet};

use inferbench_crds::workload::Choice;
use maud::{Markup, html};

use super::{Report, page};
use crate::{
    best::{
        Capacity,
        against::Comparison,
        confirmed::Shown,
        mix::{Mix, Weights},
        workload,
    },
    figures::{
        Question, Table,
        lookup::{choice_in_words, in_words, mix_name, name, workload_in_words},
    },
    interval::Estimate,
    numbers,
    sample::{Factor, Levels, model},
    summary::{Best, Confirmation, Criterion, Verdict},
};

/// Rows up to which the table of all workloads stands open.
const OPEN: usize = 12;
/// Choices as good as the best that are named in a row.
const NAMED: usize = 8;

/// The section, where there is something to decide upon.
pub(super) fn section(report: &Report<'_>) -> Option<Markup> {
    let Decided {
        first,
        each,
        as_good,
    } = decide(report);
    let priced = report.objectives.cost_per_gpu_hour.is_some();
    if first.rows.is_empty() && each.rows.is_empty() {
        return None;
    }
    let mixes = &report.summary.mixes;
    let again = first
        .header
        .iter()
        .chain(&each.header)
        .any(|of| of == "measured again");
    let each_caption = "The best choice for each workload";
    Some(html! {
        section id="decide" {
            h2 { "What to run" }
            p {
                @match report.limits() {
                    Some(limits) => { "Objectives: " (limits) ", judged by each combination’s mean." },
                    None => { "No objectives were set: a latency limit (" code { "objectives" } ") narrows this down." },
                }
                @match &report.objectives.cost_per_gpu_hour {
                    Some(price) => { " A GPU costs " (page::cut(price)) " an hour." },
                    None => { " Without a price per GPU hour there is no cost per token." },
                }
            }
            @if !mixes.is_empty() { p { (explained(mixes)) } }
            @if mixes.is_empty() {
                (page::table("Best combinations of each model", &first, "summary.json"))
            } @else {
                (page::table("The best choice for all that comes", &first, "summary.json"))
            }
            p.small {
                "Means with 95% intervals. " (tested(report)) (explained_again(again))
                @if priced { " Cost is per million output tokens, at full use of the GPUs." }
                (page::marked(&first))
            }
            @for said in lacking(mixes, &report.summary.asked()) { p.small { (said) } }
            @if !each.rows.is_empty() {
                @if each.rows.len() > OPEN {
                    details {
                        summary { "The best choice for each of " (numbers::counted((each.rows.len() + each.left_out) as u64, "workload")) }
                        (page::table(each_caption, &each, "summary.json"))
                    }
                } @else {
                    (page::table(each_caption, &each, "summary.json"))
                }
                @if each.rows.iter().flatten().any(|cell| cell.ends_with(crate::validity::MARK)) {
                    p.small { (page::marked(&each)) }
                }
            }
            @if !as_good.rows.is_empty() {
                details {
                    summary { "Which choices are as good" }
                    (page::table("Choices that are not shown to be worse than the best", &as_good, "summary.json"))
                }
            }
            (page::figures(report.figures, Question::Decide, &["engines", "load-curves", "goodput", "best-by-lengths", "fronts"]))
        }
    })
}

/// The tables of the section.
#[derive(Debug, Default)]
pub(super) struct Decided {
    /// Of each model, for its mix or its one workload, by every criterion.
    pub first: Table,
    /// For each workload of the models that have several, by the criterion that decides.
    pub each: Table,
    /// The names of those that are as good.
    pub as_good: Table,
}

/// A best choice, with the figures of its row.
struct Row<'a> {
    model: &'a str,
    /// The workload or the mix; none where the model has one workload, which is said with the choice.
    purpose: Option<String>,
    criterion: Criterion,
    choice: String,
    shown: Shown<'a>,
    near_ties: u32,
    comparison: Option<&'a Comparison>,
    as_good: &'a [Choice],
    doubtful: bool,
}

impl<'a> Row<'a> {
    fn of(best: &'a Best, several: bool, doubtful: bool, asked: &[Factor]) -> Self {
        Self {
            model: model(&best.levels),
            purpose: several.then(|| workload_in_words(&best.levels, asked)),
            criterion: best.criterion,
            choice: if several {
                choice_in_words(&Choice::of(&best.levels), asked)
            } else {
                in_words(&best.levels, asked)
            },
            shown: best.shown(),
            near_ties: best.near_ties,
            comparison: best.comparison.as_ref(),
            as_good: &best.as_good,
            doubtful,
        }
    }

    fn of_mix(mix: &'a Mix, asked: &[Factor]) -> impl Iterator<Item = Self> {
        mix.best.iter().map(move |best| Self {
            model: &mix.model,
            purpose: Some(mix_name(mix)),
            criterion: best.criterion,
            choice: choice_in_words(&best.of.choice, asked),
            shown: best.shown(),
            near_ties: best.near_ties,
            comparison: best.comparison.as_ref(),
            as_good: &best.as_good,
            doubtful: false,
        })
    }

    fn cells(&self, with: Columns, with_criterion: bool, asked: &[Factor]) -> Vec<String> {
        let mut row = vec![name(self.model)];
        if with.purpose || !with_criterion {
            row.push(self.purpose.clone().unwrap_or_default());
        }
        if with_criterion {
            row.push(self.criterion.title().into());
        }
        row.push(self.choice.clone());
        let figures = row.len();
        if with.capacity.is_some() {
            row.push(latency(self.shown.capacity.map(|capacity| &capacity.of)));
        }
        row.push(numbers::estimate(self.shown.output_throughput));
        row.push(latency(self.shown.ttft_ms));
        row.push(latency(self.shown.tpot_ms));
        if with.price {
            row.push(numbers::optional(self.shown.cost));
        }
        if with.confirmation {
            let again = self.shown.confirmation;
            row.push(again.map_or_else(String::new, |of| confirmed(of, asked)));
        }
        row.push(match self.comparison {
            Some(test) if test.tested == 0 => "not tested".into(),
            _ => numbers::count(self.near_ties),
        });
        if self.doubtful {
            row[figures..].iter_mut().for_each(page::mark);
        }
        row
    }
}

/// The best choices as tables; of a workload without any valid trial those of its invalid ones, marked.
pub(super) fn decide(report: &Report<'_>) -> Decided {
    let asked = &report.summary.asked();
    let found = &report.summary.best;
    let mut doubted = crate::summary::doubtful_best(report.doubtful, report.objectives);
    let known: BTreeSet<Levels> = found.iter().map(|best| workload(&best.levels)).collect();
    doubted.retain(|of| !known.contains(&workload(&of.levels)));
    let mut workloads: BTreeMap<&str, BTreeSet<Levels>> = BTreeMap::new();
    for best in found.iter().chain(&doubted) {
        let own = workloads.entry(model(&best.levels)).or_default();
        own.insert(workload(&best.levels));
    }
    let mixes = &report.summary.mixes;
    let mix = |of: &str| mixes.iter().find(|mix| mix.model == of);
    let several =
        |of: &str| workloads.get(of).is_some_and(|own| own.len() > 1) || mix(of).is_some();
    let all = || {
        let found = found.iter().map(|best| (best, false));
        found.chain(doubted.iter().map(|best| (best, true)))
    };

    let mut first = Vec::new();
    for of in workloads.keys() {
        if let Some(mix) = mix(of) {
            first.extend(Row::of_mix(mix, asked));
        } else if !several(of) {
            let own = all().filter(|(best, _)| model(&best.levels) == *of);
            first.extend(own.map(|(best, doubtful)| Row::of(best, false, doubtful, asked)));
        }
    }
    let decides = report.summary.decides();
    let mut each = Vec::new();
    let mut without = Vec::new();
    for (of, doubtful) in all().filter(|(of, _)| several(model(&of.levels))) {
        if of.criterion == decides {
            each.push(Row::of(of, true, doubtful, asked));
        } else if of.criterion == Criterion::HighestOutputThroughput {
            // Nothing keeps to the objectives.
            let own = workload(&of.levels);
            let keeps = all()
                .any(|(other, _)| other.criterion == decides && workload(&other.levels) == own);
            if !keeps {
                without.push(own);
            }
        }
    }

    let rows = || first.iter().chain(&each);
    let with = Columns {
        purpose: first.iter().any(|row| row.purpose.is_some()),
        capacity: rows().find_map(|row| row.shown.capacity.map(Capacity::unit)),
        price: rows().any(|row| row.shown.cost.is_some()),
        confirmation: rows().any(|row| row.shown.confirmation.is_some()),
    };
    let mut decided = Decided {
        first: Table::new(header(with, true)),
        each: Table::new(header(with, false)),
        as_good: Table::new(["model", "for", "best at", "best", "as good"]),
    };
    for row in &first {
        decided.first.push(row.cells(with, true, asked));
    }
    for row in &each {
        decided.each.push(row.cells(with, false, asked));
    }
    for own in &without {
        let mut row = vec![
            name(model(own)),
            workload_in_words(own, asked),
            "none keeps to the objectives".into(),
        ];
        row.resize(decided.each.header.len(), numbers::NOT_AVAILABLE.into());
        decided.each.push(row);
    }
    for row in rows().filter(|row| !row.as_good.is_empty()) {
        decided.as_good.push(vec![
            name(row.model),
            row.purpose
                .clone()
                .unwrap_or_else(|| "its one workload".into()),
            row.criterion.title().into(),
            row.choice.clone(),
            names(row, asked),
        ]);
    }
    decided
}

/// The columns that the tables have beside those that they have always.
#[derive(Clone, Copy)]
struct Columns {
    purpose: bool,
    /// Its unit.
    capacity: Option<&'static str>,
    price: bool,
    confirmation: bool,
}

fn header(with: Columns, with_criterion: bool) -> Vec<&'static str> {
    let mut header = vec!["model"];
    if with.purpose || !with_criterion {
        header.push("for");
    }
    if with_criterion {
        header.push("best at");
    }
    header.push("run it with");
    header.extend(with.capacity);
    header.extend(["output tokens/s", "TTFT, ms", "TPOT, ms"]);
    if with.price {
        header.push("cost per million output tokens");
    }
    if with.confirmation {
        header.push("measured again");
    }
    header.push("as good");
    header
}

/// The verdict of measuring it again, in a few words.
fn confirmed(of: &Confirmation, asked: &[Factor]) -> String {
    match of.verdict {
        Verdict::NotYet => "best so far, not confirmed".into(),
        Verdict::Beaten => {
            let better = of.better.iter().take(NAMED);
            let better: Vec<String> = better.map(|of| choice_in_words(of, asked)).collect();
            format!(
                "{}: not confirmed, as better: {}",
                of.replicates,
                better.join("; ")
            )
        }
        verdict => format!("{}: {}", of.replicates, verdict.title()),
    }
}

/// The explanation of the column on choices that were measured again.
fn explained_again(with: bool) -> &'static str {
    if with {
        " “Measured again” says in how many fresh replicates, and what came of it: confirmed, where the choice keeps to the \
         objectives and no other that was measured again is shown to be better. The figures of such a row are those of the \
         fresh replicates alone; the others chose it."
    } else {
        ""
    }
}

/// The choices that are as good, by name, and the number of the others.
fn names(row: &Row<'_>, asked: &[Factor]) -> String {
    let named: Vec<String> = row
        .as_good
        .iter()
        .take(NAMED)
        .map(|choice| choice_in_words(choice, asked))
        .collect();
    let more = row.near_ties as usize - named.len().min(row.near_ties as usize);
    match more {
        0 => named.join("; "),
        more => format!("{}; {} more", named.join("; "), numbers::count(more as u64)),
    }
}

fn latency(estimate: Option<&Estimate>) -> String {
    estimate.map_or_else(|| numbers::NOT_AVAILABLE.into(), numbers::estimate)
}

/// The explanation of mixes.
fn explained(mixes: &[Mix]) -> Markup {
    let given = mixes.iter().any(|mix| mix.weights == Weights::Given);
    html! {
        "Nobody chooses what users send, so a choice is judged by all of it: "
        @if given {
            "the mix that the objectives weight."
        } @else {
            "every workload of the sweep, with as many requests of each (" code { "objectives.workloads" }
            " weights them)."
        }
        " Its throughput is all output tokens over all the time that the requests take, one workload after another; \
         latencies are means over requests; limits have to hold in every workload."
    }
}

/// Sentences about choices that could not be the best for a mix.
fn lacking(mixes: &[Mix], asked: &[Factor]) -> Vec<String> {
    let mut said = Vec::new();
    for mix in mixes {
        let of = name(&mix.model);
        if mix.choices.is_empty() {
            said.push(format!(
                "{of}: no choice has a valid trial of {}, so none is the best for it.",
                mix_name(mix)
            ));
        } else if !mix.lacking.is_empty() {
            let first: Vec<String> = mix
                .lacking
                .iter()
                .take(3)
                .map(|lacking| {
                    format!(
                        "{} ({} missing)",
                        choice_in_words(&lacking.choice, asked),
                        numbers::counted(lacking.workloads, "workload")
                    )
                })
                .collect();
            let more = mix.lacking.len() - first.len();
            said.push(format!(
                "{of}: not eligible, for want of a valid trial of each workload: {}{}.",
                first.join("; "),
                match more {
                    0 => String::new(),
                    more => format!("; {} more", numbers::count(more as u64)),
                }
            ));
        }
        if mix.unmeasured > 0 {
            said.push(format!(
                "{of}: {} without a valid trial of any choice {} left out.",
                numbers::counted(mix.unmeasured, "workload"),
                if mix.unmeasured == 1 { "is" } else { "are" }
            ));
        }
    }
    said
}

/// A sentence about the test against the best.
fn tested(report: &Report<'_>) -> String {
    let best = report.summary.best.iter().map(|best| best.comparison);
    let mixed = report.summary.mixes.iter().flat_map(|mix| &mix.best);
    let tests: Vec<Comparison> = best
        .chain(mixed.map(|best| best.comparison))
        .flatten()
        .collect();
    let done = || tests.iter().filter(|test| test.tested > 0);
    let pairs = || done().map(|test| test.comparisons);
    let (Some(least), Some(most)) = (pairs().min(), pairs().max()) else {
        return if tests.is_empty() {
            "There is no other choice.".into()
        } else {
            "With one replicate nothing is tested: other choices may be as good.".into()
        };
    };
    format!(
        "“As good” counts the other choices that are not shown to be worse than the best: paired t-tests of log ratios \
         over blocks, with Holm’s correction over all pairs of a row’s choices ({}), at {} for each row.",
        if least == most {
            numbers::count(least)
        } else {
            format!("{}–{}", numbers::count(least), numbers::count(most))
        },
        numbers::percent(crate::best::against::ALPHA)
    )
}
