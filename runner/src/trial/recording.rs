//! Makes records: the part of them that does not come from measuring.

use inferbench_crds::contract::IMAGE_DIGEST_VARIABLE;
use inferbench_results::{
    key::trial_key,
    record::{Outcome, Provenance, SCHEMA_VERSION, Telemetry, TrialRecord},
};
use jiff::Timestamp;

use super::protocol::TrialRequest;
use crate::{backend::candle, machine::Machine};

/// The version of this runner.
pub const RUNNER_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The time now as records write it: RFC 3339, UTC, with milliseconds.
#[must_use]
pub fn now() -> String {
    format!("{:.3}", Timestamp::now())
}

/// The runner's part of a trial's key: the image's digest in a cluster (`INFERBENCH_IMAGE_DIGEST`), else the
/// version.
#[must_use]
pub fn runner_identity() -> String {
    image_digest().unwrap_or_else(|| format!("inferbench {RUNNER_VERSION}"))
}

fn image_digest() -> Option<String> {
    std::env::var(IMAGE_DIGEST_VARIABLE)
        .ok()
        .filter(|digest| !digest.is_empty())
}

/// Where and by what a trial on this machine's CPU, or its first `gpus` GPUs, is measured. Who does not measure itself
/// has not looked at the GPUs: then they are all `gpu`.
#[must_use]
pub fn provenance(machine: &Machine, gpus: u32) -> Provenance {
    let known = machine.gpus.all.iter().take(gpus as usize);
    let uuids: Vec<&str> = known.clone().map(|gpu| gpu.uuid.as_str()).collect();
    let device = match (gpus, known.clone().next()) {
        (0, _) => "cpu",
        (_, Some(first)) => &first.name,
        (_, None) => "gpu",
    };
    let of_gpus = |what: &Option<String>| what.clone().filter(|_| gpus > 0);
    Provenance {
        engine_version: candle::version(),
        runner_version: RUNNER_VERSION.into(),
        device: device.into(),
        device_uuid: (!uuids.is_empty()).then(|| uuids.join("|")),
        driver: of_gpus(&machine.gpus.driver),
        cuda: of_gpus(&machine.gpus.cuda),
        cpu: machine.cpu.clone(),
        node: machine.node.clone(),
        image_digest: image_digest(),
        os: machine.os.clone(),
    }
}

/// The record of a trial that began at `started_at` and ends now, with nothing measured.
#[must_use]
pub fn unmeasured(
    ask: &TrialRequest,
    machine: &Machine,
    process_id: &str,
    started_at: &str,
    outcome: Outcome,
    message: String,
) -> TrialRecord {
    TrialRecord {
        schema_version: SCHEMA_VERSION.into(),
        sweep: ask.sweep.clone(),
        trial_index: ask.trial_index,
        trial_key: trial_key(&ask.request, ask.attempt),
        attempt: ask.attempt,
        run_order: ask.run_order,
        process_id: process_id.into(),
        started_at: started_at.into(),
        ended_at: now(),
        outcome,
        message: Some(message),
        valid: true,
        invalid_reasons: Vec::new(),
        request: ask.request.clone(),
        effective: None,
        iterations: Vec::new(),
        requests: None,
        client: None,
        server: None,
        warmup: None,
        telemetry: Telemetry::default(),
        roofline: None,
        quality: None,
        roofline_missing: None,
        quality_missing: None,
        capacity: None,
        harness: None,
        provenance: Provenance {
            // Of a server only itself knows its version.
            engine_version: if ask.request.combination.engine.takes_requests() {
                String::new()
            } else {
                candle::version()
            },
            ..provenance(machine, ask.request.combination.gpus)
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_milliseconds_and_are_utc() {
        let now = now();
        assert!(
            now.len() == "2025-01-01T00:00:00.000Z".len() && now.ends_with('Z'),
            "{now}"
        );
    }
}
