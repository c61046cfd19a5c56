//! Kernels for f32 on the CPU, and for weights in fewer bits: vectorised at run time (AVX-512, AVX2, NEON or portable,
//! whichever the processor has), threaded on candle's barrier pool.
//!
//! Every entry returns `None` for operands it is not made for (another device or dtype, a layout it
//! cannot read in place, shapes that do not fit), and the caller falls back to
//! [`super::reference`], which also words the errors.

mod activation;
mod attention;
mod best;
mod block;
mod cache;
mod linear;
mod math;
mod norm;
mod packed;
mod pool;
mod product;
mod rope;
mod stream;
mod stream_packed;
#[cfg(test)]
mod tests;
mod view;

pub(super) use activation::silu_mul;
pub(super) use attention::attention;
pub(super) use best::best_last;
pub(super) use cache::kv_append;
pub(super) use linear::{linear, linear_quantized};
pub(super) use norm::{layer_norm, rms_norm};
pub(super) use product::Epilogue;
pub(super) use rope::rope;
