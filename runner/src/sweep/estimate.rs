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

/// A start of a server that several trials share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SharedStart {
    /// The block.
    pub block: u32,
    /// The number of its levels, among those of scope start.
    pub start: u32,
}

/// The trials of a shared start.
#[derive(Clone, Debug, Default)]
struct Sharing {
    engine: String,
    /// As many as share a start at most: more of them need several.
    at_most: u32,
    expected: u32,
    left: u32,
    /// Starts that were made.
    made: u32,
}

impl Sharing {
    /// Starts that are still to be made.
    fn to_make(&self) -> u32 {
        let starts = self.expected.div_ceil(self.at_most.max(1));
        starts.saturating_sub(self.made).min(self.left)
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
    /// The starts that trials share, and whose each of these is.
    starts: BTreeMap<SharedStart, Sharing>,
    start_of: BTreeMap<u32, SharedStart>,
    /// Seconds that starts took, by engine.
    starts_s: BTreeMap<String, Vec<f64>>,
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

    /// The trial with this index, which is expected, shares a start of this engine with others, `at_most` in all.
    pub fn share_start(&mut self, index: u32, of: SharedStart, engine: &str, at_most: u32) {
        if let Entry::Vacant(vacant) = self.start_of.entry(index) {
            vacant.insert(of);
            let sharing = self.starts.entry(of).or_default();
            engine.clone_into(&mut sharing.engine);
            sharing.at_most = at_most;
            sharing.expected += 1;
            sharing.left += 1;
        }
    }

    /// No trials are to be measured, as far as is known now; how long they take is.
    pub fn forget(&mut self) {
        self.classes.clear();
        self.remaining.clear();
        self.starts.clear();
        self.start_of.clear();
    }

    /// The trial with this index needs nothing more.
    pub fn done(&mut self, index: u32) {
        let Some((class, share)) = self.classes.remove(&index) else {
            return;
        };
        if let Some((_, count)) = self.remaining.get_mut(&class) {
            *count = (*count - share).max(0.0);
        }
        let start = self.start_of.get(&index);
        if let Some(sharing) = start.and_then(|start| self.starts.get_mut(start)) {
            sharing.left = sharing.left.saturating_sub(1);
        }
    }

    /// Takes up a trial that is to be measured and was, in `total_s` seconds, start and end of its process included.
    pub fn learn(&mut self, record: &TrialRecord, total_s: f64) {
        let Some(&(class, _)) = self.classes.get(&record.trial_index) else {
            return;
        };
        let start = self.start_of.get(&record.trial_index);
        let sharing = start.and_then(|start| self.starts.get_mut(start));
        let mut total_s = total_s;
        // The record of the trial that a server was started for has the time of that.
        let effective = record.effective.as_ref();
        let start_s = effective.and_then(|effective| effective.engine_start_s);
        if let (Some(sharing), Some(start_s)) = (sharing, start_s) {
            sharing.made += 1;
            let engine = sharing.engine.clone();
            self.starts_s.entry(engine).or_default().push(start_s);
            total_s = (total_s - start_s).max(0.0);
        }
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
        let trials: f64 = self.remaining.iter().map(seconds).sum();
        trials
            + self
                .starts
                .values()
                .map(|of| self.starts_left_s(of))
                .sum::<f64>()
    }

    /// Seconds of the starts that trials which share one still need: as long as those of this engine took, else as any.
    fn starts_left_s(&self, of: &Sharing) -> f64 {
        let of_engine = self.starts_s.get(&of.engine).and_then(|took| median(took));
        let any = || {
            let all: Vec<f64> = self.starts_s.values().flatten().copied().collect();
            median(&all)
        };
        f64::from(of.to_make()) * of_engine.or_else(any).unwrap_or(0.0)
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

    #[test]
    fn a_start_counts_once_for_the_trials_that_share_it() {
        let mut forecast = Forecast::default();
        let mut record = fixtures::record();
        record.iterations.clear();
        // Two blocks of five trials, of which three share a start at most: two starts each.
        for index in 0..10 {
            forecast.expect(index, class(0.0), MEASUREMENT, 1.0);
            let of = SharedStart {
                block: index / 5,
                start: 0,
            };
            forecast.share_start(index, of, "vllm", 3);
        }
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} is not {b}");
        for (index, start_s, left_s) in [
            // One of four starts is made, and one trial, each of the nine others as long.
            (0, Some(60.0), 3.0 * 60.0 + 9.0 * 2.0),
            (1, None, 3.0 * 60.0 + 8.0 * 2.0),
            (2, None, 3.0 * 60.0 + 7.0 * 2.0),
            (3, Some(80.0), 2.0 * 80.0 + 6.0 * 2.0),
            (4, None, 2.0 * 80.0 + 5.0 * 2.0),
        ] {
            record.trial_index = index;
            record.effective.as_mut().unwrap().engine_start_s = start_s;
            forecast.learn(&record, 2.0 + start_s.unwrap_or(0.0));
            forecast.done(index);
            close(forecast.remaining_s(), left_s);
        }
        // The last trial of a block needs no more starts than there are trials.
        for index in 5..9 {
            forecast.done(index);
        }
        close(forecast.remaining_s(), 80.0 + 2.0);
        forecast.done(9);
        close(forecast.remaining_s(), 0.0);
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
