//! The operands of self-attention beside tensors: its heads, and how queries and keys are turned.

use candle_core::Tensor;

/// The heads of attention, of one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads, `H`.
    pub query: usize,
    /// Key/value heads, `KVH`.
    pub kv: usize,
    /// Elements of one, `D`.
    pub dim: usize,
}

impl Heads {
    /// The factor of scores: `1 / √D`.
    pub fn scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }
}

/// The rotary positions and norms that queries and keys go through before they meet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rotation<'a> {
    /// Cosines and sines of rotary positions, `[max positions, D/2]` each.
    pub tables: Option<(&'a Tensor, &'a Tensor)>,
    /// Weights of the RMSNorm of each query head and each key head, `[D]`, and its epsilon.
    pub norms: Option<(&'a Tensor, &'a Tensor, f32)>,
}
