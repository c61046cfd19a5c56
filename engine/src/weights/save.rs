//! Writes a model as a Hugging Face folder, so that other programs load the very same weights.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use anyhow::Context;
use half::{bf16, f16};
use safetensors::{Dtype, View};
use serde_json::json;

use super::element::{Element, in_parallel, zeroed};
use super::location::Weights;
use super::part::Part;
use super::source::Source;
use crate::error::EngineError;
use crate::format::Format;

/// One tensor, computed when it is written: a model need not fit in memory twice.
struct Lazy<'a> {
    source: &'a Source,
    part: Part,
    dtype: Dtype,
}

impl Lazy<'_> {
    fn bytes<T: Element>(&self, to_bytes: impl Fn(&T, &mut Vec<u8>)) -> Vec<u8> {
        let cols = self.part.cols.len();
        let mut values = zeroed::<T>(self.part.rows.len() * cols);
        in_parallel(&mut values, cols, |first, out| {
            let rows = first..first + out.len() / cols;
            self.source.fill(&self.part, rows, out, cols);
        });
        let mut bytes = Vec::with_capacity(size_of_val(values.as_slice()));
        values.iter().for_each(|v| to_bytes(v, &mut bytes));
        bytes
    }
}

impl View for Lazy<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.part.stored
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(match self.dtype {
            Dtype::BF16 => self.bytes::<bf16>(|v, b| b.extend(v.to_le_bytes())),
            Dtype::F16 => self.bytes::<f16>(|v, b| b.extend(v.to_le_bytes())),
            _ => self.bytes::<f32>(|v, b| b.extend(v.to_le_bytes())),
        })
    }

    fn data_len(&self) -> usize {
        self.part.stored.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

/// Writes the weights as a Hugging Face folder (`config.json`, `model.safetensors`) in the given format, so that other
/// programs load the very same values. Needs memory for one tensor at a time.
///
/// # Errors
/// [`EngineError::Unsupported`] for a quantized format; else where the weights cannot be read, or the folder cannot be
/// written.
pub fn save(weights: &Weights, format: Format, dir: &Path) -> Result<(), EngineError> {
    let config = weights.config()?;
    let source = weights.source(&config)?;
    let (stored, name) = match format {
        Format::F32 => (Dtype::F32, "float32"),
        Format::BF16 => (Dtype::BF16, "bfloat16"),
        Format::F16 => (Dtype::F16, "float16"),
        Format::Q4_0 | Format::Q8_0 => {
            return Err(EngineError::Unsupported(format!(
                "safetensors: {format} is not one of f32, bf16, f16"
            )));
        }
    };
    let mut tensors = Vec::new();
    for (name, shape) in config.tensors() {
        let part = Part::new(name.clone(), &shape);
        source.check(&part)?;
        tensors.push((
            name,
            Lazy {
                source: &source,
                part,
                dtype: stored,
            },
        ));
    }
    std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let mut json = config.to_json();
    json["torch_dtype"] = json!(name);
    let file = dir.join("config.json");
    let text = serde_json::to_string_pretty(&json).expect("JSON values serialise") + "\n";
    std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    let file = dir.join("model.safetensors");
    // transformers refuses files whose metadata does not say which framework's layout they have.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(tensors, Some(metadata), &file)
        .with_context(|| format!("writing {}", file.display()))?;
    Ok(())
}
