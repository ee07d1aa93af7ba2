//! Parquet: only the columns that we look for are decoded.

use super::cell::{NESTED_EXPECTED, from_json};
use super::source::Source;
use super::table::{Fault, Heading, Row, Step};
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
pub(super) struct Parquet {
    rows: RowIter<'static>,
    /// Where each column that we look for stands in a row.
    places: Vec<Option<usize>>,
    /// Whether a column holds nanoseconds, which the record reader hands over as plain integers.
    nanoseconds: Vec<bool>,
    bytes: u64,
    done: u64,
    total: u64,
}

// === impl Parquet ===

impl Parquet {
    pub(super) fn open(source: Source, heading: &mut Heading) -> io::Result<Self> {
        caught(|| Self::read_heading(source, heading))?
    }

    fn read_heading(source: Source, heading: &mut Heading) -> io::Result<Self> {
        let bytes = source.file.metadata()?.len();
        let reader = SerializedFileReader::new(source.file).map_err(failed)?;
        let metadata = reader.metadata().file_metadata();
        let (total, schema) = (metadata.num_rows().max(0) as u64, metadata.schema());
        let names: Vec<&str> = schema.get_fields().iter().map(|field| field.name()).collect();
        let places = heading.place(&names);

        // Rows come with the projected columns only, in the order of the file.
        let mut kept: Vec<usize> = places.iter().flatten().copied().collect();
        kept.sort_unstable();
        kept.dedup();
        let fields = kept.iter().map(|at| schema.get_fields()[*at].clone()).collect();
        let projection = Type::group_type_builder(schema.name()).with_fields(fields).build();
        let nanoseconds = kept.iter().map(|at| is_nanoseconds(&schema.get_fields()[*at])).collect();
        let places = places.into_iter().map(|place| kept.binary_search(&place?).ok()).collect();

        let rows = RowIter::from_file_into(Box::new(reader));
        let rows = rows.project(Some(projection.map_err(failed)?)).map_err(failed)?;
        Ok(Self { rows, places, nanoseconds, bytes, done: 0, total })
    }

    pub(super) fn next(&mut self, row: &mut Row, heading: &Heading) -> io::Result<Step> {
        row.clear();
        let Some(record) = caught(|| self.rows.next())? else { return Ok(Step::End) };
        let fields = record.map_err(failed)?.into_columns();
        self.done += 1;
        row.line = self.done;
        for (column, place) in self.places.iter().enumerate() {
            let Some(place) = *place else { continue };
            let cell = &mut row.cells[column];
            let value = to_json(&fields[place].1, self.nanoseconds[place]);
            if (value.is_array() || value.is_object()) && !heading.wanted[column].nested {
                let (value, expected) = (value.to_string(), NESTED_EXPECTED.to_owned());
                return Ok(Step::Wrong(Fault { column: Some(column), value, expected }));
            }
            from_json(&value, cell);
        }
        Ok(Step::Row)
    }

    /// The share of the rows read, in bytes of the file: its columns are not read in order.
    pub(super) fn bytes_read(&self) -> u64 {
        (self.bytes as f64 * self.done as f64 / self.total.max(1) as f64) as u64
    }
}

fn is_nanoseconds(field: &Type) -> bool {
    let logical = field.get_basic_info().logical_type_ref();
    matches!(logical, Some(LogicalType::Timestamp(time)) if time.unit == TimeUnit::NANOS)
}

/// A value as JSON would have it, with times in Unix seconds.
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
        // Rust writes a float as the shortest text that reads back as the same number, and a
        // whole one without a point, which keeps ids whole that passed through a data frame.
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

/// What `read` returns. The decoder panics on some damaged files, and a panic would leave the user
/// without the name of the file.
fn caught<T>(read: impl FnOnce() -> T) -> io::Result<T> {
    panic::catch_unwind(AssertUnwindSafe(read))
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "the file is damaged"))
}

/// The key of a map.
fn text(field: &Field) -> String {
    match to_json(field, false) {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

fn failed(error: ParquetError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
