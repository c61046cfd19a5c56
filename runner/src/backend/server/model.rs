//! The files that a server is given: the resolved folder or GGUF file as every engine gets it, or a random preset
//! written out once, as a folder or as a GGUF file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use candle_core::quantized::{GgmlDType, gguf_file::Content};
use inferbench_crds::{
    engine::{Prompt, preset::PresetRow},
    spec::Dtype,
};
use inferbench_engine::{
    Weights, config::ModelConfig, gguf_file, save, save_gguf, size, tokenizer::Tokenizer,
};
use serde_json::json;

use crate::{
    backend::{BackendError, Setup, candle},
    models::{self, WeightsAt},
};

/// A model that a server can read.
pub struct Files {
    /// The folder or file.
    pub path: PathBuf,
    /// Its configuration.
    pub config: ModelConfig,
    /// Its parameters, a tied head counted once.
    pub params: u64,
    /// The data type of its weights, where that is the file's and not the server's to say.
    pub dtype: Option<String>,
}

/// The files for a server of this kind.
///
/// # Errors
/// `Unsupported` where it cannot read such a model.
pub fn place(row: &PresetRow, setup: &Setup<'_>) -> Result<Files, BackendError> {
    let weights = setup.weights.weights().map_err(BackendError::invalid)?;
    let dtype = setup.combination.dtype;
    let config = weights.config()?;
    if setup.combination.engine.server.is_some()
        && let Some(why) = unreadable(row, &weights, dtype)
    {
        return Err(BackendError::Unsupported(why));
    }
    let path = match (&weights, setup.weights) {
        (Weights::Path(path), _) if row.gguf => gguf_file(path)?.unwrap_or_else(|| path.clone()),
        (Weights::Path(path), _) => path.clone(),
        // The weights of an endpoint lie elsewhere.
        (Weights::Random { .. }, _) if setup.combination.engine.server.is_none() => PathBuf::new(),
        (Weights::Random { .. }, WeightsAt::Random { preset, seed }) => {
            let name = format!("{preset}@{seed}-{dtype}");
            let place = models::cache_folder().join("random");
            match row.gguf {
                true => written_as_gguf(&weights, &place.join(format!("{name}.gguf")), dtype)?,
                false => written(&weights, &config, place.join(name), dtype)?,
            }
        }
        (Weights::Random { .. }, WeightsAt::Folder(folder)) => folder.clone(),
    };
    Ok(Files {
        dtype: row.gguf.then(|| dtype_of(&path)).flatten(),
        path,
        params: size::params(&config),
        config,
    })
}

impl Files {
    /// The tokenizer that prompts as texts are made with.
    ///
    /// # Errors
    /// `Unsupported` where prompts are texts, and the model has none.
    pub fn tokenizer(
        &self,
        prompt: Prompt,
        engine: &str,
    ) -> Result<Option<Tokenizer>, BackendError> {
        if prompt == Prompt::Ids {
            return Ok(None);
        }
        match Tokenizer::load(&self.path)? {
            Some(tokenizer) => Ok(Some(tokenizer)),
            None => Err(BackendError::Unsupported(format!(
                "{engine} is sent texts, and {} has no tokenizer to make them with",
                self.path.display()
            ))),
        }
    }
}

/// Why a server of this kind cannot read such a model in this data type; none where it can, or where that is not known.
pub fn unreadable(row: &PresetRow, weights: &Weights, dtype: Dtype) -> Option<String> {
    let title = row.title;
    let file = match weights {
        Weights::Path(path) => gguf_file(path).ok().flatten(),
        // They are written out as the server reads them.
        Weights::Random { .. } => return None,
    };
    match (row.gguf, file) {
        (true, Some(file)) => {
            let found = dtype_of(&file)?;
            // The default of a design without data types: nobody has asked for it.
            let unasked = matches!(dtype, Dtype::F32 | Dtype::Bf16);
            (!unasked && found != dtype.name()).then(|| {
                format!(
                    "{title} takes weights as they are stored: the file has {found}, and dtype is {dtype}; leave it out"
                )
            })
        }
        (true, None) => Some(format!(
            "{title} reads GGUF files: give the model as source.path of one"
        )),
        (false, Some(_)) if row.needs_tokenizer => Some(format!(
            "{title} is given a folder with config.json and safetensors, and this model is a GGUF file"
        )),
        (false, _) => None,
    }
}

/// The data type in which a server of this kind computes with such a model, where the model's file decides that and not the
/// level; none elsewhere.
pub fn stored_dtype(row: &PresetRow, weights: &Weights) -> Option<String> {
    match weights {
        Weights::Path(path) if row.gguf => dtype_of(&gguf_file(path).ok()??),
        _ => None,
    }
}

/// The data type of most of a GGUF file's weights.
fn dtype_of(file: &Path) -> Option<String> {
    let content = Content::read(&mut fs::File::open(file).ok()?).ok()?;
    let mut elements: Vec<(GgmlDType, usize)> = Vec::new();
    for tensor in content.tensor_infos.values() {
        let count = tensor.shape.elem_count();
        match elements
            .iter_mut()
            .find(|(dtype, _)| *dtype == tensor.ggml_dtype)
        {
            Some((_, sum)) => *sum += count,
            None => elements.push((tensor.ggml_dtype, count)),
        }
    }
    let (most, _) = elements.into_iter().max_by_key(|(_, count)| *count)?;
    Some(format!("{most:?}").to_lowercase())
}

/// Where a preset's random weights lie, with a tokenizer: written once, and found again by every trial.
fn written(
    weights: &Weights,
    config: &ModelConfig,
    folder: PathBuf,
    dtype: Dtype,
) -> Result<PathBuf, BackendError> {
    if folder.join("complete").exists() {
        return Ok(folder);
    }
    let io = |error: std::io::Error| BackendError::failed(format!("{}: {error}", folder.display()));
    let part = folder.with_extension(format!("part-{}", std::process::id()));
    fs::create_dir_all(&part).map_err(io)?;
    save(weights, candle::format(dtype), &part)?;
    write_tokenizer(&part, config.vocab_size).map_err(io)?;
    fs::write(part.join("complete"), "").map_err(io)?;
    match fs::rename(&part, &folder) {
        Ok(()) => Ok(folder),
        // Another process was faster.
        Err(_) if folder.join("complete").exists() => {
            let _ = fs::remove_dir_all(&part);
            Ok(folder)
        }
        Err(error) => Err(io(error)),
    }
}

/// The same as one GGUF file.
fn written_as_gguf(weights: &Weights, file: &Path, dtype: Dtype) -> Result<PathBuf, BackendError> {
    if file.exists() {
        return Ok(file.to_owned());
    }
    let io = |error: std::io::Error| BackendError::failed(format!("{}: {error}", file.display()));
    let part = file.with_extension(format!("part-{}", std::process::id()));
    if let Some(folder) = part.parent() {
        fs::create_dir_all(folder).map_err(io)?;
    }
    save_gguf(weights, candle::format(dtype), word, &part)?;
    // A file that another process has written meanwhile is the same.
    fs::rename(&part, file).map_err(io)?;
    Ok(file.to_owned())
}

/// The word of an id: nobody reads the text of random weights, but servers want to write it.
fn word(id: usize) -> String {
    format!("t{id}")
}

/// A tokenizer with a word for every id.
fn write_tokenizer(folder: &Path, vocab: usize) -> std::io::Result<()> {
    let words: serde_json::Map<String, serde_json::Value> =
        (0..vocab).map(|id| (word(id), id.into())).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": { "type": "WhitespaceSplit" }, "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": words, "unk_token": "t0" },
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string())?;
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "t0", "eos_token": "t0", "bos_token": "t0",
    });
    fs::write(folder.join("tokenizer_config.json"), config.to_string())
}
