//! Storage types of weights, and how their memory comes to be: zero pages from the system, first
//! touched by the threads that fill them.

use candle_core::{CpuStorage, DType, Device, Result, Tensor, WithDType};
use half::{bf16, f16};
use safetensors::Dtype;

/// An element type of weights.
pub(crate) trait Element: WithDType + Send + Sync {
    /// The type's name in safetensors.
    const STORED: Dtype;
    /// The smallest normal value; what is nearer to zero is slow on some processors.
    const MIN_NORMAL: f32;
    /// The nearest value.
    fn from_f32(value: f32) -> Self;
    /// Whether it is neither infinite nor a NaN.
    fn is_finite(&self) -> bool;
    /// `n` zeros that no thread has touched yet (where `n` is large).
    fn untouched_zeros(n: usize) -> Vec<Self>;
    /// The elements of a tensor of this type.
    fn of(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

impl Element for f32 {
    const STORED: Dtype = Dtype::F32;
    const MIN_NORMAL: f32 = f32::MIN_POSITIVE;
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
    #[inline(always)]
    fn is_finite(&self) -> bool {
        f32::is_finite(*self)
    }
    fn untouched_zeros(n: usize) -> Vec<Self> {
        vec![0.0; n]
    }
    fn of(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        match storage {
            CpuStorage::F32(all) => Some(all),
            _ => None,
        }
    }
}

/// `vec![0u16; n]` comes zeroed from the system; `vec![bf16::ZERO; n]` would be written here, by one
/// thread.
macro_rules! half_element {
    ($type:ty, $stored:expr, $storage:path, $min_normal:expr, $from_f32:expr) => {
        impl Element for $type {
            const STORED: Dtype = $stored;
            const MIN_NORMAL: f32 = $min_normal;
            #[inline(always)]
            fn from_f32(value: f32) -> Self {
                $from_f32(value)
            }
            #[inline(always)]
            fn is_finite(&self) -> bool {
                <$type>::is_finite(*self)
            }
            fn untouched_zeros(n: usize) -> Vec<Self> {
                use half::vec::HalfBitsVecExt;
                vec![0u16; n].reinterpret_into()
            }
            fn of(storage: &mut CpuStorage) -> Option<&mut [Self]> {
                match storage {
                    $storage(all) => Some(all),
                    _ => None,
                }
            }
        }
    };
}

half_element!(
    bf16,
    Dtype::BF16,
    CpuStorage::BF16,
    f32::MIN_POSITIVE,
    nearest_bf16
);
half_element!(
    f16,
    Dtype::F16,
    CpuStorage::F16,
    6.103_515_6e-5,
    f16::from_f32
);

/// The nearest bf16, ties to even, without a branch that a loop could not be vectorised over.
#[inline(always)]
fn nearest_bf16(value: f32) -> bf16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    // Rounding could carry a NaN's last bits into something else.
    let quiet = bits | 0x0040_0000;
    bf16::from_bits((if value.is_nan() { quiet } else { rounded } >> 16) as u16)
}

/// Buffers from this size on are worth large pages and several threads.
pub(crate) const LARGE_BYTES: usize = 1 << 20;

/// `n` zeros, backed by large pages where the system has them: weights are read end to end, and a
/// page walk per 4 KiB costs bandwidth.
pub(crate) fn zeroed<T: Element>(n: usize) -> Vec<T> {
    let mut data = T::untouched_zeros(n);
    advise_large_pages(data.as_mut_slice());
    data
}

/// A tensor of zeros, on the CPU as [`zeroed`] makes them.
pub(crate) fn zeros(shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    let n = shape.iter().product();
    match dtype {
        DType::F32 if device.is_cpu() => Tensor::from_vec(zeroed::<f32>(n), shape, device),
        DType::BF16 if device.is_cpu() => Tensor::from_vec(zeroed::<bf16>(n), shape, device),
        DType::F16 if device.is_cpu() => Tensor::from_vec(zeroed::<f16>(n), shape, device),
        _ => Tensor::zeros(shape, dtype, device),
    }
}

/// Asks for large pages behind memory that nobody has touched yet.
pub(crate) fn advise_large_pages<T>(data: &mut [T]) {
    #[cfg(target_os = "linux")]
    if size_of_val(data) >= LARGE_BYTES {
        const PAGE: usize = 4096;
        let start = (data.as_ptr() as usize).next_multiple_of(PAGE);
        let end = (data.as_ptr() as usize + size_of_val(data)) / PAGE * PAGE;
        if start < end {
            // SAFETY: the whole pages between start and end belong to this allocation; the advice
            // changes how they are backed, never what they hold.
            unsafe { libc::madvise(start as *mut _, end - start, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = data;
}

/// Calls `fill(first row, rows)` on contiguous shares of `data`, one per thread.
pub(crate) fn in_parallel<T: Send>(
    data: &mut [T],
    cols: usize,
    fill: impl Fn(usize, &mut [T]) + Sync,
) {
    let rows = data.len() / cols.max(1);
    let threads = if size_of_val(data) >= LARGE_BYTES {
        rayon::current_num_threads()
    } else {
        1
    };
    if threads == 1 {
        return fill(0, data);
    }
    let share = rows.div_ceil(threads).max(1);
    rayon::scope(|scope| {
        for (i, out) in data.chunks_mut(share * cols).enumerate() {
            let fill = &fill;
            scope.spawn(move |_| fill(i * share, out));
        }
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nearest_bf16_is_that_of_half(bits: u32) {
            let value = f32::from_bits(bits);
            let (ours, theirs) = (nearest_bf16(value), bf16::from_f32(value));
            prop_assert!(ours == theirs || (ours.is_nan() && theirs.is_nan()));
        }

        /// The lower half decides: exactly in the middle, and next to it.
        #[test]
        fn ties_go_to_even(high: u16, low in 0x7ffeu32..0x8002) {
            let value = f32::from_bits(u32::from(high) << 16 | low);
            let (ours, theirs) = (nearest_bf16(value), bf16::from_f32(value));
            prop_assert!(ours == theirs || (ours.is_nan() && theirs.is_nan()));
        }
    }
}
