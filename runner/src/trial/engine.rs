//! The engine of a session: started for a trial, and kept for the next one that can share its start and has room in it.

use std::path::{Path, PathBuf};

use inferbench_engine::{Weights, tokenizer::Tokenizer};

use super::{host::Host, start::Start, subject::Subject};
use crate::{
    backend::{Backend, BackendError, Room, Setup},
    machine::processes::Processes,
};

/// Starts an engine: [`crate::backend::start`], or in tests a stand-in.
pub type Starter = fn(&Setup<'_>) -> Result<Box<dyn Backend>, BackendError>;

/// The engine that a session has, if it has one.
pub struct Slot {
    starter: Starter,
    ready: Option<Ready>,
    log: Option<PathBuf>,
}

/// An engine that is ready.
pub struct Ready {
    start: Start,
    /// The engine.
    pub backend: Box<dyn Backend>,
    /// The model's tokenizer, where it has one.
    pub tokenizer: Option<Tokenizer>,
    /// Whether it was started for the trial at hand, and not for an earlier one.
    pub started_now: bool,
}

/// Input ids that the check for finite logits runs over.
const LOGITS_INPUT: usize = 16;

impl Slot {
    /// One without an engine yet.
    #[must_use]
    pub fn new(starter: Starter) -> Self {
        Self {
            starter,
            ready: None,
            log: None,
        }
    }

    /// Ends the engine, if there is one.
    pub fn clear(&mut self) {
        self.ready = None;
    }

    /// Where the server that was started last writes, where all of that is to be kept.
    #[must_use]
    pub fn log(&self) -> Option<&Path> {
        self.log.as_deref()
    }

    /// The processes to watch until a trial's engine is ready: those of the one that it can share, else all that there
    /// are of this one.
    #[must_use]
    pub fn processes(&self, subject: &Subject<'_>) -> Processes {
        let start = subject.start();
        let shared = self.ready.as_ref().filter(|ready| ready.start == start);
        shared.map_or_else(Processes::of_this_one, |ready| ready.backend.processes())
    }

    /// The engine for a trial. One that cannot be used makes way first, so that there are never two models in memory.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn ready(
        &mut self,
        subject: &Subject<'_>,
        host: &Host<'_>,
    ) -> Result<&mut Ready, BackendError> {
        let start = subject.start();
        let needed = subject.setup(Room::default(), host).room;
        let same = self.ready.take().filter(|ready| ready.start == start);
        let ready = match same {
            Some(ready) if ready.backend.room().holds(needed) => Ready {
                started_now: false,
                ..ready
            },
            other => {
                // Room for what came before too, or two shapes in turn would load the model every time.
                let before = other.as_ref().map(|ready| ready.backend.room());
                drop(other);
                let setup = subject.setup(before.unwrap_or_default(), host);
                self.log.clone_from(&setup.log);
                let backend = (self.starter)(&setup)?;
                let tokenizer = match subject.weights.weights().map_err(BackendError::invalid)? {
                    Weights::Path(path) => Tokenizer::load(&path)?,
                    Weights::Random { .. } => None,
                };
                Ready {
                    start,
                    backend,
                    tokenizer,
                    started_now: true,
                }
            }
        };
        Ok(self.ready.insert(ready))
    }
}

impl Ready {
    /// Whether the logits of a short prompt are numbers; none where the engine does not show them.
    ///
    /// # Errors
    /// Where the engine fails.
    pub fn logits_are_finite(
        &mut self,
        subject: &Subject<'_>,
    ) -> Result<Option<bool>, BackendError> {
        let input = subject.schedule.input.min(LOGITS_INPUT);
        let prompts = subject.prompts_of(self.tokenizer.as_ref(), 0, 1, input)?;
        let Some(inspect) = self.backend.inspect() else {
            return Ok(None);
        };
        let logits = inspect.last_logits(&prompts)?;
        Ok(Some(logits.iter().flatten().all(|logit| logit.is_finite())))
    }
}
