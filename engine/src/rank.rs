//! One rank at work: prefill in chunks, then one step after the other.

#[cfg(feature = "cuda")]
mod decode;
mod score;

use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};

use crate::comm::Communicator;
use crate::config::ModelConfig;
use crate::error::EngineError;
use crate::format::Format;
#[cfg(feature = "cuda")]
use crate::gpu;
use crate::models::cache::KvCache;
use crate::models::{Model, parallel};
use crate::ops::Offset;
use crate::quality::Score;
use crate::size;
use crate::weights::{Loader, Source};
#[cfg(feature = "cuda")]
pub(crate) use decode::decodes_on_device;

/// How every rank is loaded.
#[derive(Clone)]
pub(crate) struct RankOptions {
    pub format: Format,
    /// Whether decoding leaves ids on the device; see `decodes_on_device`.
    #[cfg(feature = "cuda")]
    pub on_device: bool,
    /// Bytes that a rank is predicted to need on a device of its own.
    #[cfg(feature = "cuda")]
    pub needed: u64,
    pub max_seq: usize,
}

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

/// A request to a rank.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Call {
    /// `n` new ids a row, with times counted from `started`.
    Generate { n: usize, started: Instant },
    /// The logits of the last position.
    Logits,
    /// How likely the model finds each row's tokens from `input` on.
    Score { input: usize },
}

/// The answer to a [`Call`].
#[derive(Debug)]
pub(crate) enum Reply {
    Generated {
        ids: Vec<Vec<u32>>,
        step_ends: Vec<Duration>,
    },
    Logits(Vec<Vec<f32>>),
    Scores(Vec<Score>),
}

/// A share of the model, its cache, and the communicator.
pub(crate) struct Rank {
    model: Model,
    /// Dropped before the cache that it was made for, and before the communicator: NCCL closes one only once no graph
    /// of its operations is left.
    #[cfg(feature = "cuda")]
    decode: Option<decode::Decode>,
    comm: Box<dyn Communicator>,
    /// Kept from call to call, as long as the shape stays: `(B, KVH, Smax, D)`.
    cache: Option<((usize, usize, usize, usize), KvCache)>,
    /// As its options have it.
    #[cfg(feature = "cuda")]
    on_device: bool,
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
    format: Format,
    device: Device,
    /// As the call under way has it.
    tuning: Tuning,
}

impl Rank {
    pub fn load(
        config: &ModelConfig,
        source: &Source,
        device: Device,
        comm: Box<dyn Communicator>,
        options: &RankOptions,
    ) -> Result<Self, EngineError> {
        #[cfg(feature = "cuda")]
        check_device_memory(&device, options.needed)?;
        let (place, world) = (comm.rank(), comm.world());
        let loader = Loader::new(source, options.format, &device, place, world);
        let model = Model::load(config, &loader, options.max_seq)?;
        Ok(Self {
            // Its own cache is the adapter's.
            layers: if model.is_reference() {
                0
            } else {
                config.layers
            },
            kv_heads: size::kv_heads_per_rank(config, world),
            head_dim: config.head_dim,
            model,
            comm,
            cache: None,
            #[cfg(feature = "cuda")]
            decode: None,
            #[cfg(feature = "cuda")]
            on_device: options.on_device,
            format: options.format,
            device,
            tuning: Tuning::default(),
        })
    }

    /// Answers a call; the prompts have been checked.
    pub fn run(
        &mut self,
        call: Call,
        prompts: &[Vec<u32>],
        tuning: Tuning,
    ) -> Result<Reply, EngineError> {
        let extra = match call {
            Call::Generate { n, .. } => n,
            Call::Logits | Call::Score { .. } => 0,
        };
        // candle's quantized products have buffers that grow with the rows of a call, and a graph would go on to use
        // the old ones.
        #[cfg(feature = "cuda")]
        if extra == 0 || tuning.prefill_rows != self.tuning.prefill_rows {
            self.decode = None;
        }
        self.tuning = tuning;
        let (batch, input) = (prompts.len(), prompts[0].len());
        let shape = (batch, self.kv_heads, input + extra, self.head_dim);
        let cache = match self.cache.take() {
            Some((kept, cache)) if kept == shape => cache,
            other => {
                #[cfg(feature = "cuda")]
                drop(self.decode.take());
                // Two caches at once might be one too many.
                drop(other);
                KvCache::new(self.layers, shape, self.format.dtype(), &self.device)?
            }
        };
        let reply = self.answer(call, prompts, &cache);
        self.cache = Some((shape, cache));
        reply
    }

    fn answer(
        &mut self,
        call: Call,
        prompts: &[Vec<u32>],
        cache: &KvCache,
    ) -> Result<Reply, EngineError> {
        let (n, started) = match call {
            Call::Generate { n, started } => (n, started),
            Call::Logits => {
                let logits = self.prefill(prompts, cache)?;
                let logits = self.model.gather(&logits, &*self.comm)?;
                return Ok(Reply::Logits(logits));
            }
            Call::Score { input } => return self.score(prompts, input, cache).map(Reply::Scores),
        };
        #[cfg(feature = "cuda")]
        if self.on_device {
            let mut kept = self.decode.take();
            let reply = self.generate_on_device(prompts, n, started, cache, &mut kept);
            self.decode = kept;
            return reply;
        }
        let logits = self.prefill(prompts, cache)?;
        let batch = prompts.len();
        let mut ids = vec![Vec::with_capacity(n); batch];
        let mut step_ends = Vec::with_capacity(n);
        let mut step = parallel::ids(&self.model.best(&logits, &*self.comm)?)?;
        step_ends.push(started.elapsed());
        for position in prompts[0].len()..prompts[0].len() + n - 1 {
            ids.iter_mut()
                .zip(&step)
                .for_each(|(row, &id)| row.push(id));
            let input = Tensor::from_vec(step, (batch, 1), &self.device)?;
            let logits = self.forward(&input, Offset::Host(position), cache, true)?;
            step = parallel::ids(&self.model.best(&logits, &*self.comm)?)?;
            step_ends.push(started.elapsed());
        }
        ids.iter_mut()
            .zip(&step)
            .for_each(|(row, &id)| row.push(id));
        Ok(Reply::Generated { ids, step_ends })
    }

    /// Fills the cache with the prompts → this rank's logits of the last position, `[B, V_rank]`.
    fn prefill(&mut self, prompts: &[Vec<u32>], cache: &KvCache) -> Result<Tensor, EngineError> {
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

    fn forward(
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
}

#[cfg(feature = "cuda")]
fn check_device_memory(device: &Device, needed: u64) -> Result<(), EngineError> {
    if !device.is_cuda() {
        return Ok(());
    }
    let (needed, available) = (needed + gpu::LIBRARY_BYTES, gpu::available_memory(device)?);
    if needed <= available {
        return Ok(());
    }
    Err(EngineError::OutOfMemory(format!(
        "about {} MiB needed on each GPU, {} MiB available",
        needed >> 20,
        available >> 20
    )))
}

/// How many sequences, and how many positions of each, to compute at a time: whole sequences where
/// one fits in `rows`, else parts of one.
fn chunk(batch: usize, len: usize, rows: usize) -> (usize, usize) {
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
