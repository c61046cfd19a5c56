//! A matrix of weights, plain or quantized. Its products are in `dispatch.rs`, as all others.

use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{Result, Tensor};

/// A matrix `[n, k]` that rows of `k` elements are multiplied by.
#[derive(Clone, Debug)]
pub enum Weight {
    /// Plain numbers.
    Dense(Tensor),
    /// Blocks along `k`; products take and give f32.
    Quantized(Arc<QTensor>),
}

impl Weight {
    /// The rows of these numbers, `ids [N]` → `[N, k]`.
    ///
    /// # Errors
    /// When an id is no row.
    pub fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(w) => w.index_select(ids, 0),
            Self::Quantized(w) => w.embedding(ids),
        }
    }

    /// The matrix, where it is plain numbers.
    #[cfg(feature = "cuda")]
    pub(crate) fn dense(&self) -> Option<Tensor> {
        match self {
            Self::Dense(w) => Some(w.clone()),
            Self::Quantized(_) => None,
        }
    }

    /// Length of a row.
    ///
    /// # Errors
    /// Never for a matrix.
    pub fn row_len(&self) -> Result<usize> {
        match self {
            Self::Dense(w) => w.dim(1),
            Self::Quantized(w) => Ok(w.shape().dims2()?.1),
        }
    }
}
