//! Made-up records for tests and benches, here and in the crates that store and collect them. Plausible and
//! deterministic, and nothing but that: no figure in them was measured. Behind the feature `fixtures`.

pub mod servers;
pub mod study;

use std::collections::BTreeMap;

use inferbench_crds::{
    design::Combination,
    engine::{Engine, Preset, Server},
    factor::Number,
    search::{Search, Searched},
    spec::{Dtype, Isolation, Model, ModelSource, Objectives, RandomSource},
    splitmix::SplitMix64,
};

use crate::{
    capacity::{Capacity, End, Ended, Step},
    key::trial_key,
    record::{
        Client, CpuTelemetry, Effective, EffectiveMeasurement, GpuTelemetry, Iteration, Outcome,
        Phase, Provenance, Request, RequestTimes, Requests, Roofline, SCHEMA_VERSION, Sample,
        ServerMetrics, Telemetry, TrialRecord, Warmup,
    },
    row::Row,
};

/// 2026-01-02 03:04:05 UTC in ns since the Unix epoch.
const START_NS: i64 = 1_767_323_045_000_000_000;

/// A request on the CPU: batch 2, 3 input tokens, 4 output tokens, 5 iterations.
#[must_use]
pub fn request() -> Request {
    Request {
        combination: Combination {
            model: Model {
                name: "tiny".into(),
                source: ModelSource {
                    random: Some(RandomSource {
                        preset: "tiny-gpt2".into(),
                    }),
                    ..ModelSource::default()
                },
            },
            batch_size: 2,
            input_length: 3,
            output_length: 4,
            gpus: 0,
            dtype: Dtype::F32,
            ..Combination::default()
        },
        model_revision: "tiny-gpt2@42".into(),
        replicate: 0,
        confirming: false,
        seed: 42,
        measurement: EffectiveMeasurement {
            warmup_iterations: 2,
            warmup_ms: 1000,
            iterations: 5,
            min_duration_ms: 0,
            isolation: Isolation::Process,
            quality: false,
        },
        runner: "inferbench 0.1.0".into(),
        objectives: None,
    }
}

/// A valid record of [`request`].
#[must_use]
pub fn record() -> TrialRecord {
    measured(request(), 0)
}

/// A valid record on two GPUs, with telemetry of both.
#[must_use]
pub fn gpu_record() -> TrialRecord {
    let mut request = request();
    request.combination.gpus = 2;
    request.combination.dtype = Dtype::Bf16;
    let mut record = measured(request, 0);
    record.telemetry.gpus = (0..2)
        .map(|at| GpuTelemetry {
            uuid: format!("GPU-{at}"),
            util_mean_pct: Some(80.0 + 10.0 * f64::from(at)),
            util_max_pct: Some(98.0 + f64::from(at)),
            dram_active_mean_pct: Some(70.0 + 2.0 * f64::from(at)),
            tensor_active_mean_pct: Some(20.0 + 2.0 * f64::from(at)),
            mem_total_mib: Some(81_559.0),
            mem_before_mib: Some(500.0),
            mem_peak_mib: Some(9_000.0),
            mem_after_mib: Some(520.0),
            power_mean_w: Some(300.0),
            energy_j: Some(10.0),
            sm_clock_mean_mhz: Some(1_900.0 + 20.0 * f64::from(at)),
            mem_clock_mean_mhz: Some(2_619.0),
            temp_max_c: Some(60.0 + f64::from(at)),
            throttle_reasons: Some(if at == 1 { "sw_power_cap" } else { "" }.into()),
            foreign_processes: Some(0),
        })
        .collect();
    record.provenance.device = "NVIDIA H100 80GB HBM3".into();
    record.provenance.device_uuid = Some("GPU-0|GPU-1".into());
    record.provenance.driver = Some("580.95.05".into());
    record.provenance.cuda = Some("13.0".into());
    record
}

/// A record of [`request`] whose trial did not fit into memory.
#[must_use]
pub fn out_of_memory() -> TrialRecord {
    let mut record = record();
    record.outcome = Outcome::OutOfMemory;
    record.message = Some("the kernel killed the process for memory".into());
    record.effective = None;
    record.iterations.clear();
    record.warmup = None;
    record.roofline = None;
    record.telemetry = Telemetry::default();
    record
}

/// A valid record of any request: times grow with the shape and vary by replicate and iteration.
#[must_use]
pub fn measured(request: Request, trial_index: u32) -> TrialRecord {
    let levels = &request.combination;
    let step_ms = 1.0 + 0.05 * f64::from(levels.batch_size) + 0.1 * f64::from(request.replicate);
    let prefill_ms =
        step_ms + 0.002 * f64::from(levels.batch_size) * f64::from(levels.input_length);
    let start_ns = START_NS + i64::from(trial_index) * 8_000_000_000;
    let iterations: Vec<Iteration> = (0..request.measurement.iterations)
        .map(|at| {
            let drift = 1.0 + 0.01 * f64::from(at % 5);
            let token_ms = (0..levels.output_length)
                .map(|token| (prefill_ms + step_ms * f64::from(token)) * drift);
            Iteration::of_batch(
                start_ns + i64::from(at) * 400_000_000,
                levels.batch_size,
                token_ms.collect(),
            )
        })
        .collect();
    let samples = (0..40)
        .map(|at| Sample {
            unix_ns: start_ns + i64::from(at) * 100_000_000,
            phase: match at {
                0..10 => Phase::Before,
                10..30 => Phase::During,
                _ => Phase::After,
            },
            gpu_uuid: None,
            mem_mib: Some(600.0 + f64::from(at)),
            cpu_time_s: Some(0.2 * f64::from(at)),
            util_pct: None,
            dram_active_pct: None,
            tensor_active_pct: None,
            power_w: None,
            sm_clock_mhz: None,
            mem_clock_mhz: None,
            temp_c: None,
        })
        .collect();
    TrialRecord {
        schema_version: SCHEMA_VERSION.into(),
        sweep: "fixture".into(),
        trial_index,
        trial_key: trial_key(&request, 0),
        attempt: 0,
        run_order: trial_index,
        process_id: format!("process-{trial_index}"),
        started_at: "2026-01-02T03:04:05.000Z".into(),
        ended_at: "2026-01-02T03:04:09.000Z".into(),
        outcome: Outcome::Succeeded,
        message: None,
        valid: true,
        invalid_reasons: Vec::new(),
        effective: Some(Effective {
            architecture: "GPT2LMHeadModel".into(),
            model_params: 124_439_808,
            dtype: levels.dtype.name().into(),
            batch_size: levels.batch_size,
            input_len: levels.input_length,
            output_len: levels.output_length,
            gpus: levels.gpus,
            engine: "candle".into(),
            engine_mode: "eager".into(),
            configuration: BTreeMap::new(),
            weight_bytes: 497_759_232,
            model_load_s: 0.25,
            engine_start_s: None,
            threads: 2,
            denormals_flushed: true,
            prompts: "ids".into(),
            prompt_seed: u64::MAX,
        }),
        iterations,
        requests: None,
        client: None,
        server: None,
        warmup: Some(Warmup {
            iterations: 2,
            duration_s: 1.5,
            first_iteration_ttft_ms: 30.0,
        }),
        telemetry: Telemetry {
            cpu: CpuTelemetry {
                cpu_time_s: Some(7.5),
                rss_peak_mib: Some(640.0),
                cpu_throttled_ms: Some(0.0),
                cpu_steal_pct: Some(0.1),
                cpu_foreign_pct: Some(0.5),
                cpu_freq_mean_mhz: Some(2_900.0),
                numa_nodes: Some(1),
                smt: Some(true),
                concurrent_trials: Some(0),
            },
            gpus: Vec::new(),
            samples,
            gpu_telemetry_missing: None,
        },
        roofline: Some(Roofline {
            bandwidth_bytes_per_s: 20e9,
            matrix_flops_per_s: 200e9,
            decode_fraction: (levels.output_length > 1).then_some(0.8),
            prefill_fraction: Some(0.5),
            decode_bound: (levels.output_length > 1).then(|| "bandwidth".into()),
            prefill_bound: Some("matrix".into()),
            fits_cache: false,
            cache_share: 0.0,
            ceilings_disturbed: Vec::new(),
        }),
        quality: None,
        roofline_missing: None,
        quality_missing: None,
        capacity: None,
        harness: None,
        provenance: Provenance {
            engine_version: "0.1.0 (candle 0.11.1)".into(),
            runner_version: "0.1.0".into(),
            device: "cpu".into(),
            cpu: "A CPU".into(),
            node: "machine".into(),
            ..Provenance::default()
        },
        request,
    }
}

/// A request to a server: `concurrency` in flight, 3 input tokens, 4 output tokens, at least 5 requests.
#[must_use]
pub fn closed_loop(concurrency: u32) -> Request {
    let mut request = request();
    request.combination.engine = Engine {
        name: "vllm".into(),
        candle: None,
        server: Some(Server {
            preset: Preset::Vllm,
            ..Server::default()
        }),
        endpoint: None,
    };
    request.combination.batch_size = 1;
    request.combination.concurrency = concurrency;
    request.measurement.isolation = Isolation::Pod;
    request
}

/// The same with `rate` requests a second.
#[must_use]
pub fn open_loop(rate: f64) -> Request {
    let mut request = closed_loop(0);
    request.combination.request_rate = Number::new(rate).unwrap_or_default();
    request
}

/// A search of the request rate.
#[must_use]
pub fn search() -> Search {
    Search {
        factor: Searched::RequestRate,
        from: Number::new(1.0).unwrap_or_default(),
        to: Number::new(64.0).unwrap_or_default(),
        within: "10%".into(),
        share: "99%".into(),
    }
}

/// A valid record of a trial that has searched: it found the capacity between these two rates.
#[must_use]
pub fn searched(mut request: Request, trial_index: u32, low: f64, high: f64) -> TrialRecord {
    request.combination.request_rate = Number::ZERO;
    request.combination.concurrency = 0;
    request.combination.search = Some(search());
    request.objectives = Some(Objectives {
        max_ttft: Some(inferbench_crds::Duration::from_millis(200)),
        ..Objectives::default()
    });
    let mut record = served(request, trial_index);
    if let Some(requests) = &mut record.requests {
        requests.saturated = Some(false);
    }
    let step = |load: f64, purpose: &str, held: bool| Step {
        load,
        purpose: purpose.into(),
        window_start_unix_ns: START_NS,
        window_s: 2.0,
        requests: 40,
        kept: if held { 40 } else { 30 },
        errors: 0,
        saturated: Some(false),
        ttft_ms: Some(if held { 100.0 } else { 300.0 }),
        tpot_ms: Some(5.0),
        e2e_ms: Some(400.0),
        held,
        why: (!held).then(|| "30 of 40 requests kept to every objective, 40 have to".into()),
    };
    let end = |load, held, failed| Some(End { load, held, failed });
    record.capacity = Some(Capacity {
        factor: Searched::RequestRate,
        low: end(low, 2, 0),
        high: end(high, 0, 2),
        ended: Ended::Within,
        contradictions: Vec::new(),
        steps: vec![
            step(low, "search", true),
            step(high, "search", false),
            step(high, "confirm", false),
            step(low, "confirm", true),
        ],
    });
    record
}

/// A valid record of a [`closed_loop`] or an [`open_loop`]: 40 requests in a window of 2 s, the first token 20 ms after
/// the intended time, then one every 5 ms, all a little slower from request to request.
#[must_use]
pub fn served(request: Request, trial_index: u32) -> TrialRecord {
    let levels = request.combination.clone();
    let mut record = measured(request, trial_index);
    let start_ns = START_NS + i64::from(trial_index) * 8_000_000_000;
    record.iterations.clear();
    record.roofline = None;
    record.requests = Some(Requests {
        window_start_unix_ns: start_ns,
        window_s: 2.0,
        window_output_tokens: 40 * u64::from(levels.output_length) + 7,
        window_completed: 41,
        max_in_flight: levels.concurrency.clamp(1, 8),
        saturated: (!levels.request_rate.is_zero()).then_some(false),
        counting: "tokenIds".into(),
        requests: (0..40)
            .map(|at| RequestTimes {
                intended_unix_ns: start_ns + i64::from(at) * 48_000_000,
                sent_ms: Some(0.05),
                token_ms: (0..levels.output_length)
                    .map(|token| 20.0 + 0.1 * f64::from(at) + 5.0 * f64::from(token))
                    .collect(),
                input_tokens: Some(levels.input_length),
                cached_tokens: Some(0),
                error: None,
            })
            .collect(),
    });
    record.client = Some(Client {
        send_lag_p50_ms: Some(0.05),
        send_lag_p99_ms: Some(0.2),
        send_lag_max_ms: Some(0.3),
        stamp_lag_p99_ms: Some(0.1),
        cpu_s: Some(0.06),
        cpu_pct: Some(3.0),
    });
    record.server = Some(ServerMetrics {
        kv_use_max_pct: Some(12.5),
        preemptions: Some(0.0),
        queue_mean: Some(0.25),
        queue_max: Some(2.0),
        prefix_hit_pct: Some(0.0),
        restarted: false,
        samples: Vec::new(),
    });
    if let Some(ran) = &mut record.effective {
        ran.engine = "vllm".into();
        ran.engine_mode = "server".into();
        ran.engine_start_s = Some(12.5);
    }
    record
}

/// A sweep over these levels, whose time to last token is a function of the levels with relative noise; the time to
/// first token is a tenth of it.
#[derive(Clone, Debug)]
pub struct Sweep {
    /// Names and parameters.
    pub models: &'static [(&'static str, u64)],
    /// Batch sizes.
    pub batches: &'static [u32],
    /// Input lengths.
    pub inputs: &'static [u32],
    /// Output lengths.
    pub outputs: &'static [u32],
    /// Numbers of GPUs.
    pub gpus: &'static [u32],
    /// Blocks.
    pub replicates: u32,
    /// Standard deviation of the logarithm of a time.
    pub noise: f64,
    /// Of the noise.
    pub seed: u64,
}

impl Default for Sweep {
    fn default() -> Self {
        Self {
            models: &[("m", 1_000_000)],
            batches: &[1, 2, 4, 8, 16],
            inputs: &[16, 32, 64],
            outputs: &[16, 32, 64],
            gpus: &[1, 2],
            replicates: 4,
            noise: 0.05,
            seed: 1,
        }
    }
}

/// A standard normal number, by Box and Muller.
pub(crate) fn normal(generator: &mut SplitMix64) -> f64 {
    let mut unit = || (f64::from(generator.below(u32::MAX)) + 0.5) / f64::from(u32::MAX);
    (-2.0 * unit().ln()).sqrt() * (std::f64::consts::TAU * unit()).cos()
}

impl Sweep {
    /// The rows, one per trial, block after block.
    #[must_use]
    pub fn rows(&self, ttlt_ms: impl Fn(&Row) -> f64) -> Vec<Row> {
        let mut generator = SplitMix64::new(self.seed);
        let mut rows = Vec::new();
        for replicate in 0..self.replicates {
            for (model, params) in self.models {
                for batch_size in self.batches {
                    for input_len in self.inputs {
                        for output_len in self.outputs {
                            for gpus in self.gpus {
                                let mut row = Row {
                                    sweep: "synthetic".into(),
                                    trial_index: rows.len() as u32,
                                    run_order: rows.len() as u32,
                                    trial_key: format!("{:064x}", rows.len()),
                                    replicate,
                                    outcome: Some(Outcome::Succeeded),
                                    valid: Some(true),
                                    model: (*model).into(),
                                    model_params: Some(*params),
                                    dtype: "bf16".into(),
                                    batch_size: *batch_size,
                                    input_len: *input_len,
                                    output_len: *output_len,
                                    gpus: *gpus,
                                    ..Row::default()
                                };
                                let noise = (self.noise * normal(&mut generator)).exp();
                                set(&mut row, &ttlt_ms, noise);
                                rows.push(row);
                            }
                        }
                    }
                }
            }
        }
        return rows;

        fn set(row: &mut Row, ttlt_ms: impl Fn(&Row) -> f64, noise: f64) {
            let ttlt = ttlt_ms(row) * noise;
            let tokens = f64::from(row.batch_size) * f64::from(row.output_len);
            row.mean_ttlt_ms = Some(ttlt);
            row.mean_ttft_ms = Some(ttlt / 10.0);
            row.output_throughput = Some(tokens / ttlt * 1e3);
            row.output_throughput_per_gpu = Some(tokens / ttlt * 1e3 / f64::from(row.gpus.max(1)));
            row.normalized_latency_ms = Some(ttlt / tokens);
        }
    }
}
