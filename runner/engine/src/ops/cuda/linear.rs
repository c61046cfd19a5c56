//! What comes after a product with a weight matrix; the product itself is cuBLAS'.

use candle_core::{Result, Tensor};

use super::activation::BLOCK;
use super::device::{Arg, Kit, dense};
use super::source::Variant;
use crate::ops::{cpu::Epilogue, reference};

/// See [`crate::ops::linear`] and [`crate::ops::linear_bias_gelu`].
pub(in crate::ops) fn linear(
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    epilogue: Epilogue,
) -> Result<Option<Tensor>> {
    let (Some(kit), Some(bias)) = (Kit::of(x)?, bias) else {
        return Ok(None);
    };
    let (dtype, n) = (x.dtype(), w.dim(0)?);
    let Some(variant) = Variant::base(dtype) else {
        return Ok(None);
    };
    if !dense(&[bias], dtype) || bias.elem_count() != n {
        return Ok(None);
    }
    let y = reference::linear(x, w, None)?;
    let count = y.elem_count();
    let kernel = match epilogue {
        Epilogue::Bias => "add_bias",
        Epilogue::BiasGelu => "bias_gelu",
    };
    // SAFETY: y is new, dense, nobody else's, and has `count` elements in rows of n, as bias has.
    unsafe {
        kit.launch(
            variant,
            kernel,
            ([count.div_ceil(BLOCK), 1, 1], BLOCK),
            &[
                Arg::of(&y)?,
                Arg::of(bias)?,
                Arg::int(n)?,
                Arg::Long(count as i64),
            ],
        )?;
    }
    Ok(Some(y))
}
