//! Which column of theirs is which of ours?

use super::{ImportError, ImportSpec, events, items};
use std::collections::BTreeSet;

/// A column that we know.
#[derive(Debug)]
pub(super) struct Known {
    /// Our name.
    pub ours: &'static str,
    /// Other names that it goes by.
    pub aliases: &'static [&'static str],
    /// Whether a file without it can't be read.
    pub needed: bool,
    /// Whether a list or an object may stand in it.
    pub nested: bool,
}

/// A column that we look for in a file.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    /// Our name.
    pub ours: String,
    /// Its name in the file, the likeliest first.
    pub spellings: Vec<String>,
    /// Whether a file without it can't be read.
    pub needed: bool,
    /// Whether a list or an object may stand in it.
    pub nested: bool,
}

/// The columns that we look for in a file, in the order of our [`Known`] ones, then attributes.
pub(super) type Columns = Vec<Wanted>;

impl Known {
    pub(super) const fn new(ours: &'static str, aliases: &'static [&'static str]) -> Self {
        Self { ours, aliases, needed: false, nested: false }
    }

    pub(super) const fn needed(self) -> Self {
        Self { needed: true, ..self }
    }

    pub(super) const fn nested(self) -> Self {
        Self { nested: true, ..self }
    }

    /// Looks for it under the names that the plan maps to it first.
    pub(super) fn wanted(&self, plan: &ImportSpec) -> Wanted {
        let mapped = plan.columns.iter().filter(|(ours, _)| ours == self.ours);
        let mapped = mapped.map(|(_, theirs)| theirs.clone());
        let known = std::iter::once(&self.ours).chain(self.aliases);
        Wanted {
            ours: self.ours.to_owned(),
            spellings: mapped.chain(known.map(|&name| name.to_owned())).collect(),
            needed: self.needed,
            nested: self.nested,
        }
    }
}

impl Wanted {
    /// A column to take as an attribute.
    pub(super) fn attribute(name: &str) -> Self {
        let name = name.to_owned();
        Self { ours: name.clone(), spellings: vec![name], needed: true, nested: true }
    }
}

/// Refuses mappings to names that are not ours.
pub(super) fn check_names(plan: &ImportSpec) -> Result<(), ImportError> {
    let known = || items::COLUMNS.iter().chain(&events::COLUMNS).map(|column| column.ours);
    for (ours, _) in &plan.columns {
        if !known().any(|name| name == ours) {
            let mut names: Vec<_> = known().collect();
            names.sort_unstable();
            names.dedup();
            return Err(ImportError::UnknownName(ours.clone(), names.join(", ")));
        }
    }
    Ok(())
}

/// Refuses mappings of columns that no file has; `read` are the columns that were read.
pub(super) fn check_mapped(plan: &ImportSpec, read: &BTreeSet<String>) -> Result<(), ImportError> {
    match plan.columns.iter().find(|(_, theirs)| !read.contains(theirs)).cloned() {
        Some((ours, theirs)) => Err(ImportError::Unmapped { ours, theirs }),
        None => Ok(()),
    }
}
