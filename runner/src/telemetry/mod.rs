//! What is sampled beside the timed thread: the process' memory and CPU time, and the GPUs in use.

#[cfg(test)]
mod fake;
pub mod nvml;
mod sampler;
mod series;
mod window;

pub use sampler::{PERIOD, Sampler, min_samples};
