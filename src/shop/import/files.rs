//! The files of a table: one, those of a folder, or those that a pattern matches.

use super::dialect::FileSpec;
use super::file_fault::FileFault;
use super::source::{STANDARD_INPUT, format_of};
use super::{ImportError, ImportSpec};
use glob::{MatchOptions, glob_with};
use std::fs;
use std::path::{Path, PathBuf};

/// Files of one table.
const FILES_MAX: usize = 10_000;
/// Characters that make a path a pattern.
const PATTERN_MARKS: [char; 3] = ['*', '?', '['];
/// Folders beside a table's files that say that not all of them are its rows.
const LEDGERS: [(&str, &str); 3] = [
    (
        "_delta_log",
        "is a Delta Lake table: some of its files may hold deleted rows. Write it out as plain Parquet first",
    ),
    (
        ".hoodie",
        "is a Hudi table: some of its files may hold old rows. Write it out as plain Parquet first",
    ),
    (
        "_temporary",
        "holds a _temporary folder: the job that writes it has not ended. Import it when it has",
    ),
];

/// The files of one table, in the order in which they are read.
pub(super) struct TableFiles {
    /// What the user named.
    pub named: PathBuf,
    pub files: Vec<PathBuf>,
    pub spec: FileSpec,
    /// The sum of the files' sizes; pipes have none.
    pub bytes: u64,
}

// === impl TableFiles ===

impl TableFiles {
    /// Finds the files that `named` stands for. All of them have one format.
    pub(super) fn find(named: &Path, spec: FileSpec) -> Result<Self, ImportError> {
        let files = list(named)?;
        let mut bytes = 0;
        let mut first = None;
        for file in &files {
            let at = |fault: FileFault| fault.at(file, 0);
            let format = format_of(file, &spec).map_err(at)?;
            let (first_format, first_file) = *first.get_or_insert((format, file));
            if format != first_format {
                return FileFault::stated(format!(
                    "is {}, but {} is {}: the files of a table have one format",
                    format.as_str(),
                    first_file.display(),
                    first_format.as_str()
                ))
                .map_err(at);
            }
            if file != Path::new(STANDARD_INPUT) {
                bytes += fs::metadata(file).map_err(|error| at(error.into()))?.len();
            }
        }
        Ok(Self { named: named.to_owned(), files, spec, bytes })
    }
}

/// Fails if both tables are to come from the standard input.
pub(super) fn refuse_one_input_twice(spec: &ImportSpec) -> Result<(), ImportError> {
    let input = Path::new(STANDARD_INPUT);
    if spec.items == input && spec.events == input {
        let why = "can't be both the items and the events: name a file for one of them";
        return FileFault::stated(why).map_err(|fault: FileFault| fault.at(input, 0));
    }
    Ok(())
}

fn list(named: &Path) -> Result<Vec<PathBuf>, ImportError> {
    let at = |fault: FileFault| fault.at(named, 0);
    if named == Path::new(STANDARD_INPUT) {
        return Ok(vec![named.to_owned()]);
    }
    let (files, verb) = match fs::metadata(named) {
        Ok(metadata) if metadata.is_dir() => (in_folder(named)?, "holds"),
        Ok(_) => return Ok(vec![named.to_owned()]),
        Err(error) => match named.to_str().filter(|text| text.contains(PATTERN_MARKS)) {
            Some(pattern) => (matching(pattern)?, "matches"),
            None => return Err(at(error.into())),
        },
    };
    if files.is_empty() {
        return FileFault::stated(format!(
            "{verb} no file to import (names that begin with . or _, or end in .crc, are not counted)"
        ))
        .map_err(at);
    }
    Ok(files)
}

/// The files of a folder, by name.
fn in_folder(folder: &Path) -> Result<Vec<PathBuf>, ImportError> {
    let at = |fault: FileFault| fault.at(folder, 0);
    for (ledger, why) in LEDGERS {
        if folder.join(ledger).is_dir() {
            return FileFault::stated(why).map_err(at);
        }
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| at(error.into()))? {
        let path = entry.map_err(|error| at(error.into()))?.path();
        if !is_beside(&path) {
            add(&mut files, path)?;
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// The files that a pattern matches, by name.
fn matching(pattern: &str) -> Result<Vec<PathBuf>, ImportError> {
    let at = |why: String| FileFault::Stated(why).at(Path::new(pattern), 0);
    let options = MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    let found = glob_with(pattern, options)
        .map_err(|error| at(format!("is no file, and as a pattern it is wrong: {error}")))?;
    let names_them = pattern.rsplit('/').next().is_some_and(|last| last.starts_with(['.', '_']));
    let mut files = Vec::new();
    for path in found {
        let path = path.map_err(|error| at(error.to_string()))?;
        if names_them || !is_beside(&path) {
            add(&mut files, path)?;
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn add(files: &mut Vec<PathBuf>, path: PathBuf) -> Result<(), ImportError> {
    let at = |fault: FileFault| fault.at(&path, 0);
    let metadata = fs::metadata(&path).map_err(|error| at(error.into()))?;
    if metadata.is_dir() {
        return FileFault::stated(
            "is a folder inside: a table's files lie in one folder, and what folders' names say is not read. Name \
             the files by a pattern, such as 'table/*/*.csv'",
        )
        .map_err(at);
    }
    if !metadata.is_file() {
        return FileFault::stated("is no regular file, as each of a table's many files must be")
            .map_err(at);
    }
    if files.len() == FILES_MAX {
        return FileFault::stated(format!(
            "is one too many: a table has at most {FILES_MAX} files"
        ))
        .map_err(at);
    }
    files.push(path);
    Ok(())
}

/// Whether a file lies beside a table's files without being one: `_SUCCESS`, checksums, hidden files.
fn is_beside(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(['.', '_']) || name.ends_with(".crc")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_as_many_files_as_the_bound_and_not_one_more() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("events");
        fs::create_dir(&folder).unwrap();
        let add = |name: &str| fs::write(folder.join(name), "").unwrap();
        (0..FILES_MAX).for_each(|number| add(&format!("{number:05}.csv")));
        // What lies beside the files of a table does not count.
        add("_SUCCESS");
        add(".hidden.csv");
        add("00000.csv.crc");
        let pattern = folder.join("*.csv");
        for named in [&folder, &pattern] {
            let files = list(named).unwrap();
            assert_eq!(files.len(), FILES_MAX, "{}", named.display());
            assert!(files.is_sorted());
        }
        add("99999.csv");
        for named in [&folder, &pattern] {
            let error = list(named).unwrap_err().to_string();
            let words = format!(".csv: is one too many: a table has at most {FILES_MAX} files");
            assert!(error.contains(&words), "{}: {error}", named.display());
        }
        // A pattern's files are read by name, so that the last one is named.
        let error = list(&pattern).unwrap_err().to_string();
        assert!(error.contains("99999.csv"), "{error}");
    }
}
