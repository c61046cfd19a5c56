//! The tables: their columns, a golden file, and that they read back as they were written.

use arrow_array::{Array as _, cast::AsArray as _, types::Float64Type};
use inferbench_crds::outcome::Outcome;
use jiff::Timestamp;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;

use super::*;
use crate::{
    fixtures,
    row::{IterationRow, RequestRow, TelemetryRow},
};

/// The columns and their order.
const DESIGN: &str = "sweep, trial_index, trial_key, attempt, replicate, run_order, process_id, started_at, \
        outcome, valid, invalid_reasons, message, model, model_revision, architecture, model_params, dtype, batch_size, \
        input_len, output_len, gpus, iterations, mean_ttft_ms, median_ttft_ms, std_ttft_ms, min_ttft_ms, max_ttft_ms, \
        mean_ttlt_ms, median_ttlt_ms, std_ttlt_ms, min_ttlt_ms, max_ttlt_ms, mean_tpot_ms, median_tpot_ms, \
        std_tpot_ms, min_tpot_ms, max_tpot_ms, median_itl_ms, p90_itl_ms, max_itl_ms, p50_ttft_ms, p90_ttft_ms, p99_ttft_ms, \
        p50_tpot_ms, p90_tpot_ms, p99_tpot_ms, p50_itl_ms, p99_itl_ms, p50_e2e_ms, p90_e2e_ms, p99_e2e_ms, output_throughput, \
        decode_throughput, prefill_throughput, normalized_latency_ms, output_throughput_per_gpu, request_throughput, goodput, requests, \
        request_errors, saturated, max_in_flight, token_counting, kv_use_max_pct, preemptions, queue_mean, queue_max, \
        prefix_hit_pct, client_send_lag_p99_ms, client_stamp_lag_p99_ms, client_cpu_pct, gpus_active, \
        gpu_util_mean_pct, gpu_util_max_pct, gpu_dram_active_mean_pct, gpu_tensor_active_mean_pct, gpu_mem_total_mib, \
        gpu_mem_before_mib, gpu_mem_peak_mib, \
        gpu_mem_after_mib, gpu_power_mean_w, gpu_energy_j, joules_per_output_token, sm_clock_mean_mhz, \
        mem_clock_mean_mhz, gpu_temp_max_c, throttle_reasons, cpu_time_s, rss_peak_mib, cpu_throttled_ms, cpu_steal_pct, cpu_freq_mean_mhz, numa_nodes, \
        smt, concurrent_trials, decode_roofline_fraction, prefill_roofline_fraction, roofline_bound, mean_log_likelihood, \
        perplexity, repetition_rate, prompt_similarity, model_load_s, engine_start_s, first_iteration_ttft_ms, engine, engine_mode, engine_version, runner_version, device, device_uuid, driver, \
        cuda, cpu, threads, node, image_digest, prompt_seed, capacity_load, capacity_low, capacity_high, capacity_rate, \
        capacity_concurrency, capacity_tests, capacity_note, confirming";

#[test]
fn the_columns_are_those_of_the_design() {
    let names: Vec<&str> = Row::COLUMNS.iter().map(|column| &*column.name).collect();
    assert_eq!(names.join(", "), DESIGN);
}

#[test]
fn units_in_names_are_the_columns_units() {
    for column in Row::COLUMNS
        .iter()
        .chain(IterationRow::COLUMNS)
        .chain(RequestRow::COLUMNS)
        .chain(TelemetryRow::COLUMNS)
    {
        assert!(
            !column.doc.is_empty() && !column.doc.contains('\n'),
            "{}",
            column.name
        );
        for (ending, unit) in [
            ("_ms", "ms"),
            ("_s", "s"),
            ("_pct", "%"),
            ("_mib", "MiB"),
            ("_mhz", "MHz"),
            ("_w", "W"),
            ("_j", "J"),
        ] {
            assert!(
                !column.name.ends_with(ending) || column.unit == unit,
                "{}",
                column.name
            );
        }
    }
}

#[test]
fn a_csv() {
    let rows = [
        Row::of(&fixtures::record()),
        Row::of(&fixtures::gpu_record()),
        Row::of(&fixtures::out_of_memory()),
    ];
    let csv = String::from_utf8(write_csv(&rows).unwrap()).unwrap();
    insta::assert_snapshot!(csv);
}

#[test]
fn another_csv_is_refused_by_name() {
    let csv = String::from_utf8(write_csv(&[Row::of(&fixtures::record())]).unwrap()).unwrap();
    for (broken, said) in [
        (
            csv.replace("mean_ttft_ms", "mean_ttft_mss"),
            "column 23, \"mean_ttft_mss\", is none of docs/columns.md (did you mean `mean_ttft_ms`?)",
        ),
        (
            csv.replace("median_ttft_ms", "mean_ttft_ms"),
            "\"mean_ttft_ms\" is there twice",
        ),
        (
            csv.replace("batch_size,", ""),
            "\"batch_size\" is missing, and never empty",
        ),
        (
            csv.replace(",Succeeded,", ",Won,"),
            "line 2: outcome: \"Won\"",
        ),
        (csv.replace(",true,", ",yes,"), "line 2: valid: \"yes\""),
    ] {
        let error = read_trials_csv(broken.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

/// As editors count them, whatever ends them.
#[test]
fn lines_are_those_of_the_file() {
    let row = Row::of(&fixtures::record());
    let csv = String::from_utf8(write_csv(&[row.clone(), row]).unwrap()).unwrap();
    for (end, line) in [("\n", 3), ("\r\n", 3), ("\n\n", 5), ("\r\n\r\n", 5)] {
        let (before, last) = csv.trim_end().rsplit_once('\n').unwrap();
        let csv = format!("{before}\n{}", last.replace(",Succeeded,", ",Won,")).replace('\n', end);
        let error = read_trials_csv(csv.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(&format!("line {line}:")), "{end:?}: {error}");
    }
}

#[test]
fn columns_may_be_missing_and_in_another_order() {
    let rows = [fixtures::record(), fixtures::gpu_record()].map(|record| Row::of(&record));
    let csv = write_csv(&rows).unwrap();
    let mut reader = csv::Reader::from_reader(&csv[..]);
    let mut writer = csv::Writer::from_writer(Vec::new());
    let header = reader.headers().unwrap().clone();
    for record in std::iter::once(Ok(header.clone())).chain(reader.into_records()) {
        let record = record.unwrap();
        let mut kept: Vec<&str> = header
            .iter()
            .zip(&record)
            .filter(|(name, _)| !name.starts_with("gpu_"))
            .map(|(_, cell)| cell)
            .collect();
        kept.reverse();
        writer.write_record(kept).unwrap();
    }
    let expected = rows.map(|row| Row {
        gpu_util_mean_pct: None,
        gpu_util_max_pct: None,
        gpu_dram_active_mean_pct: None,
        gpu_tensor_active_mean_pct: None,
        gpu_mem_total_mib: None,
        gpu_mem_before_mib: None,
        gpu_mem_peak_mib: None,
        gpu_mem_after_mib: None,
        gpu_power_mean_w: None,
        gpu_energy_j: None,
        gpu_temp_max_c: None,
        ..row
    });
    assert_eq!(
        read_trials_csv(&writer.into_inner().unwrap()).unwrap(),
        expected
    );
}

#[test]
fn all_tables_hold_what_their_rows_say() {
    let record = fixtures::gpu_record();
    let batch = read_back(&[Row::of(&record), Row::of(&fixtures::out_of_memory())]);
    assert_eq!(
        (batch.num_rows(), batch.num_columns()),
        (2, Row::columns(&[]).len())
    );
    let ttft = batch
        .column_by_name("mean_ttft_ms")
        .unwrap()
        .as_primitive::<Float64Type>();
    assert_eq!(ttft.value(0), Row::of(&record).mean_ttft_ms.unwrap());
    assert!(ttft.is_null(1), "unknown is null");
    let schema = batch.schema();
    let field = schema.field_with_name("mean_ttft_ms").unwrap();
    assert_eq!(field.metadata()["unit"], "ms");
    assert!(field.metadata()["description"].starts_with("Time to first token"));

    let iterations = IterationRow::of(&record, 0);
    let batch = read_back(&iterations);
    let gaps = batch
        .column_by_name("itl_ms")
        .unwrap()
        .as_list::<i32>()
        .value(4);
    assert_eq!(
        gaps.as_primitive::<arrow_array::types::Float32Type>()
            .values(),
        &iterations[4].itl_ms[..]
    );
    assert_eq!(
        read_back(&TelemetryRow::of(&record, 0)).num_rows(),
        record.telemetry.samples.len()
    );
}

fn read_back<T: TableRow>(rows: &[T]) -> RecordBatch {
    let mut table = ParquetTable::for_rows(rows).unwrap();
    let (some, others) = rows.split_at(rows.len() / 2);
    table.push(some).unwrap();
    table.push(others).unwrap();
    assert_eq!(table.rows(), rows.len());
    let file = bytes::Bytes::from(table.finish().unwrap());
    let mut batches = ParquetRecordBatchReaderBuilder::try_new(file)
        .unwrap()
        .build()
        .unwrap();
    let batch = batches.next().unwrap().unwrap();
    assert!(batches.next().is_none());
    batch
}

prop_compose! {
    fn cell_text()(text in "[ -~äß\n\r\t,\";|]{1,12}") -> String { text }
}

prop_compose! {
    fn row()(
        sweep in cell_text(), index in any::<u32>(), seed in prop::option::of(any::<u64>()),
        params in prop::option::of(any::<u64>()), reasons in prop::option::of(cell_text()),
        number in prop::option::of(prop::num::f64::NORMAL | prop::num::f64::ZERO | prop::num::f64::SUBNORMAL),
        valid in prop::option::of(any::<bool>()), outcome in prop::option::of(0..5usize),
        started in prop::option::of(-60_000_000_000_000i64..250_000_000_000_000),
    ) -> Row {
        Row {
            sweep, trial_index: index, run_order: !index, prompt_seed: seed, model_params: params,
            invalid_reasons: reasons, mean_ttft_ms: number, output_throughput: number.map(|x| x / 3.0),
            valid, outcome: outcome.map(|at| Outcome::ALL[at]),
            started_at: started.map(|ms| Timestamp::from_millisecond(ms).unwrap()),
            ..Row::of(&fixtures::gpu_record())
        }
    }
}

proptest! {
    #[test]
    fn csv_reads_back_exactly(rows in prop::collection::vec(row(), 0..5)) {
        prop_assert_eq!(read_trials_csv(&write_csv(&rows).unwrap()).unwrap(), rows);
    }
}
