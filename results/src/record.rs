//! The record of one trial: what was asked, what ran, every iteration, telemetry and a verdict. One JSON document,
//! created once in the store and never overwritten; all tables derive from it.

use std::collections::BTreeMap;

pub use inferbench_crds::{
    contract::{EffectiveMeasurement, Request},
    outcome::Outcome,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::capacity::Capacity;

/// Changes whenever the meaning or the shape of a record does. Records of former versions are converted as they are
/// read.
pub const SCHEMA_VERSION: &str = "inferbench.dev/trial/v2";

/// The record of one trial.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TrialRecord {
    /// [`SCHEMA_VERSION`].
    pub schema_version: String,
    /// The sweep's name.
    pub sweep: String,
    /// The trial's number in the design.
    pub trial_index: u32,
    /// The trial's key: hash of `request` and `attempt`.
    pub trial_key: String,
    /// 0, or how often an invalid trial had been measured before.
    pub attempt: u32,
    /// The position in the order of execution.
    pub run_order: u32,
    /// The process that measured: `node/boot id/pid/start time`, hashed; trials that shared a process share it.
    pub process_id: String,
    /// When the trial began, RFC 3339 with milliseconds, UTC.
    pub started_at: String,
    /// When it ended.
    pub ended_at: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, where it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Whether the measurement can be vouched for.
    pub valid: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub invalid_reasons: Vec<String>,
    /// The request.
    pub request: Request,
    /// The configuration that ran; absent where nothing did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective: Option<Effective>,
    /// The timed iterations, in order.
    #[serde(default)]
    pub iterations: Vec<Iteration>,
    /// The requests of a load that does not come in batches; absent where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<Requests>,
    /// Of a trial that searched its load: the bracket that it found, and its tests. The other figures are those of the last
    /// test of the bracket's lower end or, where no load held, of the lowest one; telemetry is over all tests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Capacity>,
    /// The client that asked a server: how late it was itself; absent of engines in the runner's own process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<Client>,
    /// The server's own metrics over the timed window; absent where it reports none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerMetrics>,
    /// The warm-up iterations: how many, how long, the very first TTFT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warmup: Option<Warmup>,
    /// The telemetry sampled beside the timed thread.
    #[serde(default)]
    pub telemetry: Telemetry,
    /// The measured ceilings of the device and this trial's fractions of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roofline: Option<Roofline>,
    /// Why this trial is not held against ceilings; absent where it is, and where nothing was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roofline_missing: Option<String>,
    /// How good what the model wrote is; absent where that was not asked for, or `qualityMissing` says why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
    /// Why there is no quality where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality_missing: Option<String>,
    /// The time that the harness itself took; absent where nothing was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub harness: Option<Harness>,
    /// Where and by what it was measured.
    pub provenance: Provenance,
}

/// The requests of a closed or an open loop. The window opens after the warm-up and closes when enough requests that
/// were intended in it have ended and it has lasted long enough; the load goes on until each of them has ended.
/// Latencies are those of the requests that were intended in the window; throughput is the tokens that came in it, of
/// any request.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Requests {
    /// When the window opened, ns since the Unix epoch.
    pub window_start_unix_ns: i64,
    /// How long it was, in seconds.
    pub window_s: f64,
    /// Output tokens that came in it, of any request.
    pub window_output_tokens: u64,
    /// Requests that ended well in it, whenever they began.
    pub window_completed: u32,
    /// The most requests in flight at once.
    pub max_in_flight: u32,
    /// Of an open loop: whether requests came faster than they were served, so that waiting grew with time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saturated: Option<bool>,
    /// How tokens were counted: `tokenIds`, `timings`, `continuousUsage` or `finalUsage`; with the last, the gaps are
    /// those between events, which may have several tokens.
    pub counting: String,
    /// The requests that were intended in the window, in the order of intention.
    pub requests: Vec<RequestTimes>,
}

/// One request. Offsets count from the time at which it was meant to be sent.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RequestTimes {
    /// When it was meant to be sent, ns since the Unix epoch.
    pub intended_unix_ns: i64,
    /// ms until its last byte was sent; absent where it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_ms: Option<f64>,
    /// For each output token: ms until it was on the host. Tokens of one event have the same time.
    #[serde(default)]
    pub token_ms: Vec<f64>,
    /// Input tokens that the server says it served; absent where it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens: Option<u32>,
    /// Of these, the ones that it found in its prefix cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u32>,
    /// Why it failed; absent where it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Requests {
    /// The counting by the usage at a stream's end: how many tokens an event has is not known.
    pub const FINAL_USAGE: &str = "finalUsage";
    /// The ways of counting.
    pub const COUNTINGS: [&str; 4] = ["tokenIds", "timings", "continuousUsage", Self::FINAL_USAGE];

    /// The requests that did not fail.
    pub fn answered(&self) -> impl Iterator<Item = &RequestTimes> {
        let requests = self.requests.iter();
        requests.filter(|request| request.error.is_none())
    }

    /// From the opening of the window to a time, in ms.
    #[must_use]
    pub fn into_window_ms(&self, unix_ns: i64) -> f64 {
        unix_ns.saturating_sub(self.window_start_unix_ns) as f64 / 1e6
    }
}

impl RequestTimes {
    /// Time to first token; none where there was none.
    #[must_use]
    pub fn ttft_ms(&self) -> Option<f64> {
        self.token_ms.first().copied()
    }

    /// Time to last token, of a request that did not fail.
    #[must_use]
    pub fn e2e_ms(&self) -> Option<f64> {
        self.token_ms
            .last()
            .copied()
            .filter(|_| self.error.is_none())
    }

    /// Mean time per output token after the first, of a request that did not fail; none for one token.
    #[must_use]
    pub fn tpot_ms(&self) -> Option<f64> {
        let gaps = self
            .token_ms
            .len()
            .checked_sub(1)
            .filter(|&gaps| gaps > 0)?;
        Some((self.e2e_ms()? - self.ttft_ms()?) / gaps as f64)
    }
}

/// How late the client itself was.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Client {
    /// From the intended time until a request was sent, in ms: the median.
    pub send_lag_p50_ms: Option<f64>,
    /// The 99th percentile of it.
    pub send_lag_p99_ms: Option<f64>,
    /// The longest.
    pub send_lag_max_ms: Option<f64>,
    /// From the time at which bytes could be read until they had their time stamp, in ms: the 99th percentile.
    pub stamp_lag_p99_ms: Option<f64>,
    /// CPU seconds of the client's thread over the timed window.
    pub cpu_s: Option<f64>,
    /// The share of that window.
    pub cpu_pct: Option<f64>,
}

/// A server's own metrics over the timed window.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerMetrics {
    /// The greatest share of its cache in use, in percent.
    pub kv_use_max_pct: Option<f64>,
    /// Requests that lost their place in the cache and began again.
    pub preemptions: Option<f64>,
    /// Requests that waited: mean over time.
    pub queue_mean: Option<f64>,
    /// The most that waited.
    pub queue_max: Option<f64>,
    /// The share of tokens of prompts that it found in its prefix cache, in percent.
    pub prefix_hit_pct: Option<f64>,
    /// Whether its metrics came from more than one process.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub restarted: bool,
    /// The samples that these are made of, over time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<ServerSample>,
}

/// A server's own metrics at one time.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ServerSample {
    /// When, ns since the Unix epoch.
    pub unix_ns: i64,
    /// Requests that it worked on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<f64>,
    /// Requests that waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<f64>,
    /// The share of its cache in use, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_use_pct: Option<f64>,
    /// Preemptions so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preemptions: Option<f64>,
    /// Tokens found in the prefix cache so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix_hits: Option<f64>,
    /// Tokens looked for there so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix_queries: Option<f64>,
}

/// The time that the harness itself took.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Harness {
    /// Seconds from the start of the process to the first warm-up iteration, less the loading of the model; absent
    /// where the process had measured before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_s: Option<f64>,
    /// Seconds from the first timed iteration's prompts to the end of the last one.
    pub window_s: f64,
    /// Seconds of that inside the iterations; the rest made prompts and checked answers.
    pub timed_s: f64,
}

/// How good what the model wrote is: one batch of greedy continuations of text, outside the timed window, judged by the
/// model itself. That it finds its own words likely says how sure it is, not that it is right; and text that goes round
/// in circles is likely, too.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Quality {
    /// Mean of ln p(token | all before it) over the continuations' tokens, nats.
    pub mean_log_likelihood: f64,
    /// exp(−meanLogLikelihood).
    pub perplexity: f64,
    /// Share of a continuation's 4-grams that it had before, 1 − distinct/all (Welleck et al., 2020, seq-rep-4): mean
    /// over the batch; absent below four output tokens.
    pub repetition_rate: Option<f64>,
    /// Cosine of the mean last hidden states of prompt and continuation: mean over the batch.
    pub prompt_similarity: f64,
}

/// The configuration that ran, as the engine reports it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Effective {
    /// The class of config.json's `architectures`.
    pub architecture: String,
    /// Parameters, a tied head counted once.
    pub model_params: u64,
    /// The data type of the weights.
    pub dtype: String,
    /// Sequences in a batch.
    pub batch_size: u32,
    /// Input tokens of each sequence.
    pub input_len: u32,
    /// Output tokens of each sequence.
    pub output_len: u32,
    /// Devices that divided the work; 0 for CPU.
    pub gpus: u32,
    /// The engine, such as `candle`.
    pub engine: String,
    /// `eager`, `graph` or `reference`.
    pub engine_mode: String,
    /// The engine's configuration that took effect, beyond what the trial asks for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub configuration: BTreeMap<String, String>,
    /// Bytes of weights in memory.
    pub weight_bytes: u64,
    /// Seconds from the start of loading to a usable model.
    pub model_load_s: f64,
    /// Seconds from the start of a server's process until it answered a request; absent of other engines, and where an
    /// earlier trial had started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_start_s: Option<f64>,
    /// Compute threads.
    pub threads: u32,
    /// Whether denormals are flushed to zero on every compute thread.
    pub denormals_flushed: bool,
    /// Whether prompts were `text` (a corpus cut to length) or `ids` (seeded).
    pub prompts: String,
    /// The seed of the first iteration's prompts.
    pub prompt_seed: u64,
}

/// One timed batch. Offsets count from the iteration's start: input ids ready on the host; for a server, its requests
/// ready to be sent.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Iteration {
    /// The start, ns since the Unix epoch.
    pub start_unix_ns: i64,
    /// The batch's sequences; those whose times are the same stand once.
    pub sequences: Vec<SequenceTimes>,
}

/// The times of sequences that share them.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SequenceTimes {
    /// How many sequences.
    pub count: u32,
    /// For each output token: ms from the iteration's start until it was on the host.
    pub token_ms: Vec<f64>,
}

impl Effective {
    /// The member of `configuration` that says how the tokens of a server's batches were counted.
    pub const TOKEN_COUNTING: &str = "tokenCounting";
}

impl Iteration {
    /// An iteration whose sequences all have the same times.
    #[must_use]
    pub fn of_batch(start_unix_ns: i64, batch_size: u32, token_ms: Vec<f64>) -> Self {
        Self {
            start_unix_ns,
            sequences: vec![SequenceTimes {
                count: batch_size,
                token_ms,
            }],
        }
    }
}

/// The warm-up.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Warmup {
    /// Iterations.
    pub iterations: u32,
    /// Seconds.
    pub duration_s: f64,
    /// The TTFT of the process's very first iteration, in ms.
    pub first_iteration_ttft_ms: f64,
}

/// The telemetry sampled beside the timed thread.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Telemetry {
    /// CPU and memory of the engine's processes over the timed window.
    pub cpu: CpuTelemetry,
    /// The GPUs in use; empty on CPU.
    pub gpus: Vec<GpuTelemetry>,
    /// All samples, before, during and after the timed window.
    pub samples: Vec<Sample>,
    /// Why there is no GPU telemetry, or none of some GPU, where there are GPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_telemetry_missing: Option<String>,
}

/// CPU and memory of the engine's processes over the timed window.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct CpuTelemetry {
    /// User and system seconds of all threads, of ended processes, too.
    pub cpu_time_s: Option<f64>,
    /// Peak resident memory of the processes.
    pub rss_peak_mib: Option<f64>,
    /// Time the cgroup's quota stopped the process, in ms.
    pub cpu_throttled_ms: Option<f64>,
    /// Share of CPU time that the hypervisor gave to others, over the CPUs that the process may use.
    pub cpu_steal_pct: Option<f64>,
    /// Share of those CPUs' time that neither the engine nor the runner took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_foreign_pct: Option<f64>,
    /// Mean clock of the CPUs that the process may use.
    pub cpu_freq_mean_mhz: Option<f64>,
    /// NUMA nodes that those CPUs belong to.
    pub numa_nodes: Option<u32>,
    /// Whether two of those CPUs share a core.
    pub smt: Option<bool>,
    /// Other trials on this node at the same time.
    pub concurrent_trials: Option<u32>,
}

/// One GPU over the timed window, or a slice of one (`MIG-…`): power, energy, clocks, temperature and reasons are the
/// whole GPU's then.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct GpuTelemetry {
    /// The UUID.
    pub uuid: String,
    /// Share of time in which any kernel ran, mean over time.
    pub util_mean_pct: Option<f64>,
    /// The same, maximum over time.
    pub util_max_pct: Option<f64>,
    /// Share of the memory's bandwidth in use, mean over time; only where the GPU counts it (Hopper and newer).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dram_active_mean_pct: Option<f64>,
    /// Share of time in which the matrix units were at work, mean over time and multiprocessors; likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensor_active_mean_pct: Option<f64>,
    /// Memory of the device.
    pub mem_total_mib: Option<f64>,
    /// Memory in use before the model was loaded.
    pub mem_before_mib: Option<f64>,
    /// The most memory in use.
    pub mem_peak_mib: Option<f64>,
    /// Memory in use after the trial.
    pub mem_after_mib: Option<f64>,
    /// Power, mean over time.
    pub power_mean_w: Option<f64>,
    /// Energy over the window.
    pub energy_j: Option<f64>,
    /// Clock of the multiprocessors, mean over time.
    pub sm_clock_mean_mhz: Option<f64>,
    /// Clock of the memory, mean over time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_clock_mean_mhz: Option<f64>,
    /// Temperature of the die, maximum over time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temp_max_c: Option<f64>,
    /// Why the clock was held back, names joined by `|`; empty where nothing held it back, absent where unknown.
    pub throttle_reasons: Option<String>,
    /// Processes of others seen on the device.
    pub foreign_processes: Option<u32>,
}

/// When a sample was taken.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Before the timed window.
    Before,
    /// In it.
    During,
    /// After it.
    After,
}

/// One sample of the engine's processes or of one GPU.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    /// When, ns since the Unix epoch.
    pub unix_ns: i64,
    /// When, in relation to the timed window.
    pub phase: Phase,
    /// The GPU's UUID; absent for the processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_uuid: Option<String>,
    /// Resident memory of the processes, or memory in use on the GPU.
    pub mem_mib: Option<f64>,
    /// CPU seconds of the processes so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_time_s: Option<f64>,
    /// GPU utilization over the driver's period that ended then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub util_pct: Option<f64>,
    /// Share of the GPU memory's bandwidth in use since the sample before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dram_active_pct: Option<f64>,
    /// Share of that time in which the matrix units were at work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensor_active_pct: Option<f64>,
    /// GPU power.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_w: Option<f64>,
    /// GPU clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sm_clock_mhz: Option<f64>,
    /// Clock of the GPU's memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem_clock_mhz: Option<f64>,
    /// GPU temperature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temp_c: Option<f64>,
}

/// The ceilings of the device and this trial's fractions of them.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Roofline {
    /// Read bandwidth, bytes/s.
    pub bandwidth_bytes_per_s: f64,
    /// Matrix products, FLOP/s, in the trial's dtype; in f32 where weights are quantized.
    pub matrix_flops_per_s: f64,
    /// Roofline time over measured time, decode; absent for one output token.
    pub decode_fraction: Option<f64>,
    /// Roofline time over measured time, prefill.
    pub prefill_fraction: Option<f64>,
    /// The ceiling that binds decode: `bandwidth` or `matrix`.
    pub decode_bound: Option<String>,
    /// The ceiling that binds prefill.
    pub prefill_bound: Option<String>,
    /// The working set fits the last-level cache, so that fractions may exceed 1.
    pub fits_cache: bool,
    /// How much of the working set the last-level cache can hold, between 0 and 1: so much may be read faster than memory,
    /// and a fraction that memory's bandwidth bounds may exceed 1 by it. 0 where it is not known.
    #[serde(default, skip_serializing_if = "crate::counts::is_zero")]
    pub cache_share: f64,
    /// The disturbances each time the ceilings were measured, so that they may be too low and the fractions too high;
    /// empty where it was quiet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ceilings_disturbed: Vec<String>,
}

impl Roofline {
    /// A fraction beyond this was held against a ceiling that is too low, unless the cache explains it: ceilings are
    /// medians, and the work they are compared with is counted to a few percent.
    pub const MAX_FRACTION: f64 = 1.05;
    /// How many times as fast as memory a cache is taken to be at most, where it holds a part of what is read.
    const CACHE_SPEEDUP: f64 = 4.0;

    /// Whether decode, then prefill, came out faster than the ceilings allow, and than what a cache holds of the work.
    #[must_use]
    pub fn above_ceiling(&self) -> [bool; 2] {
        [
            (self.decode_fraction, &self.decode_bound),
            (self.prefill_fraction, &self.prefill_bound),
        ]
        .map(|(fraction, bound)| {
            let from_memory = match bound.as_deref() {
                Some("matrix") => 1.0,
                _ => (1.0 - self.cache_share).max(1.0 / Self::CACHE_SPEEDUP),
            };
            !self.fits_cache && fraction.is_some_and(|f| f * from_memory > Self::MAX_FRACTION)
        })
    }
}

/// Where and by what a trial was measured.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Provenance {
    /// The version of the engine, with candle's.
    pub engine_version: String,
    /// The version of the runner.
    pub runner_version: String,
    /// `cpu`, or the GPU's name; `gpu` where no process lived to tell it.
    pub device: String,
    /// UUIDs of the GPUs, joined by `|`.
    pub device_uuid: Option<String>,
    /// The driver's version.
    pub driver: Option<String>,
    /// CUDA's version.
    pub cuda: Option<String>,
    /// The CPU's name.
    pub cpu: String,
    /// The node's or machine's name.
    pub node: String,
    /// The image's digest.
    pub image_digest: Option<String>,
    /// Kernel and distribution.
    pub os: Option<String>,
}
