//! Who measures a trial: a process of its own, or this one.

use std::time::Duration;

use inferbench_crds::spec::{Dtype, Isolation};
use inferbench_engine::{
    ceilings::{Ceilings, roofline::ModelShape},
    threads,
};

use crate::{
    child::{Child, Death, Reply, Verdict},
    commands::trial::store_record,
    machine::Machine,
    protocol::{Answer, Ask, Measure},
    shape, signals,
    store::Store,
    trial::{Clock, NoRecord, Session},
};

/// How long after its own time-out a measuring process is ended from outside.
const BACKSTOP: Duration = Duration::from_secs(10);
/// The longest that measuring the ceilings may take.
const CEILINGS_PATIENCE: Duration = Duration::from_secs(300);

/// What became of a trial.
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

/// Measures each trial in a process of its own; with `isolation: Pod` up to `trialsPerJob` trials of one model, gpus
/// and dtype inside one block share one.
#[derive(Debug)]
pub struct Processes {
    machine: Machine,
    trials_per_process: u32,
    current: Option<(Child, Group, u32)>,
}

/// What trials of one process have in common.
#[derive(Clone, Debug, PartialEq)]
struct Group {
    model: String,
    gpus: u32,
    dtype: Dtype,
    replicate: u32,
}

impl Processes {
    /// A new process for every trial, or for so many.
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

    fn talk(&mut self, ask: &Ask, group: Group, patience: Duration) -> Reply {
        let (mut child, served) = match self.current.take() {
            Some((child, same, served)) if same == group && served < self.trials_per_process => {
                (child, served)
            }
            other => {
                if let Some((done, ..)) = other {
                    done.close();
                }
                match Child::start(group.gpus) {
                    Ok(child) => (child, 0),
                    Err(error) => {
                        let complaints = format!("no process could be started: {error}");
                        return Reply::Died(Death {
                            complaints,
                            ..Death::default()
                        });
                    }
                }
            }
        };
        let reply = child.ask(ask, patience, &self.machine);
        if matches!(reply, Reply::Answer(_)) {
            if served + 1 < self.trials_per_process {
                self.current = Some((child, group, served + 1));
            } else {
                child.close();
            }
        }
        reply
    }
}

impl Executor for Processes {
    fn run(&mut self, ask: Measure) -> Ended {
        let combination = &ask.trial.request.combination;
        let group = Group {
            model: combination.model.name.clone(),
            gpus: combination.gpus,
            dtype: combination.dtype,
            replicate: ask.trial.request.replicate,
        };
        let patience = Duration::from_millis(ask.trial.timeout_ms).saturating_add(BACKSTOP);
        match self.talk(&Ask::Trial(Box::new(ask)), group, patience) {
            Reply::Answer(Answer::Stored { ceilings, .. }) => Ended::Stored { ceilings },
            Reply::Answer(Answer::Failed { message, permanent }) => {
                Ended::Failed { message, permanent }
            }
            Reply::Answer(Answer::Ceilings(_)) => Ended::Failed {
                message: "the measuring process answered another question".into(),
                permanent: false,
            },
            Reply::Died(death) => match death.verdict() {
                Verdict::OutOfMemory(message) => Ended::OutOfMemory(message),
                Verdict::Failed { message, permanent } => Ended::Failed { message, permanent },
            },
            Reply::Overdue => Ended::Overdue,
            Reply::Interrupted => Ended::Interrupted,
        }
    }

    fn ceilings(&mut self, dtype: Dtype, shape: ModelShape, gpus: u32) -> Result<Ceilings, String> {
        let mut child = Child::start(gpus).map_err(|error| error.to_string())?;
        match child.ask(
            &Ask::Ceilings { dtype, shape, gpus },
            CEILINGS_PATIENCE,
            &self.machine,
        ) {
            Reply::Answer(Answer::Ceilings(ceilings)) => {
                child.close();
                Ok(ceilings)
            }
            Reply::Answer(Answer::Failed { message, .. }) => Err(message),
            Reply::Answer(Answer::Stored { .. }) => Err("another question was answered".into()),
            Reply::Died(death) => Err(format!("{:?}", death.verdict())),
            Reply::Overdue => Err("it took too long".into()),
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
            .ceilings(shape::format(dtype), &shape, gpus)
            .map_err(|error| error.to_string())
    }
}
