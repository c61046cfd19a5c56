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
        child::{Cause, Child, GRACE, Reply},
        orphans, program, signals,
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
/// How long a measuring process has to end that ends a server first.
const SERVER_GRACE: Duration = Duration::from_secs(30);
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

/// Why there are no ceilings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoCeilings {
    /// Memory did not suffice to measure them.
    #[error("{0}")]
    OutOfMemory(String),
    /// That broke.
    #[error("{0}")]
    Failed(String),
}

impl From<String> for NoCeilings {
    fn from(message: String) -> Self {
        Self::Failed(message)
    }
}

/// Who measures.
pub trait Executor {
    /// Measures a trial and stores its record.
    fn run(&mut self, ask: Measure) -> Ended;
    /// Measures the ceilings of the CPU, or of a GPU.
    ///
    /// # Errors
    /// Why that was not possible.
    fn ceilings(
        &mut self,
        dtype: Dtype,
        shape: ModelShape,
        gpus: u32,
    ) -> Result<Ceilings, NoCeilings>;
}

/// Measures each trial in a process of its own; with `isolation: Pod` up to `trialsPerJob` trials that can share a
/// start of the engine, inside one block, share one.
#[derive(Debug)]
pub struct Processes {
    machine: Machine,
    trials_per_job: u32,
    current: Option<(Child, Group, u32)>,
    /// Processes that were started so far.
    started: u32,
}

/// The trials that one process may serve.
#[derive(Clone, Debug, PartialEq)]
struct Group {
    start: Start,
    replicate: u32,
    isolation: Isolation,
}

impl Processes {
    /// A new process for every trial or, with `isolation: Pod`, for every `trials_per_job` of a group.
    #[must_use]
    pub fn new(machine: Machine, trials_per_job: i32) -> Self {
        // Processes that a measuring process leaves behind become this one's to end.
        orphans::adopt();
        Self {
            machine,
            trials_per_job: trials_per_job.unsigned_abs().max(1),
            current: None,
            started: 0,
        }
    }

    /// The name of the tree of the process that was started last.
    fn tree(&self) -> String {
        format!("{}-{}", std::process::id(), self.started)
    }

    /// Lets a process end, and ends what it leaves behind.
    fn close(&self, child: Child, group: &Group) {
        // A server has its own time to end in.
        child.close(if group.start.is_asked() {
            SERVER_GRACE
        } else {
            GRACE
        });
        orphans::end(&self.tree());
    }

    fn close_current(&mut self) {
        if let Some((child, group, _)) = self.current.take() {
            self.close(child, &group);
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
        let most = match group.isolation {
            Isolation::Process => 1,
            Isolation::Pod => self.trials_per_job,
        };
        let shared = self.current.as_ref();
        if shared.is_none_or(|(_, current, served)| *current != group || *served >= most) {
            self.close_current();
            self.started += 1;
            let child = start(gpus, group.start.environment(), &self.tree(), &self.machine)?;
            self.current = Some((child, group, 0));
        }
        let Some((mut child, group, served)) = self.current.take() else {
            return Err("no process could be started".into());
        };
        let reply = ask_child(&mut child, ask, patience)?;
        if !matches!(reply, Reply::Answer(_)) {
            drop(child);
            orphans::end(&self.tree());
        } else if served + 1 < most {
            self.current = Some((child, group, served + 1));
        } else {
            self.close(child, &group);
        }
        Ok(reply)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.close_current();
    }
}

/// Starts this program again as `inferbench trial`, or the one that measures on GPUs, with these environment variables.
fn start(
    gpus: u32,
    environment: &[(String, String)],
    tree: &str,
    machine: &Machine,
) -> Result<Child, String> {
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
    command.env(orphans::TREE_VARIABLE, tree);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    Child::spawn(command, machine.memory).map_err(|error| failed(&error))
}

fn ask_child(child: &mut Child, ask: &Ask, patience: Duration) -> Result<Reply<Answer>, String> {
    let line = serde_json::to_string(ask).map_err(|error| format!("the request: {error}"))?;
    Ok(child.ask(&line, patience, |line| serde_json::from_str(line).ok()))
}

impl Executor for Processes {
    fn run(&mut self, ask: Measure) -> Ended {
        let combination = &ask.trial.request.combination;
        // The GPUs of a server are its own: who measures it computes on none.
        let asked = combination.engine.takes_requests();
        let gpus = if asked { 0 } else { combination.gpus };
        let group = Group {
            start: Start::of(&ask.trial.request),
            replicate: ask.trial.request.replicate,
            isolation: ask.trial.request.measurement.isolation,
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

    fn ceilings(
        &mut self,
        dtype: Dtype,
        shape: ModelShape,
        gpus: u32,
    ) -> Result<Ceilings, NoCeilings> {
        let mut child = start(gpus, &[], "ceilings", &self.machine)?;
        let ask = Ask::Ceilings { dtype, shape, gpus };
        match ask_child(&mut child, &ask, CEILINGS_PATIENCE)? {
            Reply::Answer(Answer::Ceilings(ceilings)) => {
                child.close(GRACE);
                Ok(ceilings)
            }
            Reply::Answer(Answer::Failed { message, .. }) => Err(message.into()),
            Reply::Answer(Answer::Stored { key, .. }) => Err(format!(
                "{MEASURER} was asked for ceilings and answered with the record of trial {key}"
            )
            .into()),
            Reply::Exited(status) => Err(match status.cause(MEASURER) {
                Cause::OutOfMemory(message) => NoCeilings::OutOfMemory(message),
                Cause::Failed { message, .. } => message.into(),
            }),
            Reply::Overdue => Err(format!(
                "{MEASURER} did not answer within {} s",
                CEILINGS_PATIENCE.as_secs()
            )
            .into()),
            Reply::Interrupted => Err(NoCeilings::Failed("interrupted".into())),
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

    fn ceilings(
        &mut self,
        dtype: Dtype,
        shape: ModelShape,
        gpus: u32,
    ) -> Result<Ceilings, NoCeilings> {
        self.session
            .ceilings(dtype, &shape, gpus)
            .map_err(|error| NoCeilings::Failed(error.to_string()))
    }
}
