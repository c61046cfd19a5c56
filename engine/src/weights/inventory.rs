//! A file's tensors against the model's: each of the model's has to be there in its shape, and each of the file's has
//! to be the model's, or known to change nothing.

use std::collections::HashSet;

use super::gguf::gguf_name;
use super::source::Source;
use crate::config::ModelConfig;
use crate::error::EngineError;

/// Ends of names of tensors that older checkpoints carry, and that follow from the configuration: masks of GPT-2's
/// attention and frequencies of positions.
const HARMLESS: [&str; 3] = [".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq"];
/// Read with the configuration.
const GGUF_FACTORS: &str = "rope_freqs.weight";
const HEAD: &str = "lm_head.weight";

/// Checks every tensor, of the model and of the file.
///
/// # Errors
/// Names the file and the tensor that is missing, of another shape, or of no use that is known.
pub(super) fn check(source: &Source, config: &ModelConfig) -> Result<(), EngineError> {
    let mut left: HashSet<&str> = match source {
        Source::Files(files) => files.names().collect(),
        Source::Gguf(gguf) => gguf.names().collect(),
        Source::Random(_) => return Ok(()),
    };
    check_layers(source, config, &left)?;
    let tensors = config.tensors();
    for (name, shape) in &tensors {
        source.check_tensor(name, shape)?;
        match source {
            Source::Files(files) => left.remove(files.stored_name(name).unwrap_or(name)),
            _ => left.remove(gguf_name(name).as_str()),
        };
    }
    let place = match source {
        Source::Files(files) => {
            check_tied_head(source, config, &tensors[0].0)?;
            left.retain(|name| !HARMLESS.iter().any(|end| name.ends_with(end)));
            if config.tied {
                left.remove(HEAD);
            }
            files.place()
        }
        Source::Gguf(gguf) => {
            left.remove(GGUF_FACTORS);
            gguf.place()
        }
        Source::Random(_) => return Ok(()),
    };
    match left.iter().min() {
        None => Ok(()),
        Some(name) => Err(EngineError::Unsupported(format!(
            "{place}: tensor {name}{} is not one of {}'s, as this one is described",
            match left.len() {
                1 => String::new(),
                n => format!(" (and {} more)", n - 1),
            },
            config.architecture(),
        ))),
    }
}

/// That the file has as many layers, before as many are listed.
fn check_layers(
    source: &Source,
    config: &ModelConfig,
    names: &HashSet<&str>,
) -> Result<(), EngineError> {
    let number = |name: &&str| {
        let mut parts = name.split('.');
        parts.find(|part| ["layers", "h", "blk"].contains(part))?;
        parts.next()?.parse::<usize>().ok()
    };
    let stored = names
        .iter()
        .filter_map(number)
        .max()
        .map_or(0, |last| last.saturating_add(1));
    if stored == 0 || config.layers <= stored {
        return Ok(());
    }
    let (place, missing) = match source {
        Source::Gguf(gguf) => (gguf.place(), format!("blk.{stored}.")),
        Source::Files(files) if config.rope.is_none() => {
            (files.place(), format!("transformer.h.{stored}."))
        }
        Source::Files(files) => (files.place(), format!("model.layers.{stored}.")),
        Source::Random(_) => return Ok(()),
    };
    Err(EngineError::Invalid(format!(
        "{place}: the model is said to have {} layers, and the file holds {stored}: tensor {missing}* is missing",
        config.layers
    )))
}

/// A head that is stored beside the embedding that it is tied to has to be the same: transformers would use it.
fn check_tied_head(
    source: &Source,
    config: &ModelConfig,
    embedding: &str,
) -> Result<(), EngineError> {
    let Source::Files(files) = source else {
        return Ok(());
    };
    let stored = config.tied && files.stored_name(HEAD).is_some();
    if stored && !files.same(HEAD, embedding) {
        return Err(EngineError::Unsupported(format!(
            "{}: tie_word_embeddings: true is not supported beside a {HEAD} that differs from {embedding}; \
             say false if the head is to be used",
            files.place()
        )));
    }
    Ok(())
}
