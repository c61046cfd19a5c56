//! The rows of the tables: `trials` (one per stored attempt, and one per trial without a record), `iterations` and
//! `telemetry`. This is where a record's members become columns.

mod levels;
mod of;
mod parts;

use std::sync::Arc;

use inferbench_crds::outcome::Outcome;
use jiff::Timestamp;

pub use self::levels::FurtherLevels;
pub(crate) use self::levels::of_column;
use crate::{columns::table, record::Request};

table! {
    /// One row of `trials.csv` and `trials.parquet`. Empty where it does not apply; never a zero for unknown.
    #[derive(Clone, Debug, Default, PartialEq)]
    pub struct Row = "trials", "one stored attempt at a trial, or a trial without a record" {
        /// The sweep's name.
        "" sweep: String,
        /// The trial's number in the design.
        "" trial_index: u32,
        /// The hash of all that the trial's request fixes, and of the attempt: the record is `trials/<key>.json`.
        "" trial_key: String,
        /// 0, or how often an invalid trial had been measured before.
        "" attempt: u32,
        /// The block, from 0: every combination is measured once per block.
        "" replicate: u32,
        /// The position in the order of execution.
        "" run_order: u32,
        /// The process that measured, hashed; trials that shared a process share it.
        "" process_id: Option<String>,
        /// When the trial began.
        "UTC" started_at: Option<Timestamp>,
        /// How it ended: Succeeded, OutOfMemory, Unsupported, TimedOut, Failed, or NotNeeded where the design's `until` was
        /// met without it, or where it would have measured again what is not the best; empty for a trial that has not ended.
        "" outcome: Option<Outcome>,
        /// Whether the measurement can be vouched for; the analysis leaves the others out.
        "" valid: Option<bool>,
        /// Why not, joined by `; `.
        "" invalid_reasons: Option<String>,
        /// Why it has no measurement, in the record's words: in one line, of at most 500 characters; empty where there is no record.
        "" message: Option<String>,
        /// The model's level.
        "" model: String,
        /// The commit, content hash or `preset@seed` of the weights.
        "" model_revision: String,
        /// The class of config.json's `architectures`.
        "" architecture: Option<String>,
        /// Parameters, a tied head counted once.
        "" model_params: Option<u64>,
        /// Data type of the weights; cache and activations have the same, or f32 on CPU and where weights are quantized.
        "" dtype: String,
        /// b: sequences in a batch; 1 where requests come one by one.
        "sequences" batch_size: u32,
        /// s: input tokens of each sequence.
        "tokens" input_len: u32,
        /// n: output tokens of each sequence.
        "tokens" output_len: u32,
        /// Devices of the engine; 0 for CPU.
        "" gpus: u32,
        /// Timed iterations; where requests come one by one, those that did not fail.
        "" iterations: Option<u32>,
        /// Time to first token of the whole batch, from input ids on the host; where requests come one by one, of each from the time at which it was meant to be sent: mean over iterations.
        "ms" mean_ttft_ms: Option<f64>,
        /// Time to first token: median over iterations.
        "ms" median_ttft_ms: Option<f64>,
        /// Time to first token: standard deviation over iterations (count − 1).
        "ms" std_ttft_ms: Option<f64>,
        /// Time to first token: minimum over iterations.
        "ms" min_ttft_ms: Option<f64>,
        /// Time to first token: maximum over iterations.
        "ms" max_ttft_ms: Option<f64>,
        /// Time to last token of the whole batch; where requests come one by one, of each (E2E): mean over iterations.
        "ms" mean_ttlt_ms: Option<f64>,
        /// Time to last token: median over iterations.
        "ms" median_ttlt_ms: Option<f64>,
        /// Time to last token: standard deviation over iterations (count − 1).
        "ms" std_ttlt_ms: Option<f64>,
        /// Time to last token: minimum over iterations.
        "ms" min_ttlt_ms: Option<f64>,
        /// Time to last token: maximum over iterations.
        "ms" max_ttlt_ms: Option<f64>,
        /// Time per output token, (ttlt − ttft)/(n − 1): mean over iterations; empty for n = 1.
        "ms" mean_tpot_ms: Option<f64>,
        /// Time per output token: median over iterations.
        "ms" median_tpot_ms: Option<f64>,
        /// Time per output token: standard deviation over iterations (count − 1).
        "ms" std_tpot_ms: Option<f64>,
        /// Time per output token: minimum over iterations.
        "ms" min_tpot_ms: Option<f64>,
        /// Time per output token: maximum over iterations.
        "ms" max_tpot_ms: Option<f64>,
        /// Inter-token latency, the gaps of all iterations pooled: median; empty, with the other columns of it, where the server does not tell how many tokens an event has.
        "ms" median_itl_ms: Option<f64>,
        /// Inter-token latency: 90th percentile; empty below 36 gaps, where it may lie beyond all that was seen.
        "ms" p90_itl_ms: Option<f64>,
        /// Inter-token latency: maximum.
        "ms" max_itl_ms: Option<f64>,
        /// Time to first token of requests, or of the sequences of a server's batches: 50th percentile; empty below 6, where it may lie beyond all that was seen.
        "ms" p50_ttft_ms: Option<f64>,
        /// Time to first token of requests, or of the sequences of a server's batches: 90th percentile; empty below 36, where it may lie beyond all that was seen.
        "ms" p90_ttft_ms: Option<f64>,
        /// Time to first token of requests, or of the sequences of a server's batches: 99th percentile; empty below 368, where it may lie beyond all that was seen.
        "ms" p99_ttft_ms: Option<f64>,
        /// Time per output token of requests, or of the sequences of a server's batches: 50th percentile; empty below 6, where it may lie beyond all that was seen.
        "ms" p50_tpot_ms: Option<f64>,
        /// Time per output token of requests, or of the sequences of a server's batches: 90th percentile; empty below 36, where it may lie beyond all that was seen.
        "ms" p90_tpot_ms: Option<f64>,
        /// Time per output token of requests, or of the sequences of a server's batches: 99th percentile; empty below 368, where it may lie beyond all that was seen.
        "ms" p99_tpot_ms: Option<f64>,
        /// Inter-token latency: 50th percentile; empty below 6, where it may lie beyond all that was seen.
        "ms" p50_itl_ms: Option<f64>,
        /// Inter-token latency: 99th percentile; empty below 368, where it may lie beyond all that was seen.
        "ms" p99_itl_ms: Option<f64>,
        /// Time to last token of requests, or of the sequences of a server's batches: 50th percentile; empty below 6, where it may lie beyond all that was seen.
        "ms" p50_e2e_ms: Option<f64>,
        /// Time to last token of requests, or of the sequences of a server's batches: 90th percentile; empty below 36, where it may lie beyond all that was seen.
        "ms" p90_e2e_ms: Option<f64>,
        /// Time to last token of requests, or of the sequences of a server's batches: 99th percentile; empty below 368, where it may lie beyond all that was seen.
        "ms" p99_e2e_ms: Option<f64>,
        /// b·n / mean(ttlt); where requests come one by one, the output tokens that came in the timed window / its length.
        "tokens/s" output_throughput: Option<f64>,
        /// b·(n − 1) / (mean(ttlt) − mean(ttft)); empty for n = 1, and where requests come one by one.
        "tokens/s" decode_throughput: Option<f64>,
        /// b·s / mean(ttft); empty where requests come one by one.
        "tokens/s" prefill_throughput: Option<f64>,
        /// mean(ttlt) / (b·n): exactly the inverse of output_throughput; empty where requests come one by one.
        "ms" normalized_latency_ms: Option<f64>,
        /// output_throughput / gpus; empty on CPU.
        "tokens/s" output_throughput_per_gpu: Option<f64>,
        /// Requests that ended well in the timed window / its length; of a server's batches, b / mean(ttlt). With the columns after it but goodput, of servers and endpoints alone.
        "requests/s" request_throughput: Option<f64>,
        /// Requests that keep to every objective on time, a second of the timed window; of batches, sequences; empty without such objectives.
        "requests/s" goodput: Option<f64>,
        /// Requests that were meant to be sent in the timed window; of a server's batches, sequences.
        "" requests: Option<u32>,
        /// Of these, the ones that failed.
        "" request_errors: Option<u32>,
        /// Whether requests came faster than they were served, so that waiting grew with time; where they come at random.
        "" saturated: Option<bool>,
        /// The most requests in flight at once.
        "requests" max_in_flight: Option<u32>,
        /// How tokens were counted: `tokenIds`, `timings`, `continuousUsage` or `finalUsage`.
        "" token_counting: Option<String>,
        /// The greatest share of the server's cache in use in the timed window.
        "%" kv_use_max_pct: Option<f64>,
        /// Requests that lost their place in that cache and began again.
        "" preemptions: Option<f64>,
        /// Requests that waited in the server: mean over the timed window.
        "requests" queue_mean: Option<f64>,
        /// The most that waited.
        "requests" queue_max: Option<f64>,
        /// Share of the prompts' tokens that the server found in its prefix cache.
        "%" prefix_hit_pct: Option<f64>,
        /// From the time at which a request was meant to be sent until it was: 99th percentile.
        "ms" client_send_lag_p99_ms: Option<f64>,
        /// From the time at which bytes could be read until they had their time stamp: 99th percentile.
        "ms" client_stamp_lag_p99_ms: Option<f64>,
        /// CPU time of the client's thread over the timed window.
        "%" client_cpu_pct: Option<f64>,
        /// GPUs on which any kernel was seen to run in the timed window.
        "" gpus_active: Option<u32>,
        /// Share of time in which any kernel ran: mean over time and devices. Not the share of the device in use.
        "%" gpu_util_mean_pct: Option<f64>,
        /// The same: maximum over time and devices.
        "%" gpu_util_max_pct: Option<f64>,
        /// Share of the memory's bandwidth in use, as the GPU counts it (Hopper and newer): mean over time and devices.
        "%" gpu_dram_active_mean_pct: Option<f64>,
        /// Share of time in which the matrix units were at work, likewise.
        "%" gpu_tensor_active_mean_pct: Option<f64>,
        /// Memory of the devices, summed.
        "MiB" gpu_mem_total_mib: Option<f64>,
        /// Memory in use before the model was loaded, summed over the devices.
        "MiB" gpu_mem_before_mib: Option<f64>,
        /// The most memory in use on each device, summed.
        "MiB" gpu_mem_peak_mib: Option<f64>,
        /// Memory in use after the trial, summed over the devices.
        "MiB" gpu_mem_after_mib: Option<f64>,
        /// Power: mean over time, summed over the devices. Where a slice of a GPU (MIG) is used, power, energy, clocks, temperature and throttling are the whole GPU's.
        "W" gpu_power_mean_w: Option<f64>,
        /// Energy over the timed window, summed over the devices.
        "J" gpu_energy_j: Option<f64>,
        /// gpu_energy_j / (b·n·iterations); where requests come one by one, / the output tokens that came in the timed window.
        "J" joules_per_output_token: Option<f64>,
        /// Clock of the multiprocessors: mean over time and devices.
        "MHz" sm_clock_mean_mhz: Option<f64>,
        /// Clock of the GPUs' memory: mean over time and devices.
        "MHz" mem_clock_mean_mhz: Option<f64>,
        /// Temperature of the die: maximum over time and devices.
        "°C" gpu_temp_max_c: Option<f64>,
        /// Why clocks were held back, on any device, joined by `|`; `none` where nothing held them back.
        "" throttle_reasons: Option<String>,
        /// User and system seconds of all threads in the timed window.
        "s" cpu_time_s: Option<f64>,
        /// Peak resident memory of the process.
        "MiB" rss_peak_mib: Option<f64>,
        /// Time for which the cgroup's quota stopped the process in the timed window.
        "ms" cpu_throttled_ms: Option<f64>,
        /// CPU time that the hypervisor gave to others in the timed window.
        "%" cpu_steal_pct: Option<f64>,
        /// Mean clock of the CPUs that the process may use.
        "MHz" cpu_freq_mean_mhz: Option<f64>,
        /// NUMA nodes that those CPUs belong to.
        "" numa_nodes: Option<u32>,
        /// Whether two of those CPUs share a core.
        "" smt: Option<bool>,
        /// Other trials on the same node at the same time.
        "" concurrent_trials: Option<u32>,
        /// The least possible time of decode on this device, by its measured ceilings, over the measured time.
        "" decode_roofline_fraction: Option<f64>,
        /// The same for prefill.
        "" prefill_roofline_fraction: Option<f64>,
        /// The binding side: `decode=bandwidth|prefill=matrix`; `fits-cache` where the working set fits the last cache, so that fractions may exceed 1, `partly-cached` where one does by what of it fits; `decode-above-ceiling`, `prefill-above-ceiling` where a fraction is left out because it cannot be; `ceilings-disturbed` where something else went on whenever the ceilings were measured, or memory had no room for all that they are measured by.
        "" roofline_bound: Option<String>,
        /// Mean of ln p(token | all before it) over the continuations of one batch, by the model itself, outside the timed window; with the next three empty unless `measurement.quality` asks for them, and for random weights.
        "nats/token" mean_log_likelihood: Option<f64>,
        /// exp(−mean_log_likelihood): 1 where every token was certain.
        "" perplexity: Option<f64>,
        /// Share of a continuation's 4-grams that it had before (seq-rep-4 of Welleck et al., 2020): mean over the batch; empty below four output tokens.
        "" repetition_rate: Option<f64>,
        /// Cosine of the mean last hidden states of prompt and continuation: mean over the batch; to compare within one model.
        "" prompt_similarity: Option<f64>,
        /// From the start of loading to a usable model.
        "s" model_load_s: Option<f64>,
        /// From the start of a server's process until it answered a request; empty where an earlier trial had started it.
        "s" engine_start_s: Option<f64>,
        /// Time to first token of the process's very first iteration.
        "ms" first_iteration_ttft_ms: Option<f64>,
        /// The level of the engine; empty for candle where nothing ran.
        "" engine: Option<String>,
        /// `eager`, `graph` or `reference`.
        "" engine_mode: Option<String>,
        /// The engine's version.
        "" engine_version: Option<String>,
        /// The runner's version.
        "" runner_version: Option<String>,
        /// `cpu`, or the GPU's name; `gpu` where no process lived to tell it.
        "" device: Option<String>,
        /// UUIDs of the GPUs, joined by `|`.
        "" device_uuid: Option<String>,
        /// The GPU driver's version.
        "" driver: Option<String>,
        /// CUDA's version.
        "" cuda: Option<String>,
        /// The CPU's name.
        "" cpu: Option<String>,
        /// Compute threads.
        "" threads: Option<u32>,
        /// The node's or machine's name.
        "" node: Option<String>,
        /// The digest of the runner's image.
        "" image_digest: Option<String>,
        /// The seed of the first iteration's prompts.
        "" prompt_seed: Option<u64>,
        /// Of a trial that searched its load: which load that is, `requestRate` (requests/s) or `concurrency` (requests in flight). Then times and throughputs are those of the last test of capacity_low or, where that is empty, of the lowest load; telemetry is over all tests.
        "" capacity_load: Option<String>,
        /// The highest load that was measured to hold the objectives; empty where the lowest one did not.
        "" capacity_low: Option<f64>,
        /// The lowest load that was measured not to hold them; empty where the highest one did.
        "" capacity_high: Option<f64>,
        /// The capacity as a request rate: √(capacity_low · capacity_high); empty where the bracket is open or wider than asked for, or an end was not tested twice.
        "requests/s" capacity_rate: Option<f64>,
        /// The same as a concurrency.
        "requests" capacity_concurrency: Option<f64>,
        /// Loads that were tested, each time counted.
        "" capacity_tests: Option<u32>,
        /// A note on the bracket: how the search ended where it is open, and which tests contradict each other.
        "" capacity_note: Option<String>,
        /// True where the trial measures again, in a fresh block, what was the best after all replicates (`design.confirm`). Its figures stand beside those of that choice alone; empty for all others.
        "" confirming: Option<bool>,
        ..
        /// The levels of factors without a column above, which have columns after these.
        further: FurtherLevels,
    }
}

table! {
    /// One row of `iterations.parquet`.
    #[derive(Clone, Debug, PartialEq)]
    pub struct IterationRow = "iterations", "one timed batch of a stored attempt" {
        /// The record's key.
        "" trial_key: Arc<str>,
        /// The trial's number in the design.
        "" trial_index: u32,
        /// The attempt.
        "" attempt: u32,
        /// The iteration's number, from 0.
        "" iteration: u32,
        /// The start: input ids ready on the host.
        "ns since the Unix epoch" start_unix_ns: i64,
        /// Time to first token of the whole batch.
        "ms" ttft_ms: Option<f64>,
        /// Time to last token of the whole batch.
        "ms" ttlt_ms: Option<f64>,
        /// Inter-token latencies: the n − 1 gaps.
        "ms" itl_ms: Vec<f32>,
    }
}

table! {
    /// One row of `requests.parquet`.
    #[derive(Clone, Debug, PartialEq)]
    pub struct RequestRow = "requests", "one request of a stored attempt whose requests come one by one" {
        /// The record's key.
        "" trial_key: Arc<str>,
        /// The trial's number in the design.
        "" trial_index: u32,
        /// The attempt.
        "" attempt: u32,
        /// The request's number, from 0, in the order of intention.
        "" request: u32,
        /// When it was meant to be sent.
        "ns since the Unix epoch" intended_unix_ns: i64,
        /// From then until its last byte was sent; empty where it was not.
        "ms" sent_ms: Option<f64>,
        /// Time to first token; empty where there was none.
        "ms" ttft_ms: Option<f64>,
        /// Time to last token; empty where it failed.
        "ms" e2e_ms: Option<f64>,
        /// The gaps between its tokens, 0 within one event.
        "ms" itl_ms: Vec<f32>,
        /// Input tokens that the server says it served; empty where it does not say.
        "tokens" input_tokens: Option<u32>,
        /// Of these, the ones that it found in its prefix cache.
        "tokens" cached_tokens: Option<u32>,
        /// Output tokens that came.
        "tokens" output_tokens: u32,
        /// Why it failed; empty where it did not.
        "" error: Option<String>,
    }
}

table! {
    /// One row of `telemetry.parquet`.
    #[derive(Clone, Debug, PartialEq)]
    pub struct TelemetryRow = "telemetry", "one sample of the process or of one GPU" {
        /// The record's key.
        "" trial_key: Arc<str>,
        /// The trial's number in the design.
        "" trial_index: u32,
        /// The attempt.
        "" attempt: u32,
        /// When.
        "ns since the Unix epoch" unix_ns: i64,
        /// `before`, `during` or `after` the timed window.
        "" phase: Arc<str>,
        /// The GPU; empty for the process.
        "" gpu_uuid: Option<Arc<str>>,
        /// Resident memory of the process, or memory in use on the GPU.
        "MiB" mem_mib: Option<f64>,
        /// CPU time of the process so far.
        "s" cpu_time_s: Option<f64>,
        /// Share of the driver's period (up to 1 s) that ended then in which any kernel ran; a row of its own where the driver keeps a buffer of them.
        "%" util_pct: Option<f64>,
        /// Share of the GPU memory's bandwidth in use since the sample before.
        "%" dram_active_pct: Option<f64>,
        /// Share of that time in which the matrix units were at work.
        "%" tensor_active_pct: Option<f64>,
        /// Power.
        "W" power_w: Option<f64>,
        /// Clock of the multiprocessors.
        "MHz" sm_clock_mhz: Option<f64>,
        /// Clock of the GPU's memory.
        "MHz" mem_clock_mhz: Option<f64>,
        /// Temperature.
        "°C" temp_c: Option<f64>,
    }
}

/// A trial of the design, as the tables need to know it.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// The trial's number in the design.
    pub trial_index: u32,
    /// Its position in the order of execution.
    pub run_order: u32,
    /// The request.
    pub request: Request,
    /// How it ended, where that is known without a record: found unsupported, failed without a word, and so on.
    pub outcome: Option<Outcome>,
}

#[cfg(test)]
mod tests;
