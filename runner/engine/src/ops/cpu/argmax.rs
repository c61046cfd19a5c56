//! Greedy sampling.

use super::arch;
use super::view::View;
use candle_core::{Result, Tensor, bail};
use pulp::{Simd, WithSimd};

/// See [`crate::ops::argmax_last`].
pub(in crate::ops) fn argmax_last(logits: &Tensor) -> Result<Option<Vec<u32>>> {
    let Some(view) = View::of(logits) else {
        return Ok(None);
    };
    let (Some(data), &[b, v]) = (view.contiguous(), view.dims()) else {
        return Ok(None);
    };
    if v == 0 {
        return Ok(None);
    }
    let arch = arch();
    (0..b)
        .map(
            |row| match arch.dispatch(Row(&data[row * v..(row + 1) * v])) {
                Some(index) => Ok(index as u32),
                None => bail!("argmax_last: row {row} of the logits holds a NaN"),
            },
        )
        .collect::<Result<_>>()
        .map(Some)
}

struct Row<'a>(&'a [f32]);

impl WithSimd for Row<'_> {
    /// `None` if there is a NaN.
    type Output = Option<usize>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Option<usize> {
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
            return None;
        }
        let max = tail
            .iter()
            .copied()
            .fold(simd.reduce_max_f32s(max), f32::max);
        self.0.iter().position(|x| *x == max)
    }
}
