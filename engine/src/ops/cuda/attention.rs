//! Attention: decode by kernels that read the cache once, prefill by cuBLAS around a softmax that masks.

use candle_core::{DType, Result, Tensor};

use super::device::{Arg, Kit, dense};
use super::source::Variant;
use crate::ops::{Heads, Offset, Rotation, reference};

/// See [`crate::ops::attention`].
pub(in crate::ops) fn attention(
    q: &Tensor,
    k_cache: &Tensor,
    v_cache: &Tensor,
    len: usize,
    scale: f32,
) -> Result<Option<Tensor>> {
    let Some(kit) = Kit::of(q)? else {
        return Ok(None);
    };
    reference::check_attention(q, k_cache, v_cache, len)?;
    let scaled;
    let q = if scale == 1.0 {
        q
    } else {
        scaled = (q.contiguous()? * f64::from(scale))?;
        &scaled
    };
    if q.dim(2)? == 1
        && let Some(y) = decode(&kit, q, k_cache, v_cache, Offset::Host(len - 1))?
    {
        return Ok(Some(y));
    }
    if Variant::base(q.dtype()).is_none() || q.dtype() != k_cache.dtype() {
        return Ok(None);
    }
    let attend = |q: &Tensor, k: &Tensor, v: &Tensor, len: usize| attend(&kit, q, k, v, len);
    reference::chunked(q, k_cache, v_cache, len, SCORES, attend).map(Some)
}

/// Scores that a prompt's attention makes at a time: few enough to stay in the last cache between its steps, many
/// enough to be worth a launch.
const SCORES: usize = 1 << 24;

/// Attention of scaled queries at the last S of `len` positions. → `[B, S, H, D]`.
fn attend(kit: &Kit, q: &Tensor, k_cache: &Tensor, v_cache: &Tensor, len: usize) -> Result<Tensor> {
    let (b, h, s, d) = q.dims4()?;
    let kvh = k_cache.dim(1)?;
    let k = k_cache.narrow(2, 0, len)?;
    let v = v_cache.narrow(2, 0, len)?;
    let q = q.contiguous()?.reshape((b, kvh, h / kvh * s, d))?;
    let scores = q.matmul(&k.t()?)?;
    softmax_causal(kit, &scores, s, len)?;
    scores
        .matmul(&v)?
        .reshape((b, h, s, d))?
        .transpose(1, 2)?
        .contiguous()
}

/// Softmax of `scores [.., S, len]` in place, masked causally.
fn softmax_causal(kit: &Kit, scores: &Tensor, s: usize, len: usize) -> Result<()> {
    let Some(variant) = Variant::base(scores.dtype()) else {
        candle_core::bail!(
            "softmax: dtype {:?} is not one of F32, BF16, F16",
            scores.dtype()
        );
    };
    let rows = scores.elem_count() / len;
    let (kernel, block) = if len.is_multiple_of(8) && len <= 8 * 1024 {
        ("softmax_causal_8", (len / 8).next_multiple_of(32))
    } else {
        (
            "softmax_causal",
            len.div_ceil(4).next_multiple_of(32).clamp(32, 1024),
        )
    };
    // SAFETY: the scores are a product's, so new and dense: whole rows of `len`.
    unsafe {
        kit.launch(
            variant,
            kernel,
            ([rows, 1, 1], block),
            &[Arg::of(scores)?, Arg::int(s)?, Arg::int(len)?],
        )
    }
}

/// Blocks for every multiprocessor that decode's attention is shared among, where the cache is long enough: several
/// times as many as run at once, so that the last ones do not leave most of the GPU idle.
const BLOCKS: usize = 16;
/// Fewer positions than this are not worth a block.
const LEAST: usize = 64;

/// Attention of the one new position at `at`: `q [B, H, 1, D]`, scaled → `[B, 1, H·D]`; none where there is no kernel
/// for the operands. The launch does not depend on the position but through `at`.
pub(super) fn decode(
    kit: &Kit,
    q: &Tensor,
    k_cache: &Tensor,
    v_cache: &Tensor,
    at: Offset,
) -> Result<Option<Tensor>> {
    let ((b, h, _, d), (_, kvh, max, _)) = (q.dims4()?, k_cache.dims4()?);
    let dtype = q.dtype();
    let (Some(base), Some(variant), true) = (
        Variant::base(dtype),
        Variant::attention(dtype, h / kvh, d),
        dense(&[q, k_cache, v_cache], dtype),
    ) else {
        return Ok(None);
    };
    let splits = (kit.processors * BLOCKS)
        .div_ceil(b * kvh)
        .clamp(1, max.div_ceil(LEAST));
    let out = kit.empty((b, h, splits, d), DType::F32)?;
    let stats = kit.empty((b, h, splits, 2), DType::F32)?;
    let y = kit.empty((b, 1, h * d), dtype)?;
    // SAFETY: the caches hold `max` positions, of which `at` is one; out, stats and y are new and of the sizes that the
    // kernels' comments name.
    unsafe {
        kit.launch(
            variant,
            "decode_attention",
            ([splits, kvh, b], 128),
            &[
                Arg::of(q)?,
                Arg::of(k_cache)?,
                Arg::of(v_cache)?,
                Arg::maybe(at.on_device())?,
                Arg::int(at.on_host())?,
                Arg::of(&out)?,
                Arg::of(&stats)?,
                Arg::int(kvh)?,
                Arg::int(max)?,
            ],
        )?;
        kit.launch(
            base,
            "decode_combine",
            ([h, b, 1], d),
            &[
                Arg::of(&out)?,
                Arg::of(&stats)?,
                Arg::of(&y)?,
                Arg::int(splits)?,
            ],
        )?;
    }
    Ok(Some(y))
}

/// See [`crate::ops::self_attention`].
pub(in crate::ops) fn self_attention(
    qkv: &Tensor,
    heads: &Heads,
    rotation: &Rotation,
    (k_cache, v_cache): (&Tensor, &Tensor),
    at: Offset,
    queries: usize,
) -> Result<Option<Tensor>> {
    let Some(kit) = Kit::of(qkv)? else {
        return Ok(None);
    };
    let (b, s, width) = qkv.dims3()?;
    let Heads { query, kv, dim } = *heads;
    let (_, _, max, _) = k_cache.dims4()?;
    let dtype = qkv.dtype();
    let Some(variant) = Variant::base(dtype) else {
        return Ok(None);
    };
    let half = dim / 2;
    let dense_all =
        |pair: Option<(&Tensor, &Tensor)>| pair.is_none_or(|(a, b)| dense(&[a, b], dtype));
    let norms = rotation.norms.map(|(q, k, _)| (q, k));
    let fits = width == (query + 2 * kv) * dim
        && dim % 2 == 0
        && (1..=1024).contains(&half)
        && (norms.is_none() || half % 32 == 0)
        && dense(&[qkv, k_cache, v_cache], dtype)
        && k_cache.dims() == [b, kv, max, dim]
        && v_cache.dims() == k_cache.dims()
        && dense_all(rotation.tables)
        && dense_all(norms)
        && (1..=s).contains(&queries);
    if !fits {
        return Ok(None);
    }
    if let Offset::Host(offset) = at {
        let known = rotation.tables.map_or(Ok(max), |(cos, _)| cos.dim(0))?;
        if offset + s > max.min(known) {
            return Ok(None);
        }
    }
    let q = kit.empty((b, query, queries, dim), dtype)?;
    let (cos, sin) = rotation.tables.unzip();
    let (q_norm, k_norm) = norms.unzip();
    // SAFETY: q is new; the caches have room for the new positions: checked above, or by whoever counts on the device.
    unsafe {
        kit.launch(
            variant,
            "rope_append",
            ([s, query + 2 * kv, b], half),
            &[
                Arg::of(qkv)?,
                Arg::maybe(cos)?,
                Arg::maybe(sin)?,
                Arg::maybe(q_norm)?,
                Arg::maybe(k_norm)?,
                Arg::of(&q)?,
                Arg::of(k_cache)?,
                Arg::of(v_cache)?,
                Arg::maybe(at.on_device())?,
                Arg::int(at.on_host())?,
                Arg::int(queries)?,
                Arg::int(query)?,
                Arg::int(kv)?,
                Arg::int(max)?,
                Arg::Float(rotation.norms.map_or(0.0, |(.., eps)| eps)),
                Arg::Float(heads.scale()),
            ],
        )?;
    }
    match at {
        // The queries are scaled: products with them, unscaled, might be too large for f16.
        Offset::Host(offset) => attention(&q, k_cache, v_cache, offset + s, 1.0),
        // Without its kernel the caller's fallback says what is missing.
        Offset::Device(_) if s == 1 => decode(&kit, &q, k_cache, v_cache, at),
        Offset::Device(_) => Ok(None),
    }
}
