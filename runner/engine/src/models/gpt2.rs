//! GPT-2 (Radford et al., 2019): learned positions, LayerNorm before each block, tanh GELU.

use candle_core::{Result, Tensor};

use super::cache::KvCache;
use super::parallel::{ColumnLinear, RowLinear, Vocabulary};
use crate::comm::Communicator;
use crate::config::ModelConfig;
use crate::error::EngineError;
use crate::ops::{self, Weight};
use crate::weights::{Loader, Part};

pub(crate) struct Gpt2 {
    tokens: Vocabulary,
    /// `[positions, E]`.
    positions: Tensor,
    blocks: Vec<Block>,
    norm: LayerNorm,
    head: Vocabulary,
    /// Heads of this rank, and the width of one.
    heads: usize,
    head_dim: usize,
}

struct Block {
    norm_1: LayerNorm,
    qkv: ColumnLinear,
    out: RowLinear,
    norm_2: LayerNorm,
    /// Its GELU is fused with the product.
    up_weight: Weight,
    up_bias: Tensor,
    down: RowLinear,
}

struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

impl LayerNorm {
    fn load(
        loader: &Loader,
        name: &str,
        c: &ModelConfig,
    ) -> std::result::Result<Self, EngineError> {
        Ok(Self {
            weight: loader.vector(&[Part::new(format!("{name}.weight"), &[c.hidden])])?,
            bias: loader.vector(&[Part::new(format!("{name}.bias"), &[c.hidden])])?,
            eps: c.norm_eps as f32,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        ops::layer_norm(x, &self.weight, &self.bias, self.eps)
    }
}

impl Gpt2 {
    pub fn load(c: &ModelConfig, loader: &Loader) -> std::result::Result<Self, EngineError> {
        let tokens = Vocabulary::load(loader, "transformer.wte.weight", c.vocab_size, c.hidden)?;
        let head = if c.tied {
            tokens.clone()
        } else {
            Vocabulary::load(loader, "lm_head.weight", c.vocab_size, c.hidden)?
        };
        let positions = Part::new("transformer.wpe.weight", &[c.max_position, c.hidden]);
        Ok(Self {
            tokens,
            positions: loader.matrix(&[positions])?,
            blocks: (0..c.layers)
                .map(|i| Block::load(c, loader, &format!("transformer.h.{i}")))
                .collect::<std::result::Result<_, _>>()?,
            norm: LayerNorm::load(loader, "transformer.ln_f", c)?,
            head,
            heads: c.heads / loader.world,
            head_dim: c.head_dim,
        })
    }

    pub fn vocab_start(&self) -> usize {
        self.head.start
    }

    /// See [`super::Model::forward`].
    pub fn forward(
        &self,
        ids: &Tensor,
        offset: usize,
        cache: &KvCache,
        comm: &dyn Communicator,
        last: bool,
    ) -> Result<Option<Tensor>> {
        let x = self.residual(ids, offset, cache, comm, 1)?;
        if !last {
            return Ok(None);
        }
        self.logits(&self.normed(&x.squeeze(1)?)?).map(Some)
    }

    /// See [`super::Model::states`].
    pub fn states(
        &self,
        ids: &Tensor,
        offset: usize,
        cache: &KvCache,
        comm: &dyn Communicator,
    ) -> Result<Tensor> {
        let (_, s) = ids.dims2()?;
        self.normed(&self.residual(ids, offset, cache, comm, s)?)
    }

    /// See [`super::Model::logits`].
    pub fn logits(&self, states: &Tensor) -> Result<Tensor> {
        self.head.logits(states)
    }

    fn normed(&self, x: &Tensor) -> Result<Tensor> {
        self.norm.forward(x)
    }

    /// What the last block leaves of the last `wanted` positions, `[B, wanted, E]`.
    fn residual(
        &self,
        ids: &Tensor,
        offset: usize,
        cache: &KvCache,
        comm: &dyn Communicator,
        wanted: usize,
    ) -> Result<Tensor> {
        let (_, s) = ids.dims2()?;
        let positions = self.positions.narrow(0, offset, s)?;
        let mut x = self.tokens.embed(ids, comm)?.broadcast_add(&positions)?;
        for (i, (block, (k, v))) in self.blocks.iter().zip(&cache.layers).enumerate() {
            let h = block.norm_1.forward(&x)?;
            // What the last block makes of other positions nobody reads.
            let queries = if i + 1 < self.blocks.len() { s } else { wanted };
            let h = self.attention(block, &h, queries, (k, v), offset)?;
            x = (x.narrow(1, s - queries, queries)? + block.out.forward(&h, comm)?)?;
            let h = block.norm_2.forward(&x)?;
            let h = block.up_weight.linear_bias_gelu(&h, &block.up_bias)?;
            x = (x + block.down.forward(&h, comm)?)?;
        }
        Ok(x)
    }

    /// `x [B, S, E]` → `[B, queries, H·D]` of this rank's heads, for the last positions.
    fn attention(
        &self,
        block: &Block,
        x: &Tensor,
        queries: usize,
        (k_cache, v_cache): (&Tensor, &Tensor),
        offset: usize,
    ) -> Result<Tensor> {
        let (b, s, _) = x.dims3()?;
        let width = self.heads * self.head_dim;
        let qkv = block.qkv.forward(x)?;
        let heads = |i: usize| {
            qkv.narrow(2, i * width, width)?
                .reshape((b, s, self.heads, self.head_dim))?
                .transpose(1, 2)
        };
        ops::kv_append(k_cache, v_cache, &heads(1)?, &heads(2)?, offset)?;
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        let q = heads(0)?.narrow(2, s - queries, queries)?;
        ops::attention(&q, k_cache, v_cache, offset + s, scale)
    }
}

impl Block {
    fn load(
        c: &ModelConfig,
        loader: &Loader,
        name: &str,
    ) -> std::result::Result<Self, EngineError> {
        let (e, f) = (c.hidden, c.intermediate);
        // This rank's queries, then its keys, then its values, out of one stored matrix.
        let heads = loader.share(c.heads);
        let thirds = |part: Part| {
            [0, 1, 2].map(|third| {
                let at = |head: usize| third * e + head * c.head_dim;
                part.clone().rows(at(heads.start)..at(heads.end))
            })
        };
        let c_attn = format!("{name}.attn.c_attn");
        let c_proj = format!("{name}.attn.c_proj");
        let c_fc = format!("{name}.mlp.c_fc");
        let down = format!("{name}.mlp.c_proj");
        let weight = |name: &str| format!("{name}.weight");
        let bias = |name: &str| format!("{name}.bias");
        let (inner, inner_slot) = loader.inner(f);
        Ok(Self {
            norm_1: LayerNorm::load(loader, &format!("{name}.ln_1"), c)?,
            qkv: ColumnLinear {
                weight: loader.weight(&thirds(
                    Part::new(weight(&c_attn), &[e, 3 * e]).transposed(),
                ))?,
                bias: Some(loader.vector(&thirds(Part::new(bias(&c_attn), &[3 * e])))?),
            },
            out: RowLinear {
                weight: loader.weight(&[Part::new(weight(&c_proj), &[e, e])
                    .transposed()
                    .cols(heads.start * c.head_dim..heads.end * c.head_dim)])?,
                bias: Some(loader.vector(&[Part::new(bias(&c_proj), &[e])])?),
            },
            norm_2: LayerNorm::load(loader, &format!("{name}.ln_2"), c)?,
            up_weight: loader.weight(&[Part::new(weight(&c_fc), &[e, f])
                .transposed()
                .rows(inner.clone())
                .padded_to(inner_slot)])?,
            up_bias: loader.vector(&[Part::new(bias(&c_fc), &[f])
                .rows(inner.clone())
                .padded_to(inner_slot)])?,
            down: RowLinear {
                weight: loader.weight_padded(
                    &[Part::new(weight(&down), &[f, e]).transposed().cols(inner)],
                    inner_slot,
                )?,
                bias: Some(loader.vector(&[Part::new(bias(&down), &[e])])?),
            },
        })
    }
}
