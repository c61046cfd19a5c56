//! The engine: loads a model, once, and generates with it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use candle_core::Device;

use crate::comm::{self, Join, LocalComm, Seat, SingleComm};
use crate::config::ModelConfig;
use crate::error::EngineError;
use crate::format::Format;
use crate::gpu::Processor;
use crate::group::Group;
use crate::host;
use crate::link::NoLink;
use crate::parallel::Parallel;
use crate::quality::Score;
#[cfg(feature = "cuda")]
use crate::rank::decodes_on_device;
use crate::rank::{Call, Rank, RankOptions, Reply, Tuning};
use crate::size;
use crate::weights::Weights;

/// How to load a model.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The format of the weights, which decides what is computed in.
    pub dtype: Format,
    /// The processor that computes.
    pub processor: Processor,
    /// How the work is divided among ranks; each is a thread, on a GPU of its own where there are GPUs.
    pub parallel: Parallel,
    /// The most sequences in one call.
    pub max_batch: usize,
    /// The most positions of one sequence, input and output together.
    pub max_seq: usize,
}

/// A description of the loaded model.
#[derive(Debug, Clone)]
pub struct EngineInfo {
    /// The class name, as `architectures` spells it.
    pub architecture: String,
    /// The exact number of parameters, a tied head once.
    pub params: u64,
    /// Number of different tokens.
    pub vocab_size: usize,
    /// The longest sequence that the model has positions for.
    pub max_position: usize,
    /// `reference` for models in candle's own operations; of the engine's own `graph` where decode steps are launched
    /// as a CUDA graph, else `eager`.
    pub mode: &'static str,
    /// The format of the weights.
    pub dtype: Format,
    /// How the work is divided among ranks.
    pub parallel: Parallel,
    /// How long loading took.
    pub load: Duration,
    /// Bytes of weights held by all ranks, with padding and what is replicated, as predicted by
    /// [`size::memory`].
    pub weight_bytes: u64,
    /// Bytes of the matrices that every decode step reads: the layers' and the head (tied or not,
    /// once).
    pub matmul_weight_bytes: u64,
    /// Number of decoder layers.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Width of the residual stream.
    pub hidden: usize,
}

/// The ids that [`Engine::generate`] made, and when each was there.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The new ids, row by row.
    pub ids: Vec<Vec<u32>>,
    /// For each step, the time from the start of the call until the whole batch's ids of that step
    /// were on the host. The first is the time to first token, the last that to the last one.
    pub step_ends: Vec<Duration>,
    /// When the call started, with the input ids ready on the host.
    pub started: Instant,
}

/// A loaded model.
pub struct Engine {
    config: ModelConfig,
    info: EngineInfo,
    limits: (usize, usize),
    tuning: Tuning,
    /// Whether decoding leaves ids on GPUs, so that its steps can be graphs.
    #[cfg(feature = "cuda")]
    on_device: bool,
    ranks: Ranks,
}

/// A single rank computes on the caller's thread.
enum Ranks {
    One(Box<Rank>),
    Many(Group),
}

/// See [`EngineInfo::mode`].
fn mode(config: &ModelConfig, graphs: bool) -> &'static str {
    match graphs {
        _ if config.family.is_reference() => "reference",
        true => "graph",
        false => "eager",
    }
}

impl Engine {
    /// Loads a model.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] where it could never run so (see [`size::unsupported`]),
    /// [`EngineError::OutOfMemory`] where it is predicted not to fit, [`EngineError::Invalid`] where a
    /// file is not as it should be, naming it with the tensor and its shape.
    pub fn load(weights: &Weights, options: &LoadOptions) -> Result<Engine, EngineError> {
        let start = Instant::now();
        let config = weights.config()?;
        let LoadOptions {
            dtype,
            processor,
            parallel,
            max_batch,
            max_seq,
        } = *options;
        if max_batch == 0 || max_seq == 0 {
            return Err(EngineError::Invalid(format!(
                "max_batch {max_batch} and max_seq {max_seq} have to be at least 1"
            )));
        }
        // How many of the positions are the prompt's is known with the call.
        if let Some(reason) = size::unsupported(&config, parallel, 0, max_seq, dtype) {
            return Err(EngineError::Unsupported(reason));
        }
        // Before anything is computed with sizes that no file has tensors of.
        let source = Arc::new(weights.source(&config)?);
        let stages =
            size::memory_of_stages(&config, (dtype, processor), max_batch, max_seq, 0, parallel);
        let all = |of: fn(&size::Memory) -> u64| {
            let ranks_of_a_stage = (parallel.tensor * parallel.data) as u64;
            stages.iter().map(of).sum::<u64>() * ranks_of_a_stage
        };
        if processor == Processor::Cpu {
            check_memory(all(size::Memory::peak))?;
        }
        #[cfg(feature = "cuda")]
        let on_device = processor == Processor::Cuda && decodes_on_device(&config, dtype, parallel);
        #[cfg(not(feature = "cuda"))]
        let on_device = false;
        let rank_options = RankOptions {
            format: dtype,
            #[cfg(feature = "cuda")]
            on_device,
            #[cfg(feature = "cuda")]
            needed: size::memory(&config, (dtype, processor), max_batch, max_seq, 0, parallel)
                .peak(),
            max_seq,
        };
        let ranks = if parallel == Parallel::ONE {
            let seat = Seat {
                device: processor.open()?,
                comm: Box::new(SingleComm),
                link: Box::new(NoLink),
            };
            let rank = Rank::load(&config, &source, seat, &rank_options)?;
            Ranks::One(Box::new(rank))
        } else {
            let joins = joins(processor, parallel)?;
            let group = Group::load(&config, &source, parallel, joins, &rank_options)?;
            Ranks::Many(group)
        };
        let info = EngineInfo {
            architecture: config.architecture().to_owned(),
            params: size::params(&config),
            vocab_size: config.vocab_size,
            max_position: config.max_position,
            mode: mode(&config, on_device),
            dtype,
            parallel,
            load: start.elapsed(),
            weight_bytes: all(|memory| memory.weights),
            matmul_weight_bytes: dtype.matrix_bytes(size::matmul_params(&config)),
            layers: config.layers,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            hidden: config.hidden,
        };
        Ok(Engine {
            config,
            info,
            limits: (max_batch, max_seq),
            tuning: Tuning::default(),
            #[cfg(feature = "cuda")]
            on_device,
            ranks,
        })
    }

    /// A description of the loaded model.
    pub fn info(&self) -> &EngineInfo {
        &self.info
    }

    /// The model's description.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Continues every prompt greedily by exactly `n` ids; the end of text is an id like any other.
    /// The prompts all have the same length.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] where a prompt is empty, of another length, holds an id outside the
    /// vocabulary, or the call exceeds the limits that the engine was loaded with.
    pub fn generate(&mut self, prompts: &[Vec<u32>], n: usize) -> Result<Generation, EngineError> {
        if n == 0 {
            return Err(EngineError::Invalid(
                "0 new ids asked for, at least 1 is needed".into(),
            ));
        }
        self.check(prompts, n)?;
        let started = Instant::now();
        match self.run(Call::Generate { n, started }, prompts)? {
            Reply::Generated { ids, step_ends } => Ok(Generation {
                ids,
                step_ends,
                started,
            }),
            _ => unreachable!("a rank answers what it was asked"),
        }
    }

    /// The logits after the last position of every prompt, `[b][V]`. The prompts all have the same
    /// length.
    ///
    /// # Errors
    /// As [`Engine::generate`].
    pub fn last_logits(&mut self, prompts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, EngineError> {
        self.check(prompts, 0)?;
        match self.run(Call::Logits, prompts)? {
            Reply::Logits(logits) => Ok(logits),
            _ => unreachable!("a rank answers what it was asked"),
        }
    }

    /// How likely the model finds the continuations of prompts, row by row: the prompts all have one length, the
    /// continuations another.
    ///
    /// # Errors
    /// As [`Engine::generate`]; [`EngineError::Unsupported`] for a reference model.
    pub fn score(
        &mut self,
        prompts: &[Vec<u32>],
        continuations: &[Vec<u32>],
    ) -> Result<Vec<Score>, EngineError> {
        self.check(prompts, 0)?;
        if prompts.len() != continuations.len() || continuations.iter().any(Vec::is_empty) {
            return Err(EngineError::Invalid(format!(
                "{} prompts and {} continuations, each prompt needs one of at least 1 id",
                prompts.len(),
                continuations.len()
            )));
        }
        let rows: Vec<Vec<u32>> = prompts
            .iter()
            .zip(continuations)
            .map(|(prompt, continuation)| [prompt.as_slice(), continuation].concat())
            .collect();
        let input = prompts[0].len();
        self.check_rows(&rows, input, 0)?;
        // Ranks that fail are of no more use.
        if self.config.family.is_reference() {
            return Err(EngineError::Unsupported(
                "reference models give no hidden states to judge by".into(),
            ));
        }
        match self.run(Call::Score { input }, &rows)? {
            Reply::Scores(scores) => Ok(scores),
            _ => unreachable!("a rank answers what it was asked"),
        }
    }

    /// Computes prompts in chunks of at most `rows` positions (batch × length), rather than [`size::PREFILL_ROWS`]: a
    /// matter of speed and memory, not of results.
    pub fn set_prefill_rows(&mut self, rows: usize) {
        self.tuning.prefill_rows = rows.max(1);
    }

    /// Whether decode steps on a GPU are launched as CUDA graphs, as they are from the start: a matter of speed, not of
    /// results.
    #[cfg(feature = "cuda")]
    pub fn set_graphs(&mut self, graphs: bool) {
        self.tuning.graphs = graphs;
        self.info.mode = mode(&self.config, self.on_device && graphs);
    }

    fn run(&mut self, call: Call, prompts: &[Vec<u32>]) -> Result<Reply, EngineError> {
        match &mut self.ranks {
            Ranks::One(rank) => {
                let reply = rank.run(call, prompts, self.tuning)?;
                reply.ok_or_else(|| anyhow!("the only rank has nothing to say").into())
            }
            Ranks::Many(group) => group.run(call, prompts, self.tuning),
        }
    }

    fn check(&self, prompts: &[Vec<u32>], n: usize) -> Result<(), EngineError> {
        self.check_rows(prompts, prompts.first().map_or(0, Vec::len), n)
    }

    /// Rows of which the first `input` ids are prompt, and that `n` more are to be added to.
    fn check_rows(&self, prompts: &[Vec<u32>], input: usize, n: usize) -> Result<(), EngineError> {
        let (max_batch, max_seq) = self.limits;
        let invalid = |message| Err(EngineError::Invalid(message));
        let Some(first) = prompts.first() else {
            return invalid("no prompts, at least 1 is needed".into());
        };
        if prompts.len() > max_batch {
            return invalid(format!(
                "{} prompts, the engine was loaded for at most {max_batch}",
                prompts.len()
            ));
        }
        if first.is_empty() || first.len() + n > max_seq {
            return invalid(format!(
                "prompts of {} ids and {n} new ones, the engine was loaded for 1 to {max_seq} together",
                first.len()
            ));
        }
        if let Some(reason) = size::unsupported(
            &self.config,
            self.info.parallel,
            input,
            first.len() - input + n,
            self.info.dtype,
        ) {
            return Err(EngineError::Unsupported(reason));
        }
        for (row, prompt) in prompts.iter().enumerate() {
            if prompt.len() != first.len() {
                return invalid(format!(
                    "prompt {row} has {} ids and prompt 0 has {}, all have to have the same number",
                    prompt.len(),
                    first.len()
                ));
            }
            let vocab = self.config.vocab_size;
            if let Some(id) = prompt.iter().find(|&&id| id as usize >= vocab) {
                return invalid(format!(
                    "prompt {row} holds id {id}, the vocabulary ends at {}",
                    vocab - 1
                ));
            }
        }
        Ok(())
    }
}

/// A device and the ways to the others for each rank.
fn joins(processor: Processor, parallel: Parallel) -> Result<Vec<Join>, EngineError> {
    match processor {
        Processor::Cpu => Ok(LocalComm::seats(parallel)
            .into_iter()
            .map(|(comm, link)| comm::join(Device::Cpu, comm, link))
            .collect()),
        #[cfg(feature = "nccl")]
        Processor::Cuda => crate::nccl::joins(parallel),
        #[cfg(not(feature = "nccl"))]
        Processor::Cuda => Err(EngineError::Device(format!(
            "{} GPUs are asked for, but this build (without NCCL) uses 1",
            parallel.world()
        ))),
    }
}

/// Whether this machine's memory has room for `needed` bytes.
fn check_memory(needed: u64) -> Result<(), EngineError> {
    match host::available_memory() {
        Some(available) if needed > available => Err(EngineError::OutOfMemory(format!(
            "about {} MiB needed, {} MiB available",
            needed >> 20,
            available >> 20
        ))),
        _ => Ok(()),
    }
}
