//! `inferbench trial` in a pod: measures the trials that its Job is for, each in a process of its own, and leaves the
//! outcomes in the termination message. What is stored already is not measured again, so that a pod that takes the
//! place of another goes on where that one ended.

use std::{collections::BTreeMap, fs, path::Path};

use inferbench_crds::{contract::TrialReport, outcome::Outcome, spec::Dtype};
use inferbench_engine::{ceilings::Ceilings, size};
use inferbench_results::{key::trial_key, record::TrialRecord, row::Row};

use super::{Broken, broken, leave, load, open, shortened};
use crate::{
    machine::Machine,
    process::{exit::Exit, print_error, program, signals},
    store::{
        Store,
        records::{record_path, store_record},
    },
    sweep::{
        executor::{Ended, Executor, Processes},
        settle::without_process,
    },
    trial::{
        protocol::{Ask, Measure},
        recording, roofline,
    },
};

/// Measures the trials of a file, one request a line. The exit code is 0 where every one of them has a record.
pub fn run(requests: &Path) -> Exit {
    signals::listen();
    let mut report = TrialReport::default();
    let ended = measure_all(requests, &mut |outcome| {
        report
            .outcomes
            .push(char::from(b'0' + outcome.outcome.code()));
        report.reused += u32::from(outcome.reused);
        report.best = report
            .best
            .into_iter()
            .chain(outcome.throughput)
            .reduce(f64::max);
        leave(&report);
    });
    match ended {
        Ok(()) => Exit::Ok,
        Err(Broken { message, exit }) => {
            print_error(&message);
            report.message = Some(shortened(message));
            leave(&report);
            exit
        }
    }
}

/// A trial that has a record now.
struct Settled {
    outcome: Outcome,
    reused: bool,
    throughput: Option<f64>,
}

fn measure_all(requests: &Path, settled: &mut dyn FnMut(Settled)) -> Result<(), Broken> {
    let asks = read(requests)?;
    let Some(first) = asks.first() else {
        return Err(broken(
            format!("{}: no trial is asked for", requests.display()),
            Exit::BadRequest,
        ));
    };
    let machine = Machine::look();
    let isolation = first.trial.request.measurement.isolation;
    let together = i32::try_from(asks.len()).unwrap_or(i32::MAX);
    let mut pod = Pod {
        executor: Processes::new(machine.clone(), isolation, together),
        machine,
        ceilings: BTreeMap::new(),
    };
    for ask in asks {
        settled(pod.settle(ask)?);
    }
    Ok(())
}

fn read(requests: &Path) -> Result<Vec<Measure>, Broken> {
    let wrong = |what: &dyn std::fmt::Display| {
        broken(format!("{}: {what}", requests.display()), Exit::BadRequest)
    };
    let text = fs::read_to_string(requests).map_err(|error| wrong(&error))?;
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| match serde_json::from_str::<Ask>(line) {
            Ok(Ask::Trial(ask)) => Ok(*ask),
            Ok(Ask::Ceilings { .. }) => Err(wrong(&"asks for something else than trials")),
            Err(error) => Err(wrong(&error)),
        })
        .collect()
}

struct Pod {
    machine: Machine,
    executor: Processes,
    ceilings: BTreeMap<Dtype, Ceilings>,
}

impl Pod {
    /// Finds the trial's record, or makes it; again while it is invalid and the spec allows.
    fn settle(&mut self, mut ask: Measure) -> Result<Settled, Broken> {
        let store = open(&ask.trial.store)?;
        let mut reused = true;
        loop {
            let key = trial_key(&ask.trial.request, ask.trial.attempt);
            let record = match stored(&store, &key)? {
                Some(record) => record,
                None => {
                    reused = false;
                    self.measure(&mut ask, &store)?;
                    stored(&store, &key)?.ok_or_else(|| {
                        broken(
                            format!("the record of {key} cannot be read back"),
                            Exit::Failed,
                        )
                    })?
                }
            };
            if !record.valid && ask.trial.attempt < ask.trial.remeasure_invalid {
                ask.trial.attempt += 1;
                continue;
            }
            return Ok(Settled {
                outcome: record.outcome,
                reused,
                throughput: Row::of(&record).output_throughput.filter(|_| record.valid),
            });
        }
    }

    fn measure(&mut self, ask: &mut Measure, store: &Store) -> Result<(), Broken> {
        let interrupted = || broken("interrupted", Exit::Failed);
        if signals::interrupted() {
            return Err(interrupted());
        }
        self.prepare(ask)?;
        let started_at = recording::now();
        let ended = self.executor.run(ask.clone());
        let record = match without_process(&ask.trial, &self.machine, &ended, &started_at) {
            Some(record) => record,
            None => {
                return match ended {
                    Ended::Stored { ceilings } => {
                        let dtype = ask.trial.request.combination.dtype;
                        self.ceilings
                            .extend(ceilings.map(|ceilings| (dtype, ceilings)));
                        Ok(())
                    }
                    Ended::Failed {
                        message,
                        permanent: true,
                    } => Err(broken(message, Exit::BadModel)),
                    Ended::Failed { message, .. } => Err(broken(message, Exit::Failed)),
                    _ => Err(interrupted()),
                };
            }
        };
        store_record(store, &record).map_err(|message| broken(message, Exit::Failed))
    }

    /// Sees to the model's files, and to the ceilings that the trial is judged by.
    fn prepare(&mut self, ask: &mut Measure) -> Result<(), Broken> {
        let request = &ask.trial.request;
        program::for_gpus(request.combination.gpus).map_err(|why| broken(why, Exit::NoDevice))?;
        let (combination, pinned) = (&request.combination, &request.model_revision);
        let model = load(&combination.model, request.seed, Some(pinned))?;
        if model.revision != *pinned {
            return Err(broken(
                format!(
                    "model {}: its files are {}, the sweep began with {pinned}",
                    model.name, model.revision
                ),
                Exit::BadModel,
            ));
        }
        let dtype = combination.dtype;
        ask.weights = Some(model.weights);
        if let Some(given) = ask.ceilings.take() {
            self.ceilings.entry(dtype).or_insert(given);
        }
        if let (Some(config), false) = (&model.config, self.ceilings.contains_key(&dtype)) {
            let shape = size::shape(config, roofline::format(dtype));
            let ceilings = self
                .executor
                .ceilings(dtype, shape, combination.gpus)
                .map_err(|message| broken(format!("ceilings: {message}"), Exit::Failed))?;
            self.ceilings.insert(dtype, ceilings);
        }
        ask.ceilings = self.ceilings.get(&dtype).cloned();
        Ok(())
    }
}

/// A record that is stored and whole. One that is damaged is moved aside, so that its trial is measured again.
fn stored(store: &Store, key: &str) -> Result<Option<TrialRecord>, Broken> {
    let failed = |error: &dyn std::fmt::Display| broken(error, Exit::Failed);
    let path = record_path(key);
    let Some(bytes) = store.get(&path).map_err(|error| failed(&error))? else {
        return Ok(None);
    };
    match TrialRecord::read(key, &bytes) {
        Ok(record) => Ok(Some(record)),
        Err(why) => {
            let aside = store
                .set_aside(&path, &bytes)
                .map_err(|error| failed(&error))?;
            print_error(&format!("{path} is no record: {why}; kept as {aside}"));
            Ok(None)
        }
    }
}
