//! The next ids, chosen greedily on the device.

use candle_core::{DType, Device, Result, Tensor, bail};

use super::device::{Arg, How, Kit, dense};
use super::source::Variant;

/// The state that decoding keeps on the device from step to step; all `u32`.
pub(crate) struct Greedy {
    /// The last ids, `[B]`.
    pub ids: Tensor,
    /// All ids so far, `[B, n]`.
    pub history: Tensor,
    /// Which of them are next, `[1]`.
    pub step: Tensor,
    /// The position of the last ids, `[1]`.
    pub position: Tensor,
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
            position: zeros(1)?,
            bad: zeros(1)?,
        })
    }

    /// Takes the ids of every rank's [`crate::ops::best_last`], `[world, B, 2]`, and goes on to the next step and
    /// position.
    ///
    /// # Errors
    /// Where `best` is not of these shapes.
    pub fn take(&self, best: &Tensor) -> Result<()> {
        let (world, rows, _) = best.dims3()?;
        let (batch, n) = self.history.dims2()?;
        let fits = dense(&[best], DType::F32) && best.dims() == [world, batch, 2];
        let (Some(kit), Some(variant), true) = (Kit::of(best)?, Variant::base(DType::F32), fits)
        else {
            bail!(
                "greedy: {:?} are not the best of {batch} rows",
                best.layout()
            );
        };
        // SAFETY: best is as large as was checked; ids, history, step, position and bad are of the sizes that `new`
        // makes.
        unsafe {
            kit.launch(
                variant,
                "take_best",
                ([1, 1, 1], rows.next_multiple_of(32).min(1024)),
                &[
                    Arg::of(best)?,
                    Arg::of(&self.ids)?,
                    Arg::of(&self.history)?,
                    Arg::of(&self.step)?,
                    Arg::of(&self.position)?,
                    Arg::of(&self.bad)?,
                    Arg::int(world)?,
                    Arg::int(rows)?,
                    Arg::int(n)?,
                ],
            )
        }
    }
}

/// See [`crate::ops::best_last`].
pub(in crate::ops) fn best_last(logits: &Tensor, first: usize) -> Result<Option<Tensor>> {
    let (b, _) = logits.dims2()?;
    let (Some(kit), Some(_), &[_, 1]) = (
        Kit::of(logits)?,
        Variant::base(logits.dtype()),
        logits.stride(),
    ) else {
        return Ok(None);
    };
    let best = kit.empty((b, 2), DType::F32)?;
    best_into(&kit, logits, first, &best, How::default())?;
    Ok(Some(best))
}

/// As [`best_last`], into `best [.., B, 2]`.
pub(super) fn best_into(
    kit: &Kit,
    logits: &Tensor,
    first: usize,
    best: &Tensor,
    how: How,
) -> Result<()> {
    let (b, v) = logits.dims2()?;
    let (Some(variant), &[stride, 1], true) = (
        Variant::base(logits.dtype()),
        logits.stride(),
        dense(&[best], DType::F32) && best.elem_count() == 2 * b,
    ) else {
        bail!("best: no kernel for logits {:?}", logits.layout());
    };
    // SAFETY: best has as many pairs as there are rows, which lie `stride` apart.
    unsafe {
        kit.launch_as(
            variant,
            "best_logit",
            ([b, 1, 1], v.next_multiple_of(32).clamp(32, 1024)),
            &[
                Arg::of(logits)?,
                Arg::of(best)?,
                Arg::int(v)?,
                Arg::Long(stride as i64),
                Arg::int(first)?,
            ],
            how,
        )
    }
}
