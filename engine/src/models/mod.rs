//! The models: each in one file that reads like its paper, over [`crate::ops`] and
//! [`crate::comm::Communicator`].

pub(crate) mod cache;
pub(crate) mod gpt2;
pub(crate) mod llama;
pub(crate) mod parallel;
pub(crate) mod reference;

use candle_core::{DType, Result, Tensor, bail};

use crate::comm::Communicator;
use crate::config::{Family, ModelConfig};
use crate::error::EngineError;
#[cfg(feature = "cuda")]
use crate::ops::cuda::step::Parts;
use crate::ops::{self, Offset};
use crate::weights::Loader;
use cache::KvCache;

/// One rank's share of a stage of a model.
pub(crate) enum Model {
    Gpt2(gpt2::Gpt2),
    Llama(llama::Llama),
    Reference(reference::Reference),
}

impl Model {
    /// Loads the rank's share; `max_seq` bounds the positions that tables are made for.
    pub fn load(
        config: &ModelConfig,
        loader: &Loader,
        max_seq: usize,
    ) -> std::result::Result<Self, EngineError> {
        Ok(match config.family {
            Family::Gpt2 => Model::Gpt2(gpt2::Gpt2::load(config, loader)?),
            family if family.is_reference() => {
                Model::Reference(reference::Reference::load(config, loader, max_seq)?)
            }
            _ => Model::Llama(llama::Llama::load(config, loader, max_seq)?),
        })
    }

    /// Computes the new positions from `at` on, and adds them to the cache: of ids `[B, S]` in the first stage, of what
    /// the one before it has made in any other. The last stage makes the logits of the last position over this rank's
    /// part of the vocabulary, `[B, V_rank]`, where `last` is set, else nothing; the others make the states of all new
    /// positions, `[B, S, E]`, for the next one.
    pub fn forward(
        &mut self,
        input: &Tensor,
        at: Offset,
        cache: &KvCache,
        comm: &dyn Communicator,
        last: bool,
    ) -> Result<Option<Tensor>> {
        if let Model::Reference(model) = self {
            return model.forward(input, at.host()?).map(Some);
        }
        let x = self.normed(input, at, cache, comm, 1)?;
        match self.head() {
            None => Ok(Some(x)),
            Some(_) if !last => Ok(None),
            Some(head) => head.logits(&x.squeeze(1)?).map(Some),
        }
    }

    /// As [`Model::forward`], but the last stage makes the last hidden states of all new positions, after the final
    /// norm, `[B, S, E]`, on every rank.
    pub fn states(
        &self,
        input: &Tensor,
        at: Offset,
        cache: &KvCache,
        comm: &dyn Communicator,
    ) -> Result<Tensor> {
        self.normed(input, at, cache, comm, input.dim(1)?)
    }

    /// The logits of states `[N, E]` over this rank's part of the vocabulary, `[N, V_rank]`.
    pub fn logits(&self, states: &Tensor) -> Result<Tensor> {
        match self.head() {
            Some(head) => head.logits(states),
            None => {
                bail!("neither an earlier stage nor a reference model gives logits of states")
            }
        }
    }

    /// The best of each row over the whole vocabulary, `[world, B, 2]`: each rank's best with its logit are exchanged
    /// (see [`ops::best_last`]), not the logits.
    pub fn best(&self, logits: &Tensor, comm: &dyn Communicator) -> Result<Tensor> {
        let first = self.head().map_or(0, |head| head.start);
        comm.all_gather(&ops::best_last(logits, first)?)
    }

    /// The logits of every rank's part of the vocabulary, given this rank's, `[N][V]`.
    pub fn gather(&self, logits: &Tensor, comm: &dyn Communicator) -> Result<Vec<Vec<f32>>> {
        let all = match self.head() {
            Some(head) => head.gather(logits, comm)?,
            None => logits.to_dtype(DType::F32)?,
        };
        all.to_vec2()
    }

    /// The states of the last `wanted` of the new positions after the last block and the final norm, `[B, wanted, E]`;
    /// in a stage before the last, those of all new positions after its last block.
    fn normed(
        &self,
        input: &Tensor,
        at: Offset,
        cache: &KvCache,
        comm: &dyn Communicator,
        wanted: usize,
    ) -> Result<Tensor> {
        match self {
            Model::Gpt2(model) => model.normed(input, at, cache, comm, wanted),
            Model::Llama(model) => model.normed(input, at, cache, comm, wanted),
            Model::Reference(_) => {
                bail!("a reference model gives no hidden states")
            }
        }
    }

    /// The weights that a step on one GPU multiplies by; none where the model is not whole on it, or not in plain numbers.
    #[cfg(feature = "cuda")]
    pub fn parts(&self, comm: &dyn Communicator) -> Option<Parts> {
        match self {
            _ if comm.world() > 1 => None,
            Model::Gpt2(model) => model.parts(),
            Model::Llama(model) => model.parts(),
            Model::Reference(_) => None,
        }
    }

    /// Whether the model keeps its own cache and takes a prompt only whole.
    pub fn is_reference(&self) -> bool {
        matches!(self, Model::Reference(_))
    }

    /// Of the last stage.
    fn head(&self) -> Option<&parallel::Vocabulary> {
        match self {
            Model::Gpt2(model) => model.head.as_ref(),
            Model::Llama(model) => model.head.as_ref(),
            Model::Reference(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::format::Format;
    use crate::gpu::Processor;
    use crate::parallel::Parallel;
    use crate::presets::preset;
    use crate::size;
    use crate::weights::Weights;

    /// A head that is tied to an embedding on another stage is a copy; on the same one it is the embedding itself. With
    /// biases, norms of heads, and packed weights.
    #[test]
    fn stages_load_what_is_predicted_of_them() {
        for name in ["tiny-gpt2", "tiny-llama", "tiny-qwen2", "tiny-qwen3"] {
            for (tied, format) in [
                (false, Format::F32),
                (true, Format::F32),
                (false, Format::Q8_0),
                (true, Format::Q8_0),
            ] {
                let mut json = preset(name).unwrap().to_json();
                json["tie_word_embeddings"] = tied.into();
                let config = ModelConfig::parse(&json.to_string()).unwrap();
                let weights = Weights::Random {
                    config: config.clone(),
                    seed: 1,
                };
                let source = weights.source(&config).unwrap();
                let loaded = [1, 3].map(|pipeline| {
                    let parallel = Parallel {
                        pipeline,
                        ..Parallel::ONE
                    };
                    let predicted = size::memory_of_stages(
                        &config,
                        (format, Processor::Cpu),
                        1,
                        8,
                        8,
                        parallel,
                    );
                    let stages = parallel.stages().zip(predicted);
                    let bytes = stages.map(|(stage, predicted)| {
                        let what = format!("{name}, tied: {tied}, {format}, {stage:?}");
                        let loader = Loader::new(&source, format, &Device::Cpu, stage, (0, 1));
                        let model = Model::load(&config, &loader, 16).unwrap();
                        assert_eq!(model.head().is_some(), stage.is_last(), "{what}");
                        assert_eq!(loader.bytes.get() as u64, predicted.weights, "{what}");
                        loader.bytes.get()
                    });
                    bytes.sum::<usize>()
                });
                // All of it once, but for the copy: of 509 rows, padded to 512.
                let copy = if tied { 512 * config.hidden } else { 0 };
                let copy = format.matrix_bytes(copy as u64) as usize;
                assert_eq!(
                    loaded[1],
                    loaded[0] + copy,
                    "{name}, tied: {tied}, {format}"
                );
            }
        }
    }
}
