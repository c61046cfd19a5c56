//! Sampling beside the timed thread: memory and CPU time of the processes that are measured,
//! and the GPUs in use.

#[cfg(test)]
mod fake;
pub mod nvml;
mod sampler;
mod series;
mod window;

pub use sampler::{PERIOD, Sampler, min_samples};
