//! The files of a table as rows of text cells, one for each column that is looked for.

use super::ImportError;
use super::cell::CellFault;
use super::columns::ColumnSpecs;
use super::delimited::DelimitedReader;
use super::dialect::TableFormat;
use super::file_fault::FileFault;
use super::files::TableFiles;
use super::json_lines::JsonLinesReader;
use super::parquet::ParquetReader;
use super::rejects::Reject;
use super::row::{Heading, ImportRow, NextRow, RowFault};
use super::source::{FileStamp, SourceFile};
use std::path::Path;
use std::rc::Rc;

/// A table that is being read, row by row.
pub(super) struct ImportTable<'a> {
    files: &'a TableFiles,
    /// The number of files that were opened.
    opened: usize,
    heading: Heading,
    current: Option<OpenFile>,
    /// The file whose heading the others must agree with.
    first: Option<Rc<Path>>,
    /// Bytes of the files that were read to their ends.
    bytes_done: u64,
    /// Whether there was any row, valid or not.
    has_rows: bool,
}

/// A file that is being read.
struct OpenFile {
    path: Rc<Path>,
    rows: TableReader,
    /// The file as it was when it was opened; none for a pipe.
    stamp: Option<FileStamp>,
}

/// The rows of a file, in one of the formats.
enum TableReader {
    Delimited(Box<DelimitedReader>),
    JsonLines(JsonLinesReader),
    Parquet(ParquetReader),
}

// === impl ImportTable ===

impl<'a> ImportTable<'a> {
    /// Opens the first file of a table, and looks for `columns` in it.
    pub(super) fn open(files: &'a TableFiles, columns: ColumnSpecs) -> Result<Self, ImportError> {
        let (heading, first) = (Heading::new(columns), None);
        let mut table = Self {
            files,
            opened: 0,
            heading,
            current: None,
            first,
            bytes_done: 0,
            has_rows: false,
        };
        table.open_next()?;
        if table.current.is_none() {
            return Err(match &files.files[..] {
                [file] => {
                    let why = "the file is empty: its first line must name its columns".to_owned();
                    FileFault::Stated(why).at(file, 0)
                }
                many => {
                    let why = format!("its {} files are empty", many.len());
                    FileFault::Stated(why).at(&files.named, 0)
                }
            });
        }
        Ok(table)
    }

    /// An empty row for [`next`](Self::next) to fill.
    pub(super) fn row(&self) -> ImportRow {
        let file = self.current.as_ref().map_or_else(|| Path::new("").into(), |f| f.path.clone());
        ImportRow { file, line: 0, cells: vec![String::new(); self.heading.columns.len()] }
    }

    /// Reads the next row.
    pub(super) fn next(&mut self, row: &mut ImportRow) -> Result<NextRow<Reject>, ImportError> {
        while let Some(file) = &mut self.current {
            if !Rc::ptr_eq(&file.path, &row.file) {
                row.file = file.path.clone();
                row.line = 0;
            }
            let next = file.next(row, &mut self.heading)?;
            self.has_rows |= !matches!(next, NextRow::End);
            match next {
                NextRow::Row => return Ok(NextRow::Row),
                NextRow::Wrong(fault) => return Ok(NextRow::Wrong(self.reject_row(row, fault))),
                NextRow::End => self.open_next()?,
            }
        }
        if !self.has_rows {
            // Without items, every event would be wrong, and that would not be the reason.
            let why = "has no rows to import".to_owned();
            return Err(FileFault::Stated(why).at(&self.files.named, 0));
        }
        Ok(NextRow::End)
    }

    /// Ends the current file, and opens the next one that is not empty.
    fn open_next(&mut self) -> Result<(), ImportError> {
        if let Some(file) = self.current.take() {
            file.check_unchanged()?;
            self.bytes_done += file.stamp.as_ref().map_or(file.bytes_read(), |stamp| stamp.bytes);
        }
        while self.current.is_none() && self.opened < self.files.files.len() {
            let path = &self.files.files[self.opened];
            self.opened += 1;
            self.current = self.open_file(path)?;
        }
        Ok(())
    }

    /// Opens a file, unless it is empty.
    fn open_file(&mut self, path: &Path) -> Result<Option<OpenFile>, ImportError> {
        let at = |fault: FileFault| fault.at(path, 0);
        let is_one_of_many = self.files.files.len() > 1;
        if is_one_of_many && std::fs::metadata(path).is_ok_and(|metadata| metadata.len() == 0) {
            return Ok(None);
        }
        let mut source = SourceFile::open(path, self.files.spec).map_err(at)?;
        let stamp = source.stamp.take();
        let mut heading = Heading::new(self.heading.columns.clone());
        let rows = match source.format {
            // JSON Lines have no heading: their columns are known at the end of the table.
            TableFormat::JsonLines => {
                let rows = JsonLinesReader::open(source, &heading).map_err(at)?;
                return Ok(Some(OpenFile::new(path, TableReader::JsonLines(rows), stamp)));
            }
            TableFormat::Csv | TableFormat::Tsv => {
                match DelimitedReader::open(source, &mut heading).map_err(at)? {
                    Some(rows) => TableReader::Delimited(Box::new(rows)),
                    None => return Ok(None),
                }
            }
            TableFormat::Parquet => {
                TableReader::Parquet(ParquetReader::open(source, &mut heading).map_err(at)?)
            }
        };
        let file = OpenFile::new(path, rows, stamp);
        self.take_heading(&file, heading)?;
        Ok(Some(file))
    }

    /// Takes the heading of a file over. It must have the columns that the first file has.
    fn take_heading(&mut self, file: &OpenFile, heading: Heading) -> Result<(), ImportError> {
        heading.check(&file.path)?;
        let Some(first) = &self.first else {
            self.first = Some(file.path.clone());
            self.heading = heading;
            return Ok(());
        };
        let pairs = self.heading.theirs.iter().zip(&heading.theirs);
        if let Some((column, (there, here))) = pairs.enumerate().find(|(_, (a, b))| a != b) {
            let shown = |theirs: &Option<String>| {
                theirs.as_ref().map_or("not there".to_owned(), |name| format!("{name:?}"))
            };
            return FileFault::stated(format!(
                "its columns differ from those of {}: {} is {} there, and {} here",
                first.display(),
                heading.columns[column].ours,
                shown(there),
                shown(here)
            ))
            .map_err(|fault| fault.at(&file.path, 0));
        }
        self.heading.ignored.extend(heading.ignored);
        Ok(())
    }

    /// The reject of a row for one of its cells.
    pub(super) fn reject(&self, row: &ImportRow, fault: CellFault) -> Reject {
        let CellFault { column, expected } = fault;
        let value = row.cells[column].clone();
        let fault = RowFault { column: Some(column), value, expected: expected.into_owned() };
        self.reject_row(row, fault)
    }

    fn reject_row(&self, row: &ImportRow, fault: RowFault) -> Reject {
        Reject {
            file: row.file.to_path_buf(),
            line: row.line,
            column: fault.column.map(|column| self.heading.name(column).to_owned()),
            value: Reject::shorten(&fault.value),
            expected: fault.expected,
        }
    }

    /// Fails if a required column was not found. JSON Lines are known only after the last row.
    pub(super) fn check_columns(&self) -> Result<(), ImportError> {
        // A file without rows has no columns either, and is refused for that.
        if self.heading.is_unseen() {
            return Ok(());
        }
        self.heading.check(&self.files.named)
    }

    /// Bytes of the files that were read so far.
    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes_done + self.current.as_ref().map_or(0, OpenFile::bytes_read)
    }

    /// The columns of the files, as far as they were read.
    pub(super) fn heading(&self) -> &Heading {
        &self.heading
    }
}

// === impl OpenFile ===

impl OpenFile {
    fn new(path: &Path, rows: TableReader, stamp: Option<FileStamp>) -> Self {
        Self { path: path.into(), rows, stamp }
    }

    fn next(
        &mut self,
        row: &mut ImportRow,
        heading: &mut Heading,
    ) -> Result<NextRow<RowFault>, ImportError> {
        let next = match &mut self.rows {
            TableReader::Delimited(rows) => rows.next(row),
            TableReader::JsonLines(rows) => rows.next(row, heading),
            TableReader::Parquet(rows) => rows.next(row, heading),
        };
        next.or_else(|fault| {
            // A file that changes while it is read looks damaged.
            self.check_unchanged()?;
            Err(fault.at(&self.path, row.line))
        })
    }

    /// Fails if somebody wrote to the file since it was opened, or put another in its place.
    fn check_unchanged(&self) -> Result<(), ImportError> {
        let checked = self.stamp.as_ref().map_or(Ok(()), FileStamp::check);
        checked.map_err(|fault| fault.at(&self.path, 0))
    }

    fn bytes_read(&self) -> u64 {
        match &self.rows {
            TableReader::Delimited(rows) => rows.bytes_read(),
            TableReader::JsonLines(rows) => rows.bytes_read(),
            TableReader::Parquet(rows) => rows.bytes_read(),
        }
    }
}
