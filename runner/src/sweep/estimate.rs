//! How long a sweep still takes, from what it has taken so far.

use std::collections::{BTreeMap, btree_map::Entry};

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

    /// Seconds that a trial takes whose iterations take at least so long at the ceilings.
    #[must_use]
    pub fn trial_s(&self, least_s: f64, measurement: &EffectiveMeasurement) -> f64 {
        let iteration = least_s * median(&self.slowdowns).unwrap_or(SLOWDOWN);
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
        median(&self.overheads_s).unwrap_or(OVERHEAD_S)
            + lasting(measurement.warmup_iterations, measurement.warmup_ms)
            + lasting(measurement.iterations, measurement.min_duration_ms)
    }
}

/// Trials that take as long as each other: by the least that one of their iterations takes at the ceilings, and the
/// GPUs, which the length of a measurement depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Class {
    least_ns: u64,
    gpus: u32,
}

impl Class {
    /// The class of trials whose iterations take `least_s` seconds at the ceilings, on this number of GPUs.
    #[must_use]
    pub fn new(least_s: f64, gpus: u32) -> Self {
        Self {
            least_ns: (least_s * 1e9) as u64,
            gpus,
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
    /// The classes of the trials that are still to be measured, by their indices.
    classes: BTreeMap<u32, Class>,
    remaining: BTreeMap<Class, (EffectiveMeasurement, u64)>,
}

impl Forecast {
    /// The trial with this index is to be measured, too. One that is expected already keeps its class.
    pub fn expect(&mut self, index: u32, class: Class, measurement: EffectiveMeasurement) {
        if let Entry::Vacant(unknown) = self.classes.entry(index) {
            unknown.insert(class);
            self.remaining.entry(class).or_insert((measurement, 0)).1 += 1;
        }
    }

    /// The trial with this index needs nothing more.
    pub fn done(&mut self, index: u32) {
        let class = self.classes.remove(&index);
        if let Some((_, count)) = class.and_then(|class| self.remaining.get_mut(&class)) {
            *count -= 1;
        }
    }

    /// Takes up a trial that is to be measured and was, in `total_s` seconds, start and end of its process included.
    pub fn learn(&mut self, record: &TrialRecord, total_s: f64) {
        let Some(class) = self.classes.get(&record.trial_index) else {
            return;
        };
        if record.outcome != Outcome::Succeeded || record.iterations.is_empty() {
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
        let seconds = |(class, (measurement, count)): (&Class, &(EffectiveMeasurement, u64))| {
            *count as f64 * self.estimator.trial_s(class.least_s(), measurement)
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
        close(estimator.trial_s(0.01, &MEASUREMENT), 3.52);
        // Iterations of 2 s: 0.5 + 2·2 + 5·2.
        close(estimator.trial_s(1.0, &MEASUREMENT), 14.5);
    }

    #[test]
    fn before_the_first_trial_there_is_an_estimate_too() {
        assert!(Estimator::default().trial_s(0.1, &MEASUREMENT) > 3.0);
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
            let class = Class::new(0.1 + f64::from(index % 2), 0);
            forecast.expect(index, class, MEASUREMENT);
            forecast.expect(index, Class::new(9.0, 0), MEASUREMENT);
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
