//! The Llama-like decoder (Touvron et al., 2023): RMSNorm, rotary positions, grouped queries, SwiGLU.
//! Its descendants' changes are switches: biases, norms of queries and keys, a tied head, and the scaling
//! of positions.

use candle_core::{Result, Tensor};

use super::cache::KvCache;
use super::parallel::{ColumnLinear, RowLinear, Vocabulary};
use crate::comm::Communicator;
use crate::config::{ModelConfig, Rope};
use crate::error::EngineError;
#[cfg(feature = "cuda")]
use crate::ops::cuda::step::{Layer, Norm, Parts};
use crate::ops::{self, Heads, Offset, Rotation};
use crate::size;
use crate::weights::{Loader, Part};

/// A stage of the model.
pub(crate) struct Llama {
    /// Of the first stage.
    tokens: Option<Vocabulary>,
    blocks: Vec<Block>,
    /// Of the last stage, as is the head.
    norm: Option<Tensor>,
    pub head: Option<Vocabulary>,
    /// `[positions, D/2]`.
    cos: Tensor,
    sin: Tensor,
    eps: f32,
    /// Of this rank.
    heads: Heads,
}

struct Block {
    norm_1: Tensor,
    qkv: ColumnLinear,
    qk_norm: Option<(Tensor, Tensor)>,
    out: RowLinear,
    norm_2: Tensor,
    gate_up: ColumnLinear,
    down: RowLinear,
}

impl Llama {
    pub fn load(
        c: &ModelConfig,
        loader: &Loader,
        max_seq: usize,
    ) -> std::result::Result<Self, EngineError> {
        let (tokens, head) = Vocabulary::ends(c, loader, "model.embed_tokens.weight")?;
        let rope = c.rope.as_ref().ok_or_else(|| {
            EngineError::Invalid("a Llama-like model without rotary positions".into())
        })?;
        let (cos, sin) = tables(rope, c.head_dim, max_seq, loader)?;
        Ok(Self {
            tokens,
            blocks: loader
                .stage
                .layers(c.layers)
                .map(|i| Block::load(c, loader, &format!("model.layers.{i}")))
                .collect::<std::result::Result<_, _>>()?,
            norm: head
                .is_some()
                .then(|| loader.vector(&[Part::new("model.norm.weight", &[c.hidden])]))
                .transpose()?,
            head,
            cos,
            sin,
            eps: c.norm_eps as f32,
            heads: Heads {
                query: c.heads / loader.world,
                kv: size::kv_heads_per_rank(c, loader.world),
                dim: c.head_dim,
            },
        })
    }

    /// See [`super::Model::parts`].
    #[cfg(feature = "cuda")]
    pub fn parts(&self) -> Option<Parts> {
        let norm = |weight: &Tensor| Norm {
            weight: weight.clone(),
            bias: None,
            eps: self.eps,
        };
        let layer = |block: &Block| {
            Some(Layer {
                norm_1: norm(&block.norm_1),
                qkv: block.qkv.product()?,
                head_norms: block.qk_norm.clone().map(|(q, k)| (q, k, self.eps)),
                out: block.out.product()?,
                norm_2: norm(&block.norm_2),
                up: block.gate_up.product()?,
                gated: true,
                down: block.down.product()?,
            })
        };
        let (head, entries) = self.head.as_ref()?.dense()?;
        Some(Parts {
            tokens: self.tokens.as_ref()?.dense()?.0,
            positions: None,
            tables: Some((self.cos.clone(), self.sin.clone())),
            heads: self.heads,
            layers: self.blocks.iter().map(layer).collect::<Option<_>>()?,
            norm: norm(self.norm.as_ref()?),
            head,
            entries,
        })
    }

    /// See [`super::Model::normed`].
    pub fn normed(
        &self,
        input: &Tensor,
        at: Offset,
        cache: &KvCache,
        comm: &dyn Communicator,
        wanted: usize,
    ) -> Result<Tensor> {
        let s = input.dim(1)?;
        let mut x = match &self.tokens {
            Some(tokens) => tokens.embed(input, None, comm)?,
            None => input.clone(),
        };
        let Some(first) = self.blocks.first() else {
            return match &self.norm {
                Some(norm) => ops::rms_norm(&x.narrow(1, s - wanted, wanted)?, norm, self.eps),
                None => Ok(x),
            };
        };
        let mut h = ops::rms_norm(&x, &first.norm_1, self.eps)?;
        for (i, (block, (k, v))) in self.blocks.iter().zip(&cache.layers).enumerate() {
            // Nobody reads the last block's other positions.
            let next = self.blocks.get(i + 1).map(|next| &next.norm_1);
            let queries = match (next, &self.norm) {
                (None, Some(_)) => wanted,
                _ => s,
            };
            let rotation = Rotation {
                tables: Some((&self.cos, &self.sin)),
                norms: block.qk_norm.as_ref().map(|(q, k)| (q, k, self.eps)),
            };
            let qkv = block.qkv.forward(&h)?;
            let a = ops::self_attention(&qkv, &self.heads, &rotation, (k, v), at, queries)?;
            let a = block.out.forward(&a, comm)?;
            x = x.narrow(1, s - queries, queries)?;
            (x, h) = ops::add_rms_norm(&x, &a, &block.norm_2, self.eps)?;
            let f = ops::silu_mul(&block.gate_up.forward(&h)?)?;
            let f = block.down.forward(&f, comm)?;
            let Some(norm) = next.or(self.norm.as_ref()) else {
                // The norm is the next stage's.
                return &x + &f;
            };
            (x, h) = ops::add_rms_norm(&x, &f, norm, self.eps)?;
        }
        Ok(h)
    }
}

impl Block {
    fn load(
        c: &ModelConfig,
        loader: &Loader,
        name: &str,
    ) -> std::result::Result<Self, EngineError> {
        let (e, f, d) = (c.hidden, c.intermediate, c.head_dim);
        let heads = loader.share(c.heads);
        let kv = size::kv_share(c, loader.rank, loader.world);
        let (inner, inner_slot) = loader.inner(f);
        let attn = |which: &str, kind: &str| format!("{name}.self_attn.{which}.{kind}");
        let mlp = |which: &str, kind: &str| format!("{name}.mlp.{which}.{kind}");
        let norm = |which: &str, n: usize| {
            loader.vector(&[Part::new(format!("{name}.{which}.weight"), &[n])])
        };
        let projections = [
            ("q_proj", c.heads, &heads),
            ("k_proj", c.kv_heads, &kv),
            ("v_proj", c.kv_heads, &kv),
        ];
        let qkv_weight = projections.map(|(which, all, mine)| {
            Part::new(attn(which, "weight"), &[all * d, e]).rows(mine.start * d..mine.end * d)
        });
        let qkv_bias = projections.map(|(which, all, mine)| {
            Part::new(attn(which, "bias"), &[all * d]).rows(mine.start * d..mine.end * d)
        });
        let both = ["gate_proj", "up_proj"];
        let share = |part: Part| part.rows(inner.clone()).padded_to(inner_slot);
        Ok(Self {
            norm_1: norm("input_layernorm", e)?,
            qkv: ColumnLinear {
                weight: loader.weight(&qkv_weight)?,
                bias: c.qkv_bias.then(|| loader.vector(&qkv_bias)).transpose()?,
            },
            qk_norm: c
                .qk_norm
                .then(|| {
                    Ok::<_, EngineError>((
                        norm("self_attn.q_norm", d)?,
                        norm("self_attn.k_norm", d)?,
                    ))
                })
                .transpose()?,
            out: RowLinear {
                weight: loader.weight(&[Part::new(attn("o_proj", "weight"), &[e, c.heads * d])
                    .cols(heads.start * d..heads.end * d)])?,
                bias: c
                    .out_bias
                    .then(|| loader.vector(&[Part::new(attn("o_proj", "bias"), &[e])]))
                    .transpose()?,
            },
            norm_2: norm("post_attention_layernorm", e)?,
            gate_up: ColumnLinear {
                weight: loader
                    .weight(&both.map(|which| share(Part::new(mlp(which, "weight"), &[f, e]))))?,
                bias: c
                    .mlp_bias
                    .then(|| {
                        loader.vector(&both.map(|which| share(Part::new(mlp(which, "bias"), &[f]))))
                    })
                    .transpose()?,
            },
            down: RowLinear {
                weight: loader.weight_padded(
                    &[Part::new(mlp("down_proj", "weight"), &[e, f]).cols(inner.clone())],
                    inner_slot,
                )?,
                bias: c
                    .mlp_bias
                    .then(|| loader.vector(&[Part::new(mlp("down_proj", "bias"), &[e])]))
                    .transpose()?,
            },
        })
    }
}

/// Cosines and sines of every position's angles, `[positions, D/2]`, computed in f64 and rounded once.
fn tables(
    rope: &Rope,
    head_dim: usize,
    positions: usize,
    loader: &Loader,
) -> Result<(Tensor, Tensor)> {
    let frequencies = rope.frequencies(head_dim);
    let table = |f: fn(f64) -> f64| {
        let values: Vec<f32> = (0..positions)
            .flat_map(|p| frequencies.iter().map(move |w| f(p as f64 * w) as f32))
            .collect();
        Tensor::from_vec(values, (positions, head_dim / 2), loader.device)?.to_dtype(loader.dtype())
    };
    Ok((table(f64::cos)?, table(f64::sin)?))
}
