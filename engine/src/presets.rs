//! Named model shapes for random weights: well-known models, and a tiny one of each family for tests.

use serde_json::{Value, json};

use crate::config::{Family, ModelConfig};

/// A name and the shape that it stands for.
type Preset = (&'static str, fn() -> ModelConfig);

/// Every preset: its name, and how the model is described.
const PRESETS: [Preset; 14] = [
    ("gpt2", || gpt2(12, 12, 768)),
    ("gpt2-medium", || gpt2(24, 16, 1024)),
    ("gpt2-large", || gpt2(36, 20, 1280)),
    ("gpt2-xl", || gpt2(48, 25, 1600)),
    ("llama3-8b", || llama3(4096, 14_336, 32, 32)),
    ("llama3-70b", || llama3(8192, 28_672, 80, 64)),
    ("smollm2-135m", || {
        let s = sizes(49_152, 576, 1536, 30, (9, 3, 64), 8192);
        llama_like(Family::Llama, s, 1e5, 1e-5, true, Value::Null)
    }),
    ("tinyllama-1.1b", || {
        let s = sizes(32_000, 2048, 5632, 22, (32, 4, 64), 2048);
        llama_like(Family::Llama, s, 1e4, 1e-5, false, Value::Null)
    }),
    ("qwen2.5-0.5b", || {
        let s = sizes(151_936, 896, 4864, 24, (14, 2, 64), 32_768);
        llama_like(Family::Qwen2, s, 1e6, 1e-6, true, Value::Null)
    }),
    ("tiny-gpt2", || {
        gpt2_of(sizes(509, 96, 384, 3, (12, 12, 8), 256))
    }),
    ("tiny-llama", || {
        let scaling = json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        });
        tiny(Family::Llama, false, scaling)
    }),
    ("tiny-qwen2", || tiny(Family::Qwen2, true, Value::Null)),
    ("tiny-qwen3", || tiny(Family::Qwen3, true, Value::Null)),
    ("tiny-mistral", || tiny(Family::Mistral, false, Value::Null)),
];

/// The names that [`preset`] knows.
pub fn names() -> impl Iterator<Item = &'static str> {
    PRESETS.iter().map(|(name, _)| *name)
}

/// The model of that name, or none where it is none of [`names`].
pub fn preset(name: &str) -> Option<ModelConfig> {
    let (_, describe) = PRESETS.iter().find(|(known, _)| *known == name)?;
    Some(describe())
}

/// The sizes that a `config.json` names.
#[derive(Clone, Copy)]
struct Sizes {
    vocab: usize,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    max_position: usize,
}

fn sizes(
    vocab: usize,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    (heads, kv_heads, head_dim): (usize, usize, usize),
    max_position: usize,
) -> Sizes {
    Sizes {
        vocab,
        hidden,
        intermediate,
        layers,
        heads,
        kv_heads,
        head_dim,
        max_position,
    }
}

fn gpt2(layers: usize, heads: usize, hidden: usize) -> ModelConfig {
    let s = sizes(
        50_257,
        hidden,
        4 * hidden,
        layers,
        (heads, heads, hidden / heads),
        1024,
    );
    gpt2_of(s)
}

/// Llama 3 (not 3.1): a context of 8192 and unscaled positions.
fn llama3(hidden: usize, intermediate: usize, layers: usize, heads: usize) -> ModelConfig {
    let s = sizes(128_256, hidden, intermediate, layers, (heads, 8, 128), 8192);
    llama_like(Family::Llama, s, 5e5, 1e-5, false, Value::Null)
}

/// Heads that two, three and four ranks divide, grouped queries, heads wider than the hidden size over
/// their number, and an odd vocabulary: what tensor parallelism has to cope with.
fn tiny(family: Family, tied: bool, rope_scaling: Value) -> ModelConfig {
    let s = sizes(509, 96, 264, 3, (24, 12, 8), 256);
    llama_like(family, s, 1e4, 1e-6, tied, rope_scaling)
}

/// A GPT-2 of the given sizes, as its `config.json` would describe it.
fn gpt2_of(s: Sizes) -> ModelConfig {
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
    ModelConfig::parse(&raw.to_string()).expect("a preset is valid")
}

/// A Llama-like model of the given sizes; `rope_scaling` as `config.json` spells it.
fn llama_like(
    family: Family,
    s: Sizes,
    theta: f64,
    eps: f64,
    tied: bool,
    rope_scaling: Value,
) -> ModelConfig {
    let mut raw = json!({
        "architectures": [family.class_name()],
        "model_type": family.model_type(),
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
    ModelConfig::parse(&raw.to_string()).expect("a preset is valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_preset_and_no_other_does() {
        for name in names() {
            assert!(preset(name).is_some(), "{name}");
        }
        assert!(preset("gpt3").is_none());
    }
}
