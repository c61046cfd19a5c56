//! `config.json` as Hugging Face writes it, read into a [`ModelConfig`] as transformers reads it. Every key is read,
//! known to be harmless, or refused (see [`super::keys`]); what a file leaves out has transformers' default.

use serde_json::{Map, Value};

use super::defaults::Defaults;
use super::fields::{Fields, unsupported};
use super::{CLASSES, Family, ModelConfig, keys, positions};
use crate::error::EngineError;

/// One of a configuration's sizes.
type Size = fn(&ModelConfig) -> usize;

/// The most that a size can plausibly be: some times the largest models', and little enough that no product of them
/// overflows. Ids are held by f32 at times, exactly up to 2²⁴.
const BOUNDS: [(&str, usize, Size); 8] = [
    ("vocab_size", 1 << 24, |c| c.vocab_size),
    ("hidden_size", 1 << 17, |c| c.hidden),
    ("intermediate_size", 1 << 20, |c| c.intermediate),
    ("num_hidden_layers", 1 << 12, |c| c.layers),
    ("num_attention_heads", 1 << 12, |c| c.heads),
    ("num_key_value_heads", 1 << 12, |c| c.kv_heads),
    ("head_dim", 1 << 12, |c| c.head_dim),
    ("max_position_embeddings", u32::MAX as usize, |c| {
        c.max_position
    }),
];

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
        keys::check(family, &raw)?;
        let f = Fields::top(&raw);
        match family {
            Family::Gpt2 => gpt2(&f),
            _ => llama_like(family, &f),
        }?
        .checked()
    }

    fn checked(self) -> Result<Self, EngineError> {
        for (name, most, size) in BOUNDS {
            let value = size(&self);
            if value == 0 || value > most {
                return invalid(format!("{name}: {value} is not within 1 and {most}"));
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
        if self.norm_eps > 1.0 {
            return invalid(format!(
                "the epsilon of the norms: {} is not within 0 and 1",
                self.norm_eps
            ));
        }
        if self.sliding_window == Some(0) {
            return invalid("sliding_window: 0 is not at least 1".into());
        }
        Ok(self)
    }
}

fn invalid<T>(message: String) -> Result<T, EngineError> {
    Err(EngineError::Invalid(message))
}

fn family(raw: &Map<String, Value>) -> Result<Family, EngineError> {
    let class = match raw.get("architectures") {
        None | Some(Value::Null) => None,
        Some(list) => match list.get(0).and_then(Value::as_str) {
            None => {
                return invalid(format!(
                    "architectures: {list} does not begin with a class name"
                ));
            }
            class => class,
        },
    };
    let model_type = raw.get("model_type").and_then(Value::as_str);
    let found = match (class, model_type) {
        (Some(class), _) => CLASSES.iter().find(|(_, name, _)| *name == class),
        // The oldest files, GPT-2's among them, may name the type alone.
        (None, Some(kind)) => CLASSES.iter().find(|(.., name)| *name == kind),
        (None, None) => return invalid("architectures: missing".into()),
    };
    let Some(&(family, class, kind)) = found else {
        let known: Vec<_> = CLASSES.iter().map(|(_, name, _)| *name).collect();
        return Err(EngineError::Unsupported(format!(
            "architectures: {} is not one of {}",
            class.or(model_type).unwrap_or_default(),
            known.join(", ")
        )));
    };
    match model_type {
        Some(other) if other != kind => {
            unsupported("model_type", other, &format!("{kind} for {class}"))
        }
        _ => Ok(family),
    }
}

fn gpt2(f: &Fields) -> Result<ModelConfig, EngineError> {
    let d = Defaults::of(Family::Gpt2);
    let hidden = f.size("n_embd", d.hidden)?;
    let heads = f.size("n_head", d.heads)?;
    if heads == 0 || !hidden.is_multiple_of(heads) {
        return invalid(format!(
            "n_embd: {hidden} is not a multiple of n_head {heads}"
        ));
    }
    Ok(ModelConfig {
        family: Family::Gpt2,
        vocab_size: f.size("vocab_size", d.vocab_size)?,
        hidden,
        intermediate: match f.size_or_null("n_inner", None)? {
            Some(intermediate) => intermediate,
            None => hidden.saturating_mul(4),
        },
        layers: f.size("n_layer", d.layers)?,
        heads,
        kv_heads: heads,
        head_dim: hidden / heads,
        max_position: f.size("n_positions", d.max_position)?,
        sliding_window: None,
        norm_eps: f.positive("layer_norm_epsilon", d.norm_eps)?,
        tied: f.flag("tie_word_embeddings", d.tied)?,
        qkv_bias: true,
        out_bias: true,
        mlp_bias: true,
        qk_norm: false,
        rope: None,
        alternation: None,
        special_ids: f.special_ids(),
        raw: f.map.clone(),
    })
}

fn llama_like(family: Family, f: &Fields) -> Result<ModelConfig, EngineError> {
    let d = Defaults::of(family);
    let hidden = f.size("hidden_size", d.hidden)?;
    let layers = f.size("num_hidden_layers", d.layers)?;
    let heads = f.size("num_attention_heads", d.heads)?;
    let kv_heads = match (family, d.kv_heads) {
        (Family::Mistral | Family::Gemma3, Some(kv_heads)) => {
            f.size("num_key_value_heads", kv_heads)?
        }
        _ => f
            .size_or_null("num_key_value_heads", d.kv_heads)?
            .unwrap_or(heads),
    };
    let given = match d.head_dim {
        Some(head_dim) => Some(f.size("head_dim", head_dim)?),
        None => f.size_or_null("head_dim", None)?,
    };
    let head_dim = match given {
        Some(dim) => dim,
        None if heads > 0 && hidden.is_multiple_of(heads) => hidden / heads,
        None => {
            return invalid(format!(
                "hidden_size: {hidden} is not a multiple of num_attention_heads {heads}, and head_dim is missing"
            ));
        }
    };
    let max_position = f.size("max_position_embeddings", d.max_position)?;
    let (rope, alternation) = match family {
        Family::Gemma3 => {
            let (rope, alternation) = positions::gemma3(f, d.rope_theta, layers)?;
            (rope, Some(alternation))
        }
        _ => (
            positions::rope(family, f, d.rope_theta, head_dim, max_position)?,
            None,
        ),
    };
    // The other families have no such flags: where a file carries them all the same, they change nothing.
    let attention_bias = matches!(family, Family::Llama | Family::Qwen3 | Family::Gemma3)
        && f.flag("attention_bias", false)?;
    let config = ModelConfig {
        family,
        vocab_size: f.size("vocab_size", d.vocab_size)?,
        hidden,
        intermediate: f.size("intermediate_size", d.intermediate)?,
        layers,
        heads,
        kv_heads,
        head_dim,
        max_position,
        sliding_window: sliding_window(family, f, layers)?,
        norm_eps: f.positive("rms_norm_eps", d.norm_eps)?,
        tied: f.flag("tie_word_embeddings", d.tied)?,
        // Qwen2 has biases on q, k and v alone, and always; elsewhere the flag covers all four projections.
        qkv_bias: attention_bias || family == Family::Qwen2,
        out_bias: attention_bias,
        mlp_bias: family == Family::Llama && f.flag("mlp_bias", false)?,
        qk_norm: matches!(family, Family::Qwen3 | Family::Gemma3),
        rope: Some(rope),
        alternation,
        special_ids: f.special_ids(),
        raw: f.map.clone(),
    };
    adapted(config, f)
}

/// The window, where a layer has one.
fn sliding_window(family: Family, f: &Fields, layers: usize) -> Result<Option<usize>, EngineError> {
    let window = f.size_or_null("sliding_window", Defaults::of(family).sliding_window)?;
    let sliding = positions::sliding_layers(f, layers)?;
    let any_slides = sliding.map(|layers| layers.contains(&true));
    match family {
        Family::Gemma3 if window.is_none() => {
            unsupported("sliding_window", "null", "a number for Gemma3ForCausalLM")
        }
        Family::Qwen2 | Family::Qwen3 => {
            let first = f.size("max_window_layers", 28)?;
            let in_use = f.flag("use_sliding_window", false)?;
            match any_slides {
                Some(true) if !in_use => {
                    unsupported("use_sliding_window", false, "true beside such layer_types")
                }
                any => Ok(window.filter(|_| in_use && any.unwrap_or(first < layers))),
            }
        }
        _ => Ok(window),
    }
}

/// Refuses what candle's models, which know less than transformers', cannot do.
fn adapted(c: ModelConfig, f: &Fields) -> Result<ModelConfig, EngineError> {
    let class = c.architecture();
    match c.family {
        Family::Gemma3 => {
            if !c.tied {
                return unsupported("tie_word_embeddings", false, &format!("true for {class}"));
            }
            // candle writes the values of several heads into its cache as if they lay one after the other.
            if c.kv_heads > 1 {
                return unsupported("num_key_value_heads", c.kv_heads, &format!("1 for {class}"));
            }
            let scalar = f.positive("query_pre_attn_scalar", 256.0)?;
            if scalar != c.head_dim as f64 {
                let allowed = format!("the width of a head, {}, for {class}", c.head_dim);
                return unsupported("query_pre_attn_scalar", scalar, &allowed);
            }
        }
        Family::Phi3 if c.head_dim.checked_mul(c.heads) != Some(c.hidden) => {
            return unsupported(
                "head_dim",
                c.head_dim,
                &format!("hidden_size / num_attention_heads for {class}"),
            );
        }
        _ => {}
    }
    Ok(c)
}

#[cfg(test)]
mod tests;
