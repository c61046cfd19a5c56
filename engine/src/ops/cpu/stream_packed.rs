//! Products of few rows with packed weights. One row: weights go straight into the sums. More: each weight is unpacked
//! into the first cache once and meets all rows there, so that only the packed bytes are read from memory.

use std::ops::Range;

use pulp::{Simd, WithSimd};

#[cfg(target_arch = "x86_64")]
use super::packed::OneRow;
use super::packed::{Format, Matrix};
use super::pool::{Disjoint, share_guided};
use super::product::{Finish, Product};
use crate::ops::arch::Arch;

/// Weight rows in one piece of work: a multiple of [`TILE`].
const UNIT: usize = 24;
/// Weight rows that are unpacked together.
const TILE: usize = 4;
/// Elements of a row that are unpacked together: all rows of a tile fill half of a first-level cache.
const DEPTH: usize = 1024;

impl Product<'_> {
    /// Streams packed weights past the rows of `x`, which stay in cache.
    pub(super) fn stream_packed<B: Format + Sync>(self, w: Matrix<'_, B>, out: &mut [f32]) {
        let out = Disjoint::new(out);
        let arch = Arch::new();
        #[cfg(target_arch = "x86_64")]
        let one = OneRow::new::<B>(arch).filter(|_| self.m == 1);
        #[cfg(target_arch = "x86_64")]
        let one = one.map(|one| (one, one.arrange(self.x)));
        share_guided(self.n.div_ceil(UNIT), self.n * self.k, |units| {
            let columns = units.start * UNIT..(units.end * UNIT).min(self.n);
            let stream = Stream {
                product: self,
                w,
                columns,
                out: &out,
            };
            #[cfg(target_arch = "x86_64")]
            if let Some((one, x)) = &one {
                return stream.row(arch, *one, x);
            }
            arch.dispatch(stream);
        });
    }
}

/// A range of output columns.
struct Stream<'a, B> {
    product: Product<'a>,
    w: Matrix<'a, B>,
    columns: Range<usize>,
    out: &'a Disjoint<'a>,
}

impl<B: Format> WithSimd for Stream<'_, B> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Range { start, end } = self.columns.clone();
        let mut space = [[0f32; DEPTH]; TILE];
        for column in (start..end).step_by(TILE) {
            match end - column {
                1 => self.tile::<S, 1>(simd, column, &mut space),
                2 => self.tile::<S, 2>(simd, column, &mut space),
                3 => self.tile::<S, 3>(simd, column, &mut space),
                _ => self.tile::<S, TILE>(simd, column, &mut space),
            }
        }
        self.finish().with_simd(simd);
    }
}

impl<B: Format> Stream<'_, B> {
    fn finish(&self) -> Finish<'_> {
        Finish {
            product: self.product,
            rows: 0..self.product.m,
            columns: self.columns.clone(),
            out: self.out,
        }
    }

    /// The one row of `x`, arranged.
    #[cfg(target_arch = "x86_64")]
    fn row(&self, arch: Arch, one: OneRow, x: &[f32]) {
        // SAFETY: these columns belong to this piece of work alone.
        let y = unsafe { self.out.slice(self.columns.clone()) };
        // SAFETY: the rows of these columns, in the format it was made for, and as long as `x` by the product's shape.
        unsafe { one.products(self.w.rows(self.columns.clone()), x, y) };
        arch.dispatch(self.finish());
    }

    /// `R` weight rows with every row of `x`; `space` is what they are unpacked into.
    #[inline(always)]
    fn tile<S: Simd, const R: usize>(
        &self,
        simd: S,
        column: usize,
        space: &mut [[f32; DEPTH]; TILE],
    ) {
        let Product { m, k, .. } = self.product;
        for start in (0..k).step_by(DEPTH) {
            let len = DEPTH.min(k - start);
            for (r, weights) in space[..R].iter_mut().enumerate() {
                self.w.unpack(column + r, start, &mut weights[..len]);
            }
            // As many as leave their sums in registers.
            let most = if S::REGISTER_COUNT >= 32 { 4 } else { 3 };
            for first in (0..m).step_by(most) {
                match (m - first).min(most) {
                    1 => self.dots::<S, R, 1>(simd, space, first, column, start..start + len),
                    2 => self.dots::<S, R, 2>(simd, space, first, column, start..start + len),
                    3 => self.dots::<S, R, 3>(simd, space, first, column, start..start + len),
                    _ => self.dots::<S, R, 4>(simd, space, first, column, start..start + len),
                }
            }
        }
    }

    /// Adds the elements `part` of the sums to the products of `M` rows of `x`, from `first` on, with the `R` unpacked
    /// weight rows. A part is whole blocks, and with them whole vectors.
    #[inline(always)]
    fn dots<S: Simd, const R: usize, const M: usize>(
        &self,
        simd: S,
        weights: &[[f32; DEPTH]; TILE],
        first: usize,
        column: usize,
        part: Range<usize>,
    ) {
        let Product { x, n, k, .. } = self.product;
        let mut acc = [[simd.splat_f32s(0.0); M]; R];
        let mut rows = [S::as_simd_f32s(&[]).0; M];
        for (j, row) in rows.iter_mut().enumerate() {
            let start = (first + j) * k;
            *row = S::as_simd_f32s(&x[start + part.start..start + part.end]).0;
        }
        let mut columns = [S::as_simd_f32s(&[]).0; R];
        for (vectors, weights) in columns.iter_mut().zip(weights) {
            *vectors = S::as_simd_f32s(&weights[..part.len()]).0;
        }
        for i in 0..part.len() / S::F32_LANES {
            for (j, row) in rows.iter().enumerate() {
                let x = row[i];
                for (acc, column) in acc.iter_mut().zip(&columns) {
                    acc[j] = simd.mul_add_e_f32s(column[i], x, acc[j]);
                }
            }
        }
        // As in the plain kernel: else the compiler keeps the sums in memory for the loop below.
        let acc = std::hint::black_box(acc);
        for (r, acc) in acc.iter().enumerate() {
            for (j, acc) in acc.iter().enumerate() {
                let sum = simd.reduce_sum_f32s(*acc);
                // SAFETY: these columns belong to this piece of work alone, and their first part is written before
                // any other adds to it.
                unsafe {
                    let y = self.out.at((first + j) * n + column + r);
                    *y = if part.start == 0 { sum } else { *y + sum };
                }
            }
        }
    }
}
