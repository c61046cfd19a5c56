//! Every key of a `config.json` that is known, by architecture: read, harmless, or allowed with some values only. Any
//! other key could change what the model computes, and is refused.
//!
//! Known are the keys of transformers 5's configuration classes, those of its older releases, and those that published
//! models carry besides.

use serde_json::{Map, Value};

use super::Family;
use crate::error::EngineError;

/// The use of a key of a `config.json`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Use {
    /// Read into the configuration.
    Read,
    /// Changes nothing that is computed here: neither training, nor sampling, nor other heads are.
    Harmless,
    /// Has to be one of these (JSON); leaving it out means the same.
    Only(&'static [&'static str]),
}
use Use::{Harmless, Only, Read};

/// Keys with the same use.
type Row = (Use, &'static [&'static str]);

const FALSE: Use = Only(&["false", "null"]);
const NULL: Use = Only(&["null"]);

/// Of every architecture.
#[rustfmt::skip]
const COMMON: &[Row] = &[
    (
        Read,
        &[
            "architectures", "bos_token_id", "eos_token_id", "model_type", "pad_token_id", "tie_word_embeddings",
            "vocab_size",
        ],
    ),
    // Where it comes from, and what stores and runs it.
    (
        Harmless,
        &[
            "_attn_implementation_autoset", "_commit_hash", "_flash_attn_2_enabled", "_from_model_config",
            "_name_or_path", "attn_implementation", "auto_map", "dtype", "gradient_checkpointing", "name_or_path",
            "tokenizer_class", "torch_dtype", "torchscript", "transformers.js_config", "transformers_version",
            "unsloth_fixed", "unsloth_version", "use_bfloat16", "use_cache",
        ],
    ),
    // Training, other tasks, and what is given back.
    (
        Harmless,
        &[
            "attention_dropout", "chunk_size_feed_forward", "classifier_dropout", "cross_attention_hidden_size",
            "decoder_start_token_id", "finetuning_task", "hidden_dropout", "id2label", "initializer_range",
            "is_decoder", "label2id", "num_labels", "output_attentions", "output_hidden_states", "prefix",
            "problem_type", "return_dict", "sep_token_id", "task_specific_params", "tf_legacy_loss", "use_return_dict",
        ],
    ),
    // Sampling: transformers keeps it apart now, and here ids are chosen greedily, in the number asked for.
    (
        Harmless,
        &[
            "bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample", "early_stopping",
            "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty", "forced_bos_token_id",
            "forced_eos_token_id", "length_penalty", "max_length", "max_new_tokens", "min_length",
            "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "output_scores",
            "remove_invalid_values", "repetition_penalty", "return_dict_in_generate", "suppress_tokens", "temperature",
            "top_k", "top_p", "typical_p",
        ],
    ),
    (FALSE, &["add_cross_attention", "is_encoder_decoder", "tie_encoder_decoder"]),
    (NULL, &["quantization_config"]),
    (Only(&["{}", "null"]), &["pruned_heads"]),
];

#[rustfmt::skip]
const GPT2: &[Row] = &[
    (
        Read,
        &["layer_norm_epsilon", "n_embd", "n_head", "n_inner", "n_layer", "n_positions"],
    ),
    (
        Harmless,
        &[
            "_num_labels", "attn_pdrop", "embd_pdrop", "n_ctx", "n_special", "output_past", "predict_special_tokens",
            "reorder_and_upcast_attn", "resid_pdrop", "summary_activation", "summary_first_dropout",
            "summary_proj_to_labels", "summary_type", "summary_use_proj",
        ],
    ),
    (Only(&["\"gelu_new\"", "\"gelu_pytorch_tanh\""]), &["activation_function"]),
    (Only(&["false"]), &["scale_attn_by_inverse_layer_idx"]),
    (Only(&["true"]), &["scale_attn_weights"]),
];

/// Of all that descend from Llama.
#[rustfmt::skip]
const LLAMA_LIKE: &[Row] = &[
    (
        Read,
        &[
            "head_dim", "hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads",
            "num_hidden_layers", "num_key_value_heads", "rms_norm_eps", "rope_parameters", "rope_scaling", "rope_theta",
            "sliding_window",
        ],
    ),
];

/// Of all of them but Gemma 3, which calls it otherwise.
const SILU: &[Row] = &[
    (Only(&["\"silu\"", "\"swish\""]), &["hidden_act"]),
    (Read, &["partial_rotary_factor"]),
];

const LLAMA: &[Row] = &[
    (Read, &["attention_bias", "mlp_bias"]),
    (
        Harmless,
        &["is_llama_config", "max_sequence_length", "pretraining_tp"],
    ),
    (FALSE, &["rope_interleaved"]),
];

const MISTRAL: &[Row] = &[(FALSE, &["attention_bias", "mlp_bias"])];

/// Its biases are on q, k and v, whatever the flag says.
const QWEN2: &[Row] = &[
    (
        Read,
        &["layer_types", "max_window_layers", "use_sliding_window"],
    ),
    (Harmless, &["attention_bias"]),
    (FALSE, &["mlp_bias", "use_mrope"]),
];

const QWEN3: &[Row] = &[
    (
        Read,
        &[
            "attention_bias",
            "layer_types",
            "max_window_layers",
            "use_sliding_window",
        ],
    ),
    (FALSE, &["mlp_bias"]),
];

#[rustfmt::skip]
const GEMMA3: &[Row] = &[
    (
        Read,
        &[
            "attention_bias", "layer_types", "query_pre_attn_scalar", "rope_local_base_freq", "sliding_window_pattern",
        ],
    ),
    // `layer_types` came of it.
    (Harmless, &["_sliding_window_pattern", "cache_implementation"]),
    (Only(&["\"gelu_pytorch_tanh\""]), &["hidden_act", "hidden_activation"]),
    (FALSE, &["mlp_bias", "use_bidirectional_attention"]),
    (NULL, &["attn_logit_softcapping", "final_logit_softcapping"]),
];

const PHI3: &[Row] = &[
    // The original context matters to LongRoPE alone, which is refused.
    (
        Harmless,
        &[
            "embd_pdrop",
            "original_max_position_embeddings",
            "resid_pdrop",
        ],
    ),
    (FALSE, &["attention_bias", "lm_head_bias", "mlp_bias"]),
];

/// The tables of a family.
fn tables(family: Family) -> [&'static [Row]; 4] {
    match family {
        Family::Gpt2 => [COMMON, GPT2, &[], &[]],
        Family::Llama => [COMMON, LLAMA_LIKE, SILU, LLAMA],
        Family::Mistral => [COMMON, LLAMA_LIKE, SILU, MISTRAL],
        Family::Qwen2 => [COMMON, LLAMA_LIKE, SILU, QWEN2],
        Family::Qwen3 => [COMMON, LLAMA_LIKE, SILU, QWEN3],
        Family::Gemma3 => [COMMON, LLAMA_LIKE, &[], GEMMA3],
        Family::Phi3 => [COMMON, LLAMA_LIKE, SILU, PHI3],
    }
}

/// Every key that the family knows.
pub(super) fn known(family: Family) -> impl Iterator<Item = (&'static str, Use)> {
    let rows = tables(family).into_iter().flatten();
    rows.flat_map(|(usage, keys)| keys.iter().map(move |key| (*key, *usage)))
}

/// Refuses a key that is not known, or whose value is none of those allowed.
///
/// # Errors
/// [`EngineError::Unsupported`] names the first such key, its value and what is allowed.
pub(super) fn check(family: Family, raw: &Map<String, Value>) -> Result<(), EngineError> {
    for (key, value) in raw {
        let usage = known(family)
            .find(|(name, _)| name == key)
            .map(|(_, usage)| usage);
        let problem = match usage {
            Some(Read | Harmless) => continue,
            Some(Only(allowed)) if allowed.contains(&value.to_string().as_str()) => continue,
            Some(Only(allowed)) => format!("is not supported, only {}", allowed.join(", ")),
            // Nothing is asked for.
            None if value.is_null() => continue,
            None => format!(
                "is not understood for {}; take the key out if it does not change what the model computes",
                family.class_name()
            ),
        };
        return Err(EngineError::Unsupported(format!(
            "{key}: {} {problem}",
            shortened(value)
        )));
    }
    Ok(())
}

/// The value as JSON, cut where it is long.
fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
