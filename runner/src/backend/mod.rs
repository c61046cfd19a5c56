//! The port between measuring and what is measured: an engine that is started for trials and takes their loads. It says
//! what it is and which processes are its own, and gives times for each sequence. A new engine is a file beside
//! [`candle`] and [`server`], a line in [`start`], and what it cannot do in [`unsupported`].

pub mod candle;
#[cfg(test)]
pub mod fake;
pub mod server;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use inferbench_crds::{
    design::Combination,
    engine::{Counting, command},
    spec::Dtype,
};
use inferbench_engine::{Parallel, config::ModelConfig, quality::Score, size, threads::Threads};
use inferbench_results::record::ServerMetrics;

pub use self::server::Access;
use crate::{
    load,
    machine::processes::Processes,
    models::WeightsAt,
    process::child::{Cause, ExitStatus},
};

/// An engine that has been started with a model.
pub trait Backend {
    /// Says what it is.
    fn description(&self) -> &Description;
    /// The processes whose use of CPUs, memory and GPUs is the engine's.
    fn processes(&self) -> Processes;
    /// How much it can take at once.
    fn room(&self) -> Room;
    /// A trial of a combination begins, which is over at a time: what requests have of the combination, they have from
    /// now on.
    fn begin(&mut self, _: &Combination, _: Instant) {}
    /// Takes a batch, and gives the times of every sequence.
    ///
    /// # Errors
    /// Where the engine cannot, or does not live any more.
    fn serve(&mut self, batch: &Batch<'_>) -> Result<Served, BackendError>;
    /// Takes a load whose requests come while others are served.
    ///
    /// # Errors
    /// Those of [`Backend::serve`]; `Unsupported` of an engine that takes batches alone.
    fn drive(&mut self, _: Drive<'_>) -> Result<load::Run, BackendError> {
        let engine = &self.description().engine;
        Err(BackendError::Unsupported(format!(
            "{engine} takes batches alone"
        )))
    }
    /// Batches of a load are at this stage. [`Backend::drive`] sees to it by itself.
    fn enter(&mut self, _: Stage) {}
    /// The server's own metrics over the last load, whose watch ends with that.
    fn take_metrics(&mut self) -> Option<ServerMetrics> {
        None
    }
    /// How the tokens of a stream are counted; none of an engine that has no streams.
    fn counting(&self) -> Option<Counting> {
        None
    }
    /// A look inside, for engines that allow it.
    fn inspect(&mut self) -> Option<&mut dyn Inspect> {
        None
    }
}

/// A look inside of an engine.
pub trait Inspect {
    /// The logits after the last token of every prompt.
    ///
    /// # Errors
    /// Those of [`Backend::serve`].
    fn last_logits(&mut self, prompts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, BackendError>;
    /// How the model itself judges continuations of prompts, row by row.
    ///
    /// # Errors
    /// Those of [`Backend::serve`].
    fn score(
        &mut self,
        prompts: &[Vec<u32>],
        continuations: &[Vec<u32>],
    ) -> Result<Vec<Score>, BackendError>;
}

/// The settings that an engine is started with.
#[derive(Clone, Debug)]
pub struct Setup<'a> {
    /// Where the model lies.
    pub weights: &'a WeightsAt,
    /// The data type of its weights.
    pub dtype: Dtype,
    /// The engine's devices; 0 for the CPU.
    pub gpus: u32,
    /// How they divide the work.
    pub parallel: Parallel,
    /// How much it is to take at once.
    pub room: Room,
    /// The combination.
    pub combination: &'a Combination,
    /// Ids are below this.
    pub vocab: usize,
    /// The GPUs, by their UUIDs.
    pub gpu_uuids: &'a [String],
    /// The memory there is, in bytes.
    pub memory: Option<u64>,
    /// Where all that a server writes is to be kept; none where it is not.
    pub log: Option<PathBuf>,
    /// The threads of this process.
    pub threads: &'a Threads,
    /// How an endpoint is reached.
    pub access: &'a Access,
}

impl Setup<'_> {
    /// The environment variables by which a process sees its GPUs alone; none where somebody has seen to that already,
    /// as a container does.
    #[must_use]
    pub fn gpu_environment(&self) -> Vec<(String, String)> {
        const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";
        if std::env::var_os(VISIBLE).is_some() {
            return Vec::new();
        }
        // Without GPUs in the design, none are to be used.
        vec![(VISIBLE.into(), self.gpu_uuids.join(","))]
    }
}

/// How much an engine can take at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Sequences.
    pub sequences: usize,
    /// Tokens of each, input and output.
    pub tokens: usize,
}

/// The engine's own account of what it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Description {
    /// Its name, such as `candle`.
    pub engine: String,
    /// Its version.
    pub version: String,
    /// How it decodes, such as `graph`.
    pub mode: String,
    /// The class of config.json's `architectures`.
    pub architecture: String,
    /// The data type of the weights, where it is that of the files and not the one that was asked for.
    pub dtype: Option<String>,
    /// Parameters of the model, a tied head counted once.
    pub model_params: u64,
    /// Bytes of weights in memory.
    pub weight_bytes: u64,
    /// From the start of loading to a usable model.
    pub load: Duration,
    /// Threads that compute on the CPU.
    pub threads: u32,
    /// Whether denormals are flushed to zero on every one of them.
    pub denormals_flushed: bool,
    /// The configuration that took effect, beyond what the trial asks for.
    pub configuration: BTreeMap<String, String>,
}

/// Sequences that an engine is given together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Batch<'a> {
    /// The input ids of each.
    pub prompts: &'a [Vec<u32>],
    /// Output tokens of each; the end of text is a token like any other.
    pub output: usize,
}

/// A load whose requests come while others are served.
pub struct Drive<'a> {
    /// When they come, and for how long.
    pub load: load::RequestLoad,
    /// Makes the input ids of the request with this number.
    pub prompts: &'a (dyn Fn(u64) -> Result<Vec<u32>, BackendError> + Sync),
    /// Hears of the stage, every 50 ms or so, and says whether to give up.
    pub stage: &'a mut dyn FnMut(Stage) -> bool,
}

/// The stage of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The window has not opened.
    WarmingUp,
    /// The window is open.
    InWindow,
    /// It has closed; requests that belong to it may not have ended.
    Closed,
}

/// A load that has been served.
#[derive(Clone, Debug)]
pub struct Served {
    /// When it began, with the input ids ready on the host.
    pub started: Instant,
    /// The sequences' times; those whose times are the same stand once.
    pub sequences: Vec<SequenceTimes>,
    /// The output ids, sequence by sequence; absent where the engine does not give ids.
    pub ids: Option<Vec<Vec<u32>>>,
    /// The requests, sequence by sequence; empty of an engine that is asked none.
    pub exchanges: Vec<load::Exchange>,
    /// How late the client was that made the requests; absent where there is none.
    pub lag: Option<load::Lag>,
}

/// The times of sequences that share them.
#[derive(Clone, Debug, PartialEq)]
pub struct SequenceTimes {
    /// How many sequences.
    pub count: usize,
    /// For each output token: the time from the start until it was on the host.
    pub token_ends: Vec<Duration>,
}

impl Served {
    /// The time from the start until the first tokens of all sequences were there; none without tokens.
    #[must_use]
    pub fn first(&self) -> Option<Duration> {
        let firsts = self.sequences.iter().map(|times| times.token_ends.first());
        firsts
            .collect::<Option<Vec<_>>>()?
            .into_iter()
            .max()
            .copied()
    }

    /// The time from the start until the last token of all sequences was there; none without tokens.
    #[must_use]
    pub fn last(&self) -> Option<Duration> {
        let lasts = self.sequences.iter().map(|times| times.token_ends.last());
        lasts
            .collect::<Option<Vec<_>>>()?
            .into_iter()
            .max()
            .copied()
    }
}

/// Why an engine cannot do what is asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// It never can: a measurement.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// Memory does not, or did not, suffice: a measurement.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// It broke.
    #[error("{message}")]
    Failed {
        /// How.
        message: String,
        /// Whether trying again cannot help.
        permanent: bool,
    },
}

impl BackendError {
    /// The engine's process has ended.
    #[must_use]
    pub fn exited(engine: &str, status: &ExitStatus) -> Self {
        match status.cause(&format!("the process of {engine}")) {
            Cause::OutOfMemory(message) => BackendError::OutOfMemory(message),
            // Another program's exit codes say nothing about trying again.
            Cause::Failed { message, .. } => BackendError::Failed {
                message,
                permanent: false,
            },
        }
    }

    /// It broke, and may not do so again.
    #[must_use]
    pub fn failed(message: String) -> Self {
        BackendError::Failed {
            message,
            permanent: false,
        }
    }

    /// The request, or the model, is wrong.
    #[must_use]
    pub fn invalid(message: String) -> Self {
        BackendError::Failed {
            message,
            permanent: true,
        }
    }
}

impl Room {
    /// The room that trials of this combination need.
    #[must_use]
    pub fn of(combination: &Combination) -> Self {
        Self {
            sequences: command::concurrency(combination) as usize,
            tokens: combination.input_length as usize + combination.output_length as usize,
        }
    }

    /// Whether `other` fits.
    #[must_use]
    pub fn holds(self, other: Self) -> bool {
        self.sequences >= other.sequences && self.tokens >= other.tokens
    }

    /// Room for both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            sequences: self.sequences.max(other.sequences),
            tokens: self.tokens.max(other.tokens),
        }
    }
}

/// Starts the engine of a trial.
///
/// # Errors
/// Where it cannot be started, or the model cannot be loaded.
pub fn start(setup: &Setup<'_>) -> Result<Box<dyn Backend>, BackendError> {
    let engine = &setup.combination.engine;
    Ok(match (&engine.server, &engine.endpoint) {
        (Some(server), _) => Box::new(server::Server::start(server, setup)?),
        (None, Some(endpoint)) => Box::new(server::Server::connect(endpoint, setup)?),
        (None, None) => Box::new(candle::Candle::start(setup)?),
    })
}

/// Whether this number of devices can share every layer of a model, in some data type.
#[must_use]
pub fn splits_over(config: &ModelConfig, devices: u32) -> bool {
    candle::splits_over(config, devices)
}

/// The most stages that a model's layers can be divided into.
#[must_use]
pub fn max_stages(config: &ModelConfig) -> usize {
    size::max_stages(config)
}

/// Why a combination can never run on its engine, with this model.
#[must_use]
pub fn unsupported(
    config: &ModelConfig,
    weights: &WeightsAt,
    combination: &Combination,
) -> Option<String> {
    if combination.engine.takes_requests() {
        let weights = weights.weights().ok()?;
        return combination
            .unsupported()
            .or_else(|| server::unsupported(&weights, combination));
    }
    combination
        .unsupported()
        .or_else(|| candle::unsupported(config, combination))
}
