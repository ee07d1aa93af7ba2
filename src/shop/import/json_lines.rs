//! JSON Lines: one object on each line.

use super::byte_meter::ByteMeter;
use super::encoding::{around_fault, text_expected};
use super::file_fault::FileFault;
use super::json_cell::add_json;
use super::lines::LineReader;
use super::row::{Heading, ImportRow, NextRow, RowFault};
use super::source::{SourceFile, SourceText};
use encoding_rs::Encoding;
use rustc_hash::FxHashMap;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::io::{BufReader, Read};

/// A line as it should be.
const OBJECT: &str = "a JSON object, such as {\"item_id\": \"1\"}";
/// How the error of an object begins that has a name twice. The name follows.
const TWICE: &str = "twice ";

/// The rows of a JSON Lines file.
pub(super) struct JsonLinesReader {
    lines: LineReader<BufReader<Box<dyn Read>>>,
    encoding: &'static Encoding,
    read: ByteMeter,
    /// What each name of the table is looked for as: the index of a column, and the rank of the name among its
    /// spellings.
    uses: FxHashMap<String, Vec<(usize, usize)>>,
    /// The rank and the pair of each column in the current object.
    found: Vec<Option<(usize, usize)>>,
    has_begun: bool,
}

/// A JSON object: its names and values in their order, as they were written.
struct RawObject<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

#[derive(Deserialize)]
struct RawName<'a>(#[serde(borrow)] Cow<'a, str>);

struct RawObjectVisitor;

// === impl JsonLinesReader ===

impl JsonLinesReader {
    pub(super) fn open(source: SourceFile, heading: &Heading) -> Result<Self, FileFault> {
        let SourceText { utf_8, encoding, read } = source.text()?;
        let mut uses: FxHashMap<String, Vec<(usize, usize)>> = FxHashMap::default();
        for (column, spec) in heading.columns.iter().enumerate() {
            for (rank, name) in spec.spellings.iter().enumerate() {
                uses.entry(name.clone()).or_default().push((column, rank));
            }
        }
        let (lines, found) = (LineReader::new(utf_8), vec![None; heading.columns.len()]);
        Ok(Self { lines, encoding, read, uses, found, has_begun: false })
    }

    pub(super) fn next(
        &mut self,
        row: &mut ImportRow,
        heading: &mut Heading,
    ) -> Result<NextRow<RowFault>, FileFault> {
        row.clear();
        if !self.has_begun && self.lines.first_byte()? == Some(b'[') {
            return Err(self.array_fault());
        }
        if !self.lines.read()? {
            return Ok(NextRow::End);
        }
        row.line = self.lines.line();
        let is_first = !std::mem::replace(&mut self.has_begun, true);
        let text = self.lines.text();
        let Ok(text) = str::from_utf8(text) else {
            let value = String::from_utf8_lossy(around_fault(text)).into_owned();
            let expected = text_expected(text, self.encoding);
            return Ok(NextRow::Wrong(RowFault { column: None, value, expected }));
        };
        match serde_json::from_str::<RawObject<'_>>(text) {
            Ok(RawObject(pairs)) => Ok(fill(row, heading, &pairs, &self.uses, &mut self.found)),
            Err(error) if is_first && error.is_eof() && !self.lines.is_last() => {
                FileFault::stated(format!(
                    "line {}: the object that begins here does not end on its line. JSON Lines has each object on one \
                 line: `jq -c .` writes it so",
                    row.line
                ))
            }
            Err(error) => {
                let expected = self.expected(text, &error);
                let value = twice(&error).unwrap_or_else(|| text.to_owned());
                Ok(NextRow::Wrong(RowFault { column: None, value, expected }))
            }
        }
    }

    /// The fault of a file that begins with an array.
    fn array_fault(&mut self) -> FileFault {
        // The array of a whole file may be longer than any line.
        let is_row = matches!(self.lines.read(), Ok(true))
            && serde_json::from_slice::<Vec<&RawValue>>(self.lines.text())
                .is_ok_and(|values| !values.iter().any(|value| value.get().starts_with('{')));
        let line = self.lines.line();
        FileFault::Stated(if is_row {
            format!(
                "line {line} is a JSON array, which names no columns: JSON Lines has {OBJECT}, on each line"
            )
        } else {
            format!(
                "line {line} begins a JSON array: JSON Lines has one object on each line, without brackets around \
                 all of them and commas between them. `jq -c '.[]'` writes it so"
            )
        })
    }

    /// A description of a valid line, for one that is not.
    fn expected(&self, text: &str, error: &serde_json::Error) -> String {
        // The error's line number is always 1.
        let at = error.to_string().replace(" at line 1 column", ", column");
        if at.starts_with(TWICE) {
            return "an object that has this name once".to_owned();
        }
        match error.classify() {
            Category::Eof if self.lines.is_last() => {
                format!("{OBJECT}, that ends; the file ends here: is it cut?")
            }
            Category::Eof => format!("{OBJECT}, that ends on its line"),
            _ if text.trim_start().starts_with('[') => format!("{OBJECT}, not an array"),
            _ if at.starts_with("trailing characters") => {
                let rest = text.get(error.column().saturating_sub(1)..).unwrap_or_default();
                if rest.starts_with(',') {
                    format!("{OBJECT}, without a comma after it")
                } else {
                    format!("{OBJECT}, and nothing after it on its line ({at})")
                }
            }
            _ => format!("a JSON object ({at})"),
        }
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.read.get()
    }
}

/// The name that an object has twice, if that is the error.
fn twice(error: &serde_json::Error) -> Option<String> {
    let text = error.to_string();
    let (name, _place) = text.strip_prefix(TWICE)?.rsplit_once(" at line ")?;
    Some(name.to_owned())
}

/// Fills the cells of a row from an object.
fn fill(
    row: &mut ImportRow,
    heading: &mut Heading,
    pairs: &[(Cow<'_, str>, &RawValue)],
    uses: &FxHashMap<String, Vec<(usize, usize)>>,
    found: &mut [Option<(usize, usize)>],
) -> NextRow<RowFault> {
    found.fill(None);
    for (pair, (name, _)) in pairs.iter().enumerate() {
        for (column, rank) in uses.get(&**name).into_iter().flatten() {
            let best = &mut found[*column];
            if best.is_none_or(|(other, _)| *rank < other) {
                *best = Some((*rank, pair));
            }
        }
    }
    for (pair, (name, _)) in pairs.iter().enumerate() {
        let is_read = found.iter().flatten().any(|(_, other)| *other == pair);
        if !is_read && !heading.ignored.contains(&**name) {
            heading.ignored.insert(name.clone().into_owned());
        }
    }
    let mut fault = None;
    for (column, found) in found.iter().enumerate() {
        let Some((_, pair)) = *found else { continue };
        let (name, value) = &pairs[pair];
        let theirs = &mut heading.theirs[column];
        if theirs.as_deref() != Some(&**name) {
            *theirs = Some(name.clone().into_owned());
        }
        if let Err(expected) =
            add_json(value.get(), &heading.columns[column], &mut row.cells[column])
        {
            let (value, expected) = (value.get().to_owned(), expected.into_owned());
            fault.get_or_insert(RowFault { column: Some(column), value, expected });
        }
    }
    fault.map_or(NextRow::Row, NextRow::Wrong)
}

// === impl RawObject ===

impl<'de: 'a, 'a> Deserialize<'de> for RawObject<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RawObjectVisitor)
    }
}

impl<'de> Visitor<'de> for RawObjectVisitor {
    type Value = RawObject<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::new();
        while let Some((RawName(name), value)) = map.next_entry()? {
            pairs.push((name, value));
        }
        let mut names: Vec<&str> = pairs.iter().map(|(name, _)| &**name).collect();
        names.sort_unstable();
        if let Some([name, _]) = names.array_windows().find(|[a, b]| a == b) {
            return Err(A::Error::custom(format!("{TWICE}{name}")));
        }
        Ok(RawObject(pairs))
    }
}
