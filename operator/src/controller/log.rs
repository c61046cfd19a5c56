//! Log lines and counts of all that a reconcile has recorded.

use inferbench_crds::Outcome;
use tracing::{info, warn};

use super::plan::{Action, Ended, Plan};
use crate::metrics::Metrics;

/// Logs and counts what the actions of a plan have recorded.
pub fn recorded(plan: &Plan, metrics: &Metrics) {
    for action in &plan.actions {
        match action {
            Action::Pin(models) => info!(models = models.len(), "models pinned"),
            Action::Record(ended) => {
                for trial in ended {
                    metrics.recorded(trial.outcome);
                    log(trial);
                }
                info!(trials = ended.len(), ended = plan.tally.ended(), "recorded");
            }
            Action::Decide(blocks) => info!(blocks, "decided which combinations run no further"),
            Action::Collect { collected, .. } => {
                info!(rows = collected.results.rows, "results collected");
            }
            Action::Delete { .. } | Action::Create(_) | Action::Wait(_) => {}
        }
    }
}

/// A line for a trial that failed, and for one whose end only its pod can tell; thousands of others end as they should.
fn log(trial: &Ended) {
    let Ended {
        index: trial,
        outcome,
        why,
    } = trial;
    if *outcome == Outcome::Failed {
        warn!(trial, why, "trial failed");
    } else if !why.is_empty() {
        info!(trial, %outcome, why, "trial ended with its pod");
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use inferbench_crds::ledger::Outcomes;
    use k8s_openapi::jiff::Timestamp;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;
    use crate::controller::{
        fixtures::sweep,
        plan::{Known, plan},
    };

    /// The lines of a log.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    fn logged(plan: &Plan) -> Vec<String> {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(lines.clone())
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .finish();
        tracing::subscriber::with_default(subscriber, || recorded(plan, &Metrics::default()));
        let bytes = lines.0.lock().expect("no panic").clone();
        let text = String::from_utf8(bytes).expect("text");
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn only_trials_that_failed_are_warned_of() {
        let sweep = sweep(
            "{design: {factors: {model: [{name: a, source: {random: {preset: gpt2}}}]}}, \
             results: {store: {url: 's3://bucket'}}}",
        );
        let known = Known {
            ledger: Outcomes::new(sweep.expansion.len_before_exclusion()),
            decided: 0,
            inputs: String::new(),
            not_created: None,
        };
        let mut plan = plan(&sweep, &known, &[], &[], Timestamp::UNIX_EPOCH);
        let ended = |index, outcome, why: &str| Ended {
            index,
            outcome,
            why: why.into(),
        };
        plan.actions = vec![Action::Record(vec![
            ended(0, Outcome::Succeeded, ""),
            ended(1, Outcome::Unsupported, ""),
            ended(
                2,
                Outcome::OutOfMemory,
                "pod p ended with exit code 137: OOMKilled",
            ),
            ended(3, Outcome::Failed, "pod q ended with exit code 65"),
        ])];
        assert_eq!(
            logged(&plan),
            [
                "INFO trial ended with its pod trial=2 outcome=OutOfMemory why=\"pod p ended with exit code 137: OOMKilled\"",
                "WARN trial failed trial=3 why=\"pod q ended with exit code 65\"",
                "INFO recorded trials=4 ended=0",
            ]
        );
    }
}
