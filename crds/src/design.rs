//! The expansion of a design into trials: mixed-radix index, excludes, blocked and seeded order, all lazy.

use serde::{Deserialize, Serialize};

use crate::spec::{Dtype, Model};

/// One level of each factor.
#[derive(Clone, Debug, Deserialize, Serialize, schemars::JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Combination {
    /// The model.
    pub model: Model,
    /// Sequences in a batch.
    pub batch_size: u32,
    /// Input tokens of each sequence.
    pub input_length: u32,
    /// Output tokens of each sequence.
    pub output_length: u32,
    /// Tensor-parallel degree; 0 means CPU.
    pub gpus: u32,
    /// Data type of weights and cache.
    pub dtype: Dtype,
}

/// A combination in one replicate: one row of the results.
#[derive(Clone, Debug, Deserialize, Serialize, schemars::JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Trial {
    /// The trial's number: the replicate times the combinations, plus the combination's mixed-radix index,
    /// counted before exclusion, so that it is stable while levels stay in place.
    pub index: u32,
    /// The block, from 0.
    pub replicate: u32,
    /// The position in the order of execution, from 0, counted after exclusion.
    pub run_order: u32,
    /// The levels.
    pub combination: Combination,
}
