//! `config.json` as Hugging Face writes it, read into a [`ModelConfig`].
//!
//! Both spellings of the file are understood: `rope_theta` and `rope_scaling` beside each other, and
//! the newer `rope_parameters`.

use serde_json::{Map, Value};

use super::{CLASSES, Family, ModelConfig, Rope, RopeScaling};
use crate::error::EngineError;

impl ModelConfig {
    /// Parses the text of a `config.json`.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] names the field that is missing or of the wrong kind; [`EngineError::Unsupported`]
    /// names the field whose value no code here can run.
    pub fn parse(text: &str) -> Result<Self, EngineError> {
        let raw: Map<String, Value> =
            serde_json::from_str(text).map_err(|e| EngineError::Invalid(e.to_string()))?;
        let family = family(&raw)?;
        let f = Fields(&raw);
        match family {
            Family::Gpt2 => gpt2(&f),
            _ => llama_like(family, &f),
        }?
        .checked()
    }

    fn checked(self) -> Result<Self, EngineError> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden),
            ("intermediate_size", self.intermediate),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("num_key_value_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_position),
        ];
        for (name, value) in sizes {
            if value == 0 || value > u32::MAX as usize {
                return invalid(format!("{name}: {value} is not within 1 and 2^32 - 1"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return invalid(format!(
                "num_attention_heads: {} is not a multiple of num_key_value_heads {}",
                self.heads, self.kv_heads
            ));
        }
        if self.rope.is_some() && !self.head_dim.is_multiple_of(2) {
            return invalid(format!("head_dim: {} is not even", self.head_dim));
        }
        Ok(self)
    }
}

fn invalid<T>(message: String) -> Result<T, EngineError> {
    Err(EngineError::Invalid(message))
}

fn family(raw: &Map<String, Value>) -> Result<Family, EngineError> {
    let class = raw
        .get("architectures")
        .and_then(|v| v.get(0))
        .and_then(Value::as_str);
    let model_type = raw.get("model_type").and_then(Value::as_str);
    let found = match (class, model_type) {
        (Some(class), _) => CLASSES.iter().find(|(_, name, _)| *name == class),
        // The oldest files, GPT-2's among them, may name the type alone.
        (None, Some(kind)) => CLASSES.iter().find(|(.., name)| *name == kind),
        (None, None) => return invalid("architectures: missing".into()),
    };
    found.map(|(family, ..)| *family).ok_or_else(|| {
        let known: Vec<_> = CLASSES.iter().map(|(_, name, _)| *name).collect();
        EngineError::Unsupported(format!(
            "architectures: {} is not one of {}",
            class.or(model_type).unwrap_or_default(),
            known.join(", ")
        ))
    })
}

fn gpt2(f: &Fields) -> Result<ModelConfig, EngineError> {
    let hidden = f.size("n_embd")?;
    let heads = f.size("n_head")?;
    if heads == 0 || !hidden.is_multiple_of(heads) {
        return invalid(format!(
            "n_embd: {hidden} is not a multiple of n_head {heads}"
        ));
    }
    f.only("activation_function", &["gelu_new", "gelu_pytorch_tanh"])?;
    for flag in ["scale_attn_by_inverse_layer_idx", "add_cross_attention"] {
        if f.flag(flag, false)? {
            return Err(EngineError::Unsupported(format!(
                "{flag}: true is not supported"
            )));
        }
    }
    if !f.flag("scale_attn_weights", true)? {
        return Err(EngineError::Unsupported(
            "scale_attn_weights: false is not supported".into(),
        ));
    }
    Ok(ModelConfig {
        family: Family::Gpt2,
        vocab_size: f.size("vocab_size")?,
        hidden,
        intermediate: f.size_or("n_inner", 4 * hidden)?,
        layers: f.size("n_layer")?,
        heads,
        kv_heads: heads,
        head_dim: hidden / heads,
        max_position: f.size_or("n_positions", f.size_or("n_ctx", 1024)?)?,
        sliding_window: None,
        norm_eps: f.number_or("layer_norm_epsilon", 1e-5)?,
        tied: f.flag("tie_word_embeddings", true)?,
        qkv_bias: true,
        out_bias: true,
        mlp_bias: true,
        qk_norm: false,
        rope: None,
        special_ids: f.special_ids(),
        raw: f.0.clone(),
    })
}

fn llama_like(family: Family, f: &Fields) -> Result<ModelConfig, EngineError> {
    let hidden = f.size("hidden_size")?;
    let heads = f.size("num_attention_heads")?;
    if !family.is_reference() {
        f.only("hidden_act", &["silu", "swish"])?;
    }
    let attention_bias = f.flag("attention_bias", family == Family::Qwen2)?;
    let window = match f.0.get("use_sliding_window").and_then(Value::as_bool) {
        Some(false) => None,
        // Qwen's default is off, Mistral's is what the field says.
        None if matches!(family, Family::Qwen2 | Family::Qwen3) => None,
        _ => f
            .optional_size("sliding_window")?
            .or((family == Family::Gemma3).then_some(4096)),
    };
    Ok(ModelConfig {
        family,
        vocab_size: f.size("vocab_size")?,
        hidden,
        intermediate: f.size("intermediate_size")?,
        layers: f.size("num_hidden_layers")?,
        heads,
        kv_heads: f.size_or("num_key_value_heads", heads)?,
        head_dim: match f.optional_size("head_dim")? {
            Some(dim) => dim,
            None => match family {
                Family::Qwen3 => 128,
                Family::Gemma3 => 256,
                _ if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
                _ => {
                    return invalid(format!(
                        "hidden_size: {hidden} is not a multiple of num_attention_heads {heads}, and head_dim is missing"
                    ));
                }
            },
        },
        max_position: f.size_or(
            "max_position_embeddings",
            if family == Family::Gemma3 {
                131_072
            } else {
                2048
            },
        )?,
        sliding_window: window,
        norm_eps: f.number_or("rms_norm_eps", 1e-6)?,
        tied: f.flag("tie_word_embeddings", family == Family::Gemma3)?,
        qkv_bias: attention_bias,
        // Qwen2 has biases on q, k and v alone; elsewhere the flag covers all four projections.
        out_bias: attention_bias && family != Family::Qwen2,
        mlp_bias: f.flag("mlp_bias", false)?,
        qk_norm: matches!(family, Family::Qwen3 | Family::Gemma3),
        rope: Some(rope(family, f)?),
        special_ids: f.special_ids(),
        raw: f.0.clone(),
    })
}

fn rope(family: Family, f: &Fields) -> Result<Rope, EngineError> {
    let nested = |key: &str| match f.0.get(key) {
        Some(Value::Object(map)) => Some(map.clone()),
        _ => None,
    };
    let parameters = nested("rope_parameters");
    let theta = match &parameters {
        Some(map) => Fields(map).optional_number("rope_theta")?,
        None => None,
    };
    let rope_theta = match theta {
        Some(theta) => theta,
        None => f.number_or("rope_theta", 10_000.0)?,
    };
    // The adapters read their own scaling out of the raw file.
    let scaling = match parameters.or_else(|| nested("rope_scaling")) {
        Some(map) if !family.is_reference() => scaling(&Fields(&map), f)?,
        _ => RopeScaling::Default,
    };
    Ok(Rope {
        theta: rope_theta,
        scaling,
    })
}

fn scaling(s: &Fields, f: &Fields) -> Result<RopeScaling, EngineError> {
    let kind =
        s.0.get("rope_type")
            .or_else(|| s.0.get("type"))
            .and_then(Value::as_str)
            .unwrap_or("default");
    match kind {
        "default" => Ok(RopeScaling::Default),
        "linear" => Ok(RopeScaling::Linear {
            factor: s.number("factor")?,
        }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: s.number("factor")?,
            low_freq_factor: s.number("low_freq_factor")?,
            high_freq_factor: s.number("high_freq_factor")?,
            original_max_position: match s.optional_size("original_max_position_embeddings")? {
                Some(length) => length,
                None => f.size("max_position_embeddings")?,
            },
        }),
        other => Err(EngineError::Unsupported(format!(
            "rope_scaling.rope_type: {other} is not one of default, linear, llama3"
        ))),
    }
}

/// Typed access to the fields of a JSON object; `null` counts as absent.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn present(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|v| !v.is_null())
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>, EngineError> {
        self.present(key)
            .map(|v| {
                v.as_u64().map(|n| n as usize).ok_or_else(|| {
                    EngineError::Invalid(format!("{key}: {v} is not a whole number"))
                })
            })
            .transpose()
    }

    fn size_or(&self, key: &str, default: usize) -> Result<usize, EngineError> {
        Ok(self.optional_size(key)?.unwrap_or(default))
    }

    fn size(&self, key: &str) -> Result<usize, EngineError> {
        self.optional_size(key)?
            .ok_or_else(|| EngineError::Invalid(format!("{key}: missing")))
    }

    fn optional_number(&self, key: &str) -> Result<Option<f64>, EngineError> {
        self.present(key)
            .map(|v| {
                v.as_f64()
                    .ok_or_else(|| EngineError::Invalid(format!("{key}: {v} is not a number")))
            })
            .transpose()
    }

    fn number_or(&self, key: &str, default: f64) -> Result<f64, EngineError> {
        Ok(self.optional_number(key)?.unwrap_or(default))
    }

    fn number(&self, key: &str) -> Result<f64, EngineError> {
        self.optional_number(key)?
            .ok_or_else(|| EngineError::Invalid(format!("{key}: missing")))
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, EngineError> {
        match self.present(key) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| {
                EngineError::Invalid(format!("{key}: {v} is not one of true, false"))
            }),
        }
    }

    fn only(&self, key: &str, allowed: &[&str]) -> Result<(), EngineError> {
        match self.present(key) {
            Some(v) if !v.as_str().is_some_and(|s| allowed.contains(&s)) => {
                Err(EngineError::Unsupported(format!(
                    "{key}: {v} is not one of {}",
                    allowed.join(", ")
                )))
            }
            _ => Ok(()),
        }
    }

    /// Begin, end and padding ids; an end id may be a list.
    fn special_ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = ["bos_token_id", "eos_token_id", "pad_token_id"]
            .iter()
            .filter_map(|key| self.present(key))
            .flat_map(|v| match v {
                Value::Array(list) => list.clone(),
                one => vec![one.clone()],
            })
            .filter_map(|v| v.as_u64().and_then(|id| u32::try_from(id).ok()))
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}
