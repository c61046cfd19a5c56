//! Rotary positions as `config.json` describes them. Both spellings are understood: `rope_theta` and `rope_scaling`
//! beside each other, and the newer `rope_parameters`; where both are there, `rope_scaling` wins, as it does in
//! transformers.

use serde_json::{Map, Value};

use super::fields::{Fields, unsupported};
use super::{Alternation, Family, Rope, RopeScaling};
use crate::error::EngineError;

/// Reads the positions of all but GPT-2 and Gemma 3.
pub(super) fn rope(
    family: Family,
    f: &Fields,
    theta: f64,
    head_dim: usize,
    max_position: usize,
) -> Result<Rope, EngineError> {
    let none = Map::new();
    let (map, within) = match (f.object("rope_scaling")?, f.object("rope_parameters")?) {
        (Some(scaling), _) => (scaling, "rope_scaling."),
        (None, Some(parameters)) => (parameters, "rope_parameters."),
        (None, None) => (&none, ""),
    };
    let s = Fields { map, within };
    let scaling = scaling(&s, max_position)?;
    if family == Family::Phi3 && scaling != RopeScaling::Default {
        return unsupported(
            &format!("{within}rope_type"),
            kind(&s)?,
            "default for Phi3ForCausalLM",
        );
    }
    let theta = s.positive("rope_theta", f.positive("rope_theta", theta)?)?;
    let partial = s.positive(
        "partial_rotary_factor",
        f.positive("partial_rotary_factor", 1.0)?,
    )?;
    let rotated = (head_dim as f64 * partial) as usize;
    match family {
        _ if rotated == head_dim => {}
        Family::Phi3 if rotated < head_dim && rotated.is_multiple_of(2) && rotated > 0 => {}
        Family::Phi3 => {
            return unsupported("partial_rotary_factor", partial, "an even part of a head");
        }
        _ => return unsupported("partial_rotary_factor", partial, "1"),
    }
    Ok(Rope {
        theta,
        scaling,
        partial,
    })
}

fn kind<'a>(s: &'a Fields) -> Result<&'a str, EngineError> {
    let kind = s.map.get("rope_type").or_else(|| s.map.get("type"));
    match kind {
        None => Ok("default"),
        Some(Value::String(kind)) => Ok(kind),
        Some(other) => Err(EngineError::Invalid(format!(
            "{}rope_type: {other} is not text",
            s.within
        ))),
    }
}

fn scaling(s: &Fields, max_position: usize) -> Result<RopeScaling, EngineError> {
    let kind = kind(s)?;
    let (scaling, keys): (_, &[&str]) = match kind {
        "default" => (RopeScaling::Default, &[]),
        "linear" => (
            RopeScaling::Linear {
                factor: s.needed("factor")?,
            },
            &["factor"],
        ),
        "llama3" => (
            llama3(s, max_position)?,
            &[
                "factor",
                "low_freq_factor",
                "high_freq_factor",
                "original_max_position_embeddings",
            ],
        ),
        other => {
            return unsupported(
                &format!("{}rope_type", s.within),
                other,
                "default, linear, llama3",
            );
        }
    };
    let always = ["rope_type", "type", "rope_theta", "partial_rotary_factor"];
    let unknown = |key: &&String| !always.contains(&key.as_str()) && !keys.contains(&key.as_str());
    match s
        .map
        .iter()
        .find(|(key, value)| unknown(key) && !value.is_null())
    {
        None => Ok(scaling),
        Some((key, value)) => Err(EngineError::Unsupported(format!(
            "{}{key}: {value} is not understood for the rope_type {kind}; known are {}",
            s.within,
            [&always[..], keys].concat().join(", ")
        ))),
    }
}

fn llama3(s: &Fields, max_position: usize) -> Result<RopeScaling, EngineError> {
    let (low, high) = (s.needed("low_freq_factor")?, s.needed("high_freq_factor")?);
    if low >= high {
        return Err(EngineError::Invalid(format!(
            "{}low_freq_factor: {low} is not less than high_freq_factor, {high}",
            s.within
        )));
    }
    Ok(RopeScaling::Llama3 {
        factor: s.needed("factor")?,
        low_freq_factor: low,
        high_freq_factor: high,
        original_max_position: s.size("original_max_position_embeddings", max_position)?,
    })
}

/// Gemma 3 has two kinds of layers, with positions of their own: those that attend to everything, and those that attend
/// to a window.
pub(super) fn gemma3(
    f: &Fields,
    theta: f64,
    layers: usize,
) -> Result<(Rope, Alternation), EngineError> {
    let none = Map::new();
    let nested = f.object("rope_parameters")?.unwrap_or(&none);
    let n = Fields {
        map: nested,
        within: "rope_parameters.",
    };
    if let Some(key) = nested
        .keys()
        .find(|key| !["full_attention", "sliding_attention"].contains(&key.as_str()))
    {
        return unsupported(
            "rope_parameters",
            key,
            "full_attention and sliding_attention",
        );
    }
    let plain = |map: &Map<String, Value>, within: &'static str, theta: f64| {
        let s = Fields { map, within };
        if scaling(&s, 0)? != RopeScaling::Default {
            return unsupported(
                &format!("{within}rope_type"),
                kind(&s)?,
                "default for Gemma3ForCausalLM",
            );
        }
        if s.positive("partial_rotary_factor", 1.0)? != 1.0 {
            return unsupported(&format!("{within}partial_rotary_factor"), "a part", "1");
        }
        s.positive("rope_theta", theta)
    };
    // The members of `rope_scaling` apply to the layers that attend to everything.
    let mut full = n.object("full_attention")?.cloned().unwrap_or_default();
    full.extend(f.object("rope_scaling")?.cloned().unwrap_or_default());
    let sliding = n.object("sliding_attention")?.unwrap_or(&none);
    let rope = Rope {
        theta: plain(
            &full,
            "rope_parameters.full_attention.",
            f.positive("rope_theta", theta)?,
        )?,
        scaling: RopeScaling::Default,
        partial: 1.0,
    };
    let local = f.positive("rope_local_base_freq", 1e4)?;
    let alternation = Alternation {
        every: every(f, layers)?,
        local_theta: plain(sliding, "rope_parameters.sliding_attention.", local)?,
    };
    Ok((rope, alternation))
}

/// Every how many layers one attends to everything.
fn every(f: &Fields, layers: usize) -> Result<usize, EngineError> {
    let Some(sliding) = sliding_layers(f, layers)? else {
        return match f.size("sliding_window_pattern", 6)? {
            0 => Err(EngineError::Invalid(
                "sliding_window_pattern: 0 is not at least 1".into(),
            )),
            every => Ok(every),
        };
    };
    let every = sliding
        .iter()
        .position(|sliding| !sliding)
        .unwrap_or(layers)
        + 1;
    if (1..)
        .zip(&sliding)
        .all(|(nth, sliding): (usize, _)| *sliding != nth.is_multiple_of(every))
    {
        return Ok(every);
    }
    unsupported(
        "layer_types",
        "an irregular order",
        "full_attention at regular intervals for Gemma3ForCausalLM",
    )
}

/// Which layers attend to a window only, as `layer_types` says.
pub(super) fn sliding_layers(f: &Fields, layers: usize) -> Result<Option<Vec<bool>>, EngineError> {
    let types = match f.map.get("layer_types") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Array(types)) if types.len() == layers => types,
        Some(Value::Array(types)) => {
            let message = format!("layer_types: {} entries for {layers} layers", types.len());
            return Err(EngineError::Invalid(message));
        }
        Some(v) => {
            return Err(EngineError::Invalid(format!(
                "layer_types: {v} is not a list"
            )));
        }
    };
    let sliding = types.iter().map(|kind| match kind.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => unsupported("layer_types", kind, "full_attention and sliding_attention"),
    });
    sliding.collect::<Result<Vec<_>, _>>().map(Some)
}
