//! Matrices of weights in fewer bits than f32: their formats, and the values of their rows. Activations stay f32
//! throughout, so that nothing but the weights is rounded.

mod formats;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::marker::PhantomData;
use std::ops::Range;

// A block format as the kernels of this processor need it.
#[cfg(not(target_arch = "x86_64"))]
pub(super) use formats::Packed as Format;
pub(super) use formats::{BF16, BLOCK, F16, Q4_0, Q8_0};
#[cfg(target_arch = "x86_64")]
pub(super) use x86::{FewRows, OneRow, Widen as Format};

/// Rows of blocks, one after the other.
pub(super) struct Matrix<'a, B> {
    bytes: &'a [u8],
    row_bytes: usize,
    format: PhantomData<B>,
}

impl<B> Clone for Matrix<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<B> Copy for Matrix<'_, B> {}

impl<'a, B: Format> Matrix<'a, B> {
    /// `n` rows of `k` weights each; `None` where the rows are not of whole blocks, or `bytes` not all of them.
    pub(super) fn new(bytes: &'a [u8], (n, k): (usize, usize)) -> Option<Self> {
        let row_bytes = k / BLOCK * B::BYTES;
        (k.is_multiple_of(BLOCK) && bytes.len() == n * row_bytes).then_some(Self {
            bytes,
            row_bytes,
            format: PhantomData,
        })
    }

    /// The blocks of these rows.
    #[inline(always)]
    pub(super) fn rows(&self, rows: Range<usize>) -> &'a [u8] {
        &self.bytes[rows.start * self.row_bytes..rows.end * self.row_bytes]
    }

    /// Writes the weights of whole rows.
    #[inline(always)]
    pub(super) fn unpack_rows(&self, rows: Range<usize>, out: &mut [f32]) {
        unpack::<B>(self.rows(rows), out);
    }
}

/// The values of whole blocks, as many as `out` has room for.
fn unpack<B: Format>(packed: &[u8], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { x86::unpack::<B>(packed, out) };
    }
    formats::unpack_anywhere::<B>(packed, out);
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use candle_core::quantized::{GgmlDType, QTensor};

    use super::formats::unpack_anywhere;
    use super::*;
    use crate::ops::cpu::tests::tensor;

    /// With vector instructions and without, values are candle's to the bit.
    #[test]
    fn unpacked_values_are_candles() {
        fn check<B: Format>(kind: GgmlDType) {
            let w = (tensor(&[7, 96], 5) * 0.01).unwrap();
            let w = QTensor::quantize(&w, kind).unwrap();
            let want = w.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap();
            let want = want.to_vec1::<f32>().unwrap();
            for unpack in [unpack::<B>, unpack_anywhere::<B>] {
                let mut got = vec![0.0; 7 * 96];
                unpack(&w.data().unwrap(), &mut got);
                assert_eq!(got, want, "{kind:?}");
            }
        }
        check::<Q4_0>(GgmlDType::Q4_0);
        check::<Q8_0>(GgmlDType::Q8_0);
    }

    #[test]
    fn every_f16_and_bf16_is_widened_to_its_value() {
        fn check<B: Format>(value: fn(u16) -> f32) {
            let finite: Vec<u16> = (0..=u16::MAX)
                .filter(|&bits| value(bits).is_normal())
                .collect();
            let bits = &finite[..finite.len() / BLOCK * BLOCK];
            let bytes: Vec<u8> = bits.iter().flat_map(|bits| bits.to_le_bytes()).collect();
            for unpack in [unpack::<B>, unpack_anywhere::<B>] {
                let mut got = vec![0.0; bits.len()];
                unpack(&bytes, &mut got);
                for (got, &bits) in got.iter().zip(bits) {
                    assert_eq!(*got, value(bits), "{bits:#x}");
                }
            }
        }
        check::<BF16>(|bits| half::bf16::from_bits(bits).to_f32());
        check::<F16>(|bits| half::f16::from_bits(bits).to_f32());
    }
}
