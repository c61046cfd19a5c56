//! The display while a sweep runs: a bar on a terminal, else a line for every trial.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use inferbench_crds::{design::Trial, factor::Levels};
use inferbench_results::{record::Outcome, row::Row};

use super::{estimate::spoken, levels::Columns};

/// Shows how far a sweep is, on standard error.
pub struct Progress {
    bar: Option<ProgressBar>,
    columns: Columns,
    done: usize,
    total: usize,
}

impl Progress {
    /// Begins with `done` trials of `total`, each named by these columns.
    #[must_use]
    pub fn new(columns: Columns, done: usize, total: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total as u64).with_position(done as u64);
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        Self {
            bar,
            columns,
            done,
            total,
        }
    }

    /// A line of its own.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            // Whoever does not read it any more shall not stop the sweep.
            None => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }

    /// A trial of these levels begins.
    pub fn begin(&self, trial: &Trial, levels: &Levels, remaining_s: f64) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!(
                "{}, about {} left",
                self.name(trial, levels),
                spoken(remaining_s)
            ));
        }
    }

    /// A trial of these levels has ended, so; `finished` where it needs nothing more.
    pub fn end(
        &mut self,
        trial: &Trial,
        levels: &Levels,
        what: &str,
        finished: bool,
        remaining_s: f64,
    ) {
        self.done += usize::from(finished);
        let width = self.total.to_string().len();
        let count = format!("[{:>width$}/{}]", self.done, self.total);
        let left = match &self.bar {
            None => format!("  ({} left)", spoken(remaining_s)),
            Some(_) => String::new(),
        };
        self.say(&format!(
            "{count} {}: {what}{left}",
            self.name(trial, levels)
        ));
        if let Some(bar) = &self.bar {
            bar.set_position(self.done as u64);
        }
    }

    /// This number of trials needs nothing more, without having been begun.
    pub fn skip(&mut self, trials: usize) {
        self.done += trials;
        if let Some(bar) = &self.bar {
            bar.set_position(self.done as u64);
        }
    }

    /// A trial's levels in few words.
    fn name(&self, trial: &Trial, levels: &Levels) -> String {
        let levels = self.columns.in_words(levels, " ");
        format!("{levels} replicate {}", trial.replicate)
    }

    /// `done` trials of `total` need nothing more, now that more is known of what is needed.
    pub fn set(&mut self, done: usize, total: usize) {
        (self.done, self.total) = (done, total);
        if let Some(bar) = &self.bar {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A result in few words.
#[must_use]
pub fn result(row: &Row) -> String {
    let outcome = match row.outcome {
        Some(Outcome::Succeeded) | None => String::new(),
        Some(other) => return format!("{other:?}"),
    };
    let number = |value: Option<f64>, unit: &str| {
        value.map(|value| format!("{} {unit}", significant(value)))
    };
    let roofline = row
        .decode_roofline_fraction
        .map(|f| format!("decode {:.0} % of roofline", f * 100.0));
    let parts: Vec<String> = [
        number(row.output_throughput, "tokens/s"),
        number(row.mean_ttft_ms, "ms TTFT"),
        number(row.mean_tpot_ms, "ms TPOT"),
        roofline,
    ]
    .into_iter()
    .flatten()
    .collect();
    let invalid = match (&row.valid, &row.invalid_reasons) {
        (Some(false), Some(reasons)) => format!("; INVALID: {reasons}"),
        _ => String::new(),
    };
    format!("{outcome}{}{invalid}", parts.join(", "))
}

/// A number with three significant digits, or all before the point.
#[must_use]
pub fn significant(value: f64) -> String {
    let digits = if value.abs() >= 100.0 {
        0
    } else if value.abs() >= 10.0 {
        1
    } else if value.abs() >= 1.0 {
        2
    } else {
        3
    };
    format!("{value:.digits$}")
}
