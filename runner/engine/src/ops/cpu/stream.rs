//! Products for few rows: the weights stream past once, and each weight row meets up to eight rows
//! of `x` in registers.

use super::arch;
use super::linear::{Finish, Product};
use super::pool::{Disjoint, share};
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// Weight rows in one piece of work: a multiple of every tile height below.
const UNIT: usize = 24;
/// Rows of `x` that share one pass over a weight row.
const ROW_BLOCK: usize = 8;

impl Product<'_> {
    /// Streams the weights past the rows of `x`, which stay in cache.
    pub(super) fn stream(self, out: &mut [f32]) {
        let out = Disjoint::new(out);
        let arch = arch();
        share(self.n.div_ceil(UNIT), self.n * self.k, |units| {
            let columns = units.start * UNIT..(units.end * UNIT).min(self.n);
            arch.dispatch(Stream {
                product: self,
                columns,
                out: &out,
            });
        });
    }
}

/// A range of output columns by streaming their weight rows.
struct Stream<'a> {
    product: Product<'a>,
    columns: Range<usize>,
    out: &'a Disjoint<'a>,
}

impl WithSimd for Stream<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Product { m, .. } = self.product;
        for unit in self.columns.clone().step_by(UNIT) {
            let columns = unit..(unit + UNIT).min(self.columns.end);
            for first in (0..m).step_by(ROW_BLOCK) {
                let wide = S::REGISTER_COUNT >= 32;
                let c = columns.clone();
                match ((m - first).min(ROW_BLOCK), wide) {
                    (1, _) => self.rows::<S, 4, 1>(simd, first, c),
                    (2, _) => self.rows::<S, 4, 2>(simd, first, c),
                    (3, true) => self.rows::<S, 4, 3>(simd, first, c),
                    (3, false) => self.rows::<S, 3, 3>(simd, first, c),
                    (4, true) => self.rows::<S, 4, 4>(simd, first, c),
                    (4, false) => self.rows::<S, 2, 4>(simd, first, c),
                    (5, true) => self.rows::<S, 4, 5>(simd, first, c),
                    (5, false) => self.rows::<S, 2, 5>(simd, first, c),
                    (6, true) => self.rows::<S, 4, 6>(simd, first, c),
                    (6, false) => self.rows::<S, 2, 6>(simd, first, c),
                    (7, true) => self.rows::<S, 3, 7>(simd, first, c),
                    (7, false) => self.rows::<S, 1, 7>(simd, first, c),
                    (_, true) => self.rows::<S, 3, 8>(simd, first, c),
                    (_, false) => self.rows::<S, 1, 8>(simd, first, c),
                }
            }
        }
        let Self {
            product,
            columns,
            out,
        } = self;
        Finish {
            product,
            rows: 0..m,
            columns,
            out,
        }
        .with_simd(simd);
    }
}

impl Stream<'_> {
    /// Rows `first..first + M` of `x` with the weight rows `columns`, `R` at a time.
    #[inline(always)]
    fn rows<S: Simd, const R: usize, const M: usize>(
        &self,
        simd: S,
        first: usize,
        columns: Range<usize>,
    ) {
        let whole = columns.start + columns.len() / R * R;
        for column in (columns.start..whole).step_by(R) {
            self.tile::<S, R, M>(simd, first, column);
        }
        for column in whole..columns.end {
            self.tile::<S, 1, M>(simd, first, column);
        }
    }

    /// The `M` × `R` products at (`first`, `column`).
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const M: usize>(&self, simd: S, first: usize, column: usize) {
        let Product { x, w, n, k, .. } = self.product;
        let x = &x[first * k..(first + M) * k];
        let w = &w[column * k..(column + R) * k];
        let lanes = S::F32_LANES;
        let body = k / lanes * lanes;
        let mut acc = [[simd.splat_f32s(0.0); M]; R];
        let mut i = 0;
        while i < body {
            let mut weights = [simd.splat_f32s(0.0); R];
            for (r, weights) in weights.iter_mut().enumerate() {
                // SAFETY: r < R and i + lanes ≤ k, so this is inside the R·k weights.
                *weights = unsafe { load::<S>(w, r * k + i) };
            }
            for j in 0..M {
                // SAFETY: j < M and i + lanes ≤ k, so this is inside the M·k elements of x.
                let x = unsafe { load::<S>(x, j * k + i) };
                for r in 0..R {
                    acc[r][j] = simd.mul_add_e_f32s(weights[r], x, acc[r][j]);
                }
            }
            i += lanes;
        }
        if body < k {
            for r in 0..R {
                let weights = simd.partial_load_f32s(&w[r * k + body..(r + 1) * k]);
                for j in 0..M {
                    let x = simd.partial_load_f32s(&x[j * k + body..(j + 1) * k]);
                    acc[r][j] = simd.mul_add_e_f32s(weights, x, acc[r][j]);
                }
            }
        }
        for j in 0..M {
            let start = (first + j) * n + column;
            // SAFETY: these columns belong to this piece of work alone.
            let y = unsafe { self.out.slice(start..start + R) };
            for r in 0..R {
                y[r] = simd.reduce_sum_f32s(acc[r][j]);
            }
        }
    }
}

/// The vector that starts at `from[at]`.
///
/// # Safety
/// `at + S::F32_LANES ≤ from.len()`.
#[inline(always)]
unsafe fn load<S: Simd>(from: &[f32], at: usize) -> S::f32s {
    debug_assert!(at + S::F32_LANES <= from.len());
    // SAFETY: inside the slice by the caller's promise; the read needs no alignment.
    unsafe { from.as_ptr().add(at).cast::<S::f32s>().read_unaligned() }
}
