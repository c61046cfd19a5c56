//! Rotary position embedding, rotate-half form.

use candle_core::{Result, Tensor};
use pulp::{Simd, WithSimd};

use super::pool::{Disjoint, share};
use super::view::{View, build};
use crate::ops::arch::Arch;

/// See [`crate::ops::rope`].
pub(in crate::ops) fn rope(
    x: &Tensor,
    cos: &Tensor,
    sin: &Tensor,
    offset: usize,
) -> Result<Option<Tensor>> {
    let (Some(x), Some(cos), Some(sin)) = (View::of(x), View::of(cos), View::of(sin)) else {
        return Ok(None);
    };
    let (Some(rows), Some(cos_table), Some(sin_table)) =
        (x.rows4(), cos.contiguous(), sin.contiguous())
    else {
        return Ok(None);
    };
    let [b, h, s, d] = rows.dims;
    let half = d / 2;
    let table = [cos_table.len() / half.max(1), half];
    if d == 0 || d % 2 != 0 || cos.dims() != table || sin.dims() != table || offset + s > table[0] {
        return Ok(None);
    }
    let arch = Arch::new();
    build((b, h, s, d), |out| {
        let out = Disjoint::new(out);
        share(b * h, b * h * s * d, |heads| {
            for head in heads {
                for i in 0..s {
                    let start = (head * s + i) * d;
                    let position = (offset + i) * half;
                    arch.dispatch(Row {
                        x: rows.row(head / h, head % h, i),
                        // SAFETY: each row belongs to one head, each head to one range.
                        y: unsafe { out.slice(start..start + d) },
                        cos: &cos_table[position..position + half],
                        sin: &sin_table[position..position + half],
                    });
                }
            }
        });
    })
    .map(Some)
}

struct Row<'a> {
    x: &'a [f32],
    y: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
}

impl WithSimd for Row<'_> {
    type Output = ();

    /// `(x₁, x₂) → (x₁·cos − x₂·sin, x₂·cos + x₁·sin)` for the halves of the row.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let half = self.cos.len();
        let (x1, x2) = self.x.split_at(half);
        let (y1, y2) = self.y.split_at_mut(half);
        let lanes = S::F32_LANES;
        let mut i = 0;
        while i < half {
            let part = i..(i + lanes).min(half);
            let (a, b) = (
                simd.partial_load_f32s(&x1[part.clone()]),
                simd.partial_load_f32s(&x2[part.clone()]),
            );
            let (c, s) = (
                simd.partial_load_f32s(&self.cos[part.clone()]),
                simd.partial_load_f32s(&self.sin[part.clone()]),
            );
            let first = simd.sub_f32s(simd.mul_f32s(a, c), simd.mul_f32s(b, s));
            let second = simd.mul_add_e_f32s(b, c, simd.mul_f32s(a, s));
            simd.partial_store_f32s(&mut y1[part.clone()], first);
            simd.partial_store_f32s(&mut y2[part], second);
            i += lanes;
        }
    }
}
