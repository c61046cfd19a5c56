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
mod tests;
