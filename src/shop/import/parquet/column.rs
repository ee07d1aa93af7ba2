//! A column of a Parquet file that is not nested, read some rows at a time.

use super::value::{Value, ValueKind};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType, FixedLenByteArray, Int96};
use parquet::errors::ParquetError;

/// The next values of a column.
pub(super) struct FlatColumn {
    pub name: String,
    pub kind: ValueKind,
    /// Its place among the leaves of the schema.
    pub leaf: usize,
    /// Whether a value may be missing.
    is_optional: bool,
    values: ColumnValues,
    /// For each row that was read, 1 if it has a value; empty if each has.
    levels: Vec<i16>,
    /// Rows and values that were taken.
    row: usize,
    value: usize,
    /// The value of the row that was taken last; none if it has none.
    current: Option<usize>,
}

/// ColumnValues that were read, without the missing ones.
enum ColumnValues {
    None,
    Boolean(Vec<bool>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Int96(Vec<Int96>),
    Float(Vec<f32>),
    Double(Vec<f64>),
    Bytes(Vec<ByteArray>),
    FixedBytes(Vec<FixedLenByteArray>),
}

// === impl FlatColumn ===

impl FlatColumn {
    pub(super) fn new(name: String, kind: ValueKind, leaf: usize, is_optional: bool) -> Self {
        let (values, levels) = (ColumnValues::None, Vec::new());
        Self { name, kind, leaf, is_optional, values, levels, row: 0, value: 0, current: None }
    }

    /// Reads the next `rows` of a row group. Fewer are read only at its end.
    pub(super) fn fill(
        &mut self,
        reader: &mut ColumnReader,
        rows: usize,
    ) -> Result<usize, ParquetError> {
        self.levels.clear();
        (self.row, self.value) = (0, 0);
        match reader {
            ColumnReader::BoolColumnReader(reader) => {
                self.fill_as(reader, rows, ColumnValues::Boolean)
            }
            ColumnReader::Int32ColumnReader(reader) => {
                self.fill_as(reader, rows, ColumnValues::Int32)
            }
            ColumnReader::Int64ColumnReader(reader) => {
                self.fill_as(reader, rows, ColumnValues::Int64)
            }
            ColumnReader::Int96ColumnReader(reader) => {
                self.fill_as(reader, rows, ColumnValues::Int96)
            }
            ColumnReader::FloatColumnReader(reader) => {
                self.fill_as(reader, rows, ColumnValues::Float)
            }
            ColumnReader::DoubleColumnReader(reader) => {
                self.fill_as(reader, rows, ColumnValues::Double)
            }
            ColumnReader::ByteArrayColumnReader(reader) => {
                self.fill_as(reader, rows, ColumnValues::Bytes)
            }
            ColumnReader::FixedLenByteArrayColumnReader(reader) => {
                self.fill_as(reader, rows, ColumnValues::FixedBytes)
            }
        }
    }

    fn fill_as<T: DataType>(
        &mut self,
        reader: &mut ColumnReaderImpl<T>,
        rows: usize,
        wrap: impl FnOnce(Vec<T::T>) -> ColumnValues,
    ) -> Result<usize, ParquetError> {
        let mut values = Vec::with_capacity(rows);
        let mut read = 0;
        // A reader may stop at the end of a page.
        while read < rows {
            let levels = self.is_optional.then_some(&mut self.levels);
            let (records, _, _) = reader.read_records(rows - read, levels, None, &mut values)?;
            if records == 0 {
                break;
            }
            read += records;
        }
        let present = self.levels.iter().filter(|level| **level > 0).count();
        let expected = if self.is_optional { present } else { read };
        if values.len() != expected || self.is_optional && self.levels.len() != read {
            return Err(ParquetError::General(format!(
                "{} values for {expected} rows",
                values.len()
            )));
        }
        self.values = wrap(values);
        Ok(read)
    }

    /// Takes the value of the next row.
    pub(super) fn advance(&mut self) {
        let has_value =
            !self.is_optional || self.levels.get(self.row).is_some_and(|level| *level > 0);
        self.row += 1;
        self.current = has_value.then_some(self.value);
        self.value += usize::from(has_value);
    }

    /// The value that was taken; none if the row has none.
    pub(super) fn value(&self) -> Option<Value<'_>> {
        let at = self.current?;
        Some(match &self.values {
            ColumnValues::None => return None,
            ColumnValues::Boolean(values) => Value::Boolean(*values.get(at)?),
            ColumnValues::Int32(values) => {
                let value = *values.get(at)?;
                let is_unsigned = self.kind == ValueKind::Unsigned;
                Value::Integer(if is_unsigned { i64::from(value as u32) } else { value.into() })
            }
            ColumnValues::Int64(values) => Value::Integer(*values.get(at)?),
            ColumnValues::Int96(values) => Value::Int96(*values.get(at)?),
            ColumnValues::Float(values) => Value::Float((*values.get(at)?).into()),
            ColumnValues::Double(values) => Value::Float(*values.get(at)?),
            ColumnValues::Bytes(values) => Value::Bytes(values.get(at)?.data()),
            ColumnValues::FixedBytes(values) => Value::Bytes(values.get(at)?.data()),
        })
    }
}
