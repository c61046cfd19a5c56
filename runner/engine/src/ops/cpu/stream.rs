//! Products for few rows: the weights stream past once, and each weight row meets up to eight rows
//! of `x` in registers.

use super::arch;
use super::linear::{Finish, Product};
use super::pool::{Disjoint, share};
use crate::ops::prefetch;
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// Weight rows in one piece of work: a multiple of every tile height below.
const UNIT: usize = 24;
/// Rows of `x` that share one pass over a weight row.
const ROW_BLOCK: usize = 8;
/// Bytes of a stream of weights that are asked for before they are needed: far enough to hide the
/// way to memory, near enough to fit the second-level cache.
const AHEAD: usize = 4096;

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
        // More rows than meet the weights at once come back to them: then they had better be few
        // enough to stay in the cache.
        let block = if m <= ROW_BLOCK {
            self.columns.len()
        } else {
            UNIT
        };
        for start in self.columns.clone().step_by(block) {
            let columns = start..(start + block).min(self.columns.end);
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
    ///
    /// The `R` rows lie far apart, so that each is part of a stream that goes on where it ends:
    /// what fetches memory ahead follows a few long streams, and loses its way in short ones.
    #[inline(always)]
    fn rows<S: Simd, const R: usize, const M: usize>(
        &self,
        simd: S,
        first: usize,
        columns: Range<usize>,
    ) {
        let apart = columns.len() / R;
        for column in columns.start..columns.start + apart {
            self.tile::<S, R, M>(simd, first, column, apart);
        }
        for column in columns.start + R * apart..columns.end {
            self.tile::<S, 1, M>(simd, first, column, 0);
        }
    }

    /// The products of `x`'s rows `first..first + M` with `R` weight rows, `apart` from one another
    /// from `column` on.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const M: usize>(
        &self,
        simd: S,
        first: usize,
        column: usize,
        apart: usize,
    ) {
        let Product { x, w, n, k, .. } = self.product;
        let x = &x[first * k..(first + M) * k];
        let mut rows = [&w[..0]; R];
        for (r, row) in rows.iter_mut().enumerate() {
            let start = (column + r * apart) * k;
            *row = &w[start..start + k];
        }
        let lanes = S::F32_LANES;
        let body = k / lanes * lanes;
        let mut acc = [[simd.splat_f32s(0.0); M]; R];
        let mut i = 0;
        while i < body {
            let mut weights = [simd.splat_f32s(0.0); R];
            for (weights, row) in weights.iter_mut().zip(&rows) {
                // SAFETY: i + lanes ≤ k, the length of the row.
                *weights = unsafe { load::<S>(row, i) };
                prefetch(row.as_ptr().wrapping_add(i), AHEAD);
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
                let weights = simd.partial_load_f32s(&rows[r][body..]);
                for j in 0..M {
                    let x = simd.partial_load_f32s(&x[j * k + body..(j + 1) * k]);
                    acc[r][j] = simd.mul_add_e_f32s(weights, x, acc[r][j]);
                }
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (j, acc) in acc.iter().enumerate() {
                let at = (first + j) * n + column + r * apart;
                // SAFETY: these columns belong to this piece of work alone.
                unsafe { *self.out.at(at) = simd.reduce_sum_f32s(*acc) };
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
