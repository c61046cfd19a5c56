//! How near the engine comes to this machine's ceilings: measures both in turn and prints, for each
//! shape, the least possible time, the measured one, and the fraction (medians over the rounds).
//!
//! `cargo run --release -p inferbench-engine --example speed -- [PRESET] [ROUNDS] [DTYPE]`

use std::time::Duration;

use candle_core::{DType, Device};
use inferbench_engine::ceilings::roofline::{self, ModelShape, Work, Workload};
use inferbench_engine::ceilings::{bandwidth, matrix};
use inferbench_engine::{
    Engine, Format, LoadOptions, Parallel, Processor, Weights, presets, threads,
};

/// Batch, input and output lengths.
const SHAPES: [(usize, usize, usize); 5] = [
    (1, 128, 32),
    (8, 128, 32),
    (32, 128, 16),
    (1, 512, 16),
    (8, 512, 16),
];

/// Time for each measurement of a ceiling.
const GLANCE: Duration = Duration::from_millis(400);

fn main() {
    let mut arguments = std::env::args().skip(1);
    let preset = arguments.next().unwrap_or_else(|| "gpt2".into());
    let rounds = arguments
        .next()
        .map_or(5, |n| n.parse().expect("ROUNDS is a number"));
    let dtype = arguments.next().map_or(Format::F32, |name| {
        let mut formats = Format::ALL.into_iter();
        let known = formats.find(|format| format.to_string() == name);
        known.expect("DTYPE is f32, bf16, f16, q4_0 or q8_0")
    });
    let threads = threads::init(None);
    let config = presets::preset(&preset).expect("PRESET is a name that inferbench knows");
    let shape = ModelShape::of(&config, dtype, Processor::Cpu);
    let options = LoadOptions {
        dtype,
        processor: Processor::Cpu,
        parallel: Parallel::ONE,
        max_batch: 32,
        max_seq: 640,
    };
    let mut engine = Engine::load(&Weights::Random { config, seed: 1 }, &options).expect("loads");
    println!(
        "{preset}, {dtype}, {} threads, denormals flushed: {}; loaded in {:.2?}",
        threads.count,
        threads.denormals_flushed,
        engine.info().load
    );
    println!("batch  in  out  phase    bound      least ms  measured ms  fraction");
    for (batch, input, output) in SHAPES {
        let load = Workload {
            batch,
            input,
            output,
            parallel: Parallel::ONE,
        };
        let prompts: Vec<Vec<u32>> = (0..batch)
            .map(|row| {
                (0..input)
                    .map(|i| ((i * 97 + row * 31) % shape.vocab) as u32)
                    .collect()
            })
            .collect();
        engine.generate(&prompts, 2).expect("warms up");
        let mut phases = [Phase::default(), Phase::default()];
        for _ in 0..rounds {
            let reads = bandwidth::measure(GLANCE).bytes_per_second;
            let products = matrix::products(Some(&shape));
            let multiplies = matrix::measure(&Device::Cpu, DType::F32, &products, GLANCE)
                .expect("f32 can be multiplied")
                .flops_per_second;
            let steps = engine
                .generate(&prompts, output)
                .expect("generates")
                .step_ends;
            let first = steps[0].as_secs_f64();
            // The median step: one that another process interrupts says nothing of the engine.
            let mut gaps: Vec<f64> = steps
                .windows(2)
                .map(|pair| (pair[1] - pair[0]).as_secs_f64())
                .collect();
            let each = median(&mut gaps);
            phases[0].add(&roofline::prefill(&shape, &load), reads, multiplies, first);
            phases[1].add(
                &roofline::decode_step(&shape, &load),
                reads,
                multiplies,
                each,
            );
        }
        for (name, phase) in ["prefill", "decode"].into_iter().zip(&mut phases) {
            println!(
                "{batch:>5} {input:>3} {output:>4}  {name:<8} {:<9} {:>9.2} {:>12.2} {:>9.2}  ({:.1} GB/s, {:.0} GFLOP/s)",
                phase.bound,
                median(&mut phase.least) * 1e3,
                median(&mut phase.measured) * 1e3,
                median(&mut phase.fraction),
                median(&mut phase.bandwidth) / 1e9,
                median(&mut phase.matrix) / 1e9,
            );
        }
    }
}

/// One figure per round.
#[derive(Default)]
struct Phase {
    bound: String,
    least: Vec<f64>,
    measured: Vec<f64>,
    fraction: Vec<f64>,
    bandwidth: Vec<f64>,
    matrix: Vec<f64>,
}

impl Phase {
    fn add(&mut self, work: &Work, bandwidth: f64, matrix: f64, seconds: f64) {
        let fraction = roofline::fraction(work, bandwidth, matrix, seconds);
        self.bound = format!("{:?}", fraction.bound);
        self.least.push(fraction.value * seconds);
        self.measured.push(seconds);
        self.fraction.push(fraction.value);
        self.bandwidth.push(bandwidth);
        self.matrix.push(matrix);
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
