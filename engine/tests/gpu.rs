//! Whole models on a GPU, against the CPU. Without a GPU each of these tests prints that it is skipped, or fails where
//! `INFERBENCH_REQUIRE_GPU` is set.
#![cfg(feature = "cuda")]

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};
use inferbench_engine::{
    Engine, EngineError, Format, LoadOptions, Parallel, Processor, Weights, gpu, presets, size,
    tokenizer,
};

/// A GPU for one test alone, as none may wait for it while another captures a graph on it, and its free memory is
/// counted. Without a GPU it prints that the test is skipped.
fn there_is_one(test: &str) -> Option<MutexGuard<'static, ()>> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    match gpu::find(1) {
        Ok(_) => Some(alone),
        Err(why) => {
            let required = std::env::var_os("INFERBENCH_REQUIRE_GPU").is_some();
            assert!(!required, "{test}: {why}");
            eprintln!("{test} skipped: {why}");
            None
        }
    }
}

fn load(
    preset: &str,
    processor: Processor,
    dtype: Format,
    (max_batch, max_seq): (usize, usize),
) -> Result<Engine, EngineError> {
    let config = presets::preset(preset).expect("a known name");
    let options = LoadOptions {
        dtype,
        processor,
        parallel: Parallel::ONE,
        max_batch,
        max_seq,
    };
    Engine::load(&Weights::Random { config, seed: 7 }, &options)
}

fn prompts(preset: &str, batch: usize, input: usize) -> Vec<Vec<u32>> {
    let config = presets::preset(preset).expect("a known name");
    tokenizer::prompts(None, &config, batch, input, 3).unwrap()
}

/// The share of logits' scale by which the GPU's may differ from f32's on the CPU: the root mean square of differences
/// over that of the logits' deviations from their mean.
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
    let Some(_alone) = there_is_one("logits_are_those_of_the_cpu") else {
        return;
    };
    for preset in ["tiny-gpt2", "tiny-llama", "gpt2"] {
        let input = prompts(preset, 3, 21);
        let limits = (3, 64);
        let want = load(preset, Processor::Cpu, Format::F32, limits)
            .and_then(|mut engine| engine.last_logits(&input))
            .unwrap();
        // Twelve layers, each rounding to 8 or 11 bits of a number several times.
        for (dtype, bound) in [
            (Format::F32, 1e-4),
            (Format::BF16, 5e-2),
            (Format::F16, 1e-2),
        ] {
            let mut engine = load(preset, Processor::Cuda, dtype, limits).unwrap();
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
    let Some(_alone) = there_is_one("quantized_weights_are_multiplied_as_on_the_cpu") else {
        return;
    };
    for (dtype, batch, input) in [
        (Format::Q8_0, 1, 1),
        (Format::Q8_0, 3, 1),
        (Format::Q8_0, 2, 40),
        (Format::Q4_0, 1, 1),
        (Format::Q4_0, 1, 40),
    ] {
        let prompts = prompts("gpt2", batch, input);
        let logits = |processor| {
            load("gpt2", processor, dtype, (3, 64))
                .and_then(|mut engine| engine.last_logits(&prompts))
                .unwrap()
        };
        let off = distance(&logits(Processor::Cuda), &logits(Processor::Cpu));
        // Some of candle's kernels round activations to 8 bits; what did not run would be off by about 1.
        assert!(off < 5e-2, "{dtype}, batch {batch}, input {input}: {off}");
    }
}

#[test]
fn greedy_ids_are_those_of_the_cpu() {
    let Some(_alone) = there_is_one("greedy_ids_are_those_of_the_cpu") else {
        return;
    };
    for preset in ["tiny-llama", "gpt2"] {
        // Eight rows of 64 steps: where one goes astray it stays so, and the others do not.
        let (input, limits) = (prompts(preset, 8, 16), (8, 80));
        let generate = |processor| {
            let mut engine = load(preset, processor, Format::F32, limits)?;
            Ok::<_, EngineError>(engine.generate(&input, 64)?.ids)
        };
        let (cpu, gpu) = (
            generate(Processor::Cpu).unwrap(),
            generate(Processor::Cuda).unwrap(),
        );
        let pairs = cpu.iter().flatten().zip(gpu.iter().flatten());
        let equal = pairs.filter(|(cpu, gpu)| cpu == gpu).count();
        println!("{preset}: {equal} of 512 greedy ids are equal");
        assert!(equal * 100 >= 512 * 95, "{preset}: {equal} of 512");
    }
}

#[test]
fn graphs_change_nothing_but_the_time() {
    let Some(_alone) = there_is_one("graphs_change_nothing_but_the_time") else {
        return;
    };
    for (preset, dtype) in [
        ("tiny-gpt2", Format::BF16),
        ("tiny-llama", Format::BF16),
        ("gpt2", Format::BF16),
        ("gpt2", Format::Q8_0),
        ("smollm2-135m", Format::Q4_0),
    ] {
        let mut engine = load(preset, Processor::Cuda, dtype, (12, 60)).unwrap();
        assert_eq!(engine.info().mode, "graph", "{preset}");
        let mut all = Vec::new();
        for (graphs, batch, input, n) in [
            // A shape anew, again with the graph that it left, and after another.
            (true, 3, 17, 20),
            (true, 3, 17, 20),
            (true, 12, 9, 12),
            (true, 3, 17, 20),
            (false, 3, 17, 20),
            (false, 12, 9, 12),
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

/// Steps go through other kernels than prompts do: what they choose, the prompt with what was chosen so far has to find
/// best too, or as good as that.
#[test]
fn steps_choose_what_prompts_find_best() {
    let Some(_alone) = there_is_one("steps_choose_what_prompts_find_best") else {
        return;
    };
    // One sequence, a few, and many: other kernels each time.
    let (f32, bf16, f16) = (
        (Format::F32, 1e-3),
        (Format::BF16, 0.1),
        (Format::F16, 0.02),
    );
    for (preset, batch, dtypes) in [
        ("gpt2", 1, &[f32, bf16, f16][..]),
        ("gpt2", 5, &[bf16]),
        ("smollm2-135m", 1, &[f32, bf16]),
        ("smollm2-135m", 24, &[f32, bf16, f16]),
        ("qwen2.5-0.5b", 1, &[bf16]),
        ("qwen2.5-0.5b", 40, &[bf16]),
        ("tinyllama-1.1b", 20, &[bf16]),
        ("tiny-qwen3", 1, &[f32]),
        ("tiny-qwen3", 3, &[f32]),
    ] {
        for &(dtype, bound) in dtypes {
            let (input, n) = (70, 12);
            let prompts = prompts(preset, batch, input);
            let mut engine = load(preset, Processor::Cuda, dtype, (batch, input + n)).unwrap();
            let ids = engine.generate(&prompts, n).unwrap().ids;
            let mut worst = 0f32;
            for step in [1, 2, n - 1] {
                let rows = prompts.iter().zip(&ids);
                let so_far: Vec<Vec<u32>> = rows
                    .map(|(prompt, ids)| [prompt, &ids[..step]].concat())
                    .collect();
                let logits = engine.last_logits(&so_far).unwrap();
                for (logits, ids) in logits.iter().zip(&ids) {
                    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let mean = logits.iter().sum::<f32>() / logits.len() as f32;
                    let spread = logits.iter().map(|x| (x - mean).powi(2)).sum::<f32>();
                    let deviation = (spread / logits.len() as f32).sqrt();
                    worst = worst.max((best - logits[ids[step] as usize]) / deviation);
                }
            }
            println!("{preset} x {batch} in {dtype}: {worst:.1e} of the logits' deviation");
            assert!(worst < bound, "{preset} x {batch} in {dtype}: {worst}");
        }
    }
}

#[test]
fn memory_is_what_was_predicted() {
    let Some(_alone) = there_is_one("memory_is_what_was_predicted") else {
        return;
    };
    let device = Device::new_cuda_with_stream(0).unwrap();
    let free = || {
        let stream = device.as_cuda_device().unwrap().cuda_stream();
        let (free, _) = stream.context().mem_get_info().unwrap();
        free as u64
    };
    for (preset, batch, input, output) in [
        ("tinyllama-1.1b", 16, 960, 64),
        ("gpt2-xl", 8, 448, 64),
        ("tinyllama-1.1b", 1, 64, 64),
    ] {
        let limits = (batch, input + output);
        // Loading gives back what an engine before has left.
        drop(load("tiny-llama", Processor::Cuda, Format::BF16, (1, 32)).unwrap());
        let before = free();
        let mut engine = load(preset, Processor::Cuda, Format::BF16, limits).unwrap();
        engine
            .generate(&prompts(preset, batch, input), output)
            .unwrap();
        // Freed memory stays with the process: this is the peak.
        let used = before - free();
        let config = presets::preset(preset).unwrap();
        let tensors = size::memory(
            &config,
            (Format::BF16, Processor::Cuda),
            batch,
            limits.1,
            0,
            Parallel::ONE,
        )
        .peak();
        let predicted = tensors + gpu::LIBRARY_BYTES;
        let ratio = used as f64 / predicted as f64;
        println!("{preset} {batch}x{input}+{output}: {used} bytes used, {predicted} predicted");
        assert!(
            (0.9..=1.1).contains(&ratio),
            "{preset}: {ratio} of what was predicted"
        );
    }
}

#[test]
fn what_does_not_fit_is_out_of_memory_and_the_process_goes_on() {
    let Some(_alone) = there_is_one("what_does_not_fit_is_out_of_memory_and_the_process_goes_on")
    else {
        return;
    };
    let huge = load("gpt2", Processor::Cuda, Format::F32, (1_000_000, 1000));
    assert!(matches!(huge, Err(EngineError::OutOfMemory(_))));
    // Without a prediction: the driver refuses, and the loaded model can still be used.
    let mut engine = load("tiny-llama", Processor::Cuda, Format::F32, (1, 32)).unwrap();
    let twice = 2 * gpu::find(1).unwrap()[0].memory as usize;
    let device = Device::new_cuda_with_stream(0).unwrap();
    let refused = Tensor::zeros(twice, DType::U8, &device).map_err(EngineError::from);
    assert!(matches!(refused, Err(EngineError::OutOfMemory(_))));
    let generation = engine.generate(&prompts("tiny-llama", 1, 4), 8).unwrap();
    assert_eq!(generation.ids[0].len(), 8);
}

#[test]
fn more_gpus_than_there_are_is_said() {
    let Some(_alone) = there_is_one("more_gpus_than_there_are_is_said") else {
        return;
    };
    let error = gpu::find(1000).unwrap_err();
    assert!(
        matches!(&error, EngineError::Device(why) if why.contains("1000 GPUs")),
        "{error}"
    );
}
