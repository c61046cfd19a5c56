//! From a model's configuration and a combination to the roofline's arithmetic.

use inferbench_crds::{
    design::{self, Combination},
    spec::Dtype,
};
use inferbench_engine::{
    ceilings::{
        Ceilings,
        roofline::{self, Bound, Fraction, ModelShape, Workload},
    },
    config::ModelConfig,
};
use inferbench_results::record::Roofline;

use crate::backend::candle::{format, parallel, processor};

/// Why a trial cannot be held against ceilings; none where it can: its load comes in batches, and the runner can measure
/// the device itself.
#[must_use]
pub fn missing(combination: &Combination) -> Option<&'static str> {
    let engine = &combination.engine;
    if engine.endpoint.is_some() {
        return Some("an endpoint's machine is another: its ceilings cannot be measured from here");
    }
    if engine.server.is_some() && combination.gpus > 0 {
        return Some(
            "beside a server the runner has no CUDA libraries to measure a GPU's ceilings with",
        );
    }
    if !matches!(combination.load(), design::Load::Batch(_)) {
        return Some("requests come one by one: how many share a step of the engine is not known");
    }
    None
}

/// The sizes of a model whose weights have this data type, on this number of GPUs, or on the CPU for 0.
#[must_use]
pub fn shape(config: &ModelConfig, dtype: Dtype, gpus: u32) -> ModelShape {
    ModelShape::of(config, format(dtype), processor(gpus))
}

/// The work that is asked of the model; none where it does not divide among the devices.
#[must_use]
pub fn workload(combination: &Combination) -> Option<Workload> {
    Some(Workload {
        batch: combination.batch_size as usize,
        input: combination.input_length as usize,
        output: combination.output_length as usize,
        parallel: parallel(combination)?,
    })
}

/// How near a trial came to the ceilings, from its mean TTFT and TPOT in seconds (none for one output token).
#[must_use]
pub fn judge(
    shape: &ModelShape,
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
    let cache_share = ceilings.cache_share(roofline::decode_working_set(shape, load));
    Roofline {
        bandwidth_bytes_per_s: bandwidth,
        matrix_flops_per_s: matrix,
        decode_fraction: decode.map(|fraction| fraction.value),
        prefill_fraction: Some(prefill.value),
        decode_bound: decode.map(name),
        prefill_bound: Some(name(prefill)),
        fits_cache: cache_share >= 1.0,
        cache_share,
        ceilings_disturbed: ceilings.disturbed.clone(),
    }
}

/// Seconds that one iteration takes at the ceilings: the least possible, and what an estimate of a sweep's duration
/// is scaled from.
#[must_use]
pub fn least_seconds(shape: &ModelShape, load: &Workload, ceilings: &Ceilings) -> f64 {
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
