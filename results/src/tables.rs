//! The tables as files: CSV written and read back, Parquet with typed columns whose units and descriptions stand in
//! the fields' metadata.

mod check;

use std::{collections::HashMap, sync::Arc};

use arrow_array::{
    ArrayRef, RecordBatch,
    builder::{
        BooleanBuilder, Float32Builder, Float64Builder, Int64Builder, ListBuilder, StringBuilder,
        TimestampMillisecondBuilder, UInt64Builder,
    },
};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef, TimeUnit};
use inferbench_crds::factor::Factor;
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::properties::WriterProperties,
};
use thiserror::Error;

pub use self::check::TrialsTable;
use crate::{
    columns::{Cell, Column, Kind, TableRow},
    row::{Row, of_column},
};

/// Why a table cannot be written or read.
#[derive(Debug, Error)]
pub enum TableError {
    /// The Parquet file cannot be written.
    #[error("{table}.parquet: {source}")]
    Parquet {
        /// The table.
        table: &'static str,
        /// Why.
        source: ParquetError,
    },
    /// The CSV cannot be written or read.
    #[error("{table}.csv: {source}")]
    Csv {
        /// The table.
        table: &'static str,
        /// Why.
        source: csv::Error,
    },
    /// The CSV has other columns.
    #[error("{table}.csv, header: {problem}")]
    Header {
        /// The table.
        table: &'static str,
        /// The column, and what is wrong with it.
        problem: String,
    },
    /// A cell holds what its column cannot.
    #[error("{table}.csv, line {line}: {problem}")]
    Cell {
        /// The table.
        table: &'static str,
        /// The line, from 1.
        line: u64,
        /// The column, its text and its type.
        problem: String,
    },
    /// Two rows say different things of one trial.
    #[error("{table}.csv, lines {} and {}: {problem}", lines[0], lines[1])]
    Contradiction {
        /// The table.
        table: &'static str,
        /// The lines at which they begin, from 1.
        lines: [u64; 2],
        /// The content that they share, the columns in which they differ, and what to do.
        problem: String,
    },
}

/// `trials.csv`: a header, then one line per row. Numbers are written so that they read back exactly.
///
/// # Errors
/// Never in practice: it writes to memory.
pub fn write_csv<T: TableRow>(rows: &[T]) -> Result<Vec<u8>, TableError> {
    let failed = |source| TableError::Csv {
        table: T::NAME,
        source,
    };
    let further = T::further_columns(rows);
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer
        .write_record(T::columns(rows).iter().map(|column| &*column.name))
        .map_err(failed)?;
    let mut text = String::new();
    for row in rows {
        for cell in row.all_cells(&further) {
            text.clear();
            write_text(cell, &mut text);
            writer.write_field(&text).map_err(failed)?;
        }
        writer.write_record(None::<&[u8]>).map_err(failed)?;
    }
    writer
        .into_inner()
        .map_err(|error| failed(error.into_error().into()))
}

/// The rows of a `trials.csv`, as they stand there. Its columns may stand in any order, and one that may be empty may be
/// missing, too: tables made by an older version, or elsewhere, lack some.
///
/// # Errors
/// Where it is no CSV, has a column that is neither one of [`Row`]'s nor a factor's, has one twice, or lacks one that
/// is never empty; names the line and the column.
pub fn read_trials_csv(bytes: &[u8]) -> Result<Vec<Row>, TableError> {
    let lines = read_lines(bytes)?;
    Ok(lines.into_iter().map(|(_, row)| row).collect())
}

/// The same for figures to rest on: every trial counts once, every number is finite, and notes say what had to be done
/// for that. Of a table that a sweep has made there is nothing to say.
///
/// # Errors
/// Those of [`read_trials_csv`], and where two rows say different things of one trial.
pub fn read_trials_table(bytes: &[u8]) -> Result<TrialsTable, TableError> {
    check::check(read_lines(bytes)?)
}

/// Each row with the line at which it begins.
fn read_lines(bytes: &[u8]) -> Result<Vec<(u64, Row)>, TableError> {
    let table = Row::NAME;
    let failed = |source| TableError::Csv { table, source };
    let mut reader = csv::Reader::from_reader(bytes);
    let Places { known, further } = places(Row::COLUMNS, reader.headers().map_err(failed)?)
        .map_err(|problem| TableError::Header { table, problem })?;
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(failed)?;
        let line = record.position().map_or(0, |at| line_of(bytes, at));
        let cells = known
            .iter()
            .map(|place| place.and_then(|at| record.get(at)).unwrap_or_default());
        let mut row = Row::parse(cells).map_err(|problem| TableError::Cell {
            table,
            line,
            problem,
        })?;
        for (factor, at) in &further {
            row.read_further(factor, record.get(*at).unwrap_or_default());
        }
        rows.push((line, row));
    }
    Ok(rows)
}

/// The line at which a record begins. The reader's own position is where it went on from the last one: before a line's
/// end of two characters, or empty lines.
fn line_of(bytes: &[u8], at: &csv::Position) -> u64 {
    let start = usize::try_from(at.byte()).unwrap_or(usize::MAX);
    let rest = bytes.get(start..).unwrap_or_default();
    let ends = rest.iter().take_while(|byte| b"\r\n".contains(byte));
    at.line() + ends.filter(|byte| **byte == b'\n').count() as u64
}

/// Where columns stand in a header.
struct Places {
    /// Each of the columns that every table has.
    known: Vec<Option<usize>>,
    /// The columns of further factors.
    further: Vec<(Factor, usize)>,
}

fn places(columns: &[Column], header: &csv::StringRecord) -> Result<Places, String> {
    let mut places = vec![None; columns.len()];
    let mut further: Vec<(Factor, usize)> = Vec::new();
    for (at, name) in header.iter().enumerate() {
        if let Some(factor) = of_column(name) {
            if further.iter().any(|(other, _)| *other == factor) {
                return Err(format!("{name:?} is there twice"));
            }
            further.push((factor, at));
            continue;
        }
        let known = columns.iter().position(|column| column.name == name);
        let known = known.ok_or_else(|| {
            let names = columns.iter().map(|column| &*column.name);
            let near = inferbench_crds::suggest::did_you_mean(name, names);
            format!(
                "column {}, {name:?}, is none of docs/columns.md{near}",
                at + 1
            )
        })?;
        if places[known].replace(at).is_some() {
            return Err(format!("{name:?} is there twice"));
        }
    }
    let missing = columns
        .iter()
        .zip(&places)
        .find(|(column, place)| !column.nullable && place.is_none());
    match missing {
        Some((column, _)) => Err(format!("{:?} is missing, and never empty", column.name)),
        None => Ok(Places {
            known: places,
            further,
        }),
    }
}

fn write_text(cell: Cell<'_>, out: &mut String) {
    use std::fmt::Write as _;
    // Writing to a String cannot fail.
    let _ = match cell {
        Cell::Empty => Ok(()),
        Cell::Text(text) => out.write_str(&text),
        Cell::Integer(number) => write!(out, "{number}"),
        Cell::Unsigned(number) => write!(out, "{number}"),
        Cell::Number(number) => write!(out, "{number}"),
        Cell::Boolean(truth) => write!(out, "{truth}"),
        Cell::Time(time) => write!(out, "{time}"),
        Cell::Numbers(numbers) => numbers
            .iter()
            .enumerate()
            .try_for_each(|(at, n)| write!(out, "{}{n}", if at > 0 { " " } else { "" })),
    };
}

/// A Parquet file in the making, compressed in memory; rows may come in portions.
pub struct ParquetTable<T> {
    /// The columns beyond those that every such table has.
    further: Vec<Column>,
    schema: SchemaRef,
    writer: ArrowWriter<Vec<u8>>,
    rows: usize,
    row: std::marker::PhantomData<fn(&T)>,
}

impl<T: TableRow> ParquetTable<T> {
    /// An empty table with the columns of every such table.
    ///
    /// # Errors
    /// Never in practice: it writes to memory.
    pub fn new() -> Result<Self, TableError> {
        Self::for_rows(&[])
    }

    /// An empty table with the columns that these rows need.
    ///
    /// # Errors
    /// Never in practice: it writes to memory.
    pub fn for_rows(rows: &[T]) -> Result<Self, TableError> {
        let schema = Arc::new(schema(rows));
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .build();
        let writer = ArrowWriter::try_new(Vec::new(), Arc::clone(&schema), Some(properties))
            .map_err(failed::<T>)?;
        Ok(Self {
            further: T::further_columns(rows),
            schema,
            writer,
            rows: 0,
            row: std::marker::PhantomData,
        })
    }

    /// Adds rows.
    ///
    /// # Errors
    /// Where a row has a column that the table was not made for; else never in practice: it writes to memory.
    pub fn push(&mut self, rows: &[T]) -> Result<(), TableError> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut needed = T::further_columns(rows).into_iter();
        if let Some(column) =
            needed.find(|column| !self.further.iter().any(|of| of.name == column.name))
        {
            let message = format!("the table was made without the column {}", column.name);
            return Err(failed::<T>(ParquetError::General(message)));
        }
        let cells: Vec<Vec<Cell<'_>>> = rows
            .iter()
            .map(|row| row.all_cells(&self.further))
            .collect();
        let arrays = T::COLUMNS
            .iter()
            .chain(&self.further)
            .enumerate()
            .map(|(at, column)| array(column, cells.iter().map(|row| &row[at])));
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), arrays.collect())
            .map_err(|error: ArrowError| failed::<T>(error.into()))?;
        self.rows += rows.len();
        self.writer.write(&batch).map_err(failed::<T>)
    }

    /// How many rows it has.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The file.
    ///
    /// # Errors
    /// Never in practice: it writes to memory.
    pub fn finish(self) -> Result<Vec<u8>, TableError> {
        self.writer.into_inner().map_err(failed::<T>)
    }
}

fn failed<T: TableRow>(source: ParquetError) -> TableError {
    TableError::Parquet {
        table: T::NAME,
        source,
    }
}

/// The Parquet schema of a table of these rows.
#[must_use]
pub fn schema<T: TableRow>(rows: &[T]) -> Schema {
    let field = |column: &Column| {
        let mut metadata =
            HashMap::from([("description".to_owned(), column.doc.clone().into_owned())]);
        if !column.unit.is_empty() {
            metadata.insert("unit".into(), column.unit.into());
        }
        Field::new(&*column.name, data_type(column.kind), column.nullable).with_metadata(metadata)
    };
    let metadata = HashMap::from([("row".to_owned(), T::ROW.to_owned())]);
    Schema::new_with_metadata(
        T::columns(rows).iter().map(field).collect::<Vec<_>>(),
        metadata,
    )
}

fn data_type(kind: Kind) -> DataType {
    match kind {
        Kind::Text => DataType::Utf8,
        Kind::Integer => DataType::Int64,
        Kind::Unsigned => DataType::UInt64,
        Kind::Number => DataType::Float64,
        Kind::Numbers => DataType::List(Arc::new(list_item())),
        Kind::Boolean => DataType::Boolean,
        Kind::Time => DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())),
    }
}

fn list_item() -> Field {
    Field::new("element", DataType::Float32, false)
}

fn array<'a>(column: &Column, cells: impl Iterator<Item = &'a Cell<'a>>) -> ArrayRef {
    macro_rules! collect {
        ($builder:expr, $kind:ident($value:ident) => $converted:expr) => {{
            let mut builder = $builder;
            for cell in cells {
                match cell {
                    Cell::$kind($value) => builder.append_value($converted),
                    _ => builder.append_null(),
                }
            }
            Arc::new(builder.finish())
        }};
    }
    match column.kind {
        Kind::Text => collect!(StringBuilder::new(), Text(text) => text),
        Kind::Integer => collect!(Int64Builder::new(), Integer(number) => *number),
        Kind::Unsigned => collect!(UInt64Builder::new(), Unsigned(number) => *number),
        Kind::Number => collect!(Float64Builder::new(), Number(number) => *number),
        Kind::Boolean => collect!(BooleanBuilder::new(), Boolean(truth) => *truth),
        Kind::Time => {
            collect!(TimestampMillisecondBuilder::new().with_timezone("UTC"), Time(time) => time.as_millisecond())
        }
        Kind::Numbers => {
            let mut builder = ListBuilder::new(Float32Builder::new()).with_field(list_item());
            for cell in cells {
                if let Cell::Numbers(numbers) = cell {
                    builder.values().append_slice(numbers);
                    builder.append(true);
                } else {
                    builder.append(false);
                }
            }
            Arc::new(builder.finish())
        }
    }
}

#[cfg(test)]
mod tests {
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
        outcome, valid, invalid_reasons, model, model_revision, architecture, model_params, dtype, batch_size, \
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
                "column 22, \"mean_ttft_mss\", is none of docs/columns.md (did you mean `mean_ttft_ms`?)",
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
            let csv =
                format!("{before}\n{}", last.replace(",Succeeded,", ",Won,")).replace('\n', end);
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
}
