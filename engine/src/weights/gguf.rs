//! GGUF files: their metadata as a configuration, their tensors under Hugging Face's names.

mod metadata;
mod write;

use std::fs::File;
use std::io::Cursor;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::CpuStorage;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, TensorInfo};
use memmap2::Mmap;
use serde_json::Value;

use super::element::Element;
use super::part::Part;
use crate::config::{Family, ModelConfig, Rope, RopeScaling};
use crate::error::EngineError;
use metadata::Metadata;

pub use write::save_gguf;

/// An open file.
pub(crate) struct Gguf {
    path: PathBuf,
    map: Mmap,
    content: Content,
    permutation: Permutation,
}

/// How llama.cpp's converter rearranges what Hugging Face stores.
#[derive(Clone, Copy)]
struct Permutation {
    family: Family,
    /// Rows of one head; what is rotated together lies side by side in a Llama's queries and keys, half a head apart in
    /// Hugging Face's.
    head_dim: usize,
}

impl Permutation {
    fn of(config: &ModelConfig) -> Self {
        Self {
            family: config.family,
            head_dim: config.head_dim,
        }
    }

    /// Where Hugging Face's row of a tensor lies.
    fn stored_row(self, name: &str, row: usize) -> usize {
        let rotated = ["q_proj", "k_proj"].iter().any(|part| name.contains(part));
        // A Mistral is a Llama there.
        if !rotated || !matches!(self.family, Family::Llama | Family::Mistral) {
            return row;
        }
        let (d, within) = (self.head_dim, row % self.head_dim);
        let (half, pair) = (within / (d / 2), within % (d / 2));
        row - within + 2 * pair + half
    }
}

/// The GGUF file that a path means: the file itself, or the only one in a folder without `*.safetensors`.
///
/// # Errors
/// [`EngineError::Invalid`] where a folder has several.
pub fn find(path: &Path) -> Result<Option<PathBuf>, EngineError> {
    let is_gguf = |path: &Path| {
        path.extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("gguf"))
    };
    if path.is_file() && is_gguf(path) {
        return Ok(Some(path.to_owned()));
    }
    let Ok(entries) = std::fs::read_dir(path) else {
        return Ok(None);
    };
    let mut found: Vec<_> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    let other = |path: &PathBuf| path.extension().is_some_and(|e| e == "safetensors");
    if found.iter().any(other) {
        return Ok(None);
    }
    found.retain(|path| is_gguf(path));
    found.sort();
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        [one, another, ..] => Err(EngineError::Invalid(format!(
            "{}: both {} and {} are there; name the file that is meant",
            path.display(),
            one.display(),
            another.display()
        ))),
    }
}

impl Gguf {
    /// Opens a file and reads what it says of itself.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] where it is broken, [`EngineError::Unsupported`] where no code here can run it.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        let broken =
            |e: &dyn std::fmt::Display| EngineError::Invalid(format!("{}: {e}", path.display()));
        let file = File::open(path).map_err(|e| broken(&e))?;
        // SAFETY: the map is only read. That nobody truncates the file meanwhile is the caller's to see to, as for any
        // program that maps its inputs.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| broken(&e))?;
        let content = Content::read(&mut Cursor::new(&map[..])).map_err(|e| broken(&e))?;
        for (name, info) in &content.tensor_infos {
            let kind = info.ggml_dtype;
            let (start, elements) = (
                content.tensor_data_offset + info.offset,
                info.shape.elem_count(),
            );
            let bytes = elements.div_ceil(kind.block_size()) * kind.type_size();
            let row = info.shape.dims().last().copied().unwrap_or(0);
            let inside = start
                .checked_add(bytes as u64)
                .is_some_and(|end| end <= map.len() as u64);
            // No block holds anything wider than an f32.
            if !inside || !row.is_multiple_of(kind.block_size()) || start % 4 != 0 {
                return Err(broken(&format!(
                    "tensor {name} of {kind:?} and shape {:?} cannot lie at byte {start} of {}",
                    info.shape.dims(),
                    map.len()
                )));
            }
        }
        let mut gguf = Self {
            path: path.to_owned(),
            map,
            content,
            permutation: Permutation {
                family: Family::Llama,
                head_dim: 1,
            },
        };
        let config = gguf.config()?;
        gguf.permutation = Permutation::of(&config);
        Ok(gguf)
    }

    /// The file's header.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// The metadata as a configuration, by way of the `config.json` that says the same.
    ///
    /// # Errors
    /// Names the file and the key that is missing or says what no code here can run.
    pub fn config(&self) -> Result<ModelConfig, EngineError> {
        let config = || {
            let metadata = Metadata {
                content: &self.content,
                factors: self.factors(),
            };
            let json = metadata.config_json()?;
            let config = ModelConfig::parse(&Value::Object(json).to_string())?;
            self.check_factors(&config)?;
            Ok(config)
        };
        config().map_err(|e: EngineError| e.within(&self.path.display().to_string()))
    }

    /// That frequencies are scaled as `rope_scaling` in [`Metadata::config_json`] says.
    fn check_factors(&self, config: &ModelConfig) -> Result<(), EngineError> {
        let Some(stored) = self.factors() else {
            return Ok(());
        };
        let Some(rope) = &config.rope else {
            return Ok(());
        };
        let plain = Rope {
            theta: rope.theta,
            scaling: RopeScaling::Default,
            partial: rope.partial,
        };
        let (plain, scaled) = (
            plain.frequencies(config.head_dim),
            rope.frequencies(config.head_dim),
        );
        let same = stored.len() == plain.len()
            && stored
                .iter()
                .zip(plain.iter().zip(&scaled))
                .all(|(&stored, (plain, scaled))| {
                    (f64::from(stored) * scaled / plain - 1.0).abs() < 1e-3
                });
        if same {
            Ok(())
        } else {
            Err(EngineError::Unsupported(
                "rope_freqs.weight: the factors are not those of Llama 3.1 or 3.2".into(),
            ))
        }
    }

    /// The divisors of the frequencies, where the file has them.
    fn factors(&self) -> Option<Vec<f32>> {
        let info = self.content.tensor_infos.get("rope_freqs.weight")?;
        let tensor = StoredTensor::of(info, &self.content, &self.map);
        let rows = 0..info.shape.elem_count();
        Some(rows.flat_map(|i| tensor.values(i, 0..1)).collect())
    }

    /// Every tensor that the file holds, by the name that it has there.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.content.tensor_infos.keys().map(String::as_str)
    }

    /// The file, for a message.
    pub fn place(&self) -> String {
        self.path.display().to_string()
    }

    /// Checks a tensor's presence, shape and dtype.
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<(), EngineError> {
        let file = self.path.display();
        let theirs = gguf_name(name);
        let Some(info) = self.content.tensor_infos.get(&theirs) else {
            return Err(EngineError::Invalid(format!(
                "{file}: tensor {theirs} is missing"
            )));
        };
        let mut wanted = shape.to_vec();
        if is_conv1d(name) {
            wanted.reverse();
        }
        if wanted.len() == 1 && info.ggml_dtype.block_size() > 1 {
            return Err(EngineError::Unsupported(format!(
                "{file}: tensor {theirs} is a vector in {:?}, allowed are F32, F16 and BF16",
                info.ggml_dtype
            )));
        }
        if info.shape.dims() != wanted {
            return Err(EngineError::Invalid(format!(
                "{file}: tensor {theirs} has shape {:?}, wanted {wanted:?}",
                info.shape.dims()
            )));
        }
        Ok(())
    }

    /// See [`super::Source::fill`]; the part has passed [`Gguf::check`].
    pub fn fill<T: Element>(&self, part: &Part, rows: Range<usize>, out: &mut [T], stride: usize) {
        let tensor = self.tensor(&part.name);
        let cols = part.cols.clone();
        if part.transposed == is_conv1d(&part.name) {
            for (row, out) in rows.zip(out.chunks_mut(stride)) {
                let values =
                    tensor.values(self.permutation.stored_row(&part.name, row), cols.clone());
                for (out, value) in out.iter_mut().zip(values) {
                    *out = T::from_f32(value);
                }
            }
        } else {
            for (i, col) in cols.enumerate() {
                let values = tensor.values(col, rows.clone());
                for (row, value) in values.into_iter().enumerate() {
                    out[row * stride + i] = T::from_f32(value);
                }
            }
        }
    }

    /// The bytes of a row of the part, where they are whole blocks of that kind.
    pub fn blocks(&self, part: &Part, row: usize, kind: GgmlDType) -> Option<&[u8]> {
        let tensor = self.tensor(&part.name);
        let block = kind.block_size();
        let whole = part.cols.start.is_multiple_of(block) && part.cols.end.is_multiple_of(block);
        (tensor.kind == kind && whole && part.transposed == is_conv1d(&part.name)).then(|| {
            tensor.bytes(
                self.permutation.stored_row(&part.name, row),
                part.cols.clone(),
            )
        })
    }

    fn tensor(&self, name: &str) -> StoredTensor<'_> {
        let info = &self.content.tensor_infos[&gguf_name(name)];
        StoredTensor::of(info, &self.content, &self.map)
    }
}

/// One tensor's bytes, row by row.
struct StoredTensor<'a> {
    kind: GgmlDType,
    width: usize,
    bytes: &'a [u8],
}

impl<'a> StoredTensor<'a> {
    fn of(info: &TensorInfo, content: &Content, map: &'a [u8]) -> Self {
        let kind = info.ggml_dtype;
        let start = (content.tensor_data_offset + info.offset) as usize;
        let bytes = info.shape.elem_count() / kind.block_size() * kind.type_size();
        Self {
            kind,
            // A vector is read as one row of a matrix would be, or element by element as rows of one.
            width: match info.shape.dims() {
                [_, width] => *width,
                _ => 1,
            },
            bytes: &map[start..start + bytes],
        }
    }

    /// The blocks that hold these columns of a row.
    fn bytes(&self, row: usize, cols: Range<usize>) -> &'a [u8] {
        let (block, size) = (self.kind.block_size(), self.kind.type_size());
        let first = row * self.width / block;
        let (from, to) = (cols.start / block, cols.end.div_ceil(block));
        &self.bytes[(first + from) * size..(first + to) * size]
    }

    fn values(&self, row: usize, cols: Range<usize>) -> Vec<f32> {
        let block = self.kind.block_size();
        let bytes = self.bytes(row, cols.clone());
        let elements = bytes.len() / self.kind.type_size() * block;
        let skipped = cols.start % block;
        let values = self.kind.from_data(bytes.into()).dequantize(elements);
        match values {
            Ok(CpuStorage::F32(mut values)) => {
                values.drain(..skipped);
                values.truncate(cols.len());
                values
            }
            _ => unreachable!("candle unpacks every type to f32, and in memory"),
        }
    }
}

/// GPT-2's matrices are input by output at Hugging Face's, and output by input here.
fn is_conv1d(name: &str) -> bool {
    ["c_attn.weight", "c_proj.weight", "c_fc.weight"]
        .iter()
        .any(|end| name.ends_with(end))
}

/// The name in a GGUF file of Hugging Face's tensor.
pub(super) fn gguf_name(name: &str) -> String {
    const WHOLE: [(&str, &str); 7] = [
        ("model.embed_tokens.", "token_embd."),
        ("transformer.wte.", "token_embd."),
        ("transformer.wpe.", "position_embd."),
        ("model.norm.", "output_norm."),
        ("transformer.ln_f.", "output_norm."),
        ("lm_head.", "output."),
        // Both families call their layers by number.
        ("transformer.h.", "blk."),
    ];
    const IN_LAYER: [(&str, &str); 17] = [
        (".self_attn.q_proj.", ".attn_q."),
        (".self_attn.k_proj.", ".attn_k."),
        (".self_attn.v_proj.", ".attn_v."),
        (".self_attn.o_proj.", ".attn_output."),
        (".self_attn.q_norm.", ".attn_q_norm."),
        (".self_attn.k_norm.", ".attn_k_norm."),
        (".mlp.gate_proj.", ".ffn_gate."),
        (".mlp.up_proj.", ".ffn_up."),
        (".mlp.down_proj.", ".ffn_down."),
        (".input_layernorm.", ".attn_norm."),
        (".post_attention_layernorm.", ".ffn_norm."),
        (".ln_1.", ".attn_norm."),
        (".ln_2.", ".ffn_norm."),
        (".attn.c_attn.", ".attn_qkv."),
        (".attn.c_proj.", ".attn_output."),
        (".mlp.c_fc.", ".ffn_up."),
        (".mlp.c_proj.", ".ffn_down."),
    ];
    let mut theirs = name.replacen("model.layers.", "blk.", 1);
    for (ours, gguf) in WHOLE.iter().chain(&IN_LAYER) {
        theirs = theirs.replacen(ours, gguf, 1);
    }
    theirs
}
