//! `inferbench trial` in a pod: measures the trials that its Job is for, each in a process of its own, and leaves the
//! outcomes in the termination message. A trial that is stored already is not measured again, so that a pod that takes
//! the place of another goes on where that one ended.

use std::{collections::BTreeMap, fs, path::Path};

use inferbench_crds::{
    contract::{PodRequest, TrialReport, TrialRequest},
    outcome::Outcome,
    spec::Dtype,
};
use inferbench_engine::ceilings::Ceilings;
use inferbench_results::row::Row;

use super::{Broken, broken, leave, load, open, shortened};
use crate::{
    machine::Machine,
    process::{exit::Exit, print_error, program, signals},
    sweep::{
        executor::{Executor, NoCeilings, Processes},
        settle::{Ready, Unsettled, settle},
        steps::{Step, after},
    },
    trial::{protocol::Measure, roofline},
};

/// Holds ceilings by data type, as JSON, that trials are judged by instead of any that are measured: for tests, which
/// start many pods, and for nothing else.
pub const CEILINGS_VARIABLE: &str = "INFERBENCH_CEILINGS";

/// Measures the trials of a file, one request a line. The exit code is 0 where every one of them has a record.
pub fn run(requests: &Path) -> Exit {
    signals::listen();
    let mut report = TrialReport::default();
    let ended = measure_all(requests, &mut |outcome| {
        report.add(outcome.outcome, outcome.reused, outcome.throughput);
        if let Some(why) = &outcome.invalid {
            report.mark_invalid(why);
        }
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

/// A trial that needs nothing more.
struct Ended {
    outcome: Outcome,
    reused: bool,
    throughput: Option<f64>,
    /// Why it cannot be vouched for; none where it can.
    invalid: Option<String>,
}

fn measure_all(requests: &Path, ended: &mut dyn FnMut(Ended)) -> Result<(), Broken> {
    let asks = read(requests)?;
    if asks.is_empty() {
        return Err(broken(
            format!("{}: no trial is asked for", requests.display()),
            Exit::BadRequest,
        ));
    }
    let machine = Machine::look();
    let together = i32::try_from(asks.len()).unwrap_or(i32::MAX);
    let mut executor = Processes::new(machine.clone(), together);
    let mut pod = Pod {
        machine,
        ceilings: given_ceilings()?,
    };
    for trial in asks {
        let ask = Measure {
            trial,
            weights: None,
            ceilings: None,
        };
        ended(pod.settle(ask, &mut executor)?);
    }
    Ok(())
}

fn read(requests: &Path) -> Result<Vec<TrialRequest>, Broken> {
    let wrong = |what: &dyn std::fmt::Display| {
        broken(format!("{}: {what}", requests.display()), Exit::BadRequest)
    };
    let text = fs::read_to_string(requests).map_err(|error| wrong(&error))?;
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| match serde_json::from_str(line) {
            Ok(PodRequest::Trial(trial)) => Ok(*trial),
            Err(error) => Err(wrong(&error)),
        })
        .collect()
}

/// The ceilings that [`CEILINGS_VARIABLE`] holds; none where it is not set.
fn given_ceilings() -> Result<BTreeMap<Dtype, Ceilings>, Broken> {
    let Ok(text) = std::env::var(CEILINGS_VARIABLE) else {
        return Ok(BTreeMap::new());
    };
    serde_json::from_str(&text)
        .map_err(|error| broken(format!("{CEILINGS_VARIABLE}: {error}"), Exit::BadRequest))
}

struct Pod {
    machine: Machine,
    ceilings: BTreeMap<Dtype, Ceilings>,
}

impl From<Unsettled> for Broken {
    fn from(unsettled: Unsettled) -> Self {
        match unsettled {
            Unsettled::Failed {
                message,
                permanent: true,
            } => broken(message, Exit::BadModel),
            Unsettled::Failed { message, .. } => broken(message, Exit::Failed),
            Unsettled::Interrupted => broken("interrupted", Exit::Failed),
            Unsettled::Store(error) => broken(error, Exit::Failed),
        }
    }
}

impl Pod {
    /// Settles a trial, again while it is invalid and the spec allows.
    fn settle(&mut self, mut ask: Measure, executor: &mut Processes) -> Result<Ended, Broken> {
        let store = open(&ask.trial.store)?;
        let mut reused = true;
        loop {
            let dtype = ask.trial.request.combination.dtype;
            let machine = self.machine.clone();
            let settled = settle(ask.clone(), &store, &machine, executor, |ask, executor| {
                self.prepare(ask, executor)
            })?;
            reused &= settled.reused;
            let ceilings = settled.ceilings;
            self.ceilings
                .extend(ceilings.map(|ceilings| (dtype, ceilings)));
            let record = settled.record;
            if let Step::Measure(attempt) =
                after(record.valid, ask.trial.attempt, ask.trial.remeasure_invalid)
            {
                ask.trial.attempt = attempt;
                continue;
            }
            return Ok(Ended {
                outcome: record.outcome,
                reused,
                throughput: Row::of(&record).output_throughput.filter(|_| record.valid),
                invalid: record
                    .invalid_reasons
                    .first()
                    .cloned()
                    .filter(|_| !record.valid),
            });
        }
    }

    /// Sees to the model's files, and to the ceilings that the trial is judged by.
    fn prepare(&mut self, ask: &mut Measure, executor: &mut dyn Executor) -> Result<Ready, Broken> {
        let request = &ask.trial.request;
        if !request.combination.engine.takes_requests() {
            program::for_gpus(request.combination.gpus)
                .map_err(|why| broken(why, Exit::NoDevice))?;
        }
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
        let judged =
            roofline::missing(combination).is_none() && !self.ceilings.contains_key(&dtype);
        if let (Some(config), true) = (&model.config, judged) {
            let shape = roofline::shape(config, dtype, combination.gpus);
            match executor.ceilings(dtype, shape, combination.gpus) {
                Ok(ceilings) => {
                    self.ceilings.insert(dtype, ceilings);
                }
                // The next pod would have no more.
                Err(NoCeilings::OutOfMemory(why)) => {
                    let why = format!("{why}, while the ceilings of the machine were measured");
                    return Ok(Ready::OutOfMemory(why));
                }
                Err(NoCeilings::Failed(why)) => {
                    return Err(broken(format!("ceilings: {why}"), Exit::Failed));
                }
            }
        }
        ask.ceilings = self.ceilings.get(&dtype).cloned();
        Ok(Ready::Yes)
    }
}
