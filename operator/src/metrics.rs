//! What the operator counts, in the text format of Prometheus.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Upper bounds of the buckets of durations, in seconds.
const BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Everything that is counted.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    buckets: [u64; BUCKETS.len()],
    passes: u64,
    seconds: f64,
    errors: BTreeMap<&'static str, u64>,
}

impl Metrics {
    /// Counts a pass, and the kind of error that it ended with.
    pub fn reconciled(&self, took: Duration, error: Option<&'static str>) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = took.as_secs_f64();
        counts.passes += 1;
        counts.seconds += seconds;
        for (count, bound) in counts.buckets.iter_mut().zip(BUCKETS) {
            *count += u64::from(seconds <= bound);
        }
        if let Some(kind) = error {
            *counts.errors.entry(kind).or_default() += 1;
        }
    }

    /// All of it, with whether this replica leads.
    #[must_use]
    pub fn text(&self, leads: bool) -> String {
        const DURATION: &str = "inferbench_operator_reconcile_duration_seconds";
        const ERRORS: &str = "inferbench_operator_reconcile_errors_total";
        const LEADER: &str = "inferbench_operator_leader";
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = format!(
            "# HELP {DURATION} How long passes over a resource take.\n# TYPE {DURATION} histogram\n"
        );
        // Writing to a string cannot fail.
        for (count, bound) in counts.buckets.iter().zip(BUCKETS) {
            let _ = writeln!(text, "{DURATION}_bucket{{le=\"{bound}\"}} {count}");
        }
        let passes = counts.passes;
        let _ = writeln!(text, "{DURATION}_bucket{{le=\"+Inf\"}} {passes}");
        let _ = writeln!(text, "{DURATION}_sum {}", counts.seconds);
        let _ = writeln!(text, "{DURATION}_count {passes}");
        let _ = writeln!(text, "# HELP {ERRORS} Passes that could not go on, by why.");
        let _ = writeln!(text, "# TYPE {ERRORS} counter");
        for (kind, count) in &counts.errors {
            let _ = writeln!(text, "{ERRORS}{{kind=\"{kind}\"}} {count}");
        }
        let _ = writeln!(text, "# HELP {LEADER} Whether this replica leads.");
        let _ = writeln!(text, "# TYPE {LEADER} gauge");
        let _ = writeln!(text, "{LEADER} {}", u8::from(leads));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_told() {
        let metrics = Metrics::default();
        metrics.reconciled(Duration::from_millis(20), None);
        metrics.reconciled(Duration::from_secs(40), Some("timeout"));
        let text = metrics.text(true);
        for line in [
            "inferbench_operator_reconcile_duration_seconds_bucket{le=\"0.01\"} 0",
            "inferbench_operator_reconcile_duration_seconds_bucket{le=\"0.025\"} 1",
            "inferbench_operator_reconcile_duration_seconds_bucket{le=\"+Inf\"} 2",
            "inferbench_operator_reconcile_duration_seconds_count 2",
            "inferbench_operator_reconcile_errors_total{kind=\"timeout\"} 1",
            "inferbench_operator_leader 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
