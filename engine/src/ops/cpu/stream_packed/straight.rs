//! Packed weights from their bytes into the sums, shared out over the threads.

use std::ops::Range;

use super::super::packed::{FewRows, Format, Matrix, OneRow};
use super::super::pool::{Disjoint, share_guided};
use super::super::product::{Finish, Product};
use crate::ops::arch::Arch;

/// Weight rows in the smallest piece of work.
const UNIT: usize = 24;

impl Product<'_> {
    /// Whether the processor has the vector instructions for it.
    pub(super) fn stream_straight<B: Format + Sync>(
        self,
        w: Matrix<'_, B>,
        out: &mut [f32],
    ) -> bool {
        let Self { x, m, n, k, .. } = self;
        let arch = Arch::new();
        let (Some(one), Some(few)) = (OneRow::new::<B>(arch), FewRows::new::<B>(arch)) else {
            return false;
        };
        if m == 1 {
            let x = one.arrange(x);
            self.in_pieces(arch, out, |columns, out| {
                // SAFETY: these columns belong to this piece of work alone.
                let y = unsafe { out.slice(columns.clone()) };
                // SAFETY: rows in the format it was made for, and as long as `x` by the product's shape.
                unsafe { one.products(w.rows(columns), &x, y) };
            });
        } else {
            let x = few.arrange(x, k);
            self.in_pieces(arch, out, |columns, out| {
                // SAFETY: as of one row, in each of the rows of the result, of which there are as many as of `x`.
                unsafe {
                    let y = out.at(columns.start);
                    few.products(w.rows(columns), &x, k, y, n);
                }
            });
        }
        true
    }

    /// Calls `products` with ranges of columns, and finishes what it writes there.
    fn in_pieces(
        self,
        arch: Arch,
        out: &mut [f32],
        products: impl Fn(Range<usize>, &Disjoint<'_>) + Sync,
    ) {
        let out = Disjoint::new(out);
        share_guided(self.n.div_ceil(UNIT), self.n * self.k, |units| {
            let columns = units.start * UNIT..(units.end * UNIT).min(self.n);
            products(columns.clone(), &out);
            arch.dispatch(Finish {
                product: self,
                rows: 0..self.m,
                columns,
                out: &out,
            });
        });
    }
}
