//! What a user may state of a table's files, where their names and bytes don't say it.

use super::file_fault::FileFault;
use encoding_rs::Encoding;
use std::str::FromStr;

/// Lines that a quoted cell may span. A cell with more is rather a quote that nobody closed.
pub(super) const QUOTED_LINES_MAX: u64 = 100;
const QUOTE: u8 = b'"';

/// The format of a table's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFormat {
    /// Cells between commas, or another stated delimiter.
    Csv,
    /// Cells between tabs.
    Tsv,
    /// One JSON object on each line.
    JsonLines,
    /// Apache Parquet.
    Parquet,
}

/// The byte between two cells of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delimiter(u8);

/// The byte around cells that hold delimiters or line ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quote {
    /// This byte.
    Byte(u8),
    /// None: every quote is text.
    None,
}

/// The encoding of a text file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextEncoding(pub(super) &'static Encoding);

/// How the files of a table are written. What is none is told by their names and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileSpec {
    /// The format.
    pub format: Option<TableFormat>,
    /// The byte between two cells.
    pub delimiter: Option<Delimiter>,
    /// The byte around cells.
    pub quote: Option<Quote>,
    /// The encoding of text; UTF-8 by default.
    pub encoding: Option<TextEncoding>,
}

/// How the rows of a delimited file are written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dialect {
    pub delimiter: u8,
    pub quote: Option<u8>,
    /// Lines that a quoted cell may span.
    pub quoted_lines_max: u64,
}

// === impl TableFormat ===

impl TableFormat {
    /// Its name in a sentence.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Csv => "CSV",
            Self::Tsv => "TSV",
            Self::JsonLines => "JSON Lines",
            Self::Parquet => "Parquet",
        }
    }
}

impl FromStr for TableFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "csv" => Ok(Self::Csv),
            "tsv" => Ok(Self::Tsv),
            "jsonl" | "ndjson" => Ok(Self::JsonLines),
            "parquet" => Ok(Self::Parquet),
            _ => Err("expected csv, tsv, jsonl or parquet".to_owned()),
        }
    }
}

// === impl Delimiter ===

impl FromStr for Delimiter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text.to_ascii_lowercase().as_str(), text.as_bytes()) {
            ("tab" | "\\t", _) => Ok(Self(b'\t')),
            ("comma", _) => Ok(Self(b',')),
            ("semicolon", _) => Ok(Self(b';')),
            ("pipe", _) => Ok(Self(b'|')),
            (_, [byte]) if is_mark(*byte) => Ok(Self(*byte)),
            _ => Err("expected one ASCII character, such as ; or |, or the word tab".to_owned()),
        }
    }
}

/// Whether a byte can stand between or around cells: an ASCII character that is no letter, digit or line end.
fn is_mark(byte: u8) -> bool {
    byte.is_ascii() && !byte.is_ascii_alphanumeric() && !matches!(byte, 0 | b'\n' | b'\r')
}

// === impl Quote ===

impl FromStr for Quote {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.as_bytes() {
            b"none" => Ok(Self::None),
            [byte] if is_mark(*byte) => Ok(Self::Byte(*byte)),
            _ => Err("expected one ASCII character, such as \" or ', or the word none".to_owned()),
        }
    }
}

// === impl TextEncoding ===

impl FromStr for TextEncoding {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Encoding::for_label_no_replacement(text.trim().as_bytes());
        found.map(Self).ok_or_else(|| {
            "expected a known encoding, such as utf-8, windows-1252, utf-16le, utf-16be, shift_jis \
             or gb18030"
                .to_owned()
        })
    }
}

// === impl Dialect ===

impl Dialect {
    /// The dialect of a format, with what was stated.
    ///
    /// Databases write TSV files without quoting. So in a TSV file, unless `--quote` is stated, a quoted cell ends on
    /// the line where it began: a quote that is text can't swallow rows.
    pub(super) fn new(format: TableFormat, spec: &FileSpec) -> Result<Self, FileFault> {
        let is_tsv = format == TableFormat::Tsv;
        let usual = Delimiter(if is_tsv { b'\t' } else { b',' });
        let Delimiter(delimiter) = spec.delimiter.unwrap_or(usual);
        let (quote, quoted_lines_max) = match spec.quote {
            None if is_tsv => (Some(QUOTE), 1),
            None => (Some(QUOTE), QUOTED_LINES_MAX),
            Some(Quote::Byte(byte)) => (Some(byte), QUOTED_LINES_MAX),
            Some(Quote::None) => (None, 1),
        };
        if quote == Some(delimiter) {
            let mark = char::from(delimiter);
            return FileFault::stated(format!(
                "{mark:?} can't be both the delimiter and the quote: state another --delimiter or --quote"
            ));
        }
        Ok(Self { delimiter, quote, quoted_lines_max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_single_bytes_or_words() {
        for (text, expected) in [
            (";", Some(b';')),
            ("|", Some(b'|')),
            ("tab", Some(b'\t')),
            ("TAB", Some(b'\t')),
            ("\\t", Some(b'\t')),
            ("\t", Some(b'\t')),
            ("comma", Some(b',')),
            ("\u{1}", Some(1)),
            ("::", None),
            ("", None),
            ("a", None),
            ("\n", None),
            ("é", None),
        ] {
            assert_eq!(text.parse().ok(), expected.map(Delimiter), "{text:?}");
        }
        assert_eq!("none".parse(), Ok(Quote::None));
        assert_eq!("'".parse(), Ok(Quote::Byte(b'\'')));
        assert!("\"\"".parse::<Quote>().is_err());
    }

    #[test]
    fn encodings_have_their_usual_labels() {
        for (text, expected) in [
            ("windows-1252", Some(encoding_rs::WINDOWS_1252)),
            ("latin1", Some(encoding_rs::WINDOWS_1252)),
            ("UTF-16LE", Some(encoding_rs::UTF_16LE)),
            ("utf-16be", Some(encoding_rs::UTF_16BE)),
            ("utf8", Some(encoding_rs::UTF_8)),
            ("utf-32", None),
            ("", None),
        ] {
            assert_eq!(text.parse().ok(), expected.map(TextEncoding), "{text}");
        }
    }
}
