//! Products with a weight matrix: of one row by a kernel that reads the matrix once, of more by cuBLAS, and what comes
//! after them.

use std::ffi::c_void;

use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::cublas::{result::gemm_ex, sys as cublas};
use candle_core::quantized::QTensor;
use candle_core::{DType, Result, Tensor};

use super::activation::by_columns;
use super::device::{Arg, Kit, address, dense};
use super::source::Variant;
use crate::ops::{cpu::Epilogue, reference};

/// Threads of a block of `row_product`.
const BLOCK: usize = 256;

/// See [`crate::ops::linear`] and [`crate::ops::linear_bias_gelu`].
pub(in crate::ops) fn linear(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    epilogue: Epilogue,
) -> Result<Option<Tensor>> {
    let Some(kit) = Kit::of(x)? else {
        return Ok(None);
    };
    let (dtype, (n, k)) = (x.dtype(), w.dims2()?);
    let Some(variant) = Variant::base(dtype) else {
        return Ok(None);
    };
    if bias.is_some_and(|bias| !dense(&[bias], dtype) || bias.elem_count() != n) {
        return Ok(None);
    }
    let activate = activation(epilogue);
    let mut dims = x.dims().to_vec();
    let one = x.elem_count() == k && dims.last() == Some(&k);
    if let Some(last) = dims.last_mut()
        && one
        && k % 8 == 0
        && dense(&[x, w], dtype)
    {
        *last = n;
        let y = kit.empty(dims, dtype)?;
        // SAFETY: x has k elements, w n rows of as many, bias and y n. Tensors begin at multiples of whole rows, and so
        // at multiples of 16 bytes.
        unsafe {
            kit.launch(
                variant,
                "row_product",
                ([n.div_ceil(BLOCK / 32), 1, 1], BLOCK),
                &[
                    Arg::of(x)?,
                    Arg::of(w)?,
                    Arg::maybe(bias)?,
                    Arg::of(&y)?,
                    Arg::int(n)?,
                    Arg::int(k)?,
                    activate,
                ],
            )?;
        }
        return Ok(Some(y));
    }
    let Some(bias) = bias else {
        return Ok(None);
    };
    let y = reference::linear(x, w, None)?;
    add_bias(&kit, variant, &y, bias, activate)?;
    Ok(Some(y))
}

/// See [`crate::ops::linear_quantized`] and [`crate::ops::linear_quantized_bias_gelu`]: candle's product, and what
/// comes after it.
pub(in crate::ops) fn linear_quantized(
    x: &Tensor,
    w: &QTensor,
    bias: Option<&Tensor>,
    epilogue: Epilogue,
) -> Result<Option<Tensor>> {
    let (Some(kit), Some(variant), Some(bias)) = (Kit::of(x)?, Variant::base(DType::F32), bias)
    else {
        return Ok(None);
    };
    let (n, _) = w.shape().dims2()?;
    if !dense(&[x, bias], DType::F32) || bias.elem_count() != n {
        return Ok(None);
    }
    let y = reference::linear_quantized(x, w, None)?;
    add_bias(&kit, variant, &y, bias, activation(epilogue))?;
    Ok(Some(y))
}

/// Adds a bias to a product that is new, dense and nobody else's, and has rows as long as the bias.
fn add_bias(kit: &Kit, variant: Variant, y: &Tensor, bias: &Tensor, activate: Arg) -> Result<()> {
    let n = bias.elem_count();
    // SAFETY: y has rows of n, and nobody else's eyes are on it.
    unsafe {
        kit.launch(
            variant,
            "add_bias",
            by_columns(y.elem_count() / n, n),
            &[Arg::of(y)?, Arg::of(bias)?, Arg::int(n)?, activate],
        )
    }
}

/// `y [.., n] = x [.., k] · wᵀ`, or added to what is there, by cuBLAS. All are dense, of one type and of fitting shapes.
pub(super) fn product_into(kit: &Kit, x: &Tensor, w: &Tensor, y: &Tensor, onto: bool) -> Result<()> {
    let (n, k) = w.dims2()?;
    let rows = x.elem_count() / k;
    let kind = match x.dtype() {
        DType::F32 => cublas::cudaDataType_t::CUDA_R_32F,
        DType::BF16 => cublas::cudaDataType_t::CUDA_R_16BF,
        DType::F16 => cublas::cudaDataType_t::CUDA_R_16F,
        other => candle_core::bail!("cuBLAS: no products of {other:?}"),
    };
    let fits = [w, y].iter().all(|t| t.dtype() == x.dtype()) && y.elem_count() == rows * n;
    if !fits {
        candle_core::bail!("product: {:?} times {:?} is no {:?}", x.shape(), w.shape(), y.shape());
    }
    let [n, rows, k] = [n, rows, k].map(|size| i32::try_from(size).unwrap_or(i32::MAX));
    let (one, beta) = (1f32, if onto { 1f32 } else { 0f32 });
    let blas = kit.device.cublas_handle();
    kit.device.cuda_stream().context().bind_to_thread().w()?;
    // SAFETY: the sizes are those of the tensors, which lie dense; columns here are rows there.
    unsafe {
        gemm_ex(
            *blas.handle(),
            cublas::cublasOperation_t::CUBLAS_OP_T,
            cublas::cublasOperation_t::CUBLAS_OP_N,
            n,
            rows,
            k,
            (&raw const one).cast(),
            address(w)? as *const c_void,
            kind,
            k,
            address(x)? as *const c_void,
            kind,
            k,
            (&raw const beta).cast(),
            address(y)? as *mut c_void,
            kind,
            n,
            cublas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            cublas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
        )
    }
    .w()
}

pub(super) fn activation(epilogue: Epilogue) -> Arg {
    Arg::Int(i32::from(epilogue == Epilogue::BiasGelu))
}
