//! One rank at work: prefill in chunks, then one step after the other.

#[cfg(feature = "cuda")]
mod decode;
mod generate;
mod score;
mod share;

use std::time::{Duration, Instant};

#[cfg(feature = "cuda")]
use candle_core::Device;

use crate::comm::Seat;
use crate::config::ModelConfig;
use crate::error::EngineError;
use crate::format::Format;
#[cfg(feature = "cuda")]
use crate::gpu;
use crate::gpu::Processor;
use crate::models::Model;
use crate::models::cache::KvCache;
use crate::quality::Score;
use crate::size;
use crate::weights::{Loader, Source};
#[cfg(feature = "cuda")]
pub(crate) use decode::decodes_on_device;
use share::Share;
pub(crate) use share::Tuning;

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

impl Reply {
    /// The answer for these rows and then those of `more`. A step of all ends with its later one.
    pub fn and(self, more: Self) -> Self {
        match (self, more) {
            (
                Self::Generated { ids, step_ends },
                Self::Generated {
                    ids: more_ids,
                    step_ends: other_ends,
                },
            ) => Self::Generated {
                ids: [ids, more_ids].concat(),
                step_ends: step_ends
                    .into_iter()
                    .zip(other_ends)
                    .map(|(one, other)| one.max(other))
                    .collect(),
            },
            (Self::Logits(rows), Self::Logits(more)) => Self::Logits([rows, more].concat()),
            (Self::Scores(rows), Self::Scores(more)) => Self::Scores([rows, more].concat()),
            _ => unreachable!("ranks answer what they were asked"),
        }
    }
}

/// A share of the model with its cache.
pub(crate) struct Rank {
    /// Dropped before the cache that it was made for, and before the communicator: NCCL closes one only once no graph
    /// of its operations is left.
    #[cfg(feature = "cuda")]
    decode: Option<decode::Decode>,
    share: Share,
    /// Kept from call to call, as long as the shape stays: `(B, KVH, Smax, D)`.
    cache: Option<((usize, usize, usize, usize), KvCache)>,
    /// As its options have it.
    #[cfg(feature = "cuda")]
    on_device: bool,
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
    format: Format,
}

impl Rank {
    pub fn load(
        config: &ModelConfig,
        source: &Source,
        seat: Seat,
        options: &RankOptions,
    ) -> Result<Self, EngineError> {
        let Seat { device, comm, link } = seat;
        #[cfg(feature = "cuda")]
        check_device_memory(&device, options.needed)?;
        let (place, world, stage) = (comm.rank(), comm.world(), link.stage());
        let loader = Loader::new(source, options.format, &device, stage, (place, world));
        let model = Model::load(config, &loader, options.max_seq)?;
        Ok(Self {
            // Its own cache is the adapter's.
            layers: if model.is_reference() {
                0
            } else {
                stage.layers(config.layers).len()
            },
            kv_heads: size::kv_heads_per_rank(config, world),
            head_dim: config.head_dim,
            #[cfg(feature = "cuda")]
            decode: None,
            share: Share {
                model,
                comm,
                link,
                states: (
                    config.hidden,
                    options.format.activations(Processor::of(&device)),
                ),
                device,
                tuning: Tuning::default(),
            },
            cache: None,
            #[cfg(feature = "cuda")]
            on_device: options.on_device,
            format: options.format,
        })
    }

    /// Answers a call; the prompts have been checked. A stage before the last has nothing to say.
    pub fn run(
        &mut self,
        call: Call,
        prompts: &[Vec<u32>],
        tuning: Tuning,
    ) -> Result<Option<Reply>, EngineError> {
        let extra = match call {
            Call::Generate { n, .. } => n,
            Call::Logits | Call::Score { .. } => 0,
        };
        // candle's quantized products have buffers that grow with the rows of a call, and a graph would go on to use
        // the old ones.
        #[cfg(feature = "cuda")]
        if extra == 0 || tuning.prefill_rows != self.share.tuning.prefill_rows {
            self.decode = None;
        }
        self.share.tuning = tuning;
        let (batch, input) = (prompts.len(), prompts[0].len());
        let shape = (batch, self.kv_heads, input + extra, self.head_dim);
        let cache = match self.cache.take() {
            Some((kept, cache)) if kept == shape => cache,
            other => {
                #[cfg(feature = "cuda")]
                if let Some(decode) = self.decode.take() {
                    drop(decode);
                    gpu::after_graph(&self.share.device)?;
                }
                // Two caches at once might be one too many.
                drop(other);
                KvCache::new(
                    self.layers,
                    shape,
                    self.format.activations(Processor::of(&self.share.device)),
                    &self.share.device,
                )?
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
    ) -> Result<Option<Reply>, EngineError> {
        let share = &mut self.share;
        let (n, started) = match call {
            Call::Generate { n, started } => (n, started),
            Call::Logits => {
                let logits = share.prefill_stage(prompts, cache)?;
                let gathered = logits.map(|logits| share.gather(&logits)).transpose()?;
                return Ok(gathered.map(Reply::Logits));
            }
            Call::Score { input } => {
                let scores = share.score(prompts, input, cache)?;
                return Ok(scores.map(Reply::Scores));
            }
        };
        #[cfg(feature = "cuda")]
        if self.on_device {
            let kept = &mut self.decode;
            let (ids, step_ends) = share.generate_on_device(prompts, n, started, cache, kept)?;
            return Ok(Some(Reply::Generated { ids, step_ends }));
        }
        let made = share.generate(prompts, n, started, cache)?;
        Ok(made.map(|(ids, step_ends)| Reply::Generated { ids, step_ends }))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_two_replicas_ends_with_the_later_one() {
        let generated = |id, ends: [u64; 3]| Reply::Generated {
            ids: vec![vec![id; 3]],
            step_ends: ends.map(Duration::from_millis).to_vec(),
        };
        let both = generated(7, [2, 5, 6]).and(generated(8, [1, 4, 9]));
        let Reply::Generated { ids, step_ends } = both else {
            panic!("{both:?}");
        };
        assert_eq!(ids, [[7; 3], [8; 3]]);
        assert_eq!(step_ends, [2, 5, 9].map(Duration::from_millis));
    }
}
