//! The engine against Hugging Face transformers, and against itself: what must not change a result.
//!
//! `fixtures/` is made by `fixtures/make.py`.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use inferbench_engine::presets::preset;
use inferbench_engine::{
    Engine, EngineError, Format, LoadOptions, Parallel, Processor, Weights, size,
};
use serde::Deserialize;

const OWN: [&str; 5] = ["gpt2", "llama", "mistral", "qwen2", "qwen3"];
const REFERENCE: [&str; 2] = ["gemma3", "phi3"];
const TINY: [&str; 5] = [
    "tiny-gpt2",
    "tiny-llama",
    "tiny-mistral",
    "tiny-qwen2",
    "tiny-qwen3",
];

#[derive(Deserialize)]
struct Expected {
    params: u64,
    prompts: Vec<Vec<u32>>,
    logits: Vec<Vec<f32>>,
    greedy: Vec<Vec<u32>>,
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

fn options(world_size: usize, max_seq: usize) -> LoadOptions {
    LoadOptions {
        dtype: Format::F32,
        processor: Processor::Cpu,
        parallel: Parallel::tensor(world_size),
        max_batch: 8,
        max_seq,
    }
}

fn random(name: &str, world_size: usize) -> Engine {
    let weights = Weights::Random {
        config: preset(name).unwrap(),
        seed: 42,
    };
    Engine::load(&weights, &options(world_size, 64)).unwrap()
}

fn prompts(batch: usize, len: usize) -> Vec<Vec<u32>> {
    (0..batch)
        .map(|b| {
            (0..len)
                .map(|i| ((b * 131 + i * 37 + 11) % 509) as u32)
                .collect()
        })
        .collect()
}

#[track_caller]
fn assert_close(got: &[Vec<f32>], wanted: &[Vec<f32>], tolerance: f32, what: &str) {
    assert_eq!(got.len(), wanted.len(), "{what}: rows");
    for (row, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        assert_eq!(got.len(), wanted.len(), "{what}: logits of row {row}");
        for (i, (g, w)) in got.iter().zip(wanted).enumerate() {
            assert!(
                (g - w).abs() <= tolerance,
                "{what}: row {row}, logit {i}: {g}, wanted {w}"
            );
        }
    }
}

/// The wanted values are themselves some way from zero and from each other, so that closeness means
/// something.
#[test]
fn logits_and_greedy_ids_are_those_of_transformers() {
    for name in OWN.iter().chain(&REFERENCE) {
        let dir = fixture(name);
        let text = std::fs::read_to_string(dir.join("expected.json")).unwrap();
        let expected: Expected = serde_json::from_str(&text).unwrap();
        let mut engine = Engine::load(&Weights::Path(dir), &options(1, 64)).unwrap();
        let info = engine.info();
        assert_eq!(info.params, expected.params, "{name}");
        let mode = if REFERENCE.contains(name) {
            "reference"
        } else {
            "eager"
        };
        assert_eq!(info.mode, mode, "{name}");
        let logits = engine.last_logits(&expected.prompts).unwrap();
        assert_close(&logits, &expected.logits, 1e-4, name);
        let n = expected.greedy[0].len();
        let made = engine.generate(&expected.prompts, n).unwrap();
        assert_eq!(made.ids, expected.greedy, "{name}");
        assert_eq!(made.step_ends.len(), n, "{name}");
        assert!(made.step_ends.is_sorted(), "{name}");
    }
}

/// Trained-like biases, GQA and padding meet tensor parallelism here: the fixtures' heads allow two.
#[test]
fn two_ranks_give_the_logits_of_transformers() {
    for name in OWN {
        let dir = fixture(name);
        let text = std::fs::read_to_string(dir.join("expected.json")).unwrap();
        let expected: Expected = serde_json::from_str(&text).unwrap();
        let mut engine = Engine::load(&Weights::Path(dir), &options(2, 64)).unwrap();
        let logits = engine.last_logits(&expected.prompts).unwrap();
        assert_close(&logits, &expected.logits, 1e-4, name);
    }
}

#[test]
fn tensor_parallel_two_three_and_four_are_one() {
    let prompts = prompts(3, 17);
    for name in TINY {
        let mut one = random(name, 1);
        let logits = one.last_logits(&prompts).unwrap();
        let made = one.generate(&prompts, 9).unwrap();
        for world in [2, 3, 4, 12] {
            let mut engine = random(name, world);
            let what = format!("{name} on {world}");
            assert_close(&engine.last_logits(&prompts).unwrap(), &logits, 1e-5, &what);
            let parallel = engine.generate(&prompts, 9).unwrap();
            assert_eq!(parallel.ids, made.ids, "{what}");
        }
    }
}

/// Fewer key and value heads than ranks, and a feed-forward width that the ranks do not divide.
#[test]
fn replicated_heads_and_padded_widths_change_nothing() {
    let mut json = preset("tiny-qwen3").unwrap().to_json();
    json["num_key_value_heads"] = 2.into();
    json["intermediate_size"] = 263.into();
    let config = inferbench_engine::config::ModelConfig::parse(&json.to_string()).unwrap();
    let weights = Weights::Random { config, seed: 5 };
    let prompts = prompts(2, 12);
    let mut one = Engine::load(&weights, &options(1, 64)).unwrap();
    let logits = one.last_logits(&prompts).unwrap();
    for world in [2, 4, 8] {
        let mut engine = Engine::load(&weights, &options(world, 64)).unwrap();
        let what = format!("{world} ranks");
        assert_close(&engine.last_logits(&prompts).unwrap(), &logits, 1e-5, &what);
    }
    assert!(matches!(
        Engine::load(&weights, &options(3, 64)),
        Err(EngineError::Unsupported(_))
    ));
}

#[test]
fn cached_decode_is_full_recomputation() {
    for name in TINY {
        let mut engine = random(name, 1);
        let mut prompts = prompts(2, 7);
        let made = engine.generate(&prompts, 10).unwrap();
        for step in 0..10 {
            let whole = engine.generate(&prompts, 1).unwrap();
            for (row, prompt) in prompts.iter_mut().enumerate() {
                assert_eq!(
                    whole.ids[row][0], made.ids[row][step],
                    "{name}, step {step}"
                );
                prompt.push(made.ids[row][step]);
            }
        }
    }
}

#[test]
fn a_row_of_a_batch_is_that_row_alone() {
    for name in TINY {
        let mut engine = random(name, 1);
        let prompts = prompts(5, 13);
        let together = engine.last_logits(&prompts).unwrap();
        let made = engine.generate(&prompts, 6).unwrap();
        for (row, prompt) in prompts.iter().enumerate() {
            let alone = engine.last_logits(std::slice::from_ref(prompt)).unwrap();
            assert_close(&alone, &together[row..=row], 1e-5, name);
            let alone = engine.generate(std::slice::from_ref(prompt), 6).unwrap();
            assert_eq!(alone.ids[0], made.ids[row], "{name}");
        }
    }
}

#[test]
fn a_prompt_in_chunks_is_the_prompt_whole() {
    let prompts = prompts(4, 30);
    for name in TINY {
        let mut engine = random(name, 1);
        let whole = engine.last_logits(&prompts).unwrap();
        let made = engine.generate(&prompts, 4).unwrap();
        // One position, part of a sequence, one sequence, two sequences, three and one.
        for rows in [1, 7, 30, 60, 90] {
            engine.set_prefill_rows(rows);
            let what = format!("{name} in {rows}");
            assert_close(&engine.last_logits(&prompts).unwrap(), &whole, 1e-5, &what);
            assert_eq!(
                engine.generate(&prompts, 4).unwrap().ids,
                made.ids,
                "{what}"
            );
        }
    }
}

/// On a CPU: what is computed with the weights as they are stored in 16 bits is what f32 makes of them, however long the
/// prompt is. The whole difference from the model in f32 is that of its weights.
#[test]
fn half_precision_rounds_the_weights_and_nothing_else() {
    for name in TINY {
        let config = preset(name).unwrap();
        let longest = config.max_sequence().min(config.max_prompt()) - 4;
        let weights = Weights::Random { config, seed: 42 };
        for dtype in [Format::BF16, Format::F16] {
            let dir = tempfile::tempdir().unwrap();
            inferbench_engine::save(&weights, dtype, dir.path()).unwrap();
            let rounded = Weights::Path(dir.path().to_owned());
            for input in [12, longest] {
                let prompts = prompts(2, input);
                let logits = |weights: &Weights, dtype| {
                    let mut options = options(1, input + 4);
                    options.dtype = dtype;
                    let mut engine = Engine::load(weights, &options).unwrap();
                    let ids = engine.generate(&prompts, 3).unwrap().ids;
                    (engine.last_logits(&prompts).unwrap(), ids)
                };
                let what = format!("{name} in {dtype}, {input} ids");
                let (half, ids) = logits(&weights, dtype);
                let (full, full_ids) = logits(&rounded, Format::F32);
                assert_close(&half, &full, 1e-5, &what);
                assert_eq!(ids, full_ids, "{what}");
                // Three decimal digits of logits whose spread is about 0.2.
                assert_close(&half, &logits(&weights, Format::F32).0, 0.02, &what);
            }
        }
    }
}

#[test]
fn a_saved_model_is_the_same_model() {
    let prompts = prompts(2, 9);
    for name in TINY {
        let dir = tempfile::tempdir().unwrap();
        let weights = Weights::Random {
            config: preset(name).unwrap(),
            seed: 42,
        };
        inferbench_engine::save(&weights, Format::F32, dir.path()).unwrap();
        let stored = Weights::Path(dir.path().to_owned());
        for world in [1, 3] {
            let wanted = random(name, world).last_logits(&prompts).unwrap();
            let mut engine = Engine::load(&stored, &options(world, 64)).unwrap();
            assert_eq!(engine.last_logits(&prompts).unwrap(), wanted, "{name}");
        }
    }
}

#[test]
fn logits_of_random_models_are_finite_and_spread() {
    for name in TINY {
        let logits = random(name, 1).last_logits(&prompts(2, 40)).unwrap();
        for row in logits {
            assert!(row.iter().all(|v| v.is_finite()), "{name}");
            let max = row.iter().copied().fold(f32::MIN, f32::max);
            let min = row.iter().copied().fold(f32::MAX, f32::min);
            assert!(
                max - min > 0.1 && max - min < 100.0,
                "{name}: {min} to {max}"
            );
        }
    }
}

#[test]
fn errors_name_file_tensor_and_shapes() {
    let dir = tempfile::tempdir().unwrap();
    let weights = Weights::Random {
        config: preset("tiny-llama").unwrap(),
        seed: 1,
    };
    inferbench_engine::save(&weights, Format::F16, dir.path()).unwrap();
    let file = dir.path().join("config.json");
    let load = || match Engine::load(&Weights::Path(dir.path().to_owned()), &options(1, 64)) {
        Ok(_) => panic!("loaded all the same"),
        Err(error) => error.to_string(),
    };
    let mut json = preset("tiny-llama").unwrap().to_json();
    json["intermediate_size"] = 300.into();
    std::fs::write(&file, json.to_string()).unwrap();
    let error = load();
    for part in ["model.safetensors", "gate_proj", "[264, 96]", "[300, 96]"] {
        assert!(error.contains(part), "{error}");
    }
    json["intermediate_size"] = 264.into();
    json["num_hidden_layers"] = 4.into();
    std::fs::write(&file, json.to_string()).unwrap();
    let error = load();
    assert!(error.contains("model.layers.3."), "{error}");
    assert!(error.contains("is missing"), "{error}");
    std::fs::write(dir.path().join("model.safetensors"), b"no such thing").unwrap();
    assert!(load().contains("model.safetensors"));
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    assert!(load().contains("no *.safetensors file"));
    std::fs::remove_file(&file).unwrap();
    assert!(load().contains("config.json"));
}

/// A saved model of a preset, its configuration and its tensors changed.
struct Changed {
    dir: tempfile::TempDir,
    json: serde_json::Value,
    tensors: HashMap<String, Tensor>,
}

impl Changed {
    fn of(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = preset(name).unwrap();
        let json = config.to_json();
        let weights = Weights::Random { config, seed: 1 };
        inferbench_engine::save(&weights, Format::F32, dir.path()).unwrap();
        let file = dir.path().join("model.safetensors");
        let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        Self { dir, json, tensors }
    }

    /// The first element of a tensor.
    fn set(&mut self, tensor: &str, value: f32) {
        let old = &self.tensors[tensor];
        let mut values = old.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values[0] = value;
        let new = Tensor::from_vec(values, old.shape(), &Device::Cpu).unwrap();
        self.tensors.insert(tensor.into(), new);
    }

    fn add(&mut self, tensor: &str, shape: &[usize]) {
        let zeros = Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        self.tensors.insert(tensor.into(), zeros);
    }

    fn load(&self, dtype: Format) -> Result<Engine, EngineError> {
        let file = self.dir.path().join("model.safetensors");
        candle_core::safetensors::save(&self.tensors, file).unwrap();
        let file = self.dir.path().join("config.json");
        std::fs::write(file, self.json.to_string()).unwrap();
        let mut options = options(1, 64);
        options.dtype = dtype;
        Engine::load(&Weights::Path(self.dir.path().to_owned()), &options)
    }

    fn logits(&self) -> Vec<Vec<f32>> {
        let mut engine = self.load(Format::F32).unwrap();
        engine.last_logits(&prompts(2, 9)).unwrap()
    }

    #[track_caller]
    fn refused(&self, parts: &[&str]) {
        let error = match self.load(Format::F32) {
            Ok(_) => panic!("loaded all the same"),
            Err(error) => error.to_string(),
        };
        for part in parts {
            assert!(error.contains(part), "{error}");
        }
    }
}

#[test]
fn every_tensor_of_a_file_is_read_harmless_or_refused() {
    let mut llama = Changed::of("tiny-llama");
    let wanted = llama.logits();
    // As the first Llamas and GPT-2s carry them.
    llama.add("model.layers.0.self_attn.rotary_emb.inv_freq", &[4]);
    assert_eq!(llama.logits(), wanted);
    llama.add("model.layers.0.self_attn.q_proj.bias", &[192]);
    llama.refused(&[
        "model.safetensors",
        "model.layers.0.self_attn.q_proj.bias",
        "LlamaForCausalLM",
    ]);
    llama.tensors.remove("model.layers.0.self_attn.q_proj.bias");
    llama.add("model.layers.3.input_layernorm.weight", &[96]);
    llama.refused(&["model.layers.3.input_layernorm.weight", "not one of"]);

    let mut gpt2 = Changed::of("tiny-gpt2");
    let wanted = gpt2.logits();
    gpt2.add("transformer.h.0.attn.bias", &[1, 1, 256, 256]);
    gpt2.add("transformer.h.0.attn.masked_bias", &[1]);
    assert_eq!(gpt2.logits(), wanted);
    gpt2.add("transformer.h.1.attn.extra", &[1]);
    gpt2.add("score.weight", &[2, 96]);
    gpt2.refused(&["score.weight (and 1 more)"]);
}

/// transformers would use the head, as it is stored.
#[test]
fn a_tied_head_is_the_embedding_or_refused() {
    let mut model = Changed::of("tiny-qwen2");
    let wanted = model.logits();
    let embedding = model.tensors["model.embed_tokens.weight"].clone();
    model.tensors.insert("lm_head.weight".into(), embedding);
    assert_eq!(model.logits(), wanted);
    model.set("lm_head.weight", 0.5);
    model.refused(&[
        "tie_word_embeddings: true",
        "lm_head.weight",
        "model.embed_tokens.weight",
    ]);
    model.json["tie_word_embeddings"] = false.into();
    assert_ne!(model.logits(), wanted);
}

/// Its biases do not hang on the flag.
#[test]
fn qwen2_has_its_biases_whatever_is_said() {
    let mut model = Changed::of("tiny-qwen2");
    let wanted = model.logits();
    for flag in [false, true] {
        model.json["attention_bias"] = flag.into();
        assert_eq!(model.logits(), wanted);
    }
}

#[test]
fn sizes_without_tensors_are_refused_before_anything_is_built() {
    let mut model = Changed::of("tiny-llama");
    for (layers, parts) in [
        (4_294_967_295u32, ["num_hidden_layers: 4294967295", "4096"]),
        (100_000_000, ["num_hidden_layers: 100000000", "4096"]),
        (
            4000,
            ["4000 layers, and the file holds 3", "model.layers.3."],
        ),
    ] {
        model.json["num_hidden_layers"] = layers.into();
        let start = std::time::Instant::now();
        model.refused(&parts);
        assert!(start.elapsed().as_secs() < 10);
    }
    // Far too great for any memory, and for the file above all.
    model.json["num_hidden_layers"] = 3.into();
    model.json["intermediate_size"] = 1_000_000.into();
    model.refused(&["gate_proj", "[264, 96]", "[1000000, 96]"]);
}

#[test]
fn weights_that_are_no_numbers_are_told() {
    for value in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
        for name in [
            "model.layers.1.mlp.down_proj.weight",
            "model.norm.weight",
            "model.embed_tokens.weight",
        ] {
            let mut model = Changed::of("tiny-llama");
            model.set(name, value);
            model.refused(&[&format!("tensor {name}: row 0 holds an infinity or a NaN")]);
        }
    }
    let mut model = Changed::of("tiny-gpt2");
    model.set("transformer.h.0.mlp.c_fc.weight", f32::INFINITY);
    model.refused(&["tensor transformer.h.0.mlp.c_fc.weight"]);
    // A number in one type, and none in another.
    let mut model = Changed::of("tiny-llama");
    model.set("model.norm.weight", 1e6);
    assert!(model.load(Format::F32).is_ok() && model.load(Format::BF16).is_ok());
    let error = model.load(Format::F16).err().unwrap().to_string();
    assert!(
        error.contains("model.norm.weight") && error.contains("in f16"),
        "{error}"
    );
    model.set("model.layers.0.mlp.up_proj.weight", f32::NAN);
    let error = model.load(Format::Q8_0).err().unwrap().to_string();
    assert!(
        error.contains("up_proj") || error.contains("model.norm.weight"),
        "{error}"
    );
}

#[test]
fn calls_beyond_what_was_loaded_are_refused_and_do_no_harm() {
    let mut engine = random("tiny-gpt2", 2);
    let good = prompts(2, 5);
    let wanted = engine.generate(&good, 3).unwrap().ids;
    let cases = [
        (vec![], 1, "no prompts"),
        (vec![vec![]], 1, "0 ids"),
        (vec![vec![1, 2], vec![1]], 1, "prompt 1 has 1 ids"),
        (vec![vec![1, 509]], 1, "id 509"),
        (prompts(9, 2), 1, "9 prompts"),
        (prompts(1, 60), 5, "60 ids and 5 new"),
        (prompts(1, 5), 0, "0 new ids"),
    ];
    for (prompts, n, message) in cases {
        let error = engine.generate(&prompts, n).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    assert_eq!(engine.generate(&good, 3).unwrap().ids, wanted);
}

#[test]
fn what_cannot_fit_is_out_of_memory_before_anything_is_loaded() {
    let weights = Weights::Random {
        config: preset("llama3-70b").unwrap(),
        seed: 1,
    };
    let mut options = options(1, 8192);
    options.max_batch = 1_000_000;
    match Engine::load(&weights, &options) {
        Err(EngineError::OutOfMemory(reason)) => assert!(reason.contains("MiB needed"), "{reason}"),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("loaded 20 petabytes"),
    }
}

/// A caller may load on one thread and time on another.
#[test]
fn an_engine_moves_between_threads() {
    let mut engine = random("tiny-gpt2", 2);
    let here = engine.generate(&prompts(1, 4), 3).unwrap().ids;
    let there = std::thread::spawn(move || engine.generate(&prompts(1, 4), 3).unwrap().ids);
    assert_eq!(there.join().unwrap(), here);
}

#[test]
fn impossible_combinations_are_unsupported() {
    let config = preset("gpt2").unwrap();
    let of = |config: &_, world, input, output, format| {
        size::unsupported(config, Parallel::tensor(world), input, output, format)
    };
    let reason = |world, input, output, dtype| of(&config, world, input, output, dtype);
    assert_eq!(reason(4, 512, 512, Format::F32), None);
    assert_eq!(
        reason(8, 16, 16, Format::BF16).unwrap(),
        "12 heads are not divisible by 8"
    );
    assert!(reason(1, 512, 513, Format::F32).unwrap().contains("1024"));
    assert!(reason(0, 1, 1, Format::F32).is_some());
    let gemma = Weights::Path(fixture("gemma3")).config().unwrap();
    let two = of(&gemma, 2, 1, 1, Format::F32);
    assert!(two.unwrap().contains("one device only"));
    let long = of(&gemma, 1, 25, 1, Format::F32);
    assert!(long.unwrap().contains("attention window of 24"));
    assert_eq!(of(&gemma, 1, 24, 40, Format::F32), None);
    let quantized = of(&gemma, 1, 1, 1, Format::Q8_0);
    assert!(quantized.unwrap().contains("f32, bf16 and f16 only"));
    let tiny = preset("tiny-gpt2").unwrap();
    let narrow = of(&tiny, 2, 1, 1, Format::Q4_0);
    assert_eq!(
        narrow.unwrap(),
        "the heads' width per rank of 48 is not divisible by q4_0's blocks of 32"
    );
}
