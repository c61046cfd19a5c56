//! The layers that a tensor-parallel model is cut along (Shoeybi et al., "Megatron-LM", 2019): the
//! outputs of one linear, the inputs of the next, and the vocabulary.

use candle_core::{DType, Result, Tensor};

use crate::comm::Communicator;
use crate::error::EngineError;
use crate::ops::{self, Offset, Weight};
use crate::weights::{Loader, Part};

/// Adds what every rank computed, then the bias, once.
pub(crate) struct RowLinear {
    /// `[n, k / world]`.
    pub weight: Weight,
    /// `[n]`, on every rank.
    pub bias: Option<Tensor>,
}

impl RowLinear {
    /// `x [.., k / world]` → `[.., n]`.
    pub fn forward(&self, x: &Tensor, comm: &dyn Communicator) -> Result<Tensor> {
        if comm.world() == 1 {
            return self.weight.linear(x, self.bias.as_ref());
        }
        let sum = comm.all_reduce_sum(&self.weight.linear(x, None)?)?;
        match &self.bias {
            Some(bias) => sum.broadcast_add(bias),
            None => Ok(sum),
        }
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
    /// `x [.., k]` → `[.., n / world]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.weight.linear(x, self.bias.as_ref())
    }
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
        })
    }

    /// The embeddings of `ids [B, S]`, with those of their positions where there are any (see [`ops::embed`]) →
    /// `[B, S, E]`, on every rank.
    pub fn embed(
        &self,
        ids: &Tensor,
        positions: Option<(&Tensor, Offset)>,
        comm: &dyn Communicator,
    ) -> Result<Tensor> {
        if comm.world() == 1 {
            return ops::embed(ids, &self.weight, None, positions);
        }
        // Every id is one rank's; the others add zeros.
        let mine = Some((self.start, self.entries));
        let x = comm.all_reduce_sum(&ops::embed(ids, &self.weight, mine, None)?)?;
        match positions {
            Some((table, at)) => x.broadcast_add(&table.narrow(0, at.host()?, ids.dim(1)?)?),
            None => Ok(x),
        }
    }

    /// Logits of `x [B, E]` over this rank's entries.
    pub fn logits(&self, x: &Tensor) -> Result<Tensor> {
        self.weight.linear_first(x, self.entries)
    }
}

/// The best id of each row over the whole vocabulary: each rank's best with its logit are exchanged,
/// not the logits; the first of equals wins.
pub(crate) fn argmax(
    logits: &Tensor,
    vocab_start: usize,
    comm: &dyn Communicator,
) -> Result<Vec<u32>> {
    if comm.world() == 1 {
        return ops::argmax_last(logits);
    }
    let (rows, entries) = logits.dims2()?;
    let (ids, best) = if entries == 0 {
        (vec![0; rows], vec![f32::NEG_INFINITY; rows])
    } else {
        let ids = ops::argmax_last(logits)?;
        let at = Tensor::from_slice(&ids, (rows, 1), logits.device())?;
        let best = logits.contiguous()?.gather(&at, 1)?.flatten_all()?;
        (ids, best.to_dtype(DType::F32)?.to_vec1::<f32>()?)
    };
    // f32 holds ids up to 2²⁴ exactly, and no vocabulary is that large.
    let mine: Vec<f32> = best
        .iter()
        .zip(&ids)
        .flat_map(|(&best, &id)| [best, (vocab_start + id as usize) as f32])
        .collect();
    let all = comm
        .all_gather(&Tensor::from_vec(mine, (rows, 2), logits.device())?)?
        .iter()
        .map(|t| t.to_vec2::<f32>())
        .collect::<Result<Vec<_>>>()?;
    let winner = |row: usize| {
        // Ranks are in the order of their ids: a later one has to be better, not equal.
        let mut winner = &all[0][row];
        for rank in &all[1..] {
            if rank[row][0] > winner[0] {
                winner = &rank[row];
            }
        }
        winner[1] as u32
    };
    Ok((0..rows).map(winner).collect())
}

/// The logits of each row over the whole vocabulary, as f32.
pub(crate) fn gather_logits(logits: &Tensor, comm: &dyn Communicator) -> Result<Vec<Vec<f32>>> {
    let parts = comm
        .all_gather(logits)?
        .iter()
        .map(|t| t.to_dtype(DType::F32)?.to_vec2::<f32>())
        .collect::<Result<Vec<_>>>()?;
    Ok((0..logits.dim(0)?)
        .map(|row| parts.iter().flat_map(|p| p[row].iter().copied()).collect())
        .collect())
}
