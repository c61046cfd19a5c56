//! Packed weights in the vector registers of x86-64: inside other loops, the compiler would unpack one weight at a
//! time.

mod few_rows;
mod one_row;

use std::arch::x86_64::*;

pub(in super::super) use few_rows::FewRows;
pub(in super::super) use one_row::OneRow;

use super::formats::{AHEAD, BF16, BLOCK, F16, Packed, Q4_0, Q8_0};
use crate::ops::arch::prefetch;

/// Vectors of 8 that a block of weights fills.
const PARTS: usize = BLOCK / 8;

/// A format in vector registers: its weights in order, a block's part of a sum, and its weights one vector at a time.
pub(in super::super) trait Widen: Packed {
    /// Whether a block begins with a scale.
    const SCALED: bool;
    /// Elements of `x` for a block, as [`Widen::arrange`] lays them out.
    const ARRANGED: usize = BLOCK;
    /// Whether the parts of a block are, of 16 neighbours, the even ones and then the odd ones: else they are in order.
    const PAIRED: bool = false;
    /// What of a block's scale its parts are multiples of: a power of 2.
    const UNIT: f32 = 1.0;
    /// What the parts of a block have in common.
    type Bits: Copy;

    /// Lays the elements of `x` that a block meets out for [`Widen::add_avx2`].
    fn arrange(x: &[f32; BLOCK], into: &mut [f32]) {
        into.copy_from_slice(x);
    }

    /// The scale that all weights of a block are multiplied by, in every lane.
    ///
    /// # Safety
    /// The processor has AVX2 and F16C, and `block` is the first of [`Packed::BYTES`] readable bytes.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn scale(block: *const u8) -> __m256 {
        match Self::SCALED {
            // SAFETY: the caller's.
            true => unsafe { scale(block) },
            false => _mm256_set1_ps(1.0),
        }
    }

    /// The weights of a block before its scale, in order.
    ///
    /// # Safety
    /// As of [`Widen::scale`].
    unsafe fn avx2(block: *const u8) -> [__m256; 4];

    /// What [`Widen::part_avx2`] takes of this block.
    ///
    /// # Safety
    /// As of [`Widen::scale`].
    unsafe fn bits_avx2(block: *const u8) -> Self::Bits;

    /// One of the [`PARTS`] of a block's weights before its scale, divided by [`Widen::UNIT`].
    ///
    /// # Safety
    /// As of [`Widen::scale`].
    unsafe fn part_avx2(block: *const u8, bits: Self::Bits, part: usize) -> __m256;

    /// As [`Widen::avx2`].
    ///
    /// # Safety
    /// The processor has AVX-512 F and BW, and `block` is the first of [`Packed::BYTES`] readable bytes.
    unsafe fn avx512(block: *const u8) -> [__m512; 2];

    /// Adds the products of a block's weights and `x` to sums which do not wait for each other, and of which the sum is
    /// what counts.
    ///
    /// # Safety
    /// As of [`Widen::avx2`], and the processor has FMA; `x` is the first of [`Widen::ARRANGED`] readable floats.
    unsafe fn add_avx2(block: *const u8, x: *const f32, sums: &mut [__m256; 2]);

    /// As [`Widen::add_avx2`], of `x` in order.
    ///
    /// # Safety
    /// As of [`Widen::avx512`]; `x` is the first of [`BLOCK`] readable floats.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,f16c")]
    unsafe fn add_avx512(block: *const u8, x: *const f32, sums: &mut [__m512; 2]) {
        // SAFETY: the caller's.
        let (w, x) = unsafe { (Self::avx512(block), sixteens(x)) };
        if Self::SCALED {
            let dot = _mm512_fmadd_ps(w[1], x[1], _mm512_mul_ps(w[0], x[0]));
            // SAFETY: the caller's.
            let scale = _mm256_castps256_ps128(unsafe { Self::scale(block) });
            sums[0] = _mm512_fmadd_ps(_mm512_broadcastss_ps(scale), dot, sums[0]);
        } else {
            for ((w, x), sum) in w.into_iter().zip(x).zip(sums) {
                *sum = _mm512_fmadd_ps(w, x, *sum);
            }
        }
    }
}

impl Widen for Q8_0 {
    const SCALED: bool = true;
    type Bits = ();

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn avx2(block: *const u8) -> [__m256; 4] {
        [2, 10, 18, 26].map(|at| {
            // SAFETY: by the caller's promise: 32 bytes lie after the scale.
            let eight = unsafe { _mm_loadl_epi64(block.add(at).cast()) };
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight))
        })
    }

    #[inline]
    unsafe fn bits_avx2(_: *const u8) {}

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn part_avx2(block: *const u8, (): (), part: usize) -> __m256 {
        // SAFETY: by the caller's promise: 32 bytes lie after the scale.
        let eight = unsafe { _mm_loadl_epi64(block.add(2 + 8 * part).cast()) };
        _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn avx512(block: *const u8) -> [__m512; 2] {
        // SAFETY: by the caller's promise: 32 bytes lie after the scale.
        let halves = unsafe { [load(block.add(2)), load(block.add(18))] };
        halves.map(|q| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add_avx2(block: *const u8, x: *const f32, sums: &mut [__m256; 2]) {
        // SAFETY: the caller's.
        let (scale, w, x) = unsafe { (scale(block), Self::avx2(block), eights(x)) };
        let mut dot = _mm256_mul_ps(w[0], x[0]);
        for (w, x) in w.into_iter().zip(x).skip(1) {
            dot = _mm256_fmadd_ps(w, x, dot);
        }
        sums[0] = _mm256_fmadd_ps(scale, dot, sums[0]);
    }
}

/// Bits of a 16-bit pair of bytes that hold a weight each.
const NIBBLES: [i32; 4] = [15, 15 << 4, 15 << 8, 15 << 12];

impl Widen for Q4_0 {
    const SCALED: bool = true;

    /// And what the weights' offset of 8 makes of `x`.
    const ARRANGED: usize = BLOCK + 8;
    const PAIRED: bool = true;
    const UNIT: f32 = 1.0 / (1 << 28) as f32;
    /// The bytes of the block, two in the low half of every lane; each half of them less 8, in two's complement.
    type Bits = __m256i;

    /// The weights of each pair of bytes are taken where they lie in 32 bits, which multiplies them by a power of 16:
    /// `x` is divided by it, without loss.
    fn arrange(x: &[f32; BLOCK], into: &mut [f32]) {
        let (values, offsets) = into.split_at_mut(BLOCK);
        for (lane, offset) in offsets.iter_mut().enumerate() {
            let places = [2 * lane, 2 * lane + 16, 2 * lane + 1, 2 * lane + 17];
            for (i, (place, mask)) in places.into_iter().zip(NIBBLES).enumerate() {
                values[8 * i + lane] = x[place] / (mask / 15) as f32;
            }
            *offset = -8.0 * places.into_iter().map(|place| x[place]).sum::<f32>();
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn avx2(block: *const u8) -> [__m256; 4] {
        // SAFETY: by the caller's promise: 16 bytes lie after the scale.
        let q = unsafe { load(block.add(2)) };
        let (mask, eight) = (_mm_set1_epi8(15), _mm_set1_epi8(8));
        let low = _mm_sub_epi8(_mm_and_si128(q, mask), eight);
        let high = _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16::<4>(q), mask), eight);
        // One by one: of closures within closures the compiler makes calls.
        [
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(low)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(low, low))),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(high)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(high, high))),
        ]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn bits_avx2(block: *const u8) -> __m256i {
        // SAFETY: by the caller's promise: 16 bytes lie after the scale.
        let bits = _mm256_cvtepu16_epi32(unsafe { load(block.add(2)) });
        _mm256_xor_si256(bits, _mm256_set1_epi32(0x8888))
    }

    /// The weights become the highest bits of their lanes, sign and all.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn part_avx2(_: *const u8, bits: __m256i, part: usize) -> __m256 {
        let highest = match part {
            0 => _mm256_slli_epi32::<28>(bits),
            1 => _mm256_slli_epi32::<20>(bits),
            2 => _mm256_slli_epi32::<24>(bits),
            _ => _mm256_slli_epi32::<16>(bits),
        };
        let mask = _mm256_set1_epi32((15_u32 << 28).cast_signed());
        _mm256_cvtepi32_ps(_mm256_and_si256(highest, mask))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn avx512(block: *const u8) -> [__m512; 2] {
        // SAFETY: by the caller's promise: 16 bytes lie after the scale.
        let q = unsafe { _mm512_cvtepu8_epi32(load(block.add(2))) };
        let values = _mm512_setr_ps(
            -8., -7., -6., -5., -4., -3., -2., -1., 0., 1., 2., 3., 4., 5., 6., 7.,
        );
        // Of an index the low four bits count.
        [q, _mm512_srli_epi32::<4>(q)].map(|q| _mm512_permutexvar_ps(q, values))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add_avx2(block: *const u8, x: *const f32, sums: &mut [__m256; 2]) {
        // SAFETY: by the caller's promise 16 bytes lie after the scale, and 8 floats after those of the weights.
        let (scale, q, mut dot) = unsafe {
            let q = _mm256_cvtepu16_epi32(load(block.add(2)));
            (scale(block), q, _mm256_loadu_ps(x.add(BLOCK)))
        };
        // SAFETY: the caller's.
        let x = unsafe { eights(x) };
        for (mask, x) in NIBBLES.into_iter().zip(x) {
            let w = _mm256_cvtepi32_ps(_mm256_and_si256(q, _mm256_set1_epi32(mask)));
            dot = _mm256_fmadd_ps(w, x, dot);
        }
        sums[0] = _mm256_fmadd_ps(scale, dot, sums[0]);
    }
}

impl Widen for BF16 {
    const SCALED: bool = false;
    const PAIRED: bool = true;
    type Bits = ();

    /// Of 16 neighbours the even ones, then the odd ones: as shifting and masking 32 bits gives the weights.
    fn arrange(x: &[f32; BLOCK], into: &mut [f32]) {
        for (x, into) in x.chunks_exact(16).zip(into.chunks_exact_mut(16)) {
            let (even, odd) = into.split_at_mut(8);
            for ((pair, even), odd) in x.as_chunks::<2>().0.iter().zip(even).zip(odd) {
                [*even, *odd] = *pair;
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn avx2(block: *const u8) -> [__m256; 4] {
        [0, 16, 32, 48].map(|at| {
            // SAFETY: by the caller's promise: 64 bytes are readable.
            let bits = _mm256_cvtepu16_epi32(unsafe { load(block.add(at)) });
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
        })
    }

    #[inline]
    unsafe fn bits_avx2(_: *const u8) {}

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn part_avx2(block: *const u8, (): (), part: usize) -> __m256 {
        // SAFETY: by the caller's promise: 64 bytes are readable; the load needs no alignment.
        let bits = unsafe { _mm256_loadu_si256(block.add(part / 2 * 32).cast()) };
        let odd = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
        _mm256_castsi256_ps(match part % 2 {
            0 => _mm256_slli_epi32::<16>(bits),
            _ => _mm256_and_si256(bits, odd),
        })
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn avx512(block: *const u8) -> [__m512; 2] {
        [0, 32].map(|at| {
            // SAFETY: by the caller's promise: 64 bytes are readable; the load needs no alignment.
            let bits = _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(block.add(at).cast()) });
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        })
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn add_avx2(block: *const u8, x: *const f32, sums: &mut [__m256; 2]) {
        let odd = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
        // SAFETY: the caller's.
        let x = unsafe { eights(x) };
        for (i, at) in [0, 32].into_iter().enumerate() {
            // SAFETY: by the caller's promise: 64 bytes are readable; the load needs no alignment.
            let bits = unsafe { _mm256_loadu_si256(block.add(at).cast()) };
            let halves = [_mm256_slli_epi32::<16>(bits), _mm256_and_si256(bits, odd)];
            for (j, half) in halves
                .map(|half| _mm256_castsi256_ps(half))
                .into_iter()
                .enumerate()
            {
                sums[j] = _mm256_fmadd_ps(half, x[2 * i + j], sums[j]);
            }
        }
    }
}

impl Widen for F16 {
    const SCALED: bool = false;
    type Bits = ();

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn avx2(block: *const u8) -> [__m256; 4] {
        // SAFETY: by the caller's promise: 64 bytes are readable.
        [0, 16, 32, 48].map(|at| _mm256_cvtph_ps(unsafe { load(block.add(at)) }))
    }

    #[inline]
    unsafe fn bits_avx2(_: *const u8) {}

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn part_avx2(block: *const u8, (): (), part: usize) -> __m256 {
        // SAFETY: by the caller's promise: 64 bytes are readable.
        _mm256_cvtph_ps(unsafe { load(block.add(16 * part)) })
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn avx512(block: *const u8) -> [__m512; 2] {
        // SAFETY: by the caller's promise: 64 bytes are readable; the load needs no alignment.
        [0, 32].map(|at| _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(block.add(at).cast()) }))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn add_avx2(block: *const u8, x: *const f32, sums: &mut [__m256; 2]) {
        // SAFETY: the caller's.
        let (w, x) = unsafe { (Self::avx2(block), eights(x)) };
        for (i, (w, x)) in w.into_iter().zip(x).enumerate() {
            sums[i % 2] = _mm256_fmadd_ps(w, x, sums[i % 2]);
        }
    }
}

/// # Safety
/// `bytes` is the first of 16 readable ones.
#[inline]
unsafe fn load(bytes: *const u8) -> __m128i {
    // SAFETY: by the caller's promise; the load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.cast()) }
}

/// # Safety
/// `x` is the first of 32 readable floats.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn eights(x: *const f32) -> [__m256; 4] {
    // SAFETY: by the caller's promise; the load needs no alignment.
    [0, 8, 16, 24].map(|at| unsafe { _mm256_loadu_ps(x.add(at)) })
}

/// # Safety
/// `x` is the first of 32 readable floats.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn sixteens(x: *const f32) -> [__m512; 2] {
    // SAFETY: by the caller's promise; the load needs no alignment.
    [0, 16].map(|at| unsafe { _mm512_loadu_ps(x.add(at)) })
}

/// The scale that a block begins with, in every lane. The instruction heeds subnormals whatever the thread does with
/// those of f32.
///
/// # Safety
/// `block` is the first of at least 2 readable bytes.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn scale(block: *const u8) -> __m256 {
    // SAFETY: by the caller's promise; the read needs no alignment.
    let bits = u16::from_le(unsafe { block.cast::<u16>().read_unaligned() });
    _mm256_cvtph_ps(_mm_set1_epi16(bits.cast_signed()))
}

/// Bytes ahead of the block at hand that are asked for: as many as keep one core busy that has a memory channel to itself.
const AHEAD_OF_ROWS: usize = 2048;

/// The sum of each of four vectors.
#[inline]
#[target_feature(enable = "avx2")]
fn sums_of_four([a, b, c, d]: [__m256; 4]) -> [f32; 4] {
    let halves = halves(_mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d)));
    let mut sums = [0f32; 4];
    // SAFETY: 4 writable floats; the store needs no alignment.
    unsafe { _mm_storeu_ps(sums.as_mut_ptr(), halves) };
    sums
}

/// The sum of a vector.
#[inline]
#[target_feature(enable = "avx2")]
fn sum_of(vector: __m256) -> f32 {
    let four = halves(vector);
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// The sum of the two halves of a vector.
#[inline]
#[target_feature(enable = "avx2")]
fn halves(vector: __m256) -> __m128 {
    _mm_add_ps(
        _mm256_castps256_ps128(vector),
        _mm256_extractf128_ps::<1>(vector),
    )
}

/// As [`halves`].
#[inline]
#[target_feature(enable = "avx512f")]
fn halves_avx512(vector: __m512) -> __m256 {
    let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(vector));
    _mm256_add_ps(_mm512_castps512_ps256(vector), _mm256_castpd_ps(high))
}

/// Calls `tile` with every `R` of `count` rows, which lie far apart, so that each is part of a stream that goes on where it
/// ends; and `single` with those that are left.
#[inline(always)]
fn far_apart<const R: usize>(
    count: usize,
    mut tile: impl FnMut([usize; R]),
    single: impl FnMut(usize),
) {
    let apart = count / R;
    for first in 0..apart {
        tile(std::array::from_fn(|r| first + r * apart));
    }
    (R * apart..count).for_each(single);
}

/// The values of whole blocks.
#[target_feature(enable = "avx2,f16c")]
pub(super) fn unpack<B: Widen>(packed: &[u8], out: &mut [f32]) {
    let (out, _) = out.as_chunks_mut::<BLOCK>();
    for (block, out) in packed.chunks_exact(B::BYTES).zip(out) {
        prefetch(block.as_ptr().cast(), AHEAD);
        // SAFETY: a whole block, and the processor has what this function is compiled for.
        let (scale, values) = unsafe { (B::scale(block.as_ptr()), B::avx2(block.as_ptr())) };
        for (values, out) in values.into_iter().zip(out.as_chunks_mut::<8>().0) {
            // SAFETY: 8 writable floats; the store needs no alignment.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_mul_ps(values, scale)) };
        }
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn every_scale_is_that_of_its_bits() {
        if !is_x86_feature_detected!("avx2") || !is_x86_feature_detected!("f16c") {
            return;
        }
        crate::threads::flush_denormals();
        for bits in (0..=u16::MAX).filter(|bits| bits & 0x7c00 != 0x7c00) {
            // SAFETY: two bytes, and the processor has the instruction.
            let got = unsafe { _mm256_cvtss_f32(scale(bits.to_le_bytes().as_ptr())) };
            assert_eq!(f64::from(got), f16::from_bits(bits).to_f64(), "{bits:#x}");
        }
    }
}
