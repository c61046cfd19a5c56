//! What the operator counts, in the text format of Prometheus and after its conventions: base units, counters that end in
//! `_total`, and every label's values from a set that is known beforehand.

use std::{
    collections::BTreeMap,
    fmt::{Display, Write as _},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use inferbench_crds::Outcome;

use crate::controller::{bounds::Live, names::Role};

/// Upper bounds of the buckets of durations, in seconds.
const BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Everything that is counted.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    passes: Histogram,
    errors: BTreeMap<&'static str, u64>,
    waiting: u64,
    under_way: u64,
    trials: BTreeMap<u8, u64>,
    requests: BTreeMap<(&'static str, String), u64>,
    answers: BTreeMap<&'static str, Histogram>,
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [u64; BUCKETS.len()],
    count: u64,
    sum: f64,
}

impl Histogram {
    fn observe(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.count += 1;
        self.sum += seconds;
        for (count, bound) in self.buckets.iter_mut().zip(BUCKETS) {
            *count += u64::from(seconds <= bound);
        }
    }
}

impl Metrics {
    fn change<T>(&self, change: impl FnOnce(&mut Counts) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts a pass, and the kind of error that it ended with.
    pub fn reconciled(&self, took: Duration, error: Option<&'static str>) {
        self.change(|counts| {
            counts.passes.observe(took);
            if let Some(kind) = error {
                *counts.errors.entry(kind).or_default() += 1;
            }
        });
    }

    /// A pass is due and waits for its place, until what this returns is dropped.
    pub fn waits(&self) -> Gauge<'_> {
        Gauge::up(self, |counts| &mut counts.waiting)
    }

    /// A pass is under way, until what this returns is dropped.
    pub fn runs(&self) -> Gauge<'_> {
        Gauge::up(self, |counts| &mut counts.under_way)
    }

    /// Counts a trial that was recorded.
    pub fn recorded(&self, outcome: Outcome) {
        self.change(|counts| *counts.trials.entry(outcome.code()).or_default() += 1);
    }

    /// Counts a request to the API server; the code is the answer's, or says that there was none.
    pub fn requested(&self, verb: &'static str, code: impl Display, took: Duration) {
        let code = code.to_string();
        self.change(|counts| {
            *counts.requests.entry((verb, code)).or_default() += 1;
            counts.answers.entry(verb).or_default().observe(took);
        });
    }

    /// All of it, with whether this replica leads and the Jobs that have not ended.
    #[must_use]
    pub fn text(&self, leads: bool, live: &Live) -> String {
        self.change(|counts| counts.text(leads, live))
    }
}

/// One more, for as long as it lives.
#[must_use]
pub struct Gauge<'a> {
    metrics: &'a Metrics,
    which: fn(&mut Counts) -> &mut u64,
}

impl<'a> Gauge<'a> {
    fn up(metrics: &'a Metrics, which: fn(&mut Counts) -> &mut u64) -> Self {
        metrics.change(|counts| *which(counts) += 1);
        Self { metrics, which }
    }
}

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.metrics.change(|counts| {
            let count = (self.which)(counts);
            *count = count.saturating_sub(1);
        });
    }
}

impl Counts {
    fn text(&self, leads: bool, live: &Live) -> String {
        let mut text = Text(String::with_capacity(8_192));
        let name = "inferbench_operator_reconcile_duration_seconds";
        text.about(name, "histogram", "How long passes over a resource take.");
        text.histogram(name, "", &self.passes);

        let name = "inferbench_operator_reconcile_errors_total";
        text.about(name, "counter", "Passes that could not go on, by why.");
        for (kind, count) in &self.errors {
            text.sample(name, &format!("kind=\"{kind}\""), count);
        }

        let name = "inferbench_operator_queue_depth";
        text.about(name, "gauge", "Resources that are due and wait for a pass.");
        text.sample(name, "", self.waiting);

        let name = "inferbench_operator_reconciles_active";
        text.about(name, "gauge", "Passes that are under way.");
        text.sample(name, "", self.under_way);

        let name = "inferbench_operator_trials_total";
        text.about(name, "counter", "Trials that were recorded, by outcome.");
        for outcome in Outcome::ALL {
            let count = self.trials.get(&outcome.code()).copied().unwrap_or(0);
            text.sample(name, &format!("outcome=\"{outcome}\""), count);
        }

        let name = "inferbench_operator_jobs_live";
        text.about(name, "gauge", "Jobs that have not ended, by component.");
        for role in Role::ALL {
            let count = live.get(&role).copied().unwrap_or(0);
            text.sample(name, &format!("component=\"{}\"", role.as_str()), count);
        }

        let name = "inferbench_operator_api_requests_total";
        let help = "Requests to the API server, by verb and by the code of the answer.";
        text.about(name, "counter", help);
        for ((verb, code), count) in &self.requests {
            text.sample(name, &format!("verb=\"{verb}\",code=\"{code}\""), count);
        }

        let name = "inferbench_operator_api_request_duration_seconds";
        let help = "How long the API server takes to begin its answer, by verb.";
        text.about(name, "histogram", help);
        for (verb, histogram) in &self.answers {
            text.histogram(name, &format!("verb=\"{verb}\""), histogram);
        }

        let name = "inferbench_operator_leader";
        text.about(name, "gauge", "Whether this replica leads.");
        text.sample(name, "", u8::from(leads));

        let name = "inferbench_operator_build_info";
        text.about(name, "gauge", "1; the label says which version this is.");
        text.sample(
            name,
            concat!("version=\"", env!("CARGO_PKG_VERSION"), "\""),
            1,
        );
        text.0
    }
}

/// The page as it grows. Writing to a string cannot fail.
struct Text(String);

impl Text {
    fn about(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = if labels.is_empty() {
            writeln!(self.0, "{name} {value}")
        } else {
            writeln!(self.0, "{name}{{{labels}}} {value}")
        };
    }

    fn histogram(&mut self, name: &str, labels: &str, histogram: &Histogram) {
        let comma = if labels.is_empty() { "" } else { "," };
        let bucket = format!("{name}_bucket");
        for (count, bound) in histogram.buckets.iter().zip(BUCKETS) {
            self.sample(&bucket, &format!("{labels}{comma}le=\"{bound}\""), count);
        }
        self.sample(
            &bucket,
            &format!("{labels}{comma}le=\"+Inf\""),
            histogram.count,
        );
        self.sample(&format!("{name}_sum"), labels, histogram.sum);
        self.sample(&format!("{name}_count"), labels, histogram.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(metrics: &Metrics, lines: &[&str]) {
        let text = metrics.text(true, &[(Role::Trial, 7)].into());
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "{line}\n{text}");
        }
    }

    #[test]
    fn what_is_counted_is_told() {
        let metrics = Metrics::default();
        metrics.reconciled(Duration::from_millis(20), None);
        metrics.reconciled(Duration::from_secs(40), Some("timeout"));
        metrics.recorded(Outcome::OutOfMemory);
        metrics.recorded(Outcome::OutOfMemory);
        metrics.requested("list", 200, Duration::from_millis(3));
        metrics.requested("list", "<error>", Duration::from_secs(31));
        expect(
            &metrics,
            &[
                "inferbench_operator_reconcile_duration_seconds_bucket{le=\"0.01\"} 0",
                "inferbench_operator_reconcile_duration_seconds_bucket{le=\"0.025\"} 1",
                "inferbench_operator_reconcile_duration_seconds_bucket{le=\"+Inf\"} 2",
                "inferbench_operator_reconcile_duration_seconds_count 2",
                "inferbench_operator_reconcile_errors_total{kind=\"timeout\"} 1",
                "inferbench_operator_trials_total{outcome=\"OutOfMemory\"} 2",
                "inferbench_operator_trials_total{outcome=\"Failed\"} 0",
                "inferbench_operator_jobs_live{component=\"trial\"} 7",
                "inferbench_operator_jobs_live{component=\"collector\"} 0",
                "inferbench_operator_api_requests_total{verb=\"list\",code=\"200\"} 1",
                "inferbench_operator_api_requests_total{verb=\"list\",code=\"<error>\"} 1",
                "inferbench_operator_api_request_duration_seconds_bucket{verb=\"list\",le=\"0.005\"} 1",
                "inferbench_operator_api_request_duration_seconds_count{verb=\"list\"} 2",
                "inferbench_operator_leader 1",
                concat!(
                    "inferbench_operator_build_info{version=\"",
                    env!("CARGO_PKG_VERSION"),
                    "\"} 1"
                ),
            ],
        );
    }

    #[test]
    fn gauges_go_down_again() {
        let metrics = Metrics::default();
        let (first, second) = (metrics.waits(), metrics.waits());
        drop(first);
        let runs = metrics.runs();
        expect(
            &metrics,
            &[
                "inferbench_operator_queue_depth 1",
                "inferbench_operator_reconciles_active 1",
            ],
        );
        drop((second, runs));
        expect(
            &metrics,
            &[
                "inferbench_operator_queue_depth 0",
                "inferbench_operator_reconciles_active 0",
            ],
        );
    }

    #[test]
    fn every_metric_is_described_once_and_before_its_samples() {
        let metrics = Metrics::default();
        metrics.requested("get", 404, Duration::from_millis(1));
        metrics.reconciled(Duration::from_millis(1), Some("conflict"));
        let text = metrics.text(false, &Live::new());
        let mut described = Vec::new();
        for line in text.lines() {
            if let Some(about) = line.strip_prefix("# TYPE ") {
                let name = about.split(' ').next().unwrap_or_default();
                assert!(!described.contains(&name), "{name}");
                described.push(name);
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap_or_default();
                let last = described.last().copied().unwrap_or_default();
                let rest = name.strip_prefix(last);
                assert!(
                    matches!(rest, Some("" | "_bucket" | "_sum" | "_count")),
                    "{line}"
                );
            }
        }
        assert!(
            described
                .iter()
                .all(|name| name.starts_with("inferbench_operator_"))
        );
    }
}
