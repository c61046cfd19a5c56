//! The gated activation of Llama-like feed-forward blocks.

use candle_core::{Result, Tensor};
use pulp::{Simd, WithSimd};

use super::math;
use super::pool::{Disjoint, share};
use super::view::{View, build};
use crate::ops::arch::Arch;

/// See [`crate::ops::silu_mul`].
pub(in crate::ops) fn silu_mul(gate_up: &Tensor) -> Result<Option<Tensor>> {
    let Some(view) = View::of(gate_up) else {
        return Ok(None);
    };
    let Some(data) = view.contiguous() else {
        return Ok(None);
    };
    let mut dims = view.dims().to_vec();
    let Some(last) = dims.last_mut() else {
        return Ok(None);
    };
    if *last == 0 || *last % 2 != 0 {
        return Ok(None);
    }
    *last /= 2;
    let f = *last;
    let arch = Arch::new();
    build(dims, |out| {
        let out = Disjoint::new(out);
        // An exponential per element: dearer than a move.
        share(data.len() / (2 * f), 4 * data.len(), |rows| {
            // SAFETY: ranges of rows handed out by `share` do not overlap.
            let y = unsafe { out.slice(rows.start * f..rows.end * f) };
            let gate_up = &data[rows.start * 2 * f..rows.end * 2 * f];
            arch.dispatch(Rows { gate_up, y, f });
        });
    })
    .map(Some)
}

struct Rows<'a> {
    gate_up: &'a [f32],
    y: &'a mut [f32],
    f: usize,
}

impl WithSimd for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let rows = self.gate_up.chunks_exact(2 * self.f);
        for (gate_up, y) in rows.zip(self.y.chunks_exact_mut(self.f)) {
            let (gate, up) = gate_up.split_at(self.f);
            let (gate, gate_tail) = S::as_simd_f32s(gate);
            let (up, up_tail) = S::as_simd_f32s(up);
            let (y, y_tail) = S::as_mut_simd_f32s(y);
            for ((gate, up), y) in gate.iter().zip(up).zip(y) {
                *y = simd.mul_f32s(math::silu(simd, *gate), *up);
            }
            if !y_tail.is_empty() {
                let gate = math::silu(simd, simd.partial_load_f32s(gate_tail));
                let product = simd.mul_f32s(gate, simd.partial_load_f32s(up_tail));
                simd.partial_store_f32s(y_tail, product);
            }
        }
    }
}
