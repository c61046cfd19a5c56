//! What a model is: `config.json` as Hugging Face writes it (or a GGUF file's header that says the same), read into one
//! plain description.
//!
//! Both spellings of the file are understood: `rope_theta` and `rope_scaling` beside each other, and
//! the newer `rope_parameters`.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::EngineError;
use crate::weights::gguf;

/// The model families that the engine can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// GPT-2: LayerNorm, learned positions, tanh GELU.
    Gpt2,
    /// Llama 2 and 3, SmolLM2, TinyLlama.
    Llama,
    /// Mistral: Llama with an optional sliding attention window.
    Mistral,
    /// Qwen2 and 2.5: Llama with biases on q, k and v.
    Qwen2,
    /// Qwen3: Llama with RMS norms over each query and key head.
    Qwen3,
    /// Gemma 3 (text), through candle-transformers.
    Gemma3,
    /// Phi-3, through candle-transformers.
    Phi3,
}

/// Every family with the class name that `architectures` carries for it.
const CLASSES: [(Family, &str, &str); 7] = [
    (Family::Gpt2, "GPT2LMHeadModel", "gpt2"),
    (Family::Llama, "LlamaForCausalLM", "llama"),
    (Family::Mistral, "MistralForCausalLM", "mistral"),
    (Family::Qwen2, "Qwen2ForCausalLM", "qwen2"),
    (Family::Qwen3, "Qwen3ForCausalLM", "qwen3"),
    (Family::Gemma3, "Gemma3ForCausalLM", "gemma3_text"),
    (Family::Phi3, "Phi3ForCausalLM", "phi3"),
];

impl Family {
    /// The class name in `architectures`, for example `LlamaForCausalLM`.
    pub fn class_name(self) -> &'static str {
        self.row().1
    }

    /// Whether the model runs through candle-transformers rather than the engine's own code: one
    /// device only, and not tuned.
    pub fn is_reference(self) -> bool {
        matches!(self, Family::Gemma3 | Family::Phi3)
    }

    fn row(self) -> &'static (Family, &'static str, &'static str) {
        CLASSES
            .iter()
            .find(|(family, ..)| *family == self)
            .expect("every family has a class")
    }
}

/// How rotary position angles are scaled beyond the trained context.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// No scaling.
    Default,
    /// All angles divided by a factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a linear blend between.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `original_max_position / low_freq_factor` count as low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position / high_freq_factor` count as high frequencies.
        high_freq_factor: f64,
        /// The context length that the model was first trained for.
        original_max_position: usize,
    },
}

/// Rotary position embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// The base of the geometric series of frequencies.
    pub theta: f64,
    /// The scaling beyond the trained context.
    pub scaling: RopeScaling,
}

/// A decoder-only model, as plain data. Lengths are in elements, not bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The family, which fixes the code that runs it.
    pub family: Family,
    /// Number of different tokens.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Number of decoder layers.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// The longest sequence that the model has positions for.
    pub max_position: usize,
    /// The sliding attention window, where one is in use.
    pub sliding_window: Option<usize>,
    /// The epsilon of the norms.
    pub norm_eps: f64,
    /// Whether the output head is the embedding matrix.
    pub tied: bool,
    /// Whether q, k and v have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub out_bias: bool,
    /// Whether the feed-forward layers have biases.
    pub mlp_bias: bool,
    /// Whether queries and keys are normalised head by head.
    pub qk_norm: bool,
    /// Rotary positions; none where positions are learned.
    pub rope: Option<Rope>,
    /// Ids that never belong in a generated prompt: begin, end and padding.
    pub special_ids: Vec<u32>,
    /// `config.json` as it was read; an adapter takes from it what this description leaves out.
    pub raw: Map<String, Value>,
}

impl ModelConfig {
    /// Reads `config.json` in the folder `dir`, or where it has none the header of the GGUF file there;
    /// `dir` may be such a file itself.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] names the file and the field that is missing or of the wrong kind;
    /// [`EngineError::Unsupported`] names what no code here can run.
    pub fn read(dir: &Path) -> Result<Self, EngineError> {
        if let Some(file) = gguf::find(dir)? {
            return gguf::Gguf::open(&file)?.config();
        }
        let file = dir.join("config.json");
        let text = std::fs::read_to_string(&file)
            .map_err(|e| EngineError::Invalid(format!("{}: {e}", file.display())))?;
        Self::parse(&text).map_err(|e| e.within(&file.display().to_string()))
    }

    /// Parses the text of a `config.json`.
    ///
    /// # Errors
    /// As [`ModelConfig::read`].
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

    /// The description as a `config.json` that Hugging Face transformers reads.
    pub fn to_json(&self) -> Value {
        Value::Object(self.raw.clone())
    }

    /// The class name, as `architectures` spells it.
    pub fn architecture(&self) -> &'static str {
        self.family.class_name()
    }

    /// The longest sequence that is computed exactly: the positions there are, or the attention
    /// window where that is shorter and the code that runs the model (all but Gemma 3's) has none.
    pub fn max_sequence(&self) -> usize {
        match self.sliding_window {
            Some(window) if self.family != Family::Gemma3 => window.min(self.max_position),
            _ => self.max_position,
        }
    }

    /// The longest prompt that is computed exactly: candle's Gemma 3 lets a prompt's positions see one
    /// position more than their window.
    pub fn max_prompt(&self) -> usize {
        match (self.family, self.sliding_window) {
            (Family::Gemma3, Some(window)) => window.min(self.max_position),
            _ => self.max_sequence(),
        }
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

/// The sizes of a random model; see [`ModelConfig::gpt2`] and [`ModelConfig::llama_like`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub vocab: usize,
    pub hidden: usize,
    pub intermediate: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub max_position: usize,
}

impl ModelConfig {
    /// A GPT-2 of the given sizes, as its `config.json` would describe it.
    pub(crate) fn gpt2(s: Sizes) -> Self {
        let eos = s.vocab - 1;
        let raw = json!({
            "architectures": [Family::Gpt2.class_name()],
            "model_type": "gpt2",
            "activation_function": "gelu_new",
            "vocab_size": s.vocab,
            "n_embd": s.hidden,
            "n_inner": s.intermediate,
            "n_layer": s.layers,
            "n_head": s.heads,
            "n_positions": s.max_position,
            "layer_norm_epsilon": 1e-5,
            "tie_word_embeddings": true,
            "bos_token_id": eos,
            "eos_token_id": eos,
        });
        Self::parse(&raw.to_string()).expect("a preset is valid")
    }

    /// A Llama-like model of the given sizes; `rope_scaling` as `config.json` spells it.
    pub(crate) fn llama_like(
        family: Family,
        s: Sizes,
        theta: f64,
        eps: f64,
        tied: bool,
        rope_scaling: Value,
    ) -> Self {
        let (_, class, kind) = family.row();
        let mut raw = json!({
            "architectures": [class],
            "model_type": kind,
            "hidden_act": "silu",
            "vocab_size": s.vocab,
            "hidden_size": s.hidden,
            "intermediate_size": s.intermediate,
            "num_hidden_layers": s.layers,
            "num_attention_heads": s.heads,
            "num_key_value_heads": s.kv_heads,
            "head_dim": s.head_dim,
            "max_position_embeddings": s.max_position,
            "rms_norm_eps": eps,
            "rope_theta": theta,
            "rope_scaling": rope_scaling,
            "tie_word_embeddings": tied,
            "bos_token_id": 1,
            "eos_token_id": 2,
        });
        if family == Family::Mistral {
            raw["sliding_window"] = Value::Null;
        }
        Self::parse(&raw.to_string()).expect("a preset is valid")
    }
}
