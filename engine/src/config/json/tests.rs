//! `config.json` against transformers' own reading of it (`tests/fixtures/configs.py`), and against the tables of keys.

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::json;

use super::super::keys::{Use, known};
use super::super::{Rope, RopeScaling};
use super::*;
use crate::size;

#[derive(Deserialize)]
struct Cases {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    wanted: String,
    config: Value,
    resolved: Option<Resolved>,
}

/// The configuration that transformers would build its model of.
#[derive(Debug, Deserialize, PartialEq)]
struct Resolved {
    vocab_size: usize,
    hidden: usize,
    intermediate: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    max_position: usize,
    sliding_window: Option<usize>,
    norm_eps: f64,
    tied: bool,
    qkv_bias: bool,
    out_bias: bool,
    mlp_bias: bool,
    rope: Option<Value>,
    local_theta: Option<f64>,
    full_layers: Option<Vec<bool>>,
}

/// The rotary parameters of transformers, as ours.
fn rope_of(json: &Value) -> Rope {
    let number = |key: &str| json[key].as_f64().unwrap();
    Rope {
        theta: number("rope_theta"),
        scaling: match json["rope_type"].as_str().unwrap() {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear {
                factor: number("factor"),
            },
            "llama3" => RopeScaling::Llama3 {
                factor: number("factor"),
                low_freq_factor: number("low_freq_factor"),
                high_freq_factor: number("high_freq_factor"),
                original_max_position: number("original_max_position_embeddings") as usize,
            },
            other => panic!("{other}"),
        },
        partial: json["partial_rotary_factor"].as_f64().unwrap_or(1.0),
    }
}

fn resolve(c: &ModelConfig, rope: Option<Value>) -> Resolved {
    let every = c.alternation.as_ref().map(|a| a.every);
    Resolved {
        vocab_size: c.vocab_size,
        hidden: c.hidden,
        intermediate: c.intermediate,
        layers: c.layers,
        heads: c.heads,
        kv_heads: c.kv_heads,
        head_dim: c.head_dim,
        max_position: c.max_position,
        sliding_window: c.sliding_window,
        norm_eps: c.norm_eps,
        tied: c.tied,
        qkv_bias: c.qkv_bias,
        out_bias: c.out_bias,
        mlp_bias: c.mlp_bias,
        rope,
        local_theta: c.alternation.as_ref().map(|a| a.local_theta),
        full_layers: every.map(|every| {
            (1..=c.layers)
                .map(|nth| nth.is_multiple_of(every))
                .collect()
        }),
    }
}

fn parse(json: &Value) -> Result<ModelConfig, EngineError> {
    ModelConfig::parse(&json.to_string())
}

#[test]
fn configurations_are_read_as_transformers_reads_them() {
    let text = include_str!("../../../tests/fixtures/configs/cases.json");
    let Cases { cases } = serde_json::from_str(text).unwrap();
    assert!(cases.len() > 100);
    for Case {
        name,
        wanted,
        config,
        resolved,
    } in cases
    {
        let got = parse(&config);
        if wanted == "refused" {
            assert!(got.is_err(), "{name}: {got:?}");
            continue;
        }
        let (got, resolved) = (
            got.unwrap_or_else(|e| panic!("{name}: {e}")),
            resolved.unwrap(),
        );
        assert_eq!(got.rope, resolved.rope.as_ref().map(rope_of), "{name}");
        assert_eq!(resolve(&got, resolved.rope.clone()), resolved, "{name}");
    }
}

/// A small configuration of each family with nothing in it that a key could be overruled by.
fn small() -> Vec<(Family, Value)> {
    let llama_like = json!({
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 128, "tie_word_embeddings": true,
        "query_pre_attn_scalar": 8, "use_sliding_window": true, "max_window_layers": 1, "sliding_window": 16,
    });
    let of = |&(family, class, kind): &(Family, &'static str, &'static str)| {
        let mut json = llama_like.clone();
        if family == Family::Gpt2 {
            json = json!({
                "vocab_size": 64, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 128, "n_inner": 48,
            });
        }
        json["architectures"] = json!([class]);
        json["model_type"] = kind.into();
        let keys: Vec<&str> = known(family).map(|(key, _)| key).collect();
        json.as_object_mut()
            .unwrap()
            .retain(|key, _| keys.contains(&key.as_str()));
        (family, json)
    };
    CLASSES.iter().map(of).collect()
}

/// Whether both say the same of everything but the file's text.
fn same(a: &ModelConfig, b: &ModelConfig) -> bool {
    *a == ModelConfig {
        raw: a.raw.clone(),
        ..b.clone()
    }
}

#[test]
fn every_key_is_what_its_table_says() {
    for (family, json) in small() {
        let base = parse(&json).unwrap_or_else(|e| panic!("{family:?}: {e}"));
        let with = |key: &str, value: Value| {
            let mut json = json.clone();
            json[key] = value;
            parse(&json)
        };
        let mut seen = std::collections::BTreeSet::new();
        for (key, usage) in known(family) {
            assert!(seen.insert(key), "{family:?}: {key} is in two rows");
            match usage {
                Use::Harmless => {
                    for value in [json!(7), json!({"a": [1]}), json!(true), Value::Null] {
                        let got = with(key, value).unwrap();
                        assert!(same(&base, &got), "{family:?}: {key} is not harmless");
                    }
                }
                Use::Only(allowed) => {
                    for value in allowed {
                        let got = with(key, serde_json::from_str(value).unwrap());
                        assert!(
                            same(&base, &got.unwrap()),
                            "{family:?}: {key} {value} is not the default"
                        );
                    }
                    for value in [json!("other"), json!(7.5), json!({"bits": 4})] {
                        let error = with(key, value.clone()).unwrap_err();
                        assert!(matches!(error, EngineError::Unsupported(_)), "{error}");
                        let (error, value) = (error.to_string(), value.to_string());
                        for part in [key, &value, allowed[0]] {
                            assert!(error.contains(part), "{error}");
                        }
                    }
                }
                // Some value of it changes what is built, or is refused.
                Use::Read => {
                    let values = [
                        json!(3),
                        json!(true),
                        json!("other"),
                        json!([1]),
                        json!({"a": 1}),
                    ];
                    let matters =
                        |value: Value| with(key, value).map_or(true, |got| !same(&base, &got));
                    assert!(
                        values.into_iter().any(matters),
                        "{family:?}: {key} is not read"
                    );
                }
            }
        }
        // A key that no table has.
        let error = with("hidden_sizes", json!([32])).unwrap_err();
        assert!(matches!(error, EngineError::Unsupported(_)));
        let error = error.to_string();
        for part in [
            "hidden_sizes: [32]",
            family.class_name(),
            "take the key out",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert!(same(&base, &with("hidden_sizes", Value::Null).unwrap()));
    }
}

fn error_of(json: Value) -> String {
    parse(&json).unwrap_err().to_string()
}

#[test]
fn what_cannot_be_run_is_named_with_what_can() {
    let llama = |key: &str, value: Value| {
        let mut json = json!({"architectures": ["LlamaForCausalLM"], "rope_parameters": {"rope_type": "default"}});
        json[key] = value;
        error_of(json)
    };
    for (key, value, parts) in [
        (
            "rope_scaling",
            json!({"rope_type": "yarn"}),
            ["rope_scaling.rope_type: yarn", "default, linear, llama3"],
        ),
        (
            "rope_scaling",
            json!({"rope_type": "linear"}),
            ["rope_scaling.factor", "missing"],
        ),
        (
            "rope_scaling",
            json!({"rope_type": "linear", "factor": 0}),
            ["rope_scaling.factor: 0", "greater than 0"],
        ),
        (
            "rope_scaling",
            json!({"factor": 2.0}),
            ["rope_scaling.factor: 2.0", "rope_type default"],
        ),
        (
            "rope_scaling",
            json!("linear"),
            ["rope_scaling: \"linear\"", "not an object"],
        ),
        (
            "rope_parameters",
            json!({"full_attention": {}}),
            ["rope_parameters.full_attention", "not understood"],
        ),
        (
            "partial_rotary_factor",
            json!(0.5),
            ["partial_rotary_factor: 0.5", "only 1"],
        ),
        (
            "quantization_config",
            json!({"bits": 4}),
            ["quantization_config: {\"bits\":4}", "only null"],
        ),
        (
            "model_type",
            json!("mistral"),
            ["model_type: mistral", "only llama for LlamaForCausalLM"],
        ),
        (
            "num_hidden_layers",
            json!(4_294_967_295u32),
            ["num_hidden_layers: 4294967295", "4096"],
        ),
        (
            "num_hidden_layers",
            json!(100_000_000),
            ["num_hidden_layers: 100000000", "4096"],
        ),
        (
            "num_hidden_layers",
            json!(-1),
            ["num_hidden_layers: -1", "whole number"],
        ),
        (
            "num_hidden_layers",
            Value::Null,
            ["num_hidden_layers: null", "whole number"],
        ),
        (
            "vocab_size",
            json!(1u64 << 40),
            ["vocab_size: 1099511627776", "16777216"],
        ),
        ("rms_norm_eps", json!(1e9), ["1000000000", "within 0 and 1"]),
        (
            "rms_norm_eps",
            json!(-1e-5),
            ["rms_norm_eps", "greater than 0"],
        ),
        (
            "sliding_window",
            json!(0),
            ["sliding_window: 0", "at least 1"],
        ),
    ] {
        let error = llama(key, value);
        for part in parts {
            assert!(error.contains(part), "{error}");
        }
    }
    let mixed =
        json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4});
    assert!(llama("rope_scaling", mixed).contains("low_freq_factor: 4 is not less"));
    // A long value is cut.
    let long = llama("unknown", json!("x".repeat(1000)));
    assert!(long.len() < 250, "{long}");
}

/// Any value of any key that is read: no panic, and no size that overflows what is computed of it.
fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u64>().prop_map(Value::from),
        (0u64..70_000).prop_map(Value::from),
        (0u64..64).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|n| json!(n)),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
        prop::sample::select(vec!["linear", "sliding_attention", "silu"]).prop_map(Value::from),
        any::<u32>().prop_map(|n| json!({"rope_type": "linear", "factor": n})),
        (0usize..9).prop_map(|n| json!(vec!["full_attention"; n])),
    ]
}

proptest! {
    #[test]
    fn nothing_that_a_file_says_makes_sizes_overflow(
        nth in 0usize..CLASSES.len(),
        values in prop::collection::vec((any::<prop::sample::Index>(), any_value()), 1..5),
    ) {
        let (family, mut json) = small().swap_remove(nth);
        let read: Vec<&str> = known(family).filter(|(_, usage)| *usage == Use::Read).map(|(key, _)| key).collect();
        for (at, value) in values {
            json[*at.get(&read)] = value;
        }
        if let Ok(config) = parse(&json) {
            prop_assert!(size::params(&config) > 0);
            let memory = size::memory(&config, (crate::Format::F32, crate::Processor::Cpu), 1, 1, 1, crate::Parallel::ONE);
            prop_assert!(memory.peak() > 0);
        }
    }
}
