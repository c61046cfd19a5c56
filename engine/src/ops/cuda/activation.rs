//! Activations.

use candle_core::{D, Result, Tensor};

use super::device::{Arg, Kit, dense};
use super::source::Variant;

/// The grid and the threads of a kernel that takes eight columns of a row at a time.
pub(super) fn by_columns(rows: usize, columns: usize) -> ([usize; 3], usize) {
    let threads = columns.div_ceil(8).next_multiple_of(32).min(256);
    ([rows, columns.div_ceil(8 * threads), 1], threads)
}

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
    // SAFETY: y has rows of f elements, and gate_up as many rows of 2f.
    unsafe {
        kit.launch(
            variant,
            "silu_mul",
            by_columns(y.elem_count() / f, f),
            &[Arg::of(gate_up)?, Arg::of(&y)?, Arg::int(f)?],
        )?;
    }
    Ok(Some(y))
}
