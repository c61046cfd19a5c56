//! Whole models on a GPU, against the CPU. Without a GPU each of these tests says so and ends, or fails where
//! `INFERBENCH_REQUIRE_GPU` is set.
#![cfg(feature = "cuda")]

use candle_core::{DType, Device, Tensor};
use inferbench_engine::{
    Backend, Engine, EngineError, Format, LoadOptions, Weights, gpu, presets, tokenizer,
};

/// Whether there is a GPU; else a word that there is none.
fn there_is_one(test: &str) -> bool {
    match gpu::find(1) {
        Ok(_) => true,
        Err(why) => {
            let required = std::env::var_os("INFERBENCH_REQUIRE_GPU").is_some();
            assert!(!required, "{test}: {why}");
            eprintln!("{test} skipped: {why}");
            false
        }
    }
}

fn load(
    preset: &str,
    backend: Backend,
    dtype: Format,
    (max_batch, max_seq): (usize, usize),
) -> Result<Engine, EngineError> {
    let config = presets::preset(preset).expect("a known name");
    let options = LoadOptions {
        dtype,
        backend,
        world_size: 1,
        max_batch,
        max_seq,
    };
    Engine::load(&Weights::Random { config, seed: 7 }, &options)
}

fn prompts(preset: &str, batch: usize, input: usize) -> Vec<Vec<u32>> {
    let config = presets::preset(preset).expect("a known name");
    tokenizer::prompts(None, &config, batch, input, 3).unwrap()
}

/// The share of logits' scale by which the GPU's may differ from f32's on the CPU: the root mean square of differences over
/// that of the logits' deviations from their mean.
fn distance(got: &[Vec<f32>], want: &[Vec<f32>]) -> f64 {
    let (mut differences, mut scale) = (0.0, 0.0);
    for (got, want) in got.iter().zip(want) {
        assert_eq!(got.len(), want.len());
        let mean = want.iter().map(|&x| f64::from(x)).sum::<f64>() / want.len() as f64;
        for (&got, &want) in got.iter().zip(want) {
            differences += (f64::from(got) - f64::from(want)).powi(2);
            scale += (f64::from(want) - mean).powi(2);
        }
    }
    (differences / scale).sqrt()
}

#[test]
fn logits_are_those_of_the_cpu() {
    if !there_is_one("logits_are_those_of_the_cpu") {
        return;
    }
    for preset in ["tiny-gpt2", "tiny-llama", "gpt2"] {
        let input = prompts(preset, 3, 21);
        let limits = (3, 64);
        let want = load(preset, Backend::Cpu, Format::F32, limits)
            .and_then(|mut engine| engine.last_logits(&input))
            .unwrap();
        // Twelve layers, each rounding to 8 or 11 bits of a number several times.
        for (dtype, bound) in [
            (Format::F32, 1e-4),
            (Format::BF16, 5e-2),
            (Format::F16, 1e-2),
        ] {
            let mut engine = load(preset, Backend::Cuda, dtype, limits).unwrap();
            let off = distance(&engine.last_logits(&input).unwrap(), &want);
            assert!(off < bound, "{preset} in {dtype}: {off}, at most {bound}");
            println!("{preset} in {dtype}: logits differ by {off:.1e} of their deviation");
            // In parts, so that the cache is read across them.
            engine.set_prefill_rows(8);
            let off = distance(&engine.last_logits(&input).unwrap(), &want);
            assert!(off < bound, "{preset} in {dtype}, in parts: {off}");
        }
    }
}

#[test]
fn quantized_weights_are_multiplied_as_on_the_cpu() {
    if !there_is_one("quantized_weights_are_multiplied_as_on_the_cpu") {
        return;
    }
    for (dtype, batch, input) in [
        (Format::Q8_0, 1, 1),
        (Format::Q8_0, 3, 1),
        (Format::Q8_0, 2, 40),
        (Format::Q4_0, 1, 1),
        (Format::Q4_0, 1, 40),
    ] {
        let prompts = prompts("gpt2", batch, input);
        let logits = |backend| {
            load("gpt2", backend, dtype, (3, 64))
                .and_then(|mut engine| engine.last_logits(&prompts))
                .unwrap()
        };
        let off = distance(&logits(Backend::Cuda), &logits(Backend::Cpu));
        // Some of candle's kernels round activations to 8 bits; what did not run would be off by about 1.
        assert!(off < 5e-2, "{dtype}, batch {batch}, input {input}: {off}");
    }
}

#[test]
fn greedy_ids_are_those_of_the_cpu() {
    if !there_is_one("greedy_ids_are_those_of_the_cpu") {
        return;
    }
    for preset in ["tiny-llama", "gpt2"] {
        // Eight rows of 64 steps: where one goes astray it stays so, and the others do not.
        let (input, limits) = (prompts(preset, 8, 16), (8, 80));
        let generate = |backend| {
            let mut engine = load(preset, backend, Format::F32, limits)?;
            Ok::<_, EngineError>(engine.generate(&input, 64)?.ids)
        };
        let (cpu, gpu) = (
            generate(Backend::Cpu).unwrap(),
            generate(Backend::Cuda).unwrap(),
        );
        let pairs = cpu.iter().flatten().zip(gpu.iter().flatten());
        let equal = pairs.filter(|(cpu, gpu)| cpu == gpu).count();
        println!("{preset}: {equal} of 512 greedy ids are equal");
        assert!(equal * 100 >= 512 * 95, "{preset}: {equal} of 512");
    }
}

#[test]
fn graphs_change_nothing_but_the_time() {
    if !there_is_one("graphs_change_nothing_but_the_time") {
        return;
    }
    for preset in ["tiny-gpt2", "tiny-llama", "gpt2"] {
        let mut engine = load(preset, Backend::Cuda, Format::BF16, (5, 60)).unwrap();
        assert_eq!(engine.info().mode, "graph", "{preset}");
        let mut all = Vec::new();
        for (graphs, batch, input, n) in [
            // A shape anew, again with the graph that it left, and after another.
            (true, 3, 17, 20),
            (true, 3, 17, 20),
            (true, 5, 9, 12),
            (true, 3, 17, 20),
            (false, 3, 17, 20),
            (false, 5, 9, 12),
        ] {
            engine.set_graphs(graphs);
            assert_eq!(engine.info().mode, if graphs { "graph" } else { "eager" });
            let generation = engine.generate(&prompts(preset, batch, input), n).unwrap();
            assert_eq!(generation.step_ends.len(), n);
            assert!(generation.step_ends.is_sorted());
            all.push(generation.ids);
        }
        assert!(
            all[0] == all[1] && all[0] == all[3] && all[0] == all[4],
            "{preset}"
        );
        assert_eq!(all[2], all[5], "{preset}");
        // One id only: no step to capture.
        assert_eq!(
            engine
                .generate(&prompts(preset, 1, 4), 1)
                .unwrap()
                .ids
                .len(),
            1
        );
    }
}

#[test]
fn what_does_not_fit_is_out_of_memory_and_the_process_goes_on() {
    if !there_is_one("what_does_not_fit_is_out_of_memory_and_the_process_goes_on") {
        return;
    }
    let huge = load("gpt2", Backend::Cuda, Format::F32, (1_000_000, 1000));
    assert!(matches!(huge, Err(EngineError::OutOfMemory(_))));
    // What was not foreseen: the driver says no, and what is loaded goes on.
    let mut engine = load("tiny-llama", Backend::Cuda, Format::F32, (1, 32)).unwrap();
    let twice = 2 * gpu::find(1).unwrap()[0].memory as usize;
    let device = Device::new_cuda_with_stream(0).unwrap();
    let refused = Tensor::zeros(twice, DType::U8, &device).map_err(EngineError::from);
    assert!(matches!(refused, Err(EngineError::OutOfMemory(_))));
    let generation = engine.generate(&prompts("tiny-llama", 1, 4), 8).unwrap();
    assert_eq!(generation.ids[0].len(), 8);
}

#[test]
fn more_gpus_than_there_are_is_said() {
    if !there_is_one("more_gpus_than_there_are_is_said") {
        return;
    }
    let error = gpu::find(1000).unwrap_err();
    assert!(
        matches!(&error, EngineError::Device(why) if why.contains("1000 GPUs")),
        "{error}"
    );
}
