//! Products with a weight matrix in the shapes of GPT-2 124M: bytes of weights per second for few
//! rows, multiply-adds per second for many; candle's beside the engine's. Quantized weights, too.

use std::time::Duration;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use inferbench_engine::{ops, threads};

fn linear(c: &mut Criterion) {
    threads::init(None);
    // The output matrix of GPT-2: larger than any cache, as all weights together are.
    let (n, k) = (50257, 768);
    let w = Tensor::randn(0f32, 1.0, (n, k), &Device::Cpu).unwrap();
    let mut group = c.benchmark_group("few rows past 50257x768");
    group.throughput(Throughput::Bytes((4 * n * k) as u64));
    for rows in [1, 8] {
        let x = Tensor::randn(0f32, 1.0, (rows, k), &Device::Cpu).unwrap();
        group.bench_function(BenchmarkId::new("engine", rows), |b| {
            b.iter(|| ops::linear(&x, &w, None).unwrap());
        });
        group.bench_function(BenchmarkId::new("candle", rows), |b| {
            b.iter(|| ops::reference::linear(&x, &w, None).unwrap());
        });
    }
    group.finish();

    let (n, k) = (3072, 768);
    let w = Tensor::randn(0f32, 1.0, (n, k), &Device::Cpu).unwrap();
    let bias = Tensor::randn(0f32, 1.0, n, &Device::Cpu).unwrap();
    let mut group = c.benchmark_group("rows times 3072x768, bias and GELU");
    for rows in [16, 32, 64, 512] {
        let x = Tensor::randn(0f32, 1.0, (rows, k), &Device::Cpu).unwrap();
        group.throughput(Throughput::Elements((rows * n * k) as u64));
        group.bench_function(BenchmarkId::new("engine", rows), |b| {
            b.iter(|| ops::linear_bias_gelu(&x, &w, &bias).unwrap());
        });
        group.bench_function(BenchmarkId::new("candle", rows), |b| {
            b.iter(|| ops::reference::linear_bias_gelu(&x, &w, &bias).unwrap());
        });
    }
    group.finish();
}

/// Bytes are those of the packed weights.
fn quantized(c: &mut Criterion) {
    threads::init(None);
    let (n, k) = (50257, 768);
    let w = Tensor::randn(0f32, 1.0, (n, k), &Device::Cpu).unwrap();
    for kind in [GgmlDType::Q8_0, GgmlDType::Q4_0] {
        let w = QTensor::quantize(&w, kind).unwrap();
        let mut group = c.benchmark_group(format!("few rows past {n}x{k} in {kind:?}"));
        group.throughput(Throughput::Bytes(w.storage_size_in_bytes() as u64));
        for rows in [1, 8] {
            let x = Tensor::randn(0f32, 1.0, (rows, k), &Device::Cpu).unwrap();
            group.bench_function(BenchmarkId::new("engine", rows), |b| {
                b.iter(|| ops::linear_quantized(&x, &w, None).unwrap());
            });
            group.bench_function(BenchmarkId::new("candle", rows), |b| {
                b.iter(|| x.apply_op1_no_bwd(&w).unwrap());
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400));
    targets = linear, quantized
}
criterion_main!(benches);
