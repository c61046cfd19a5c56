//! Products with a weight matrix: by streaming it for few rows, in blocks for many.

use candle_core::{Result, Tensor};

use super::half;
use super::product::{Epilogue, Product};
use super::view::{View, build};

/// See [`crate::ops::linear`] and [`crate::ops::linear_bias_gelu`].
pub(in crate::ops) fn linear(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    epilogue: Epilogue,
) -> Result<Option<Tensor>> {
    let (Some(xv), Some(wv)) = (View::of(x), View::of(w)) else {
        return half::linear(x, w, bias, epilogue);
    };
    let bv = bias.map(View::of);
    let bias = match &bv {
        None => None,
        Some(view) => match view.as_ref().and_then(View::contiguous) {
            Some(bias) => Some(bias),
            None => return Ok(None),
        },
    };
    let (Some(x), Some(w), &[n, k]) = (xv.contiguous(), wv.contiguous(), wv.dims()) else {
        return Ok(None);
    };
    let mut dims = xv.dims().to_vec();
    let Some(last) = dims.last_mut() else {
        return Ok(None);
    };
    if *last != k || n * k * x.len() == 0 || bias.is_some_and(|b| b.len() != n) {
        return Ok(None);
    }
    *last = n;
    let product = Product {
        x,
        w,
        bias,
        epilogue,
        m: x.len() / k,
        n,
        k,
    };
    build(dims, |out| product.into(out)).map(Some)
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
