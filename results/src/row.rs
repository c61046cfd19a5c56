//! The rows of the tables: `trials` (one per stored attempt, and one per trial without a record), `iterations` and
//! `telemetry`. This is where a record's members become columns.

mod levels;

use std::sync::Arc;

use inferbench_crds::{factor::Levels, outcome::Outcome, search::Searched, spec::Objectives};
use jiff::Timestamp;

pub use self::levels::FurtherLevels;
pub(crate) use self::levels::of_column;
use crate::{
    capacity::Capacity,
    columns::table,
    metrics::{
        Answer, AnswerTimes, BatchShape, ItlStats, Quantiles, RequestMetrics, Stats, TrialMetrics,
    },
    record::{Effective, GpuTelemetry, Iteration, Phase, Request, Requests, Roofline, TrialRecord},
};

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
        /// Requests that ended well in the timed window / its length; of a server's batches, b / mean(ttlt). With the columns after it, of servers and endpoints alone.
        "requests/s" request_throughput: Option<f64>,
        /// Requests that keep to every objective on time, a second of the timed window; empty without such objectives.
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
        /// The binding side: `decode=bandwidth|prefill=matrix`; `fits-cache` where the working set fits the last cache, so that fractions may exceed 1; `decode-above-ceiling`, `prefill-above-ceiling` where a fraction is left out because it cannot be; `ceilings-disturbed` where something else went on whenever the ceilings were measured.
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

impl Row {
    /// The row of a trial that has left no record.
    #[must_use]
    pub fn without_record(sweep: &str, planned: &Planned) -> Self {
        Self {
            sweep: sweep.into(),
            trial_index: planned.trial_index,
            run_order: planned.run_order,
            outcome: planned.outcome,
            ..Self::asked(&planned.request)
        }
    }

    /// The row of a record, which has passed its check, without objectives: see [`Self::under`].
    #[must_use]
    pub fn of(record: &TrialRecord) -> Self {
        Self::under(record, &Objectives::default())
    }

    /// The row of a record, which has passed its check; its goodput is that under these objectives.
    #[must_use]
    pub fn under(record: &TrialRecord, objectives: &Objectives) -> Self {
        let cpu = &record.telemetry.cpu;
        let provenance = &record.provenance;
        let mut row = Self {
            sweep: record.sweep.clone(),
            trial_index: record.trial_index,
            trial_key: record.trial_key.clone(),
            attempt: record.attempt,
            run_order: record.run_order,
            process_id: text(&record.process_id),
            started_at: record.started_at.parse().ok().and_then(to_millisecond),
            outcome: Some(record.outcome),
            valid: Some(record.valid),
            invalid_reasons: text(&record.invalid_reasons.join("; ")),
            cpu_time_s: finite(cpu.cpu_time_s),
            rss_peak_mib: finite(cpu.rss_peak_mib),
            cpu_throttled_ms: finite(cpu.cpu_throttled_ms),
            cpu_steal_pct: finite(cpu.cpu_steal_pct),
            cpu_freq_mean_mhz: finite(cpu.cpu_freq_mean_mhz),
            numa_nodes: cpu.numa_nodes,
            smt: cpu.smt,
            concurrent_trials: cpu.concurrent_trials,
            first_iteration_ttft_ms: record
                .warmup
                .as_ref()
                .map(|warmup| warmup.first_iteration_ttft_ms),
            engine_version: text(&provenance.engine_version),
            runner_version: text(&provenance.runner_version),
            device: text(&provenance.device),
            device_uuid: optional(&provenance.device_uuid),
            driver: optional(&provenance.driver),
            cuda: optional(&provenance.cuda),
            cpu: text(&provenance.cpu),
            node: text(&provenance.node),
            image_digest: optional(&provenance.image_digest),
            ..Self::asked(&record.request)
        };
        row.set_effective(record);
        let tokens = match &record.requests {
            Some(requests) => {
                row.set_requests(requests, objectives);
                requests.window_output_tokens as f64
            }
            None => {
                row.set_metrics(&record.iterations);
                if record.client.is_some() {
                    row.set_answers(&record.iterations, objectives);
                }
                let iterations = row.iterations.unwrap_or_default();
                f64::from(iterations) * f64::from(row.batch_size) * f64::from(row.output_len)
            }
        };
        row.set_server(record);
        // Energy is over all tests of a search, and the tokens are those of one.
        let tokens = if record.capacity.is_some() {
            0.0
        } else {
            tokens
        };
        row.set_gpus(&record.telemetry.gpus, tokens);
        if let Some(capacity) = &record.capacity {
            row.set_capacity(capacity);
        }
        if let Some(roofline) = &record.roofline {
            row.set_roofline(roofline);
        }
        if let Some(quality) = &record.quality {
            row.mean_log_likelihood = finite(Some(quality.mean_log_likelihood));
            row.perplexity = finite(Some(quality.perplexity));
            row.repetition_rate = finite(quality.repetition_rate);
            row.prompt_similarity = finite(Some(quality.prompt_similarity));
        }
        row
    }

    fn asked(request: &Request) -> Self {
        let mut row = Self {
            replicate: request.replicate,
            confirming: request.confirming.then_some(true),
            model_revision: request.model_revision.clone(),
            // No stated level where requests come one by one.
            batch_size: request.combination.batch_size,
            capacity_load: request
                .combination
                .search
                .as_ref()
                .map(|search| search.factor.name().to_owned()),
            ..Self::default()
        };
        for (factor, level) in Levels::of(&request.combination).stated() {
            row.set_level(factor, level);
        }
        row
    }

    fn set_capacity(&mut self, capacity: &Capacity) {
        let middle = finite(capacity.middle());
        match capacity.factor {
            Searched::RequestRate => self.capacity_rate = middle,
            Searched::Concurrency => self.capacity_concurrency = middle,
        }
        self.capacity_low = capacity.low.map(|end| end.load);
        self.capacity_high = capacity.high.map(|end| end.load);
        self.capacity_tests = u32::try_from(capacity.steps.len()).ok();
        self.capacity_note = capacity.note();
    }

    /// The levels that ran in place of those that were asked for: they differ in invalid trials only.
    fn set_effective(&mut self, record: &TrialRecord) {
        let Some(ran) = &record.effective else { return };
        self.architecture = text(&ran.architecture);
        self.model_params = Some(ran.model_params);
        self.dtype.clone_from(&ran.dtype);
        self.batch_size = ran.batch_size;
        self.input_len = ran.input_len;
        self.output_len = ran.output_len;
        self.gpus = ran.gpus;
        self.model_load_s = Some(ran.model_load_s);
        self.engine_start_s = finite(ran.engine_start_s);
        // The level that was asked for tells engines apart that are one program.
        self.engine = self.engine.take().or_else(|| text(&ran.engine));
        self.engine_mode = text(&ran.engine_mode);
        self.threads = Some(ran.threads);
        self.prompt_seed = Some(ran.prompt_seed);
    }

    fn set_metrics(&mut self, iterations: &[Iteration]) {
        let shape = BatchShape {
            batch_size: self.batch_size,
            input_len: self.input_len,
            output_len: self.output_len,
        };
        let Some(metrics) = TrialMetrics::of(iterations, shape) else {
            return;
        };
        self.iterations = u32::try_from(iterations.len()).ok();
        self.set_times(Some(metrics.ttft), Some(metrics.ttlt), metrics.tpot);
        self.set_itl(metrics.itl);
        self.output_throughput = finite(Some(metrics.output_throughput));
        // Two tokens within one tick of the clock have no rate.
        self.decode_throughput = finite(metrics.decode_throughput);
        self.prefill_throughput = finite(Some(metrics.prefill_throughput));
        self.normalized_latency_ms = finite(Some(metrics.normalized_latency_ms));
        self.set_rate_per_gpu();
    }

    /// The metrics of requests that come one by one.
    fn set_requests(&mut self, requests: &Requests, objectives: &Objectives) {
        let metrics = RequestMetrics::of(requests, objectives);
        let failed = requests.requests.iter().filter(|r| r.error.is_some());
        let failed = failed.count();
        let count = |number: usize| u32::try_from(number).ok();
        self.iterations = count(requests.requests.len() - failed);
        self.requests = count(requests.requests.len());
        self.request_errors = count(failed);
        let times = &metrics.times;
        self.set_times(times.ttft.stats, times.e2e.stats, times.tpot.stats);
        self.set_quantiles(times);
        self.set_itl(metrics.itl);
        self.output_throughput = finite(Some(metrics.output_throughput));
        self.set_rate_per_gpu();
        self.request_throughput = finite(Some(metrics.request_throughput));
        self.goodput = finite(metrics.goodput);
        self.saturated = requests.saturated;
        self.max_in_flight = Some(requests.max_in_flight);
        self.token_counting = text(&requests.counting);
    }

    /// The metrics of each sequence of a server's batches.
    fn set_answers(&mut self, iterations: &[Iteration], objectives: &Objectives) {
        let answers = Answer::of_batches(iterations);
        self.requests = u32::try_from(answers.len()).ok();
        self.set_quantiles(&AnswerTimes::of(&answers));
        let rate = self
            .mean_ttlt_ms
            .map(|ttlt| f64::from(self.batch_size) / ttlt * 1e3);
        self.request_throughput = finite(rate);
        self.max_in_flight = Some(self.batch_size);
        if objectives.limit_times() {
            let good = answers.iter().filter(|answer| answer.keeps_to(objectives));
            let share = good.count() as f64 / answers.len() as f64;
            self.goodput = finite(rate.map(|rate| rate * share));
        }
    }

    fn set_times(&mut self, ttft: Option<Stats>, ttlt: Option<Stats>, tpot: Option<Stats>) {
        let spread = |stats: Option<Stats>| match stats {
            Some(stats) => [
                Some(stats.mean),
                Some(stats.median),
                stats.std,
                Some(stats.min),
                Some(stats.max),
            ],
            None => [None; 5],
        };
        [
            self.mean_ttft_ms,
            self.median_ttft_ms,
            self.std_ttft_ms,
            self.min_ttft_ms,
            self.max_ttft_ms,
        ] = spread(ttft);
        [
            self.mean_ttlt_ms,
            self.median_ttlt_ms,
            self.std_ttlt_ms,
            self.min_ttlt_ms,
            self.max_ttlt_ms,
        ] = spread(ttlt);
        [
            self.mean_tpot_ms,
            self.median_tpot_ms,
            self.std_tpot_ms,
            self.min_tpot_ms,
            self.max_tpot_ms,
        ] = spread(tpot);
    }

    fn set_itl(&mut self, itl: Option<ItlStats>) {
        self.median_itl_ms = itl.map(|itl| itl.median_ms);
        self.max_itl_ms = itl.map(|itl| itl.max_ms);
        let Quantiles { p50, p90, p99 } = itl.map(|itl| itl.quantiles).unwrap_or_default();
        [self.p50_itl_ms, self.p90_itl_ms, self.p99_itl_ms] = [p50, p90, p99];
    }

    fn set_quantiles(&mut self, times: &AnswerTimes) {
        let of = |Quantiles { p50, p90, p99 }| [p50, p90, p99];
        [self.p50_ttft_ms, self.p90_ttft_ms, self.p99_ttft_ms] = of(times.ttft.quantiles);
        [self.p50_tpot_ms, self.p90_tpot_ms, self.p99_tpot_ms] = of(times.tpot.quantiles);
        [self.p50_e2e_ms, self.p90_e2e_ms, self.p99_e2e_ms] = of(times.e2e.quantiles);
    }

    fn set_rate_per_gpu(&mut self) {
        self.output_throughput_per_gpu = self
            .output_throughput
            .filter(|_| self.gpus > 0)
            .map(|rate| rate / f64::from(self.gpus));
    }

    /// The metrics that server and client report of themselves.
    fn set_server(&mut self, record: &TrialRecord) {
        if let Some(server) = &record.server {
            self.kv_use_max_pct = finite(server.kv_use_max_pct);
            self.preemptions = finite(server.preemptions);
            self.queue_mean = finite(server.queue_mean);
            self.queue_max = finite(server.queue_max);
            self.prefix_hit_pct = finite(server.prefix_hit_pct);
        }
        if let Some(client) = &record.client {
            self.client_send_lag_p99_ms = finite(client.send_lag_p99_ms);
            self.client_stamp_lag_p99_ms = finite(client.stamp_lag_p99_ms);
            self.client_cpu_pct = finite(client.cpu_pct);
        }
        let configured = record.effective.as_ref().and_then(|ran| {
            let counting = ran.configuration.get(Effective::TOKEN_COUNTING)?;
            text(counting)
        });
        self.token_counting = self.token_counting.take().or(configured);
    }

    /// Sums, means and maxima over devices hold for all of them or not at all: a device that is silent on a member
    /// leaves it empty. `tokens` are the output tokens of the timed window.
    fn set_gpus(&mut self, gpus: &[GpuTelemetry], tokens: f64) {
        if gpus.is_empty() {
            return;
        }
        let all = |member: fn(&GpuTelemetry) -> Option<f64>| {
            gpus.iter()
                .map(|gpu| finite(member(gpu)))
                .collect::<Option<Vec<f64>>>()
        };
        let sum = |member| all(member).map(|values| values.iter().sum::<f64>());
        let mean =
            |member| all(member).map(|values| values.iter().sum::<f64>() / values.len() as f64);
        let utils = all(|gpu| gpu.util_max_pct);
        self.gpus_active = utils
            .as_ref()
            .and_then(|utils| u32::try_from(utils.iter().filter(|util| **util > 0.0).count()).ok());
        self.gpu_util_max_pct = utils.and_then(|utils| utils.into_iter().max_by(f64::total_cmp));
        self.gpu_util_mean_pct = mean(|gpu| gpu.util_mean_pct);
        self.gpu_dram_active_mean_pct = mean(|gpu| gpu.dram_active_mean_pct);
        self.gpu_tensor_active_mean_pct = mean(|gpu| gpu.tensor_active_mean_pct);
        self.gpu_mem_total_mib = sum(|gpu| gpu.mem_total_mib);
        self.gpu_mem_before_mib = sum(|gpu| gpu.mem_before_mib);
        self.gpu_mem_peak_mib = sum(|gpu| gpu.mem_peak_mib);
        self.gpu_mem_after_mib = sum(|gpu| gpu.mem_after_mib);
        self.gpu_power_mean_w = sum(|gpu| gpu.power_mean_w);
        self.gpu_energy_j = sum(|gpu| gpu.energy_j);
        self.sm_clock_mean_mhz = mean(|gpu| gpu.sm_clock_mean_mhz);
        self.mem_clock_mean_mhz = mean(|gpu| gpu.mem_clock_mean_mhz);
        self.gpu_temp_max_c =
            all(|gpu| gpu.temp_max_c).and_then(|temps| temps.into_iter().max_by(f64::total_cmp));
        self.joules_per_output_token = self
            .gpu_energy_j
            .filter(|_| tokens > 0.0)
            .map(|energy| energy / tokens);
        let mut reasons: Vec<&str> = gpus
            .iter()
            .filter_map(|gpu| gpu.throttle_reasons.as_deref())
            .flat_map(|names| names.split('|'))
            .collect();
        reasons.sort_unstable();
        reasons.dedup();
        let all_told = gpus.iter().all(|gpu| gpu.throttle_reasons.is_some());
        reasons.retain(|name| !name.is_empty());
        self.throttle_reasons =
            text(&reasons.join("|")).or_else(|| all_told.then(|| "none".into()));
    }

    fn set_roofline(&mut self, roofline: &Roofline) {
        // A fraction that cannot be is left out: it says something of the ceiling, nothing of the trial.
        let [decode_above, prefill_above] = roofline.above_ceiling();
        self.decode_roofline_fraction = finite(roofline.decode_fraction).filter(|_| !decode_above);
        self.prefill_roofline_fraction =
            finite(roofline.prefill_fraction).filter(|_| !prefill_above);
        let decode = roofline
            .decode_bound
            .as_ref()
            .map(|bound| format!("decode={bound}"));
        let prefill = roofline
            .prefill_bound
            .as_ref()
            .map(|bound| format!("prefill={bound}"));
        let mark = |given: bool, mark: &str| given.then(|| mark.to_owned());
        let marks = [
            mark(roofline.fits_cache, "fits-cache"),
            mark(decode_above, "decode-above-ceiling"),
            mark(prefill_above, "prefill-above-ceiling"),
            mark(
                !roofline.ceilings_disturbed.is_empty(),
                "ceilings-disturbed",
            ),
        ];
        let bounds: Vec<String> = [decode, prefill]
            .into_iter()
            .chain(marks)
            .flatten()
            .collect();
        self.roofline_bound = text(&bounds.join("|"));
    }
}

impl IterationRow {
    /// The rows of a record's iterations.
    #[must_use]
    pub fn of(record: &TrialRecord, trial_index: u32) -> Vec<Self> {
        let trial_key: Arc<str> = record.trial_key.as_str().into();
        let row = |(at, iteration): (usize, &Iteration)| Self {
            trial_key: Arc::clone(&trial_key),
            trial_index,
            attempt: record.attempt,
            iteration: u32::try_from(at).unwrap_or(u32::MAX),
            start_unix_ns: iteration.start_unix_ns,
            ttft_ms: iteration.ttft_ms(),
            ttlt_ms: iteration.ttlt_ms(),
            itl_ms: iteration.itl_ms().map(|gap| gap as f32).collect(),
        };
        record.iterations.iter().enumerate().map(row).collect()
    }
}

impl RequestRow {
    /// The rows of a record's requests; none where they came in batches.
    #[must_use]
    pub fn of(record: &TrialRecord, trial_index: u32) -> Vec<Self> {
        let trial_key: Arc<str> = record.trial_key.as_str().into();
        let row = |(at, request): (usize, &crate::record::RequestTimes)| Self {
            trial_key: Arc::clone(&trial_key),
            trial_index,
            attempt: record.attempt,
            request: u32::try_from(at).unwrap_or(u32::MAX),
            intended_unix_ns: request.intended_unix_ns,
            sent_ms: finite(request.sent_ms),
            ttft_ms: request.ttft_ms(),
            e2e_ms: request.e2e_ms(),
            itl_ms: request.itl_ms().map(|gap| gap as f32).collect(),
            input_tokens: request.input_tokens,
            cached_tokens: request.cached_tokens,
            output_tokens: u32::try_from(request.token_ms.len()).unwrap_or(u32::MAX),
            error: optional(&request.error),
        };
        let requests = record.requests.iter().flat_map(|of| &of.requests);
        requests.enumerate().map(row).collect()
    }
}

impl TelemetryRow {
    /// The rows of a record's samples.
    #[must_use]
    pub fn of(record: &TrialRecord, trial_index: u32) -> Vec<Self> {
        let trial_key: Arc<str> = record.trial_key.as_str().into();
        let [before, during, after] = ["before", "during", "after"].map(Arc::<str>::from);
        let row = |sample: &crate::record::Sample| Self {
            trial_key: Arc::clone(&trial_key),
            trial_index,
            attempt: record.attempt,
            unix_ns: sample.unix_ns,
            phase: Arc::clone(match sample.phase {
                Phase::Before => &before,
                Phase::During => &during,
                Phase::After => &after,
            }),
            gpu_uuid: sample.gpu_uuid.as_deref().map(Into::into),
            mem_mib: finite(sample.mem_mib),
            cpu_time_s: finite(sample.cpu_time_s),
            util_pct: finite(sample.util_pct),
            dram_active_pct: finite(sample.dram_active_pct),
            tensor_active_pct: finite(sample.tensor_active_pct),
            power_w: finite(sample.power_w),
            sm_clock_mhz: finite(sample.sm_clock_mhz),
            mem_clock_mhz: finite(sample.mem_clock_mhz),
            temp_c: finite(sample.temp_c),
        };
        record.telemetry.samples.iter().map(row).collect()
    }
}

fn finite(number: Option<f64>) -> Option<f64> {
    number.filter(|number| number.is_finite())
}

fn text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn optional(member: &Option<String>) -> Option<String> {
    member.as_deref().and_then(text)
}

fn to_millisecond(time: Timestamp) -> Option<Timestamp> {
    Timestamp::from_millisecond(time.as_millisecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{columns::TableRow, fixtures};

    #[test]
    fn devices_are_summed_where_they_add_up() {
        let row = Row::of(&fixtures::gpu_record());
        assert_eq!(row.gpus_active, Some(2));
        assert_eq!(
            (row.gpu_util_mean_pct, row.gpu_util_max_pct),
            (Some(85.0), Some(99.0))
        );
        assert_eq!(
            (row.gpu_mem_peak_mib, row.gpu_power_mean_w),
            (Some(18_000.0), Some(600.0))
        );
        assert_eq!(
            (row.sm_clock_mean_mhz, row.mem_clock_mean_mhz),
            (Some(1_910.0), Some(2_619.0))
        );
        assert_eq!(
            (row.gpu_dram_active_mean_pct, row.gpu_tensor_active_mean_pct),
            (Some(71.0), Some(21.0))
        );
        assert_eq!(row.gpu_temp_max_c, Some(61.0));
        assert_eq!(row.joules_per_output_token, Some(20.0 / (2.0 * 4.0 * 5.0)));
        assert_eq!(
            row.output_throughput_per_gpu,
            row.output_throughput.map(|rate| rate / 2.0)
        );
        let mut record = fixtures::gpu_record();
        let mut throttled = |gpus: [Option<&str>; 2]| {
            for (gpu, reasons) in record.telemetry.gpus.iter_mut().zip(gpus) {
                gpu.throttle_reasons = reasons.map(str::to_owned);
            }
            Row::of(&record).throttle_reasons
        };
        for (gpus, row) in [
            ([Some(""), Some("sw_power_cap")], Some("sw_power_cap")),
            ([Some("b|a"), Some("b")], Some("a|b")),
            ([Some(""), Some("")], Some("none")),
            ([Some(""), None], None),
        ] {
            assert_eq!(throttled(gpus).as_deref(), row);
        }
    }

    #[test]
    fn fractions_that_cannot_be_are_left_out_and_marked() {
        let mut record = fixtures::record();
        let roofline = record.roofline.as_mut().unwrap();
        roofline.decode_fraction = Some(1.5);
        roofline.ceilings_disturbed = vec!["something".into()];
        let row = Row::of(&record);
        assert_eq!(row.decode_roofline_fraction, None);
        assert_eq!(row.prefill_roofline_fraction, Some(0.5));
        assert_eq!(
            row.roofline_bound.as_deref(),
            Some("decode=bandwidth|prefill=matrix|decode-above-ceiling|ceilings-disturbed")
        );
        // The cache explains it.
        record.roofline.as_mut().unwrap().fits_cache = true;
        assert_eq!(Row::of(&record).decode_roofline_fraction, Some(1.5));
    }

    #[test]
    fn a_silent_device_leaves_no_partial_sum() {
        let mut record = fixtures::gpu_record();
        record.telemetry.gpus[1].energy_j = None;
        record.telemetry.gpus[0].power_mean_w = Some(f64::NAN);
        let row = Row::of(&record);
        assert_eq!(
            (
                row.gpu_energy_j,
                row.joules_per_output_token,
                row.gpu_power_mean_w
            ),
            (None, None, None)
        );
        assert_eq!(row.gpu_mem_peak_mib, Some(18_000.0));
    }

    #[test]
    fn nothing_measured_is_empty_and_not_zero() {
        let record = fixtures::out_of_memory();
        let planned = Planned {
            trial_index: 7,
            run_order: 3,
            request: fixtures::request(),
            outcome: Some(Outcome::Failed),
        };
        let numbers: Vec<&str> = Row::COLUMNS
            .iter()
            .filter(|c| c.nullable)
            .map(|c| &*c.name)
            .collect();
        for (row, known) in [
            (
                Row::of(&record),
                &["process_id", "started_at", "outcome", "valid"][..],
            ),
            (Row::without_record("sweep", &planned), &["outcome"][..]),
        ] {
            let filled: Vec<&str> = Row::COLUMNS
                .iter()
                .zip(row.cells())
                .filter(|(column, cell)| column.nullable && *cell != crate::columns::Cell::Empty)
                .map(|(column, _)| &*column.name)
                .collect();
            let provenance = ["engine_version", "runner_version", "device", "cpu", "node"];
            assert!(numbers.len() > 60);
            assert!(
                filled
                    .iter()
                    .all(|name| known.contains(name) || provenance.contains(name)),
                "{filled:?}"
            );
            assert!(known.iter().all(|name| filled.contains(name)), "{filled:?}");
        }
    }

    #[test]
    fn an_invalid_trial_shows_what_ran() {
        let mut record = fixtures::record();
        record.valid = false;
        record.invalid_reasons = vec!["one".into(), "two, with a comma".into()];
        record.effective.as_mut().unwrap().batch_size = 1;
        let row = Row::of(&record);
        assert_eq!(
            (row.batch_size, row.invalid_reasons.as_deref()),
            (1, Some("one; two, with a comma"))
        );
    }

    #[test]
    fn requests_have_columns_of_their_own() {
        let mut record = fixtures::served(fixtures::open_loop(2.5), 3);
        let objectives = Objectives {
            max_ttft: Some(inferbench_crds::Duration::from_millis(21)),
            ..Objectives::default()
        };
        let row = Row::under(&record, &objectives);
        assert_eq!(
            (row.iterations, row.requests, row.request_errors),
            (Some(40), Some(40), Some(0))
        );
        // 20 ms, and 0.1 ms more from one request to the next; 40 of them suffice for the 90th percentile.
        assert!((row.mean_ttft_ms.unwrap() - 21.95).abs() < 1e-9);
        assert!((row.p90_ttft_ms.unwrap() - 23.51).abs() < 1e-9);
        assert_eq!(row.p99_ttft_ms, None);
        assert!((row.mean_ttlt_ms.unwrap() - 36.95).abs() < 1e-9);
        assert!((row.p50_itl_ms.unwrap() - 5.0).abs() < 1e-9);
        assert_eq!(
            (row.output_throughput, row.request_throughput),
            (Some(83.5), Some(20.5))
        );
        // Of 40 in 2 s, those with at most 21 ms.
        assert_eq!(row.goodput, Some(5.5));
        assert_eq!(Row::of(&record).goodput, None);
        assert_eq!(
            (
                row.decode_throughput,
                row.prefill_throughput,
                row.normalized_latency_ms
            ),
            (None, None, None)
        );
        assert_eq!(
            (row.saturated, row.token_counting.as_deref()),
            (Some(false), Some("tokenIds"))
        );
        assert_eq!(
            (row.engine.as_deref(), row.engine_start_s),
            (Some("vllm"), Some(12.5))
        );
        assert_eq!(
            (row.kv_use_max_pct, row.queue_max, row.client_cpu_pct),
            (Some(12.5), Some(2.0), Some(3.0))
        );
        record.telemetry.gpus = fixtures::gpu_record().telemetry.gpus;
        assert_eq!(Row::of(&record).joules_per_output_token, Some(20.0 / 167.0));
        record.requests.as_mut().unwrap().counting = Requests::FINAL_USAGE.into();
        let row = Row::of(&record);
        assert_eq!(
            (row.median_itl_ms, row.max_itl_ms, row.p50_itl_ms),
            (None, None, None)
        );
        let rows = RequestRow::of(&record, 9);
        assert_eq!(
            (rows.len(), rows[1].output_tokens, rows[1].itl_ms.len()),
            (40, 4, 3)
        );
        assert!(
            rows.iter()
                .all(|row| row.trial_index == 9 && row.error.is_none())
        );
        assert!(RequestRow::of(&fixtures::record(), 0).is_empty());
    }

    #[test]
    fn a_capacity_has_columns_and_no_level_of_its_load() {
        let mut record = fixtures::searched(fixtures::open_loop(2.5), 3, 8.0, 12.5);
        record.telemetry.gpus = fixtures::gpu_record().telemetry.gpus;
        let row = Row::of(&record);
        assert_eq!(
            (row.capacity_low, row.capacity_high),
            (Some(8.0), Some(12.5))
        );
        assert_eq!(
            (row.capacity_rate, row.capacity_concurrency),
            (Some(10.0), None)
        );
        assert_eq!(
            (row.capacity_tests, row.capacity_note.as_deref()),
            (Some(4), None)
        );
        assert_eq!(row.capacity_load.as_deref(), Some("requestRate"));
        assert_eq!(row.levels(), Levels::of(&record.request.combination));
        assert!(row.of_requests() && row.levels().of_requests());
        // Its energy is that of all tests, and its tokens are those of one.
        assert!(row.gpu_energy_j.is_some() && row.joules_per_output_token.is_none());
        let planned = Planned {
            trial_index: 7,
            run_order: 3,
            request: record.request.clone(),
            outcome: None,
        };
        let row = Row::without_record("sweep", &planned);
        assert!(row.of_requests() && row.capacity_tests.is_none());
    }

    #[test]
    fn sequences_of_a_servers_batch_are_requests() {
        let mut record = fixtures::record();
        assert_eq!(Row::of(&record).requests, None);
        record.client = Some(crate::record::Client::default());
        let objectives = Objectives {
            max_e2e: Some(inferbench_crds::Duration::from_secs(1)),
            ..Objectives::default()
        };
        let row = Row::under(&record, &objectives);
        assert_eq!(
            (row.requests, row.iterations, row.max_in_flight),
            (Some(10), Some(5), Some(2))
        );
        let rate = row.request_throughput.unwrap();
        assert!((rate * 4.0 - row.output_throughput.unwrap()).abs() < 1e-9);
        assert_eq!(row.goodput, Some(rate));
        assert!(row.p50_ttft_ms.is_some() && row.p90_ttft_ms.is_none());
        assert!(row.normalized_latency_ms.is_some());
    }

    #[test]
    fn iterations_and_samples_have_rows() {
        let record = fixtures::record();
        let iterations = IterationRow::of(&record, 9);
        assert_eq!(iterations.len(), 5);
        assert!(
            iterations
                .iter()
                .all(|row| row.itl_ms.len() == 3 && row.trial_index == 9)
        );
        assert_eq!(
            TelemetryRow::of(&record, 9).len(),
            record.telemetry.samples.len()
        );
    }
}
