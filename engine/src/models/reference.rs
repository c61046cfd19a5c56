//! Gemma 3 and Phi-3 in candle's own operations, step by step as candle-transformers computes them: correct, on one
//! device, and not tuned. Each layer keeps a cache of its own, copies it every step, and takes a prompt whole.

use std::collections::HashMap;

use candle_core::{D, DType, Device, Module, Result, Tensor};
use candle_nn::{
    Activation, Embedding, Linear, RmsNorm,
    kv_cache::{ConcatKvCache, KvCache, RotatingKvCache},
    ops::softmax_last_dim,
    rotary_emb::rope,
};

use crate::config::{Family, ModelConfig};
use crate::error::EngineError;
use crate::weights::{Loader, Part};

pub(crate) struct Reference {
    embed: Embedding,
    /// The factor of the embeddings.
    scale: f64,
    layers: Vec<Layer>,
    norm: Norm,
    head: Linear,
}

impl Reference {
    /// Loads all weights; `max_seq` bounds the caches and tables, which would else be made for the whole context.
    pub fn load(
        c: &ModelConfig,
        loader: &Loader,
        max_seq: usize,
    ) -> std::result::Result<Self, EngineError> {
        let mut weights = Weights::load(c, loader)?;
        let rope = c
            .rope
            .as_ref()
            .ok_or_else(|| EngineError::Invalid("a model without rotary positions".into()))?;
        let rotated = match rope.partial < 1.0 {
            true => (rope.partial * c.head_dim as f64) as usize,
            false => c.head_dim,
        };
        let table = |theta| Rope::new(theta, rotated, max_seq, loader.dtype(), loader.device);
        let (everywhere, nearby) = match (c.family, &c.alternation, c.sliding_window) {
            (Family::Phi3, _, _) => (table(rope.theta)?, None),
            (Family::Gemma3, Some(alternation), Some(window)) => {
                let nearby = (alternation.every, window, table(alternation.local_theta)?);
                (table(rope.theta)?, Some(nearby))
            }
            (Family::Gemma3, _, _) => {
                return Err(EngineError::Invalid(
                    "a Gemma 3 without its two kinds of layers".into(),
                ));
            }
            (other, _, _) => {
                return Err(EngineError::Unsupported(format!(
                    "no adapter for {}",
                    other.class_name()
                )));
            }
        };
        let layers = (0..c.layers).map(|i| {
            let (cache, rope, window) = match &nearby {
                Some((every, window, rope)) if (i + 1) % every > 0 => {
                    let cache = Cache::Rotating(RotatingKvCache::new(2, *window));
                    (cache, rope, Some(*window))
                }
                Some(_) => (Cache::Normal(KvCache::new(2, max_seq)), &everywhere, None),
                None => (Cache::Joined(ConcatKvCache::new(2)), &everywhere, None),
            };
            let attention = Attention {
                q_norm: weights.norm_if_any(c, &format!("model.layers.{i}.self_attn.q_norm"))?,
                k_norm: weights.norm_if_any(c, &format!("model.layers.{i}.self_attn.k_norm"))?,
                projections: weights.either(
                    &format!("model.layers.{i}.self_attn"),
                    "qkv_proj",
                    &["q_proj", "k_proj", "v_proj"],
                )?,
                output: weights.linear(&format!("model.layers.{i}.self_attn.o_proj"))?,
                heads: c.heads,
                kv_heads: c.kv_heads,
                head_dim: c.head_dim,
                rope: rope.clone(),
                window,
                cache,
            };
            Layer::load(c, &mut weights, &format!("model.layers.{i}"), attention)
        });
        let layers = layers.collect::<std::result::Result<_, EngineError>>()?;
        let embed = weights.take("model.embed_tokens.weight")?;
        let head = weights
            .take_if_any("lm_head.weight")
            .unwrap_or_else(|| embed.clone());
        Ok(Self {
            scale: match c.family {
                Family::Gemma3 => (c.hidden as f64).sqrt(),
                _ => 1.0,
            },
            layers,
            norm: weights.norm(c, "model.norm")?,
            head: Linear::new(head, None),
            embed: Embedding::new(embed, c.hidden),
        })
    }

    /// `ids [B, S]` after `offset` earlier ones → logits of the last position, `[B, V]`.
    pub fn forward(&mut self, ids: &Tensor, offset: usize) -> Result<Tensor> {
        if offset == 0 {
            self.layers
                .iter_mut()
                .for_each(|layer| layer.attention.cache.reset());
        }
        let (_, len) = ids.dims2()?;
        let mut x = self.embed.forward(ids)?;
        if self.scale != 1.0 {
            x = (x * self.scale)?;
        }
        // By window: all layers of a kind share theirs.
        let mut masks: HashMap<Option<usize>, Tensor> = HashMap::new();
        for layer in &mut self.layers {
            let window = layer.attention.window;
            let mask = match (len > 1, masks.get(&window)) {
                (false, _) => None,
                (true, Some(mask)) => Some(mask.clone()),
                (true, None) => {
                    let mask = causal_mask(len, offset, window, x.dtype(), x.device())?;
                    masks.insert(window, mask.clone());
                    Some(mask)
                }
            };
            x = layer.forward(&x, mask.as_ref(), offset)?;
        }
        let last = self.norm.forward(&x.narrow(1, len - 1, 1)?)?;
        self.head.forward(&last)?.squeeze(1)?.to_dtype(DType::F32)
    }
}

/// The tensors that are not yet part of a layer.
struct Weights(HashMap<String, Tensor>);

impl Weights {
    fn load(c: &ModelConfig, loader: &Loader) -> std::result::Result<Self, EngineError> {
        let mut tensors = HashMap::new();
        for (name, shape) in c.tensors() {
            let part = [Part::new(name.clone(), &shape)];
            let tensor = match shape.len() {
                1 => loader.vector(&part)?,
                _ => loader.matrix(&part)?,
            };
            tensors.insert(name, tensor.to_dtype(loader.dtype())?);
        }
        Ok(Self(tensors))
    }

    fn take_if_any(&mut self, name: &str) -> Option<Tensor> {
        self.0.remove(name)
    }

    fn take(&mut self, name: &str) -> std::result::Result<Tensor, EngineError> {
        self.take_if_any(name)
            .ok_or_else(|| EngineError::Invalid(format!("the model has no tensor {name}")))
    }

    fn linear(&mut self, name: &str) -> std::result::Result<Linear, EngineError> {
        let weight = self.take(&format!("{name}.weight"))?;
        Ok(Linear::new(
            weight,
            self.take_if_any(&format!("{name}.bias")),
        ))
    }

    /// The projections below a name: all in one, or apart.
    fn either(
        &mut self,
        below: &str,
        one: &str,
        apart: &[&str],
    ) -> std::result::Result<Vec<Linear>, EngineError> {
        let one = &[one];
        let names: &[&str] = match self.0.contains_key(&format!("{below}.{}.weight", one[0])) {
            true => one,
            false => apart,
        };
        names
            .iter()
            .map(|name| self.linear(&format!("{below}.{name}")))
            .collect()
    }

    fn norm(&mut self, c: &ModelConfig, name: &str) -> std::result::Result<Norm, EngineError> {
        let weight = self.take(&format!("{name}.weight"))?;
        Ok(match c.family {
            Family::Gemma3 => Norm::FromOne(weight, c.norm_eps),
            _ => Norm::Plain(RmsNorm::new(weight, c.norm_eps)),
        })
    }

    fn norm_if_any(
        &mut self,
        c: &ModelConfig,
        name: &str,
    ) -> std::result::Result<Option<Norm>, EngineError> {
        match self.0.contains_key(&format!("{name}.weight")) {
            true => self.norm(c, name).map(Some),
            false => Ok(None),
        }
    }
}

enum Norm {
    Plain(RmsNorm),
    /// Gemma's: the weights are stored less one, and the mean is taken in f32.
    FromOne(Tensor, f64),
}

impl Norm {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (weight, eps) = match self {
            Norm::Plain(norm) => return norm.forward(x),
            Norm::FromOne(weight, eps) => (weight, *eps),
        };
        let dtype = x.dtype();
        let wide = match dtype {
            DType::F16 | DType::BF16 => DType::F32,
            dtype => dtype,
        };
        let x = x.to_dtype(wide)?;
        let mean = (x.sqr()?.sum_keepdim(D::Minus1)? / x.dim(D::Minus1)? as f64)?;
        x.broadcast_div(&(mean + eps)?.sqrt()?)?
            .to_dtype(dtype)?
            .broadcast_mul(&(weight + 1.0)?)
    }
}

/// Rotary positions from tables; the elements of a head beyond the tables' width stay as they are.
#[derive(Clone)]
struct Rope {
    cos: Tensor,
    sin: Tensor,
    rotated: usize,
}

impl Rope {
    fn new(
        theta: f64,
        rotated: usize,
        max_seq: usize,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let frequency = |i| 1f32 / theta.powf(i as f64 / rotated as f64) as f32;
        let frequencies: Vec<f32> = (0..rotated).step_by(2).map(frequency).collect();
        let frequencies = Tensor::new(frequencies, device)?
            .unsqueeze(0)?
            .to_dtype(dtype)?;
        let angles = Tensor::arange(0u32, max_seq as u32, device)?
            .to_dtype(dtype)?
            .reshape((max_seq, 1))?
            .matmul(&frequencies)?;
        Ok(Self {
            cos: angles.cos()?,
            sin: angles.sin()?,
            rotated,
        })
    }

    fn apply(&self, x: &Tensor, offset: usize) -> Result<Tensor> {
        let (_, _, len, width) = x.dims4()?;
        let cos = self.cos.narrow(0, offset, len)?;
        let sin = self.sin.narrow(0, offset, len)?;
        let turn = |x: &Tensor| rope(&x.contiguous()?, &cos, &sin);
        if self.rotated == width {
            return turn(x);
        }
        let rest = x.narrow(D::Minus1, self.rotated, width - self.rotated)?;
        let turned = turn(&x.narrow(D::Minus1, 0, self.rotated)?)?;
        Tensor::cat(&[&turned, &rest], D::Minus1)?.contiguous()
    }
}

enum Cache {
    Normal(KvCache),
    Rotating(RotatingKvCache),
    Joined(ConcatKvCache),
}

impl Cache {
    fn append(&mut self, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        match self {
            Cache::Normal(cache) => cache.append(k, v),
            Cache::Rotating(cache) => cache.append(k, v),
            Cache::Joined(cache) => cache.append(k, v),
        }
    }

    fn reset(&mut self) {
        match self {
            Cache::Normal(cache) => cache.reset(),
            Cache::Rotating(cache) => cache.reset(),
            Cache::Joined(cache) => cache.reset(),
        }
    }
}

struct Attention {
    /// One for queries, keys and values, or one for each.
    projections: Vec<Linear>,
    q_norm: Option<Norm>,
    k_norm: Option<Norm>,
    output: Linear,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    rope: Rope,
    window: Option<usize>,
    cache: Cache,
}

impl Attention {
    fn forward(&mut self, x: &Tensor, mask: Option<&Tensor>, offset: usize) -> Result<Tensor> {
        let (batch, len, _) = x.dims3()?;
        let projected: Vec<Tensor> = self
            .projections
            .iter()
            .map(|projection| projection.forward(x))
            .collect::<Result<_>>()?;
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let [q, k, v] = match projected.as_slice() {
            [all] => [
                all.narrow(D::Minus1, 0, queries)?,
                all.narrow(D::Minus1, queries, keys)?,
                all.narrow(D::Minus1, queries + keys, keys)?,
            ],
            apart => [apart[0].clone(), apart[1].clone(), apart[2].clone()],
        };
        let by_head = |x: Tensor, heads| {
            x.reshape((batch, len, heads, self.head_dim))?
                .transpose(1, 2)
        };
        let q = by_head(q, self.heads)?;
        let k = by_head(k, self.kv_heads)?;
        let v = by_head(v, self.kv_heads)?;
        let normed = |x: Tensor, norm: &Option<Norm>| match norm {
            Some(norm) => norm.forward(&x),
            None => Ok(x),
        };
        let q = self.rope.apply(&normed(q, &self.q_norm)?, offset)?;
        let k = self.rope.apply(&normed(k, &self.k_norm)?, offset)?;
        let (k, v) = self.cache.append(&k, &v)?;
        let groups = self.heads / self.kv_heads;
        let (k, v) = (repeat(k, groups)?, repeat(v, groups)?);
        let scores = (q.matmul(&k.transpose(2, 3)?)? / (self.head_dim as f64).sqrt())?;
        let scores = match mask {
            Some(mask) => scores.broadcast_add(mask)?,
            None => scores,
        };
        let x = softmax_last_dim(&scores)?.matmul(&v)?;
        self.output
            .forward(&x.transpose(1, 2)?.reshape((batch, len, ()))?)
    }
}

/// Every head of keys or values as often as queries share it.
fn repeat(x: Tensor, times: usize) -> Result<Tensor> {
    if times == 1 {
        return x.contiguous();
    }
    let (batch, heads, len, width) = x.dims4()?;
    Tensor::cat(&vec![&x; times], 2)?
        .reshape((batch, heads * times, len, width))?
        .contiguous()
}

/// Zero where a position may look, `[S, offset + S]`; all earlier calls' positions are within reach.
fn causal_mask(
    len: usize,
    offset: usize,
    window: Option<usize>,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let hidden = |i: usize, j: usize| i < j || window.is_some_and(|window| j + window < i);
    let mask: Vec<f32> = (0..len)
        .flat_map(|i| (0..len).map(move |j| (i, j)))
        .map(|(i, j)| match hidden(i, j) {
            true => f32::NEG_INFINITY,
            false => 0.0,
        })
        .collect();
    let mask = Tensor::from_vec(mask, (len, len), device)?.to_dtype(dtype)?;
    if offset == 0 {
        return Ok(mask);
    }
    let earlier = Tensor::zeros((len, offset), dtype, device)?;
    Tensor::cat(&[&earlier, &mask], 1)
}

struct Layer {
    attention: Attention,
    /// Gate and the way up in one, or apart.
    up: Vec<Linear>,
    down: Linear,
    activation: Activation,
    before_attention: Norm,
    after_attention: Option<Norm>,
    before_mlp: Norm,
    after_mlp: Option<Norm>,
}

impl Layer {
    fn load(
        c: &ModelConfig,
        weights: &mut Weights,
        name: &str,
        attention: Attention,
    ) -> std::result::Result<Self, EngineError> {
        let mut norm = |kind: &str| weights.norm(c, &format!("{name}.{kind}"));
        let before_attention = norm("input_layernorm")?;
        let after = norm("post_attention_layernorm")?;
        // Gemma has two norms more, and the name of the second means another place.
        let (after_attention, before_mlp, after_mlp) = match c.family {
            Family::Gemma3 => (
                Some(after),
                norm("pre_feedforward_layernorm")?,
                Some(norm("post_feedforward_layernorm")?),
            ),
            _ => (None, after, None),
        };
        Ok(Self {
            attention,
            up: weights.either(
                &format!("{name}.mlp"),
                "gate_up_proj",
                &["gate_proj", "up_proj"],
            )?,
            down: weights.linear(&format!("{name}.mlp.down_proj"))?,
            activation: match c.family {
                Family::Gemma3 => Activation::GeluPytorchTanh,
                _ => Activation::Silu,
            },
            before_attention,
            after_attention,
            before_mlp,
            after_mlp,
        })
    }

    fn forward(&mut self, x: &Tensor, mask: Option<&Tensor>, offset: usize) -> Result<Tensor> {
        let normed = |x: Tensor, norm: &Option<Norm>| match norm {
            Some(norm) => norm.forward(&x),
            None => Ok(x),
        };
        let y = self.before_attention.forward(x)?;
        let y = self.attention.forward(&y, mask, offset)?;
        let x = (normed(y, &self.after_attention)? + x)?;
        let y = self.mlp(&self.before_mlp.forward(&x)?)?;
        x + normed(y, &self.after_mlp)?
    }

    fn mlp(&self, x: &Tensor) -> Result<Tensor> {
        let (gate, up) = match self.up.as_slice() {
            [both] => {
                let both = both.forward(x)?;
                let width = both.dim(D::Minus1)? / 2;
                (
                    both.narrow(D::Minus1, 0, width)?,
                    both.narrow(D::Minus1, width, width)?,
                )
            }
            apart => (apart[0].forward(x)?, apart[1].forward(x)?),
        };
        self.down.forward(&(self.activation.forward(&gate)? * up)?)
    }
}
