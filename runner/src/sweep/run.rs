//! The run of a sweep on one machine: block after block, every trial in the order of the design, until each has a
//! record that needs nothing more or has failed as often as it may. Where the design has `until`, what is stored is
//! looked at before each block, and combinations that are narrow enough run no further. Where it has `confirm`, what is
//! best after all of that is measured again in fresh blocks.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use inferbench_crds::{
    design::{Combination, Trial},
    factor::Levels,
    spec::{Dtype, Isolation},
};
use inferbench_engine::ceilings::Ceilings;
use inferbench_results::{confirm::Confirming, looks::Looks, numbers::counted, record::Outcome};

use super::{
    ceilings::{self, describe},
    estimate::{Class, Forecast, SharedStart},
    executor::Executor,
    levels::Columns,
    prepared::{Fate, Prepared},
    progress::{self, Progress},
    settle::{Ready, Settled, Unsettled, settle},
    steps::{Step, step, try_again},
    stored::{Failure, LocalLedger, SweepFile, read_failures, write_failures},
    tables,
};
use crate::{
    machine::{self, Machine},
    process::signals,
    store::{Store, StoreError, records::store_record},
    trial::{
        protocol::StoreAt,
        recording::{now, unmeasured},
        roofline,
    },
};

/// A sweep while it runs.
pub struct Run<'a> {
    sweep: &'a Prepared,
    store: &'a Store,
    at: &'a StoreAt,
    machine: &'a Machine,
    file: SweepFile,
    ledger: LocalLedger,
    ceilings: BTreeMap<Dtype, Ceilings>,
    failures: BTreeMap<u32, Failing>,
    forecast: Forecast,
    looks: Option<Looks>,
    /// The combinations that are narrow enough, each with the block that made it so.
    enough: BTreeMap<u32, u32>,
    confirming: Option<Confirming>,
    /// The combinations that are measured again; none before all others have ended.
    chosen: Option<BTreeSet<u32>>,
    /// Whether trials that have failed are not tried again, as they could change what was chosen already.
    closed: bool,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SweepEnding {
    /// No trial needs anything more, or may be tried again.
    Complete,
    /// More trials failed than the spec allows.
    OverBudget,
    /// Ctrl-C or SIGTERM arrived.
    Interrupted,
}

/// Why a run cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Something else did.
    #[error("{0}")]
    Failed(String),
}

impl From<String> for RunError {
    fn from(message: String) -> Self {
        RunError::Failed(message)
    }
}

/// A trial that has failed in this run, and not been measured since.
struct Failing {
    times: u32,
    given_up: bool,
    last: Failure,
}

/// How the sweep goes on after a trial.
enum Then {
    Done,
    Again,
    Stop(SweepEnding),
}

impl<'a> Run<'a> {
    /// The run of a sweep whose store, at `at`, holds `file` and `ledger` already.
    ///
    /// # Errors
    /// Where the failures of former runs cannot be read.
    pub fn new(
        sweep: &'a Prepared,
        store: &'a Store,
        at: &'a StoreAt,
        machine: &'a Machine,
        file: SweepFile,
        ledger: LocalLedger,
    ) -> Result<Self, StoreError> {
        let mut run = Self {
            sweep,
            store,
            at,
            machine,
            file,
            ledger,
            ceilings: BTreeMap::new(),
            failures: BTreeMap::new(),
            forecast: Forecast::default(),
            looks: Looks::of(&sweep.spec.design),
            enough: BTreeMap::new(),
            confirming: Confirming::of(&sweep.spec.design),
            chosen: None,
            closed: false,
        };
        run.look();
        if run.confirming.is_some() {
            run.close(read_failures(store)?);
            if run.waiting_of_all().next().is_none() {
                run.choose();
            }
        }
        Ok(run)
    }

    /// Trials of the replicates that all combinations have, as far as they need something.
    fn waiting_of_all(&self) -> impl Iterator<Item = u32> {
        let expansion = &self.sweep.expansion;
        let of_all = expansion.order();
        of_all.filter(move |index| !expansion.confirms(*index) && !self.is_done(*index))
    }

    /// Once anything was measured again, what had failed before stays failed: tried again, it could change what is best,
    /// and an interruption would decide. A design that has grown since has trials that never failed, and chooses anew.
    fn close(&mut self, failures: Vec<Failure>) {
        let has_begun = self.ledger.latest().any(|row| row.confirming.is_some());
        let failed = tables::of_failures(self.sweep, &failures);
        if !has_begun
            || !self
                .waiting_of_all()
                .all(|index| failed.contains_key(&index))
        {
            return;
        }
        let waiting: BTreeSet<u32> = self.waiting_of_all().collect();
        for last in failures {
            if waiting.contains(&last.trial_index) {
                let failing = Failing {
                    times: 1,
                    given_up: true,
                    last,
                };
                self.failures.insert(failing.last.trial_index, failing);
            }
        }
        self.closed = true;
    }

    /// Chooses what is measured again.
    fn choose(&mut self) {
        let objectives = &self.sweep.spec.objectives;
        let chosen = |confirming: &Confirming| confirming.chosen(self.ledger.latest(), objectives);
        self.chosen = self.confirming.as_ref().map(chosen);
    }

    /// Looks at what is stored, for combinations that are narrow enough.
    fn look(&mut self) {
        let combinations = self.sweep.expansion.combinations_before_exclusion();
        if let Some(looks) = &self.looks {
            self.enough = looks.enough(self.ledger.latest(), combinations);
        }
    }

    /// Whether a trial that is not done is to stay so: its combination is narrow enough, or is not to be measured again.
    fn is_not_needed(&self, index: u32) -> bool {
        let expansion = &self.sweep.expansion;
        let combination = index % expansion.combinations_before_exclusion().max(1);
        if expansion.confirms(index) {
            let chosen = self.chosen.as_ref();
            return chosen.is_some_and(|chosen| !chosen.contains(&combination));
        }
        self.closed || self.enough.contains_key(&combination)
    }

    /// Trials that have no record and need none.
    #[must_use]
    pub fn not_needed(&self) -> usize {
        let order = self.sweep.expansion.order();
        order
            .filter(|index| self.is_not_needed(*index) && self.ledger.last(*index).is_none())
            .filter(|index| !self.closed || !self.failures.contains_key(index))
            .count()
    }

    /// Trials that need nothing more, and all that are expected: until it is chosen what is measured again, as many of that
    /// as there can be, and then no others.
    #[must_use]
    pub fn progress(&self) -> (usize, usize) {
        let expansion = &self.sweep.expansion;
        let left_out = match &self.chosen {
            Some(_) => expansion
                .order()
                .filter(|index| expansion.confirms(*index))
                .filter(|index| self.is_not_needed(*index) && self.ledger.last(*index).is_none())
                .count(),
            None => {
                let confirming = expansion.replicates() - expansion.blocks_of_all();
                let fewer = expansion.combinations_len() - expansion.most_confirmed();
                (confirming * fewer) as usize
            }
        };
        let done = match &self.chosen {
            Some(_) => self.finished() - left_out,
            None => self.finished(),
        };
        (done, expansion.len() as usize - left_out)
    }

    /// The stored attempts, those of this run among them.
    #[must_use]
    pub fn ledger(&self) -> &LocalLedger {
        &self.ledger
    }

    /// The last failures of trials that have no record.
    #[must_use]
    pub fn failures(&self) -> Vec<Failure> {
        let failing = self.failures.values();
        failing.map(|failing| failing.last.clone()).collect()
    }

    /// Trials that need nothing more.
    #[must_use]
    pub fn finished(&self) -> usize {
        let order = self.sweep.expansion.order();
        order.filter(|index| self.is_done(*index)).count()
    }

    /// The combinations of trials that need a process yet, once for each of them.
    pub fn to_measure(&self) -> impl Iterator<Item = Combination> {
        let trials = self.sweep.expansion.trials();
        let open = trials.filter(|trial| !self.is_done(trial.index));
        let open = open.map(|trial| trial.combination);
        open.filter(|one| self.sweep.fate(one, self.machine.memory) == Fate::Measure)
    }

    /// Measures all that needs it.
    ///
    /// # Errors
    /// Where the store fails, or the ceilings cannot be measured.
    pub fn measure(&mut self, executor: &mut dyn Executor) -> Result<SweepEnding, RunError> {
        self.settle_what_needs_no_process()?;
        match self.find_ceilings(executor) {
            Err(_) if signals::interrupted() => return Ok(SweepEnding::Interrupted),
            found => found?,
        }
        self.expect();
        let expansion = &self.sweep.expansion;
        let levels: BTreeSet<Levels> = expansion
            .combinations()
            .map(|(_, combination)| self.sweep.levels(&combination))
            .collect();
        let (done, total) = self.progress();
        let mut progress = Progress::new(Columns::of(&levels), done, total);
        let ending = self.blocks(executor, &mut progress);
        progress.finish();
        ending
    }

    fn blocks(
        &mut self,
        executor: &mut dyn Executor,
        progress: &mut Progress,
    ) -> Result<SweepEnding, RunError> {
        let of_all = self.sweep.expansion.blocks_of_all();
        for replicate in 0..self.sweep.expansion.replicates() {
            if replicate < of_all {
                self.leave_out_what_is_enough(replicate, progress);
            } else if self.chosen.is_none() {
                self.leave_out_what_is_not_best(progress);
            }
            let mut pending: Vec<u32> = self.sweep.block(replicate);
            pending.retain(|index| !self.is_not_needed(*index));
            // A trial that failed or is invalid gets its next chance at the end of its block: the disturbance may be
            // over.
            while !pending.is_empty() {
                let mut again = Vec::new();
                for index in std::mem::take(&mut pending) {
                    let Some(trial) = self.sweep.expansion.trial(index) else {
                        continue;
                    };
                    match self.one(&trial, executor, progress)? {
                        Then::Done => {}
                        Then::Again => again.push(index),
                        Then::Stop(ending) => return Ok(ending),
                    }
                }
                pending = again;
            }
        }
        Ok(SweepEnding::Complete)
    }

    /// Looks at what the blocks before this one have made of each combination, and says how many trials are not needed.
    fn leave_out_what_is_enough(&mut self, replicate: u32, progress: &mut Progress) {
        if self.looks.is_none() {
            return;
        }
        let order = self.sweep.expansion.order();
        let before: Vec<u32> = order.filter(|index| !self.is_done(*index)).collect();
        let known = self.enough.len();
        self.look();
        let left_out: Vec<u32> = before
            .into_iter()
            .filter(|index| self.is_not_needed(*index))
            .collect();
        for trial in left_out
            .iter()
            .filter_map(|index| self.sweep.expansion.trial(*index))
        {
            self.forecast.done(trial.index);
        }
        if self.enough.len() > known {
            progress.skip(left_out.len());
            progress.say(&format!(
                "after {replicate} replicates, {} of {} combinations are narrow enough: {} not needed",
                self.enough.len(),
                self.sweep.expansion.combinations_len(),
                counted(left_out.len() as u64, "trial")
            ));
        }
    }

    /// Chooses what is measured again, and says how much that is.
    fn leave_out_what_is_not_best(&mut self, progress: &mut Progress) {
        self.choose();
        self.forecast.forget();
        self.expect();
        let (done, total) = self.progress();
        progress.set(done, total);
        let expansion = &self.sweep.expansion;
        let chosen = self.chosen.as_ref().map_or(0, BTreeSet::len);
        progress.say(&format!(
            "after {} replicates, the best of {} combinations are measured again: {chosen} in {} fresh replicates",
            expansion.blocks_of_all(),
            expansion.combinations_len(),
            expansion.replicates() - expansion.blocks_of_all()
        ));
    }

    fn next_step(&self, index: u32) -> Step {
        step(&self.ledger.attempts(index), self.sweep.remeasure_invalid())
    }

    fn is_done(&self, index: u32) -> bool {
        self.next_step(index) == Step::Done || self.is_not_needed(index)
    }

    /// Stores the outcomes of trials that cannot run.
    fn settle_what_needs_no_process(&mut self) -> Result<(), RunError> {
        let process_id = machine::process_id(&self.machine.node);
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        let expansion = &self.sweep.expansion;
        // A combination that cannot run is never the best.
        let of_all = expansion
            .trials()
            .filter(|trial| !expansion.confirms(trial.index));
        for trial in of_all {
            let (outcome, reason) = match self.sweep.fate(&trial.combination, self.machine.memory) {
                Fate::Measure => continue,
                Fate::Unsupported(reason) => (Outcome::Unsupported, reason),
                Fate::TooBig(reason) => (Outcome::OutOfMemory, reason),
            };
            *reasons.entry(format!("{outcome:?}: {reason}")).or_default() += 1;
            if step(&self.ledger.attempts(trial.index), 0) == Step::Done {
                continue;
            }
            let ask = self.sweep.ask(&trial, 0, self.at).trial;
            let record = unmeasured(&ask, self.machine, &process_id, &now(), outcome, reason);
            store_record(self.store, &record)?;
            self.ledger.add(trial.index, &record);
        }
        for (reason, count) in reasons {
            eprintln!("{count} trials are {reason}");
        }
        Ok(())
    }

    fn find_ceilings(&mut self, executor: &mut dyn Executor) -> Result<(), RunError> {
        let sweep = self.sweep;
        let done: BTreeSet<u32> = sweep
            .expansion
            .order()
            .filter(|index| self.is_done(*index))
            .collect();
        let to_measure = |index: u32| !done.contains(&index);
        self.ceilings = ceilings::of_sweep(
            sweep,
            self.machine,
            &to_measure,
            &mut self.file,
            executor,
            |file| file.write(self.store).map_err(RunError::from),
        )?;
        Ok(())
    }

    /// Counts what is to be measured, for the estimate; of what may be measured again, as many as there can be.
    fn expect(&mut self) {
        let expansion = &self.sweep.expansion;
        let share = f64::from(expansion.most_confirmed()) / f64::from(expansion.combinations_len());
        let at_most = self.sweep.spec.execution.trials_per_job.unsigned_abs();
        for trial in expansion.trials() {
            if !self.is_done(trial.index) {
                let measurement = self.sweep.measurement(&trial.combination);
                let class = self.class(&trial);
                let is_likely = self.chosen.is_some() || !expansion.confirms(trial.index);
                let share = if is_likely { 1.0 } else { share };
                let shares = measurement.isolation == Isolation::Pod;
                self.forecast.expect(trial.index, class, measurement, share);
                // Nothing is started for an endpoint; candle's loading is a part of its trials.
                let engine = &trial.combination.engine;
                if shares && engine.server.is_some() {
                    let of = SharedStart {
                        block: trial.replicate,
                        start: expansion.start(trial.index),
                    };
                    self.forecast
                        .share_start(trial.index, of, &engine.name, at_most);
                }
            }
        }
    }

    /// The class of trials that take as long as this one, by the ceilings that are known by now.
    fn class(&self, trial: &Trial) -> Class {
        let combination = &trial.combination;
        let shape = roofline::shape(
            self.sweep.config(combination),
            combination.dtype,
            combination.gpus,
        );
        let ceilings = self.ceilings.get(&combination.dtype);
        let known = ceilings.zip(roofline::workload(combination));
        let least_s = known.map_or(0.0, |(ceilings, workload)| {
            roofline::least_seconds(&shape, &workload, ceilings)
        });
        Class::new(least_s, combination)
    }

    /// Gives a trial its next attempt, if it needs one.
    fn one(
        &mut self,
        trial: &Trial,
        executor: &mut dyn Executor,
        progress: &mut Progress,
    ) -> Result<Then, RunError> {
        let Step::Measure(attempt) = self.next_step(trial.index) else {
            return Ok(Then::Done);
        };
        if signals::interrupted() {
            return Ok(Then::Stop(SweepEnding::Interrupted));
        }
        let levels = self.sweep.levels(&trial.combination);
        progress.begin(trial, &levels, self.forecast.remaining_s());
        let mut ask = self.sweep.ask(trial, attempt, self.at);
        ask.ceilings = self.ceilings.get(&trial.combination.dtype).cloned();
        let started = Instant::now();
        match settle(ask, self.store, self.machine, executor, |_, _| {
            Ok(Ready::Yes)
        }) {
            Ok(settled) => self.note_record(trial, settled, started.elapsed(), progress),
            Err(Unsettled::Failed { message, permanent }) => {
                let key = self.sweep.key(trial, attempt);
                self.note_failure(trial, key, message, permanent, progress)
            }
            Err(Unsettled::Interrupted) => Ok(Then::Stop(SweepEnding::Interrupted)),
            Err(Unsettled::Store(error)) => Err(error.into()),
        }
    }

    fn note_record(
        &mut self,
        trial: &Trial,
        settled: Settled,
        took: Duration,
        progress: &mut Progress,
    ) -> Result<Then, RunError> {
        let Settled {
            record,
            reused,
            ceilings: renewed,
        } = settled;
        let mut renewal = String::new();
        if let Some(renewed) = renewed {
            renewal = format!(
                "; above the ceilings, so measured again: {}",
                describe(&renewed)
            );
            let dtype = trial.combination.dtype;
            ceilings::remember(&mut self.file, self.sweep, self.machine, dtype, &renewed);
            self.file.write(self.store)?;
            self.ceilings.insert(dtype, renewed);
            ceilings::level(&mut self.ceilings);
        }
        self.failures.remove(&trial.index);
        if !reused {
            self.forecast.learn(&record, took.as_secs_f64());
        }
        self.ledger.add(trial.index, &record);
        let done = self.is_done(trial.index);
        if done {
            self.forecast.done(trial.index);
        }
        let mut result = self
            .ledger
            .last(trial.index)
            .map(progress::result)
            .unwrap_or_default();
        if let Some(message) = &record.message {
            result = format!("{result}: {message}");
        }
        result += &renewal;
        if !done {
            result += "; to be measured again";
        }
        let levels = self.sweep.levels(&trial.combination);
        progress.end(trial, &levels, &result, done, self.forecast.remaining_s());
        Ok(if done { Then::Done } else { Then::Again })
    }

    fn note_failure(
        &mut self,
        trial: &Trial,
        key: String,
        message: String,
        permanent: bool,
        progress: &mut Progress,
    ) -> Result<Then, RunError> {
        let execution = &self.sweep.spec.execution;
        let before = self.failures.get(&trial.index);
        let times = before.map_or(0, |failing| failing.times) + 1;
        let again = try_again(times, execution.retries.unsigned_abs(), permanent);
        let then = if again { "; to be tried again" } else { "" };
        let result = format!("FAILED: {message}{then}");
        self.failures.insert(
            trial.index,
            Failing {
                times,
                given_up: !again,
                last: Failure {
                    key,
                    trial_index: trial.index,
                    at: now(),
                    message,
                },
            },
        );
        write_failures(self.store, &self.failures())?;
        if !again {
            self.forecast.done(trial.index);
        }
        let levels = self.sweep.levels(&trial.combination);
        progress.end(trial, &levels, &result, !again, self.forecast.remaining_s());
        if again {
            return Ok(Then::Again);
        }
        let given_up = self.failures.values().filter(|failing| failing.given_up);
        let total = self.sweep.expansion.len() as usize;
        Ok(if execution.is_over_budget(given_up.count(), total) {
            Then::Stop(SweepEnding::OverBudget)
        } else {
            Then::Done
        })
    }
}
