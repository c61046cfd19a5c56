//! Norms, alone or with the addition before them.

use candle_core::{DType, Result, Tensor};

use super::device::{Arg, How, Kit, dense};
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
    let lies = (per, stride);
    let rows = shape.elem_count() / n;
    // SAFETY: sum, where it is written, and y are new, and as large as what of x is read; w, bias and delta fit.
    unsafe {
        let operands = [Some(x), delta, Some(w), bias];
        launch(&kit, variant, operands, (&sum, &y), (rows, n, lies), eps, How::default())?;
    }
    Ok(Some((sum, y)))
}

/// The norm of dense rows, into `y`, which is like `x`: LayerNorm where there is a bias, else RMSNorm.
pub(super) fn into(
    kit: &Kit,
    x: &Tensor,
    w: &Tensor,
    bias: Option<&Tensor>,
    eps: f32,
    y: &Tensor,
    how: How,
) -> Result<()> {
    let (dtype, n) = (x.dtype(), w.elem_count());
    let fits = dense(&[x, w, y], dtype) && x.shape() == y.shape() && x.dims().last() == Some(&n);
    let (Some(variant), true) = (Variant::base(dtype), fits) else {
        candle_core::bail!("norm: no kernel for {:?}", x.layout());
    };
    let rows = x.elem_count() / n;
    // SAFETY: y is as large as x, and w and bias as a row.
    unsafe {
        let operands = [Some(x), None, Some(w), bias];
        launch(kit, variant, operands, (x, y), (rows, n, (rows, 0)), eps, how)
    }
}

/// Launches the norm of `rows` rows of `n` elements: of x, with a delta or without, by w, with a bias or without; into a
/// sum, where there is a delta, and y.
///
/// # Safety
/// All are as large as that.
unsafe fn launch(
    kit: &Kit,
    variant: Variant,
    [x, delta, w, bias]: [Option<&Tensor>; 4],
    (sum, y): (&Tensor, &Tensor),
    (rows, n, (per, stride)): (usize, usize, (usize, usize)),
    eps: f32,
    how: How,
) -> Result<()> {
    let mut args = vec![Arg::maybe(x)?, Arg::maybe(delta)?, Arg::maybe(w)?];
    if let Some(bias) = bias {
        args.push(Arg::of(bias)?);
    }
    args.extend([
        Arg::of(sum)?,
        Arg::of(y)?,
        Arg::int(n)?,
        Arg::int(per)?,
        Arg::Long(stride as i64),
        Arg::Float(eps),
    ]);
    let kernel = match bias {
        Some(_) => "add_layer_norm",
        None => "add_rms_norm",
    };
    // SAFETY: the caller's.
    unsafe { kit.launch_as(variant, kernel, ([rows, 1, 1], threads(n)), &args, how) }
}

/// Whole warps, with eight elements for each thread.
fn threads(n: usize) -> usize {
    n.div_ceil(8).next_multiple_of(32).clamp(32, 1024)
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
