//! Parquet: only the columns that are looked for are decoded.

use super::cell::{NESTED_EXPECTED, from_json};
use super::row::{Heading, ImportRow, NextRow, RowFault};
use super::source::SourceFile;
use parquet::basic::{LogicalType, TimeUnit};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;
use serde_json::Value;
use std::io;
use std::panic::{self, AssertUnwindSafe};

const SECONDS_A_DAY: i64 = 24 * 60 * 60;
const NANOSECONDS_A_SECOND: i64 = 1_000_000_000;

/// The rows of a Parquet file.
pub(super) struct ParquetReader {
    rows: RowIter<'static>,
    /// The index in a row of each column that is looked for.
    indices: Vec<Option<usize>>,
    /// Whether a column holds nanoseconds, which the record reader returns as plain integers.
    nanoseconds: Vec<bool>,
    bytes: u64,
    done: u64,
    total: u64,
}

// === impl ParquetReader ===

impl ParquetReader {
    pub(super) fn open(source: SourceFile, heading: &mut Heading) -> io::Result<Self> {
        caught(|| Self::read_heading(source, heading))?
    }

    fn read_heading(source: SourceFile, heading: &mut Heading) -> io::Result<Self> {
        let bytes = source.file.metadata()?.len();
        let reader = SerializedFileReader::new(source.file).map_err(failed)?;
        let metadata = reader.metadata().file_metadata();
        let (total, schema) = (metadata.num_rows().max(0) as u64, metadata.schema());
        let names: Vec<&str> = schema.get_fields().iter().map(|field| field.name()).collect();
        let indices = heading.locate(&names)?;

        // Rows come with the projected columns only, in the order of the file.
        let mut projected: Vec<usize> = indices.iter().flatten().copied().collect();
        projected.sort_unstable();
        projected.dedup();
        let fields = projected.iter().map(|at| schema.get_fields()[*at].clone()).collect();
        let projection = Type::group_type_builder(schema.name()).with_fields(fields).build();
        let nanoseconds =
            projected.iter().map(|at| is_nanoseconds(&schema.get_fields()[*at])).collect();
        let indices =
            indices.into_iter().map(|index| projected.binary_search(&index?).ok()).collect();

        let rows = RowIter::from_file_into(Box::new(reader));
        let rows = rows.project(Some(projection.map_err(failed)?)).map_err(failed)?;
        Ok(Self { rows, indices, nanoseconds, bytes, done: 0, total })
    }

    pub(super) fn next(
        &mut self,
        row: &mut ImportRow,
        heading: &Heading,
    ) -> io::Result<NextRow<RowFault>> {
        row.clear();
        let Some(record) = caught(|| self.rows.next())? else { return Ok(NextRow::End) };
        let fields = record.map_err(failed)?.into_columns();
        self.done += 1;
        row.line = self.done;
        for (column, index) in self.indices.iter().enumerate() {
            let Some(index) = *index else { continue };
            let cell = &mut row.cells[column];
            let value = to_json(&fields[index].1, self.nanoseconds[index]);
            if (value.is_array() || value.is_object()) && !heading.columns[column].nested {
                let (value, expected) = (value.to_string(), NESTED_EXPECTED.to_owned());
                return Ok(NextRow::Wrong(RowFault { column: Some(column), value, expected }));
            }
            from_json(&value, cell);
        }
        Ok(NextRow::Row)
    }

    /// The file's bytes times the share of rows that were read: columns are not read in order.
    pub(super) fn bytes_read(&self) -> u64 {
        (self.bytes as f64 * self.done as f64 / self.total.max(1) as f64) as u64
    }
}

fn is_nanoseconds(field: &Type) -> bool {
    let logical = field.get_basic_info().logical_type_ref();
    matches!(logical, Some(LogicalType::Timestamp(time)) if time.unit == TimeUnit::NANOS)
}

/// A value as JSON, with times in Unix seconds.
fn to_json(field: &Field, nanoseconds: bool) -> Value {
    match field {
        Field::Null => Value::Null,
        Field::Bool(value) => (*value).into(),
        Field::Str(value) => value.as_str().into(),
        Field::Bytes(value) => String::from_utf8_lossy(value.data()).into(),
        Field::Long(value) if nanoseconds => value.div_euclid(NANOSECONDS_A_SECOND).into(),
        Field::TimestampMillis(value) => value.div_euclid(1_000).into(),
        Field::TimestampMicros(value) => value.div_euclid(1_000_000).into(),
        Field::Date(days) => (i64::from(*days) * SECONDS_A_DAY).into(),
        // Rust writes the shortest text that parses to the same float, and no point after a whole one.
        // So integer ids that a data frame turned into floats stay integers.
        Field::Float(value) => value.to_string().into(),
        Field::Double(value) => value.to_string().into(),
        Field::ListInternal(list) => list.elements().iter().map(|e| to_json(e, false)).collect(),
        Field::MapInternal(map) => {
            let pair = |(key, value): &(Field, Field)| (text(key), to_json(value, false));
            Value::Object(map.entries().iter().map(pair).collect())
        }
        Field::Group(group) => {
            let pair = |(name, field): (&String, &Field)| (name.clone(), to_json(field, false));
            Value::Object(group.get_column_iter().map(pair).collect())
        }
        number => number.to_string().into(),
    }
}

/// The result of `read`, with a panic as an error. The decoder panics on some damaged files, and a
/// panic would not name the file.
fn caught<T>(read: impl FnOnce() -> T) -> io::Result<T> {
    panic::catch_unwind(AssertUnwindSafe(read))
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the file is damaged"))
}

/// A map's key as text.
fn text(field: &Field) -> String {
    match to_json(field, false) {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

fn failed(error: ParquetError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
