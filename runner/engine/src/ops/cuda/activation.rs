//! Activations.

use candle_core::{D, Result, Tensor};

use super::device::{Arg, Kit, dense};
use super::source::Variant;

/// Threads of a block of a kernel that takes elements one by one.
pub(super) const BLOCK: usize = 256;

/// See [`crate::ops::silu_mul`].
pub(in crate::ops) fn silu_mul(gate_up: &Tensor) -> Result<Option<Tensor>> {
    let Some(kit) = Kit::of(gate_up)? else {
        return Ok(None);
    };
    let dtype = gate_up.dtype();
    let both = gate_up.dim(D::Minus1)?;
    let (Some(variant), true, 0) = (Variant::base(dtype), dense(&[gate_up], dtype), both % 2)
    else {
        return Ok(None);
    };
    let mut dims = gate_up.dims().to_vec();
    let (last, f) = (dims.len() - 1, both / 2);
    dims[last] = f;
    let y = kit.empty(dims, dtype)?;
    let count = y.elem_count();
    // SAFETY: y has `count` elements, rows of f; gate_up rows of 2f.
    unsafe {
        kit.launch(
            variant,
            "silu_mul",
            ([count.div_ceil(BLOCK), 1, 1], BLOCK),
            &[
                Arg::of(gate_up)?,
                Arg::of(&y)?,
                Arg::int(f)?,
                Arg::Long(count as i64),
            ],
        )?;
    }
    Ok(Some(y))
}
