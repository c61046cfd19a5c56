//! Models that candle-transformers brings: correct, on one device, and not tuned. Each keeps its own
//! cache, copies it every step, and takes a prompt whole.

use std::collections::HashMap;

use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{gemma3, phi3};
use serde_json::{Map, Value, json};

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

fn parse<T: serde::de::DeserializeOwned>(
    json: Map<String, Value>,
) -> std::result::Result<T, EngineError> {
    serde_json::from_value(Value::Object(json))
        .map_err(|e| EngineError::Invalid(format!("config.json: {e}")))
}

/// candle's Gemma 3 wants every field, in the older spelling.
fn gemma3_config(
    c: &ModelConfig,
    max_seq: usize,
) -> std::result::Result<Map<String, Value>, EngineError> {
    if !c.tied {
        return Err(EngineError::Unsupported(
            "tie_word_embeddings: false is not supported for Gemma 3".into(),
        ));
    }
    // candle writes the values of several heads into its cache as if they lay one after the other.
    if c.kv_heads > 1 {
        return Err(EngineError::Unsupported(format!(
            "num_key_value_heads: {} is not supported for Gemma 3, only 1",
            c.kv_heads
        )));
    }
    let raw = &c.raw;
    let theta = |layers: &str, old: &str, default: f64| {
        raw.get("rope_parameters")
            .and_then(|p| p.get(layers)?.get("rope_theta")?.as_f64())
            .or_else(|| raw.get(old)?.as_f64())
            .unwrap_or(default)
    };
    let scaled = raw.get("rope_scaling").is_some_and(|v| !v.is_null())
        || raw
            .get("rope_parameters")
            .and_then(|p| p.get("full_attention")?.get("rope_type")?.as_str())
            .is_some_and(|kind| kind != "default");
    if scaled {
        return Err(EngineError::Unsupported(
            "rope_scaling: only default is supported for Gemma 3".into(),
        ));
    }
    let mut json = raw.clone();
    let mut default = |key: &str, value: Value| {
        if json.get(key).is_none_or(Value::is_null) && !value.is_null() {
            json.insert(key.into(), value);
        }
    };
    default("attention_bias", json!(false));
    default("head_dim", json!(c.head_dim));
    default("num_key_value_heads", json!(c.kv_heads));
    default("hidden_activation", json!("gelu_pytorch_tanh"));
    default("rms_norm_eps", json!(c.norm_eps));
    default("query_pre_attn_scalar", json!(256));
    default("sliding_window", json!(c.sliding_window));
    let full = theta("full_attention", "rope_theta", 1e6);
    let local = theta("sliding_attention", "rope_local_base_freq", 1e4);
    json.insert("rope_theta".into(), json!(full));
    json.insert("rope_local_base_freq".into(), json!(local));
    json.insert("sliding_window_pattern".into(), json!(window_pattern(c)?));
    json.insert("max_position_embeddings".into(), json!(max_seq));
    Ok(json)
}

/// Every how many layers one attends to everything; `layer_types`, where given, has to agree.
fn window_pattern(c: &ModelConfig) -> std::result::Result<usize, EngineError> {
    let Some(Value::Array(types)) = c.raw.get("layer_types") else {
        let given = c.raw.get("sliding_window_pattern").and_then(Value::as_u64);
        return Ok(given.unwrap_or(6).max(1) as usize);
    };
    let full = |v: &Value| v.as_str() == Some("full_attention");
    let pattern = types.iter().position(full).unwrap_or(types.len()) + 1;
    let regular = types
        .iter()
        .enumerate()
        .all(|(i, v)| full(v) == (i + 1).is_multiple_of(pattern));
    if regular {
        Ok(pattern)
    } else {
        Err(EngineError::Unsupported(
            "layer_types: full attention has to come at regular intervals for Gemma 3".into(),
        ))
    }
}

/// candle's Phi-3, less its LongRoPE, which leaves the attention factor out.
fn phi3_config(
    c: &ModelConfig,
    max_seq: usize,
) -> std::result::Result<Map<String, Value>, EngineError> {
    let parameters = c
        .raw
        .get("rope_parameters")
        .or_else(|| c.raw.get("rope_scaling"));
    let get = |key: &str| parameters.and_then(|p| p.get(key)).cloned();
    let kind = get("rope_type").or_else(|| get("type"));
    if let Some(kind) = kind
        .as_ref()
        .and_then(Value::as_str)
        .filter(|k| *k != "default")
    {
        return Err(EngineError::Unsupported(format!(
            "rope_scaling: {kind} is not supported for Phi-3, only default"
        )));
    }
    let mut json = c.raw.clone();
    json.remove("rope_scaling");
    json.insert("num_key_value_heads".into(), json!(c.kv_heads));
    json.insert("rms_norm_eps".into(), json!(c.norm_eps));
    json.insert("max_position_embeddings".into(), json!(max_seq));
    if let Some(rope) = &c.rope {
        json.insert("rope_theta".into(), json!(rope.theta));
    }
    if let Some(factor) = get("partial_rotary_factor") {
        json.insert("partial_rotary_factor".into(), factor);
    }
    Ok(json)
}
