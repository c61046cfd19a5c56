//! A matrix of weights, plain or quantized, and all that a model does with one.

use std::sync::Arc;

use candle_core::quantized::QTensor;
use candle_core::{Device, Result, Tensor};

/// A matrix `[n, k]` that rows of `k` elements are multiplied by.
#[derive(Clone, Debug)]
pub enum Weight {
    /// Plain numbers.
    Dense(Tensor),
    /// Blocks along `k`; products take and give f32.
    Quantized(Arc<QTensor>),
}

impl Weight {
    /// `x · wᵀ (+ bias)`: `x [.., k]` → `[.., n]`.
    ///
    /// # Errors
    /// When the shapes or dtypes do not fit each other.
    pub fn linear(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        match self {
            Self::Dense(w) => super::linear(x, w, bias),
            Self::Quantized(w) => super::linear_quantized(x, w, bias),
        }
    }

    /// `gelu(x · wᵀ + bias)` with the tanh form of GELU: `x [.., k]` → `[.., n]`.
    ///
    /// # Errors
    /// When the shapes or dtypes do not fit each other.
    pub fn linear_bias_gelu(&self, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(w) => super::linear_bias_gelu(x, w, bias),
            Self::Quantized(w) => super::linear_quantized_bias_gelu(x, w, bias),
        }
    }

    /// `x [B, k]` times the first `rows` rows → `[B, rows]`.
    ///
    /// # Errors
    /// When the shapes or dtypes do not fit each other.
    pub fn linear_first(&self, x: &Tensor, rows: usize) -> Result<Tensor> {
        match self {
            // No aligned product to be won, and one copy to be saved.
            Self::Dense(w) if matches!(w.device(), Device::Cpu) => {
                super::linear(x, &w.narrow(0, 0, rows)?, None)
            }
            _ => self.linear(x, None)?.narrow(1, 0, rows),
        }
    }

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
