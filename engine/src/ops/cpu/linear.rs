//! Products with a weight matrix: by streaming it for few rows, in blocks for many.

use super::math;
use super::norm::add_row;
use super::pool::Disjoint;
use super::view::{View, build};
use candle_core::{Result, Tensor};
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// What happens to each product on its way out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) enum Epilogue {
    /// The bias, if any.
    Bias,
    /// The bias, if any, and then GELU (tanh form).
    BiasGelu,
}

/// See [`crate::ops::linear`] and [`crate::ops::linear_bias_gelu`].
pub(in crate::ops) fn linear(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    epilogue: Epilogue,
) -> Result<Option<Tensor>> {
    let (Some(xv), Some(wv)) = (View::of(x), View::of(w)) else {
        return Ok(None);
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

/// `out [m, n] = epilogue(x [m, k] · w [n, k]ᵀ + bias [n])`.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) x: &'a [f32],
    pub(super) w: &'a [f32],
    pub(super) bias: Option<&'a [f32]>,
    pub(super) epilogue: Epilogue,
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
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

/// Bias and activation over a block of raw products.
pub(super) struct Finish<'a> {
    pub(super) product: Product<'a>,
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
    pub(super) out: &'a Disjoint<'a>,
}

impl WithSimd for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            product,
            rows,
            columns,
            out,
        } = self;
        if product.bias.is_none() && product.epilogue == Epilogue::Bias {
            return;
        }
        for row in rows {
            let start = row * product.n;
            // SAFETY: this block of `out` belongs to this piece of work alone.
            let y = unsafe { out.slice(start + columns.start..start + columns.end) };
            if let Some(bias) = product.bias {
                add_row(simd, y, &bias[columns.clone()]);
            }
            if product.epilogue == Epilogue::BiasGelu {
                gelu(simd, y);
            }
        }
    }
}

#[inline(always)]
fn gelu<S: Simd>(simd: S, y: &mut [f32]) {
    let (body, tail) = S::as_mut_simd_f32s(y);
    for y in body {
        *y = math::gelu(simd, *y);
    }
    if !tail.is_empty() {
        let y = math::gelu(simd, simd.partial_load_f32s(tail));
        simd.partial_store_f32s(tail, y);
    }
}
