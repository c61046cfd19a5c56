//! Products of a few rows of `x`: every weight is unpacked in a register, and meets the rows of `x` there.

use std::arch::x86_64::*;
use std::hint::black_box;
use std::ops::Range;

use super::super::formats::BLOCK;
use super::{AHEAD_OF_ROWS, PARTS, Widen, far_apart, halves_avx512, sum_of, sums_of_four};
use crate::ops::arch::{Arch, prefetch};
use crate::ops::cpu::view::Lines;

/// Most rows of `x` that share a pass over the weights: as many as leave their sums with two weight rows in 16 registers.
const GROUP_AVX2: usize = 6;
/// The same, with three weight rows in 32 registers.
const GROUP_AVX512: usize = 8;
/// Weight rows that the groups come back to one after the other: few enough to stay in a cache.
const CHUNK: usize = 24;

/// See [`FewRows::arrange`].
type Arrange = fn(&[f32], usize) -> Lines;
/// See [`FewRows::products`].
type Rows = unsafe fn(&[u8], &[f32], usize, *mut f32, usize);

/// The products of a few rows of `x`, at least two, with packed rows.
#[derive(Clone, Copy)]
pub(in super::super::super) struct FewRows {
    arrange: Arrange,
    rows: Rows,
}

impl FewRows {
    /// For these vector instructions; none where they do not suffice.
    pub(in super::super::super) fn new<B: Widen>(arch: Arch) -> Option<Self> {
        let f16c = is_x86_feature_detected!("f16c");
        match arch {
            Arch::Avx2(_) if f16c => Some(Self {
                // SAFETY: the processor has AVX2.
                arrange: |x, k| unsafe { arrange_avx2::<B>(x, k) },
                rows: rows_avx2::<B>,
            }),
            Arch::Detected(pulp::Arch::V4(_)) if f16c => Some(Self {
                arrange: |x, k| arrange::<16>(x, k, GROUP_AVX512),
                rows: rows_avx512::<B>,
            }),
            _ => None,
        }
    }

    /// The rows of `x`, of `k` elements each, as [`FewRows::products`] takes them: of each group of rows the first vector
    /// of every row, then the second, and so on, so that one pointer serves them all.
    pub(in super::super::super) fn arrange(self, x: &[f32], k: usize) -> Lines {
        (self.arrange)(x, k)
    }

    /// Writes the products of the rows of `x`, arranged, with all of `rows`: those of the first row from `y` on, those of
    /// every other `stride` further.
    ///
    /// # Safety
    /// `rows` are of the format that this was made for, and of `k` elements each, as those of `x`; all that is written
    /// belongs to the caller.
    pub(in super::super::super) unsafe fn products(
        self,
        rows: &[u8],
        x: &[f32],
        k: usize,
        y: *mut f32,
        stride: usize,
    ) {
        // SAFETY: the processor has what it was chosen for, the rest is the caller's.
        unsafe { (self.rows)(rows, x, k, y, stride) }
    }
}

/// Ranges of `m` rows, about equally long, each of at most `most`, which is more than 2; so none is of one row, where there
/// are more.
fn groups(m: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let groups = m.div_ceil(most);
    (0..groups).map(move |i| i * m / groups..(i + 1) * m / groups)
}

/// `x` group by group, of at most `most` rows, in vectors of `L`.
fn arrange<const L: usize>(x: &[f32], k: usize, most: usize) -> Lines {
    let mut arranged = Lines::zeros(x.len());
    for group in groups(x.len() / k, most) {
        let rows = group.len();
        let span = group.start * k..group.end * k;
        let (x, into) = (&x[span.clone()], &mut arranged[span]);
        for (j, row) in x.chunks_exact(k).enumerate() {
            let (vectors, _) = row.as_chunks::<L>();
            let (into, _) = into.as_chunks_mut::<L>();
            for (i, vector) in vectors.iter().enumerate() {
                into[i * rows + j] = *vector;
            }
        }
    }
    arranged
}

/// As [`arrange`], with elements where [`Widen::part_avx2`] has their weights.
#[target_feature(enable = "avx2")]
fn arrange_avx2<B: Widen>(x: &[f32], k: usize) -> Lines {
    if !B::PAIRED {
        return arrange::<8>(x, k, GROUP_AVX2);
    }
    let mut arranged = Lines::zeros(x.len());
    for group in groups(x.len() / k, GROUP_AVX2) {
        let rows = group.len();
        let span = group.start * k..group.end * k;
        let (x, into) = (&x[span.clone()], &mut arranged[span]);
        for (j, row) in x.chunks_exact(k).enumerate() {
            let (sixteens, _) = row.as_chunks::<16>();
            let (into, _) = into.as_chunks_mut::<8>();
            for (i, x) in sixteens.iter().enumerate() {
                // SAFETY: 16 readable floats; the loads need no alignment.
                let (a, b) = unsafe {
                    (
                        _mm256_loadu_ps(x.as_ptr()),
                        _mm256_loadu_ps(x[8..].as_ptr()),
                    )
                };
                let (even, odd) = (
                    _mm256_shuffle_ps::<0x88>(a, b),
                    _mm256_shuffle_ps::<0xdd>(a, b),
                );
                for (i, half) in [2 * i, 2 * i + 1].into_iter().zip([even, odd]) {
                    let half = _mm256_permute4x64_epi64::<0xd8>(_mm256_castps_si256(half));
                    // SAFETY: 8 writable floats; the store needs no alignment.
                    unsafe { _mm256_storeu_si256(into[i * rows + j].as_mut_ptr().cast(), half) };
                }
            }
        }
    }
    arranged
}

/// Calls `part` with some weight rows and at most `most` rows of `x`, until all have met.
#[inline(always)]
fn meet(columns: usize, m: usize, most: usize, mut part: impl FnMut(Range<usize>, Range<usize>)) {
    let chunk = if m <= most { columns } else { CHUNK };
    for start in (0..columns).step_by(chunk) {
        for group in groups(m, most) {
            part(start..(start + chunk).min(columns), group);
        }
    }
}

/// # Safety
/// The processor has what this is compiled for; else as of [`FewRows::products`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows_avx2<B: Widen>(rows: &[u8], x: &[f32], k: usize, y: *mut f32, stride: usize) {
    let row_bytes = k / BLOCK * B::BYTES;
    meet(
        rows.len() / row_bytes,
        x.len() / k,
        GROUP_AVX2,
        |columns, group| {
            let rows = &rows[columns.start * row_bytes..columns.end * row_bytes];
            let x = &x[group.start * k..group.end * k];
            // SAFETY: the caller's, of some of the rows.
            unsafe {
                let y = y.add(group.start * stride + columns.start);
                match group.len() {
                    2 => group_avx2::<B, 3, 2>(rows, x, y, stride),
                    3 => group_avx2::<B, 2, 3>(rows, x, y, stride),
                    4 => group_avx2::<B, 2, 4>(rows, x, y, stride),
                    5 => group_avx2::<B, 2, 5>(rows, x, y, stride),
                    6 => group_avx2::<B, 2, 6>(rows, x, y, stride),
                    m => unreachable!("groups of 2 to {GROUP_AVX2} rows have none of {m}"),
                }
            }
        },
    );
}

/// The products of `M` rows of `x` with all of `rows`, `R` at a time.
///
/// # Safety
/// As of [`rows_avx2`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn group_avx2<B: Widen, const R: usize, const M: usize>(
    rows: &[u8],
    x: &[f32],
    y: *mut f32,
    stride: usize,
) {
    let blocks = x.len() / M / BLOCK;
    let start = |row: usize| rows[row * blocks * B::BYTES..].as_ptr();
    far_apart::<R>(
        rows.len() / (blocks * B::BYTES),
        // SAFETY: the caller's, and these are rows of the matrix.
        |at| unsafe { tile_avx2::<B, R, M>(at.map(start), x, at.map(|at| y.add(at)), stride) },
        // SAFETY: as above.
        |at| unsafe { tile_avx2::<B, 1, M>([start(at)], x, [y.add(at)], stride) },
    );
}

/// # Safety
/// As of [`rows_avx2`]: each of `rows` the first of as many blocks as a row of `x` has, each of `y` where the products of
/// the first row of `x` go.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile_avx2<B: Widen, const R: usize, const M: usize>(
    rows: [*const u8; R],
    x: &[f32],
    y: [*mut f32; R],
    stride: usize,
) {
    let mut sums = [[_mm256_setzero_ps(); M]; R];
    let mut x_at = x.as_ptr();
    for block in 0..x.len() / M / BLOCK {
        let mut at = rows;
        for at in &mut at {
            *at = at.wrapping_add(block * B::BYTES);
            prefetch(at.cast(), AHEAD_OF_ROWS);
        }
        // SAFETY: by the caller's promise each row has a block for every one of x.
        let bits = at.map(|at| unsafe { B::bits_avx2(at) });
        // SAFETY: as above.
        let scales = at.map(|at| unsafe { _mm256_mul_ps(B::scale(at), _mm256_set1_ps(B::UNIT)) });
        for part in 0..PARTS {
            let mut weights = [_mm256_setzero_ps(); R];
            for r in 0..R {
                // SAFETY: as above.
                weights[r] = unsafe { B::part_avx2(at[r], bits[r], part) };
                if B::SCALED {
                    let scale = match R * M {
                        // So many sums leave no register for it: the compiler would rather keep sums in memory.
                        // SAFETY: in place.
                        12.. => unsafe { (&raw const scales[r]).read_volatile() },
                        _ => scales[r],
                    };
                    weights[r] = _mm256_mul_ps(weights[r], scale);
                }
            }
            #[expect(
                clippy::needless_range_loop,
                reason = "j numbers vectors of x as well as sums"
            )]
            for j in 0..M {
                // SAFETY: vector j of this part of the block, of M; the load needs no alignment.
                let x = unsafe { _mm256_loadu_ps(x_at.add(8 * (part * M + j))) };
                for r in 0..R {
                    sums[r][j] = _mm256_fmadd_ps(weights[r], x, sums[r][j]);
                }
            }
        }
        // The last step leaves it one past the end, unread.
        x_at = x_at.wrapping_add(BLOCK * M);
    }
    // Opaque to the compiler, which would else keep the sums in memory throughout the loop above for the sake of those
    // below.
    let sums = black_box(sums);
    // SAFETY: the caller's.
    unsafe { put(&sums, y, stride) };
}

/// Writes the sum of each vector to where the product that it is the sum of goes.
///
/// # Safety
/// As of [`tile_avx2`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn put<const R: usize, const M: usize>(
    sums: &[[__m256; M]; R],
    y: [*mut f32; R],
    stride: usize,
) {
    let put = |i: usize, sum: f32| {
        // SAFETY: the caller's.
        unsafe { *y[i / M].add(i % M * stride) = sum };
    };
    let (fours, rest) = sums.as_flattened().as_chunks::<4>();
    for (i, &four) in fours.iter().enumerate() {
        for (j, sum) in sums_of_four(four).into_iter().enumerate() {
            put(4 * i + j, sum);
        }
    }
    for (i, &vector) in rest.iter().enumerate() {
        put(4 * fours.len() + i, sum_of(vector));
    }
}

/// # Safety
/// As of [`rows_avx2`].
#[target_feature(enable = "avx512f,avx512bw,f16c")]
unsafe fn rows_avx512<B: Widen>(rows: &[u8], x: &[f32], k: usize, y: *mut f32, stride: usize) {
    let row_bytes = k / BLOCK * B::BYTES;
    meet(
        rows.len() / row_bytes,
        x.len() / k,
        GROUP_AVX512,
        |columns, group| {
            let rows = &rows[columns.start * row_bytes..columns.end * row_bytes];
            let x = &x[group.start * k..group.end * k];
            // SAFETY: the caller's, of some of the rows.
            unsafe {
                let y = y.add(group.start * stride + columns.start);
                match group.len() {
                    2 => group_avx512::<B, 4, 2>(rows, x, y, stride),
                    3 => group_avx512::<B, 4, 3>(rows, x, y, stride),
                    4 => group_avx512::<B, 4, 4>(rows, x, y, stride),
                    5 => group_avx512::<B, 4, 5>(rows, x, y, stride),
                    6 => group_avx512::<B, 3, 6>(rows, x, y, stride),
                    7 => group_avx512::<B, 3, 7>(rows, x, y, stride),
                    8 => group_avx512::<B, 3, 8>(rows, x, y, stride),
                    m => unreachable!("groups of 2 to {GROUP_AVX512} rows have none of {m}"),
                }
            }
        },
    );
}

/// As [`group_avx2`].
///
/// # Safety
/// As of [`rows_avx512`].
#[target_feature(enable = "avx512f,avx512bw,f16c")]
unsafe fn group_avx512<B: Widen, const R: usize, const M: usize>(
    rows: &[u8],
    x: &[f32],
    y: *mut f32,
    stride: usize,
) {
    let blocks = x.len() / M / BLOCK;
    let start = |row: usize| rows[row * blocks * B::BYTES..].as_ptr();
    far_apart::<R>(
        rows.len() / (blocks * B::BYTES),
        // SAFETY: the caller's, and these are rows of the matrix.
        |at| unsafe { tile_avx512::<B, R, M>(at.map(start), x, at.map(|at| y.add(at)), stride) },
        // SAFETY: as above.
        |at| unsafe { tile_avx512::<B, 1, M>([start(at)], x, [y.add(at)], stride) },
    );
}

/// As [`tile_avx2`].
///
/// # Safety
/// As of [`rows_avx512`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,f16c")]
unsafe fn tile_avx512<B: Widen, const R: usize, const M: usize>(
    rows: [*const u8; R],
    x: &[f32],
    y: [*mut f32; R],
    stride: usize,
) {
    let mut sums = [[_mm512_setzero_ps(); M]; R];
    let mut x_at = x.as_ptr();
    for block in 0..x.len() / M / BLOCK {
        let mut weights = [[_mm512_setzero_ps(); R]; 2];
        for r in 0..R {
            let at = rows[r].wrapping_add(block * B::BYTES);
            prefetch(at.cast(), AHEAD_OF_ROWS);
            // SAFETY: by the caller's promise each row has a block for every one of x.
            let [low, high] = unsafe { B::avx512(at) };
            [weights[0][r], weights[1][r]] = match B::SCALED {
                true => {
                    // SAFETY: as above.
                    let scale = _mm256_castps256_ps128(unsafe { B::scale(at) });
                    let scale = _mm512_broadcastss_ps(scale);
                    [_mm512_mul_ps(low, scale), _mm512_mul_ps(high, scale)]
                }
                false => [low, high],
            };
        }
        for (part, weights) in weights.iter().enumerate() {
            #[expect(
                clippy::needless_range_loop,
                reason = "j numbers vectors of x as well as sums"
            )]
            for j in 0..M {
                // SAFETY: vector j of this half of the block, of M; the load needs no alignment.
                let x = unsafe { _mm512_loadu_ps(x_at.add(16 * (part * M + j))) };
                for r in 0..R {
                    sums[r][j] = _mm512_fmadd_ps(weights[r], x, sums[r][j]);
                }
            }
        }
        // The last step leaves it one past the end, unread.
        x_at = x_at.wrapping_add(BLOCK * M);
    }
    // As above.
    let sums = black_box(sums);
    let mut folded = [[_mm256_setzero_ps(); M]; R];
    for (sums, folded) in sums.iter().zip(&mut folded) {
        for (sum, folded) in sums.iter().zip(folded) {
            *folded = halves_avx512(*sum);
        }
    }
    // SAFETY: the caller's.
    unsafe { put(&folded, y, stride) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_every_row_once_and_more_than_one_each() {
        for most in [GROUP_AVX2, GROUP_AVX512] {
            for m in 2..200 {
                let all: Vec<usize> = groups(m, most).flatten().collect();
                assert_eq!(all, (0..m).collect::<Vec<_>>());
                assert!(
                    groups(m, most).all(|group| (2..=most).contains(&group.len())),
                    "{m}"
                );
            }
        }
    }
}
