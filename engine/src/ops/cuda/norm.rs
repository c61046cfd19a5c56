//! Norms, alone or with the addition before them.

use candle_core::{DType, Result, Tensor};

use super::device::{Arg, Kit, dense};
use super::source::Variant;

/// See [`crate::ops::rms_norm`].
pub(in crate::ops) fn rms_norm(x: &Tensor, w: &Tensor, eps: f32) -> Result<Option<Tensor>> {
    Ok(norm(x, None, w, None, eps)?.map(|(_, y)| y))
}

/// See [`crate::ops::layer_norm`].
pub(in crate::ops) fn layer_norm(
    x: &Tensor,
    w: &Tensor,
    bias: &Tensor,
    eps: f32,
) -> Result<Option<Tensor>> {
    Ok(norm(x, None, w, Some(bias), eps)?.map(|(_, y)| y))
}

/// See [`crate::ops::add_rms_norm`].
pub(in crate::ops) fn add_rms_norm(
    x: &Tensor,
    delta: &Tensor,
    w: &Tensor,
    eps: f32,
) -> Result<Option<(Tensor, Tensor)>> {
    norm(x, Some(delta), w, None, eps)
}

/// See [`crate::ops::add_layer_norm`].
pub(in crate::ops) fn add_layer_norm(
    x: &Tensor,
    delta: &Tensor,
    w: &Tensor,
    bias: &Tensor,
    eps: f32,
) -> Result<Option<(Tensor, Tensor)>> {
    norm(x, Some(delta), w, Some(bias), eps)
}

/// The sum (x itself where nothing is added) and its norm: LayerNorm where there is a bias, else RMSNorm.
fn norm(
    x: &Tensor,
    delta: Option<&Tensor>,
    w: &Tensor,
    bias: Option<&Tensor>,
    eps: f32,
) -> Result<Option<(Tensor, Tensor)>> {
    let Some(kit) = Kit::of(x)? else {
        return Ok(None);
    };
    let (dtype, shape) = (x.dtype(), x.shape());
    let (Some(variant), Some((per, stride))) = (Variant::base(dtype), rows(x)) else {
        return Ok(None);
    };
    let n = w.elem_count();
    let fits = x.dims().last() == Some(&n)
        && dense(&[w], dtype)
        && bias.is_none_or(|bias| dense(&[bias], dtype) && bias.elem_count() == n)
        && delta.is_none_or(|delta| dense(&[delta], dtype) && delta.shape() == shape);
    if !fits {
        return Ok(None);
    }
    let y = kit.empty(shape, dtype)?;
    let sum = match delta {
        Some(_) => kit.empty(shape, dtype)?,
        None => x.clone(),
    };
    let mut args = vec![Arg::of(x)?, Arg::maybe(delta)?, Arg::of(w)?];
    if let Some(bias) = bias {
        args.push(Arg::of(bias)?);
    }
    args.extend([
        Arg::of(&sum)?,
        Arg::of(&y)?,
        Arg::int(n)?,
        Arg::int(per)?,
        Arg::Long(stride as i64),
        Arg::Float(eps),
    ]);
    let kernel = match bias {
        Some(_) => "add_layer_norm",
        None => "add_rms_norm",
    };
    let block = threads(n);
    // SAFETY: sum, where it is written, and y are new, and as large as what of x is read; w, bias and delta fit.
    unsafe {
        let rows = shape.elem_count() / n;
        kit.launch(variant, kernel, ([rows, 1, 1], block), &args)?;
    }
    Ok(Some((sum, y)))
}

/// Whole warps, with a few elements for each thread.
fn threads(n: usize) -> usize {
    n.div_ceil(4).next_multiple_of(32).clamp(32, 1024)
}

/// How the rows of a tensor lie: the number of dense ones, and the elements from the first of these to the first of the
/// next.
fn rows(x: &Tensor) -> Option<(usize, usize)> {
    if x.elem_count() == 0 || !matches!(x.dtype(), DType::F32 | DType::BF16 | DType::F16) {
        return None;
    }
    if x.is_contiguous() {
        return Some((x.elem_count() / x.dims().last()?, 0));
    }
    match (x.dims(), x.stride()) {
        (&[_, s, n], &[stride, row, 1]) if row == n => Some((s, stride)),
        _ => None,
    }
}
