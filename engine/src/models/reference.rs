//! Models that candle-transformers brings: correct, on one device, and not tuned. Each keeps its own
//! cache, copies it every step, and takes a prompt whole.

use std::collections::HashMap;

use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{gemma3, phi3};
use serde_json::{Value, json};

use crate::config::{Family, ModelConfig};
use crate::error::EngineError;
use crate::weights::{Loader, Part};

pub(crate) enum Reference {
    Gemma3(gemma3::Model),
    Phi3(phi3::Model),
}

impl Reference {
    /// Loads all weights; `max_seq` bounds the caches, which would else be made for the whole context.
    pub fn load(
        c: &ModelConfig,
        loader: &Loader,
        max_seq: usize,
    ) -> std::result::Result<Self, EngineError> {
        let mut tensors = HashMap::new();
        for (name, shape) in c.tensors() {
            let part = [Part::new(name.clone(), &shape)];
            let tensor = match shape.len() {
                1 => loader.vector(&part)?,
                _ => loader.matrix(&part)?,
            };
            tensors.insert(name, tensor);
        }
        let builder = VarBuilder::from_tensors(tensors, loader.dtype(), loader.device);
        match c.family {
            Family::Gemma3 => {
                let config = parse(gemma3_config(c, max_seq)?)?;
                Ok(Self::Gemma3(gemma3::Model::new(false, &config, builder)?))
            }
            Family::Phi3 => {
                let config = parse(phi3_config(c, max_seq)?)?;
                Ok(Self::Phi3(phi3::Model::new(&config, builder)?))
            }
            other => Err(EngineError::Unsupported(format!(
                "no adapter for {}",
                other.class_name()
            ))),
        }
    }

    /// `ids [B, S]` after `offset` earlier ones → logits of the last position, `[B, V]`.
    pub fn forward(&mut self, ids: &Tensor, offset: usize) -> Result<Tensor> {
        let logits = match self {
            Self::Gemma3(model) => {
                if offset == 0 {
                    model.clear_kv_cache();
                }
                model.forward(ids, offset)
            }
            Self::Phi3(model) => {
                if offset == 0 {
                    model.clear_kv_cache();
                }
                model.forward(ids, offset)
            }
        }?;
        logits.squeeze(1)?.to_dtype(DType::F32)
    }
}

fn parse<T: serde::de::DeserializeOwned>(json: Value) -> std::result::Result<T, EngineError> {
    serde_json::from_value(json).map_err(|e| EngineError::Invalid(format!("config.json: {e}")))
}

/// candle's Gemma 3 wants every field, in the older spelling.
fn gemma3_config(c: &ModelConfig, max_seq: usize) -> std::result::Result<Value, EngineError> {
    let (Some(rope), Some(alternation)) = (&c.rope, &c.alternation) else {
        return Err(EngineError::Invalid(
            "a Gemma 3 without its two kinds of layers".into(),
        ));
    };
    Ok(json!({
        "attention_bias": c.qkv_bias,
        "head_dim": c.head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": c.hidden,
        "intermediate_size": c.intermediate,
        "num_attention_heads": c.heads,
        "num_hidden_layers": c.layers,
        "num_key_value_heads": c.kv_heads,
        "rms_norm_eps": c.norm_eps,
        "rope_theta": rope.theta,
        "rope_local_base_freq": alternation.local_theta,
        "vocab_size": c.vocab_size,
        // candle scales by the width of a head, whatever is said here; a configuration that wants another is refused.
        "query_pre_attn_scalar": c.head_dim,
        "sliding_window": c.sliding_window,
        "sliding_window_pattern": alternation.every,
        "max_position_embeddings": max_seq,
    }))
}

/// candle's Phi-3, less its LongRoPE, which leaves the attention factor out.
fn phi3_config(c: &ModelConfig, max_seq: usize) -> std::result::Result<Value, EngineError> {
    let Some(rope) = &c.rope else {
        return Err(EngineError::Invalid(
            "a Phi-3 without rotary positions".into(),
        ));
    };
    Ok(json!({
        "vocab_size": c.vocab_size,
        "hidden_act": "silu",
        "hidden_size": c.hidden,
        "intermediate_size": c.intermediate,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "rms_norm_eps": c.norm_eps,
        "rope_theta": rope.theta,
        "partial_rotary_factor": (rope.partial < 1.0).then_some(rope.partial),
        "max_position_embeddings": max_seq,
        "tie_word_embeddings": c.tied,
    }))
}
