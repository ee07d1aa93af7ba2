//! Where settings come from: defaults, then a file, then the environment.

use super::{Config, ConfigError};
use crate::overlay;
use crate::regular_file::{self, Links, SETTINGS_BYTES_MAX};
use std::path::Path;
use toml::Table;

/// What every environment variable of the configuration begins with; a section and a key follow.
const PREFIX: &str = "RAISONNE__";
/// What separates the section from the key.
const SEPARATOR: &str = "__";
/// What error messages call the environment.
const ENVIRONMENT: &str = "the environment";

/// A key that got another name. The old one is accepted for one release.
struct RenamedKey {
    section: &'static str,
    old: &'static str,
    new: &'static str,
}

const RENAMED_KEYS: [RenamedKey; 2] = [
    RenamedKey { section: "engine", old: "rows_max", new: "max_batched_tokens" },
    RenamedKey { section: "engine", old: "share_max", new: "prefill_chunk_max" },
];

impl Config {
    /// The defaults, overridden by a TOML file, overridden by this process's environment.
    ///
    /// Each layer is a TOML table, and [`overlay`] lays one over the other. `figment` would do the same. It was tried,
    /// and adds 8 crates for that, 13 with its own TOML reader, which is an older one than ours. Both the renamed keys
    /// and the refusal of variables that name no key would still be written by hand.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_over(Table::new(), file)
    }

    /// Like [`Config::load`], with other `defaults` for some keys.
    pub fn load_over(defaults: Table, file: Option<&Path>) -> Result<Self, ConfigError> {
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self::layered(defaults, file, variables)
    }

    pub(super) fn layered(
        defaults: Table,
        file: Option<&Path>,
        variables: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut table = defaults;
        if let Some(path) = file {
            let source = format!("the configuration {}", path.display());
            overlay::merge(&mut table, with_new_names(read(path)?, &source)?);
        }
        overlay::merge(&mut table, with_new_names(from_environment(variables)?, ENVIRONMENT)?);
        let config: Self = table.try_into().map_err(|error| ConfigError::Wrong(Box::new(error)))?;
        config.check()?;
        Ok(config)
    }
}

fn read(path: &Path) -> Result<Table, ConfigError> {
    let text = regular_file::read_to_string(path, Links::Followed, SETTINGS_BYTES_MAX)
        .map_err(|source| ConfigError::Unreadable { path: path.into(), source })?;
    text.parse()
        .map_err(|source| ConfigError::Malformed { path: path.into(), source: Box::new(source) })
}

/// The variables that begin with the prefix, as a table. `RAISONNE__API__LISTEN` is `listen` in `[api]`.
fn from_environment(
    variables: impl Iterator<Item = (String, String)>,
) -> Result<Table, ConfigError> {
    let mut table = Table::new();
    for (name, value) in variables {
        let Some(path) = name.strip_prefix(PREFIX) else { continue };
        let path = path.to_lowercase();
        let path: Vec<_> = path.split(SEPARATOR).collect();
        if path.len() != 2 || path.contains(&"") {
            return Err(ConfigError::Variable(name));
        }
        overlay::set(&mut table, &path, &value).map_err(|_| ConfigError::Variable(name.clone()))?;
    }
    Ok(table)
}

/// The same table with each renamed key under its new name. `source` is what an error calls the table.
fn with_new_names(mut table: Table, source: &str) -> Result<Table, ConfigError> {
    for RenamedKey { section, old, new } in &RENAMED_KEYS {
        let Some(toml::Value::Table(keys)) = table.get_mut(*section) else { continue };
        let Some(value) = keys.remove(*old) else { continue };
        if keys.contains_key(*new) {
            let [old, new] = [old, new].map(|key| format!("{section}.{key}"));
            return Err(ConfigError::GivenTwice { source_name: source.to_owned(), old, new });
        }
        keys.insert((*new).to_owned(), value);
    }
    Ok(table)
}
