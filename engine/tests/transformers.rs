//! The engine against Hugging Face transformers over many configurations: a small part of what
//! `engine/peers/transformers_logits.py` compares, which has written `fixtures/transformers.json`. The weights are made of
//! the tensors' names here as they are there, so that the file holds configurations and logits alone.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{Device, Tensor};
use inferbench_engine::config::ModelConfig;
use inferbench_engine::{Engine, Format, LoadOptions, Parallel, Processor, Weights};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    config: Value,
    /// By dtype and the prompt's length the logits of transformers, in f32 on the weights as they are rounded to the type.
    expected: BTreeMap<String, BTreeMap<usize, Vec<f32>>>,
}

/// The largest error over the largest logit that is rounding in f32, in the sums and in the frequencies of positions.
const EXACT: f64 = 3e-5;

/// From 0 to 1 in steps of 2⁻²⁴: SplitMix64 from the name's FNV-1a hash on.
fn noise(name: &str) -> impl Iterator<Item = f32> {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (1_u64..).map(move |at| {
        let mut x = seed.wrapping_add(at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        (x >> 40) as f32 / 16_777_216.0
    })
}

/// From −¼ to ¼; norms around 1, but for Gemma's, which add 1 themselves.
fn weight(name: &str, shape: &[usize], gemma: bool) -> Tensor {
    let norm = name.ends_with("weight") && (name.contains("norm") || name.contains(".ln_"));
    let centre = if norm && !gemma { 1.0 } else { 0.0 };
    let values = noise(name).map(|u| centre + (u * 2.0 - 1.0) / 4.0);
    let values: Vec<f32> = values.take(shape.iter().product()).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn prompt(vocab: usize, length: usize) -> Vec<u32> {
    let ids = noise("prompt").map(|u| (f64::from(u) * vocab as f64) as u32);
    ids.take(length).collect()
}

/// Writes the model as transformers would have saved it.
fn write(case: &Case, folder: &Path) {
    let config = ModelConfig::parse(&case.config.to_string()).unwrap();
    let gemma = case.config["model_type"] == "gemma3_text";
    inferbench_engine::save(&Weights::Random { config, seed: 1 }, Format::F32, folder).unwrap();
    let file = folder.join("model.safetensors");
    let made = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    let tensors: HashMap<String, Tensor> = made
        .iter()
        .map(|(name, tensor)| (name.clone(), weight(name, tensor.dims(), gemma)))
        .collect();
    candle_core::safetensors::save(&tensors, &file).unwrap();
    std::fs::write(folder.join("config.json"), case.config.to_string()).unwrap();
}

fn error(found: &[f32], wanted: &[f32]) -> f64 {
    let largest = |values: &mut dyn Iterator<Item = f32>| {
        values.fold(0.0_f64, |most, value| most.max(f64::from(value.abs())))
    };
    assert_eq!(found.len(), wanted.len());
    let apart = largest(&mut found.iter().zip(wanted).map(|(f, w)| f - w));
    assert!(found.iter().all(|logit| logit.is_finite()));
    apart / largest(&mut wanted.iter().copied())
}

#[test]
fn every_configuration_is_computed_as_transformers_does() {
    let fixture: Fixture =
        serde_json::from_str(include_str!("fixtures/transformers.json")).unwrap();
    assert!(fixture.cases.len() > 50, "{}", fixture.cases.len());
    let mut wrong = Vec::new();
    for case in &fixture.cases {
        let folder = tempfile::tempdir().unwrap();
        write(case, folder.path());
        let vocab = case.config["vocab_size"].as_u64().unwrap() as usize;
        for (dtype, expected) in &case.expected {
            let formats = [Format::F32, Format::BF16, Format::F16];
            let format = formats.into_iter().find(|of| of.to_string() == *dtype);
            let longest = expected.keys().max().copied().unwrap_or(1);
            let options = LoadOptions {
                dtype: format.unwrap(),
                processor: Processor::Cpu,
                parallel: Parallel::ONE,
                max_batch: 1,
                max_seq: longest,
            };
            let path = folder.path().to_owned();
            let mut engine = Engine::load(&Weights::Path(path), &options).unwrap();
            for (length, wanted) in expected {
                let found = engine.last_logits(&[prompt(vocab, *length)]).unwrap();
                let error = error(&found[0], wanted);
                if error > EXACT {
                    wrong.push(format!("{}, {dtype}, {length} ids: {error:.1e}", case.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
