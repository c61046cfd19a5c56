//! The inference engine: models, kernels, weights and parallelism on candle.
//!
//! [`Engine::load`] loads a model, [`Engine::generate`] continues prompts greedily and says when each
//! token was there. The engine knows nothing of benchmarks: what to run, how often, and what to make
//! of the times is its caller's.
//!
//! From the bottom up, and nothing imports from above: [`config`], [`Format`] and [`Parallel`] are plain data, [`size`] is
//! arithmetic on them. [`ops`] computes, `weights` loads, and `models` are written in both. A `rank` runs its share of a
//! model, a `group` several ranks: those that share every layer are joined by a [`comm::Communicator`], stages by a `link`,
//! and replicas by nothing. [`Engine`] is either. Beside them stand the machine ([`gpu`], [`host`], [`threads`]) and its
//! [`ceilings`].
//!
//! ```
//! use inferbench_engine::{
//!     Processor, Engine, Format, LoadOptions, Parallel, Weights, presets, tokenizer,
//! };
//!
//! let config = presets::preset("tiny-gpt2").expect("a known name");
//! let prompts = tokenizer::prompts(None, &config, 2, 16, 0)?;
//! let weights = Weights::Random { config, seed: 0 };
//! let options = LoadOptions {
//!     dtype: Format::F32,
//!     processor: Processor::Cpu,
//!     parallel: Parallel::ONE,
//!     max_batch: 2,
//!     max_seq: 24,
//! };
//! let generation = Engine::load(&weights, &options)?.generate(&prompts, 8)?;
//! assert_eq!(generation.ids[1].len(), 8);
//! println!("time to first token: {:?}", generation.step_ends[0]);
//! # Ok::<(), inferbench_engine::EngineError>(())
//! ```

pub mod ceilings;
pub mod comm;
pub mod config;
mod engine;
mod error;
mod format;
pub mod gpu;
mod group;
pub mod host;
mod link;
mod models;
#[cfg(feature = "nccl")]
mod nccl;
pub mod ops;
mod parallel;
pub mod presets;
pub mod quality;
mod random;
mod rank;
pub mod size;
pub mod threads;
pub mod tokenizer;
mod weights;

pub use engine::{Engine, EngineInfo, Generation, LoadOptions};
pub use error::EngineError;
pub use format::Format;
pub use gpu::Processor;
pub use parallel::Parallel;
pub use weights::{Weights, gguf::find as gguf_file, gguf::save_gguf, save};
