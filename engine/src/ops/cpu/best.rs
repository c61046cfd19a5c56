//! Greedy sampling.

use candle_core::{Result, Tensor};
use pulp::{Simd, WithSimd};

use super::view::View;
use crate::ops::arch::Arch;

/// See [`crate::ops::best_last`].
pub(in crate::ops) fn best_last(logits: &Tensor, first: usize) -> Result<Option<Tensor>> {
    let Some(view) = View::of(logits) else {
        return Ok(None);
    };
    let (Some(data), &[b, v]) = (view.contiguous(), view.dims()) else {
        return Ok(None);
    };
    let arch = Arch::new();
    let best: Vec<f32> = (0..b)
        .flat_map(|row| {
            let (best, at) = arch.dispatch(Row(&data[row * v..(row + 1) * v]));
            [best, (first + at) as f32]
        })
        .collect();
    Tensor::from_vec(best, (b, 2), logits.device()).map(Some)
}

struct Row<'a>(&'a [f32]);

impl WithSimd for Row<'_> {
    /// NaN if there is one; `(-inf, 0)` of nothing.
    type Output = (f32, usize);

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> (f32, usize) {
        let (body, tail) = S::as_simd_f32s(self.0);
        let mut max = simd.splat_f32s(f32::NEG_INFINITY);
        let mut ordered = simd.equal_f32s(max, max);
        for x in body {
            max = simd.max_f32s(max, *x);
            ordered = simd.and_m32s(ordered, simd.equal_f32s(*x, *x));
        }
        let one = simd.splat_f32s(1.0);
        let ordered = simd.select_f32s(ordered, one, simd.splat_f32s(0.0));
        if simd.reduce_min_f32s(ordered) == 0.0 || tail.iter().any(|x| x.is_nan()) {
            return (f32::NAN, 0);
        }
        let max = tail
            .iter()
            .copied()
            .fold(simd.reduce_max_f32s(max), f32::max);
        (max, self.0.iter().position(|x| *x == max).unwrap_or(0))
    }
}
