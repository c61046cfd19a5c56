//! Products with a weight matrix: by streaming it for few rows, in blocks for many.

use candle_core::{Result, Tensor};

use super::half;
use super::product::{Epilogue, Operands, Product};
use super::view::{View, build};

/// See [`crate::ops::linear`] and [`crate::ops::linear_bias_gelu`].
pub(in crate::ops) fn linear(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    epilogue: Epilogue,
) -> Result<Option<Tensor>> {
    let (Some(operands), Some(wv)) = (Operands::of(x, bias), View::of(w)) else {
        return half::linear(x, w, bias, epilogue);
    };
    let (Some(w), &[n, k]) = (wv.contiguous(), wv.dims()) else {
        return Ok(None);
    };
    let Some((product, dims)) = operands.product((n, k), epilogue) else {
        return Ok(None);
    };
    build(dims, |out| Product { w, ..product }.into(out)).map(Some)
}

/// Up to this many rows the streaming kernel wins: it reads the weights once and packs nothing.
const STREAM_ROWS: usize = 32;

impl Product<'_> {
    fn into(self, out: &mut [f32]) {
        if self.m <= STREAM_ROWS {
            self.stream(out);
        } else {
            self.blocks(out);
        }
    }
}
