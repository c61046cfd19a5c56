//! Named model shapes for random weights: well-known models, and a tiny one of each family for tests.

use serde_json::{Value, json};

use crate::config::{Family, ModelConfig, Sizes};

/// The names that [`preset`] knows.
pub const PRESETS: [&str; 14] = [
    "gpt2",
    "gpt2-medium",
    "gpt2-large",
    "gpt2-xl",
    "llama3-8b",
    "llama3-70b",
    "smollm2-135m",
    "tinyllama-1.1b",
    "qwen2.5-0.5b",
    "tiny-gpt2",
    "tiny-llama",
    "tiny-mistral",
    "tiny-qwen2",
    "tiny-qwen3",
];

/// The model of that name, or none where [`PRESETS`] lacks it.
pub fn preset(name: &str) -> Option<ModelConfig> {
    let config = match name {
        "gpt2" => gpt2(12, 12, 768),
        "gpt2-medium" => gpt2(24, 16, 1024),
        "gpt2-large" => gpt2(36, 20, 1280),
        "gpt2-xl" => gpt2(48, 25, 1600),
        "llama3-8b" => llama3(4096, 14_336, 32, 32),
        "llama3-70b" => llama3(8192, 28_672, 80, 64),
        "smollm2-135m" => {
            let s = sizes(49_152, 576, 1536, 30, (9, 3, 64), 8192);
            ModelConfig::llama_like(Family::Llama, s, 1e5, 1e-5, true, Value::Null)
        }
        "tinyllama-1.1b" => {
            let s = sizes(32_000, 2048, 5632, 22, (32, 4, 64), 2048);
            ModelConfig::llama_like(Family::Llama, s, 1e4, 1e-5, false, Value::Null)
        }
        "qwen2.5-0.5b" => {
            let s = sizes(151_936, 896, 4864, 24, (14, 2, 64), 32_768);
            ModelConfig::llama_like(Family::Qwen2, s, 1e6, 1e-6, true, Value::Null)
        }
        "tiny-gpt2" => ModelConfig::gpt2(sizes(509, 96, 384, 3, (12, 12, 8), 256)),
        "tiny-llama" => tiny(
            Family::Llama,
            false,
            json!({
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
            }),
        ),
        "tiny-mistral" => tiny(Family::Mistral, false, Value::Null),
        "tiny-qwen2" => tiny(Family::Qwen2, true, Value::Null),
        "tiny-qwen3" => tiny(Family::Qwen3, true, Value::Null),
        _ => return None,
    };
    Some(config)
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
    ModelConfig::gpt2(s)
}

/// Llama 3 (not 3.1): a context of 8192 and unscaled positions.
fn llama3(hidden: usize, intermediate: usize, layers: usize, heads: usize) -> ModelConfig {
    let s = sizes(128_256, hidden, intermediate, layers, (heads, 8, 128), 8192);
    ModelConfig::llama_like(Family::Llama, s, 5e5, 1e-5, false, Value::Null)
}

/// Heads that two, three and four ranks divide, grouped queries, heads wider than the hidden size over
/// their number, and an odd vocabulary: what tensor parallelism has to cope with.
fn tiny(family: Family, tied: bool, rope_scaling: Value) -> ModelConfig {
    let s = sizes(509, 96, 264, 3, (24, 12, 8), 256);
    ModelConfig::llama_like(family, s, 1e4, 1e-6, tied, rope_scaling)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_preset_and_no_other_does() {
        for name in PRESETS {
            assert!(preset(name).is_some(), "{name}");
        }
        assert!(preset("gpt3").is_none());
    }

    /// The published sizes of the models that the presets are named after.
    #[test]
    fn parameters_are_those_of_the_published_models() {
        for (name, params) in [
            ("gpt2", 124_439_808),
            ("gpt2-medium", 354_823_168),
            ("gpt2-large", 774_030_080),
            ("gpt2-xl", 1_557_611_200),
            ("llama3-8b", 8_030_261_248),
            ("llama3-70b", 70_553_706_496),
            ("smollm2-135m", 134_515_008),
            ("tinyllama-1.1b", 1_100_048_384),
            ("qwen2.5-0.5b", 494_032_768),
        ] {
            assert_eq!(
                crate::size::params(&preset(name).unwrap()),
                params,
                "{name}"
            );
        }
    }
}
