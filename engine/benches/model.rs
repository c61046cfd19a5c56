//! Whole forward passes of GPT-2 124M in f32: a prefill of 1×128, and eight decode steps after it.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use inferbench_engine::{
    Engine, Format, LoadOptions, Parallel, Processor, Weights, presets, threads,
};

const INPUT: usize = 128;

fn model(c: &mut Criterion) {
    threads::init(None);
    let weights = Weights::Random {
        config: presets::preset("gpt2").unwrap(),
        seed: 1,
    };
    let options = LoadOptions {
        dtype: Format::F32,
        processor: Processor::Cpu,
        parallel: Parallel::ONE,
        max_batch: 8,
        max_seq: 256,
    };
    let mut engine = Engine::load(&weights, &options).unwrap();
    let mut group = c.benchmark_group("gpt2 f32, 128 in");
    for batch in [1, 8] {
        let prompts: Vec<Vec<u32>> = (0..batch)
            .map(|row| (0..INPUT as u32).map(|i| (i * 97 + row) % 50_257).collect())
            .collect();
        for output in [1, 9] {
            group.throughput(Throughput::Elements(u64::from(batch) * output as u64));
            let name = format!("{output} out");
            group.bench_function(BenchmarkId::new(name, format!("batch {batch}")), |b| {
                b.iter(|| engine.generate(&prompts, output).unwrap());
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(1000));
    targets = model
}
criterion_main!(benches);
