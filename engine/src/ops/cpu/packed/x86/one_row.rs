//! Products of one row of `x`: weights go from their bytes into the sums without a stop in memory.

use std::arch::x86_64::*;
use std::borrow::Cow;
use std::cell::Cell;

use super::super::formats::BLOCK;
use super::{AHEAD_OF_ROWS, Widen, far_apart, halves_avx512, sum_of, sums_of_four};
use crate::ops::arch::{Arch, prefetch};

/// Weight rows that are read at once: one alone would bound the speed by the time that its last sum takes to come out.
const ROWS: usize = 4;

/// See [`OneRow::arrange`].
type Arrange = fn(&[f32]) -> Cow<'_, [f32]>;
/// See [`OneRow::products`].
type Rows = unsafe fn(&[u8], &[f32], &mut [f32]);

/// The products of one row of `x` with packed rows: weights go from their bytes into the sums without a stop in memory.
#[derive(Clone, Copy)]
pub(in super::super::super) struct OneRow {
    arrange: Arrange,
    rows: Rows,
}

impl OneRow {
    /// For these vector instructions; none where they do not suffice.
    pub(in super::super::super) fn new<B: Widen>(arch: Arch) -> Option<Self> {
        let f16c = is_x86_feature_detected!("f16c");
        match arch {
            Arch::Avx2(_) if f16c => Some(Self {
                arrange: arrange::<B>,
                rows: rows_avx2::<B>,
            }),
            Arch::Detected(pulp::Arch::V4(_)) if f16c => Some(Self {
                arrange: |x| x.into(),
                rows: rows_avx512::<B>,
            }),
            _ => None,
        }
    }

    /// `x` as [`OneRow::products`] takes it.
    pub(in super::super::super) fn arrange(self, x: &[f32]) -> Cow<'_, [f32]> {
        (self.arrange)(x)
    }

    /// Writes the products of `x`, arranged, with `y.len()` rows.
    ///
    /// # Safety
    /// `rows` are as many rows of the format that this was made for, each as long as `x`.
    pub(in super::super::super) unsafe fn products(self, rows: &[u8], x: &[f32], y: &mut [f32]) {
        // SAFETY: the processor has what it was chosen for, the rest is the caller's.
        unsafe { (self.rows)(rows, x, y) }
    }
}

fn arrange<B: Widen>(x: &[f32]) -> Cow<'_, [f32]> {
    let blocks = x.as_chunks::<BLOCK>().0;
    let mut arranged = vec![0.0; blocks.len() * B::ARRANGED];
    for (x, into) in blocks.iter().zip(arranged.chunks_exact_mut(B::ARRANGED)) {
        B::arrange(x, into);
    }
    arranged.into()
}

/// # Safety
/// The processor has what this is compiled for; else as of [`OneRow::products`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn rows_avx2<B: Widen>(rows: &[u8], x: &[f32], y: &mut [f32]) {
    let blocks = x.len() / B::ARRANGED;
    let start = |row: usize| rows[row * blocks * B::BYTES..].as_ptr();
    let y = Cell::from_mut(y).as_slice_of_cells();
    far_apart::<ROWS>(
        y.len(),
        |at| {
            // SAFETY: the caller's, and these are rows of the matrix.
            let sums = unsafe { tile_avx2::<B, ROWS>(at.map(start), x, blocks) };
            at.into_iter()
                .zip(sums_of_four(sums))
                .for_each(|(at, sum)| y[at].set(sum));
        },
        |at| {
            // SAFETY: as above.
            let [sum] = unsafe { tile_avx2::<B, 1>([start(at)], x, blocks) };
            y[at].set(sum_of(sum));
        },
    );
}

/// # Safety
/// As of [`rows_avx2`], each of `rows` the first of as many blocks.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile_avx2<B: Widen, const R: usize>(
    rows: [*const u8; R],
    x: &[f32],
    blocks: usize,
) -> [__m256; R] {
    let mut sums = [[_mm256_setzero_ps(); 2]; R];
    for block in 0..blocks {
        // SAFETY: of as many blocks.
        let x = unsafe { x.as_ptr().add(block * B::ARRANGED) };
        for (row, sums) in rows.iter().zip(&mut sums) {
            let at = row.wrapping_add(block * B::BYTES);
            prefetch(at.cast(), AHEAD_OF_ROWS);
            // SAFETY: by the caller's promise the row has a block for every one of x.
            unsafe { B::add_avx2(at, x, sums) };
        }
    }
    sums.map(|[a, b]| _mm256_add_ps(a, b))
}

/// # Safety
/// As of [`rows_avx2`], with `x` in order.
#[target_feature(enable = "avx512f,avx512bw,f16c")]
unsafe fn rows_avx512<B: Widen>(rows: &[u8], x: &[f32], y: &mut [f32]) {
    let blocks = x.len() / BLOCK;
    let start = |row: usize| rows[row * blocks * B::BYTES..].as_ptr();
    let y = Cell::from_mut(y).as_slice_of_cells();
    far_apart::<ROWS>(
        y.len(),
        |at| {
            // SAFETY: the caller's, and these are rows of the matrix.
            let sums = unsafe { tile_avx512::<B, ROWS>(at.map(start), x, blocks) };
            at.into_iter()
                .zip(sums_of_four(sums))
                .for_each(|(at, sum)| y[at].set(sum));
        },
        |at| {
            // SAFETY: as above.
            let [sum] = unsafe { tile_avx512::<B, 1>([start(at)], x, blocks) };
            y[at].set(sum_of(sum));
        },
    );
}

/// # Safety
/// As of [`rows_avx512`], each of `rows` the first of as many blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,f16c")]
unsafe fn tile_avx512<B: Widen, const R: usize>(
    rows: [*const u8; R],
    x: &[f32],
    blocks: usize,
) -> [__m256; R] {
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    for block in 0..blocks {
        // SAFETY: of as many blocks.
        let x = unsafe { x.as_ptr().add(block * BLOCK) };
        for (row, sums) in rows.iter().zip(&mut sums) {
            let at = row.wrapping_add(block * B::BYTES);
            prefetch(at.cast(), AHEAD_OF_ROWS);
            // SAFETY: by the caller's promise the row has a block for every one of x.
            unsafe { B::add_avx512(at, x, sums) };
        }
    }
    sums.map(|[a, b]| halves_avx512(_mm512_add_ps(a, b)))
}
