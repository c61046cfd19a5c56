//! `inferbench run`: a whole sweep on this machine.

use std::{
    collections::BTreeMap,
    io::Write,
    path::Path,
    time::{Duration, Instant},
};

use inferbench_crds::{design::Trial, spec::Dtype};
use inferbench_engine::{
    ceilings::{Ceilings, roofline::Shape},
    size,
};
use inferbench_results::record::{Outcome, TrialRecord};

use super::{
    collect,
    input::{refuse_gpus, resource, store_at},
    table,
};
use crate::{
    cli::RunArgs,
    machine::{self, Machine},
    models::Need,
    process::{exit::Exit, lock::FolderLock, print_error, signals},
    store::{
        Store, StoreError,
        records::{TRIALS, record_path, store_record},
    },
    sweep::{
        estimate::Estimator,
        executor::{Ended, Executor, InProcess, Processes},
        prepared::{Fate, Prepared},
        progress::{self, Progress},
        settle,
        steps::{Step, over_budget, step, try_again},
        stored::{self, Failure, Ledger, Measured, Pin, SweepFile},
    },
    trial::{
        protocol::{Measure, StoreAt},
        recording, roofline,
    },
};

/// Leftovers of a killed run that are older than this are swept away; younger ones may be a neighbour's.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

/// Runs a sweep.
pub fn run(args: &RunArgs) -> Exit {
    signals::listen();
    match try_run(args) {
        Ok(exit) => exit,
        Err(Failed::Said(exit)) => exit,
        Err(Failed::Store(error)) => {
            print_error(&error);
            Exit::Failed
        }
    }
}

/// Why a sweep could not go on.
enum Failed {
    Said(Exit),
    Store(StoreError),
}

impl From<Exit> for Failed {
    fn from(exit: Exit) -> Self {
        Failed::Said(exit)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Failed::Store(error)
    }
}

fn try_run(args: &RunArgs) -> Result<Exit, Failed> {
    let resource = resource(&args.file)?;
    refuse_gpus(&args.file, &resource, args.in_process)?;
    let at = store_at(args.out.as_deref(), &resource);
    let store = Store::at(&at)?;
    let _lock = occupy(&store)?;
    store.probe()?;
    store.remove_leftovers(LEFTOVER_AGE)?;
    let (mut file, damaged) = SweepFile::read(&store)?;
    damaged.iter().for_each(|damage| print_error(damage));

    let pinned = |name: &str| {
        let models = &resource.spec.design.factors.model;
        let model = models.iter().find(|model| model.name == name)?;
        file.pinned(name, &model.source).map(str::to_owned)
    };
    let mut sweep = Prepared::new(&resource, Need::Weights, &pinned).map_err(|error| {
        print_error(&format!("{}: {error}", args.file.display()));
        Exit::BadInput
    })?;
    if args.in_process {
        sweep.share_process();
    }
    file.name.clone_from(&sweep.name);
    file.models = sweep
        .models()
        .iter()
        .zip(&sweep.spec.design.factors.model)
        .map(|(model, level)| Pin {
            name: model.name.clone(),
            source: level.source.clone(),
            revision: model.revision.clone(),
        })
        .collect();
    file.write(&store)?;

    let (ledger, damaged) = Ledger::read(&store, &sweep)?;
    damaged.iter().for_each(|damage| print_error(damage));
    let machine = Machine::look();
    let mut executor: Box<dyn Executor + '_> = if args.in_process {
        Box::new(InProcess::new(&store))
    } else {
        let measurement = &sweep.spec.measurement;
        Box::new(Processes::new(
            machine.clone(),
            measurement.isolation,
            sweep.spec.execution.trials_per_job,
        ))
    };
    let again = args
        .out
        .as_ref()
        .map_or(String::new(), |out| format!(" --out {out}"));
    let mut run = Run {
        sweep: &sweep,
        store: &store,
        at: &at,
        machine: &machine,
        file,
        ledger,
        failures: BTreeMap::new(),
        estimator: Estimator::default(),
        remaining: BTreeMap::new(),
        again: format!("inferbench run {}{again}", args.file.display()),
    };
    run.all(executor.as_mut())
}

/// Takes a folder for this sweep alone. A folder with anything else in it is left alone.
fn occupy(store: &Store) -> Result<Option<FolderLock>, Failed> {
    let Some(folder) = store.folder() else {
        return Ok(None);
    };
    if holds_something_else(folder) {
        print_error(&format!(
            "{}: the folder holds files, but none of a sweep ({} is missing); choose another with --out",
            folder.display(),
            stored::SWEEP_FILE
        ));
        return Err(Exit::BadInput.into());
    }
    let lock = FolderLock::take(folder).map_err(|error| {
        print_error(&error);
        Exit::Failed
    })?;
    Ok(Some(lock))
}

fn holds_something_else(folder: &Path) -> bool {
    let Ok(entries) = folder.read_dir() else {
        return false;
    };
    let hidden = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with('.');
    let visible = entries.flatten().any(|entry| !hidden(&entry.file_name()));
    visible && !folder.join(stored::SWEEP_FILE).exists() && !folder.join(TRIALS).is_dir()
}

/// A sweep while it runs.
struct Run<'a> {
    sweep: &'a Prepared,
    store: &'a Store,
    at: &'a StoreAt,
    machine: &'a Machine,
    file: SweepFile,
    ledger: Ledger,
    failures: BTreeMap<u32, Failing>,
    estimator: Estimator,
    /// Trials that are still to be measured, by what one iteration takes at the ceilings (ns) and the GPUs.
    remaining: BTreeMap<(u64, u32), u64>,
    again: String,
}

/// A trial that has failed in this run, and not been measured since.
struct Failing {
    times: u32,
    given_up: bool,
    last: Failure,
}

/// Whether the sweep goes on after a trial.
enum Then {
    Done,
    Again,
    Stop(Exit),
}

impl Run<'_> {
    fn all(&mut self, executor: &mut dyn Executor) -> Result<Exit, Failed> {
        let total = self.sweep.expansion.len() as usize;
        let reused = self.ledger.latest().count();
        let location = self.store.location();
        eprintln!(
            "{}: {} combinations × {} replicates = {total} trials{}, into {location}",
            self.sweep.name,
            self.sweep.expansion.combinations_len(),
            self.sweep.spec.design.replicates,
            if reused > 0 {
                format!(", {reused} of them measured before")
            } else {
                String::new()
            },
        );
        self.flag_other_machines();

        self.settle_what_needs_no_process()?;
        let mut ceilings = match self.ceilings(executor) {
            Ok(ceilings) => ceilings,
            Err(_) if signals::interrupted() => return Ok(self.interrupted()),
            Err(Failed::Said(exit)) => return Ok(exit),
            Err(other) => return Err(other),
        };
        self.expect(&ceilings);

        let mut progress = Progress::new(self.finished(), total);
        let mut exit = Exit::Ok;
        'sweep: for replicate in 0..self.sweep.spec.design.replicates.unsigned_abs() {
            let mut pending: Vec<u32> = self.sweep.expansion.block(replicate);
            // What failed or is invalid gets its next chance at the end of its block: what disturbed it may be over.
            while !pending.is_empty() {
                let mut again = Vec::new();
                for index in std::mem::take(&mut pending) {
                    let Some(trial) = self.sweep.expansion.trial(index) else {
                        continue;
                    };
                    match self.one(&trial, executor, &mut ceilings, &mut progress)? {
                        Then::Done => {}
                        Then::Again => again.push(index),
                        Then::Stop(why) => {
                            exit = why;
                            break 'sweep;
                        }
                    }
                }
                pending = again;
            }
        }
        progress.finish();
        if exit == Exit::Interrupted {
            return Ok(self.interrupted());
        }
        self.conclude(reused, exit)
    }

    /// Trials that need nothing more.
    fn finished(&self) -> usize {
        let remeasure = self.remeasure();
        let done = |index: &u32| step(&self.ledger.attempts(*index), remeasure) == Step::Done;
        self.sweep.expansion.order().filter(done).count()
    }

    /// The fewest GPUs that the design asks for: none, or at least one for every trial.
    fn gpus(&self) -> u32 {
        let gpus = &self.sweep.spec.design.factors.gpus;
        gpus.iter()
            .map(|gpus| gpus.unsigned_abs())
            .min()
            .unwrap_or_default()
    }

    fn remeasure(&self) -> u32 {
        self.sweep.remeasure_invalid()
    }

    /// Says which stored records come from another processor, device or driver than this machine would write.
    fn flag_other_machines(&self) {
        let here = recording::provenance(self.machine, 0);
        let mut others: BTreeMap<String, usize> = BTreeMap::new();
        for row in self
            .ledger
            .latest()
            .filter(|row| row.outcome == Some(Outcome::Succeeded))
        {
            let (device, cpu) = (row.device.as_deref(), row.cpu.as_deref());
            // Of GPUs only those who measure on them know.
            let other_device = row.gpus == 0 && device != Some(&here.device);
            if other_device || cpu != Some(&here.cpu) {
                let place = [device, cpu, row.driver.as_deref()].into_iter().flatten();
                *others
                    .entry(place.collect::<Vec<_>>().join(", "))
                    .or_default() += 1;
            }
        }
        for (place, count) in others {
            print_error(&format!(
                "warning: {count} stored trials were measured on another machine ({place}; this one: {}, {}); \
                 they are kept, but do not compare well",
                here.device, here.cpu
            ));
        }
    }

    /// Stores the outcomes of trials that cannot run.
    fn settle_what_needs_no_process(&mut self) -> Result<(), Failed> {
        let process_id = machine::process_id(&self.machine.node);
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for trial in self.sweep.expansion.trials() {
            let (outcome, reason) = match self.sweep.fate(&trial.combination, self.machine.memory) {
                Fate::Measure => continue,
                Fate::Unsupported(reason) => (Outcome::Unsupported, reason),
                Fate::TooBig(reason) => (Outcome::OutOfMemory, reason),
            };
            *reasons.entry(format!("{outcome:?}: {reason}")).or_default() += 1;
            if step(&self.ledger.attempts(trial.index), 0) == Step::Done {
                continue;
            }
            let ask = self.sweep.ask(&trial, 0, self.at);
            let now = recording::now();
            let record =
                recording::unmeasured(&ask.trial, self.machine, &process_id, &now, outcome, reason);
            self.keep(&record)?;
            self.ledger.add(trial.index, &record);
        }
        for (reason, count) in reasons {
            eprintln!("{count} trials are {reason}");
        }
        Ok(())
    }

    fn keep(&self, record: &TrialRecord) -> Result<(), Failed> {
        store_record(self.store, record).map_err(|message| {
            print_error(&message);
            Failed::Said(Exit::Failed)
        })
    }

    /// The ceilings for every data type that is still to be measured: stored ones of this machine, or new ones.
    fn ceilings(
        &mut self,
        executor: &mut dyn Executor,
    ) -> Result<BTreeMap<Dtype, Ceilings>, Failed> {
        let mut found = BTreeMap::new();
        let remeasure = self.remeasure();
        let mut wanted: BTreeMap<Dtype, Shape> = BTreeMap::new();
        for trial in self.sweep.expansion.trials() {
            if step(&self.ledger.attempts(trial.index), remeasure) == Step::Done {
                continue;
            }
            let combination = &trial.combination;
            let dtype = combination.dtype;
            let shape = size::shape(self.sweep.config(combination), roofline::format(dtype));
            let largest = wanted.entry(dtype).or_insert(shape);
            if shape.layer_params > largest.layer_params {
                *largest = shape;
            }
        }
        for (dtype, shape) in wanted {
            let here = |known: &&Measured| {
                is_of(known, self.machine, dtype, self.gpus())
                    && known.ceilings.disturbed.is_empty()
            };
            if let Some(known) = self.file.ceilings.iter().find(here) {
                found.insert(dtype, known.ceilings.clone());
                continue;
            }
            eprintln!("measuring the ceilings of this machine for {dtype:?} …");
            let ceilings = executor
                .ceilings(dtype, shape, self.gpus())
                .map_err(|message| {
                    if !signals::interrupted() {
                        print_error(&format!("the ceilings cannot be measured: {message}"));
                    }
                    Failed::Said(Exit::Failed)
                })?;
            eprintln!("  {}", describe(&ceilings));
            for why in &ceilings.disturbed {
                print_error(&format!(
                    "warning: the ceilings may be too low, and fractions of them too high: each time that they were \
                     measured, {why}"
                ));
            }
            self.adopt(dtype, ceilings, &mut found)?;
        }
        Ok(found)
    }

    /// Judges all further trials by these ceilings.
    fn adopt(
        &mut self,
        dtype: Dtype,
        ceilings: Ceilings,
        found: &mut BTreeMap<Dtype, Ceilings>,
    ) -> Result<(), Failed> {
        let gpus = self.gpus();
        self.file
            .ceilings
            .retain(|known| !is_of(known, self.machine, dtype, gpus));
        self.file.ceilings.push(Measured {
            node: self.machine.node.clone(),
            cpu: self.machine.cpu.clone(),
            cpus: self.machine.cpus.len(),
            gpu: gpus > 0,
            dtype,
            measured_at: recording::now(),
            ceilings: ceilings.clone(),
        });
        self.file.write(self.store)?;
        found.insert(dtype, ceilings);
        Ok(())
    }

    /// Counts what is to be measured, for the estimate.
    fn expect(&mut self, ceilings: &BTreeMap<Dtype, Ceilings>) {
        let remeasure = self.remeasure();
        for trial in self.sweep.expansion.trials() {
            if step(&self.ledger.attempts(trial.index), remeasure) != Step::Done {
                *self
                    .remaining
                    .entry(self.class(&trial, ceilings))
                    .or_default() += 1;
            }
        }
    }

    fn class(&self, trial: &Trial, ceilings: &BTreeMap<Dtype, Ceilings>) -> (u64, u32) {
        (nanos(self.least_s(trial, ceilings)), trial.combination.gpus)
    }

    fn least_s(&self, trial: &Trial, ceilings: &BTreeMap<Dtype, Ceilings>) -> f64 {
        let combination = &trial.combination;
        let config = self.sweep.config(combination);
        let shape = size::shape(config, roofline::format(combination.dtype));
        ceilings.get(&combination.dtype).map_or(0.0, |ceilings| {
            roofline::least_seconds(&shape, &roofline::workload(combination), ceilings)
        })
    }

    fn remaining_s(&self) -> f64 {
        self.remaining
            .iter()
            .map(|((least_ns, gpus), count)| {
                let measurement = self.sweep.measurement(*gpus);
                *count as f64 * self.estimator.trial_s(*least_ns as f64 / 1e9, &measurement)
            })
            .sum()
    }

    /// Gives a trial its next attempt, if it needs one.
    fn one(
        &mut self,
        trial: &Trial,
        executor: &mut dyn Executor,
        ceilings: &mut BTreeMap<Dtype, Ceilings>,
        progress: &mut Progress,
    ) -> Result<Then, Failed> {
        let remeasure = self.remeasure();
        let Step::Measure(attempt) = step(&self.ledger.attempts(trial.index), remeasure) else {
            return Ok(Then::Done);
        };
        if signals::interrupted() {
            return Ok(Then::Stop(Exit::Interrupted));
        }
        progress.begin(trial, self.remaining_s());
        let mut ask = self.sweep.ask(trial, attempt, self.at);
        ask.ceilings = ceilings.get(&trial.combination.dtype).cloned();
        let class = self.class(trial, ceilings);
        let (started, started_at) = (Instant::now(), recording::now());
        let mut ended = executor.run(ask.clone());
        if let Some(record) = settle::without_process(&ask.trial, self.machine, &ended, &started_at)
        {
            ended = match store_record(self.store, &record) {
                Ok(()) => Ended::Stored { ceilings: None },
                Err(message) => Ended::Failed {
                    message,
                    permanent: false,
                },
            };
        }
        let mut renewal = String::new();
        match ended {
            Ended::Stored { ceilings: renewed } => {
                if let Some(renewed) = renewed {
                    renewal = format!(
                        "; above the ceilings, so measured again: {}",
                        describe(&renewed)
                    );
                    self.adopt(trial.combination.dtype, renewed, ceilings)?;
                }
            }
            Ended::Interrupted => return Ok(Then::Stop(Exit::Interrupted)),
            Ended::Failed { message, permanent } => {
                return self.note_failure(trial, &ask, message, permanent, class, progress);
            }
            Ended::OutOfMemory(_) | Ended::Overdue => unreachable!("recorded above"),
        }
        // The record counts as it can be read back, not as it was meant.
        let key = self.sweep.key(trial, attempt);
        let bytes = self.store.get(&record_path(&key))?.unwrap_or_default();
        let record = match TrialRecord::read(&key, &bytes) {
            Ok(record) => record,
            Err(why) => {
                let message = format!("its record cannot be read back: {why}");
                return self.note_failure(trial, &ask, message, false, class, progress);
            }
        };
        self.failures.remove(&trial.index);
        self.learn(&record, started.elapsed().as_secs_f64(), class);
        self.ledger.add(trial.index, &record);
        let done = step(&self.ledger.attempts(trial.index), remeasure) == Step::Done;
        if done {
            self.less(class);
        }
        let mut what = self
            .ledger
            .last(trial.index)
            .map(progress::result)
            .unwrap_or_default();
        if let Some(message) = &record.message {
            what = format!("{what}: {message}");
        }
        what += &renewal;
        if !done {
            what += "; to be measured again";
        }
        progress.end(trial, &what, done, self.remaining_s());
        Ok(if done { Then::Done } else { Then::Again })
    }

    fn note_failure(
        &mut self,
        trial: &Trial,
        ask: &Measure,
        message: String,
        permanent: bool,
        class: (u64, u32),
        progress: &mut Progress,
    ) -> Result<Then, Failed> {
        let key = self.sweep.key(trial, ask.trial.attempt);
        let failure = Failure {
            key,
            trial_index: trial.index,
            at: recording::now(),
            message: message.clone(),
        };
        let execution = &self.sweep.spec.execution;
        let times = self
            .failures
            .get(&trial.index)
            .map_or(0, |failing| failing.times)
            + 1;
        let again = try_again(times, execution.retries.unsigned_abs(), permanent);
        self.failures.insert(
            trial.index,
            Failing {
                times,
                given_up: !again,
                last: failure,
            },
        );
        stored::write_failures(self.store, &self.failed())?;
        if !again {
            self.less(class);
        }
        let then = if again { "; to be tried again" } else { "" };
        progress.end(
            trial,
            &format!("FAILED: {message}{then}"),
            !again,
            self.remaining_s(),
        );
        if again {
            return Ok(Then::Again);
        }
        let given_up = self
            .failures
            .values()
            .filter(|failing| failing.given_up)
            .count();
        if over_budget(given_up, self.sweep.expansion.len() as usize, execution) {
            return Ok(Then::Stop(Exit::Failed));
        }
        Ok(Then::Done)
    }

    fn failed(&self) -> Vec<Failure> {
        self.failures
            .values()
            .map(|failing| failing.last.clone())
            .collect()
    }

    fn learn(&mut self, record: &TrialRecord, total_s: f64, class: (u64, u32)) {
        if record.outcome != Outcome::Succeeded || record.iterations.is_empty() {
            return;
        }
        let last = record
            .iterations
            .iter()
            .filter_map(|iteration| iteration.token_ms.last());
        let timed_s = last.sum::<f64>() / 1e3;
        let warm_s = record
            .warmup
            .as_ref()
            .map_or(0.0, |warmup| warmup.duration_s);
        let iteration_s = timed_s / record.iterations.len() as f64;
        self.estimator
            .learn(total_s, timed_s + warm_s, iteration_s, class.0 as f64 / 1e9);
    }

    fn less(&mut self, class: (u64, u32)) {
        if let Some(count) = self.remaining.get_mut(&class) {
            *count = count.saturating_sub(1);
        }
    }

    fn interrupted(&self) -> Exit {
        eprintln!(
            "\ninterrupted: {} of {} trials are done and stored. Go on with\n  {}",
            self.finished(),
            self.sweep.expansion.len(),
            self.again
        );
        Exit::Interrupted
    }

    /// Collects, and says how it went.
    fn conclude(&mut self, reused: usize, stopped: Exit) -> Result<Exit, Failed> {
        let failures = self.failed();
        stored::write_failures(self.store, &failures)?;
        if let Err(message) = collect::collect(self.store, self.sweep, &failures) {
            print_error(&message);
            return Ok(Exit::Failed);
        }
        let lines = table::lines(self.ledger.latest());
        let mut out = std::io::stdout().lock();
        // A reader that has seen enough closes the pipe.
        let _ = writeln!(out, "\n{}\n", table::render(&lines));
        for best in table::best(&lines) {
            let _ = writeln!(out, "{best}");
        }
        drop(out);

        let total = self.sweep.expansion.len() as usize;
        let measured = self.ledger.latest().count().saturating_sub(reused);
        let mut parts = vec![
            format!("{total} trials"),
            format!("{measured} measured now"),
        ];
        if reused > 0 {
            parts.push(format!("{reused} reused"));
        }
        for outcome in [
            Outcome::OutOfMemory,
            Outcome::Unsupported,
            Outcome::TimedOut,
        ] {
            let count = self.ledger.count(outcome);
            if count > 0 {
                parts.push(format!("{count} {outcome:?}"));
            }
        }
        let invalid = self
            .ledger
            .latest()
            .filter(|row| row.valid == Some(false))
            .count();
        if invalid > 0 {
            parts.push(format!(
                "{invalid} INVALID (trials.csv says why; left out of the means)"
            ));
        }
        if !failures.is_empty() {
            parts.push(format!("{} FAILED", failures.len()));
        }
        eprintln!("\n{}", parts.join(", "));
        for failure in failures.iter().take(3) {
            eprintln!("  trial {}: {}", failure.trial_index, failure.message);
        }
        eprintln!(
            "{}: report.html, trials.csv, summary.json, …",
            self.store.location()
        );
        let budget = over_budget(failures.len(), total, &self.sweep.spec.execution);
        if stopped != Exit::Ok || budget {
            let execution = &self.sweep.spec.execution;
            print_error(&format!(
                "{} of {total} trials failed: more than maxFailedPercent {} with onFailure {:?} allows. The same \
                 command tries them again",
                failures.len(),
                execution.max_failed_percent,
                execution.on_failure
            ));
            return Ok(Exit::Failed);
        }
        Ok(Exit::Ok)
    }
}

/// Whether ceilings are those of this machine, or of its GPU.
fn is_of(known: &Measured, machine: &Machine, dtype: Dtype, gpus: u32) -> bool {
    known.dtype == dtype
        && known.gpu == (gpus > 0)
        && known.node == machine.node
        && known.cpu == machine.cpu
        && known.cpus == machine.cpus.len()
}

fn describe(ceilings: &Ceilings) -> String {
    format!(
        "reads {:.1} GB/s ({}), products {:.0} GFLOP/s ({})",
        ceilings.bandwidth.bytes_per_second / 1e9,
        ceilings.bandwidth.kernel,
        ceilings.matrix.flops_per_second / 1e9,
        ceilings.matrix.product,
    )
}

fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}
