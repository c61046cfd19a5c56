//! The data types that weights may have.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A data type of the weights; cache and activations have the same, or f32 on CPU and where weights are quantized.
#[derive(
    Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord, Hash,
)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit IEEE float.
    F32,
    /// bfloat16.
    Bf16,
    /// 16-bit IEEE float.
    F16,
    /// Weights in blocks of 32 integers of 4 bits with a common scale (as GGUF's); the rest in f32.
    Q4_0,
    /// Weights in blocks of 32 integers of 8 bits with a common scale (as GGUF's); the rest in f32.
    Q8_0,
}

impl Dtype {
    /// The name, as specs and records write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Q4_0 => "q4_0",
            Self::Q8_0 => "q8_0",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
