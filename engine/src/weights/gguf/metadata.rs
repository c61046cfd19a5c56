//! The metadata of a GGUF file, read as the `config.json` that says the same.

use candle_core::quantized::gguf_file::{Content, Value};
use serde_json::{Map, Value as Json, json};

use crate::config::Family;
use crate::error::EngineError;

/// The metadata, read for a configuration.
pub(super) struct Metadata<'a> {
    pub content: &'a Content,
    /// The divisors of the frequencies, where the file has them.
    pub factors: Option<Vec<f32>>,
}

/// Keys of an architecture that are read below.
#[rustfmt::skip]
const READ: [&str; 17] = [
    "attention.causal", "attention.head_count", "attention.head_count_kv", "attention.key_length",
    "attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon", "attention.sliding_window",
    "attention.value_length", "block_count", "context_length", "embedding_length", "expert_count",
    "feed_forward_length", "rope.dimension_count", "rope.freq_base", "rope.scaling.factor", "rope.scaling.type",
];
/// Keys that say what follows from the tensors, or that belong to others which are refused.
#[rustfmt::skip]
const HARMLESS: [&str; 6] = [
    "expert_used_count", "rope.scaling.attn_factor", "rope.scaling.finetuned",
    "rope.scaling.original_context_length", "tensor_data_layout", "vocab_size",
];

impl Metadata<'_> {
    /// Refuses keys of the architecture that are neither read nor harmless.
    fn check_keys(&self, arch: &str) -> Result<(), EngineError> {
        let of_arch = |key: &String| Some(key.strip_prefix(arch)?.strip_prefix('.')?.to_owned());
        let mut keys: Vec<_> = self.content.metadata.keys().filter_map(of_arch).collect();
        keys.sort();
        match keys
            .iter()
            .find(|key| !READ.contains(&key.as_str()) && !HARMLESS.contains(&key.as_str()))
        {
            None => Ok(()),
            Some(key) => Err(EngineError::Unsupported(format!(
                "{arch}.{key}: {:?} is not understood, and could change what the model computes",
                self.content.metadata[&format!("{arch}.{key}")]
            ))),
        }
    }

    /// The `config.json` that says the same.
    pub fn config_json(&self) -> Result<Map<String, Json>, EngineError> {
        let arch = self.text("general.architecture")?;
        let mut json = match arch.as_str() {
            "gpt2" => self.gpt2()?,
            "llama" => self.llama_like(Family::Llama, &arch)?,
            "qwen2" => self.llama_like(Family::Qwen2, &arch)?,
            "qwen3" => self.llama_like(Family::Qwen3, &arch)?,
            other => {
                return Err(EngineError::Unsupported(format!(
                    "general.architecture: {other} is not one of gpt2, llama, qwen2, qwen3"
                )));
            }
        };
        self.check_keys(&arch)?;
        json.insert("vocab_size".into(), self.rows("token_embd.weight")?.into());
        let tied = !self.content.tensor_infos.contains_key("output.weight");
        json.insert("tie_word_embeddings".into(), tied.into());
        for (key, id) in [
            ("bos_token_id", "tokenizer.ggml.bos_token_id"),
            ("eos_token_id", "tokenizer.ggml.eos_token_id"),
            ("pad_token_id", "tokenizer.ggml.padding_token_id"),
        ] {
            if let Some(id) = self.optional_size(id)? {
                json.insert(key.into(), id.into());
            }
        }
        Ok(json)
    }

    fn gpt2(&self) -> Result<Map<String, Json>, EngineError> {
        let size = |key: &str| self.size(&format!("gpt2.{key}"));
        object(json!({
            "architectures": [Family::Gpt2.class_name()],
            "model_type": "gpt2",
            "activation_function": "gelu_new",
            "n_embd": size("embedding_length")?,
            "n_inner": size("feed_forward_length")?,
            "n_layer": size("block_count")?,
            "n_head": size("attention.head_count")?,
            "n_positions": size("context_length")?,
            "layer_norm_epsilon": self.number("gpt2.attention.layer_norm_epsilon")?,
        }))
    }

    fn llama_like(&self, family: Family, arch: &str) -> Result<Map<String, Json>, EngineError> {
        let key = |key: &str| format!("{arch}.{key}");
        let size = |name: &str| self.size(&key(name));
        let unsupported = |name: &str, why: String| {
            Err(EngineError::Unsupported(format!("{}: {why}", key(name))))
        };
        if let Some(experts) = self.optional_size(&key("expert_count"))?.filter(|&n| n > 0) {
            return unsupported(
                "expert_count",
                format!("{experts} is not supported, only 0"),
            );
        }
        let (hidden, heads) = (size("embedding_length")?, size("attention.head_count")?);
        let head_dim = match self.optional_size(&key("attention.key_length"))? {
            Some(dim) => dim,
            None if heads > 0 => hidden / heads,
            None => 0,
        };
        if let Some(rotated) = self.optional_size(&key("rope.dimension_count"))?
            && rotated != head_dim
        {
            let why = format!("{rotated} is not supported, only the head's width {head_dim}");
            return unsupported("rope.dimension_count", why);
        }
        if let Some(width) = self.optional_size(&key("attention.value_length"))?
            && width != head_dim
        {
            let why = format!("{width} is not supported, only attention.key_length, {head_dim}");
            return unsupported("attention.value_length", why);
        }
        if let Some(Value::Bool(false)) = self.content.metadata.get(&key("attention.causal")) {
            return unsupported(
                "attention.causal",
                "false is not supported, only true".into(),
            );
        }
        let theta = self.optional_number(&key("rope.freq_base"))?;
        let mut json = object(json!({
            "architectures": [family.class_name()],
            "model_type": arch,
            "hidden_act": "silu",
            "hidden_size": hidden,
            "intermediate_size": size("feed_forward_length")?,
            "num_hidden_layers": size("block_count")?,
            "num_attention_heads": heads,
            "num_key_value_heads":
                self.optional_size(&key("attention.head_count_kv"))?.unwrap_or(heads),
            "head_dim": head_dim,
            "max_position_embeddings": size("context_length")?,
            "rms_norm_eps": self.number(&key("attention.layer_norm_rms_epsilon"))?,
            "rope_theta": theta.unwrap_or(10_000.0),
            "attention_bias": self.content.tensor_infos.contains_key("blk.0.attn_q.bias"),
            "mlp_bias": self.content.tensor_infos.contains_key("blk.0.ffn_up.bias"),
        }))?;
        if let Some(scaling) = self.rope_scaling(arch)? {
            json.insert("rope_scaling".into(), scaling);
        }
        if let Some(window) = self
            .optional_size(&key("attention.sliding_window"))?
            .filter(|&n| n > 0)
        {
            json.insert("sliding_window".into(), window.into());
            if family != Family::Llama {
                // GGUF does not say of which layers: as if of all.
                json.insert("use_sliding_window".into(), true.into());
                json.insert("max_window_layers".into(), 0.into());
            }
        }
        Ok(json)
    }

    /// Llama 3.1 and 3.2 come with a tensor of factors, the greatest of which, that of the slowest frequencies, is the
    /// rule's; [`super::Gguf::check_factors`] sees that the others follow from it.
    fn rope_scaling(&self, arch: &str) -> Result<Option<Json>, EngineError> {
        let kind = format!("{arch}.rope.scaling.type");
        if let Some(factors) = &self.factors {
            let greatest = factors.iter().copied().fold(1.0, f32::max);
            return Ok(Some(json!({
                "rope_type": "llama3", "factor": greatest, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            })));
        }
        match self.content.metadata.get(&kind) {
            None => Ok(None),
            Some(_) => Ok(match self.text(&kind)?.as_str() {
                "none" => None,
                other => Some(json!({
                    "rope_type": other,
                    "factor": self.number(&format!("{arch}.rope.scaling.factor"))?,
                })),
            }),
        }
    }

    /// Rows of a tensor.
    fn rows(&self, tensor: &str) -> Result<usize, EngineError> {
        let info = self.content.tensor_infos.get(tensor);
        info.and_then(|info| info.shape.dims().first().copied())
            .ok_or_else(|| EngineError::Invalid(format!("tensor {tensor} is missing")))
    }

    fn text(&self, key: &str) -> Result<String, EngineError> {
        match self.content.metadata.get(key) {
            Some(Value::String(text)) => Ok(text.clone()),
            other => Err(wrong(key, other, "text")),
        }
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>, EngineError> {
        let Some(value) = self.content.metadata.get(key) else {
            return Ok(None);
        };
        let size = match *value {
            Value::I8(v) => u64::try_from(v).ok(),
            Value::I16(v) => u64::try_from(v).ok(),
            Value::I32(v) => u64::try_from(v).ok(),
            Value::I64(v) => u64::try_from(v).ok(),
            Value::Bool(_) => None,
            _ => value.to_u64().ok(),
        };
        size.and_then(|size| usize::try_from(size).ok())
            .map(Some)
            .ok_or_else(|| wrong(key, Some(value), "a whole number"))
    }

    fn size(&self, key: &str) -> Result<usize, EngineError> {
        self.optional_size(key)?
            .ok_or_else(|| wrong(key, None, "a whole number"))
    }

    fn optional_number(&self, key: &str) -> Result<Option<f64>, EngineError> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            // The shortest decimal that the float stands for: 1e-5, not 9.999999747378752e-6.
            Some(Value::F32(v)) => Ok(v.to_string().parse().ok()),
            Some(Value::F64(v)) => Ok(Some(*v)),
            other => Err(wrong(key, other, "a number")),
        }
    }

    fn number(&self, key: &str) -> Result<f64, EngineError> {
        self.optional_number(key)?
            .ok_or_else(|| wrong(key, None, "a number"))
    }
}

fn wrong(key: &str, found: Option<&Value>, wanted: &str) -> EngineError {
    EngineError::Invalid(match found {
        None => format!("{key}: missing"),
        Some(value) => format!("{key}: {value:?} is not {wanted}"),
    })
}

fn object(json: Json) -> Result<Map<String, Json>, EngineError> {
    match json {
        Json::Object(map) => Ok(map),
        other => Err(EngineError::Invalid(format!("{other} is no object"))),
    }
}
