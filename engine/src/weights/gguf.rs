//! GGUF files: their metadata as a configuration, their tensors under Hugging Face's names.

use std::fs::File;
use std::io::Cursor;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::CpuStorage;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, Value};
use memmap2::Mmap;
use serde_json::{Map, Value as Json, json};

use super::Part;
use super::element::Element;
use crate::config::{Family, ModelConfig, Rope, RopeScaling};
use crate::error::EngineError;
use crate::models::llama::frequencies;

/// An open file.
pub(crate) struct Gguf {
    path: PathBuf,
    map: Mmap,
    content: Content,
    /// What the tensors are permuted by.
    layout: Layout,
}

/// How llama.cpp's converter rearranges what Hugging Face stores.
#[derive(Clone, Copy)]
struct Layout {
    family: Family,
    /// Rows of one head; what is rotated together lies side by side in a Llama's queries and keys, half a head apart in
    /// Hugging Face's.
    head_dim: usize,
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
            layout: Layout {
                family: Family::Llama,
                head_dim: 1,
            },
        };
        let config = gguf.config()?;
        gguf.layout = Layout {
            family: config.family,
            head_dim: config.head_dim,
        };
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
            let config = ModelConfig::parse(&Json::Object(json).to_string())?;
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
        };
        let (plain, scaled) = (
            frequencies(&plain, config.head_dim),
            frequencies(rope, config.head_dim),
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

    /// What each frequency is divided by, where the file says so.
    fn factors(&self) -> Option<Vec<f32>> {
        let info = self.content.tensor_infos.get("rope_freqs.weight")?;
        let tensor = Tensor::of(info, &self.content, &self.map);
        let rows = 0..info.shape.elem_count();
        Some(rows.flat_map(|i| tensor.values(i, 0..1)).collect())
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
                let values = tensor.values(self.stored_row(&part.name, row), cols.clone());
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
        (tensor.kind == kind && whole && part.transposed == is_conv1d(&part.name))
            .then(|| tensor.bytes(self.stored_row(&part.name, row), part.cols.clone()))
    }

    fn tensor(&self, name: &str) -> Tensor<'_> {
        let info = &self.content.tensor_infos[&gguf_name(name)];
        Tensor::of(info, &self.content, &self.map)
    }

    /// Where Hugging Face's row of a tensor lies.
    fn stored_row(&self, name: &str, row: usize) -> usize {
        let rotated = ["q_proj", "k_proj"].iter().any(|part| name.contains(part));
        if !rotated || self.layout.family != Family::Llama {
            return row;
        }
        let (d, within) = (self.layout.head_dim, row % self.layout.head_dim);
        let (half, pair) = (within / (d / 2), within % (d / 2));
        row - within + 2 * pair + half
    }
}

/// One tensor's bytes, row by row.
struct Tensor<'a> {
    kind: GgmlDType,
    width: usize,
    bytes: &'a [u8],
}

impl<'a> Tensor<'a> {
    fn of(
        info: &candle_core::quantized::gguf_file::TensorInfo,
        content: &Content,
        map: &'a [u8],
    ) -> Self {
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

/// What a tensor is called here.
fn gguf_name(name: &str) -> String {
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

/// The metadata, read for a configuration.
struct Metadata<'a> {
    content: &'a Content,
    /// What each frequency is divided by.
    factors: Option<Vec<f32>>,
}

impl Metadata<'_> {
    fn config_json(&self) -> Result<Map<String, Json>, EngineError> {
        let arch = self.text("general.architecture")?;
        let mut json = match arch.as_str() {
            "gpt2" => self.gpt2()?,
            "llama" => self.llama_like(Family::Llama, &arch)?,
            "qwen2" => self.llama_like(Family::Qwen2, &arch)?,
            "qwen3" => self.llama_like(Family::Qwen3, &arch)?,
            other => {
                return Err(EngineError::Unsupported(format!(
                    "general.architecture: {other} is not one of gpt2, llama, qwen2, qwen3"
                )));
            }
        };
        json.insert("vocab_size".into(), self.rows("token_embd.weight")?.into());
        let tied = !self.content.tensor_infos.contains_key("output.weight");
        json.insert("tie_word_embeddings".into(), tied.into());
        for (key, id) in [
            ("bos_token_id", "tokenizer.ggml.bos_token_id"),
            ("eos_token_id", "tokenizer.ggml.eos_token_id"),
            ("pad_token_id", "tokenizer.ggml.padding_token_id"),
        ] {
            if let Some(id) = self.optional_size(id)? {
                json.insert(key.into(), id.into());
            }
        }
        Ok(json)
    }

    fn gpt2(&self) -> Result<Map<String, Json>, EngineError> {
        let size = |key: &str| self.size(&format!("gpt2.{key}"));
        object(json!({
            "architectures": [Family::Gpt2.class_name()],
            "model_type": "gpt2",
            "activation_function": "gelu_new",
            "n_embd": size("embedding_length")?,
            "n_inner": size("feed_forward_length")?,
            "n_layer": size("block_count")?,
            "n_head": size("attention.head_count")?,
            "n_positions": size("context_length")?,
            "layer_norm_epsilon": self.number("gpt2.attention.layer_norm_epsilon")?,
        }))
    }

    fn llama_like(&self, family: Family, arch: &str) -> Result<Map<String, Json>, EngineError> {
        let key = |key: &str| format!("{arch}.{key}");
        let size = |name: &str| self.size(&key(name));
        let unsupported = |name: &str, why: String| {
            Err(EngineError::Unsupported(format!("{}: {why}", key(name))))
        };
        if let Some(experts) = self.optional_size(&key("expert_count"))?.filter(|&n| n > 0) {
            return unsupported(
                "expert_count",
                format!("{experts} is not supported, only 0"),
            );
        }
        let (hidden, heads) = (size("embedding_length")?, size("attention.head_count")?);
        let head_dim = match self.optional_size(&key("attention.key_length"))? {
            Some(dim) => dim,
            None if heads > 0 => hidden / heads,
            None => 0,
        };
        if let Some(rotated) = self.optional_size(&key("rope.dimension_count"))?
            && rotated != head_dim
        {
            let why = format!("{rotated} is not supported, only the head's width {head_dim}");
            return unsupported("rope.dimension_count", why);
        }
        let theta = self.optional_number(&key("rope.freq_base"))?;
        let mut json = object(json!({
            "architectures": [family.class_name()],
            "model_type": arch,
            "hidden_act": "silu",
            "hidden_size": hidden,
            "intermediate_size": size("feed_forward_length")?,
            "num_hidden_layers": size("block_count")?,
            "num_attention_heads": heads,
            "num_key_value_heads":
                self.optional_size(&key("attention.head_count_kv"))?.unwrap_or(heads),
            "head_dim": head_dim,
            "max_position_embeddings": size("context_length")?,
            "rms_norm_eps": self.number(&key("attention.layer_norm_rms_epsilon"))?,
            "rope_theta": theta.unwrap_or(10_000.0),
            "attention_bias": self.content.tensor_infos.contains_key("blk.0.attn_q.bias"),
            "mlp_bias": self.content.tensor_infos.contains_key("blk.0.ffn_up.bias"),
        }))?;
        if let Some(scaling) = self.rope_scaling(arch)? {
            json.insert("rope_scaling".into(), scaling);
        }
        if let Some(window) = self
            .optional_size(&key("attention.sliding_window"))?
            .filter(|&n| n > 0)
        {
            json.insert("sliding_window".into(), window.into());
            json.insert("use_sliding_window".into(), true.into());
        }
        Ok(json)
    }

    /// Llama 3.1 and 3.2 come with a tensor of factors, the greatest of which, that of the slowest frequencies, is the
    /// rule's; [`Gguf::check_factors`] sees that the others follow from it.
    fn rope_scaling(&self, arch: &str) -> Result<Option<Json>, EngineError> {
        let kind = format!("{arch}.rope.scaling.type");
        if let Some(factors) = &self.factors {
            let greatest = factors.iter().copied().fold(1.0, f32::max);
            return Ok(Some(json!({
                "rope_type": "llama3", "factor": greatest, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            })));
        }
        match self.content.metadata.get(&kind) {
            None => Ok(None),
            Some(_) => Ok(match self.text(&kind)?.as_str() {
                "none" => None,
                other => Some(json!({
                    "rope_type": other,
                    "factor": self.number(&format!("{arch}.rope.scaling.factor"))?,
                })),
            }),
        }
    }

    /// Rows of a tensor.
    fn rows(&self, tensor: &str) -> Result<usize, EngineError> {
        let info = self.content.tensor_infos.get(tensor);
        info.and_then(|info| info.shape.dims().first().copied())
            .ok_or_else(|| EngineError::Invalid(format!("tensor {tensor} is missing")))
    }

    fn text(&self, key: &str) -> Result<String, EngineError> {
        match self.content.metadata.get(key) {
            Some(Value::String(text)) => Ok(text.clone()),
            other => Err(wrong(key, other, "text")),
        }
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>, EngineError> {
        let Some(value) = self.content.metadata.get(key) else {
            return Ok(None);
        };
        let size = match *value {
            Value::I8(v) => u64::try_from(v).ok(),
            Value::I16(v) => u64::try_from(v).ok(),
            Value::I32(v) => u64::try_from(v).ok(),
            Value::I64(v) => u64::try_from(v).ok(),
            Value::Bool(_) => None,
            _ => value.to_u64().ok(),
        };
        size.and_then(|size| usize::try_from(size).ok())
            .map(Some)
            .ok_or_else(|| wrong(key, Some(value), "a whole number"))
    }

    fn size(&self, key: &str) -> Result<usize, EngineError> {
        self.optional_size(key)?
            .ok_or_else(|| wrong(key, None, "a whole number"))
    }

    fn optional_number(&self, key: &str) -> Result<Option<f64>, EngineError> {
        match self.content.metadata.get(key) {
            None => Ok(None),
            // The shortest decimal that the float stands for: 1e-5, not 9.999999747378752e-6.
            Some(Value::F32(v)) => Ok(v.to_string().parse().ok()),
            Some(Value::F64(v)) => Ok(Some(*v)),
            other => Err(wrong(key, other, "a number")),
        }
    }

    fn number(&self, key: &str) -> Result<f64, EngineError> {
        self.optional_number(key)?
            .ok_or_else(|| wrong(key, None, "a number"))
    }
}

fn wrong(key: &str, found: Option<&Value>, wanted: &str) -> EngineError {
    EngineError::Invalid(match found {
        None => format!("{key}: missing"),
        Some(value) => format!("{key}: {value:?} is not {wanted}"),
    })
}

fn object(json: Json) -> Result<Map<String, Json>, EngineError> {
    match json {
        Json::Object(map) => Ok(map),
        other => Err(EngineError::Invalid(format!("{other} is no object"))),
    }
}
