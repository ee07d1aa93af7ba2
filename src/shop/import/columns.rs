//! Finds our columns in a file by their names.

use super::{ImportError, ImportSpec};
use std::collections::BTreeSet;

/// A column of ours.
#[derive(Debug)]
pub(super) struct KnownColumn {
    /// Our name.
    pub ours: &'static str,
    /// Other names that a file may use.
    pub aliases: &'static [&'static str],
    /// Whether a file must have it.
    pub required: bool,
    /// Whether a cell may hold a list or an object.
    pub nested: bool,
    /// Whether a cell holds an id, for which typed values have a rule.
    pub id: bool,
}

/// A column that is looked for in a file.
#[derive(Clone, Debug)]
pub(super) struct ColumnSpec {
    /// Our name.
    pub ours: String,
    /// The names that it may have in the file, in the order in which they are looked for.
    pub spellings: Vec<String>,
    /// Whether a file must have it.
    pub required: bool,
    /// Whether a cell may hold a list or an object.
    pub nested: bool,
    /// Whether a cell holds an id, for which typed values have a rule.
    pub id: bool,
}

/// The columns that are looked for in a file: the [`KnownColumn`]s, then attributes.
pub(super) type ColumnSpecs = Vec<ColumnSpec>;

impl KnownColumn {
    pub(super) const fn new(ours: &'static str, aliases: &'static [&'static str]) -> Self {
        Self { ours, aliases, required: false, nested: false, id: false }
    }

    pub(super) const fn required(self) -> Self {
        Self { required: true, ..self }
    }

    pub(super) const fn nested(self) -> Self {
        Self { nested: true, ..self }
    }

    pub(super) const fn id(self) -> Self {
        Self { id: true, ..self }
    }

    /// The column to look for: first under the names that the import maps to it.
    pub(super) fn spec(&self, spec: &ImportSpec) -> ColumnSpec {
        let mapped = spec.columns.iter().filter(|(ours, _)| ours == self.ours);
        let mapped = mapped.map(|(_, theirs)| theirs.clone());
        let known = std::iter::once(&self.ours).chain(self.aliases);
        ColumnSpec {
            ours: self.ours.to_owned(),
            spellings: mapped.chain(known.map(|&name| name.to_owned())).collect(),
            required: self.required,
            nested: self.nested,
            id: self.id,
        }
    }
}

impl ColumnSpec {
    /// A column to take as an attribute.
    pub(super) fn attribute(name: &str) -> Self {
        let name = name.to_owned();
        Self { ours: name.clone(), spellings: vec![name], required: true, nested: true, id: false }
    }
}

/// Fails if a column is mapped to none of ours. `known` are our names.
pub(super) fn check_names(spec: &ImportSpec, known: &BTreeSet<&str>) -> Result<(), ImportError> {
    match spec.columns.iter().find(|(ours, _)| !known.contains(ours.as_str())).cloned() {
        Some((ours, _)) => {
            let known = known.iter().map(|&name| name.to_owned()).collect();
            Err(ImportError::UnknownName(ours, known))
        }
        None => Ok(()),
    }
}

/// Fails if no file has a column that was mapped. `read` are the columns that were read, `ignored` the others.
pub(super) fn check_mapped<'t>(
    spec: &ImportSpec,
    read: &'t BTreeSet<String>,
    ignored: impl Iterator<Item = &'t String>,
) -> Result<(), ImportError> {
    match spec.columns.iter().find(|(_, theirs)| !read.contains(theirs)).cloned() {
        Some((ours, theirs)) => {
            let found: BTreeSet<_> = ignored.chain(read).cloned().collect();
            Err(ImportError::Unmapped { ours, theirs, found: found.into_iter().collect() })
        }
        None => Ok(()),
    }
}
