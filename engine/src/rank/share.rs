//! A rank's share of the model at work: prompts in chunks, then one position after the other.

use candle_core::{Device, Tensor};

use crate::comm::Communicator;
use crate::error::EngineError;
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

/// A share of the model on its device, and the communicator.
pub(super) struct Share {
    pub model: Model,
    pub comm: Box<dyn Communicator>,
    pub device: Device,
    /// As the call under way has it.
    pub tuning: Tuning,
}

impl Share {
    /// Fills the cache with the prompts → this rank's logits of the last position, `[B, V_rank]`.
    pub fn prefill(
        &mut self,
        prompts: &[Vec<u32>],
        cache: &KvCache,
    ) -> Result<Tensor, EngineError> {
        let (batch, len) = (prompts.len(), prompts[0].len());
        let (sequences, positions) = if self.model.is_reference() {
            (batch, len)
        } else {
            chunk(batch, len, self.tuning.prefill_rows)
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
                let shape = (chosen.len(), end - start);
                let ids = Tensor::from_vec(ids, shape, &self.device)?;
                let at = Offset::Host(start);
                if end == len {
                    logits.push(self.forward(&ids, at, cache, true)?);
                } else {
                    self.model.forward(&ids, at, cache, &*self.comm, false)?;
                }
            }
        }
        match <[Tensor; 1]>::try_from(logits) {
            Ok([logits]) => Ok(logits),
            Err(parts) => Ok(Tensor::cat(&parts, 0)?),
        }
    }

    /// Computes the new positions `ids [B, S]` from `at` on → as [`Share::prefill`].
    pub fn forward(
        &mut self,
        ids: &Tensor,
        at: Offset,
        cache: &KvCache,
        last: bool,
    ) -> Result<Tensor, EngineError> {
        self.model
            .forward(ids, at, cache, &*self.comm, last)?
            .ok_or_else(|| EngineError::Other(anyhow::anyhow!("no logits of the last position")))
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
