//! Columns of a Parquet file that hold lists or objects, as JSON.

use crate::shop::import::cell::Expected;
use crate::shop::import::id::bytes_text;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use parquet::schema::types::{Type, TypePtr};
use serde_json::Value;
use std::fs::File;

const SECONDS_A_DAY: i64 = 24 * 60 * 60;

/// The nested columns that are looked for, row by row.
pub(super) struct NestedColumns {
    rows: RowIter<'static>,
    fields: Vec<Field>,
}

// === impl NestedColumns ===

impl NestedColumns {
    /// Reads the columns `roots`, in the order of the file.
    pub(super) fn open(file: File, roots: Vec<TypePtr>) -> Result<Self, ParquetError> {
        let reader = SerializedFileReader::new(file)?;
        let name = reader.metadata().file_metadata().schema().name().to_owned();
        let projection = Type::group_type_builder(&name).with_fields(roots).build()?;
        let rows = RowIter::from_file_into(Box::new(reader)).project(Some(projection))?;
        Ok(Self { rows, fields: Vec::new() })
    }

    /// Reads the next row. Whether there is one.
    pub(super) fn advance(&mut self) -> Result<bool, ParquetError> {
        let Some(row) = self.rows.next() else { return Ok(false) };
        self.fields = row?.into_columns().into_iter().map(|(_, field)| field).collect();
        Ok(true)
    }

    /// The value of a column, counted among the nested ones.
    pub(super) fn value(&self, column: usize) -> Result<Value, Expected> {
        self.fields.get(column).map_or(Ok(Value::Null), to_json)
    }
}

/// A value as JSON, with times in Unix seconds.
fn to_json(field: &Field) -> Result<Value, Expected> {
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => (*value).into(),
        Field::Str(value) => value.as_str().into(),
        Field::Bytes(value) => bytes_text(value.data())?.into(),
        Field::TimestampMillis(value) => value.div_euclid(1_000).into(),
        Field::TimestampMicros(value) => value.div_euclid(1_000_000).into(),
        Field::Date(days) => (i64::from(*days) * SECONDS_A_DAY).into(),
        // Rust writes the shortest text that parses to the same float, and no point after a whole one.
        Field::Float(value) => value.to_string().into(),
        Field::Double(value) => value.to_string().into(),
        Field::ListInternal(list) => {
            Value::Array(list.elements().iter().map(to_json).collect::<Result<_, _>>()?)
        }
        Field::MapInternal(map) => {
            let pair = |(key, value): &(Field, Field)| Ok((key_text(key)?, to_json(value)?));
            Value::Object(map.entries().iter().map(pair).collect::<Result<_, Expected>>()?)
        }
        Field::Group(group) => {
            let pair = |(name, field): (&String, &Field)| Ok((name.clone(), to_json(field)?));
            Value::Object(group.get_column_iter().map(pair).collect::<Result<_, Expected>>()?)
        }
        number => number.to_string().into(),
    })
}

/// A map's key as text.
fn key_text(field: &Field) -> Result<String, Expected> {
    Ok(match to_json(field)? {
        Value::String(text) => text,
        other => other.to_string(),
    })
}
