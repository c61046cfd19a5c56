//! GPT-2 (Radford et al., 2019): learned positions, LayerNorm before each block, tanh GELU.

use candle_core::{Result, Tensor};

use super::cache::KvCache;
#[cfg(feature = "cuda")]
use super::parallel;
use super::parallel::{ColumnLinear, RowLinear, Vocabulary};
use crate::comm::Communicator;
use crate::config::ModelConfig;
use crate::error::EngineError;
#[cfg(feature = "cuda")]
use crate::ops::cuda::step::{Layer, Norm, Parts};
use crate::ops::{self, Heads, Offset, Rotation, Weight};
use crate::weights::{Loader, Part};

/// A stage of the model.
pub(crate) struct Gpt2 {
    /// Of the first stage.
    tokens: Option<Vocabulary>,
    /// `[positions, E]`, of the first stage.
    positions: Option<Tensor>,
    blocks: Vec<Block>,
    /// Of the last stage, as is the head.
    norm: Option<LayerNorm>,
    pub head: Option<Vocabulary>,
    /// Of this rank.
    heads: Heads,
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

    /// The sum, and its norm.
    fn add(&self, x: &Tensor, delta: &Tensor) -> Result<(Tensor, Tensor)> {
        ops::add_layer_norm(x, delta, &self.weight, &self.bias, self.eps)
    }
}

impl Gpt2 {
    pub fn load(c: &ModelConfig, loader: &Loader) -> std::result::Result<Self, EngineError> {
        let (tokens, head) = Vocabulary::ends(c, loader, "transformer.wte.weight")?;
        let positions = Part::new("transformer.wpe.weight", &[c.max_position, c.hidden]);
        Ok(Self {
            positions: tokens
                .is_some()
                .then(|| loader.matrix(&[positions]))
                .transpose()?,
            tokens,
            blocks: loader
                .stage
                .layers(c.layers)
                .map(|i| Block::load(c, loader, &format!("transformer.h.{i}")))
                .collect::<std::result::Result<_, _>>()?,
            norm: head
                .is_some()
                .then(|| LayerNorm::load(loader, "transformer.ln_f", c))
                .transpose()?,
            head,
            heads: Heads {
                query: c.heads / loader.world,
                kv: c.heads / loader.world,
                dim: c.head_dim,
            },
        })
    }

    /// See [`super::Model::parts`].
    #[cfg(feature = "cuda")]
    pub fn parts(&self) -> Option<Parts> {
        let norm = |norm: &LayerNorm| Norm {
            weight: norm.weight.clone(),
            bias: Some(norm.bias.clone()),
            eps: norm.eps,
        };
        let layer = |block: &Block| {
            Some(Layer {
                norm_1: norm(&block.norm_1),
                qkv: block.qkv.product()?,
                head_norms: None,
                out: block.out.product()?,
                norm_2: norm(&block.norm_2),
                up: parallel::product(&block.up_weight, Some(&block.up_bias))?,
                gated: false,
                down: block.down.product()?,
            })
        };
        let (head, entries) = self.head.as_ref()?.dense()?;
        Some(Parts {
            tokens: self.tokens.as_ref()?.dense()?.0,
            positions: self.positions.clone(),
            tables: None,
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
            Some(tokens) => {
                let positions = self.positions.as_ref().map(|positions| (positions, at));
                tokens.embed(input, positions, comm)?
            }
            None => input.clone(),
        };
        let Some(first) = self.blocks.first() else {
            return match &self.norm {
                Some(norm) => norm.forward(&x.narrow(1, s - wanted, wanted)?),
                None => Ok(x),
            };
        };
        let mut h = first.norm_1.forward(&x)?;
        for (i, (block, (k, v))) in self.blocks.iter().zip(&cache.layers).enumerate() {
            // Nobody reads the last block's other positions.
            let next = self.blocks.get(i + 1).map(|next| &next.norm_1);
            let queries = match (next, &self.norm) {
                (None, Some(_)) => wanted,
                _ => s,
            };
            let qkv = block.qkv.forward(&h)?;
            let plain = Rotation::default();
            let a = ops::self_attention(&qkv, &self.heads, &plain, (k, v), at, queries)?;
            let a = block.out.forward(&a, comm)?;
            x = x.narrow(1, s - queries, queries)?;
            (x, h) = block.norm_2.add(&x, &a)?;
            let f = block.up_weight.linear_bias_gelu(&h, &block.up_bias)?;
            let f = block.down.forward(&f, comm)?;
            let Some(norm) = next.or(self.norm.as_ref()) else {
                // The norm is the next stage's.
                return &x + &f;
            };
            (x, h) = norm.add(&x, &f)?;
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
