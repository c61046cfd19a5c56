//! The rows of a record's parts: its iterations, requests and samples.

use std::sync::Arc;

use super::{
    IterationRow, RequestRow, TelemetryRow,
    of::{finite, optional},
};
use crate::record::{Iteration, Phase, TrialRecord};

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
