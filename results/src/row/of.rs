//! The row of a trial: each of a record's members under its column, sums over devices, and empty where nothing is known.

use inferbench_crds::{factor::Levels, search::Searched, spec::Objectives};
use jiff::Timestamp;

use super::{Planned, Row};
use crate::{
    capacity::Capacity,
    metrics::{
        Answer, AnswerTimes, BatchShape, ItlStats, Quantiles, RequestMetrics, Stats, TrialMetrics,
    },
    record::{Effective, GpuTelemetry, Iteration, Request, Requests, Roofline, TrialRecord},
};

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
            message: record.message.as_deref().and_then(in_a_line),
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
                let asked = record.client.is_some();
                if asked || objectives.limit_times() {
                    let answers = Answer::of_batches(&record.iterations);
                    row.set_goodput(&answers, objectives);
                    if asked {
                        row.set_answers(&answers);
                    }
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
    fn set_answers(&mut self, answers: &[Answer]) {
        self.requests = u32::try_from(answers.len()).ok();
        self.set_quantiles(&AnswerTimes::of(answers));
        self.request_throughput = finite(self.sequence_rate());
        self.max_in_flight = Some(self.batch_size);
    }

    /// Goodput of batches, whose sequences are requests that came together; nothing without objectives.
    fn set_goodput(&mut self, answers: &[Answer], objectives: &Objectives) {
        if objectives.limit_times() {
            let good = answers.iter().filter(|answer| answer.keeps_to(objectives));
            let share = good.count() as f64 / answers.len() as f64;
            self.goodput = finite(self.sequence_rate().map(|rate| rate * share));
        }
    }

    /// Sequences of batches that end a second.
    fn sequence_rate(&self) -> Option<f64> {
        self.mean_ttlt_ms
            .map(|ttlt| f64::from(self.batch_size) / ttlt * 1e3)
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
        let shown = [
            self.decode_roofline_fraction,
            self.prefill_roofline_fraction,
        ];
        let partly_cached = !roofline.fits_cache
            && shown
                .iter()
                .flatten()
                .any(|fraction| *fraction > Roofline::MAX_FRACTION);
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
            mark(partly_cached, "partly-cached"),
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

/// Characters of a message in a table: what a server said before it ended may be long, and the record has all of it.
const MESSAGE: usize = 500;

/// A message in one line, cut where it is long.
fn in_a_line(message: &str) -> Option<String> {
    let words: Vec<&str> = message.split_whitespace().collect();
    let line = words.join(" ");
    text(&match line.char_indices().nth(MESSAGE) {
        Some(_) => line.chars().take(MESSAGE - 1).chain(['…']).collect(),
        None => line,
    })
}

pub(super) fn finite(number: Option<f64>) -> Option<f64> {
    number.filter(|number| number.is_finite())
}

fn text(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

pub(super) fn optional(member: &Option<String>) -> Option<String> {
    member.as_deref().and_then(text)
}

fn to_millisecond(time: Timestamp) -> Option<Timestamp> {
    Timestamp::from_millisecond(time.as_millisecond()).ok()
}
