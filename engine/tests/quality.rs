//! Scores of continuations, against their definitions over one position after the other.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use inferbench_engine::config::ModelConfig;
use inferbench_engine::presets::preset;
use inferbench_engine::{
    Engine, EngineError, Format, LoadOptions, Parallel, Processor, Weights, save,
};

fn load(weights: &Weights, world_size: usize) -> Engine {
    let options = LoadOptions {
        dtype: Format::F32,
        processor: Processor::Cpu,
        parallel: Parallel::tensor(world_size),
        max_batch: 4,
        max_seq: 64,
    };
    Engine::load(weights, &options).unwrap()
}

fn rows(batch: usize, len: usize, salt: usize) -> Vec<Vec<u32>> {
    let id = |b, i| ((b * 31 + i * 37 + salt) % 96) as u32;
    (0..batch)
        .map(|b| (0..len).map(|i| id(b, i)).collect())
        .collect()
}

/// A model whose head is the identity, so that its logits are the last hidden states themselves.
fn transparent(name: &str, dir: &std::path::Path) -> Weights {
    let mut json = preset(name).unwrap().to_json();
    json["vocab_size"] = 96.into();
    json["tie_word_embeddings"] = false.into();
    for id in ["bos_token_id", "eos_token_id"] {
        json[id] = 1.into();
    }
    let config = ModelConfig::parse(&json.to_string()).unwrap();
    save(&Weights::Random { config, seed: 3 }, Format::F32, dir).unwrap();
    let file = dir.join("model.safetensors");
    let mut tensors: HashMap<String, Tensor> =
        candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    let identity = Tensor::eye(96, DType::F32, &Device::Cpu).unwrap();
    assert!(tensors.insert("lm_head.weight".into(), identity).is_some());
    candle_core::safetensors::save(&tensors, &file).unwrap();
    Weights::Path(dir.to_owned())
}

#[test]
fn scores_are_what_their_definitions_say() {
    for name in ["tiny-gpt2", "tiny-llama", "tiny-qwen3"] {
        let dir = tempfile::tempdir().unwrap();
        let weights = transparent(name, dir.path());
        let (prompts, continuations) = (rows(3, 11, 5), rows(3, 9, 60));
        let mut one = load(&weights, 1);
        let mut wanted = Vec::new();
        for (prompt, continuation) in prompts.iter().zip(&continuations) {
            let row = [prompt.as_slice(), continuation].concat();
            let states: Vec<Vec<f64>> = (1..=row.len())
                .map(|len| one.last_logits(&[row[..len].to_vec()]).unwrap().remove(0))
                .map(|state| state.into_iter().map(f64::from).collect())
                .collect();
            let log_p = |position: usize| {
                let state = &states[position - 1];
                let total: f64 = state.iter().map(|l| l.exp()).sum();
                (state[row[position] as usize].exp() / total).ln()
            };
            let sum: f64 = (11..20).map(log_p).sum();
            let mean = |states: &[Vec<f64>]| -> Vec<f64> {
                let count = states.len() as f64;
                let at = |i: usize| states.iter().map(|s| s[i]).sum::<f64>() / count;
                (0..96).map(at).collect()
            };
            let (a, b) = (mean(&states[..11]), mean(&states[11..]));
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let cosine = dot(&a, &b) / dot(&a, &a).sqrt() / dot(&b, &b).sqrt();
            assert!(cosine.abs() < 0.999, "{name}: too alike to tell anything");
            wanted.push((sum / 9.0, cosine));
        }
        let mut two = load(&weights, 2);
        // Whole rows together, one by one, and in parts that end before, in and after the prompt.
        for chunk in [2048, 20, 7, 1] {
            for engine in [&mut one, &mut two] {
                engine.set_prefill_rows(chunk);
                let scores = engine.score(&prompts, &continuations).unwrap();
                assert_eq!(scores.len(), 3);
                for (score, (likelihood, cosine)) in scores.iter().zip(&wanted) {
                    let what = format!("{name} by {chunk}: {score:?}, {likelihood}, {cosine}");
                    assert!(
                        (score.mean_log_likelihood - likelihood).abs() < 1e-4,
                        "{what}"
                    );
                    assert!((score.similarity - cosine).abs() < 1e-4, "{what}");
                }
            }
        }
    }
}

/// Greedy tokens are the likeliest ones, and any other is less so.
#[test]
fn greedy_continuations_are_likelier_than_others() {
    let weights = Weights::Random {
        config: preset("tiny-llama").unwrap(),
        seed: 42,
    };
    let mut engine = load(&weights, 1);
    let prompts = rows(2, 8, 1);
    let greedy = engine.generate(&prompts, 6).unwrap().ids;
    let mut other = greedy.clone();
    other[1][3] = (other[1][3] + 1) % 509;
    let (best, worse) = (
        engine.score(&prompts, &greedy).unwrap(),
        engine.score(&prompts, &other).unwrap(),
    );
    assert_eq!(best[0], worse[0]);
    assert!(best[1].mean_log_likelihood > worse[1].mean_log_likelihood);
    assert!(best[1].mean_log_likelihood > (1f64 / 509.0).ln());
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let weights = Weights::Random {
        config: preset("tiny-llama").unwrap(),
        seed: 42,
    };
    let mut engine = load(&weights, 1);
    let prompts = rows(2, 8, 1);
    for continuations in [rows(1, 4, 0), rows(2, 0, 0), rows(2, 57, 0)] {
        let error = engine.score(&prompts, &continuations).unwrap_err();
        assert!(matches!(error, EngineError::Invalid(_)), "{error}");
    }
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut phi = load(&Weights::Path(fixtures.join("phi3")), 1);
    let error = phi.score(&rows(1, 4, 0), &rows(1, 4, 0)).unwrap_err();
    assert!(matches!(error, EngineError::Unsupported(_)), "{error}");
}
