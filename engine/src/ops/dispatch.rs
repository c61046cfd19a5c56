//! Each operation by the kernel that is made for its operands: a GPU's, the CPU's, or else plain candle.

use candle_core::quantized::QTensor;
use candle_core::{Device, Result, Tensor};

use super::heads::{Heads, Rotation};
use super::offset::Offset;
use super::weight::Weight;
use super::{cpu, reference};

/// Returns what a kernel for the GPU makes of the operands, where it is made for them.
macro_rules! try_gpu {
    ($kernel:ident($($operand:expr),*)) => {
        #[cfg(feature = "cuda")]
        if let Some(y) = super::cuda::$kernel($($operand),*)? {
            return Ok(y);
        }
    };
}

/// `x · wᵀ (+ bias)`: `x [.., k]`, `w [n, k]`, `bias [n]` → `[.., n]`.
///
/// # Errors
/// When the shapes or dtypes do not fit each other.
pub fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    try_gpu!(linear(x, w, bias, cpu::Epilogue::Bias));
    match cpu::linear(x, w, bias, cpu::Epilogue::Bias)? {
        Some(y) => Ok(y),
        None => reference::linear(x, w, bias),
    }
}

/// `gelu(x · wᵀ + bias)` with the tanh form of GELU: `x [.., k]`, `w [n, k]`, `bias [n]` → `[.., n]`.
///
/// # Errors
/// When the shapes or dtypes do not fit each other.
pub fn linear_bias_gelu(x: &Tensor, w: &Tensor, bias: &Tensor) -> Result<Tensor> {
    try_gpu!(linear(x, w, Some(bias), cpu::Epilogue::BiasGelu));
    match cpu::linear(x, w, Some(bias), cpu::Epilogue::BiasGelu)? {
        Some(y) => Ok(y),
        None => reference::linear_bias_gelu(x, w, bias),
    }
}

/// `x · wᵀ (+ bias)` with quantized weights: `x [.., k]` in f32, `w [n, k]`, `bias [n]` → `[.., n]`.
///
/// # Errors
/// When the shapes or dtypes do not fit each other.
pub fn linear_quantized(x: &Tensor, w: &QTensor, bias: Option<&Tensor>) -> Result<Tensor> {
    try_gpu!(linear_quantized(x, w, bias, cpu::Epilogue::Bias));
    match cpu::linear_quantized(x, w, bias, cpu::Epilogue::Bias)? {
        Some(y) => Ok(y),
        None => reference::linear_quantized(x, w, bias),
    }
}

/// `gelu(x · wᵀ + bias)` with the tanh form of GELU and quantized weights: as [`linear_quantized`].
///
/// # Errors
/// When the shapes or dtypes do not fit each other.
pub fn linear_quantized_bias_gelu(x: &Tensor, w: &QTensor, bias: &Tensor) -> Result<Tensor> {
    try_gpu!(linear_quantized(x, w, Some(bias), cpu::Epilogue::BiasGelu));
    match cpu::linear_quantized(x, w, Some(bias), cpu::Epilogue::BiasGelu)? {
        Some(y) => Ok(y),
        None => reference::linear_quantized(x, w, Some(bias))?.gelu(),
    }
}

/// `silu(gate) · up` of the halves of the last dimension: `[.., 2f]` → `[.., f]`.
///
/// # Errors
/// When the last dimension is odd.
pub fn silu_mul(gate_up: &Tensor) -> Result<Tensor> {
    try_gpu!(silu_mul(gate_up));
    match cpu::silu_mul(gate_up)? {
        Some(y) => Ok(y),
        None => reference::silu_mul(gate_up),
    }
}

/// Causal attention of `S` new positions over a cache that already holds them.
///
/// `q [B, H, S, D]`, `k_cache` and `v_cache [B, KVH, Smax, D]`, of which the first `len` positions
/// are valid; the new ones are the last `S` of those, so that position `i` of `q` sees
/// `len − S + i + 1` keys. `H` is a multiple of `KVH` (grouped queries). → `[B, S, H·D]`.
///
/// # Errors
/// When the shapes do not fit each other, or `len` is less than `S` or more than `Smax`.
pub fn attention(
    q: &Tensor,
    k_cache: &Tensor,
    v_cache: &Tensor,
    len: usize,
    scale: f32,
) -> Result<Tensor> {
    try_gpu!(attention(q, k_cache, v_cache, len, scale));
    match cpu::attention(q, k_cache, v_cache, len, scale)? {
        Some(y) => Ok(y),
        None => reference::attention(q, k_cache, v_cache, len, scale),
    }
}

/// Causal self-attention of `S` new positions from `at` on, whose keys and values are added to the caches.
///
/// `qkv [B, S, (H + 2·KVH)·D]`, the merged product; caches `[B, KVH, Smax, D]`. → `[B, queries, H·D]` of the last
/// `queries` positions.
///
/// # Errors
/// When the shapes do not fit each other or the positions exceed the caches.
pub fn self_attention(
    qkv: &Tensor,
    heads: &Heads,
    rotation: &Rotation,
    caches: (&Tensor, &Tensor),
    at: Offset,
    queries: usize,
) -> Result<Tensor> {
    try_gpu!(self_attention(qkv, heads, rotation, caches, at, queries));
    let offset = at.host()?;
    let (b, s, _) = qkv.dims3()?;
    let Heads { query, kv, dim } = *heads;
    let take = |first: usize, heads: usize| {
        qkv.narrow(2, first * dim, heads * dim)?
            .reshape((b, s, heads, dim))
    };
    let first = s - queries;
    let mut q = take(0, query)?.narrow(1, first, queries)?;
    let mut k = take(query, kv)?;
    let v = take(query + kv, kv)?.transpose(1, 2)?;
    if let Some((q_norm, k_norm, eps)) = rotation.norms {
        q = rms_norm(&q, q_norm, eps)?;
        k = rms_norm(&k, k_norm, eps)?;
    }
    let (mut q, mut k) = (q.transpose(1, 2)?, k.transpose(1, 2)?);
    if let Some((cos, sin)) = rotation.tables {
        q = rope(&q, cos, sin, offset + first)?;
        k = rope(&k, cos, sin, offset)?;
    }
    let (k_cache, v_cache) = caches;
    kv_append(k_cache, v_cache, &k, &v, offset)?;
    attention(&q, k_cache, v_cache, offset + s, heads.scale())
}

/// Writes `k`, `v [B, KVH, S, D]` into the caches `[B, KVH, Smax, D]` at position `offset`, in place.
///
/// # Errors
/// When the shapes do not fit each other or `offset + S` exceeds `Smax`.
pub fn kv_append(
    k_cache: &Tensor,
    v_cache: &Tensor,
    k: &Tensor,
    v: &Tensor,
    offset: usize,
) -> Result<()> {
    for (cache, new) in [(k_cache, k), (v_cache, v)] {
        if !cpu::kv_append(cache, new, offset)? {
            reference::kv_append(cache, new, offset)?;
        }
    }
    Ok(())
}

/// `x / sqrt(mean(x²) + eps) · w` over the last dimension: `x [.., n]`, `w [n]`.
///
/// # Errors
/// When the shapes or dtypes do not fit each other.
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f32) -> Result<Tensor> {
    try_gpu!(rms_norm(x, w, eps));
    match cpu::rms_norm(x, w, eps)? {
        Some(y) => Ok(y),
        None => reference::rms_norm(x, w, eps),
    }
}

/// `(x − mean) / sqrt(var + eps) · w + b` over the last dimension: `x [.., n]`, `w`, `b [n]`.
///
/// # Errors
/// When the shapes or dtypes do not fit each other.
pub fn layer_norm(x: &Tensor, w: &Tensor, b: &Tensor, eps: f32) -> Result<Tensor> {
    try_gpu!(layer_norm(x, w, b, eps));
    match cpu::layer_norm(x, w, b, eps)? {
        Some(y) => Ok(y),
        None => reference::layer_norm(x, w, b, eps),
    }
}

/// `x + delta`, and its [`rms_norm`]: `x`, `delta [.., n]`, `w [n]`.
///
/// # Errors
/// When the shapes or dtypes do not fit each other.
pub fn add_rms_norm(x: &Tensor, delta: &Tensor, w: &Tensor, eps: f32) -> Result<(Tensor, Tensor)> {
    try_gpu!(add_rms_norm(x, delta, w, eps));
    let sum = (x + delta)?;
    let normed = rms_norm(&sum, w, eps)?;
    Ok((sum, normed))
}

/// `x + delta`, and its [`layer_norm`]: `x`, `delta [.., n]`, `w`, `b [n]`.
///
/// # Errors
/// When the shapes or dtypes do not fit each other.
pub fn add_layer_norm(
    x: &Tensor,
    delta: &Tensor,
    w: &Tensor,
    b: &Tensor,
    eps: f32,
) -> Result<(Tensor, Tensor)> {
    try_gpu!(add_layer_norm(x, delta, w, b, eps));
    let sum = (x + delta)?;
    let normed = layer_norm(&sum, w, b, eps)?;
    Ok((sum, normed))
}

/// Rows of a table `[rows, E]` for `ids [B, S]`. Of a vocabulary in shares, `entries` says which ids this one has, the
/// first and how many; all others get zeros. With `positions`, rows of that table `[positions, E]` from there on are
/// added. → `[B, S, E]`.
///
/// # Errors
/// When the shapes or dtypes do not fit each other, or an id or a position is not in its table.
pub fn embed(
    ids: &Tensor,
    table: &Weight,
    entries: Option<(usize, usize)>,
    positions: Option<(&Tensor, Offset)>,
) -> Result<Tensor> {
    try_gpu!(embed(ids, table, entries, positions));
    reference::embed(ids, table, entries, positions)
}

/// Rotary embedding in the rotate-half form: `x [B, H, S, D]` at positions `offset..offset + S`,
/// `cos`, `sin [max positions, D/2]`, of `x`'s dtype.
///
/// # Errors
/// When the shapes do not fit each other or the positions exceed the tables.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, offset: usize) -> Result<Tensor> {
    match cpu::rope(x, cos, sin, offset)? {
        Some(y) => Ok(y),
        None => reference::rope(x, cos, sin, offset),
    }
}

/// The largest logit of each row with its id, that of the first column being `first`: `[B, V]` → `[B, 2]` in f32, which
/// holds ids up to 2²⁴ exactly, and no vocabulary is that large. The first of equals wins, a NaN counts as the largest,
/// and a row of nothing has -inf.
///
/// # Errors
/// When the logits are no matrix.
pub fn best_last(logits: &Tensor, first: usize) -> Result<Tensor> {
    try_gpu!(best_last(logits, first));
    match cpu::best_last(logits, first)? {
        Some(y) => Ok(y),
        None => reference::best_last(logits, first),
    }
}

impl Weight {
    /// `x · wᵀ (+ bias)`: `x [.., k]` → `[.., n]`.
    ///
    /// # Errors
    /// When the shapes or dtypes do not fit each other.
    pub fn linear(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        match self {
            Self::Dense(w) => linear(x, w, bias),
            Self::Quantized(w) => linear_quantized(x, w, bias),
        }
    }

    /// `gelu(x · wᵀ + bias)` with the tanh form of GELU: `x [.., k]` → `[.., n]`.
    ///
    /// # Errors
    /// When the shapes or dtypes do not fit each other.
    pub fn linear_bias_gelu(&self, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(w) => linear_bias_gelu(x, w, bias),
            Self::Quantized(w) => linear_quantized_bias_gelu(x, w, bias),
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
                linear(x, &w.narrow(0, 0, rows)?, None)
            }
            _ => self.linear(x, None)?.narrow(1, 0, rows),
        }
    }
}
