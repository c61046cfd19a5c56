//! Layer norm and root-mean-square norm, row by row.

use candle_core::{Result, Tensor};
use pulp::{Simd, WithSimd};

use super::pool::{Disjoint, share};
use super::view::{View, build};
use crate::ops::arch::Arch;

/// See [`crate::ops::rms_norm`].
pub(in crate::ops) fn rms_norm(x: &Tensor, w: &Tensor, eps: f32) -> Result<Option<Tensor>> {
    norm(x, w, None, eps)
}

/// See [`crate::ops::layer_norm`].
pub(in crate::ops) fn layer_norm(
    x: &Tensor,
    w: &Tensor,
    b: &Tensor,
    eps: f32,
) -> Result<Option<Tensor>> {
    norm(x, w, Some(b), eps)
}

/// Layer norm with a shift `b`, root-mean-square norm without.
fn norm(x: &Tensor, w: &Tensor, b: Option<&Tensor>, eps: f32) -> Result<Option<Tensor>> {
    let (Some(x), Some(w)) = (View::of(x), View::of(w)) else {
        return Ok(None);
    };
    let b = b.map(View::of);
    let b = match &b {
        None => None,
        Some(view) => match view.as_ref().and_then(View::contiguous) {
            Some(b) => Some(b),
            None => return Ok(None),
        },
    };
    let (Some(data), Some(w)) = (x.contiguous(), w.contiguous()) else {
        return Ok(None);
    };
    let n = w.len();
    if n == 0 || x.dims().last() != Some(&n) || b.is_some_and(|b| b.len() != n) {
        return Ok(None);
    }
    let arch = Arch::new();
    build(x.dims(), |out| {
        let out = Disjoint::new(out);
        share(data.len() / n, data.len(), |rows| {
            let span = rows.start * n..rows.end * n;
            // SAFETY: ranges of rows handed out by `share` do not overlap.
            let y = unsafe { out.slice(span.clone()) };
            arch.dispatch(Rows {
                x: &data[span],
                y,
                w,
                b,
                eps,
            });
        });
    })
    .map(Some)
}

struct Rows<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
    w: &'a [f32],
    b: Option<&'a [f32]>,
    eps: f32,
}

impl WithSimd for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let n = self.w.len();
        for (x, y) in self.x.chunks_exact(n).zip(self.y.chunks_exact_mut(n)) {
            match self.b {
                Some(b) => {
                    let mean = sum_of(simd, x, 0.0, false) / n as f32;
                    let variance = sum_of(simd, x, mean, true) / n as f32;
                    let scale = 1.0 / (variance + self.eps).sqrt();
                    scale_row(simd, x, y, self.w, mean, scale);
                    add_row(simd, y, b);
                }
                None => {
                    let scale = 1.0 / (sum_of(simd, x, 0.0, true) / n as f32 + self.eps).sqrt();
                    scale_row(simd, x, y, self.w, 0.0, scale);
                }
            }
        }
    }
}

/// Sum over `x − mean`, or over its squares.
#[inline(always)]
fn sum_of<S: Simd>(simd: S, x: &[f32], mean: f32, squared: bool) -> f32 {
    let (body, tail) = S::as_simd_f32s(x);
    let m = simd.splat_f32s(mean);
    // Four sums side by side: one alone would wait for each addition.
    let mut acc = [simd.splat_f32s(0.0); 4];
    for (i, x) in body.iter().enumerate() {
        let d = simd.sub_f32s(*x, m);
        let a = &mut acc[i % 4];
        *a = if squared {
            simd.mul_add_e_f32s(d, d, *a)
        } else {
            simd.add_f32s(*a, d)
        };
    }
    let mut sum = simd.reduce_sum_f32s(
        simd.add_f32s(simd.add_f32s(acc[0], acc[1]), simd.add_f32s(acc[2], acc[3])),
    );
    for x in tail {
        let d = x - mean;
        sum += if squared { d * d } else { d };
    }
    sum
}

/// `y = (x − mean) · scale · w`.
#[inline(always)]
fn scale_row<S: Simd>(simd: S, x: &[f32], y: &mut [f32], w: &[f32], mean: f32, scale: f32) {
    let (xb, xt) = S::as_simd_f32s(x);
    let (yb, yt) = S::as_mut_simd_f32s(y);
    let (wb, wt) = S::as_simd_f32s(w);
    let (m, s) = (simd.splat_f32s(mean), simd.splat_f32s(scale));
    for ((x, y), w) in xb.iter().zip(yb).zip(wb) {
        *y = simd.mul_f32s(simd.mul_f32s(simd.sub_f32s(*x, m), s), *w);
    }
    for ((x, y), w) in xt.iter().zip(yt).zip(wt) {
        *y = (x - mean) * scale * w;
    }
}

/// `y += b`.
#[inline(always)]
pub(super) fn add_row<S: Simd>(simd: S, y: &mut [f32], b: &[f32]) {
    let (yb, yt) = S::as_mut_simd_f32s(y);
    let (bb, bt) = S::as_simd_f32s(b);
    for (y, b) in yb.iter_mut().zip(bb) {
        *y = simd.add_f32s(*y, *b);
    }
    for (y, b) in yt.iter_mut().zip(bt) {
        *y += b;
    }
}
