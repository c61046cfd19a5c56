//! The operands of a product with a weight matrix, and what is done to it on its way out.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::math;
use super::norm::add_row;
use super::pool::Disjoint;

/// The last step of each product.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) enum Epilogue {
    /// The bias, if any.
    Bias,
    /// The bias, if any, and then GELU (tanh form).
    BiasGelu,
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
