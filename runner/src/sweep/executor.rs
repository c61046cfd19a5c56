//! Who measures a trial: a process of its own, or this one.

use std::{os::unix::process::CommandExt, process::Command, time::Duration};

use inferbench_crds::{
    contract::REQUESTS_VARIABLE,
    spec::{Dtype, Isolation},
};
use inferbench_engine::{
    ceilings::{Ceilings, roofline::ModelShape},
    threads,
};

use crate::{
    machine::Machine,
    process::{
        child::{Cause, Child, Reply},
        program, signals,
    },
    store::{Store, records::store_record},
    trial::{
        clock::Clock,
        protocol::{Answer, Ask, Measure},
        session::{NoRecord, Session},
        start::Start,
    },
};

/// A measuring process in messages.
const MEASURER: &str = "the measuring process";
/// How long after its own time-out a measuring process is ended from outside.
const BACKSTOP: Duration = Duration::from_secs(10);
/// The longest that measuring the ceilings may take.
const CEILINGS_PATIENCE: Duration = Duration::from_secs(300);

/// How the measuring of a trial ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// Its record is stored, whatever the outcome.
    Stored {
        /// Ceilings that took the place of those that it was to be judged by.
        ceilings: Option<Ceilings>,
    },
    /// The process is gone without a record, and what that means is a measurement: memory did not suffice.
    OutOfMemory(String),
    /// The process did not keep its own time-out and was ended.
    Overdue,
    /// It broke; there is no record.
    Failed {
        /// Why.
        message: String,
        /// Whether trying again cannot help.
        permanent: bool,
    },
    /// The sweep is to end.
    Interrupted,
}

/// Who measures.
pub trait Executor {
    /// Measures a trial and stores its record.
    fn run(&mut self, ask: Measure) -> Ended;
    /// Measures the ceilings of the CPU, or of a GPU.
    ///
    /// # Errors
    /// Why that was not possible.
    fn ceilings(&mut self, dtype: Dtype, shape: ModelShape, gpus: u32) -> Result<Ceilings, String>;
}

/// Measures each trial in a process of its own; with `isolation: Pod` up to `trialsPerJob` trials that can share a
/// start of the engine, inside one block, share one.
#[derive(Debug)]
pub struct Processes {
    machine: Machine,
    trials_per_process: u32,
    current: Option<(Child, Group, u32)>,
}

/// The trials that one process may serve.
#[derive(Clone, Debug, PartialEq)]
struct Group {
    start: Start,
    replicate: u32,
}

impl Processes {
    /// A new process for every trial, or for every `trials_per_job` of a group.
    #[must_use]
    pub fn new(machine: Machine, isolation: Isolation, trials_per_job: i32) -> Self {
        let trials_per_process = match isolation {
            Isolation::Process => 1,
            Isolation::Pod => trials_per_job.unsigned_abs().max(1),
        };
        Self {
            machine,
            trials_per_process,
            current: None,
        }
    }

    /// Asks the process of a group, a new one where there is none or it has served its share.
    fn ask(
        &mut self,
        ask: &Ask,
        group: Group,
        gpus: u32,
        patience: Duration,
    ) -> Result<Reply<Answer>, String> {
        let (mut child, served) = match self.current.take() {
            Some((child, same, served)) if same == group && served < self.trials_per_process => {
                (child, served)
            }
            other => {
                if let Some((done, ..)) = other {
                    done.close();
                }
                (start(gpus, group.start.environment(), &self.machine)?, 0)
            }
        };
        let reply = ask_child(&mut child, ask, patience)?;
        if matches!(reply, Reply::Answer(_)) {
            if served + 1 < self.trials_per_process {
                self.current = Some((child, group, served + 1));
            } else {
                child.close();
            }
        }
        Ok(reply)
    }
}

/// Starts this program again as `inferbench trial`, or the one that measures on GPUs, with these environment variables.
fn start(gpus: u32, environment: &[(String, String)], machine: &Machine) -> Result<Child, String> {
    let failed = |error: &dyn std::fmt::Display| format!("no process could be started: {error}");
    let program = match program::for_gpus(gpus).map_err(|error| failed(&error))? {
        Some(program) => program,
        // The file itself: its name may meanwhile belong to a newer build.
        None if cfg!(target_os = "linux") => "/proc/self/exe".into(),
        None => std::env::current_exe().map_err(|error| failed(&error))?,
    };
    let mut command = Command::new(program);
    command.arg0("inferbench").arg("trial");
    // The same GPUs for the same number of them, whatever their speeds.
    command.env("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
    // The requests of a pod are its parent's.
    command.env_remove(REQUESTS_VARIABLE);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    Child::spawn(command, machine.memory).map_err(|error| failed(&error))
}

fn ask_child(child: &mut Child, ask: &Ask, patience: Duration) -> Result<Reply<Answer>, String> {
    let line = serde_json::to_string(ask).map_err(|error| format!("the request: {error}"))?;
    Ok(child.ask(&line, patience, |line| serde_json::from_str(line).ok()))
}

impl Executor for Processes {
    fn run(&mut self, ask: Measure) -> Ended {
        let gpus = ask.trial.request.combination.gpus;
        let group = Group {
            start: Start::of(&ask.trial.request),
            replicate: ask.trial.request.replicate,
        };
        let patience = Duration::from_millis(ask.trial.timeout_ms).saturating_add(BACKSTOP);
        let failed = |message| Ended::Failed {
            message,
            permanent: false,
        };
        let reply = match self.ask(&Ask::Trial(Box::new(ask)), group, gpus, patience) {
            Ok(reply) => reply,
            Err(message) => return failed(message),
        };
        match reply {
            Reply::Answer(Answer::Stored { ceilings, .. }) => Ended::Stored { ceilings },
            Reply::Answer(Answer::Failed { message, permanent }) => {
                Ended::Failed { message, permanent }
            }
            Reply::Answer(Answer::Ceilings(_)) => failed(format!(
                "{MEASURER} was asked for a trial and answered with ceilings"
            )),
            Reply::Exited(status) => match status.cause(MEASURER) {
                Cause::OutOfMemory(message) => Ended::OutOfMemory(message),
                Cause::Failed { message, permanent } => Ended::Failed { message, permanent },
            },
            Reply::Overdue => Ended::Overdue,
            Reply::Interrupted => Ended::Interrupted,
        }
    }

    fn ceilings(&mut self, dtype: Dtype, shape: ModelShape, gpus: u32) -> Result<Ceilings, String> {
        let mut child = start(gpus, &[], &self.machine)?;
        let ask = Ask::Ceilings { dtype, shape, gpus };
        match ask_child(&mut child, &ask, CEILINGS_PATIENCE)? {
            Reply::Answer(Answer::Ceilings(ceilings)) => {
                child.close();
                Ok(ceilings)
            }
            Reply::Answer(Answer::Failed { message, .. }) => Err(message),
            Reply::Answer(Answer::Stored { key, .. }) => Err(format!(
                "{MEASURER} was asked for ceilings and answered with the record of trial {key}"
            )),
            Reply::Exited(status) => Err(match status.cause(MEASURER) {
                Cause::OutOfMemory(message) | Cause::Failed { message, .. } => message,
            }),
            Reply::Overdue => Err(format!(
                "{MEASURER} did not answer within {} s",
                CEILINGS_PATIENCE.as_secs()
            )),
            Reply::Interrupted => Err("interrupted".into()),
        }
    }
}

/// Measures in this process, with a model that stays loaded while it fits. A trial's time-out is then looked at
/// between iterations only, and a crash ends the sweep.
pub struct InProcess<'a> {
    session: Session,
    store: &'a Store,
}

impl<'a> InProcess<'a> {
    /// Settles the threads of this process; to be called on its main thread.
    #[must_use]
    pub fn new(store: &'a Store) -> Self {
        Self {
            session: Session::new(threads::init(None)),
            store,
        }
    }
}

impl Executor for InProcess<'_> {
    fn run(&mut self, ask: Measure) -> Ended {
        let clock = Clock::start(Duration::from_millis(ask.trial.timeout_ms));
        match self.session.run(&ask, &clock, &signals::interrupted) {
            Ok(record) => match store_record(self.store, &record) {
                Ok(()) => Ended::Stored {
                    ceilings: self.session.take_renewed_ceilings(),
                },
                Err(message) => Ended::Failed {
                    message,
                    permanent: false,
                },
            },
            Err(NoRecord::Failed { message, permanent }) => Ended::Failed { message, permanent },
            Err(NoRecord::Interrupted) => Ended::Interrupted,
        }
    }

    fn ceilings(&mut self, dtype: Dtype, shape: ModelShape, gpus: u32) -> Result<Ceilings, String> {
        self.session
            .ceilings(dtype, &shape, gpus)
            .map_err(|error| error.to_string())
    }
}
