//! The engine's own times for a model in a folder, as one line of JSON: what
//! `engine/peers/llama_cpp.py` holds against a peer.
//!
//! `times DIR BATCH INPUT OUTPUT [REPEATS]`; f32 on the CPU, medians over the repeats, in seconds.
//! `times --save PRESET DIR` writes random weights of that shape for both to load.

use std::path::{Path, PathBuf};

use inferbench_engine::{
    Engine, Format, LoadOptions, Parallel, Processor, Weights, presets, save, threads,
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let threads = threads::init(None);
    if let [flag, preset, dir] = &arguments[..]
        && flag == "--save"
    {
        let config = presets::preset(preset).expect("PRESET is a name that inferbench knows");
        let weights = Weights::Random { config, seed: 1 };
        save(&weights, Format::F32, Path::new(dir)).expect("the folder can be written");
        return;
    }
    let number = |i: usize| arguments[i].parse::<usize>().expect("a number");
    let (dir, batch, input, output) = (
        PathBuf::from(&arguments[0]),
        number(1),
        number(2),
        number(3),
    );
    let repeats = if arguments.len() > 4 { number(4) } else { 3 };
    let options = LoadOptions {
        dtype: Format::F32,
        processor: Processor::Cpu,
        parallel: Parallel::ONE,
        max_batch: batch,
        max_seq: input + output,
    };
    let mut engine = Engine::load(&Weights::Path(dir), &options).expect("loads");
    let vocab = engine.info().vocab_size;
    let prompts: Vec<Vec<u32>> = (0..batch)
        .map(|row| {
            (0..input)
                .map(|i| ((i * 97 + row * 31) % vocab) as u32)
                .collect()
        })
        .collect();
    engine.generate(&prompts, 2.min(output)).expect("warms up");
    let (mut prefill, mut step) = (Vec::new(), Vec::new());
    for _ in 0..repeats {
        let ends = engine
            .generate(&prompts, output)
            .expect("generates")
            .step_ends;
        prefill.push(ends[0].as_secs_f64());
        step.extend(
            ends.windows(2)
                .map(|pair| (pair[1] - pair[0]).as_secs_f64()),
        );
    }
    let result = serde_json::json!({
        "prefill_s": median(&mut prefill),
        "step_s": median(&mut step),
        "threads": threads.count,
    });
    println!("{result}");
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
