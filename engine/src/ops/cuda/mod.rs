//! Kernels for NVIDIA GPUs, in f32, bf16 and f16: `kernels.cu`, compiled when it is first needed.
//!
//! Every entry returns `None` for operands it is not made for (another device or dtype, a layout it cannot read in
//! place, shapes that do not fit), and the caller falls back to [`super::reference`], which also words the errors.

mod activation;
mod attention;
mod bandwidth;
mod device;
mod embed;
mod greedy;
mod linear;
mod norm;
pub(crate) mod source;
pub(crate) mod step;
mod switch;
#[cfg(test)]
mod tests;

pub(super) use activation::silu_mul;
pub(crate) use attention::norms_heads_of;
pub(super) use attention::{attention, self_attention};
pub(crate) use bandwidth::{READERS, read};
pub(super) use embed::embed;
pub(crate) use greedy::Greedy;
pub(super) use greedy::best_last;
pub(super) use linear::{linear, linear_quantized};
pub(super) use norm::{add_layer_norm, add_rms_norm, layer_norm, rms_norm};
