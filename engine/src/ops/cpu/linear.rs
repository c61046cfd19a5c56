//! Products with a matrix of weights in any format: by streaming it past few rows, in blocks for many.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{CpuStorage, Result, Storage, Tensor};

use super::packed::{BF16, F16, Format, Matrix, Q4_0, Q8_0};
use super::product::{Epilogue, Operands, Product};
use super::view::build;

/// Up to this many rows of `x` streaming wins: it reads the weights once and packs nothing.
const STREAM_ROWS: usize = 32;

/// See [`crate::ops::linear`] and [`crate::ops::linear_bias_gelu`]: `x` and `bias` in f32, `w` in f32 or in 16 bits.
pub(in crate::ops) fn linear(
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
    let given = Given {
        x,
        bias,
        epilogue,
        shape: (n, k),
    };
    match storage {
        CpuStorage::F32(w) => given.times(|product, out| {
            let w = &w[first..last];
            if product.m <= STREAM_ROWS {
                product.stream(w, out);
            } else {
                product.blocks(w, out);
            }
        }),
        CpuStorage::BF16(w) => given.times_packed::<BF16>(bytes(&w[first..last])),
        CpuStorage::F16(w) => given.times_packed::<F16>(bytes(&w[first..last])),
        _ => Ok(None),
    }
}

/// See [`crate::ops::linear_quantized`] and [`crate::ops::linear_quantized_bias_gelu`].
pub(in crate::ops) fn linear_quantized(
    x: &Tensor,
    w: &QTensor,
    bias: Option<&Tensor>,
    epilogue: Epilogue,
) -> Result<Option<Tensor>> {
    if !w.device().is_cpu() {
        return Ok(None);
    }
    let given = Given {
        x,
        bias,
        epilogue,
        shape: w.shape().dims2()?,
    };
    match w.dtype() {
        GgmlDType::Q4_0 => given.times_packed::<Q4_0>(&w.data()?),
        GgmlDType::Q8_0 => given.times_packed::<Q8_0>(&w.data()?),
        _ => Ok(None),
    }
}

/// All of a product but the weights' elements.
struct Given<'a> {
    x: &'a Tensor,
    bias: Option<&'a Tensor>,
    epilogue: Epilogue,
    /// Of the weights.
    shape: (usize, usize),
}

impl Given<'_> {
    /// The product that `multiply` makes of it; `None` where the operands do not fit.
    fn times(self, multiply: impl FnOnce(Product<'_>, &mut [f32])) -> Result<Option<Tensor>> {
        let operands = Operands::of(self.x, self.bias);
        let Some((product, dims)) = operands
            .as_ref()
            .and_then(|operands| operands.product(self.shape, self.epilogue))
        else {
            return Ok(None);
        };
        build(dims, |out| multiply(product, out)).map(Some)
    }

    /// The product with weights in a block format.
    fn times_packed<B: Format + Sync>(self, bytes: &[u8]) -> Result<Option<Tensor>> {
        let Some(w) = Matrix::<B>::new(bytes, self.shape) else {
            return Ok(None);
        };
        self.times(|product, out| {
            if product.m <= STREAM_ROWS {
                product.stream_packed(w, out);
            } else {
                product.blocks(w, out);
            }
        })
    }
}

/// The bytes of 16-bit numbers, as they lie in memory.
fn bytes<T: Copy>(numbers: &[T]) -> &[u8] {
    debug_assert_eq!(size_of::<T>(), 2);
    // SAFETY: numbers of 16 bits without padding; any byte may be read as such.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
}
