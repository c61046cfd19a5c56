//! Causal attention over the cache, read in place.
//!
//! One new position per sequence (decoding) streams keys and values once for all the query heads
//! that share them, in pieces along the sequence whose softmaxes are merged at the end. More than
//! one (prefill) goes by tiles of queries: scores by a matrix product over the visible keys only,
//! softmax, and a product with the values.

use std::cell::RefCell;
use std::ops::Range;

use candle_core::{Result, Tensor};
use gemm::Parallelism;
use pulp::{Simd, WithSimd};

use super::math;
use super::pool::{Disjoint, share, threads};
use super::view::{Rows4, View, build};
use crate::ops::arch::Arch;

/// See [`crate::ops::attention`].
pub(in crate::ops) fn attention(
    q: &Tensor,
    k_cache: &Tensor,
    v_cache: &Tensor,
    len: usize,
    scale: f32,
) -> Result<Option<Tensor>> {
    let (Some(q), Some(k), Some(v)) = (View::of(q), View::of(k_cache), View::of(v_cache)) else {
        return Ok(None);
    };
    let (Some(q), Some(k), Some(v)) = (q.rows4(), k.rows4(), v.rows4()) else {
        return Ok(None);
    };
    let ([b, h, s, d], [kb, kvh, max, kd]) = (q.dims, k.dims);
    let fits = v.dims == k.dims && [kb, kd] == [b, d] && kvh > 0 && h % kvh == 0;
    if !fits || b * h * s * d == 0 || len < s || len > max {
        return Ok(None);
    }
    let call = Call {
        q,
        k,
        v,
        group: h / kvh,
        len,
        scale,
    };
    build((b, s, h * d), |out| {
        if s == 1 {
            call.decode(out)
        } else {
            call.prefill(out)
        }
    })
    .map(Some)
}

/// The operands of one call: `q [B, H, S, D]`, `k` and `v [B, KVH, Smax, D]`.
#[derive(Clone, Copy)]
struct Call<'a> {
    q: Rows4<'a>,
    k: Rows4<'a>,
    v: Rows4<'a>,
    /// Query heads per key/value head.
    group: usize,
    len: usize,
    scale: f32,
}

/// Keys whose scores are held at a time while decoding: their values fit the first-level cache.
const KEY_BLOCK: usize = 64;
/// Fewest keys worth a piece of work of their own.
const MIN_PIECE: usize = 256;
/// Queries in one tile of a prefill.
const QUERY_TILE: usize = 64;
/// Most scores in one tile, so that they stay in the second-level cache.
const TILE_SCORES: usize = 1 << 17;

impl Call<'_> {
    fn decode(self, out: &mut [f32]) {
        let [b, kvh, _, d] = self.k.dims;
        let group = self.group;
        // Where heads are too few to keep every thread busy, the sequence is cut too.
        let wanted = (4 * threads()).div_ceil(b * kvh);
        let pieces = wanted.min(self.len.div_ceil(MIN_PIECE)).max(1);
        let piece = self.len.div_ceil(pieces);
        let arch = Arch::new();
        let width = d + 2;
        let mut partials = vec![0.0f32; b * kvh * pieces * group * width];
        let shared = Disjoint::new(&mut partials);
        let cost = 2 * b * kvh * group * self.len * d;
        share(b * kvh * pieces, cost, |units| {
            for unit in units {
                let (head, nth) = (unit / pieces, unit % pieces);
                arch.dispatch(Piece {
                    call: self,
                    batch: head / kvh,
                    head: head % kvh,
                    keys: nth * piece..((nth + 1) * piece).min(self.len),
                    // SAFETY: every unit has its own range.
                    partial: unsafe {
                        shared.slice(unit * group * width..(unit + 1) * group * width)
                    },
                });
            }
        });
        for (row, out) in out.chunks_exact_mut(d).enumerate() {
            let (head, member) = (row / group, row % group);
            let part = |nth: usize| {
                let start = ((head * pieces + nth) * group + member) * width;
                partials[start..start + width].split_at(2)
            };
            merge(out, pieces, part);
        }
    }

    fn prefill(self, out: &mut [f32]) {
        let [b, h, s, d] = self.q.dims;
        let queries = (TILE_SCORES / self.len).clamp(8, QUERY_TILE).min(s);
        let tiles = s.div_ceil(queries);
        let arch = Arch::new();
        let out = Disjoint::new(out);
        share(b * h * tiles, b * h * s * self.len * d, |units| {
            for unit in units {
                let (head, tile) = (unit / tiles, unit % tiles);
                let tile = Tile {
                    call: self,
                    batch: head / h,
                    head: head % h,
                    queries: tile * queries..((tile + 1) * queries).min(s),
                };
                SCRATCH.with_borrow_mut(|scratch| tile.into(arch, scratch, &out));
            }
        });
    }
}

thread_local! {
    /// Scores of the tile at hand, kept from call to call: at most [`TILE_SCORES`] (or eight rows).
    static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Joins the softmaxes of `pieces` parts, each `([maximum, sum], weighted values)`, into `out`.
fn merge<'a>(out: &mut [f32], pieces: usize, part: impl Fn(usize) -> (&'a [f32], &'a [f32])) {
    if pieces == 1 {
        let (stats, values) = part(0);
        for (out, value) in out.iter_mut().zip(values) {
            *out = value / stats[1];
        }
        return;
    }
    let max = (0..pieces)
        .map(|nth| part(nth).0[0])
        .fold(f32::NEG_INFINITY, f32::max);
    let mut sum = 0.0;
    out.fill(0.0);
    for nth in 0..pieces {
        let (stats, values) = part(nth);
        let weight = (stats[0] - max).exp();
        sum += weight * stats[1];
        for (out, value) in out.iter_mut().zip(values) {
            *out += weight * value;
        }
    }
    for out in out {
        *out /= sum;
    }
}

/// The query heads of one key/value head against a range of keys.
struct Piece<'a> {
    call: Call<'a>,
    batch: usize,
    head: usize,
    keys: Range<usize>,
    /// `group` × `[maximum, sum, weighted values (D)]`.
    partial: &'a mut [f32],
}

impl WithSimd for Piece<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            call,
            batch,
            head,
            keys,
            partial,
        } = self;
        let width = call.q.dims[3] + 2;
        let mut scores = [0.0f32; KEY_BLOCK];
        for stats in partial.chunks_exact_mut(width) {
            stats[0] = f32::NEG_INFINITY;
        }
        for first in keys.clone().step_by(KEY_BLOCK) {
            let block = first..(first + KEY_BLOCK).min(keys.end);
            let scores = &mut scores[..block.len()];
            for (member, partial) in partial.chunks_exact_mut(width).enumerate() {
                let q = call.q.row(batch, head * call.group + member, 0);
                for (score, key) in scores.iter_mut().zip(block.clone()) {
                    *score = math::dot(simd, q, call.k.row(batch, head, key)) * call.scale;
                }
                let (stats, values) = partial.split_at_mut(2);
                let max = stats[0].max(maximum(simd, scores));
                let decay = (stats[0] - max).exp();
                stats[1] = stats[1] * decay + exp_minus(simd, scores, max);
                stats[0] = max;
                let v = call.v.start(batch, head, block.start);
                weigh(
                    simd,
                    values,
                    decay,
                    scores,
                    &call.v.data[v..],
                    call.v.strides[2],
                );
            }
        }
    }
}

#[inline(always)]
fn maximum<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let (body, tail) = S::as_simd_f32s(x);
    let mut max = simd.splat_f32s(f32::NEG_INFINITY);
    for x in body {
        max = simd.max_f32s(max, *x);
    }
    tail.iter()
        .copied()
        .fold(simd.reduce_max_f32s(max), f32::max)
}

/// `x = exp(x − max)`; → the sum.
#[inline(always)]
fn exp_minus<S: Simd>(simd: S, x: &mut [f32], max: f32) -> f32 {
    let (body, tail) = S::as_mut_simd_f32s(x);
    let m = simd.splat_f32s(max);
    let mut sum = simd.splat_f32s(0.0);
    for x in body {
        *x = math::exp(simd, simd.sub_f32s(*x, m));
        sum = simd.add_f32s(sum, *x);
    }
    let mut sum = simd.reduce_sum_f32s(sum);
    if !tail.is_empty() {
        let y = math::exp(simd, simd.sub_f32s(simd.partial_load_f32s(tail), m));
        simd.partial_store_f32s(tail, y);
        for y in tail {
            sum += *y;
        }
    }
    sum
}

/// `values = values · decay + Σ weights[i] · v[i]`, the rows `v[i]` being `stride` apart.
#[inline(always)]
fn weigh<S: Simd>(
    simd: S,
    values: &mut [f32],
    decay: f32,
    weights: &[f32],
    v: &[f32],
    stride: usize,
) {
    let lanes = S::F32_LANES;
    let mut done = 0;
    while values.len() - done >= 4 * lanes {
        weigh_vectors::<S, 4>(simd, values, done, decay, weights, v, stride);
        done += 4 * lanes;
    }
    while values.len() - done >= lanes {
        weigh_vectors::<S, 1>(simd, values, done, decay, weights, v, stride);
        done += lanes;
    }
    for c in done..values.len() {
        let sum: f32 = weights
            .iter()
            .enumerate()
            .map(|(i, w)| w * v[i * stride + c])
            .sum();
        values[c] = values[c] * decay + sum;
    }
}

/// [`weigh`] for the `N` vectors from element `at` on, held in registers.
#[inline(always)]
fn weigh_vectors<S: Simd, const N: usize>(
    simd: S,
    values: &mut [f32],
    at: usize,
    decay: f32,
    weights: &[f32],
    v: &[f32],
    stride: usize,
) {
    let lanes = S::F32_LANES;
    let (values, _) = S::as_mut_simd_f32s(&mut values[at..at + N * lanes]);
    let mut acc = [simd.splat_f32s(0.0); N];
    for (i, weight) in weights.iter().enumerate() {
        let (row, _) = S::as_simd_f32s(&v[i * stride + at..][..N * lanes]);
        let weight = simd.splat_f32s(*weight);
        for j in 0..N {
            acc[j] = simd.mul_add_e_f32s(weight, row[j], acc[j]);
        }
    }
    let decay = simd.splat_f32s(decay);
    for j in 0..N {
        values[j] = simd.mul_add_e_f32s(values[j], decay, acc[j]);
    }
}

/// Some queries of one head against all the keys they may see.
struct Tile<'a> {
    call: Call<'a>,
    batch: usize,
    head: usize,
    queries: Range<usize>,
}

impl Tile<'_> {
    fn into(self, arch: Arch, scratch: &mut Vec<f32>, out: &Disjoint<'_>) {
        let Call {
            q,
            k,
            v,
            group,
            len,
            scale,
        } = self.call;
        let [_, h, s, d] = q.dims;
        let rows = self.queries.len();
        // The keys that the tile's last query sees; for the others the rest is masked below.
        let visible = len - s + self.queries.end;
        let size = rows * visible;
        if scratch.len() < size {
            scratch.resize(size, 0.0);
        }
        let scores = &mut scratch[..size];
        let (batch, kv_head) = (self.batch, self.head / group);
        let keys = &k.data[k.start(batch, kv_head, 0)..];
        let values = &v.data[v.start(batch, kv_head, 0)..];
        assert!(keys.len() >= (visible - 1) * k.strides[2] + d);
        assert!(values.len() >= (visible - 1) * v.strides[2] + d);
        // The bounds of the last row of queries, checked by taking it.
        let _ = q.row(batch, self.head, self.queries.end - 1);
        // SAFETY: `rows` rows of `q` from a valid start, `visible` rows of `keys` (asserted) and
        // `rows` × `visible` scores, which no other thread sees.
        unsafe {
            gemm::gemm(
                rows,
                visible,
                d,
                scores.as_mut_ptr(),
                1,
                visible as isize,
                false,
                q.data
                    .as_ptr()
                    .add(q.start(batch, self.head, self.queries.start)),
                1,
                q.strides[2] as isize,
                keys.as_ptr(),
                k.strides[2] as isize,
                1,
                0.0f32,
                scale,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
        let first = ((batch * s + self.queries.start) * h + self.head) * d;
        arch.dispatch(Softmax { scores, visible });
        // SAFETY: `rows` × `visible` weights, `visible` rows of `values` (asserted), and the `D`
        // columns of this head in `rows` rows of `out`, which no other tile writes.
        unsafe {
            gemm::gemm(
                rows,
                d,
                visible,
                out.at(first),
                1,
                (h * d) as isize,
                false,
                scores.as_ptr(),
                1,
                visible as isize,
                values.as_ptr(),
                1,
                v.strides[2] as isize,
                0.0f32,
                1.0f32,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }
}

/// Causal softmax of a tile's scores in place: the last row sees all `visible` keys, each row
/// before it one fewer.
struct Softmax<'a> {
    scores: &'a mut [f32],
    visible: usize,
}

impl WithSimd for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let rows = self.scores.len() / self.visible;
        for (i, row) in self.scores.chunks_exact_mut(self.visible).enumerate() {
            let (seen, masked) = row.split_at_mut(self.visible + 1 + i - rows);
            masked.fill(0.0);
            let max = maximum(simd, seen);
            let sum = exp_minus(simd, seen, max);
            let (body, tail) = S::as_mut_simd_f32s(seen);
            let scale = simd.splat_f32s(1.0 / sum);
            for x in body {
                *x = simd.mul_f32s(*x, scale);
            }
            for x in tail {
                *x /= sum;
            }
        }
    }
}
