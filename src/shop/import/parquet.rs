//! Parquet: only the columns that are looked for are decoded, some rows at a time.

mod column;
mod nested;
mod value;

use self::column::FlatColumn;
use self::nested::NestedColumns;
use self::value::ValueKind;
use super::cell::{NESTED_EXPECTED, from_json};
use super::columns::ColumnSpec;
use super::file_fault::FileFault;
use super::row::{Heading, ImportRow, NextRow, RowFault};
use super::source::SourceFile;
use parquet::basic::Repetition;
use parquet::column::reader::ColumnReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::{SchemaDescriptor, Type, TypePtr};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::panic::{self, AssertUnwindSafe};

/// Rows of a column that are decoded at a time.
const BATCH_ROWS: usize = 1_024;
/// The last bytes of a Parquet file.
const END: &[u8; 4] = b"PAR1";

/// What to do about a column that can't be decoded.
const DAMAGED: &str = "It is damaged, cut or encrypted: write the file again";

/// The rows of a Parquet file.
pub(super) struct ParquetReader {
    file: SerializedFileReader<File>,
    /// Where each column that is looked for is read from.
    places: Vec<Option<Place>>,
    flat: Vec<FlatColumn>,
    nested: Option<NestedColumns>,
    /// The readers of the current row group, one for each flat column.
    readers: Vec<ColumnReader>,
    /// Row groups that were begun.
    groups: usize,
    /// Rows of the current row group that are not yet decoded.
    group_left: usize,
    /// Rows that are decoded and not yet given.
    batch_left: usize,
    bytes: u64,
    done: u64,
    total: u64,
}

/// Where a column is read from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// An index into the flat columns.
    Flat(usize),
    /// An index into the nested columns.
    Nested(usize),
}

// === impl ParquetReader ===

impl ParquetReader {
    pub(super) fn open(mut source: SourceFile, heading: &mut Heading) -> Result<Self, FileFault> {
        check_end(&mut source.file)?;
        caught(|| Self::read_heading(source, heading))
            .unwrap_or_else(|| FileFault::stated("its footer is damaged"))
    }

    fn read_heading(source: SourceFile, heading: &mut Heading) -> Result<Self, FileFault> {
        let bytes = source.file.metadata()?.len();
        let again = source.file.try_clone()?;
        let footer = |error: ParquetError| {
            FileFault::Stated(format!("its footer can't be read: {}", reason(&error)))
        };
        let file = SerializedFileReader::new(source.file).map_err(footer)?;
        check_chunks(file.metadata(), bytes)?;
        let metadata = file.metadata().file_metadata();
        let (total, schema) = (metadata.num_rows().max(0) as u64, metadata.schema_descr());
        let roots = schema.root_schema().get_fields();
        let names: Vec<&str> = roots.iter().map(|field| field.name()).collect();
        let indices = heading.locate(&names)?;
        let (mut flat, mut nested) = (Vec::new(), Vec::new());
        for (root, field) in roots.iter().enumerate() {
            let specs = heading.columns.iter().zip(&indices);
            let specs: Vec<_> =
                specs.filter(|(_, at)| **at == Some(root)).map(|(spec, _)| spec).collect();
            if specs.is_empty() {
                continue;
            }
            if is_nested(field) {
                refuse_nested(field, &specs)?;
                nested.push((root, field.clone()));
            } else {
                flat.push((root, flat_column(field, leaf_of(schema, root))?));
            }
        }
        let place = |root: usize| {
            let flat = flat.iter().position(|(at, _)| *at == root).map(Place::Flat);
            flat.or_else(|| nested.iter().position(|(at, _)| *at == root).map(Place::Nested))
        };
        let places = indices.into_iter().map(|index| index.and_then(place)).collect();
        let flat = flat.into_iter().map(|(_, column)| column).collect();
        let roots: Vec<TypePtr> = nested.into_iter().map(|(_, field)| field).collect();
        let nested = (!roots.is_empty()).then(|| NestedColumns::open(again, roots)).transpose();
        let (nested, readers) = (nested.map_err(footer)?, Vec::new());
        let (groups, group_left, batch_left) = (0, 0, 0);
        Ok(Self {
            file,
            places,
            flat,
            nested,
            readers,
            groups,
            group_left,
            batch_left,
            bytes,
            done: 0,
            total,
        })
    }

    pub(super) fn next(
        &mut self,
        row: &mut ImportRow,
        heading: &Heading,
    ) -> Result<NextRow<RowFault>, FileFault> {
        row.clear();
        while self.batch_left == 0 {
            if self.group_left == 0 && !self.begin_group()? {
                return Ok(NextRow::End);
            }
            self.decode()?;
        }
        self.batch_left -= 1;
        self.done += 1;
        row.line = self.done;
        self.advance_nested()?;
        self.flat.iter_mut().for_each(FlatColumn::advance);
        for (column, place) in self.places.iter().enumerate() {
            let Some(place) = *place else { continue };
            let (spec, cell) = (&heading.columns[column], &mut row.cells[column]);
            if let Some(fault) = self.write(place, spec, cell) {
                return Ok(NextRow::Wrong(RowFault { column: Some(column), ..fault }));
            }
        }
        Ok(NextRow::Row)
    }

    /// Writes the text of a value into a cell, or says why there is none.
    fn write(&self, place: Place, spec: &ColumnSpec, cell: &mut String) -> Option<RowFault> {
        match place {
            Place::Flat(at) => {
                let column = &self.flat[at];
                let value = column.value()?;
                let expected = column.kind.write(value, spec.id, cell).err()?.into_owned();
                Some(RowFault { column: None, value: value.shown(), expected })
            }
            Place::Nested(at) => match self.nested.as_ref()?.value(at) {
                Ok(value) => {
                    from_json(&value, cell);
                    None
                }
                Err(expected) => {
                    let (value, expected) = (String::new(), expected.into_owned());
                    Some(RowFault { column: None, value, expected })
                }
            },
        }
    }

    /// Begins the next row group. Whether there is one.
    fn begin_group(&mut self) -> Result<bool, FileFault> {
        if self.groups == self.file.metadata().num_row_groups() {
            return Ok(false);
        }
        let index = self.groups;
        self.groups += 1;
        let group = self.at_group(caught(|| self.file.get_row_group(index)), None)?;
        self.group_left = group.metadata().num_rows().max(0) as usize;
        let mut readers = Vec::with_capacity(self.flat.len());
        for column in &self.flat {
            let reader = caught(|| group.get_column_reader(column.leaf));
            readers.push(self.at_group(reader, Some(&column.name))?);
        }
        drop(group);
        self.readers = readers;
        Ok(true)
    }

    /// Decodes the next rows of the current row group.
    fn decode(&mut self) -> Result<(), FileFault> {
        let rows = self.group_left.min(BATCH_ROWS);
        for at in 0..self.flat.len() {
            let (column, reader) = (&mut self.flat[at], &mut self.readers[at]);
            let read = caught(|| column.fill(reader, rows));
            let name = Some(self.flat[at].name.as_str());
            let read = self.at_group(read, name)?;
            if read < rows {
                let missing = self.group_left - read;
                let why = format!("it ends {missing} rows before its row group");
                return self.at_group(Some(Err(ParquetError::EOF(why))), name);
            }
        }
        self.group_left -= rows;
        self.batch_left = rows;
        Ok(())
    }

    fn advance_nested(&mut self) -> Result<(), FileFault> {
        let Some(nested) = &mut self.nested else { return Ok(()) };
        let advanced = caught(|| nested.advance());
        if self.at_group(advanced, None)? {
            return Ok(());
        }
        self.at_group(Some(Err(ParquetError::EOF("a nested column ends".into()))), None)
    }

    /// A result of the decoder, with the row group and the column in its error. No result means that it panicked.
    fn at_group<T>(
        &self,
        result: Option<Result<T, ParquetError>>,
        column: Option<&str>,
    ) -> Result<T, FileFault> {
        let (why, advice) = match result {
            Some(Ok(found)) => return Ok(found),
            Some(Err(ParquetError::NYI(why))) => (why, "Write the file in another way"),
            Some(Err(error)) => (reason(&error), DAMAGED),
            None => ("the decoder gave up".to_owned(), DAMAGED),
        };
        let column = column.map(|name| format!(", column {name:?}")).unwrap_or_default();
        FileFault::stated(format!(
            "row group {} of {}{column}: {why}. {advice}",
            self.groups,
            self.file.metadata().num_row_groups()
        ))
    }

    /// The file's bytes times the share of rows that were read: columns are not read in order.
    pub(super) fn bytes_read(&self) -> u64 {
        (self.bytes as f64 * self.done as f64 / self.total.max(1) as f64) as u64
    }
}

/// Fails if the file does not end as it must.
fn check_end(file: &mut File) -> Result<(), FileFault> {
    let mut last = [0; END.len()];
    file.seek(SeekFrom::End(-(END.len() as i64)))?;
    file.read_exact(&mut last)?;
    file.rewind()?;
    if last == *END {
        return Ok(());
    }
    FileFault::stated(
        "does not end as a Parquet file does, with its footer: it is cut, or still being written",
    )
}

/// Fails if the footer names rows or bytes that the file does not have.
fn check_chunks(metadata: &ParquetMetaData, bytes: u64) -> Result<(), FileFault> {
    let mut rows = 0_i64;
    for (index, group) in metadata.row_groups().iter().enumerate() {
        rows = rows.saturating_add(group.num_rows());
        for chunk in group.columns() {
            let begin = chunk.dictionary_page_offset().unwrap_or(chunk.data_page_offset());
            let (begin, length) = (u64::try_from(begin), u64::try_from(chunk.compressed_size()));
            let end =
                begin.ok().zip(length.ok()).and_then(|(begin, length)| begin.checked_add(length));
            if end.is_none_or(|end| end > bytes) {
                return FileFault::stated(format!(
                    "row group {} of {}, column {:?} lies beyond the file's {bytes} bytes. {DAMAGED}",
                    index + 1,
                    metadata.num_row_groups(),
                    chunk.column_path().string()
                ));
            }
        }
    }
    let total = metadata.file_metadata().num_rows();
    if rows == total {
        return Ok(());
    }
    FileFault::stated(format!(
        "its row groups have {rows} rows, and its footer counts {total}. {DAMAGED}"
    ))
}

/// Whether a column holds lists or objects.
fn is_nested(field: &Type) -> bool {
    field.is_group() || field.get_basic_info().repetition() == Repetition::REPEATED
}

/// Fails if a nested column is to be read as one that can't be.
fn refuse_nested(field: &Type, specs: &[&ColumnSpec]) -> Result<(), FileFault> {
    let Some(spec) = specs.iter().find(|spec| !spec.nested) else { return Ok(()) };
    FileFault::stated(format!(
        "its column {:?} holds lists or objects, and {} must be {NESTED_EXPECTED}: write it as a plain column, or name \
         another with --column {}=NAME",
        field.name(),
        spec.ours,
        spec.ours
    ))
}

fn flat_column(field: &Type, leaf: usize) -> Result<FlatColumn, FileFault> {
    let name = field.name().to_owned();
    let Some(kind) = ValueKind::of(field) else {
        return FileFault::stated(format!(
            "its column {name:?} holds intervals, which have no text: write it as another type"
        ));
    };
    Ok(FlatColumn::new(name, kind, leaf, field.is_optional()))
}

/// The leaf of a column that is not nested.
fn leaf_of(schema: &SchemaDescriptor, root: usize) -> usize {
    (0..schema.num_columns()).find(|leaf| schema.get_column_root_idx(*leaf) == root).unwrap_or(0)
}

/// The result of `read`, or none if it panics. The decoder does on some damaged files, and a panic would not name
/// the file.
fn caught<T>(read: impl FnOnce() -> T) -> Option<T> {
    panic::catch_unwind(AssertUnwindSafe(read)).ok()
}

/// An error of the decoder without its own prefix.
fn reason(error: &ParquetError) -> String {
    match error {
        ParquetError::General(why) | ParquetError::EOF(why) | ParquetError::NYI(why) => why.clone(),
        other => other.to_string(),
    }
}
