//! How long a sweep still takes, from what it has taken so far.

use std::collections::{BTreeMap, btree_map::Entry};

use inferbench_crds::{design::Combination, search::Search};
use inferbench_results::record::{EffectiveMeasurement, Outcome, TrialRecord};

/// How much slower than the ceilings an iteration is taken to be until one is measured.
const SLOWDOWN: f64 = 1.6;
/// Seconds of starting and loading until one trial is measured.
const OVERHEAD_S: f64 = 0.6;

/// The durations of the trials so far, to tell those to come.
#[derive(Clone, Debug, Default)]
pub struct Estimator {
    slowdowns: Vec<f64>,
    overheads_s: Vec<f64>,
    /// Of trials without iterations: all of their time.
    requests_s: Vec<f64>,
}

impl Estimator {
    /// Takes up a trial: seconds in all, seconds of warming up and timing among them, the mean of an iteration, and
    /// the least that one takes at the ceilings.
    pub fn learn(&mut self, total_s: f64, measuring_s: f64, iteration_s: f64, least_s: f64) {
        if least_s > 0.0 {
            self.slowdowns.push(iteration_s / least_s);
        }
        self.overheads_s.push((total_s - measuring_s).max(0.0));
    }

    /// Seconds that a trial of this class takes.
    #[must_use]
    pub fn trial_s(&self, class: Class, measurement: &EffectiveMeasurement) -> f64 {
        // Where requests come one by one, the measurement says how long a trial lasts, and the first ones, how much longer.
        if let Some(took) = median(&self.requests_s).filter(|_| class.least_ns == 0) {
            return took;
        }
        let iteration = class.least_s() * median(&self.slowdowns).unwrap_or(SLOWDOWN);
        // The last iteration begins before the time is over and ends after it, half of one later on average.
        let lasting = |count: u32, ms: u64| {
            let by_count = f64::from(count) * iteration;
            let by_time = ms as f64 / 1e3;
            if by_time > by_count {
                by_time + iteration / 2.0
            } else {
                by_count
            }
        };
        let window = lasting(measurement.warmup_iterations, measurement.warmup_ms)
            + lasting(measurement.iterations, measurement.min_duration_ms);
        median(&self.overheads_s).unwrap_or(OVERHEAD_S) + f64::from(class.windows) * window
    }
}

/// Trials that take as long as each other: by the least that one of their iterations takes at the ceilings, the GPUs, which
/// the length of a measurement depends on, and the loads that are measured one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class {
    least_ns: u64,
    gpus: u32,
    windows: u32,
}

impl Class {
    /// The class of trials of a combination whose iterations take `least_s` seconds at the ceilings.
    #[must_use]
    pub fn new(least_s: f64, combination: &Combination) -> Self {
        Self {
            least_ns: (least_s * 1e9) as u64,
            gpus: combination.gpus,
            windows: combination.search.as_ref().map_or(1, Search::steps),
        }
    }

    fn least_s(self) -> f64 {
        self.least_ns as f64 / 1e9
    }
}

/// How long the trials still take that are to be measured. The class of each is kept: ceilings that are measured again
/// later make no other trials of them.
#[derive(Clone, Debug, Default)]
pub struct Forecast {
    estimator: Estimator,
    /// The classes of the trials that are still to be measured, by their indices, and how much of each is expected.
    classes: BTreeMap<u32, (Class, f64)>,
    remaining: BTreeMap<Class, (EffectiveMeasurement, f64)>,
}

impl Forecast {
    /// The trial with this index is to be measured, too: a `share` of it where it may not be needed. One that is expected
    /// already keeps its class.
    pub fn expect(
        &mut self,
        index: u32,
        class: Class,
        measurement: EffectiveMeasurement,
        share: f64,
    ) {
        if let Entry::Vacant(vacant) = self.classes.entry(index) {
            vacant.insert((class, share));
            self.remaining.entry(class).or_insert((measurement, 0.0)).1 += share;
        }
    }

    /// No trials are to be measured, as far as is known now; how long they take is.
    pub fn forget(&mut self) {
        self.classes.clear();
        self.remaining.clear();
    }

    /// The trial with this index needs nothing more.
    pub fn done(&mut self, index: u32) {
        let Some((class, share)) = self.classes.remove(&index) else {
            return;
        };
        if let Some((_, count)) = self.remaining.get_mut(&class) {
            *count = (*count - share).max(0.0);
        }
    }

    /// Takes up a trial that is to be measured and was, in `total_s` seconds, start and end of its process included.
    pub fn learn(&mut self, record: &TrialRecord, total_s: f64) {
        let Some(&(class, _)) = self.classes.get(&record.trial_index) else {
            return;
        };
        if record.outcome != Outcome::Succeeded {
            return;
        }
        if record.iterations.is_empty() {
            self.estimator.requests_s.push(total_s);
            return;
        }
        let last = record.iterations.iter().filter_map(|i| i.ttlt_ms());
        let timed_s = last.sum::<f64>() / 1e3;
        let warmup = record.warmup.as_ref();
        let warm_s = warmup.map_or(0.0, |warmup| warmup.duration_s);
        let iteration_s = timed_s / record.iterations.len() as f64;
        self.estimator
            .learn(total_s, timed_s + warm_s, iteration_s, class.least_s());
    }

    /// Seconds that all of them take together.
    #[must_use]
    pub fn remaining_s(&self) -> f64 {
        let seconds = |(class, (measurement, count)): (&Class, &(EffectiveMeasurement, f64))| {
            count * self.estimator.trial_s(*class, measurement)
        };
        self.remaining.iter().map(seconds).sum()
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// Seconds as people say them: `45 s`, `3 min`, `1 h 20 min`.
#[must_use]
pub fn spoken(seconds: f64) -> String {
    let seconds = seconds.max(0.0).round() as u64;
    match (seconds / 3600, seconds % 3600 / 60, seconds) {
        (0, 0, s) => format!("{s} s"),
        (0, minutes, s) if minutes < 5 => format!("{minutes} min {} s", s % 60),
        (0, minutes, _) => format!("{minutes} min"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use inferbench_crds::spec::Isolation;
    use inferbench_results::fixtures;

    use super::*;

    const MEASUREMENT: EffectiveMeasurement = EffectiveMeasurement {
        warmup_iterations: 2,
        warmup_ms: 1000,
        iterations: 5,
        min_duration_ms: 2000,
        isolation: Isolation::Process,
        quality: false,
    };

    #[test]
    fn short_iterations_fill_the_time_and_long_ones_the_count() {
        let mut estimator = Estimator::default();
        estimator.learn(4.0, 3.5, 0.2, 0.1);
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} is not {b}");
        // Iterations of 0.02 s: 0.5 + (1 + 0.01) + (2 + 0.01).
        close(estimator.trial_s(class(0.01), &MEASUREMENT), 3.52);
        // Iterations of 2 s: 0.5 + 2·2 + 5·2.
        close(estimator.trial_s(class(1.0), &MEASUREMENT), 14.5);
    }

    #[test]
    fn a_search_takes_a_window_for_each_load_and_requests_as_long_as_they_took() {
        let search = r#"{"factor": "requestRate", "from": 1, "to": 128}"#;
        let combination = Combination {
            search: serde_json::from_str(search).unwrap(),
            ..Combination::default()
        };
        let class = Class::new(0.0, &combination);
        let mut forecast = Forecast::default();
        let mut record = fixtures::record();
        record.iterations.clear();
        let (first, second) = (record.trial_index, record.trial_index + 1);
        forecast.expect(first, class, MEASUREMENT, 1.0);
        // One that may not be needed.
        forecast.expect(second, class, MEASUREMENT, 0.5);
        // 13 loads of 1 s and 2 s.
        assert!((forecast.remaining_s() - 1.5 * (OVERHEAD_S + 39.0)).abs() < 1e-9);
        forecast.learn(&record, 50.0);
        assert!((forecast.remaining_s() - 75.0).abs() < 1e-9);
        forecast.done(first);
        assert!((forecast.remaining_s() - 25.0).abs() < 1e-9);
        forecast.forget();
        assert!(forecast.remaining_s() < 1e-9);
        forecast.expect(second, class, MEASUREMENT, 1.0);
        assert!((forecast.remaining_s() - 50.0).abs() < 1e-9);
    }

    fn class(least_s: f64) -> Class {
        Class::new(least_s, &Combination::default())
    }

    #[test]
    fn before_the_first_trial_there_is_an_estimate_too() {
        assert!(Estimator::default().trial_s(class(0.1), &MEASUREMENT) > 3.0);
    }

    #[test]
    fn the_median_bears_one_bad_trial() {
        let mut estimator = Estimator::default();
        for slow in [2.0, 2.0, 50.0] {
            estimator.learn(1.0, 1.0, slow, 1.0);
        }
        assert_eq!(median(&estimator.slowdowns), Some(2.0));
    }

    #[test]
    fn nothing_is_left_once_every_trial_is_done() {
        let mut forecast = Forecast::default();
        for index in 0..4 {
            // Two classes, of two trials each.
            forecast.expect(index, class(0.1 + f64::from(index % 2)), MEASUREMENT, 1.0);
            forecast.expect(index, class(9.0), MEASUREMENT, 1.0);
        }
        let mut left = vec![forecast.remaining_s()];
        for index in [3, 0, 2, 1] {
            let record = TrialRecord {
                trial_index: index,
                ..fixtures::record()
            };
            forecast.learn(&record, 3.0);
            forecast.done(index);
            forecast.done(index);
            left.push(forecast.remaining_s());
        }
        assert!(left.is_sorted_by(|a, b| a > b), "{left:?}");
        assert_eq!(left.last(), Some(&0.0));
        // Of a trial that nobody waits for nothing is learned.
        let known = forecast.estimator.overheads_s.len();
        forecast.learn(&fixtures::record(), 3.0);
        assert_eq!((known, forecast.estimator.overheads_s.len()), (4, 4));
    }

    #[test]
    fn times_are_spoken() {
        let times = [0.4, 59.0, 61.0, 400.0, 4_000.0];
        assert_eq!(
            times.map(spoken),
            ["0 s", "59 s", "1 min 1 s", "6 min", "1 h 6 min"]
        );
    }
}
