//! Attention in the shape of one GPT-2 124M layer: a decode step by bytes of cache per second, a
//! prefill by scores per second; plain candle beside the engine.

use std::time::Duration;

use candle_core::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use inferbench_engine::{ops, threads};

const HEADS: usize = 12;
const HEAD_DIM: usize = 64;

fn tensor(batch: usize, positions: usize) -> Tensor {
    Tensor::randn(0f32, 1.0, (batch, HEADS, positions, HEAD_DIM), &Device::Cpu).unwrap()
}

fn attention(c: &mut Criterion) {
    threads::init(None);
    let mut group = c.benchmark_group("decode at 512");
    for batch in [1, 8] {
        let (q, k, v) = (tensor(batch, 1), tensor(batch, 544), tensor(batch, 544));
        group.throughput(Throughput::Bytes(
            (2 * 4 * batch * HEADS * 512 * HEAD_DIM) as u64,
        ));
        group.bench_function(BenchmarkId::new("engine", batch), |b| {
            b.iter(|| ops::attention(&q, &k, &v, 512, 0.125).unwrap());
        });
        group.bench_function(BenchmarkId::new("candle", batch), |b| {
            b.iter(|| ops::reference::attention(&q, &k, &v, 512, 0.125).unwrap());
        });
    }
    group.finish();

    let mut group = c.benchmark_group("prefill");
    for positions in [128, 512] {
        let (q, k, v) = (
            tensor(1, positions),
            tensor(1, positions),
            tensor(1, positions),
        );
        group.throughput(Throughput::Elements(
            (HEADS * positions * (positions + 1) / 2) as u64,
        ));
        group.bench_function(BenchmarkId::new("engine", positions), |b| {
            b.iter(|| ops::attention(&q, &k, &v, positions, 0.125).unwrap());
        });
        group.bench_function(BenchmarkId::new("candle", positions), |b| {
            b.iter(|| ops::reference::attention(&q, &k, &v, positions, 0.125).unwrap());
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400));
    targets = attention
}
criterion_main!(benches);
