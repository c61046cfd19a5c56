//! Products with a weight matrix: a streaming kernel for few rows, blocked products for many.

use super::arch;
use super::math;
use super::norm::add_row;
use super::pool::{Disjoint, share, threads};
use super::view::{View, build};
use candle_core::{Result, Tensor};
use gemm::Parallelism;
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// What happens to each product on its way out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::ops) enum Epilogue {
    /// The bias, if any.
    Bias,
    /// The bias, if any, and then GELU (tanh form).
    BiasGelu,
}

/// See [`crate::ops::linear`] and [`crate::ops::linear_bias_gelu`].
pub(in crate::ops) fn linear(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    epilogue: Epilogue,
) -> Result<Option<Tensor>> {
    let (Some(xv), Some(wv)) = (View::of(x), View::of(w)) else {
        return Ok(None);
    };
    let bv = bias.map(View::of);
    let bias = match &bv {
        None => None,
        Some(view) => match view.as_ref().and_then(View::contiguous) {
            Some(bias) => Some(bias),
            None => return Ok(None),
        },
    };
    let (Some(x), Some(w), &[n, k]) = (xv.contiguous(), wv.contiguous(), wv.dims()) else {
        return Ok(None);
    };
    let mut dims = xv.dims().to_vec();
    let Some(last) = dims.last_mut() else {
        return Ok(None);
    };
    if *last != k || n * k * x.len() == 0 || bias.is_some_and(|b| b.len() != n) {
        return Ok(None);
    }
    *last = n;
    let product = Product {
        x,
        w,
        bias,
        epilogue,
        m: x.len() / k,
        n,
        k,
    };
    build(dims, |out| product.into(out)).map(Some)
}

/// `out [m, n] = epilogue(x [m, k] · w [n, k]ᵀ + bias [n])`.
#[derive(Clone, Copy)]
struct Product<'a> {
    x: &'a [f32],
    w: &'a [f32],
    bias: Option<&'a [f32]>,
    epilogue: Epilogue,
    m: usize,
    n: usize,
    k: usize,
}

/// Up to this many rows the streaming kernel wins: it reads the weights once and packs nothing.
const STREAM_ROWS: usize = 32;
/// Weight rows in one piece of streaming work: whole cache lines of output.
const STREAM_UNIT: usize = 16;
/// Rows of `x` that share one pass over a weight row.
const ROW_BLOCK: usize = 8;
/// Rows of `x` in one piece of blocked work: enough to repay packing the weights.
const BLOCK_ROWS: usize = 512;

impl Product<'_> {
    fn into(self, out: &mut [f32]) {
        if self.m <= STREAM_ROWS {
            self.stream(out);
        } else {
            self.blocks(out);
        }
    }

    /// Streams the weights past the rows of `x`, which stay in cache.
    fn stream(self, out: &mut [f32]) {
        let out = Disjoint::new(out);
        let arch = arch();
        share(self.n.div_ceil(STREAM_UNIT), self.n * self.k, |units| {
            let columns = units.start * STREAM_UNIT..(units.end * STREAM_UNIT).min(self.n);
            arch.dispatch(Stream {
                product: self,
                columns,
                out: &out,
            });
        });
    }

    /// Blocks of output, each an ordinary matrix product on one thread.
    fn blocks(self, out: &mut [f32]) {
        let Self { m, n, k, .. } = self;
        // A few blocks per thread even out threads of unequal speed; wide ones pack `x` less often.
        let row_blocks = m.div_ceil(BLOCK_ROWS);
        let rows = m.div_ceil(row_blocks);
        let column_blocks = (4 * threads()).div_ceil(row_blocks);
        let columns = n.div_ceil(column_blocks).next_multiple_of(64);
        let column_blocks = n.div_ceil(columns);
        let arch = arch();
        let out = Disjoint::new(out);
        share(row_blocks * column_blocks, m * n * k, |blocks| {
            for block in blocks {
                let (i, j) = (block / column_blocks, block % column_blocks);
                let rows = i * rows..((i + 1) * rows).min(m);
                let columns = j * columns..((j + 1) * columns).min(n);
                // SAFETY: the pointers and strides describe `rows` × `columns` of `out`, `rows` of
                // `x` and `columns` of `w`, all inside their slices (`linear` checked the shapes);
                // no other block writes this part of `out`.
                unsafe {
                    gemm::gemm(
                        rows.len(),
                        columns.len(),
                        k,
                        out.at(rows.start * n + columns.start),
                        1,
                        n as isize,
                        false,
                        self.x.as_ptr().add(rows.start * k),
                        1,
                        k as isize,
                        self.w.as_ptr().add(columns.start * k),
                        k as isize,
                        1,
                        0.0f32,
                        1.0f32,
                        false,
                        false,
                        false,
                        Parallelism::None,
                    );
                }
                arch.dispatch(Finish {
                    product: self,
                    rows,
                    columns,
                    out: &out,
                });
            }
        });
    }
}

/// Bias and activation over a block of raw products.
struct Finish<'a> {
    product: Product<'a>,
    rows: Range<usize>,
    columns: Range<usize>,
    out: &'a Disjoint<'a>,
}

impl WithSimd for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            product,
            rows,
            columns,
            out,
        } = self;
        if product.bias.is_none() && product.epilogue == Epilogue::Bias {
            return;
        }
        for row in rows {
            let start = row * product.n;
            // SAFETY: this block of `out` belongs to this piece of work alone.
            let y = unsafe { out.slice(start + columns.start..start + columns.end) };
            if let Some(bias) = product.bias {
                add_row(simd, y, &bias[columns.clone()]);
            }
            if product.epilogue == Epilogue::BiasGelu {
                gelu(simd, y);
            }
        }
    }
}

#[inline(always)]
fn gelu<S: Simd>(simd: S, y: &mut [f32]) {
    let (body, tail) = S::as_mut_simd_f32s(y);
    for y in body {
        *y = math::gelu(simd, *y);
    }
    if !tail.is_empty() {
        let y = math::gelu(simd, simd.partial_load_f32s(tail));
        simd.partial_store_f32s(tail, y);
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
        for unit in self.columns.clone().step_by(STREAM_UNIT) {
            let columns = unit..(unit + STREAM_UNIT).min(self.columns.end);
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
