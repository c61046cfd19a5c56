//! The costs of a design before it is measured: trials, starts of an engine, time, GPU-hours and their price. Times are
//! those that the user says, or those of an earlier sweep; without either there are counts and no times.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
};

use inferbench_crds::{
    design::Combination,
    factor::{Factor, Level, Levels},
};
use inferbench_results::record::{EffectiveMeasurement, Outcome, TrialRecord};
use serde::Serialize;

/// The trials of one combination that are to be measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// The combination.
    pub combination: Combination,
    /// How it is measured.
    pub measurement: EffectiveMeasurement,
    /// Its trials.
    pub trials: u32,
    /// Those of them that an engine is started for.
    pub starts: u32,
}

/// How long trials and starts take.
#[derive(Clone, Debug)]
pub enum Durations {
    /// Nobody has said, and nothing was measured.
    Unknown,
    /// As the user says.
    Given {
        /// Seconds of a trial.
        trial_s: f64,
        /// Seconds of a start; 0 where those of a trial have it in them.
        start_s: f64,
    },
    /// As in an earlier sweep.
    Earlier(Box<Earlier>),
}

/// The trials of an earlier sweep that a trial's time is taken from, the nearest first.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub enum Kin {
    /// Those of the same combination.
    Same,
    /// Trials that agree in every factor but one.
    AllButOne,
    /// Trials that agree in all that a start of the engine fixes.
    SameStart,
    /// Trials on the same number of GPUs.
    SameGpus,
    /// All trials.
    All,
}

impl Kin {
    /// In words.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Same => "measured there",
            Self::AllButOne => "by those that differ in one factor",
            Self::SameStart => "by the mean of those with the same start of the engine",
            Self::SameGpus => "by the mean of those on as many GPUs",
            Self::All => "by the mean of all",
        }
    }
}

/// A mean of seconds. A trial that was measured again counts once, with the time of all its attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Mean {
    sum: f64,
    count: u32,
}

impl Mean {
    fn add(&mut self, seconds: f64, is_first: bool) {
        self.sum += seconds;
        self.count += u32::from(is_first);
    }

    fn and(self, other: Self) -> Self {
        Self {
            sum: self.sum + other.sum,
            count: self.count + other.count,
        }
    }

    fn get(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / f64::from(self.count))
    }
}

/// The time that one attempt at a trial took.
#[derive(Clone, Debug, PartialEq)]
pub struct Took {
    combination: Combination,
    measurement: EffectiveMeasurement,
    process: String,
    started_ms: i64,
    is_first: bool,
    total_s: f64,
    load_s: f64,
    start_s: Option<f64>,
}

impl Took {
    /// That of a record; none of a trial that was not measured: its time says nothing of those that are.
    #[must_use]
    pub fn of(record: &TrialRecord) -> Option<Self> {
        if !matches!(record.outcome, Outcome::Succeeded | Outcome::TimedOut) {
            return None;
        }
        let ms = |time: &str| {
            let time: Option<jiff::Timestamp> = time.parse().ok();
            time.map(|time| time.as_millisecond())
        };
        let started_ms = ms(&record.started_at)?;
        let effective = record.effective.as_ref();
        Some(Self {
            combination: record.request.combination.clone(),
            measurement: record.request.measurement.clone(),
            process: record.process_id.clone(),
            started_ms,
            is_first: record.attempt == 0,
            total_s: (ms(&record.ended_at)? - started_ms).max(0) as f64 / 1e3,
            load_s: effective.map_or(0.0, |effective| effective.model_load_s),
            start_s: effective.and_then(|effective| effective.engine_start_s),
        })
    }
}

/// The times of an earlier sweep.
#[derive(Clone, Debug, Default)]
pub struct Earlier {
    /// Where it is.
    pub place: String,
    /// Records that could not be read.
    pub unreadable: usize,
    /// Without starts, by combination.
    same: BTreeMap<Levels, Mean>,
    /// The same, by the hash of all levels but one.
    but_one: HashMap<u64, Mean>,
    by_start: BTreeMap<Levels, Mean>,
    by_gpus: BTreeMap<u32, Mean>,
    all: Mean,
    /// Of the starts alone.
    starts: BTreeMap<Levels, Mean>,
    starts_by_gpus: BTreeMap<u32, Mean>,
    all_starts: Mean,
    levels: BTreeMap<Factor, BTreeSet<Level>>,
    measured: Vec<EffectiveMeasurement>,
}

impl Earlier {
    /// Those of these attempts; none where no trial was measured.
    #[must_use]
    pub fn of(place: &str, took: &[Took], unreadable: usize) -> Option<Self> {
        // The first trial of a process is the one that had its engine started, unless a server's record says so itself.
        let mut first: HashMap<&str, i64> = HashMap::new();
        for took in took {
            let at = first.entry(&took.process).or_insert(took.started_ms);
            *at = took.started_ms.min(*at);
        }
        let mut earlier = Self {
            place: place.to_owned(),
            unreadable,
            ..Self::default()
        };
        for took in took {
            let loads = !took.combination.engine.takes_requests()
                && first.get(&*took.process) == Some(&took.started_ms);
            let start_s = took.start_s.or(loads.then_some(took.load_s));
            earlier.add(took, start_s);
        }
        earlier.all.get().map(|_| earlier)
    }

    fn add(&mut self, took: &Took, start_s: Option<f64>) {
        let levels = Levels::of(&took.combination);
        let start = Levels::of_start(&took.combination);
        let gpus = took.combination.gpus;
        let trial_s = (took.total_s - start_s.unwrap_or(0.0)).max(0.0);
        for (factor, level) in levels.iter() {
            let seen = self.levels.entry(factor.clone()).or_default();
            seen.insert(level.clone());
            let but_one = self.but_one.entry(hash_without(&levels, factor));
            but_one.or_default().add(trial_s, took.is_first);
        }
        if let Some(start_s) = start_s {
            for mean in [
                self.starts.entry(start.clone()).or_default(),
                self.starts_by_gpus.entry(gpus).or_default(),
                &mut self.all_starts,
            ] {
                mean.add(start_s, true);
            }
        }
        for mean in [
            self.same.entry(levels).or_default(),
            self.by_start.entry(start).or_default(),
            self.by_gpus.entry(gpus).or_default(),
            &mut self.all,
        ] {
            mean.add(trial_s, took.is_first);
        }
        if !self
            .measured
            .iter()
            .any(|seen| same_length(seen, &took.measurement))
        {
            self.measured.push(took.measurement.clone());
        }
    }

    /// Trials that its times are of.
    #[must_use]
    pub const fn trials(&self) -> u32 {
        self.all.count
    }

    /// Starts that its times are of.
    #[must_use]
    pub const fn starts(&self) -> u32 {
        self.all_starts.count
    }

    /// Seconds of a trial without a start, and which trials they are the mean of.
    #[must_use]
    pub fn trial_s(&self, combination: &Combination) -> (f64, Kin) {
        let levels = Levels::of(combination);
        let one_differs = || {
            let others = levels.iter();
            let others = others.filter_map(|(factor, _)| {
                self.but_one.get(&hash_without(&levels, factor)).copied()
            });
            others.reduce(Mean::and)
        };
        let means: [(Kin, &dyn Fn() -> Option<Mean>); 4] = [
            (Kin::Same, &|| self.same.get(&levels).copied()),
            (Kin::AllButOne, &one_differs),
            (Kin::SameStart, &|| {
                self.by_start.get(&Levels::of_start(combination)).copied()
            }),
            (Kin::SameGpus, &|| {
                self.by_gpus.get(&combination.gpus).copied()
            }),
        ];
        let nearest = means
            .iter()
            .find_map(|(kin, mean)| Some((mean().and_then(Mean::get)?, *kin)));
        nearest.unwrap_or((self.all.get().unwrap_or(0.0), Kin::All))
    }

    /// Seconds of a start: of the same one, else the mean of those on as many GPUs, else of all; 0 where none was seen.
    #[must_use]
    pub fn start_s(&self, combination: &Combination) -> f64 {
        let same = self.starts.get(&Levels::of_start(combination));
        let near = same.or_else(|| self.starts_by_gpus.get(&combination.gpus));
        let mean = near.copied().unwrap_or(self.all_starts);
        mean.get().unwrap_or(0.0)
    }

    /// Levels that none of its trials has, by factor.
    #[must_use]
    pub fn missing<'a>(
        &self,
        combinations: impl Iterator<Item = &'a Combination>,
    ) -> BTreeMap<Factor, BTreeSet<Level>> {
        let mut missing: BTreeMap<Factor, BTreeSet<Level>> = BTreeMap::new();
        for combination in combinations {
            for (factor, level) in Levels::of(combination).iter() {
                let seen = self.levels.get(factor);
                if seen.is_none_or(|seen| !seen.contains(level)) {
                    let of_factor = missing.entry(factor.clone()).or_default();
                    of_factor.insert(level.clone());
                }
            }
        }
        missing
    }

    /// Why its times are those of another measurement, where they are.
    #[must_use]
    pub fn otherwise<'a>(
        &self,
        planned: impl Iterator<Item = &'a EffectiveMeasurement>,
    ) -> Option<String> {
        let mut planned = planned;
        let other = planned.find(|asked| {
            let mut seen = self.measured.iter();
            !seen.any(|seen| same_length(seen, asked))
        })?;
        let words = |of: &EffectiveMeasurement| {
            format!(
                "warm-up {} and {} ms, then {} iterations and {} ms",
                of.warmup_iterations, of.warmup_ms, of.iterations, of.min_duration_ms
            )
        };
        let there: Vec<String> = self.measured.iter().map(words).collect();
        Some(format!(
            "it measured otherwise ({}) than is asked for here ({})",
            there.join("; "),
            words(other)
        ))
    }
}

/// Whether two measurements ask for the same time.
fn same_length(a: &EffectiveMeasurement, b: &EffectiveMeasurement) -> bool {
    let length = |of: &EffectiveMeasurement| {
        (
            of.warmup_iterations,
            of.warmup_ms,
            of.iterations,
            of.min_duration_ms,
        )
    };
    length(a) == length(b)
}

/// The hash of all levels but that of one factor, and of which factor that is: a map of copies of the levels would take
/// a gigabyte for 50,000 combinations.
fn hash_without(levels: &Levels, left_out: &Factor) -> u64 {
    let mut hasher = DefaultHasher::new();
    left_out.hash(&mut hasher);
    let others = levels.iter().filter(|(factor, _)| *factor != left_out);
    others.for_each(|other| other.hash(&mut hasher));
    hasher.finish()
}

/// The costs of a design.
#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// Trials that will be measured.
    pub trials: u64,
    /// Starts of an engine.
    pub starts: u64,
    /// Hours of all trials and starts, one after another; none where no durations are known.
    pub hours: Option<f64>,
    /// The same, times the GPUs of each; an endpoint's are not held by the sweep.
    pub gpu_hours: Option<f64>,
    /// The price of these, in the currency of `objectives.costPerGpuHour`.
    pub cost: Option<f64>,
}

impl Durations {
    /// Seconds of a trial without its start, and what they rest on where that is an earlier sweep.
    #[must_use]
    pub fn trial_s(&self, combination: &Combination) -> Option<(f64, Option<Kin>)> {
        match self {
            Self::Unknown => None,
            Self::Given { trial_s, .. } => Some((*trial_s, None)),
            Self::Earlier(earlier) => {
                let (seconds, kin) = earlier.trial_s(combination);
                Some((seconds, Some(kin)))
            }
        }
    }

    fn start_s(&self, combination: &Combination) -> f64 {
        match self {
            Self::Unknown => 0.0,
            Self::Given { start_s, .. } => *start_s,
            Self::Earlier(earlier) => earlier.start_s(combination),
        }
    }

    /// The costs of this work, at a price of a GPU for an hour.
    #[must_use]
    pub fn cost<'a>(&self, work: impl Iterator<Item = &'a Work>, price: Option<f64>) -> Cost {
        let (mut cost, mut seconds, mut gpu_seconds) = (Cost::default(), 0.0, 0.0);
        for work in work {
            cost.trials += u64::from(work.trials);
            cost.starts += u64::from(work.starts);
            let Some((trial_s, _)) = self.trial_s(&work.combination) else {
                continue;
            };
            let took = f64::from(work.trials) * trial_s
                + f64::from(work.starts) * self.start_s(&work.combination);
            seconds += took;
            if work.combination.engine.endpoint.is_none() {
                gpu_seconds += took * f64::from(work.combination.gpus);
            }
        }
        if !matches!(self, Self::Unknown) {
            cost.hours = Some(seconds / 3600.0);
            cost.gpu_hours = Some(gpu_seconds / 3600.0);
            cost.cost = price.map(|price| price * gpu_seconds / 3600.0);
        }
        cost
    }
}

#[cfg(test)]
mod tests;
