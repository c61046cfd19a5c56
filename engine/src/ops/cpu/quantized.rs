//! Products with a quantized weight matrix. One row: weights go straight into the sums. Few rows: each weight is
//! unpacked into the first cache once and meets all rows there, so that only the packed bytes are read from memory.
//! Many rows: the matrix is unpacked whole, and multiplied as any other. Activations stay f32 throughout: the only loss
//! is that of the weights' quantization.

pub(super) mod packed;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::ops::Range;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Result, Tensor};
use pulp::{Simd, WithSimd};

use super::linear::linear;
use super::pool::{Disjoint, share};
use super::product::{Epilogue, Finish, Operands, Product};
use super::view::build;
use crate::ops::arch::Arch;
use packed::{BLOCK, Q4_0, Q8_0, unpack_anywhere};

// A block format as the kernels of this processor need it.
#[cfg(not(target_arch = "x86_64"))]
pub(super) use packed::Packed as Format;
#[cfg(target_arch = "x86_64")]
pub(super) use x86::Widen as Format;

/// Weight rows in one piece of work: a multiple of [`TILE`].
const UNIT: usize = 24;
/// Weight rows that are unpacked together.
const TILE: usize = 4;
/// Elements of a row that are unpacked together: all rows of a tile fill half of a first-level cache.
const DEPTH: usize = 1024;
/// Up to this many rows of `x` unpacking as one goes wins over unpacking the matrix once.
const STREAM_ROWS: usize = 64;

/// See [`crate::ops::linear_quantized`] and [`crate::ops::linear_quantized_bias_gelu`].
pub(in crate::ops) fn linear_quantized(
    x: &Tensor,
    w: &QTensor,
    bias: Option<&Tensor>,
    epilogue: Epilogue,
) -> Result<Option<Tensor>> {
    match w.dtype() {
        GgmlDType::Q4_0 => product::<Q4_0>(x, w, bias, epilogue),
        GgmlDType::Q8_0 => product::<Q8_0>(x, w, bias, epilogue),
        _ => Ok(None),
    }
}

fn product<B: Format + Sync>(
    x: &Tensor,
    w: &QTensor,
    bias: Option<&Tensor>,
    epilogue: Epilogue,
) -> Result<Option<Tensor>> {
    if !w.device().is_cpu() {
        return Ok(None);
    }
    let (n, k) = w.shape().dims2()?;
    let packed = w.data()?;
    let fits = k.is_multiple_of(BLOCK) && packed.len() == n * k / BLOCK * B::BYTES;
    let operands = Operands::of(x, bias).filter(|_| fits);
    let Some((product, dims)) = operands
        .as_ref()
        .and_then(|operands| operands.product((n, k), epilogue))
    else {
        return Ok(None);
    };
    if product.m > STREAM_ROWS {
        let dense = unpacked::<B>(&packed, (n, k))?;
        return linear(x, &dense, bias, epilogue);
    }
    build(dims, |out| stream::<B>(product, &packed, out)).map(Some)
}

/// All of a matrix.
fn unpacked<B: Format>(packed: &[u8], (n, k): (usize, usize)) -> Result<Tensor> {
    build((n, k), |out| {
        let out = Disjoint::new(out);
        share(n, n * k, |rows| {
            // SAFETY: these rows belong to this piece of work alone.
            let out = unsafe { out.slice(rows.start * k..rows.end * k) };
            let row_bytes = k / BLOCK * B::BYTES;
            let packed = &packed[rows.start * row_bytes..rows.end * row_bytes];
            unpack::<B>(packed, out);
        });
    })
}

/// The values of whole blocks, as many as `out` has room for.
pub(super) fn unpack<B: Format>(packed: &[u8], out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c") {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { x86::unpack::<B>(packed, out) };
    }
    unpack_anywhere::<B>(packed, out);
}

/// The product of few rows with the blocks of a matrix.
pub(super) fn stream<B: Format + Sync>(product: Product<'_>, packed: &[u8], out: &mut [f32]) {
    let out = Disjoint::new(out);
    let arch = Arch::new();
    #[cfg(target_arch = "x86_64")]
    let dot = x86::dot::<B>(arch).filter(|_| product.m == 1);
    share(product.n.div_ceil(UNIT), product.n * product.k, |units| {
        let columns = units.start * UNIT..(units.end * UNIT).min(product.n);
        let stream = Stream::<B> {
            product,
            packed,
            columns,
            out: &out,
            format: std::marker::PhantomData,
        };
        #[cfg(target_arch = "x86_64")]
        if let Some(dot) = dot {
            return stream.row(arch, dot);
        }
        arch.dispatch(stream);
    });
}

/// A range of output columns.
struct Stream<'a, B> {
    product: Product<'a>,
    packed: &'a [u8],
    columns: Range<usize>,
    out: &'a Disjoint<'a>,
    format: std::marker::PhantomData<B>,
}

impl<B: Format> WithSimd for Stream<'_, B> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Range { start, end } = self.columns.clone();
        let mut space = [[0f32; DEPTH]; TILE];
        for column in (start..end).step_by(TILE) {
            match end - column {
                1 => self.tile::<S, 1>(simd, column, &mut space),
                2 => self.tile::<S, 2>(simd, column, &mut space),
                3 => self.tile::<S, 3>(simd, column, &mut space),
                _ => self.tile::<S, TILE>(simd, column, &mut space),
            }
        }
        self.finish().with_simd(simd);
    }
}

impl<B: Format> Stream<'_, B> {
    fn finish(&self) -> Finish<'_> {
        Finish {
            product: self.product,
            rows: 0..self.product.m,
            columns: self.columns.clone(),
            out: self.out,
        }
    }

    /// The one row of `x`.
    #[cfg(target_arch = "x86_64")]
    fn row(&self, arch: Arch, dot: x86::Dot) {
        let x = self.product.x;
        let row_bytes = x.len() / BLOCK * B::BYTES;
        let rows = &self.packed[self.columns.start * row_bytes..];
        // SAFETY: these columns belong to this piece of work alone.
        let y = unsafe { self.out.slice(self.columns.clone()) };
        for (y, row) in y.iter_mut().zip(rows.chunks_exact(row_bytes)) {
            // SAFETY: the processor has what it was chosen for, and the row is as long as `x`.
            *y = unsafe { dot(row, x) };
        }
        arch.dispatch(self.finish());
    }

    /// `R` weight rows with every row of `x`; `space` is what they are unpacked into.
    #[inline(always)]
    fn tile<S: Simd, const R: usize>(
        &self,
        simd: S,
        column: usize,
        space: &mut [[f32; DEPTH]; TILE],
    ) {
        let Product { m, k, .. } = self.product;
        let row_bytes = k / BLOCK * B::BYTES;
        for start in (0..k).step_by(DEPTH) {
            let len = DEPTH.min(k - start);
            for (r, weights) in space[..R].iter_mut().enumerate() {
                let first = (column + r) * row_bytes + start / BLOCK * B::BYTES;
                let packed = &self.packed[first..first + len / BLOCK * B::BYTES];
                unpack::<B>(packed, &mut weights[..len]);
            }
            for first in (0..m).step_by(4) {
                match m - first {
                    1 => self.dots::<S, R, 1>(simd, space, first, column, start..start + len),
                    2 => self.dots::<S, R, 2>(simd, space, first, column, start..start + len),
                    3 => self.dots::<S, R, 3>(simd, space, first, column, start..start + len),
                    _ => self.dots::<S, R, 4>(simd, space, first, column, start..start + len),
                }
            }
        }
    }

    /// Adds the elements `part` of the sums to the products of `M` rows of `x`, from `first` on, with the `R` unpacked
    /// weight rows. A part is whole blocks, and with them whole vectors.
    #[inline(always)]
    fn dots<S: Simd, const R: usize, const M: usize>(
        &self,
        simd: S,
        weights: &[[f32; DEPTH]; TILE],
        first: usize,
        column: usize,
        part: Range<usize>,
    ) {
        let Product { x, n, k, .. } = self.product;
        let mut acc = [[simd.splat_f32s(0.0); M]; R];
        let mut rows = [S::as_simd_f32s(&[]).0; M];
        for (j, row) in rows.iter_mut().enumerate() {
            let start = (first + j) * k;
            *row = S::as_simd_f32s(&x[start + part.start..start + part.end]).0;
        }
        let mut columns = [S::as_simd_f32s(&[]).0; R];
        for (vectors, weights) in columns.iter_mut().zip(weights) {
            *vectors = S::as_simd_f32s(&weights[..part.len()]).0;
        }
        for i in 0..part.len() / S::F32_LANES {
            for (j, row) in rows.iter().enumerate() {
                let x = row[i];
                for (acc, column) in acc.iter_mut().zip(&columns) {
                    acc[j] = simd.mul_add_e_f32s(column[i], x, acc[j]);
                }
            }
        }
        // As in the plain kernel: else the compiler keeps the sums in memory for the loop below.
        let acc = std::hint::black_box(acc);
        for (r, acc) in acc.iter().enumerate() {
            for (j, acc) in acc.iter().enumerate() {
                let sum = simd.reduce_sum_f32s(*acc);
                // SAFETY: these columns belong to this piece of work alone, and their first part is written before
                // any other adds to it.
                unsafe {
                    let y = self.out.at((first + j) * n + column + r);
                    *y = if part.start == 0 { sum } else { *y + sum };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;
    use crate::ops::arch::FORCED;
    use crate::ops::reference;

    /// With vector instructions and without, values are candle's to the bit.
    #[test]
    fn unpacked_values_are_candles() {
        fn check<B: Format>(kind: GgmlDType) {
            let w = QTensor::quantize(&tensor((7, 96), 5, 0.01), kind).unwrap();
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

    fn tensor(dims: (usize, usize), seed: u64, spread: f32) -> Tensor {
        let n = dims.0 * dims.1;
        let at = |i| crate::random::mix(seed.wrapping_add(i)) as i32 as f32 / i32::MAX as f32;
        let values: Vec<f32> = (0..n as u64).map(|i| spread * at(i)).collect();
        Tensor::from_vec(values, dims, &Device::Cpu).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

        /// Unpacked by candle and multiplied by candle.
        #[test]
        fn products_are_those_of_the_unpacked_matrix(
            m in prop_oneof![1usize..=9, 60usize..=70],
            n in 1usize..60,
            blocks in prop_oneof![1usize..5, 31usize..70],
            four: bool,
            bias: bool,
            gelu: bool,
            // Down to subnormal scales.
            spread in prop_oneof![Just(1.0f32), Just(1e-3), Just(1e-5)],
            seed: u64,
        ) {
            let k = 32 * blocks;
            let x = tensor((m, k), seed, 1.0);
            let w = tensor((n, k), seed ^ 1, spread);
            let b = tensor((1, n), seed ^ 2, spread).flatten_all().unwrap();
            let bias = bias.then_some(&b);
            let kind = if four { GgmlDType::Q4_0 } else { GgmlDType::Q8_0 };
            let w = QTensor::quantize(&w, kind).unwrap();
            let epilogue = if gelu { Epilogue::BiasGelu } else { Epilogue::Bias };
            let want = reference::linear_quantized(&x, &w, bias).unwrap();
            let want = if gelu { want.gelu().unwrap() } else { want };
            let want = want.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for arch in Arch::all() {
                FORCED.set(Some(arch));
                let got = linear_quantized(&x, &w, bias, epilogue).unwrap();
                FORCED.set(None);
                let got = got.expect("the kernel should take these operands");
                let got = got.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                for (got, want) in got.iter().zip(&want) {
                    // Sums of up to 2,240 products of up to `spread`, rounded in another order; a weight that is one
                    // step off would be off by more than ten times as much.
                    prop_assert!((got - want).abs() <= 2e-4 * spread, "{got}, wanted {want}");
                }
            }
        }
    }
}
