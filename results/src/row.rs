//! The rows of the tables: `trials` (one per stored attempt, and one per trial without a record), `iterations` and
//! `telemetry`. This is where a record's members become columns.

mod levels;

use std::sync::Arc;

use inferbench_crds::{factor::Levels, outcome::Outcome};
use jiff::Timestamp;

pub use self::levels::FurtherLevels;
pub(crate) use self::levels::of_column;
use crate::{
    columns::table,
    metrics::{Shape, Stats, TrialMetrics},
    record::{GpuTelemetry, Phase, Request, Roofline, TrialRecord},
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
        /// How it ended: Succeeded, OutOfMemory, Unsupported, TimedOut or Failed; empty for a trial that has not ended.
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
        /// Data type of the weights; cache and activations have the same, or f32 where weights are quantized.
        "" dtype: String,
        /// b: sequences in a batch.
        "sequences" batch_size: u32,
        /// s: input tokens of each sequence.
        "tokens" input_len: u32,
        /// n: output tokens of each sequence.
        "tokens" output_len: u32,
        /// Devices of the engine; 0 for CPU.
        "" gpus: u32,
        /// Timed iterations.
        "" iterations: Option<u32>,
        /// Time to first token of the whole batch, from input ids on the host: mean over iterations.
        "ms" mean_ttft_ms: Option<f64>,
        /// Time to first token: median over iterations.
        "ms" median_ttft_ms: Option<f64>,
        /// Time to first token: standard deviation over iterations (count − 1).
        "ms" std_ttft_ms: Option<f64>,
        /// Time to first token: minimum over iterations.
        "ms" min_ttft_ms: Option<f64>,
        /// Time to first token: maximum over iterations.
        "ms" max_ttft_ms: Option<f64>,
        /// Time to last token of the whole batch: mean over iterations.
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
        /// Inter-token latency, the gaps of all iterations pooled: median.
        "ms" median_itl_ms: Option<f64>,
        /// Inter-token latency: 90th percentile; empty below 36 gaps, where it may lie beyond all that was seen.
        "ms" p90_itl_ms: Option<f64>,
        /// Inter-token latency: maximum.
        "ms" max_itl_ms: Option<f64>,
        /// b·n / mean(ttlt).
        "tokens/s" output_throughput: Option<f64>,
        /// b·(n − 1) / (mean(ttlt) − mean(ttft)); empty for n = 1.
        "tokens/s" decode_throughput: Option<f64>,
        /// b·s / mean(ttft).
        "tokens/s" prefill_throughput: Option<f64>,
        /// mean(ttlt) / (b·n): exactly the inverse of output_throughput.
        "ms" normalized_latency_ms: Option<f64>,
        /// output_throughput / gpus; empty on CPU.
        "tokens/s" output_throughput_per_gpu: Option<f64>,
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
        /// gpu_energy_j / (b·n·iterations).
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

    /// The row of a record, which has passed its check.
    #[must_use]
    pub fn of(record: &TrialRecord) -> Self {
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
        row.set_metrics(record);
        row.set_gpus(&record.telemetry.gpus);
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
            model_revision: request.model_revision.clone(),
            ..Self::default()
        };
        for (factor, level) in Levels::of(&request.combination).stated() {
            row.set_level(factor, level);
        }
        row
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
        // The level that was asked for tells engines apart that are one program.
        self.engine = self.engine.take().or_else(|| text(&ran.engine));
        self.engine_mode = text(&ran.engine_mode);
        self.threads = Some(ran.threads);
        self.prompt_seed = Some(ran.prompt_seed);
    }

    fn set_metrics(&mut self, record: &TrialRecord) {
        let shape = Shape {
            batch_size: self.batch_size,
            input_len: self.input_len,
            output_len: self.output_len,
        };
        let Some(metrics) = TrialMetrics::of(&record.iterations, shape) else {
            return;
        };
        self.iterations = u32::try_from(record.iterations.len()).ok();
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
        ] = spread(Some(metrics.ttft));
        [
            self.mean_ttlt_ms,
            self.median_ttlt_ms,
            self.std_ttlt_ms,
            self.min_ttlt_ms,
            self.max_ttlt_ms,
        ] = spread(Some(metrics.ttlt));
        [
            self.mean_tpot_ms,
            self.median_tpot_ms,
            self.std_tpot_ms,
            self.min_tpot_ms,
            self.max_tpot_ms,
        ] = spread(metrics.tpot);
        self.median_itl_ms = metrics.itl.map(|itl| itl.median_ms);
        self.p90_itl_ms = metrics.itl.and_then(|itl| itl.p90_ms);
        self.max_itl_ms = metrics.itl.map(|itl| itl.max_ms);
        self.output_throughput = finite(Some(metrics.output_throughput));
        // Two tokens within one tick of the clock have no rate.
        self.decode_throughput = finite(metrics.decode_throughput);
        self.prefill_throughput = finite(Some(metrics.prefill_throughput));
        self.normalized_latency_ms = finite(Some(metrics.normalized_latency_ms));
        self.output_throughput_per_gpu = self
            .output_throughput
            .filter(|_| self.gpus > 0)
            .map(|rate| rate / f64::from(self.gpus));
    }

    /// Sums, means and maxima over devices hold for all of them or not at all: a device that is silent on a member
    /// leaves it empty.
    fn set_gpus(&mut self, gpus: &[GpuTelemetry]) {
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
        self.joules_per_output_token =
            self.gpu_energy_j
                .zip(self.iterations)
                .map(|(energy, iterations)| {
                    energy
                        / (f64::from(self.batch_size)
                            * f64::from(self.output_len)
                            * f64::from(iterations))
                });
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
        let row = |(at, iteration): (usize, &crate::record::Iteration)| Self {
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
    use crate::{columns::Table, fixtures};

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
