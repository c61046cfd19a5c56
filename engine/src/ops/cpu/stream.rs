//! Products for few rows: the weights stream past once, and each weight row meets up to eight rows
//! of `x` in registers.

use std::cell::RefCell;
use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::block::Weights;
use super::pool::{Disjoint, share_guided};
use super::product::{Finish, Product};
use super::view::Lines;
use crate::ops::arch::{Arch, prefetch};

/// Weight rows in the smallest piece of work: a multiple of every tile height below.
const UNIT: usize = 12;
/// Elements of weights worth a piece of work.
const WORTH: usize = 16 << 10;
/// Rows of `x` that share one pass over a weight row.
const ROW_BLOCK: usize = 8;

thread_local! {
    /// The weights at hand where they do not lie in memory as they are used, kept from call to call.
    static SPACE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Product<'_> {
    /// Streams the weights `w` past the rows of `x`, which stay in cache.
    pub(super) fn stream<W: Weights>(self, w: W, out: &mut [f32]) {
        let out = Disjoint::new(out);
        let arch = Arch::new();
        let packed;
        let x = if self.m == 1 {
            self.x
        } else {
            packed = arch.dispatch(Interleave(self));
            &packed
        };
        let unit = if self.k * UNIT < WORTH {
            2 * UNIT
        } else {
            UNIT
        };
        share_guided(self.n.div_ceil(unit), self.n * self.k, |units| {
            let columns = units.start * unit..(units.end * unit).min(self.n);
            let chunk = if W::IN_PLACE { columns.len() } else { UNIT };
            SPACE.with_borrow_mut(|space| {
                for start in columns.clone().step_by(chunk) {
                    let columns = start..(start + chunk).min(columns.end);
                    arch.dispatch(Stream {
                        product: self,
                        w: w.rows(columns.clone(), self.k, space),
                        x,
                        columns,
                        out: &out,
                    });
                }
            });
        });
    }
}

/// Packs the rows of `x`: of each block of up to [`ROW_BLOCK`] rows the first vector of every row,
/// then the second, and so on, so that one pointer serves them all; the last ones are filled up
/// with zeros.
struct Interleave<'a>(Product<'a>);

impl WithSimd for Interleave<'_> {
    type Output = Lines;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Lines {
        let Product { x, m, k, .. } = self.0;
        let lanes = S::F32_LANES;
        let vectors = k.div_ceil(lanes);
        let mut packed = Lines::zeros(m * vectors * lanes);
        for first in (0..m).step_by(ROW_BLOCK) {
            let rows = (m - first).min(ROW_BLOCK);
            let block = &mut packed[first * vectors * lanes..][..rows * vectors * lanes];
            for (j, row) in x[first * k..(first + rows) * k].chunks_exact(k).enumerate() {
                for (i, from) in row.chunks(lanes).enumerate() {
                    block[(i * rows + j) * lanes..][..from.len()].copy_from_slice(from);
                }
            }
        }
        packed
    }
}

/// A range of output columns by streaming their weight rows.
struct Stream<'a> {
    product: Product<'a>,
    /// The weight rows of these columns.
    w: &'a [f32],
    /// `x` as [`Interleave`] packs it.
    x: &'a [f32],
    columns: Range<usize>,
    out: &'a Disjoint<'a>,
}

impl WithSimd for Stream<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let m = self.product.m;
        // Weights that are come back to, by more rows, had better be few enough to stay in the cache.
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
            ..
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
        // Bytes of a stream of weights to ask for before they are needed: more where arithmetic
        // keeps them waiting for longer.
        let ahead = if M <= 4 { 2048 } else { 4096 };
        let Product { n, k, .. } = self.product;
        let mut rows = [&self.w[..0]; R];
        for (r, row) in rows.iter_mut().enumerate() {
            let start = (column - self.columns.start + r * apart) * k;
            *row = &self.w[start..start + k];
        }
        let lanes = S::F32_LANES;
        let (body, tail) = (k / lanes, k % lanes);
        let start = first * k.next_multiple_of(lanes);
        // Of a single row the last vector may be cut short, see `stream`.
        let span = if M == 1 {
            k
        } else {
            M * k.next_multiple_of(lanes)
        };
        let x = &self.x[start..start + span];
        let mut acc = [[simd.splat_f32s(0.0); M]; R];
        let mut x_at = x.as_ptr();
        for i in 0..body {
            let mut weights = [simd.splat_f32s(0.0); R];
            for (weights, row) in weights.iter_mut().zip(&rows) {
                // SAFETY: vector i of the `body` whole ones that the row has.
                *weights = unsafe { load::<S>(row.as_ptr().add(i * lanes)) };
                prefetch(row.as_ptr().wrapping_add(i * lanes), ahead);
            }
            #[expect(
                clippy::needless_range_loop,
                reason = "j numbers vectors of x as well as sums"
            )]
            for j in 0..M {
                // SAFETY: vector i·M + j of the at least body·M in x.
                let x = unsafe { load::<S>(x_at.add(j * lanes)) };
                for r in 0..R {
                    acc[r][j] = simd.mul_add_e_f32s(weights[r], x, acc[r][j]);
                }
            }
            // The last step leaves it one past the end, unread.
            x_at = x_at.wrapping_add(M * lanes);
        }
        if tail > 0 {
            for (acc, row) in acc.iter_mut().zip(&rows) {
                let weights = simd.partial_load_f32s(&row[body * lanes..]);
                for (j, acc) in acc.iter_mut().enumerate() {
                    let x = simd.partial_load_f32s(&x[(body * M + j) * lanes..][..tail]);
                    *acc = simd.mul_add_e_f32s(weights, x, *acc);
                }
            }
        }
        // Opaque to the compiler, which would else keep the sums in memory throughout the loop above
        // for the sake of the one below.
        let acc = std::hint::black_box(acc);
        for (r, acc) in acc.iter().enumerate() {
            for (j, acc) in acc.iter().enumerate() {
                let sum = simd.reduce_sum_f32s(*acc);
                // SAFETY: these columns belong to this piece of work alone.
                unsafe { *self.out.at((first + j) * n + column + r * apart) = sum };
            }
        }
    }
}

/// The vector that starts at `at`.
///
/// # Safety
/// `at` points to at least `S::F32_LANES` readable elements.
#[inline(always)]
unsafe fn load<S: Simd>(at: *const f32) -> S::f32s {
    // SAFETY: readable by the caller's promise; the read needs no alignment.
    unsafe { at.cast::<S::f32s>().read_unaligned() }
}
