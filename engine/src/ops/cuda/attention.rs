//! Attention: decode by kernels that read the cache once, prefill by one that never writes scores, or by cuBLAS around
//! a softmax that masks.

use candle_core::{DType, Result, Tensor};

use super::device::{Arg, How, Kit, dense};
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
    if let Some(y) = flash(&kit, q, k_cache, v_cache, len)? {
        return Ok(Some(y));
    }
    let attend = |q: &Tensor, k: &Tensor, v: &Tensor, len: usize| attend(&kit, q, k, v, len);
    reference::chunked(q, k_cache, v_cache, len, SCORES, attend).map(Some)
}

/// Attention of scaled queries at the last S of `len` positions on tensor cores → `[B, S, H·D]`; none where the kernel
/// is not made for the operands.
fn flash(
    kit: &Kit,
    q: &Tensor,
    k_cache: &Tensor,
    v_cache: &Tensor,
    len: usize,
) -> Result<Option<Tensor>> {
    let ((b, h, s, d), (_, kvh, max, _)) = (q.dims4()?, k_cache.dims4()?);
    let dtype = q.dtype();
    let (Some(variant), true, false) = (
        Variant::flash(dtype, h / kvh, d),
        dense(&[q, k_cache, v_cache], dtype),
        super::switch::off("flash"),
    ) else {
        return Ok(None);
    };
    // Two blocks run at once on a multiprocessor: with less than two rounds of them, smaller ones end more evenly.
    let (kernel, rows) = if s.div_ceil(128) * h * b < 4 * kit.processors {
        ("flash_attention_64", 64)
    } else {
        ("flash_attention", 128)
    };
    // Two stages of 64 keys and values, and the queries where registers do not hold them.
    let queries = if rows * d > 64 * 128 { rows } else { 0 };
    let shared = (2 * 2 * 64 + queries) * d * dtype.size_in_bytes();
    let y = kit.empty((b, s, h * d), dtype)?;
    // SAFETY: the operands have been checked: the caches hold `len` positions, of which the queries are the last; y is
    // new and as large as q.
    unsafe {
        kit.launch_shared(
            variant,
            kernel,
            ([s.div_ceil(rows), h, b], 128),
            shared,
            &[
                Arg::of(q)?,
                Arg::of(k_cache)?,
                Arg::of(v_cache)?,
                Arg::of(&y)?,
                Arg::int(s)?,
                Arg::int(len)?,
                Arg::int(kvh)?,
                Arg::int(max)?,
            ],
        )?;
    }
    Ok(Some(y))
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
/// Fewer positions than this are not worth a block, and what comes after it.
const LEAST: usize = 256;
/// Nor are fewer than this where a block is a wait for memory and little else.
const LEAST_SHORT: usize = 32;

/// The shares that decode's attention is divided into, and room for what comes out of each.
pub(super) struct Shares {
    /// Shares of the positions of every key/value head.
    pub splits: usize,
    /// `[B, H, splits, D]`, in f32.
    pub out: Tensor,
    /// `[B, H, splits, 2]`, in f32.
    pub stats: Tensor,
}

impl Shares {
    /// For caches of `max` positions.
    pub fn new(kit: &Kit, batch: usize, heads: &Heads, max: usize) -> Result<Self> {
        let splits = (kit.processors * BLOCKS)
            .div_ceil(batch * heads.kv)
            .clamp(1, max.div_ceil(LEAST));
        Self::of(kit, batch, heads, splits)
    }

    /// As [`Shares::new`], for `step_attention`: each block is a wait for memory, and little else.
    pub fn short(kit: &Kit, batch: usize, heads: &Heads, max: usize) -> Result<Self> {
        let splits = (kit.processors * 4)
            .div_ceil(batch * heads.kv)
            .clamp(1, max.div_ceil(LEAST_SHORT));
        Self::of(kit, batch, heads, splits)
    }

    fn of(kit: &Kit, batch: usize, heads: &Heads, splits: usize) -> Result<Self> {
        let Heads { query, dim, .. } = *heads;
        Ok(Self {
            splits,
            out: kit.empty((batch, query, splits, dim), DType::F32)?,
            stats: kit.empty((batch, query, splits, 2), DType::F32)?,
        })
    }
}

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
    let heads = Heads {
        query: h,
        kv: kvh,
        dim: d,
    };
    if Variant::attention(dtype, h / kvh, d).is_none() || !dense(&[q, k_cache, v_cache], dtype) {
        return Ok(None);
    }
    let y = kit.empty((b, 1, h * d), dtype)?;
    let shares = Shares::new(kit, b, &heads, max)?;
    decode_into(kit, q, (k_cache, v_cache), at, &shares, &y, How::default())?;
    Ok(Some(y))
}

/// As [`decode`], with the shares and the result already there; all are dense.
pub(super) fn decode_into(
    kit: &Kit,
    q: &Tensor,
    (k_cache, v_cache): (&Tensor, &Tensor),
    at: Offset,
    shares: &Shares,
    y: &Tensor,
    how: How,
) -> Result<()> {
    let ((b, h, _, d), (_, kvh, max, _)) = (q.dims4()?, k_cache.dims4()?);
    let dtype = q.dtype();
    let (Some(base), Some(variant)) = (Variant::base(dtype), Variant::attention(dtype, h / kvh, d))
    else {
        candle_core::bail!("attention: no kernel for queries {:?}", q.layout());
    };
    // A lone head would leave most of a product unused, and is little work.
    let flash = Variant::flash(dtype, h / kvh, d)
        .filter(|_| h > kvh && !super::switch::off("tensor-decode"));
    let (variant, kernel) = flash.map_or((variant, "decode_attention"), |flash| {
        (flash, "flash_decode")
    });
    // SAFETY: the caches hold `max` positions, of which `at` is one; out, stats and y are of the sizes that the kernels'
    // comments name.
    unsafe {
        kit.launch_as(
            variant,
            kernel,
            ([shares.splits, kvh, b], 128),
            &[
                Arg::of(q)?,
                Arg::of(k_cache)?,
                Arg::of(v_cache)?,
                Arg::maybe(at.on_device())?,
                Arg::int(at.on_host())?,
                Arg::of(&shares.out)?,
                Arg::of(&shares.stats)?,
                Arg::of(y)?,
                Arg::int(kvh)?,
                Arg::int(max)?,
            ],
            how,
        )?;
        if shares.splits == 1 {
            return Ok(());
        }
        kit.launch_as(
            base,
            "decode_combine",
            ([h, b, 1], d),
            &[
                Arg::of(&shares.out)?,
                Arg::of(&shares.stats)?,
                Arg::of(y)?,
                Arg::int(shares.splits)?,
            ],
            how,
        )
    }
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
    let half = dim / 2;
    let dense_all =
        |pair: Option<(&Tensor, &Tensor)>| pair.is_none_or(|(a, b)| dense(&[a, b], dtype));
    let norms = rotation.norms.map(|(q, k, _)| (q, k));
    let fits = Variant::base(dtype).is_some()
        && width == (query + 2 * kv) * dim
        && dim % 2 == 0
        && (1..=1024).contains(&half)
        && (norms.is_none() || norms_heads_of(dim))
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
    append(
        &kit,
        qkv,
        heads,
        rotation,
        (k_cache, v_cache),
        at,
        &q,
        How::default(),
    )?;
    match at {
        // The queries are scaled: products with them, unscaled, might be too large for f16.
        Offset::Host(offset) => attention(&q, k_cache, v_cache, offset + s, 1.0),
        // Without its kernel the caller's fallback says what is missing.
        Offset::Device(_) if s == 1 => decode(&kit, &q, k_cache, v_cache, at),
        Offset::Device(_) => Ok(None),
    }
}

/// Whether eight elements of a head go to a thread, and all of it to neighbouring ones of a warp.
fn of_eights(dim: usize) -> bool {
    dim.is_power_of_two() && (16..=512).contains(&dim)
}

/// Whether there are kernels that norm heads of this size.
pub(crate) fn norms_heads_of(dim: usize) -> bool {
    // Else whole warps sum.
    of_eights(dim) || dim.is_multiple_of(64)
}

/// Turns queries and keys, adds keys and values to the caches, and gives the last of the queries, scaled, in
/// `q [B, H, queries, D]`. All are dense and fit each other, and the caches have room for the new positions.
#[allow(clippy::too_many_arguments)]
pub(super) fn append(
    kit: &Kit,
    qkv: &Tensor,
    heads: &Heads,
    rotation: &Rotation,
    (k_cache, v_cache): (&Tensor, &Tensor),
    at: Offset,
    q: &Tensor,
    how: How,
) -> Result<()> {
    let (b, s, _) = qkv.dims3()?;
    let Heads { query, kv, dim } = *heads;
    let Some(variant) = Variant::base(qkv.dtype()) else {
        candle_core::bail!("attention: no kernel for {:?}", qkv.layout());
    };
    let (cos, sin) = rotation.tables.unzip();
    let (q_norm, k_norm) = rotation.norms.map(|(q, k, _)| (q, k)).unzip();
    // All heads of a position to a block.
    let threads = (query + 2 * kv) * (dim / 16);
    let (kernel, grid) = if of_eights(dim) && threads <= 1024 {
        ("rope_append_8", ([s, 1, b], threads.next_multiple_of(32)))
    } else if rotation.norms.is_none() || dim.is_multiple_of(64) {
        ("rope_append", ([s, query + 2 * kv, b], dim / 2))
    } else {
        candle_core::bail!("attention: no kernel norms {query} heads of {dim}");
    };
    // SAFETY: the caller's.
    unsafe {
        kit.launch_as(
            variant,
            kernel,
            grid,
            &[
                Arg::of(qkv)?,
                Arg::maybe(cos)?,
                Arg::maybe(sin)?,
                Arg::maybe(q_norm)?,
                Arg::maybe(k_norm)?,
                Arg::of(q)?,
                Arg::of(k_cache)?,
                Arg::of(v_cache)?,
                Arg::maybe(at.on_device())?,
                Arg::int(at.on_host())?,
                Arg::int(q.dim(2)?)?,
                Arg::int(query)?,
                Arg::int(kv)?,
                Arg::int(k_cache.dim(2)?)?,
                Arg::Float(rotation.norms.map_or(0.0, |(.., eps)| eps)),
                Arg::Float(heads.scale()),
                Arg::int(dim)?,
            ],
            how,
        )
    }
}
