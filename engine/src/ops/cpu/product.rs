//! The operands of a product with a weight matrix, and what is done to it on its way out.

use std::ops::Range;

use candle_core::Tensor;
use pulp::{Simd, WithSimd};

use super::math;
use super::norm::add_row;
use super::pool::Disjoint;
use super::view::View;

/// The last step of each product.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) enum Epilogue {
    /// The bias, if any.
    Bias,
    /// The bias, if any, and then GELU (tanh form).
    BiasGelu,
}

/// `out [m, n] = epilogue(x [m, k] · w [n, k]ᵀ + bias [n])`, all but `w`.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) x: &'a [f32],
    pub(super) bias: Option<&'a [f32]>,
    pub(super) epilogue: Epilogue,
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
}

/// The operands that any weight matrix is multiplied with: `x` and the bias, f32 in CPU memory.
pub(super) struct Operands<'a> {
    x: View<'a>,
    bias: Option<View<'a>>,
}

impl<'a> Operands<'a> {
    /// `None` for any other device or dtype.
    pub(super) fn of(x: &'a Tensor, bias: Option<&'a Tensor>) -> Option<Self> {
        let bias = match bias {
            Some(bias) => Some(View::of(bias)?),
            None => None,
        };
        Some(Self {
            x: View::of(x)?,
            bias,
        })
    }

    /// The product with a matrix of `n` rows and `k` columns, and the shape of the result; `None` where shapes do not
    /// fit, or something does not lie in order.
    pub(super) fn product(
        &self,
        (n, k): (usize, usize),
        epilogue: Epilogue,
    ) -> Option<(Product<'_>, Vec<usize>)> {
        let x = self.x.contiguous()?;
        let bias = match &self.bias {
            Some(bias) => Some(bias.contiguous()?),
            None => None,
        };
        let mut dims = self.x.dims().to_vec();
        let last = dims.last_mut()?;
        if *last != k || n * k * x.len() == 0 || bias.is_some_and(|bias| bias.len() != n) {
            return None;
        }
        *last = n;
        let product = Product {
            x,
            bias,
            epilogue,
            m: x.len() / k,
            n,
            k,
        };
        Some((product, dims))
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
