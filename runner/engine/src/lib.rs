//! The inference engine: models, kernels, weights and tensor parallelism on candle.
//!
//! [`Engine::load`] loads a model, [`Engine::generate`] continues prompts greedily and says when each
//! token was there. The engine knows nothing of benchmarks: what to run, how often, and what to make
//! of the times is its caller's.

pub mod comm;
pub mod config;
mod engine;
mod error;
mod group;
pub mod host;
mod models;
pub mod ops;
pub mod presets;
mod random;
mod rank;
pub mod size;
pub mod tokenizer;
mod weights;

pub use engine::{Engine, EngineInfo, Generation, LoadOptions, Weights, save};
pub use error::EngineError;
