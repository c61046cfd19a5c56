//! A model's description as plain data: what every other part of the engine reads a model's sizes from.
//!
//! [`ModelConfig::parse`] makes one of a `config.json`; [`crate::Weights::config`] finds it wherever a model lies.

mod defaults;
mod fields;
mod json;
mod keys;
mod positions;
mod rope;
mod tensors;

use serde_json::{Map, Value};

pub use rope::{Rope, RopeScaling};

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
    /// Gemma 3 (text), in candle's own operations.
    Gemma3,
    /// Phi-3, in candle's own operations.
    Phi3,
}

/// Every family with its class name in `architectures` and its `model_type`.
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

    /// The name in `model_type`, for example `llama`.
    pub(crate) fn model_type(self) -> &'static str {
        self.row().2
    }

    /// Whether the model runs in candle's own operations rather than the engine's kernels: one
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
    /// Two kinds of layers in turn; none where all are alike.
    pub alternation: Option<Alternation>,
    /// Ids that never belong in a generated prompt: begin, end and padding.
    pub special_ids: Vec<u32>,
    /// `config.json` as it was read.
    pub raw: Map<String, Value>,
}

/// Layers that attend to everything, among others that attend to a window (Gemma 3).
#[derive(Debug, Clone, PartialEq)]
pub struct Alternation {
    /// Every how many layers one attends to everything.
    pub every: usize,
    /// The base of the rotary frequencies of the others.
    pub local_theta: f64,
}

impl ModelConfig {
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
}
