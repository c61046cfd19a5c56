//! Writes a model as a GGUF file, as llama.cpp's converter lays it out, so that servers which read nothing else load
//! the very same weights.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use half::f16;

use super::{Permutation, gguf_name, is_conv1d};
use crate::config::{Family, ModelConfig, RopeScaling};
use crate::error::EngineError;
use crate::format::Format;
use crate::weights::element::{Element, in_parallel, zeroed};
use crate::weights::part::Part;
use crate::weights::{location::Weights, source::Source};

/// The version of the file format.
const VERSION: u32 = 3;
/// Tensors begin at multiples of this many bytes.
const ALIGNMENT: u64 = 32;
/// An ordinary word, in `tokenizer.ggml.token_type`.
const NORMAL: i32 = 1;

/// Writes the weights as one GGUF file, its matrices in the given format and all else in f32, with a vocabulary that has
/// `word` of every id. Needs memory for one tensor at a time.
///
/// # Errors
/// [`EngineError::Unsupported`] for a model that GGUF's metadata cannot describe, or whose rows are no whole blocks of the
/// format; else where the weights cannot be read, or the file cannot be written.
pub fn save_gguf(
    weights: &Weights,
    format: Format,
    word: impl Fn(usize) -> String,
    file: &Path,
) -> Result<(), EngineError> {
    let config = weights.config()?;
    let source = weights.source(&config)?;
    let metadata = metadata(&config, word)?;
    let tensors: Vec<Stored> = config
        .tensors()
        .into_iter()
        .map(|(name, shape)| Stored::of(&config, name, &shape, format))
        .collect::<Result<_, _>>()?;
    let failed = || format!("writing {}", file.display());
    let mut out = BufWriter::new(File::create(file).with_context(failed)?);
    let header = header(&metadata, &tensors);
    out.write_all(&header).with_context(failed)?;
    for tensor in &tensors {
        source.check(&tensor.part)?;
        let bytes = tensor.bytes(&source)?;
        out.write_all(&bytes).with_context(failed)?;
        pad(&mut out, bytes.len() as u64).with_context(failed)?;
    }
    out.flush().with_context(failed)?;
    Ok(())
}

/// A tensor as the file has it.
struct Stored {
    part: Part,
    /// That of the model's matrices.
    format: Format,
    kind: GgmlDType,
    permutation: Permutation,
}

impl Stored {
    fn of(
        config: &ModelConfig,
        name: String,
        shape: &[usize],
        format: Format,
    ) -> Result<Self, EngineError> {
        let mut part = Part::new(name, shape);
        if is_conv1d(&part.name) && shape.len() == 2 {
            part = part.transposed();
        }
        let plain = shape.len() == 1 || part.name.ends_with("wpe.weight");
        let kind = match format {
            _ if plain => GgmlDType::F32,
            Format::F32 => GgmlDType::F32,
            Format::F16 => GgmlDType::F16,
            Format::BF16 => GgmlDType::BF16,
            Format::Q4_0 => GgmlDType::Q4_0,
            Format::Q8_0 => GgmlDType::Q8_0,
        };
        if !part.cols.len().is_multiple_of(kind.block_size()) {
            return Err(EngineError::Unsupported(format!(
                "GGUF: rows of {} have {} elements, and blocks of {format} have {}",
                part.name,
                part.cols.len(),
                kind.block_size()
            )));
        }
        Ok(Self {
            part,
            format,
            kind,
            permutation: Permutation::of(config),
        })
    }

    /// The shape, from the outermost dimension to the innermost.
    fn shape(&self) -> Vec<usize> {
        match self.part.stored.len() {
            1 => vec![self.part.rows.len()],
            _ => vec![self.part.rows.len(), self.part.cols.len()],
        }
    }

    fn len(&self) -> u64 {
        let elements = self.part.rows.len() * self.part.cols.len();
        (elements / self.kind.block_size() * self.kind.type_size()) as u64
    }

    fn bytes(&self, source: &Source) -> Result<Vec<u8>, EngineError> {
        let values = match self.format {
            // As the engine takes all of them up in this format: random weights have no subnormal numbers in it.
            Format::F16 => self.filled(source).into_iter().map(f16::to_f32).collect(),
            _ => self.filled(source),
        };
        let values = self.permuted(values, self.part.cols.len());
        let tensor = Tensor::from_vec(values, self.shape(), &Device::Cpu)?;
        Ok(QTensor::quantize(&tensor, self.kind)?.data()?.into_owned())
    }

    fn filled<T: Element>(&self, source: &Source) -> Vec<T> {
        let (rows, cols) = (self.part.rows.len(), self.part.cols.len());
        let mut values = zeroed::<T>(rows * cols);
        in_parallel(&mut values, cols, |first, out| {
            let rows = first..first + out.len() / cols;
            source.fill(&self.part, rows, out, cols);
        });
        values
    }

    /// The rows in the order in which they are stored.
    fn permuted(&self, values: Vec<f32>, cols: usize) -> Vec<f32> {
        let place = |row| self.permutation.stored_row(&self.part.name, row);
        if (0..self.permutation.head_dim).all(|row| place(row) == row) {
            return values;
        }
        let mut permuted = zeroed::<f32>(values.len());
        for (row, from) in values.chunks(cols).enumerate() {
            let to = place(row) * cols;
            permuted[to..to + cols].copy_from_slice(from);
        }
        permuted
    }
}

/// A value of the metadata.
enum Value {
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Text(String),
    Array(Vec<Value>),
}

impl Value {
    /// The number of its type.
    fn kind(&self) -> u32 {
        match self {
            Value::U32(_) => 4,
            Value::I32(_) => 5,
            Value::F32(_) => 6,
            Value::Bool(_) => 7,
            Value::Text(_) => 8,
            Value::Array(_) => 9,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Value::U32(value) => out.extend(value.to_le_bytes()),
            Value::I32(value) => out.extend(value.to_le_bytes()),
            Value::F32(value) => out.extend(value.to_le_bytes()),
            Value::Bool(value) => out.push(u8::from(*value)),
            Value::Text(text) => write_text(text, out),
            Value::Array(values) => {
                out.extend(values.first().map_or(4, Value::kind).to_le_bytes());
                out.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| value.write(out));
            }
        }
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// All that comes before the tensors.
fn header(metadata: &[(String, Value)], tensors: &[Stored]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        write_text(key, &mut out);
        out.extend(value.kind().to_le_bytes());
        value.write(&mut out);
    }
    let mut offset: u64 = 0;
    for tensor in tensors {
        write_text(&gguf_name(&tensor.part.name), &mut out);
        let shape = tensor.shape();
        out.extend((shape.len() as u32).to_le_bytes());
        for size in shape.iter().rev() {
            out.extend((*size as u64).to_le_bytes());
        }
        out.extend(number_of(tensor.kind).to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset = (offset + tensor.len()).next_multiple_of(ALIGNMENT);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
    out
}

fn pad(out: &mut impl Write, written: u64) -> io::Result<()> {
    let missing = written.next_multiple_of(ALIGNMENT) - written;
    out.write_all(&[0; ALIGNMENT as usize][..missing as usize])
}

/// ggml's number of a type of tensors.
fn number_of(kind: GgmlDType) -> u32 {
    match kind {
        GgmlDType::F16 => 1,
        GgmlDType::Q4_0 => 2,
        GgmlDType::Q8_0 => 8,
        GgmlDType::BF16 => 30,
        _ => 0,
    }
}

/// The metadata that describes a model.
fn metadata(
    config: &ModelConfig,
    word: impl Fn(usize) -> String,
) -> Result<Vec<(String, Value)>, EngineError> {
    let unsupported = |what: &str| {
        let model = config.architecture();
        Err(EngineError::Unsupported(format!(
            "GGUF: it is not known how to write {what} of {model}"
        )))
    };
    let arch = match config.family {
        Family::Gpt2 => "gpt2",
        Family::Llama | Family::Mistral => "llama",
        Family::Qwen2 => "qwen2",
        Family::Qwen3 => "qwen3",
        Family::Gemma3 | Family::Phi3 => return unsupported("the tensors"),
    };
    if config.sliding_window.is_some() {
        return unsupported("the window of attention");
    }
    let number = |value: usize| Value::U32(u32::try_from(value).unwrap_or(u32::MAX));
    let of_arch = |key: &str, value| (format!("{arch}.{key}"), value);
    let eps = Value::F32(config.norm_eps as f32);
    let mut all = vec![
        ("general.architecture".to_owned(), Value::Text(arch.into())),
        of_arch("context_length", number(config.max_position)),
        of_arch("embedding_length", number(config.hidden)),
        of_arch("feed_forward_length", number(config.intermediate)),
        of_arch("block_count", number(config.layers)),
        of_arch("attention.head_count", number(config.heads)),
    ];
    match &config.rope {
        None => all.push(of_arch("attention.layer_norm_epsilon", eps)),
        Some(rope) => {
            if !matches!(rope.scaling, RopeScaling::Default) {
                return unsupported("the scaled positions");
            }
            all.extend([
                of_arch("attention.layer_norm_rms_epsilon", eps),
                of_arch("attention.head_count_kv", number(config.kv_heads)),
                of_arch("attention.key_length", number(config.head_dim)),
                of_arch("attention.value_length", number(config.head_dim)),
                of_arch("rope.freq_base", Value::F32(rope.theta as f32)),
            ]);
        }
    }
    all.extend(vocabulary(config, word));
    Ok(all)
}

/// A vocabulary of whole words, without merges, begins or ends that would be added to a text.
fn vocabulary(
    config: &ModelConfig,
    word: impl Fn(usize) -> String,
) -> impl Iterator<Item = (String, Value)> {
    let ids = 0..config.vocab_size;
    let each = |value: fn(usize) -> Value| Value::Array(ids.clone().map(value).collect());
    let mut all = vec![
        ("model", Value::Text("llama".into())),
        (
            "tokens",
            Value::Array(ids.clone().map(|id| Value::Text(word(id))).collect()),
        ),
        ("scores", each(|_| Value::F32(0.0))),
        ("token_type", each(|_| Value::I32(NORMAL))),
        ("add_bos_token", Value::Bool(false)),
        ("add_eos_token", Value::Bool(false)),
        ("add_space_prefix", Value::Bool(false)),
        ("unknown_token_id", Value::U32(0)),
    ];
    for name in ["bos", "eos"] {
        let id = config.raw.get(&format!("{name}_token_id"));
        let id = id.and_then(serde_json::Value::as_u64);
        if let Some(id) = id.and_then(|id| u32::try_from(id).ok()) {
            all.push(match name {
                "bos" => ("bos_token_id", Value::U32(id)),
                _ => ("eos_token_id", Value::U32(id)),
            });
        }
    }
    all.into_iter()
        .map(|(key, value)| (format!("tokenizer.ggml.{key}"), value))
}
