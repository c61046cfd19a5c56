//! A rank's share of the model at work: prompts in chunks, then one position after the other, each from stage to stage.

use std::time::Duration;

use candle_core::{DType, Device, Tensor};

use crate::comm::Communicator;
use crate::error::EngineError;
use crate::link::Link;
use crate::models::Model;
use crate::models::cache::KvCache;
use crate::ops::Offset;
use crate::size;

/// How a rank computes: a matter of speed and memory, not of results.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuning {
    /// The most positions (batch × length) of prompts that are computed at a time.
    pub prefill_rows: usize,
    /// Whether decode steps that leave ids on the device are launched as graphs.
    #[cfg(feature = "cuda")]
    pub graphs: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            prefill_rows: size::PREFILL_ROWS,
            #[cfg(feature = "cuda")]
            graphs: true,
        }
    }
}

/// The ids of each row, and when those of each step were there, counted from the start of the call.
pub(super) type Generated = (Vec<Vec<u32>>, Vec<Duration>);

/// A share of the model on its device, and the ways to the other ranks.
pub(super) struct Share {
    pub model: Model,
    pub comm: Box<dyn Communicator>,
    pub link: Box<dyn Link>,
    /// Width and type of the states that go from stage to stage.
    pub states: (usize, DType),
    pub device: Device,
    /// As the call under way has it.
    pub tuning: Tuning,
}

impl Share {
    /// Fills the cache with the prompts → this rank's logits of the last position, `[B, V_rank]`, where the stage is the
    /// last.
    pub fn prefill_stage(
        &mut self,
        prompts: &[Vec<u32>],
        cache: &KvCache,
    ) -> Result<Option<Tensor>, EngineError> {
        let (batch, len) = (prompts.len(), prompts[0].len());
        let (sequences, positions) = if self.model.is_reference() {
            (batch, len)
        } else {
            chunk(batch, len, self.chunk_rows())
        };
        let mut logits = Vec::with_capacity(batch.div_ceil(sequences));
        for first in (0..batch).step_by(sequences) {
            let chosen = &prompts[first..(first + sequences).min(batch)];
            let part;
            let cache = if chosen.len() == batch {
                cache
            } else {
                part = cache.rows(first, chosen.len())?;
                &part
            };
            for start in (0..len).step_by(positions) {
                let end = (start + positions).min(len);
                let ids: Vec<u32> = chosen
                    .iter()
                    .flat_map(|p| p[start..end].iter().copied())
                    .collect();
                let input = self.input(ids, (chosen.len(), end - start))?;
                let at = Offset::Host(start);
                logits.extend(self.forward_stage(&input, at, cache, end == len)?);
            }
        }
        match <[Tensor; 1]>::try_from(logits) {
            Ok([logits]) => Ok(Some(logits)),
            Err(parts) if parts.is_empty() => Ok(None),
            Err(parts) => Ok(Some(Tensor::cat(&parts, 0)?)),
        }
    }

    /// Positions of prompts to compute at a time: fewer in several stages, so that they work on different ones at once.
    pub fn chunk_rows(&self) -> usize {
        let rows = self.tuning.prefill_rows;
        rows.div_ceil(self.link.stage().count)
    }

    /// The input of this stage for `[B, S]` new positions: their ids where it is the first, else what the one before
    /// it has made of them.
    pub fn input(&self, ids: Vec<u32>, shape: (usize, usize)) -> candle_core::Result<Tensor> {
        if self.link.stage().is_first() {
            return Tensor::from_vec(ids, shape, &self.device);
        }
        let ((batch, len), (hidden, dtype)) = (shape, self.states);
        self.link.receive(&[batch, len, hidden], dtype)
    }

    /// Computes the new positions from `at` on, and gives the next stage what it needs → as [`Share::prefill_stage`]
    /// where `last` is set, else nothing.
    pub fn forward_stage(
        &mut self,
        input: &Tensor,
        at: Offset,
        cache: &KvCache,
        last: bool,
    ) -> Result<Option<Tensor>, EngineError> {
        let made = self.model.forward(input, at, cache, &*self.comm, last)?;
        Ok(self.hand_on(made)?)
    }

    /// The last stage keeps what it has made; the others send it to the next.
    pub fn hand_on(&self, made: Option<Tensor>) -> candle_core::Result<Option<Tensor>> {
        match made {
            Some(states) if !self.link.stage().is_last() => {
                self.link.send(&states)?;
                Ok(None)
            }
            kept => Ok(kept),
        }
    }

    /// As [`Share::prefill_stage`], of a model in one stage.
    #[cfg(feature = "cuda")]
    pub fn prefill(
        &mut self,
        prompts: &[Vec<u32>],
        cache: &KvCache,
    ) -> Result<Tensor, EngineError> {
        self.prefill_stage(prompts, cache)?.ok_or_else(no_logits)
    }

    /// As [`Share::forward_stage`], of a model in one stage.
    #[cfg(feature = "cuda")]
    pub fn forward(
        &mut self,
        ids: &Tensor,
        at: Offset,
        cache: &KvCache,
        last: bool,
    ) -> Result<Tensor, EngineError> {
        let logits = self.forward_stage(ids, at, cache, last)?;
        logits.ok_or_else(no_logits)
    }

    /// See [`Model::best`].
    pub fn best(&self, logits: &Tensor) -> candle_core::Result<Tensor> {
        self.model.best(logits, &*self.comm)
    }

    /// See [`Model::gather`].
    pub fn gather(&self, logits: &Tensor) -> candle_core::Result<Vec<Vec<f32>>> {
        self.model.gather(logits, &*self.comm)
    }
}

#[cfg(feature = "cuda")]
fn no_logits() -> EngineError {
    EngineError::Other(anyhow::anyhow!("no logits of the last position"))
}

/// How many sequences, and how many positions of each, to compute at a time: whole sequences where
/// one fits in `rows`, else parts of one.
pub(super) fn chunk(batch: usize, len: usize, rows: usize) -> (usize, usize) {
    if len <= rows {
        ((rows / len).min(batch), len)
    } else {
        (1, rows)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn chunks_stay_within_rows(batch in 1usize..100, len in 1usize..5000, rows in 1usize..5000) {
            let (sequences, positions) = chunk(batch, len, rows);
            prop_assert!(sequences >= 1 && sequences <= batch);
            prop_assert!(positions >= 1 && positions <= len);
            prop_assert!(sequences * positions <= rows);
            // Sequences are only cut where one alone is too long.
            prop_assert!(positions == len || sequences == 1);
        }
    }
}
