//! Products with a weight matrix: of one row by a kernel that reads the matrix once, of more by cuBLAS, and what comes
//! after them.

use candle_core::{Result, Tensor};

use super::activation::by_columns;
use super::device::{Arg, Kit, dense};
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
    let activate = Arg::Int(i32::from(epilogue == Epilogue::BiasGelu));
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
    // SAFETY: y is new, dense, nobody else's, and has rows of n, as bias has.
    unsafe {
        kit.launch(
            variant,
            "add_bias",
            by_columns(y.elem_count() / n, n),
            &[Arg::of(&y)?, Arg::of(bias)?, Arg::int(n)?, activate],
        )?;
    }
    Ok(Some(y))
}
