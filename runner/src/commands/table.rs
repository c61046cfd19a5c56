//! The table at the end of a sweep: one line per combination, over its replicates.

use std::{collections::BTreeMap, ops::RangeInclusive};

use comfy_table::{Cell, CellAlignment, LineStyle, Table, TableStyle};
use inferbench_crds::{
    factor::{Factor, Level, Levels},
    workload::Choice,
};
use inferbench_results::{
    best::{against::Comparison, confirmed::Shown, workload},
    numbers::counted,
    record::Outcome,
    row::Row,
    sample::model,
    summary::{Best, Confirmation, Criterion, Summary, Verdict, Weights},
    validity::{MARK, standing_for},
};

use crate::sweep::{levels::Columns, progress::significant};

/// Tables for people: a line under the head, and no other.
pub const STYLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// More lines than that are left to trials.csv.
pub const MAX_LINES: usize = 30;

/// A combination over its replicates; means over the valid ones, or over the invalid ones where it is doubtful.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Its levels.
    pub levels: Levels,
    /// Trials that ended in any way.
    pub trials: usize,
    /// Trials that were measured and can be vouched for.
    pub valid: usize,
    /// Whether it has no valid trial, so that its numbers are those of invalid ones.
    pub doubtful: bool,
    /// Outcomes other than success, with their numbers.
    pub others: BTreeMap<Outcome, usize>,
    /// Mean time to first token, ms.
    pub ttft_ms: Option<f64>,
    /// Mean time per output token, ms.
    pub tpot_ms: Option<f64>,
    /// Output tokens/s.
    pub throughput: Option<f64>,
    /// Decode's fraction of the roofline.
    pub decode: Option<f64>,
    /// Prefill's.
    pub prefill: Option<f64>,
}

/// Sums up the last attempts at all trials, in the order of the levels. Where a combination has no valid trial, its
/// numbers are those of its invalid ones, unless valid ones alone are to be shown.
#[must_use]
pub fn lines<'a>(rows: impl IntoIterator<Item = &'a Row>, valid_only: bool) -> Vec<Line> {
    let mut groups: BTreeMap<_, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        groups.entry(row.levels()).or_default().push(row);
    }
    let columns = Columns::of(groups.keys());
    let mut lines: Vec<Line> = groups
        .into_iter()
        .map(|(levels, rows)| {
            let (standing, marked) = standing_for(&rows);
            let valid = if marked { 0 } else { standing.len() };
            let doubtful = marked && !valid_only;
            let shown = if marked && !doubtful {
                &[]
            } else {
                standing.as_slice()
            };
            let mut others = BTreeMap::new();
            for outcome in rows.iter().filter_map(|row| row.outcome) {
                if outcome != Outcome::Succeeded {
                    *others.entry(outcome).or_default() += 1;
                }
            }
            let mean = |field: fn(&Row) -> Option<f64>| {
                let values: Vec<f64> = shown.iter().filter_map(|row| field(row)).collect();
                (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
            };
            Line {
                levels,
                trials: rows.len(),
                valid,
                doubtful,
                others,
                ttft_ms: mean(|row| row.mean_ttft_ms),
                tpot_ms: mean(|row| row.mean_tpot_ms),
                throughput: mean(|row| row.output_throughput),
                decode: mean(|row| row.decode_roofline_fraction),
                prefill: mean(|row| row.prefill_roofline_fraction),
            }
        })
        .collect();
    lines.sort_by_cached_key(|line| columns.place(&line.levels));
    lines
}

/// The lines as a table of text. Where there are too many, those with the highest throughput are shown.
#[must_use]
pub fn render(lines: &[Line]) -> String {
    let mut shown: Vec<&Line> = lines.iter().collect();
    let left_out = shown.len().saturating_sub(MAX_LINES);
    if left_out > 0 {
        shown.sort_by(|a, b| {
            b.throughput
                .unwrap_or(-1.0)
                .total_cmp(&a.throughput.unwrap_or(-1.0))
        });
        shown.truncate(MAX_LINES);
    }
    let mut table = Table::new();
    table.load_style(STYLE);
    let columns = Columns::of(lines.iter().map(|line| &line.levels));
    let metrics = ["TTFT ms", "TPOT ms", "tokens/s", "decode %", "prefill %"];
    let heads = columns.heads().into_iter();
    table.set_header(
        heads
            .chain(metrics.map(str::to_owned))
            .chain(["valid".to_owned()]),
    );
    let numbers = columns.starts()..=columns.count() + metrics.len() - 1;
    for line in shown {
        let mark = if line.doubtful { MARK } else { "" };
        let number = |value: Option<f64>| {
            value.map_or(String::new(), |value| {
                format!("{}{mark}", significant(value))
            })
        };
        let percent = |value: Option<f64>| {
            value.map_or(String::new(), |value| format!("{:.0}{mark}", value * 100.0))
        };
        let others: Vec<String> = line
            .others
            .iter()
            .map(|(outcome, count)| format!("{count} {outcome:?}"))
            .collect();
        let mut valid = format!("{}/{}", line.valid, line.trials);
        if !others.is_empty() {
            valid = format!("{valid} ({})", others.join(", "));
        }
        let cells = [
            number(line.ttft_ms),
            number(line.tpot_ms),
            number(line.throughput),
            percent(line.decode),
            percent(line.prefill),
            valid,
        ];
        let cells = columns.cells(&line.levels).into_iter().chain(cells);
        table.add_row(aligned(cells, numbers.clone()));
    }
    let mut text = table.trim_fmt();
    if left_out > 0 {
        text.push_str(&format!(
            "\n… the {MAX_LINES} highest of {} by tokens/s",
            lines.len()
        ));
    }
    if lines.iter().any(|line| line.doubtful) {
        text.push_str(&format!(
            "\n{MARK} of invalid trials alone, which nothing vouches for: trials.csv says why"
        ));
    }
    text
}

/// Workloads up to which each has a line of its own.
const MAX_WORKLOADS: usize = 8;

/// The choices to run, in words: of each model the best one for its mix of workloads or for its one workload, then for
/// each workload alone, where they are few.
#[must_use]
pub fn best(summary: &Summary) -> Vec<String> {
    let columns = Columns::of(summary.combinations.iter().map(|of| &of.levels));
    let line = |criterion: Criterion, shown: Shown<'_>, levels: &Levels, tail: &str| {
        let what = match criterion {
            Criterion::HighestOutputThroughput => "highest throughput",
            Criterion::HighestOutputThroughputWithinObjectives => "within objectives",
            Criterion::LowestTtft => "lowest TTFT",
            Criterion::HighestCapacity => "highest load",
        };
        let (figure, levels) = (figure(criterion, shown)?, columns.in_words(levels, ", "));
        let said = confirmed(shown.confirmation);
        Some(format!("{what:<18}  {figure}  ({levels}{tail}){said}"))
    };
    let mut said = Vec::new();
    let mixed = |of: &str| summary.mixes.iter().any(|mix| mix.model == of);
    for best in summary
        .best
        .iter()
        .filter(|best| !mixed(model(&best.levels)))
    {
        let tail = ties(best.near_ties, best.comparison.as_ref());
        said.extend(line(best.criterion, best.shown(), &best.levels, &tail));
    }
    for mix in &summary.mixes {
        let workloads = mix.workloads.len();
        let over = match mix.weights {
            Weights::Alike if workloads == 2 => "both workloads alike".into(),
            Weights::Alike => format!("all {workloads} workloads alike"),
            Weights::Given => format!("the mix of {workloads} workloads"),
        };
        for best in &mix.best {
            let mut levels = best.of.choice.levels().clone();
            levels.set(Factor::MODEL, Level::from(mix.model.as_str()));
            let tail = ties(best.near_ties, best.comparison.as_ref());
            let tail = format!("; {over}{tail}");
            said.extend(line(best.criterion, best.shown(), &levels, &tail));
        }
        if mix.best.is_empty() {
            said.push(format!(
                "{}: no choice has a valid trial of {over}",
                mix.model
            ));
        }
    }
    let decides = summary.decides();
    let each = summary.best.iter();
    let each = each.filter(|best| best.criterion == decides && mixed(model(&best.levels)));
    let each: Vec<&Best> = each.collect();
    if each.len() > MAX_WORKLOADS {
        said.push(format!(
            "report.html has the best choice for each of {} workloads",
            each.len()
        ));
    } else {
        said.extend(each.into_iter().filter_map(|best| {
            let (choice, shown) = (Choice::of(&best.levels), best.shown());
            Some(format!(
                "  {}: {}  ({}{}){}",
                columns.in_words(&workload(&best.levels), ", "),
                figure(best.criterion, shown)?,
                columns.in_words(choice.levels(), ", "),
                ties(best.near_ties, best.comparison.as_ref()),
                confirmed(shown.confirmation)
            ))
        }));
    }
    said
}

/// The figure that a criterion goes by, with its unit.
fn figure(criterion: Criterion, shown: Shown<'_>) -> Option<String> {
    let (value, unit) = match criterion {
        Criterion::LowestTtft => (shown.ttft_ms?.mean, "ms"),
        Criterion::HighestCapacity => (shown.capacity?.of.mean, shown.capacity?.unit()),
        _ => (shown.output_throughput.mean, "tokens/s"),
    };
    Some(format!("{} {unit}", significant(value)))
}

/// The verdict of measuring it again, after a colon; empty in a sweep that measures nothing again.
fn confirmed(confirmation: Option<&Confirmation>) -> String {
    let Some(of) = confirmation else {
        return String::new();
    };
    let replicates = || counted(of.replicates, "fresh replicate");
    match of.verdict {
        Verdict::NotYet => ": best so far, not confirmed".into(),
        Verdict::Confirmed => format!(": confirmed in {}", replicates()),
        Verdict::MissesObjectives => format!(": misses the objectives in {}", replicates()),
        Verdict::Beaten => format!(": another choice is better in {}", replicates()),
    }
}

/// How many other choices may be as good, after a semicolon; empty where none may be.
fn ties(near: u32, comparison: Option<&Comparison>) -> String {
    match (near, comparison) {
        (0, _) => String::new(),
        (near, Some(test)) if test.tested == 0 => {
            format!("; {} not tested", counted(near, "other"))
        }
        (near, _) => format!("; {} may be as good", counted(near, "other")),
    }
}

/// The cells of a row, those of the columns `right` flush right: numbers.
pub fn aligned(
    cells: impl IntoIterator<Item = String>,
    right: RangeInclusive<usize>,
) -> impl Iterator<Item = Cell> {
    cells.into_iter().enumerate().map(move |(column, text)| {
        let alignment = if right.contains(&column) {
            CellAlignment::Right
        } else {
            CellAlignment::Left
        };
        Cell::new(text).set_alignment(alignment)
    })
}

#[cfg(test)]
mod tests {
    use inferbench_crds::spec::Objectives;
    use inferbench_results::summary::summarize;

    use super::*;

    fn row(batch: u32, throughput: f64, valid: bool) -> Row {
        Row {
            model: "gpt2".into(),
            dtype: "f32".into(),
            batch_size: batch,
            input_len: 16,
            output_len: 8,
            outcome: Some(Outcome::Succeeded),
            valid: Some(valid),
            mean_ttft_ms: Some(20.0 * f64::from(batch)),
            mean_tpot_ms: Some(12.345),
            output_throughput: Some(throughput),
            decode_roofline_fraction: Some(0.801),
            ..Row::default()
        }
    }

    #[test]
    fn means_are_over_valid_replicates_and_the_rest_is_counted() {
        let lost = Row {
            outcome: Some(Outcome::OutOfMemory),
            valid: Some(true),
            ..row(64, 0.0, true)
        };
        let lost = Row {
            output_throughput: None,
            mean_ttft_ms: None,
            mean_tpot_ms: None,
            decode_roofline_fraction: None,
            ..lost
        };
        let rows = [
            row(1, 80.0, true),
            row(1, 90.0, true),
            row(1, 9.0, false),
            row(4, 300.4, true),
            lost,
        ];
        let lines = lines(&rows, false);
        insta::assert_snapshot!(format!(
            "{}\n\n{}",
            render(&lines),
            best_of(&rows).join("\n")
        ));
    }

    /// The best of these rows, each a trial of its own.
    fn best_of(rows: &[Row]) -> Vec<String> {
        let mut rows = rows.to_vec();
        for (index, row) in (0..).zip(&mut rows) {
            row.trial_index = index;
        }
        best(&summarize("sweep", &rows, &Objectives::default()))
    }

    #[test]
    fn the_best_is_that_of_the_mix_and_of_each_workload() {
        let mut rows = Vec::new();
        for replicate in 0..3 {
            for (batch, input, rate) in [
                (1, 16, 80.0),
                (4, 16, 300.0),
                (1, 512, 60.0),
                (4, 512, 50.0),
            ] {
                rows.push(Row {
                    input_len: input,
                    replicate,
                    ..row(batch, rate + f64::from(replicate), true)
                });
            }
        }
        insta::assert_snapshot!(best_of(&rows).join("\n"));
    }

    #[test]
    fn numbers_of_invalid_trials_alone_are_shown_and_marked() {
        let rows = [
            row(1, 80.0, true),
            row(4, 310.0, false),
            row(4, 290.0, false),
        ];
        let all = lines(&rows, false);
        let text = render(&all);
        assert!(
            text.contains("300†") && text.contains("80†") && text.contains("0/2"),
            "{text}"
        );
        assert!(
            !text.contains("20.0†") && text.ends_with("trials.csv says why"),
            "{text}"
        );
        // Nothing is best that nobody vouches for.
        assert!(best_of(&rows).iter().all(|line| line.contains("batch 1")));
        let text = render(&lines(&rows, true));
        assert!(!text.contains(MARK) && !text.contains("300"), "{text}");
    }

    #[test]
    fn huge_designs_show_their_best() {
        let rows: Vec<Row> = (1..=100)
            .map(|batch| row(batch, f64::from(batch), true))
            .collect();
        let text = render(&lines(&rows, false));
        assert!(text.contains("the 30 highest of 100"));
        assert_eq!(
            text.lines().filter(|line| line.contains("gpt2")).count(),
            MAX_LINES
        );
        assert!(text.contains("100") && !text.contains(" 70 "));
    }
}
