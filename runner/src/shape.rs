//! From a model's configuration and a combination to the roofline's arithmetic.

use candle_core::DType;
use inferbench_crds::{design::Combination, spec::Dtype};
use inferbench_engine::{
    ceilings::{
        Ceilings,
        roofline::{self, Bound, Fraction, Shape, Workload},
    },
    config::ModelConfig,
    size,
};
use inferbench_results::record::Roofline;

/// The engine's name of a data type.
#[must_use]
pub const fn dtype(dtype: Dtype) -> DType {
    match dtype {
        Dtype::F32 => DType::F32,
        Dtype::Bf16 => DType::BF16,
        Dtype::F16 => DType::F16,
    }
}

/// How many ranks share the model: the GPUs, or one on the CPU.
#[must_use]
pub fn world(combination: &Combination) -> usize {
    combination.gpus.max(1) as usize
}

/// The sizes that the work depends on.
#[must_use]
pub fn of(config: &ModelConfig, dtype: DType) -> Shape {
    let bytes = dtype.size_in_bytes();
    let whole = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    Shape {
        layers: config.layers,
        hidden: config.hidden,
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        vocab: config.vocab_size,
        layer_params: whole(size::layer_params(config)),
        matmul_weight_bytes: whole(size::matmul_params(config)).saturating_mul(bytes),
        dtype_bytes: bytes,
    }
}

/// What is asked of the model.
#[must_use]
pub fn workload(combination: &Combination) -> Workload {
    Workload {
        batch: combination.batch_size as usize,
        input: combination.input_length as usize,
        output: combination.output_length as usize,
        devices: world(combination),
    }
}

/// How near a trial came to the ceilings, from its mean TTFT and TPOT in seconds (none for one output token).
#[must_use]
pub fn judge(
    shape: &Shape,
    load: &Workload,
    ceilings: &Ceilings,
    ttft_s: f64,
    tpot_s: Option<f64>,
) -> Roofline {
    let (bandwidth, matrix) = (
        ceilings.bandwidth.bytes_per_second,
        ceilings.matrix.flops_per_second,
    );
    let prefill = roofline::fraction(&roofline::prefill(shape, load), bandwidth, matrix, ttft_s);
    let decode = tpot_s.map(|seconds| {
        roofline::fraction(
            &roofline::decode_step(shape, load),
            bandwidth,
            matrix,
            seconds,
        )
    });
    let name = |fraction: Fraction| match fraction.bound {
        Bound::Bandwidth => "bandwidth".to_owned(),
        Bound::Matrix => "matrix".to_owned(),
    };
    Roofline {
        bandwidth_bytes_per_s: bandwidth,
        matrix_flops_per_s: matrix,
        decode_fraction: decode.map(|fraction| fraction.value),
        prefill_fraction: Some(prefill.value),
        decode_bound: decode.map(name),
        prefill_bound: Some(name(prefill)),
        fits_cache: ceilings.fits_cache(roofline::decode_working_set(shape, load)),
        ceilings_disturbed: ceilings.disturbed.clone(),
    }
}

/// Seconds that one iteration takes at the ceilings: the least possible, and what an estimate of a sweep's duration
/// is scaled from.
#[must_use]
pub fn least_seconds(shape: &Shape, load: &Workload, ceilings: &Ceilings) -> f64 {
    let at = |work| {
        let (bandwidth, matrix) = (
            ceilings.bandwidth.bytes_per_second,
            ceilings.matrix.flops_per_second,
        );
        roofline::fraction(&work, bandwidth, matrix, 1.0).value
    };
    let steps = load.output.saturating_sub(1) as f64;
    at(roofline::prefill(shape, load)) + steps * at(roofline::decode_step(shape, load))
}
