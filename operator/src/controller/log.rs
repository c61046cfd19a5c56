//! Log lines and counts of all that a reconcile has recorded.

use inferbench_crds::Outcome;
use tracing::{info, warn};

use super::{
    events::Event,
    plan::{Action, Ended, Plan},
};
use crate::metrics::Metrics;

/// Logs and counts what the actions of a plan have recorded.
pub fn recorded(plan: &Plan, metrics: &Metrics) {
    for action in &plan.actions {
        match action {
            Action::Pin(models) => info!(models = models.len(), "models pinned"),
            Action::Record(ended) => {
                let first: Vec<&Ended> = ended.iter().filter(|of| of.was.is_none()).collect();
                for trial in ended {
                    log(trial);
                }
                for trial in &first {
                    metrics.recorded(trial.outcome);
                }
                if !first.is_empty() {
                    info!(trials = first.len(), ended = plan.tally.ended(), "recorded");
                }
            }
            Action::Decide(blocks) => info!(blocks, "decided which combinations run no further"),
            Action::Collect { collected, .. } => {
                info!(rows = collected.results.rows, "results collected");
            }
            Action::Delete { .. } | Action::Create(_) | Action::Wait(_) => {}
        }
    }
}

/// Logs what holds a sweep up, what is wrong with its results, and its end, each once: as events, which are soon gone,
/// and which whoever runs the operator may not see. Those of single trials and names have lines of their own.
pub fn transitions(events: &[Event]) {
    for Event {
        warning,
        reason,
        note,
        ..
    } in events
    {
        match reason.as_str() {
            "TrialFailed" | "NameTaken" => {}
            _ if *warning => warn!(reason, "{note}"),
            "Succeeded" => info!(reason, "{note}"),
            _ => {}
        }
    }
}

/// A line for a trial that failed, for one whose end only its pod can tell, and for one that ended otherwise than was
/// recorded; thousands of others end as they should.
fn log(trial: &Ended) {
    let Ended {
        index: trial,
        outcome,
        was,
        why,
    } = trial;
    if let Some(was) = was {
        info!(trial, %was, %outcome, "corrected by what is stored");
    } else if *outcome == Outcome::Failed {
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
        bounds::Live,
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

    fn logged(log: impl FnOnce()) -> Vec<String> {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(lines.clone())
            .with_ansi(false)
            .without_time()
            .with_target(false)
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        let bytes = lines.0.lock().expect("no panic").clone();
        let text = String::from_utf8(bytes).expect("text");
        text.lines().map(|line| line.trim().to_owned()).collect()
    }

    fn some_plan() -> Plan {
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
        plan(&sweep, &known, &[], &[], Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn only_trials_that_failed_are_warned_of() {
        let mut plan = some_plan();
        let ended = |index, outcome, why: &str| Ended {
            index,
            outcome,
            was: None,
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
            logged(|| recorded(&plan, &Metrics::default())),
            [
                "INFO trial ended with its pod trial=2 outcome=OutOfMemory why=\"pod p ended with exit code 137: OOMKilled\"",
                "WARN trial failed trial=3 why=\"pod q ended with exit code 65\"",
                "INFO recorded trials=4 ended=0",
            ]
        );
    }

    #[test]
    fn a_correction_is_logged_as_one_and_no_trial_is_counted_twice() {
        let mut plan = some_plan();
        let ended = |index, outcome, was| Ended {
            index,
            outcome,
            was,
            why: String::new(),
        };
        let metrics = Metrics::default();
        let mut logged_of = |trials| {
            plan.actions = vec![Action::Record(trials)];
            logged(|| recorded(&plan, &metrics))
        };
        logged_of(vec![ended(0, Outcome::OutOfMemory, None)]);
        assert_eq!(
            logged_of(vec![ended(
                0,
                Outcome::Succeeded,
                Some(Outcome::OutOfMemory)
            )]),
            ["INFO corrected by what is stored trial=0 was=OutOfMemory outcome=Succeeded"]
        );
        let text = metrics.text(true, &Live::new());
        let count = |outcome: &str| {
            let name = format!("inferbench_operator_trials_total{{outcome=\"{outcome}\"}} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&name));
            line.map(str::to_owned)
        };
        assert_eq!(count("OutOfMemory").as_deref(), Some("1"));
        assert_eq!(count("Succeeded").as_deref(), Some("0"));
    }

    #[test]
    fn what_holds_a_sweep_up_and_how_it_ends_is_logged() {
        let event = |warning, reason: &str, note: &str| Event {
            warning,
            reason: reason.into(),
            action: "Measure",
            note: note.into(),
        };
        let events = [
            event(false, "Accepted", "4 trials"),
            event(true, "Unschedulable", "no node"),
            event(true, "TrialFailed", "has a line of its own"),
            event(false, "Succeeded", "All 4 trials ended; 0 failed."),
            event(true, "Failed", "No trial is valid."),
        ];
        assert_eq!(
            logged(|| transitions(&events)),
            [
                "WARN no node reason=\"Unschedulable\"",
                "INFO All 4 trials ended; 0 failed. reason=\"Succeeded\"",
                "WARN No trial is valid. reason=\"Failed\"",
            ]
        );
    }
}
