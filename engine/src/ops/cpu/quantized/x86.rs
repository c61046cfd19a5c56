//! Packed weights in the vector registers of x86-64: inside other loops, the compiler would unpack one weight at a
//! time.

use std::arch::x86_64::*;

use super::packed::{AHEAD, BF16, BLOCK, F16, Packed, Q4_0, Q8_0};
use crate::ops::arch::{Arch, prefetch};

/// The weights of a block before its scale, in order.
pub(in super::super) trait Widen: Packed {
    /// The scale that they are multiplied by.
    ///
    /// # Safety
    /// The processor has F16C, and `block` is the first of [`Packed::BYTES`] readable bytes.
    #[inline(always)]
    unsafe fn scale(block: *const u8) -> f32 {
        // SAFETY: the caller's.
        unsafe { scale(block) }
    }

    /// # Safety
    /// The processor has AVX2 and F16C, and `block` is the first of [`Packed::BYTES`] readable bytes.
    unsafe fn avx2(block: *const u8) -> [__m256; 4];

    /// # Safety
    /// The processor has AVX-512 F and BW, and `block` is the first of [`Packed::BYTES`] readable bytes.
    unsafe fn avx512(block: *const u8) -> [__m512; 2];
}

impl Widen for Q8_0 {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn avx2(block: *const u8) -> [__m256; 4] {
        // SAFETY: by the caller's promise: 32 bytes lie after the scale.
        let [low, high] = unsafe { [load(block.add(2)), load(block.add(18))] };
        let [a, b] = eights(low);
        let [c, d] = eights(high);
        [a, b, c, d]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn avx512(block: *const u8) -> [__m512; 2] {
        // SAFETY: by the caller's promise: 32 bytes lie after the scale.
        let halves = unsafe { [load(block.add(2)), load(block.add(18))] };
        halves.map(|q| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q)))
    }
}

impl Widen for Q4_0 {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn avx2(block: *const u8) -> [__m256; 4] {
        // SAFETY: by the caller's promise: 16 bytes lie after the scale.
        let q = unsafe { load(block.add(2)) };
        let (mask, eight) = (_mm_set1_epi8(15), _mm_set1_epi8(8));
        let [low, high] = [q, _mm_srli_epi16::<4>(q)]
            .map(|q| eights(_mm_sub_epi8(_mm_and_si128(q, mask), eight)));
        [low[0], low[1], high[0], high[1]]
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
}

impl Widen for BF16 {
    #[inline(always)]
    unsafe fn scale(_: *const u8) -> f32 {
        1.0
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
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn avx512(block: *const u8) -> [__m512; 2] {
        [0, 32].map(|at| {
            // SAFETY: by the caller's promise: 64 bytes are readable; the load needs no alignment.
            let bits = _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(block.add(at).cast()) });
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(bits))
        })
    }
}

impl Widen for F16 {
    #[inline(always)]
    unsafe fn scale(_: *const u8) -> f32 {
        1.0
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn avx2(block: *const u8) -> [__m256; 4] {
        // SAFETY: by the caller's promise: 64 bytes are readable.
        [0, 16, 32, 48].map(|at| _mm256_cvtph_ps(unsafe { load(block.add(at)) }))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn avx512(block: *const u8) -> [__m512; 2] {
        // SAFETY: by the caller's promise: 64 bytes are readable; the load needs no alignment.
        [0, 32].map(|at| _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(block.add(at).cast()) }))
    }
}

/// # Safety
/// `bytes` is the first of 16 readable ones.
#[inline]
unsafe fn load(bytes: *const u8) -> __m128i {
    // SAFETY: by the caller's promise; the load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.cast()) }
}

/// 16 signed bytes as floats.
#[inline]
#[target_feature(enable = "avx2")]
fn eights(q: __m128i) -> [__m256; 2] {
    [q, _mm_unpackhi_epi64(q, q)].map(|q| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(q)))
}

/// The scale that a block begins with. The instruction heeds subnormals whatever the thread does with those of f32.
///
/// # Safety
/// `block` is the first of at least 2 readable bytes.
#[inline]
#[target_feature(enable = "f16c")]
unsafe fn scale(block: *const u8) -> f32 {
    // SAFETY: by the caller's promise; the read needs no alignment.
    let bits = u16::from_le(unsafe { block.cast::<u16>().read_unaligned() });
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))))
}

/// The values of whole blocks.
#[target_feature(enable = "avx2,f16c")]
pub(super) fn unpack<B: Widen>(packed: &[u8], out: &mut [f32]) {
    let (out, _) = out.as_chunks_mut::<BLOCK>();
    for (block, out) in packed.chunks_exact(B::BYTES).zip(out) {
        prefetch(block.as_ptr().cast(), AHEAD);
        // SAFETY: a whole block, and the processor has what this function is compiled for.
        let (scale, values) = unsafe { (B::scale(block.as_ptr()), B::avx2(block.as_ptr())) };
        let scale = _mm256_set1_ps(scale);
        for (values, out) in values.into_iter().zip(out.as_chunks_mut::<8>().0) {
            // SAFETY: 8 writable floats; the store needs no alignment.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_mul_ps(values, scale)) };
        }
    }
}

/// Sums that do not wait for each other: one alone would bound the speed by the time that an addition takes.
const SUMS: usize = 4;
/// Bytes ahead of the block at hand that are asked for: rows lie one after the other, and are read so.
const AHEAD_OF_ONE: usize = 4096;

/// The product of a row of packed weights with `x`: weights go from their bytes into the sums without a stop in memory.
pub(super) type Dot = unsafe fn(&[u8], &[f32]) -> f32;

/// The [`Dot`] for these vector instructions; none where they do not suffice. To be called with a row of whole blocks,
/// as many as `x` has.
pub(super) fn dot<B: Widen>(arch: Arch) -> Option<Dot> {
    let f16c = is_x86_feature_detected!("f16c");
    match arch {
        Arch::Avx2(_) if f16c => Some(dot_avx2::<B>),
        Arch::Detected(pulp::Arch::V4(_)) if f16c => Some(dot_avx512::<B>),
        _ => None,
    }
}

/// # Safety
/// The processor has what this is compiled for, and the row is as long as `x`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dot_avx2<B: Widen>(row: &[u8], x: &[f32]) -> f32 {
    let mut sums = [_mm256_setzero_ps(); SUMS];
    let mut block = row.as_ptr();
    let (whole, rest) = x.as_chunks::<BLOCK>().0.as_chunks::<SUMS>();
    let mut add = |sum: &mut __m256, x: &[f32; BLOCK]| {
        // SAFETY: 8 readable floats each; the load needs no alignment.
        let x = [0, 8, 16, 24].map(|at| unsafe { _mm256_loadu_ps(x[at..at + 8].as_ptr()) });
        prefetch(block.cast(), AHEAD_OF_ONE);
        // SAFETY: by the caller's promise the row has a block for every one of `x`.
        let (scale, w) = unsafe { (B::scale(block), B::avx2(block)) };
        let mut dot = _mm256_mul_ps(w[0], x[0]);
        for (w, x) in w.into_iter().zip(x).skip(1) {
            dot = _mm256_fmadd_ps(w, x, dot);
        }
        *sum = _mm256_fmadd_ps(_mm256_set1_ps(scale), dot, *sum);
        block = block.wrapping_add(B::BYTES);
    };
    for x in whole {
        sums.iter_mut().zip(x).for_each(|(sum, x)| add(sum, x));
    }
    sums.iter_mut().zip(rest).for_each(|(sum, x)| add(sum, x));
    let [a, b, c, d] = sums;
    let sum = _mm256_add_ps(_mm256_add_ps(a, b), _mm256_add_ps(c, d));
    let mut parts = [0f32; 8];
    // SAFETY: 8 writable floats; the store needs no alignment.
    unsafe { _mm256_storeu_ps(parts.as_mut_ptr(), sum) };
    parts.iter().sum()
}

/// # Safety
/// The processor has what this is compiled for, and the row is as long as `x`.
#[target_feature(enable = "avx512f,avx512bw,f16c")]
unsafe fn dot_avx512<B: Widen>(row: &[u8], x: &[f32]) -> f32 {
    let mut sums = [_mm512_setzero_ps(); SUMS];
    let mut block = row.as_ptr();
    let (whole, rest) = x.as_chunks::<BLOCK>().0.as_chunks::<SUMS>();
    let mut add = |sum: &mut __m512, x: &[f32; BLOCK]| {
        // SAFETY: 16 readable floats each; the load needs no alignment.
        let x = [0, 16].map(|at| unsafe { _mm512_loadu_ps(x[at..at + 16].as_ptr()) });
        prefetch(block.cast(), AHEAD_OF_ONE);
        // SAFETY: by the caller's promise the row has a block for every one of `x`.
        let (scale, w) = unsafe { (B::scale(block), B::avx512(block)) };
        let dot = _mm512_fmadd_ps(w[1], x[1], _mm512_mul_ps(w[0], x[0]));
        *sum = _mm512_fmadd_ps(_mm512_set1_ps(scale), dot, *sum);
        block = block.wrapping_add(B::BYTES);
    };
    for x in whole {
        sums.iter_mut().zip(x).for_each(|(sum, x)| add(sum, x));
    }
    sums.iter_mut().zip(rest).for_each(|(sum, x)| add(sum, x));
    let [a, b, c, d] = sums;
    _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d)))
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn every_scale_is_that_of_its_bits() {
        if !is_x86_feature_detected!("f16c") {
            return;
        }
        crate::threads::flush_denormals();
        for bits in (0..=u16::MAX).filter(|bits| bits & 0x7c00 != 0x7c00) {
            // SAFETY: two bytes, and the processor has the instruction.
            let got = unsafe { scale(bits.to_le_bytes().as_ptr()) };
            assert_eq!(f64::from(got), f16::from_bits(bits).to_f64(), "{bits:#x}");
        }
    }
}
