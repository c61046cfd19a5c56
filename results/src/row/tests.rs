//! The rows of a record: of every kind of it, sums over devices, and cells that stay empty.

use inferbench_crds::{factor::Levels, spec::Objectives};

use super::*;
use crate::{
    columns::TableRow,
    fixtures,
    record::{Requests, TrialRecord},
};

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
    // A cache that holds 28 % explains 1.05 / 0.72 = 1.46 of what memory bounds; one of 31 %, 1.52.
    for (share, shown) in [(0.28, None), (0.31, Some(1.5))] {
        record.roofline.as_mut().unwrap().cache_share = share;
        let row = Row::of(&record);
        assert_eq!(row.decode_roofline_fraction, shown, "{share}");
        let bound = row.roofline_bound.unwrap();
        assert_eq!(
            bound.contains("|partly-cached|"),
            shown.is_some(),
            "{bound}"
        );
    }
    // It explains nothing of what products bound.
    record.roofline.as_mut().unwrap().prefill_fraction = Some(1.1);
    let row = Row::of(&record);
    assert_eq!(row.prefill_roofline_fraction, None);
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
            &["process_id", "started_at", "outcome", "valid", "message"][..],
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
fn a_trial_without_a_measurement_says_why_in_one_line() {
    let mut record = fixtures::record();
    assert_eq!(Row::of(&record).message, None);
    let row = |record: &TrialRecord| Row::of(record).message.unwrap();
    record.message = Some("vllm exited with 1; it said: Traceback\n  out of memory\n".into());
    assert_eq!(
        row(&record),
        "vllm exited with 1; it said: Traceback out of memory"
    );
    record.message = Some("é".repeat(500));
    assert_eq!(row(&record), "é".repeat(500));
    record.message = Some("é".repeat(501));
    assert_eq!(row(&record), format!("{}…", "é".repeat(499)));
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

    // An engine in the trial's own process has no client, and the same goodput.
    record.client = None;
    let row = Row::under(&record, &objectives);
    assert_eq!((row.goodput, row.requests), (Some(rate), None));
    assert_eq!(Row::of(&record).goodput, None, "without objectives");
    let strict = Objectives {
        max_ttft: Some(inferbench_crds::Duration::from_secs(0)),
        ..objectives
    };
    assert_eq!(Row::under(&record, &strict).goodput, Some(0.0));
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
