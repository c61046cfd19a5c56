//! Products with weights in 16 bits, bf16 or f16: read as they are stored and widened in registers, or on the way into a
//! cache; what they are multiplied by, and the sums, stay f32. The kernels are those of [`super::quantized`], of which
//! 32 neighbours are a block here that has no scale, and of [`super::block`].

use candle_core::{CpuStorage, DType, Result, Storage, Tensor};

use super::block::Packed;
use super::product::{Epilogue, Operands};
use super::quantized::packed::{BF16, BLOCK, F16};
use super::quantized::{Format, stream};
use super::view::build;

/// Up to this many rows of `x` the weights stream past them.
const STREAM_ROWS: usize = 32;

/// See [`crate::ops::linear`] and [`crate::ops::linear_bias_gelu`]: `x` and `bias` in f32, `w` in 16 bits.
pub(super) fn linear(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    epilogue: Epilogue,
) -> Result<Option<Tensor>> {
    match w.dtype() {
        DType::BF16 => product::<BF16>(x, w, bias, epilogue),
        DType::F16 => product::<F16>(x, w, bias, epilogue),
        _ => Ok(None),
    }
}

fn product<B: Format + Sync>(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    epilogue: Epilogue,
) -> Result<Option<Tensor>> {
    let (storage, layout) = w.storage_and_layout();
    let (Storage::Cpu(storage), Some((first, last)), &[n, k]) =
        (&*storage, layout.contiguous_offsets(), layout.dims())
    else {
        return Ok(None);
    };
    let bytes = match storage {
        CpuStorage::BF16(weights) => bytes(&weights[first..last]),
        CpuStorage::F16(weights) => bytes(&weights[first..last]),
        _ => return Ok(None),
    };
    let operands = Operands::of(x, bias).filter(|_| k.is_multiple_of(BLOCK));
    let Some((product, dims)) = operands
        .as_ref()
        .and_then(|operands| operands.product((n, k), epilogue))
    else {
        return Ok(None);
    };
    build(dims, |out| {
        if product.m <= STREAM_ROWS {
            stream::<B>(product, bytes, out);
        } else {
            product.blocks_of(Packed::<B>::new(bytes, k), out);
        }
    })
    .map(Some)
}

/// The bytes of 16-bit numbers, as they lie in memory.
fn bytes<T: Copy>(numbers: &[T]) -> &[u8] {
    debug_assert_eq!(size_of::<T>(), 2);
    // SAFETY: numbers of 16 bits without padding; any byte may be read as such.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;
    use crate::ops::arch::{Arch, FORCED};
    use crate::ops::cpu::quantized::unpack;
    use crate::ops::reference;

    fn tensor(dims: (usize, usize), seed: u64) -> Tensor {
        let at = |i| crate::random::mix(seed.wrapping_add(i)) as i32 as f32 / i32::MAX as f32;
        let values: Vec<f32> = (0..(dims.0 * dims.1) as u64).map(at).collect();
        Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        /// As of the widened matrix, by candle: nothing but the weights is rounded.
        #[test]
        fn products_are_those_of_the_widened_matrix(
            m in prop_oneof![1usize..=9, 30usize..=70],
            n in 1usize..60,
            blocks in prop_oneof![1usize..5, 31usize..70],
            brain: bool,
            bias: bool,
            gelu: bool,
            seed: u64,
        ) {
            let k = 32 * blocks;
            let x = tensor((m, k), seed);
            let w = tensor((n, k), seed ^ 1).to_dtype(if brain { DType::BF16 } else { DType::F16 }).unwrap();
            let b = tensor((1, n), seed ^ 2).flatten_all().unwrap();
            let bias = bias.then_some(&b);
            let epilogue = if gelu { Epilogue::BiasGelu } else { Epilogue::Bias };
            let wide = w.to_dtype(DType::F32).unwrap();
            let want = reference::linear(&x, &wide, bias).unwrap();
            let want = if gelu { want.gelu().unwrap() } else { want };
            let want = want.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for arch in Arch::all() {
                FORCED.set(Some(arch));
                let got = linear(&x, &w, bias, epilogue).unwrap();
                FORCED.set(None);
                let got = got.expect("the kernel should take these operands");
                let got = got.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                for (got, want) in got.iter().zip(&want) {
                    prop_assert!((got - want).abs() <= 2e-4, "{got}, wanted {want}");
                }
            }
        }
    }

    #[test]
    fn every_f16_and_bf16_is_widened_to_its_value() {
        fn check<B: Format, T: candle_core::WithDType>(of: fn(u16) -> T, value: fn(u16) -> f32) {
            let finite: Vec<u16> = (0..=u16::MAX)
                .filter(|&bits| value(bits).is_normal())
                .collect();
            let bits = &finite[..finite.len() / BLOCK * BLOCK];
            let numbers: Vec<T> = bits.iter().map(|&bits| of(bits)).collect();
            let mut got = vec![0.0; bits.len()];
            unpack::<B>(bytes(&numbers), &mut got);
            for (got, &bits) in got.iter().zip(bits) {
                assert_eq!(*got, value(bits), "{bits:#x}");
            }
        }
        check::<BF16, _>(half::bf16::from_bits, |bits| {
            half::bf16::from_bits(bits).to_f32()
        });
        check::<F16, _>(half::f16::from_bits, |bits| {
            half::f16::from_bits(bits).to_f32()
        });
    }
}
