//! Products for many rows: `x` is transposed into panels once, so that a vector holds one element
//! of many rows; weights are broadcast against it, a tile of the result stays in registers.

use std::cell::RefCell;
use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::packed::{Format, Matrix};
use super::pool::{Disjoint, share, threads};
use super::product::{Finish, Product};
use super::view::uninitialised;
use crate::ops::arch::Arch;

/// Rows of `x` in a panel: whole vectors for every instruction set.
const PANEL: usize = 32;
/// Panels in one piece of work: enough to repay packing its weights.
const PANELS: usize = 16;
/// Weight rows in the highest tile.
const TILE: usize = 12;
/// Most elements of weights in one piece of work, packed: a part of the second-level cache.
const PACKED: usize = 96 << 10;

thread_local! {
    /// The packed weights of the piece at hand, and a tile of them before, kept from call to call.
    static SCRATCH: RefCell<(Vec<f32>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

/// Where weights come from.
pub(super) trait Weights: Copy + Sync {
    /// Whether rows lie in memory as [`Weights::rows`] gives them.
    const IN_PLACE: bool;

    /// Rows of the matrix, in `space` where they do not lie in memory so.
    fn rows<'a>(&'a self, rows: Range<usize>, k: usize, space: &'a mut Vec<f32>) -> &'a [f32];
}

/// Plain numbers.
impl Weights for &[f32] {
    const IN_PLACE: bool = true;

    #[inline(always)]
    fn rows<'a>(&'a self, rows: Range<usize>, k: usize, _: &'a mut Vec<f32>) -> &'a [f32] {
        &self[rows.start * k..rows.end * k]
    }
}

impl<B: Format + Sync> Weights for Matrix<'_, B> {
    const IN_PLACE: bool = false;

    #[inline(always)]
    fn rows<'a>(&'a self, rows: Range<usize>, k: usize, space: &'a mut Vec<f32>) -> &'a [f32] {
        let size = rows.len() * k;
        if space.len() < size {
            space.resize(size, 0.0);
        }
        self.unpack_rows(rows, &mut space[..size]);
        &space[..size]
    }
}

impl Product<'_> {
    /// Blocks of output columns, each against some panels of `x`.
    pub(super) fn blocks(self, w: impl Weights, out: &mut [f32]) {
        let Self { m, n, k, .. } = self;
        let panels = m.div_ceil(PANEL);
        let mut packed = uninitialised(panels * PANEL * k);
        {
            let packed = Disjoint::new(&mut packed);
            share(panels, m * k, |range| {
                for panel in range {
                    let span = panel * PANEL * k..(panel + 1) * PANEL * k;
                    // SAFETY: every panel has its own range.
                    self.pack(panel, unsafe { packed.slice(span) });
                }
            });
        }
        // As few as keep all threads busy to the end, as many as the cache holds.
        let fair = n.div_ceil(4 * threads());
        let columns = (PACKED / k).min(fair).clamp(TILE, 4 * TILE) / TILE * TILE;
        let (column_blocks, panel_blocks) = (n.div_ceil(columns), panels.div_ceil(PANELS));
        let arch = Arch::new();
        let out = Disjoint::new(out);
        share(column_blocks * panel_blocks, m * n * k, |blocks| {
            for block in blocks {
                let (i, j) = (block % panel_blocks, block / panel_blocks);
                SCRATCH.with_borrow_mut(|(weights, space)| {
                    arch.dispatch(Block {
                        product: self,
                        w,
                        packed: &packed,
                        weights,
                        space,
                        panels: i * PANELS..((i + 1) * PANELS).min(panels),
                        columns: j * columns..((j + 1) * columns).min(n),
                        out: &out,
                    });
                });
            }
        });
    }

    /// Transposes `PANEL` rows of `x` to `[k, PANEL]`; rows past the last are zero.
    fn pack(&self, panel: usize, into: &mut [f32]) {
        /// Elements of a row at a time: a cache line.
        const STEP: usize = 16;
        let k = self.k;
        let rows = (self.m - panel * PANEL).min(PANEL);
        if rows < PANEL {
            into.fill(0.0);
        }
        let x = &self.x[panel * PANEL * k..][..rows * k];
        for start in (0..k).step_by(STEP) {
            let end = (start + STEP).min(k);
            for (j, row) in x.chunks_exact(k).enumerate() {
                for (i, value) in row[start..end].iter().enumerate() {
                    into[(start + i) * PANEL + j] = *value;
                }
            }
        }
    }
}

/// Some output columns of some panels.
struct Block<'a, W> {
    product: Product<'a>,
    w: W,
    /// All of `x`, `[panels, k, PANEL]`.
    packed: &'a [f32],
    weights: &'a mut Vec<f32>,
    /// Room for a tile's weight rows.
    space: &'a mut Vec<f32>,
    panels: Range<usize>,
    columns: Range<usize>,
    out: &'a Disjoint<'a>,
}

impl<W: Weights> WithSimd for Block<'_, W> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        if S::REGISTER_COUNT >= 32 {
            self.tiles::<S, 12>(simd);
        } else {
            self.tiles::<S, 6>(simd);
        }
        let Self {
            product,
            panels,
            columns,
            out,
            ..
        } = self;
        let rows = panels.start * PANEL..(panels.end * PANEL).min(product.m);
        Finish {
            product,
            rows,
            columns,
            out,
        }
        .with_simd(simd);
    }
}

impl<W: Weights> Block<'_, W> {
    /// All tiles, `R` weight rows high where there are as many.
    #[inline(always)]
    fn tiles<S: Simd, const R: usize>(&mut self, simd: S) {
        let k = self.product.k;
        let weights = std::mem::take(self.weights);
        let weights = self.pack_weights::<R>(weights);
        let whole = self.columns.len() / R * R;
        for panel in self.panels.clone() {
            for start in (0..whole).step_by(R) {
                let tile = &weights[start * k..(start + R) * k];
                self.tile::<S, R>(simd, panel, self.columns.start + start, tile);
            }
            for start in whole..self.columns.len() {
                let tile = &weights[start * k..(start + 1) * k];
                self.tile::<S, 1>(simd, panel, self.columns.start + start, tile);
            }
        }
        *self.weights = weights;
    }

    /// The weight rows of this block, `R` of them interleaved to `[k, R]`, the rest one by one.
    #[inline(always)]
    fn pack_weights<const R: usize>(&mut self, mut into: Vec<f32>) -> Vec<f32> {
        let k = self.product.k;
        let size = self.columns.len() * k;
        if into.len() < size {
            into.resize(size, 0.0);
        }
        let whole = self.columns.len() / R * R;
        for first in (0..whole).step_by(R) {
            let start = self.columns.start + first;
            let rows = self.w.rows(start..start + R, k, self.space);
            let tile = &mut into[first * k..(first + R) * k];
            for (i, tile) in tile.chunks_exact_mut(R).enumerate() {
                for (r, value) in tile.iter_mut().enumerate() {
                    *value = rows[r * k + i];
                }
            }
        }
        let rest = self.columns.start + whole..self.columns.end;
        let rows = self.w.rows(rest, k, self.space);
        into[whole * k..size].copy_from_slice(rows);
        into
    }

    /// The products of one panel with `R` weight rows, `weights [k, R]`.
    #[inline(always)]
    fn tile<S: Simd, const R: usize>(&self, simd: S, panel: usize, column: usize, weights: &[f32]) {
        let rows = (self.product.m - panel * PANEL).min(PANEL);
        let lanes = S::F32_LANES;
        let mut first = 0;
        while first < rows {
            if rows - first > lanes {
                self.part::<S, R, 2>(simd, panel, first, column, weights);
                first += 2 * lanes;
            } else {
                self.part::<S, R, 1>(simd, panel, first, column, weights);
                first += lanes;
            }
        }
    }

    /// The part of a tile that `V` vectors of rows from `first` on make.
    #[inline(always)]
    fn part<S: Simd, const R: usize, const V: usize>(
        &self,
        simd: S,
        panel: usize,
        first: usize,
        column: usize,
        weights: &[f32],
    ) {
        let Product { m, n, k, .. } = self.product;
        let lanes = S::F32_LANES;
        let panel_data = &self.packed[panel * PANEL * k..(panel + 1) * PANEL * k];
        assert!(first + V * lanes <= PANEL && weights.len() == R * k);
        let mut acc = [[simd.splat_f32s(0.0); V]; R];
        let (mut x_at, mut w_at) = (panel_data[first..].as_ptr(), weights.as_ptr());
        for _ in 0..k {
            let mut x = [simd.splat_f32s(0.0); V];
            for (v, x) in x.iter_mut().enumerate() {
                // SAFETY: step i of k reads the V·lanes elements from i·PANEL + first on, inside
                // the panel's k·PANEL by the assertion; the read needs no alignment.
                *x = unsafe { x_at.add(v * lanes).cast::<S::f32s>().read_unaligned() };
            }
            for (r, acc) in acc.iter_mut().enumerate() {
                // SAFETY: step i of k reads the R elements from i·R on, inside weights' R·k.
                let w = simd.splat_f32s(unsafe { *w_at.add(r) });
                for v in 0..V {
                    acc[v] = simd.mul_add_e_f32s(w, x[v], acc[v]);
                }
            }
            // The last step leaves them one past the end, or beyond it unread.
            x_at = x_at.wrapping_add(PANEL);
            w_at = w_at.wrapping_add(R);
        }
        let rows = (m - panel * PANEL - first).min(V * lanes);
        let mut turned = [[0.0f32; PANEL]; R];
        for (acc, turned) in acc.iter().zip(&mut turned) {
            let (vectors, _) = S::as_mut_simd_f32s(turned);
            vectors[..V].copy_from_slice(acc);
        }
        for j in 0..rows {
            let start = (panel * PANEL + first + j) * n + column;
            // SAFETY: these columns of these rows belong to this block alone.
            let y = unsafe { self.out.slice(start..start + R) };
            for (y, turned) in y.iter_mut().zip(&turned) {
                *y = turned[j];
            }
        }
    }
}
