//! Whether a measurement can be vouched for: the rules that make a trial invalid.
//!
//! The limits are set so that a quiet machine passes, a shared virtual one does most of the time, and one that is
//! busy with something else does not. Every reason carries its figure, so that a reader can judge anew.

use crate::machine::activity::{Interval, disturbances};

/// All that the verdict on a trial rests on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrialEvidence {
    /// The activity in the timed window.
    pub window: Interval,
    /// The iterations' times, summed, in s.
    pub timed_s: f64,
    /// How long they had to last, in s.
    pub min_duration_s: f64,
    /// Timed iterations.
    pub iterations: u32,
    /// How many there had to be.
    pub min_iterations: u32,
    /// CPUs that the process may use.
    pub cpus: u32,
    /// Threads that compute.
    pub threads: u32,
    /// Samples of telemetry in the window.
    pub samples: usize,
    /// How many there had to be.
    pub min_samples: usize,
    /// Other trials on this machine at the same time.
    pub concurrent_trials: u32,
    /// Whether other trials are allowed beside this one.
    pub concurrency_allowed: bool,
    /// Whether the logits were numbers; none where that was not looked at.
    pub logits_finite: Option<bool>,
    /// For each GPU in use: processes of others seen on it.
    pub foreign_gpu_processes: Vec<u32>,
    /// Objections of a server's requests against themselves.
    pub objections: Vec<String>,
    /// Why GPUs in use could not be watched.
    pub gpu_telemetry_missing: Option<String>,
}

/// Why a measurement cannot be vouched for; empty where it can.
#[must_use]
pub fn invalid_reasons(e: &TrialEvidence) -> Vec<String> {
    let mut reasons = Vec::new();
    if e.iterations < e.min_iterations {
        reasons.push(format!(
            "{} iterations were timed, {} were asked for",
            e.iterations, e.min_iterations
        ));
    }
    // Summed floats may miss the limit by their rounding.
    if e.timed_s < e.min_duration_s * (1.0 - 1e-9) {
        reasons.push(format!(
            "{:.2} s were timed, {:.2} s were asked for",
            e.timed_s, e.min_duration_s
        ));
    }
    reasons.extend(disturbances(&e.window, e.threads, e.cpus));
    reasons.extend(e.objections.iter().cloned());
    if e.samples < e.min_samples {
        reasons.push(format!(
            "{} samples of telemetry in the window, {} are needed",
            e.samples, e.min_samples
        ));
    }
    if e.concurrent_trials > 0 && !e.concurrency_allowed {
        reasons.push(format!(
            "{} other trials ran on this machine",
            e.concurrent_trials
        ));
    }
    if e.logits_finite == Some(false) {
        reasons.push("the logits are not all finite numbers".into());
    }
    for (gpu, &foreign) in e.foreign_gpu_processes.iter().enumerate() {
        if foreign > 0 {
            reasons.push(format!("{foreign} other processes used GPU {gpu}"));
        }
    }
    if let Some(why) = &e.gpu_telemetry_missing {
        reasons.push(format!("the GPUs could not be watched: {why}"));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use inferbench_results::validity::remedy;
    use proptest::prelude::*;

    use super::*;

    fn quiet() -> TrialEvidence {
        TrialEvidence {
            window: Interval {
                wall_s: 2.1,
                cpu_time_s: 4.1,
                throttled_ms: Some(0.0),
                steal_pct: Some(0.3),
                foreign_pct: Some(1.0),
                freq_mhz: None,
            },
            timed_s: 2.05,
            min_duration_s: 2.0,
            iterations: 5,
            min_iterations: 5,
            cpus: 2,
            threads: 2,
            samples: 20,
            min_samples: 10,
            logits_finite: Some(true),
            ..TrialEvidence::default()
        }
    }

    #[test]
    fn a_quiet_machine_passes() {
        assert_eq!(invalid_reasons(&quiet()), [""; 0]);
    }

    #[test]
    fn every_disturbance_is_named_with_its_figure() {
        let bad = TrialEvidence {
            window: Interval {
                throttled_ms: Some(105.0),
                steal_pct: Some(12.34),
                foreign_pct: Some(30.0),
                ..quiet().window
            },
            timed_s: 1.0,
            iterations: 3,
            samples: 4,
            concurrent_trials: 1,
            logits_finite: Some(false),
            foreign_gpu_processes: vec![0, 2],
            gpu_telemetry_missing: Some("no driver".into()),
            ..quiet()
        };
        for reason in invalid_reasons(&bad) {
            assert!(remedy(&reason).is_some(), "{reason}");
        }
        insta::assert_snapshot!(invalid_reasons(&bad).join("\n"), @r"
        3 iterations were timed, 5 were asked for
        1.00 s were timed, 2.00 s were asked for
        the CPU quota stopped the process for 105 ms, 5.0 % of the window (at most 1 %)
        the hypervisor gave 12.3 % of the CPU time to others (at most 5 %)
        other processes took 30.0 % of the CPU time that was needed (at most 10 %)
        4 samples of telemetry in the window, 10 are needed
        1 other trials ran on this machine
        the logits are not all finite numbers
        2 other processes used GPU 1
        the GPUs could not be watched: no driver
        ");
    }

    #[test]
    fn neighbours_may_be_allowed() {
        let beside = TrialEvidence {
            concurrent_trials: 3,
            concurrency_allowed: true,
            ..quiet()
        };
        assert_eq!(invalid_reasons(&beside), [""; 0]);
    }

    proptest! {
        #[test]
        fn more_disturbance_never_makes_a_trial_valid(
            steal in 0.0..100.0, foreign in 0.0..100.0, more in 0.0..50.0, wall in 0.05..100.0
        ) {
            let with = |steal, foreign| TrialEvidence {
                window: Interval { wall_s: wall, steal_pct: Some(steal), foreign_pct: Some(foreign), ..Interval::default() },
                ..quiet()
            };
            let less = invalid_reasons(&with(steal, foreign)).len();
            prop_assert!(less <= invalid_reasons(&with(steal + more, foreign + more)).len());
        }
    }
}
