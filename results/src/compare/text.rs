//! A comparison for people: a plain text for terminals, Markdown for pull requests. Both say the same.

use std::fmt::Write as _;

use super::{Comparison, Difference, MetricComparison, Over, RatioMethod, Side, Verdict};
use crate::sample::{Factor, Level, Levels, Metric, factors};

/// The metrics whose combinations are listed; those of the limits come with them. All are in the document.
const LISTED: [&str; 3] = ["ttftMs", "tpotMs", "outputThroughput"];

/// Combinations listed of one metric; those for which something is shown go first.
const MAX_LINES: usize = 40;

/// Of many values or combinations, those that are listed in a line.
const MAX_VALUES: usize = 4;

/// In place of an interval that is not known.
const UNKNOWN: &str = "unknown";

/// In place of what could have been found.
const NOTHING: &str = "nothing";

/// In place of a p value.
const NO_P: &str = "–";

const LEGEND: &str = "~: nothing is shown, which does not say that the two are equal. \"could find\": the smallest \
change, up or down, that the test had a chance of 80% to find. p is Holm-adjusted over a metric's combinations; the \
intervals are 95% each.";

/// The comparison as plain text.
#[must_use]
pub fn plain(comparison: &Comparison) -> String {
    Page {
        out: String::new(),
        markdown: false,
    }
    .write(comparison)
}

/// The comparison as Markdown.
#[must_use]
pub fn markdown(comparison: &Comparison) -> String {
    Page {
        out: String::new(),
        markdown: true,
    }
    .write(comparison)
}

/// A ratio in three decimals, or in three digits where those say nothing.
pub(super) fn ratio(ratio: f64) -> String {
    if (0.1..100.0).contains(&ratio) {
        format!("{ratio:.3}")
    } else {
        number(ratio)
    }
}

/// Four significant digits.
fn number(number: f64) -> String {
    if !(1e-3..1e6).contains(&number.abs()) && number != 0.0 {
        return format!("{number:.3e}");
    }
    let decimals = (3 - number.abs().max(1e-3).log10().floor() as i32).clamp(0, 6);
    format!("{number:.*}", decimals as usize)
}

fn interval(low: Option<f64>, high: Option<f64>) -> String {
    low.zip(high).map_or_else(
        || UNKNOWN.into(),
        |(low, high)| format!("{} to {}", ratio(low), ratio(high)),
    )
}

fn p_value(p: Option<f64>) -> String {
    match p {
        None => NO_P.into(),
        Some(p) if p < 0.001 => "<0.001".into(),
        Some(p) => format!("{p:.3}"),
    }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Slower => "slower",
        Verdict::Faster => "faster",
        Verdict::Higher => "higher",
        Verdict::Lower => "lower",
        Verdict::NotShown => "~",
    }
}

/// The first few of many.
fn list(items: impl ExactSizeIterator<Item = String>, separator: &str) -> String {
    let count = items.len();
    if count == 0 {
        return "none".into();
    }
    let mut shown = items.take(MAX_VALUES).collect::<Vec<_>>().join(separator);
    if count > MAX_VALUES {
        let _ = write!(shown, " and {} more", count - MAX_VALUES);
    }
    shown
}

fn method(metric: &MetricComparison, a: &Side, b: &Side) -> String {
    let over = match metric.over {
        Over::Replicates => format!("{} + {} blocks", a.blocks, b.blocks),
        Over::Combinations => format!("{} combinations", metric.combinations.len()),
    };
    match metric.method {
        Some(RatioMethod::WelchT) => format!("{over}, Welch's t"),
        Some(RatioMethod::PairedT) => format!("{over}, Student's t"),
        Some(RatioMethod::BootstrapT) => format!("{over}, bootstrap-t"),
        None => over,
    }
}

fn title(metric: &MetricComparison) -> String {
    let title = Metric::named(&metric.metric).map_or(metric.metric.as_str(), |m| m.title);
    if metric.unit.is_empty() {
        title.into()
    } else {
        format!("{title}, {}", metric.unit)
    }
}

struct Page {
    out: String,
    markdown: bool,
}

impl Page {
    fn write(mut self, comparison: &Comparison) -> String {
        let Comparison { a, b, .. } = comparison;
        self.heading(&format!("B against A: {} against {}", b.name, a.name));
        self.table(
            &["", "sweep", "valid trials", "blocks", "left out"],
            &[("A", a), ("B", b)].map(|(letter, side)| {
                vec![
                    letter.into(),
                    side.name.clone(),
                    side.trials.to_string(),
                    side.blocks.to_string(),
                    side.invalid.to_string(),
                ]
            }),
        );
        let only = |levels: &[Levels]| {
            let factors = factors(levels);
            list(levels.iter().map(|levels| label(levels, &factors)), "; ")
        };
        self.paragraph(&format!(
            "Compared: {} combinations that both measured. In A only: {}. In B only: {}.",
            comparison.matched,
            only(&comparison.only_in_a),
            only(&comparison.only_in_b),
        ));
        self.differences(&comparison.differences);
        if !comparison.gates.is_empty() {
            self.heading("Limits");
            for gate in &comparison.gates {
                self.item(&gate.message);
            }
            self.out.push('\n');
        }
        if !comparison.metrics.is_empty() {
            self.overall(comparison);
        }
        let limited = |metric: &MetricComparison| {
            comparison
                .gates
                .iter()
                .any(|gate| gate.metric == metric.metric)
        };
        for metric in &comparison.metrics {
            if LISTED.contains(&metric.metric.as_str()) || limited(metric) {
                self.combinations(metric);
            }
        }
        if !comparison.metrics.is_empty() {
            self.paragraph(LEGEND);
        }
        for note in &comparison.notes {
            self.item(&format!("Note: {note}."));
        }
        self.out
    }

    fn differences(&mut self, differences: &[Difference]) {
        if differences.is_empty() {
            self.paragraph("No difference in machines, versions or weights is recorded.");
            return;
        }
        self.heading("Not measured alike");
        let values = |values: &[String]| {
            if values.is_empty() {
                UNKNOWN.into()
            } else {
                list(values.iter().cloned(), ", ")
            }
        };
        let rows: Vec<Vec<String>> = differences
            .iter()
            .map(|difference| {
                vec![
                    difference.what.clone(),
                    values(&difference.a),
                    values(&difference.b),
                ]
            })
            .collect();
        self.table(&["", "A", "B"], &rows);
    }

    fn overall(&mut self, comparison: &Comparison) {
        self.heading("Overall: geometric mean of B/A over combinations");
        let rows: Vec<Vec<String>> = comparison
            .metrics
            .iter()
            .map(|metric| {
                vec![
                    title(metric),
                    ratio(metric.ratio),
                    interval(metric.low, metric.high),
                    verdict(metric.verdict).into(),
                    method(metric, &comparison.a, &comparison.b),
                ]
            })
            .collect();
        self.table(&["metric", "B/A", "95% interval", "B is", "over"], &rows);
    }

    fn combinations(&mut self, metric: &MetricComparison) {
        self.heading(&title(metric));
        let mut listed: Vec<_> = metric.combinations.iter().collect();
        if listed.len() > MAX_LINES {
            listed.sort_by_key(|combination| combination.verdict == Verdict::NotShown);
        }
        let varying = varying(metric.combinations.iter().map(|c| &c.levels));
        let rows: Vec<Vec<String>> = listed
            .iter()
            .take(MAX_LINES)
            .map(|c| {
                vec![
                    label(&c.levels, &varying),
                    number(c.a),
                    number(c.b),
                    ratio(c.ratio),
                    interval(c.low, c.high),
                    p_value(c.p_adjusted),
                    c.detectable
                        .map_or_else(|| NOTHING.into(), |found| format!("×{}", ratio(found))),
                    verdict(c.verdict).into(),
                ]
            })
            .collect();
        self.table(
            &[
                "combination",
                "A",
                "B",
                "B/A",
                "95% interval",
                "p",
                "could find",
                "B is",
            ],
            &rows,
        );
        if listed.len() > MAX_LINES {
            self.paragraph(&format!(
                "{} more combinations are in the document.",
                listed.len() - MAX_LINES
            ));
        }
    }

    fn heading(&mut self, text: &str) {
        let text = self.escaped(text);
        if self.markdown {
            let _ = writeln!(self.out, "### {text}\n");
        } else {
            let _ = writeln!(self.out, "{text}");
        }
    }

    fn paragraph(&mut self, text: &str) {
        let text = self.escaped(text);
        let _ = writeln!(self.out, "{text}\n");
    }

    fn item(&mut self, text: &str) {
        let text = self.escaped(text);
        let dash = if self.markdown { "- " } else { "  " };
        let _ = writeln!(self.out, "{dash}{text}");
    }

    /// In a terminal numbers are aligned to the right.
    fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let rows: Vec<Vec<String>> = rows
            .iter()
            .map(|row| row.iter().map(|cell| self.escaped(cell)).collect())
            .collect();
        let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
        if self.markdown {
            let rule: Vec<String> = head.iter().map(|_| "---".to_owned()).collect();
            for row in [&head, &rule].into_iter().chain(&rows) {
                let _ = writeln!(self.out, "| {} |", row.join(" | "));
            }
        } else {
            let widths: Vec<usize> = (0..head.len())
                .map(|at| {
                    let cells = std::iter::once(&head).chain(&rows);
                    cells
                        .filter_map(|row| row.get(at))
                        .map(|cell| cell.chars().count())
                        .max()
                        .unwrap_or(0)
                })
                .collect();
            let numeric: Vec<bool> = (0..head.len())
                .map(|at| {
                    rows.iter()
                        .all(|row| row.get(at).is_some_and(|cell| is_numeric(cell)))
                })
                .collect();
            for row in std::iter::once(&head).chain(&rows) {
                let mut line = String::from(" ");
                for ((cell, width), numeric) in row.iter().zip(&widths).zip(&numeric) {
                    let _ = if *numeric {
                        write!(line, " {cell:>width$} ")
                    } else {
                        write!(line, " {cell:<width$} ")
                    };
                }
                let _ = writeln!(self.out, "{}", line.trim_end());
            }
        }
        self.out.push('\n');
    }

    /// Names come from files of others: no control characters reach a terminal, no markup a page.
    fn escaped(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for character in text.chars() {
            match character {
                _ if character.is_control() => out.push('\u{fffd}'),
                '<' if self.markdown => out.push_str("&lt;"),
                '&' if self.markdown => out.push_str("&amp;"),
                '|' | '`' | '*' | '_' | '[' | ']' | '\\' | '~' if self.markdown => {
                    out.push('\\');
                    out.push(character);
                }
                _ => out.push(character),
            }
        }
        out
    }
}

/// A cell of a column of numbers: where there is none stands a word for it.
fn is_numeric(cell: &str) -> bool {
    [UNKNOWN, NOTHING, NO_P].contains(&cell)
        || cell.starts_with(|c: char| c.is_ascii_digit() || "×<".contains(c)) && !cell.contains(',')
}

/// The factors in which combinations differ; all of them where there is one combination only.
fn varying<'a>(levels: impl Iterator<Item = &'a Levels> + Clone) -> Vec<Factor> {
    let all = factors(levels.clone());
    let differs = |factor: &&Factor| {
        let mut values = levels.clone().map(|levels| levels.get(factor));
        let first = values.next();
        values.any(|value| Some(value) != first)
    };
    let found: Vec<Factor> = all.iter().filter(differs).cloned().collect();
    if found.is_empty() { all } else { found }
}

/// A combination in few words: the levels of these factors.
fn label(levels: &Levels, factors: &[Factor]) -> String {
    let parts: Vec<String> = factors
        .iter()
        .filter_map(|factor| Some((factor, levels.get(factor)?)))
        .map(|(factor, level)| match (factor, level) {
            (Factor::Builtin(_), Level::Text(name)) => name.as_ref().into(),
            _ => format!("{} {level}", short(factor)),
        })
        .collect();
    parts.join(", ")
}

/// A factor's name where there is little room.
fn short(factor: &Factor) -> &str {
    match factor.title() {
        "batch size" => "batch",
        "input length" => "in",
        "output length" => "out",
        title => title,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_four_digits() {
        for (value, text) in [
            (0.0, "0.000000"),
            (1.0, "1.000"),
            (12.345_67, "12.35"),
            (1234.567, "1235"),
            (0.012_345_6, "0.01235"),
            (1e-9, "1.000e-9"),
            (1.5e300, "1.500e300"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!(
            (ratio(1.05), ratio(1234.5)),
            ("1.050".into(), "1234".into())
        );
    }
}
