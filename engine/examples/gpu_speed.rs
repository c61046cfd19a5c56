//! How near the engine comes to a GPU's ceilings: one JSON document a line for each shape, with the least possible
//! times and the measured ones (medians over the rounds, milliseconds). `scripts/gpu_check` prints them as a table.
//!
//! `gpu_speed MODEL ROUNDS BATCH,INPUT,OUTPUT …`; bf16, on the first GPU. MODEL is a preset, with random weights, or a
//! path. Where `INFERBENCH_GPU_WITHOUT` switches parts of the work off, the lines say so.

use std::process::ExitCode;

use inferbench_engine::ceilings::{
    Ceilings,
    roofline::{self, ModelShape, Workload},
};
use inferbench_engine::config::ModelConfig;
use inferbench_engine::{
    Engine, EngineError, Format, LoadOptions, Parallel, Processor, Weights, presets, threads,
    tokenizer,
};
use serde_json::json;

fn main() -> ExitCode {
    threads::init(None);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [preset, rounds, shapes @ ..] = &arguments[..] else {
        eprintln!("gpu_speed MODEL ROUNDS BATCH,INPUT,OUTPUT …");
        return ExitCode::FAILURE;
    };
    let shapes: Vec<[usize; 3]> = shapes.iter().map(|shape| numbers(shape)).collect();
    match measure(preset, rounds.parse().expect("ROUNDS is a number"), &shapes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gpu_speed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn numbers(shape: &str) -> [usize; 3] {
    let numbers: Vec<usize> = shape
        .split(',')
        .map(|number| number.parse().expect("a shape is three numbers"))
        .collect();
    numbers.try_into().expect("a shape is three numbers")
}

fn measure(preset: &str, rounds: usize, shapes: &[[usize; 3]]) -> Result<(), EngineError> {
    let weights = match presets::preset(preset) {
        Some(config) => Weights::Random { config, seed: 1 },
        None => Weights::Path(preset.into()),
    };
    let config = weights.config()?;
    let shape = ModelShape::of(&config, Format::BF16, Processor::Cuda);
    let ceilings = Ceilings::measure_gpu(Format::BF16, Some(&shape))?;
    let (bandwidth, matrix) = (
        ceilings.bandwidth.bytes_per_second,
        ceilings.matrix.flops_per_second,
    );
    println!("{}", json!({ "preset": preset, "ceilings": ceilings }));
    let most = |of: fn(&[usize; 3]) -> usize| shapes.iter().map(of).max().unwrap_or(1);
    let options = LoadOptions {
        dtype: Format::BF16,
        processor: Processor::Cuda,
        parallel: Parallel::ONE,
        max_batch: most(|[batch, ..]| *batch),
        max_seq: most(|[_, input, output]| input + output),
    };
    let mut engine = Engine::load(&weights, &options)?;
    println!(
        "{}",
        json!({ "preset": preset, "load_s": engine.info().load.as_secs_f64() })
    );
    let mut failed = Ok(());
    for &[batch, input, output] in shapes {
        let load = Workload {
            batch,
            input,
            output,
            parallel: Parallel::ONE,
        };
        for graphs in [true, false] {
            // Graphs save launches: that shows best where one sequence has little else, and eager steps of the others
            // would take the time of shapes that are still to come.
            if !graphs && (batch > 1 || std::env::var_os("INFERBENCH_GPU_WITHOUT").is_some()) {
                continue;
            }
            engine.set_graphs(graphs);
            let mut row = json!({
                "preset": preset,
                "mode": engine.info().mode,
                "batch": batch,
                "input": input,
                "output": output,
            });
            if let Ok(without) = std::env::var("INFERBENCH_GPU_WITHOUT") {
                row["without"] = without.into();
            }
            let phase = |work, seconds: f64| {
                let fraction = roofline::fraction(&work, bandwidth, matrix, seconds);
                json!({
                    "least_ms": fraction.value * seconds * 1e3,
                    "measured_ms": seconds * 1e3,
                    "fraction": fraction.value,
                    "bound": fraction.bound,
                })
            };
            match time(&mut engine, &config, [batch, input, output], rounds) {
                Ok((mut first, mut each)) => {
                    row["prefill"] = phase(roofline::prefill(&shape, &load), median(&mut first));
                    row["decode"] = phase(roofline::decode_step(&shape, &load), median(&mut each));
                }
                // Other shapes may yet do.
                Err(error) => {
                    row["error"] = error.to_string().into();
                    failed = Err(error);
                }
            }
            println!("{row}");
        }
    }
    failed
}

/// Seconds of the prompts, and of a step on average, one of each for every round.
fn time(
    engine: &mut Engine,
    config: &ModelConfig,
    [batch, input, output]: [usize; 3],
    rounds: usize,
) -> Result<(Vec<f64>, Vec<f64>), EngineError> {
    let (mut first, mut each) = (Vec::new(), Vec::new());
    for round in 0..=rounds as u64 {
        let prompts = tokenizer::prompts(None, config, batch, input, round)?;
        let ends = engine.generate(&prompts, output)?.step_ends;
        // The first round loads, compiles and captures.
        if round > 0 {
            first.push(ends[0].as_secs_f64());
            let last = ends[output - 1].as_secs_f64();
            each.push((last - ends[0].as_secs_f64()) / (output - 1).max(1) as f64);
        }
    }
    Ok((first, each))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
