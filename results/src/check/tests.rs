//! The check of records: good ones pass, and every lie is named.

use proptest::prelude::*;

use super::*;
use crate::fixtures;

#[test]
fn a_good_record_reads_back() {
    for record in [
        fixtures::record(),
        fixtures::out_of_memory(),
        fixtures::gpu_record(),
        fixtures::served(fixtures::closed_loop(4), 0),
        fixtures::served(fixtures::open_loop(2.5), 0),
        fixtures::searched(fixtures::open_loop(2.5), 0, 8.0, 8.5),
    ] {
        let document = record.write().unwrap();
        assert_eq!(
            TrialRecord::read(&record.trial_key, &document).unwrap(),
            record
        );
    }
}

#[test]
fn another_key_is_refused() {
    let record = fixtures::record();
    let error = TrialRecord::read(&"0".repeat(32), &record.write().unwrap()).unwrap_err();
    assert!(error.to_string().contains("is stored as"), "{error}");
}

#[test]
fn p12_every_lie_is_named() {
    type Lie = fn(&mut TrialRecord);
    let lies: [(Lie, &str); 22] = [
        (
            |r| r.schema_version = "inferbench.dev/trial/v0".into(),
            "schemaVersion",
        ),
        (|r| r.request.seed += 1, "trialKey"),
        (|r| r.attempt += 1, "trialKey"),
        (|r| r.started_at = "yesterday".into(), "startedAt"),
        (|r| r.valid = false, "valid: false with 0 invalidReasons"),
        (
            |r| r.invalid_reasons.push("throttled".into()),
            "valid: true with 1 invalidReasons",
        ),
        (|r| r.outcome = Outcome::Failed, "message: absent"),
        (|r| r.effective = None, "effective: absent"),
        (|r| r.iterations.truncate(4), "iterations: 4 of at least 5"),
        (
            |r| r.iterations[1].sequences[0].token_ms.truncate(3),
            "iterations[1].sequences[0].tokenMs: 3 tokens instead of 4",
        ),
        (
            |r| r.iterations[0].sequences[0].token_ms[1] = f64::NAN,
            "iterations[0].sequences[0].tokenMs: not all finite",
        ),
        (
            |r| r.iterations[2].sequences[0].token_ms.swap(0, 3),
            "iterations[2].sequences[0].tokenMs: not positive and in order",
        ),
        (
            |r| r.iterations[2].sequences[0].token_ms[0] = 0.0,
            "iterations[2].sequences[0].tokenMs: not positive and in order",
        ),
        (
            |r| r.iterations[3].sequences.clear(),
            "iterations[3].sequences: 0 instead of 2",
        ),
        (
            |r| r.iterations[3].sequences[0].count = 3,
            "iterations[3].sequences: 3 instead of 2",
        ),
        (
            |r| {
                let sequences = &mut r.iterations[4].sequences;
                sequences.push(sequences[0].clone());
                sequences[1].count = 0;
            },
            "iterations[4].sequences: 2 instead of 2, each at least once",
        ),
        (
            |r| r.effective.as_mut().unwrap().batch_size = 1,
            "effective.batchSize: 1 ran instead of 2",
        ),
        (
            |r| r.effective.as_mut().unwrap().input_len += 1,
            "effective.inputLen",
        ),
        (
            |r| r.effective.as_mut().unwrap().output_len += 1,
            "effective.outputLen",
        ),
        (
            |r| r.effective.as_mut().unwrap().gpus += 1,
            "effective.gpus",
        ),
        (
            |r| r.effective.as_mut().unwrap().dtype = "bf16".into(),
            "effective.dtype",
        ),
        (
            |r| r.effective.as_mut().unwrap().model_load_s = f64::INFINITY,
            "effective.modelLoadS",
        ),
    ];
    for (lie, named) in lies {
        let mut record = fixtures::record();
        lie(&mut record);
        let error = record.check().unwrap_err().to_string();
        assert!(error.contains(named), "{named:?} not in {error:?}");
        assert!(record.write().is_err());
    }
}

#[test]
fn p12_every_lie_about_requests_is_named() {
    type Lie = fn(&mut TrialRecord, &mut Requests);
    let lies: [(Lie, &str); 19] = [
        (
            |r, _| r.iterations = fixtures::record().iterations,
            "iterations: there",
        ),
        (
            |r, _| r.request = fixtures::request(),
            "requests: there, yet they came in batches",
        ),
        (
            |_, of| of.requests.truncate(4),
            "requests.requests without an error: 4 of at least 5",
        ),
        (
            |_, of| of.window_s = 0.0,
            "requests.windowS: 0 is no length above 0",
        ),
        (|_, of| of.window_s = f64::NAN, "requests.windowS: NaN"),
        (
            |_, of| of.counting = "words".into(),
            "requests.counting: \"words\" is none of tokenIds",
        ),
        (
            |_, of| of.saturated = Some(true),
            "requests.saturated: there",
        ),
        (|_, of| of.max_in_flight = 5, "requests.maxInFlight: 5 of 4"),
        (
            |_, of| of.requests.swap(0, 9),
            "requests.requests[1].intendedUnixNs",
        ),
        (
            |_, of| of.window_start_unix_ns += 1_000_000_000,
            "requests.requests[0].intendedUnixNs: -1000 ms",
        ),
        (
            |_, of| of.requests[3].token_ms.truncate(3),
            "requests.requests[3].tokenMs: 3 tokens instead of 4",
        ),
        (
            |_, of| of.requests[3].sent_ms = None,
            "requests.requests[3].sentMs: absent",
        ),
        (
            |_, of| of.requests[3].sent_ms = Some(-1.0),
            "requests.requests[3].sentMs: Some(-1.0) is before 0",
        ),
        (
            |_, of| of.requests[3].token_ms.swap(0, 2),
            "requests.requests[3].tokenMs: not after sentMs and in order",
        ),
        (
            |_, of| of.requests[3].token_ms[0] = 0.01,
            "requests.requests[3].tokenMs: not after sentMs",
        ),
        (
            |_, of| of.requests[3].input_tokens = Some(2),
            "requests.requests[3].inputTokens: 2 instead of 3",
        ),
        (
            |_, of| of.requests[3].cached_tokens = Some(4),
            "requests.requests[3].cachedTokens: 4",
        ),
        (
            |_, of| of.window_output_tokens = 3,
            "requests.windowOutputTokens: 3, yet",
        ),
        (
            |_, of| of.window_completed = 0,
            "requests.windowCompleted: 0, yet",
        ),
    ];
    for (lie, named) in lies {
        let mut record = fixtures::served(fixtures::closed_loop(4), 0);
        let mut requests = record.requests.take().unwrap();
        lie(&mut record, &mut requests);
        record.requests = Some(requests);
        let error = record.check().unwrap_err().to_string();
        assert!(error.contains(named), "{named:?} not in {error:?}");
    }
}

#[test]
fn p12_every_lie_about_a_capacity_is_named() {
    type Lie = fn(&mut crate::capacity::Capacity);
    let lies: [(Lie, &str); 7] = [
        (|of| of.factor = Searched::Concurrency, "capacity.factor"),
        (|of| of.steps.clear(), "capacity.steps: none"),
        (|of| of.steps[0].load = 65.0, "capacity.steps[0].load: 65"),
        (|of| of.steps[1].kept = 41, "capacity.steps[1]: 41 kept"),
        (|of| of.steps[1].why = None, "capacity.steps[1].why"),
        (|of| of.low = of.high, "capacity.low"),
        (
            |of| of.high.as_mut().unwrap().failed = 3,
            "capacity.high: End { load: 8.5, held: 0, failed: 3 }, yet its tests are [0, 2]",
        ),
    ];
    for (lie, named) in lies {
        let mut record = fixtures::searched(fixtures::open_loop(2.5), 0, 8.0, 8.5);
        lie(record.capacity.as_mut().unwrap());
        let error = record.check().unwrap_err().to_string();
        assert!(error.contains(named), "{named:?} not in {error:?}");
    }
    let mut record = fixtures::searched(fixtures::open_loop(2.5), 0, 8.0, 8.5);
    let capacity = record.capacity.take();
    let error = record.check().unwrap_err().to_string();
    assert!(error.contains("capacity: absent"), "{error}");
    let mut record = fixtures::served(fixtures::open_loop(2.5), 0);
    record.capacity = capacity;
    let error = record.check().unwrap_err().to_string();
    assert!(error.contains("capacity: there"), "{error}");
}

#[test]
fn a_request_that_failed_may_be_short_and_says_why() {
    let mut record = fixtures::served(fixtures::closed_loop(4), 0);
    let request = &mut record.requests.as_mut().unwrap().requests[7];
    request.error = Some("the stream ended without [DONE]".into());
    request.token_ms.truncate(1);
    record.check().unwrap();
    record.requests.as_mut().unwrap().requests[7].error = Some(String::new());
    assert!(
        record
            .check()
            .unwrap_err()
            .to_string()
            .contains("error: empty")
    );
}

#[test]
fn p12_what_ran_otherwise_is_invalid_and_says_so() {
    let mut record = fixtures::record();
    record.valid = false;
    record
        .invalid_reasons
        .push("effective batch size 1 instead of 2".into());
    record.effective.as_mut().unwrap().batch_size = 1;
    record.iterations.truncate(1);
    record.iterations[0].sequences[0].count = 1;
    record.check().unwrap();
}

proptest! {
    #[test]
    fn no_prefix_is_a_record(cut in 0.0f64..1.0) {
        let record = fixtures::gpu_record();
        let document = record.write().unwrap();
        let length = (document.len() as f64 * cut) as usize;
        prop_assert!(TrialRecord::read(&record.trial_key, &document[..length]).is_err());
    }

    #[test]
    fn zeros_after_a_power_loss_are_no_record(from in 0.0f64..1.0) {
        let record = fixtures::record();
        let mut document = record.write().unwrap();
        let from = (document.len() as f64 * from) as usize;
        document[from..].fill(0);
        prop_assert!(TrialRecord::read(&record.trial_key, &document).is_err());
    }
}
