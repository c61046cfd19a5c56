//! The inference engine: models, kernels, weights and tensor parallelism on candle.

pub mod ops;
