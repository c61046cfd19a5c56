//! The next ids: greedily, without a word to the host.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::device::{Arg, Kit};
use super::source::Variant;

/// What decoding keeps on the device from step to step; all `u32`.
pub(crate) struct Greedy {
    /// The last ids, `[B]`.
    pub ids: Tensor,
    /// All ids so far, `[B, n]`.
    pub history: Tensor,
    /// Which of them are next, `[1]`.
    pub step: Tensor,
    /// 0, or 1 more than a row whose logits held a NaN, `[1]`.
    pub bad: Tensor,
}

impl Greedy {
    /// For `batch` rows of `n` ids.
    pub fn new(batch: usize, n: usize, device: &Device) -> Result<Self> {
        let zeros = |count: usize| Tensor::zeros(count, DType::U32, device);
        Ok(Self {
            ids: zeros(batch)?,
            history: zeros(batch * n)?.reshape((batch, n))?,
            step: zeros(1)?,
            bad: zeros(1)?,
        })
    }
}

/// Writes the first index of the largest logit of each row of `logits [B, V]`, and keeps it.
///
/// # Errors
/// Where the logits are not as a head leaves them.
pub(crate) fn argmax(logits: &Tensor, greedy: &Greedy) -> Result<()> {
    let (b, v) = logits.dims2()?;
    let dtype = logits.dtype();
    let (Some(kit), Some(variant), &[stride, 1]) =
        (Kit::of(logits)?, Variant::base(dtype), logits.stride())
    else {
        bail!(
            "argmax: logits of {dtype:?} and {:?} are not for it",
            logits.layout()
        );
    };
    let (rows, n) = greedy.history.dims2()?;
    if rows != b || v == 0 {
        bail!("argmax: {b} rows of {v} logits, {rows} rows of ids");
    }
    // SAFETY: the rows lie `stride` apart; ids, history, step and bad are of the sizes that `Greedy` makes.
    unsafe {
        kit.launch(
            variant,
            "argmax_first",
            ([b, 1, 1], v.next_multiple_of(32).min(1024)),
            &[
                Arg::of(logits)?,
                Arg::of(&greedy.ids)?,
                Arg::of(&greedy.history)?,
                Arg::of(&greedy.step)?,
                Arg::of(&greedy.bad)?,
                Arg::int(v)?,
                Arg::Long(stride as i64),
                Arg::int(n)?,
            ],
        )
    }
}

/// Goes on to the next step and position, each `[1]`.
///
/// # Errors
/// Where the kernel cannot be launched.
pub(crate) fn advance(step: &Tensor, position: &Tensor) -> Result<()> {
    let (Some(kit), Some(variant)) = (Kit::of(step)?, Variant::base(DType::F32)) else {
        bail!("advance: the step is not on a GPU");
    };
    // SAFETY: one number each.
    unsafe {
        kit.launch(
            variant,
            "advance",
            ([1, 1, 1], 1),
            &[Arg::of(step)?, Arg::of(position)?],
        )
    }
}

/// See [`crate::ops::argmax_last`].
pub(in crate::ops) fn argmax_last(logits: &Tensor) -> Result<Option<Vec<u32>>> {
    let (b, v) = logits.dims2()?;
    let fits = Variant::base(logits.dtype()).is_some() && v > 0 && logits.stride()[1] == 1;
    if !fits || !logits.device().is_cuda() {
        return Ok(None);
    }
    let greedy = Greedy::new(b, 1, logits.device())?;
    argmax(logits, &greedy)?;
    let bad = greedy.bad.to_vec1::<u32>()?[0];
    if bad > 0 {
        bail!("argmax_last: row {} of the logits holds a NaN", bad - 1);
    }
    greedy.ids.to_vec1::<u32>().map(Some)
}
