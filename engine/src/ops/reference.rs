//! Every operation in plain candle: the path for what no kernel is made for, and the oracle
//! that the CPU kernels are tested against.

use candle_core::quantized::QTensor;
use candle_core::{D, DType, Device, Result, Tensor, bail};

use super::offset::Offset;
use super::weight::Weight;

/// Score elements per chunk of attention: candle's CUDA softmax indexes with 32-bit integers, and
/// scores are the one buffer that grows with the square of the length.
pub const MAX_SCORES: usize = 1 << 28;

/// See [`super::linear`].
pub fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (n, k) = w.dims2()?;
    let mut dims = x.dims().to_vec();
    if dims.last() != Some(&k) {
        bail!(
            "linear: x is {:?}, its last dimension must be {k}",
            x.dims()
        );
    }
    let rows = x.elem_count() / k;
    // Weights may be in 16 bits where activations are not.
    let w = w.to_dtype(x.dtype())?;
    let y = x.reshape((rows, k))?.matmul(&w.t()?)?;
    let y = match bias {
        Some(bias) => y.broadcast_add(bias)?,
        None => y,
    };
    let last = dims.len() - 1;
    dims[last] = n;
    y.reshape(dims)
}

/// See [`super::linear_bias_gelu`].
pub fn linear_bias_gelu(x: &Tensor, w: &Tensor, bias: &Tensor) -> Result<Tensor> {
    // candle's `gelu` is the tanh form; `gelu_erf` would be the exact one.
    linear(x, w, Some(bias))?.gelu()
}

/// See [`super::linear_quantized`]. On an accelerator by candle's own products, which round the activations to 8 bits
/// where it has a kernel for that.
pub fn linear_quantized(x: &Tensor, w: &QTensor, bias: Option<&Tensor>) -> Result<Tensor> {
    if w.device().is_cpu() {
        return linear(x, &w.dequantize(&Device::Cpu)?, bias);
    }
    let y = x.contiguous()?.apply_op1_no_bwd(w)?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

/// See [`super::silu_mul`].
pub fn silu_mul(gate_up: &Tensor) -> Result<Tensor> {
    let both = gate_up.dim(D::Minus1)?;
    if both % 2 != 0 {
        bail!("silu_mul: the last dimension is {both}, it must be even");
    }
    let f = both / 2;
    let gate = gate_up.narrow(D::Minus1, 0, f)?;
    let up = gate_up.narrow(D::Minus1, f, f)?;
    gate.silu()? * up
}

/// See [`super::attention`]. Chunks over the batch and the queries so that no chunk holds more
/// than [`MAX_SCORES`] scores.
pub fn attention(
    q: &Tensor,
    k_cache: &Tensor,
    v_cache: &Tensor,
    len: usize,
    scale: f32,
) -> Result<Tensor> {
    attention_chunked(q, k_cache, v_cache, len, scale, MAX_SCORES)
}

/// As [`attention`], with at most `max_scores` scores in a chunk (but at least one query of one
/// sequence).
pub fn attention_chunked(
    q: &Tensor,
    k_cache: &Tensor,
    v_cache: &Tensor,
    len: usize,
    scale: f32,
    max_scores: usize,
) -> Result<Tensor> {
    check_attention(q, k_cache, v_cache, len)?;
    let q = (q.contiguous()? * f64::from(scale))?;
    chunked(&q, k_cache, v_cache, len, max_scores, attend)
}

/// Gives `attend` (queries, caches, visible positions → `[B, S, H, D]`) at most `max_scores` scores at a time, but at
/// least one query of one sequence. The operands have been checked.
pub(super) fn chunked(
    q: &Tensor,
    k_cache: &Tensor,
    v_cache: &Tensor,
    len: usize,
    max_scores: usize,
    attend: impl Fn(&Tensor, &Tensor, &Tensor, usize) -> Result<Tensor>,
) -> Result<Tensor> {
    let (b, h, s, d) = q.dims4()?;
    let per_query = h * len;
    let queries = (max_scores / per_query).clamp(1, s);
    let batch = (max_scores / (per_query * queries)).clamp(1, b);
    let mut batches = Vec::with_capacity(b.div_ceil(batch));
    for b0 in (0..b).step_by(batch) {
        let bn = batch.min(b - b0);
        let (q, k, v) = (
            q.narrow(0, b0, bn)?,
            k_cache.narrow(0, b0, bn)?,
            v_cache.narrow(0, b0, bn)?,
        );
        let mut rows = Vec::with_capacity(s.div_ceil(queries));
        for s0 in (0..s).step_by(queries) {
            let sn = queries.min(s - s0);
            // Keys past the last query of the chunk are masked for all of it: leave them out.
            let visible = len - s + s0 + sn;
            rows.push(attend(&q.narrow(2, s0, sn)?, &k, &v, visible)?);
        }
        batches.push(Tensor::cat(&rows, 1)?);
    }
    Tensor::cat(&batches, 0)?.reshape((b, s, h * d))
}

/// Attention of the last `S` of `len` positions, `q` already scaled. → `[B, S, H, D]`.
fn attend(q: &Tensor, k_cache: &Tensor, v_cache: &Tensor, len: usize) -> Result<Tensor> {
    let (b, h, s, d) = q.dims4()?;
    let kvh = k_cache.dim(1)?;
    let group = h / kvh;
    // Views, not copies: a batch stride larger than rows × columns is fine for a matrix product.
    let k = k_cache.narrow(2, 0, len)?;
    let v = v_cache.narrow(2, 0, len)?;
    let q = q.contiguous()?.reshape((b, kvh, group * s, d))?;
    let scores = q.matmul(&k.t()?)?;
    let scores = if s > 1 {
        let mask = causal_mask(s, len, q.dtype(), q.device())?;
        scores
            .reshape((b, kvh * group, s, len))?
            .broadcast_add(&mask)?
            .reshape((b, kvh, group * s, len))?
    } else {
        scores
    };
    let weights = candle_nn::ops::softmax_last_dim(&scores)?;
    weights
        .matmul(&v)?
        .reshape((b, h, s, d))?
        .transpose(1, 2)?
        .contiguous()
}

/// `[S, len]`: 0 where query `i` (at position `len − S + i`) may look, −∞ where it may not.
fn causal_mask(s: usize, len: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    let past = len - s;
    let mask: Vec<f32> = (0..s)
        .flat_map(|i| (0..len).map(move |j| if j > past + i { f32::NEG_INFINITY } else { 0. }))
        .collect();
    Tensor::from_vec(mask, (s, len), device)?.to_dtype(dtype)
}

/// That the operands of an attention call fit each other.
pub(super) fn check_attention(
    q: &Tensor,
    k_cache: &Tensor,
    v_cache: &Tensor,
    len: usize,
) -> Result<()> {
    let (b, h, s, d) = q.dims4()?;
    let (kb, kvh, smax, kd) = k_cache.dims4()?;
    if v_cache.dims() != k_cache.dims() {
        bail!(
            "attention: the value cache is {:?}, it must be as the key cache, {:?}",
            v_cache.dims(),
            k_cache.dims()
        );
    }
    if kb != b || kd != d {
        bail!(
            "attention: the cache is {:?}, q is {:?}",
            k_cache.dims(),
            q.dims()
        );
    }
    if kvh == 0 || h % kvh != 0 {
        bail!("attention: {h} query heads are no multiple of {kvh} key/value heads");
    }
    if s == 0 || len < s || len > smax {
        bail!("attention: len is {len}, allowed are {s} (new) to {smax} (cache)");
    }
    Ok(())
}

/// One half of [`super::kv_append`]: `new` into `cache`.
pub fn kv_append(cache: &Tensor, new: &Tensor, offset: usize) -> Result<()> {
    cache.slice_set(&new.contiguous()?, 2, offset)
}

/// See [`super::embed`].
pub fn embed(
    ids: &Tensor,
    table: &Weight,
    entries: Option<(usize, usize)>,
    positions: Option<(&Tensor, Offset)>,
) -> Result<Tensor> {
    let (b, s) = ids.dims2()?;
    let flat = ids.flatten_all()?;
    let x = match entries {
        None => table.rows(&flat)?,
        Some((start, count)) => {
            let host = flat.to_vec1::<u32>()?;
            let local: Vec<usize> = host
                .iter()
                .map(|&id| (id as usize).wrapping_sub(start))
                .collect();
            let mine = |i: usize| i < count;
            let rows: Vec<u32> = local
                .iter()
                .map(|&i| if mine(i) { i as u32 } else { 0 })
                .collect();
            let mask: Vec<f32> = local
                .iter()
                .map(|&i| if mine(i) { 1.0 } else { 0.0 })
                .collect();
            let x = table.rows(&Tensor::from_vec(rows, b * s, ids.device())?)?;
            let mask = Tensor::from_vec(mask, (b * s, 1), ids.device())?.to_dtype(x.dtype())?;
            x.broadcast_mul(&mask)?
        }
    };
    let x = x.reshape((b, s, table.row_len()?))?;
    // On a CPU rows of 16 bits are computed with in f32.
    let x = match x.device() {
        Device::Cpu => x.to_dtype(DType::F32)?,
        _ => x,
    };
    match positions {
        Some((table, at)) => x.broadcast_add(&table.narrow(0, at.host()?, s)?),
        None => Ok(x),
    }
}

/// See [`super::rms_norm`].
pub fn rms_norm(x: &Tensor, w: &Tensor, eps: f32) -> Result<Tensor> {
    candle_nn::ops::rms_norm(&x.contiguous()?, w, eps)
}

/// See [`super::layer_norm`].
pub fn layer_norm(x: &Tensor, w: &Tensor, b: &Tensor, eps: f32) -> Result<Tensor> {
    candle_nn::ops::layer_norm(&x.contiguous()?, w, b, eps)
}

/// See [`super::rope`].
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor, offset: usize) -> Result<Tensor> {
    let s = x.dim(2)?;
    let cos = cos.narrow(0, offset, s)?;
    let sin = sin.narrow(0, offset, s)?;
    candle_nn::rotary_emb::rope(&x.contiguous()?, &cos, &sin)
}

/// See [`super::best_last`].
pub fn best_last(logits: &Tensor, first: usize) -> Result<Tensor> {
    let (b, v) = logits.dims2()?;
    let device = logits.device();
    if v == 0 {
        return Tensor::new(&[[f32::NEG_INFINITY, first as f32]], device)?.repeat((b, 1));
    }
    // An accelerator's argmax may resolve ties to any of the equal indices: take the smallest index that holds the
    // maximum instead.
    let logits = logits.contiguous()?;
    let best = logits.max_keepdim(D::Minus1)?;
    let index = Tensor::arange(0u32, v as u32, device)?.broadcast_as(logits.shape())?;
    let none = Tensor::full(v as u32, logits.shape(), device)?;
    let at = logits
        .broadcast_eq(&best)?
        .where_cond(&index, &none)?
        .min_keepdim(D::Minus1)?
        .to_dtype(DType::F32)?;
    // A row with a NaN has NaN as its best, whatever its maximum is.
    let nan_free = logits.eq(&logits)?.min_keepdim(D::Minus1)?;
    let nan = Tensor::full(f32::NAN, (b, 1), device)?;
    let best = nan_free.where_cond(&best.to_dtype(DType::F32)?, &nan)?;
    Tensor::cat(&[best, (at + first as f64)?], 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
        let next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    fn tensor(dims: &[usize], seed: u32) -> Tensor {
        let count = dims.iter().product();
        Tensor::from_vec(numbers(count, seed), dims, &Device::Cpu).unwrap()
    }

    /// Attention by its definition, in f64.
    fn attention_by_definition(
        (b, h, kvh, s, smax, d): (usize, usize, usize, usize, usize, usize),
        q: &[f32],
        k: &[f32],
        v: &[f32],
        len: usize,
        scale: f64,
    ) -> Vec<f64> {
        let mut out = vec![0.0; b * s * h * d];
        for (bi, hi, si) in (0..b * h * s).map(|i| (i / (h * s), i / s % h, i % s)) {
            let q = &q[((bi * h + hi) * s + si) * d..][..d];
            let cache = (bi * kvh + hi / (h / kvh)) * smax * d;
            let weights: Vec<f64> = (0..=len - s + si)
                .map(|t| {
                    let k = &k[cache + t * d..][..d];
                    let score: f64 = q.iter().zip(k).map(|(a, b)| f64::from(a * b)).sum();
                    (score * scale).exp()
                })
                .collect();
            let total: f64 = weights.iter().sum();
            for (t, weight) in weights.iter().enumerate() {
                for c in 0..d {
                    out[((bi * s + si) * h + hi) * d + c] +=
                        weight / total * f64::from(v[cache + t * d + c]);
                }
            }
        }
        out
    }

    #[test]
    fn attention_is_what_its_definition_says() {
        for (b, h, kvh, s, smax, len, d) in [
            (2, 4, 2, 3, 9, 7, 8),
            (1, 3, 3, 1, 5, 5, 4),
            (1, 6, 2, 4, 4, 4, 2),
        ] {
            let (q, k, v) = (
                tensor(&[b, h, s, d], 1),
                tensor(&[b, kvh, smax, d], 2),
                tensor(&[b, kvh, smax, d], 3),
            );
            let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let want = attention_by_definition(
                (b, h, kvh, s, smax, d),
                &flat(&q),
                &flat(&k),
                &flat(&v),
                len,
                0.5,
            );
            // 1: one query of one sequence at a time.
            for max_scores in [1, 2 * h * len, MAX_SCORES] {
                let got = attention_chunked(&q, &k, &v, len, 0.5, max_scores).unwrap();
                assert_eq!(got.dims(), [b, s, h * d]);
                for (got, want) in flat(&got).iter().zip(&want) {
                    assert!((f64::from(*got) - want).abs() < 1e-5, "{got} is not {want}");
                }
            }
        }
    }

    #[test]
    fn attention_names_what_does_not_fit() {
        let (q, cache) = (tensor(&[1, 4, 2, 8], 1), tensor(&[1, 2, 6, 8], 2));
        for (len, cache, part) in [
            (7, &cache, "len is 7, allowed are 2 (new) to 6 (cache)"),
            (1, &cache, "len is 1, allowed are 2 (new) to 6 (cache)"),
            (
                2,
                &tensor(&[1, 3, 6, 8], 3),
                "4 query heads are no multiple of 3",
            ),
        ] {
            let error = attention(&q, cache, cache, len, 1.0)
                .unwrap_err()
                .to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_first_of_equal_logits_wins_and_a_nan_counts_as_the_largest() {
        let rows = |rows: [[f32; 4]; 2]| Tensor::new(&rows, &Device::Cpu).unwrap();
        let best = |logits: &Tensor| best_last(logits, 7).unwrap().to_vec2::<f32>().unwrap();
        let logits = rows([[1., 3., 3., 2.], [f32::NEG_INFINITY, -2., -2., -9.]]);
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let logits = logits.to_dtype(dtype).unwrap();
            assert_eq!(best(&logits), [[3., 8.], [-2., 8.]]);
        }
        let with = best(&rows([[0.; 4], [0., f32::NAN, 1., 0.]]));
        assert_eq!(with[0], [0., 7.]);
        assert!(with[1][0].is_nan(), "{with:?}");
        let nothing = Tensor::zeros((2, 0), DType::BF16, &Device::Cpu).unwrap();
        assert_eq!(best(&nothing), [[f32::NEG_INFINITY, 7.]; 2]);
    }

    #[test]
    fn every_operation_takes_half_precision() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let t = |dims: &[usize], seed| tensor(dims, seed).to_dtype(dtype).unwrap();
            let x = t(&[2, 3, 8], 1);
            let (w, b) = (t(&[4, 8], 2), t(&[4], 3));
            assert_eq!(linear(&x, &w, Some(&b)).unwrap().dims(), [2, 3, 4]);
            assert_eq!(linear_bias_gelu(&x, &w, &b).unwrap().dims(), [2, 3, 4]);
            assert_eq!(silu_mul(&x).unwrap().dims(), [2, 3, 4]);
            let norm = t(&[8], 4);
            assert_eq!(rms_norm(&x, &norm, 1e-5).unwrap().dtype(), dtype);
            assert_eq!(layer_norm(&x, &norm, &norm, 1e-5).unwrap().dtype(), dtype);
            let (q, cache) = (t(&[2, 4, 3, 8], 5), t(&[2, 2, 9, 8], 6));
            let tables = t(&[9, 4], 7);
            let q = rope(&q, &tables, &tables, 2).unwrap();
            kv_append(&cache, &t(&[2, 2, 3, 8], 8), 2).unwrap();
            assert_eq!(
                attention(&q, &cache, &cache, 5, 1.0).unwrap().dims(),
                [2, 3, 32]
            );
        }
    }
}
