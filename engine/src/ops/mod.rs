//! The compute facade: every operation a model needs beyond plain tensor plumbing.
//!
//! Each function is correct on any device and for f32, bf16 and f16 through [`mod@reference`], which is
//! plain candle. Where activations are f32 on the CPU, or on a GPU in a build for GPUs, kernels of our own take over.
//!
//! Shapes are written `[rows, columns]`; `B` is the batch, `S` the new positions, `H` the query
//! heads, `KVH` the key/value heads, `D` the head size.

mod arch;
mod cpu;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod dispatch;
mod heads;
mod offset;
pub mod reference;
mod weight;

pub(crate) use arch::{Arch, prefetch};
pub use dispatch::{
    add_layer_norm, add_rms_norm, attention, best_last, embed, kv_append, layer_norm, linear,
    linear_bias_gelu, linear_quantized, linear_quantized_bias_gelu, rms_norm, rope, self_attention,
    silu_mul,
};
pub use heads::{Heads, Rotation};
pub use offset::Offset;
pub use weight::Weight;
