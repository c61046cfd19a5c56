//! The operator's metrics, after the conventions of Prometheus: base units, counters that end in `_total`, and every
//! label's values from a set that is known beforehand. `docs/operator.md` lists them.

use std::{fmt::Display, time::Duration};

use inferbench_crds::Outcome;
use prometheus_client::{
    encoding::{EncodeLabelSet, prometheus_text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Metric, Registry},
};

use crate::controller::{bounds::Live, names::Role};

/// The type of the page, for an HTTP header.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// Upper bounds of the buckets of durations, in seconds.
const BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

fn durations() -> Histogram {
    Histogram::new(BUCKETS)
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TrialLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JobLabels {
    component: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: &'static str,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerbLabels {
    verb: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

/// Everything that is counted, and the registry that writes it.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reconciles: Histogram,
    errors: Family<ErrorLabels, Counter>,
    queued: Gauge,
    active: Gauge,
    trials: Family<TrialLabels, Counter>,
    jobs: Family<JobLabels, Gauge>,
    requests: Family<RequestLabels, Counter>,
    answers: Family<VerbLabels, Histogram, fn() -> Histogram>,
    leader: Gauge,
}

fn registered<M: Metric + Clone>(registry: &mut Registry, name: &str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let version = env!("CARGO_PKG_VERSION");
        registry.register(
            "inferbench_operator_build",
            "1; the label says which version this is",
            Info::new(BuildLabels { version }),
        );
        let metrics = Self {
            reconciles: registered(
                &mut registry,
                "inferbench_operator_reconcile_duration_seconds",
                "How long it takes to reconcile a resource",
                durations(),
            ),
            errors: registered(
                &mut registry,
                "inferbench_operator_reconcile_errors",
                "Reconciles that failed, by why",
                Family::default(),
            ),
            queued: registered(
                &mut registry,
                "inferbench_operator_queue_depth",
                "Resources that are due to be reconciled and wait",
                Gauge::default(),
            ),
            active: registered(
                &mut registry,
                "inferbench_operator_reconciles_active",
                "Reconciles that are under way",
                Gauge::default(),
            ),
            trials: registered(
                &mut registry,
                "inferbench_operator_trials",
                "Trials that were recorded, by the outcome that they had first",
                Family::default(),
            ),
            jobs: registered(
                &mut registry,
                "inferbench_operator_jobs_live",
                "Jobs that have not ended, by component",
                Family::default(),
            ),
            requests: registered(
                &mut registry,
                "inferbench_operator_api_requests",
                "Requests to the API server, by verb and by the code of the answer",
                Family::default(),
            ),
            answers: registered(
                &mut registry,
                "inferbench_operator_api_request_duration_seconds",
                "How long the API server takes to begin its answer, by verb",
                Family::new_with_constructor(durations),
            ),
            leader: registered(
                &mut registry,
                "inferbench_operator_leader",
                "Whether this replica leads",
                Gauge::default(),
            ),
            registry,
        };
        // All outcomes are there from the start, at 0.
        for outcome in Outcome::ALL {
            metrics.trials_of(outcome);
        }
        metrics
    }
}

impl Metrics {
    /// Counts a reconcile, and the kind of error that it ended with.
    pub fn reconciled(&self, took: Duration, error: Option<&'static str>) {
        self.reconciles.observe(took.as_secs_f64());
        if let Some(kind) = error {
            self.errors.get_or_create(&ErrorLabels { kind }).inc();
        }
    }

    /// A resource is due and waits, until what this returns is dropped.
    pub fn waits(&self) -> OneMore {
        OneMore::of(&self.queued)
    }

    /// A reconcile is under way, until what this returns is dropped.
    pub fn runs(&self) -> OneMore {
        OneMore::of(&self.active)
    }

    /// Counts a trial that was recorded.
    pub fn recorded(&self, outcome: Outcome) {
        self.trials_of(outcome).inc();
    }

    fn trials_of(&self, outcome: Outcome) -> Counter {
        let outcome = outcome.as_str();
        self.trials.get_or_create_owned(&TrialLabels { outcome })
    }

    /// Counts a request to the API server; the code is the answer's, or says that there was none.
    pub fn requested(&self, verb: &'static str, code: impl Display, took: Duration) {
        let code = code.to_string();
        self.requests
            .get_or_create(&RequestLabels { verb, code })
            .inc();
        self.answers
            .get_or_create(&VerbLabels { verb })
            .observe(took.as_secs_f64());
    }

    /// All of it in the text format of Prometheus, with whether this replica leads and the Jobs that have not ended.
    #[must_use]
    pub fn text(&self, leads: bool, live: &Live) -> String {
        self.leader.set(i64::from(leads));
        for role in Role::ALL {
            let count = live.get(&role).copied().unwrap_or(0);
            let component = role.as_str();
            self.jobs
                .get_or_create(&JobLabels { component })
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = prometheus_text::encode(&mut text, &self.registry);
        text
    }
}

/// Holds a gauge one higher for as long as it lives.
#[must_use]
#[derive(Debug)]
pub struct OneMore(Gauge);

impl OneMore {
    fn of(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for OneMore {
    fn drop(&mut self) {
        self.0.dec();
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

    /// A metric: its name, type, and labels in the order of the alphabet.
    type Described = (String, String, Vec<String>);

    /// The metrics of a page. Each is described once and before its samples, which have no labels but their own.
    fn on_the_page(text: &str) -> Vec<Described> {
        let mut found: Vec<Described> = Vec::new();
        for line in text.lines() {
            if let Some(about) = line.strip_prefix("# TYPE ") {
                let (name, kind) = about.split_once(' ').expect("name and type");
                assert!(!found.iter().any(|(known, ..)| known == name), "{name}");
                found.push((name.into(), kind.into(), Vec::new()));
            } else if !line.starts_with('#') {
                let (name, kind, labels) = found.last_mut().expect("a description first");
                let (series, _) = line.rsplit_once(' ').expect("a value");
                let (sample, rest) = series.split_once('{').unwrap_or((series, ""));
                let suffix = sample.strip_prefix(name.as_str());
                let suffixes: &[&str] = match kind.as_str() {
                    "histogram" => &["_bucket", "_sum", "_count"],
                    _ => &[""],
                };
                assert!(
                    suffix.is_some_and(|suffix| suffixes.contains(&suffix)),
                    "{line}"
                );
                let given = rest.split(',').filter_map(|label| label.split_once('='));
                let mut given: Vec<String> = given.map(|(label, _)| label.to_owned()).collect();
                given.retain(|label| label != "le");
                given.sort_unstable();
                if labels.is_empty() {
                    labels.clone_from(&given);
                }
                assert_eq!(*labels, given, "{line}");
            }
        }
        found
    }

    /// The metrics in a table of `docs/operator.md`.
    fn in_the_documentation() -> Vec<Described> {
        let text = include_str!("../../docs/operator.md");
        let rows = text
            .lines()
            .filter(|line| line.starts_with("| `inferbench_operator_"));
        let described = rows.map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let labels = cells[3].split(", ").filter(|label| !label.is_empty());
            let mut labels: Vec<String> =
                labels.map(|label| label.trim_matches('`').into()).collect();
            labels.sort_unstable();
            (cells[1].trim_matches('`').into(), cells[2].into(), labels)
        });
        described.collect()
    }

    #[test]
    fn the_documentation_has_every_metric_with_its_type_and_labels() {
        let metrics = Metrics::default();
        metrics.requested("get", 404, Duration::from_millis(1));
        metrics.reconciled(Duration::from_millis(1), Some("conflict"));
        let mut found = on_the_page(&metrics.text(false, &Live::new()));
        let mut documented = in_the_documentation();
        found.sort_unstable();
        documented.sort_unstable();
        assert_eq!(found.len(), 10);
        assert_eq!(found, documented);
    }
}
