//! The block formats of quantized weights, as GGUF defines them: 32 neighbours in a row share one 16-bit scale. And
//! weights in 16 bits, of which as many neighbours are a block without one.

use crate::ops::arch::prefetch;

/// Weights that share a scale.
pub(in super::super) const BLOCK: usize = 32;
/// Bytes ahead of the row at hand that are asked for.
pub(super) const AHEAD: usize = 1024;

/// A block format.
pub(in super::super) trait Packed {
    /// Bytes of one block.
    const BYTES: usize;
    /// The values of one block of [`Packed::BYTES`] bytes.
    fn unpack(block: &[u8], out: &mut [f32; BLOCK]);
}

/// A scale, then 32 bytes.
pub(in super::super) struct Q8_0;

impl Packed for Q8_0 {
    const BYTES: usize = 2 + BLOCK;

    #[inline(always)]
    fn unpack(block: &[u8], out: &mut [f32; BLOCK]) {
        let scale = scale(block);
        for (out, &q) in out.iter_mut().zip(&block[2..Self::BYTES]) {
            *out = f32::from(q.cast_signed()) * scale;
        }
    }
}

/// A scale, then 16 bytes: the first half of the block in their low bits, the second in the high ones, each less 8.
pub(in super::super) struct Q4_0;

impl Packed for Q4_0 {
    const BYTES: usize = 2 + BLOCK / 2;

    #[inline(always)]
    fn unpack(block: &[u8], out: &mut [f32; BLOCK]) {
        let scale = scale(block);
        let (low, high) = out.split_at_mut(BLOCK / 2);
        for ((low, high), &q) in low.iter_mut().zip(high).zip(&block[2..Self::BYTES]) {
            *low = (i32::from(q & 15) - 8) as f32 * scale;
            *high = (i32::from(q >> 4) - 8) as f32 * scale;
        }
    }
}

/// 32 bfloat16.
pub(in super::super) struct BF16;

impl Packed for BF16 {
    const BYTES: usize = 2 * BLOCK;

    #[inline(always)]
    fn unpack(block: &[u8], out: &mut [f32; BLOCK]) {
        for (out, pair) in out.iter_mut().zip(block.as_chunks::<2>().0) {
            *out = f32::from_bits(u32::from(u16::from_le_bytes(*pair)) << 16);
        }
    }
}

/// 32 IEEE floats of 16 bits.
pub(in super::super) struct F16;

impl Packed for F16 {
    const BYTES: usize = 2 * BLOCK;

    #[inline(always)]
    fn unpack(block: &[u8], out: &mut [f32; BLOCK]) {
        for (out, pair) in out.iter_mut().zip(block.as_chunks::<2>().0) {
            *out = half::f16::from_le_bytes(*pair).to_f32();
        }
    }
}

/// The 16-bit float that a block begins with. Small weights have subnormal scales, which a thread that flushes f32's
/// subnormals must not lose: those are a whole number of 2⁻²⁴.
#[inline(always)]
fn scale(block: &[u8]) -> f32 {
    let bits = u32::from(u16::from_le_bytes([block[0], block[1]]));
    let magnitude = bits & 0x7fff;
    let value = if magnitude < 0x400 {
        magnitude as f32 * f32::from_bits((127 - 24) << 23)
    } else {
        f32::from_bits((magnitude << 13) + ((127 - 15) << 23))
    };
    f32::from_bits(value.to_bits() | (bits & 0x8000) << 16)
}

/// The values of whole blocks, as many as `out` has room for, by plain loops.
pub(super) fn unpack_anywhere<B: Packed>(packed: &[u8], out: &mut [f32]) {
    let (blocks, _) = out.as_chunks_mut::<BLOCK>();
    for (block, out) in packed.chunks_exact(B::BYTES).zip(blocks) {
        prefetch(block.as_ptr().cast(), AHEAD);
        B::unpack(block, out);
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn every_scale_is_that_of_its_bits() {
        crate::threads::flush_denormals();
        for bits in (0..=u16::MAX).filter(|bits| bits & 0x7c00 != 0x7c00) {
            let got = scale(&bits.to_le_bytes());
            assert_eq!(f64::from(got), f16::from_bits(bits).to_f64(), "{bits:#x}");
        }
    }
}
