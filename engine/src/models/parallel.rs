//! The layers that a tensor-parallel model is cut along (Shoeybi et al., "Megatron-LM", 2019): the
//! outputs of one linear, the inputs of the next, and the vocabulary.

use candle_core::{D, DType, Error, Result, Tensor};

use crate::comm::Communicator;
use crate::config::ModelConfig;
use crate::error::EngineError;
#[cfg(feature = "cuda")]
use crate::ops::cuda::step::Product;
use crate::ops::{self, Offset, Weight};
use crate::weights::{Loader, Part};

/// Adds what every rank computed, and the bias, which is the first rank's to add.
pub(crate) struct RowLinear {
    /// `[n, k / world]`.
    pub weight: Weight,
    /// `[n]`, on every rank.
    pub bias: Option<Tensor>,
}

impl RowLinear {
    /// The matrix and the bias, where the matrix is no quantized blocks.
    #[cfg(feature = "cuda")]
    pub fn product(&self) -> Option<Product> {
        product(&self.weight, self.bias.as_ref())
    }

    /// `x [.., k / world]` → `[.., n]`.
    pub fn forward(&self, x: &Tensor, comm: &dyn Communicator) -> Result<Tensor> {
        let bias = self.bias.as_ref().filter(|_| comm.rank() == 0);
        comm.all_reduce_sum(&self.weight.linear(x, bias)?)
    }
}

/// Produces this rank's outputs; no word with the others.
pub(crate) struct ColumnLinear {
    /// `[n / world, k]`.
    pub weight: Weight,
    /// `[n / world]`.
    pub bias: Option<Tensor>,
}

impl ColumnLinear {
    /// The matrix and the bias, where the matrix is no quantized blocks.
    #[cfg(feature = "cuda")]
    pub fn product(&self) -> Option<Product> {
        product(&self.weight, self.bias.as_ref())
    }

    /// `x [.., k]` → `[.., n / world]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.weight.linear(x, self.bias.as_ref())
    }
}

/// A matrix and its bias for a step on one GPU, where the matrix is no quantized blocks.
#[cfg(feature = "cuda")]
pub(crate) fn product(weight: &Weight, bias: Option<&Tensor>) -> Option<Product> {
    Some(Product {
        weight: weight.dense()?,
        bias: bias.cloned(),
    })
}

/// The vocabulary in shares of equal size: rows past its end are zero, and their logits left out.
#[derive(Clone)]
pub(crate) struct Vocabulary {
    /// `[rows, E]`.
    weight: Weight,
    /// The rank's first entry.
    pub start: usize,
    /// How many of the rows are entries.
    entries: usize,
    /// How many rows there are, the same on every rank.
    share: usize,
    /// Entries of all ranks.
    all: usize,
}

/// Shares are a multiple of this many rows: matrix products over an odd number are slow on
/// accelerators (GPT-2 has 50257 entries).
const ALIGN: usize = 64;

impl Vocabulary {
    /// The rank's share of `[vocab, hidden]`.
    pub fn load(
        loader: &Loader,
        name: &str,
        vocab: usize,
        hidden: usize,
    ) -> std::result::Result<Self, EngineError> {
        let share = vocab.div_ceil(ALIGN * loader.world) * ALIGN;
        let start = (loader.rank * share).min(vocab);
        let end = (start + share).min(vocab);
        let part = Part::new(name, &[vocab, hidden])
            .rows(start..end)
            .padded_to(share);
        Ok(Self {
            weight: loader.weight(&[part])?,
            start,
            entries: end - start,
            share,
            all: vocab,
        })
    }

    /// The embedding `name` where the stage is the first, and the head where it is the last: a tied one is the embedding
    /// itself where both are on one stage, else a copy of it.
    pub fn ends(
        c: &ModelConfig,
        loader: &Loader,
        name: &str,
    ) -> std::result::Result<(Option<Self>, Option<Self>), EngineError> {
        let load = |name| Self::load(loader, name, c.vocab_size, c.hidden);
        let tokens = loader.stage.is_first().then(|| load(name)).transpose()?;
        let head = match &tokens {
            _ if !loader.stage.is_last() => None,
            Some(tokens) if c.tied => Some(tokens.clone()),
            _ => Some(load(if c.tied { name } else { "lm_head.weight" })?),
        };
        Ok((tokens, head))
    }

    /// The embeddings of `ids [B, S]`, with those of their positions where there are any (see [`ops::embed`]) →
    /// `[B, S, E]`, on every rank.
    pub fn embed(
        &self,
        ids: &Tensor,
        positions: Option<(&Tensor, Offset)>,
        comm: &dyn Communicator,
    ) -> Result<Tensor> {
        // Every id is one rank's, and the positions are the first's; the others add zeros.
        let mine = (comm.world() > 1).then_some((self.start, self.entries));
        let positions = positions.filter(|_| comm.rank() == 0);
        comm.all_reduce_sum(&ops::embed(ids, &self.weight, mine, positions)?)
    }

    /// The rows, where they are no quantized blocks, and how many of them are entries.
    #[cfg(feature = "cuda")]
    pub fn dense(&self) -> Option<(Tensor, usize)> {
        Some((self.weight.dense()?, self.entries))
    }

    /// Logits of `x [B, E]` over this rank's entries.
    pub fn logits(&self, x: &Tensor) -> Result<Tensor> {
        self.weight.linear_first(x, self.entries)
    }

    /// Every rank's logits over its entries, `[N, entries]`, as those over the whole vocabulary, `[N, V]`, in f32.
    pub fn gather(&self, logits: &Tensor, comm: &dyn Communicator) -> Result<Tensor> {
        if comm.world() == 1 {
            return logits.to_dtype(DType::F32);
        }
        let padding = self.share - self.entries;
        let all = comm.all_gather(&logits.pad_with_zeros(D::Minus1, 0, padding)?)?;
        let (world, n, share) = all.dims3()?;
        all.to_dtype(DType::F32)?
            .transpose(0, 1)?
            .reshape((n, world * share))?
            .narrow(1, 0, self.all)
    }
}

/// The id of each row that is taken of [`super::Model::best`]: the first of equals.
pub(crate) fn ids(best: &Tensor) -> Result<Vec<u32>> {
    let best = best.to_vec3::<f32>()?;
    let take = |row: usize| {
        let mut winner = &best[0][row];
        for rank in &best {
            // Ranks are in the order of their ids: a later one has to be better, not equal.
            if rank[row][0] > winner[0] || rank[row][0].is_nan() {
                winner = &rank[row];
            }
        }
        if !winner[0].is_finite() {
            return Err(not_a_number(row));
        }
        Ok(winner[1] as u32)
    };
    (0..best[0].len()).map(take).collect()
}

/// That the largest logit of a row is not defined, or past what its type can hold.
pub(crate) fn not_a_number(row: usize) -> Error {
    Error::msg(format!(
        "row {row} of the logits holds a NaN or an infinity"
    ))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_first_rank_with_the_largest_logit_names_the_id() {
        let taken = |best: &[[[f32; 2]; 3]; 2]| ids(&Tensor::new(best, &Device::Cpu).unwrap());
        let lower = [[2.0, 3.0], [1.0, 4.0], [5.0, 6.0]];
        let upper = [[1.0, 103.0], [2.0, 104.0], [5.0, 106.0]];
        assert_eq!(taken(&[lower, upper]).unwrap(), [3, 104, 6]);
        // A share without entries.
        let nothing = [[f32::NEG_INFINITY, 100.0]; 3];
        assert_eq!(taken(&[lower, nothing]).unwrap(), [3, 4, 6]);
        for rank in 0..2 {
            for value in [f32::NAN, f32::INFINITY] {
                let mut best = [lower, upper];
                best[rank][1][0] = value;
                let error = taken(&best).unwrap_err().to_string();
                assert!(error.contains("row 1"), "{error}");
            }
        }
    }
}
