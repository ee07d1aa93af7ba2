//! The configuration: one TOML file, every key overridable by the environment.
//!
//! `RAISONNE__API__LISTEN=0.0.0.0:8080` sets `listen` in `[api]`. Unknown keys are refused;
//! durations and sizes carry their units (`"150ms"`, `"64MiB"`).

use crate::engine::{ComputeDevice, ComputeDeviceError};
use crate::nn::packed::WeightDtype;
use crate::rank::SwapStrategy;
use clap::ValueEnum;
use serde::{Deserialize, Deserializer, de};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};
use toml::{Table, Value};

/// What every variable of ours begins with; sections and keys follow, parted by the same mark.
const PREFIX: &str = "RAISONNE__";
const MARK: &str = "__";

/// The whole configuration. Every key has a default.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The door.
    pub api: ApiConfig,
    /// The climb.
    pub rank: RankConfig,
    /// The small models.
    pub scorer: ScorerConfig,
    /// The language model.
    pub engine: EngineConfig,
    /// Mutable facts.
    pub store: StoreConfig,
    /// The models.
    pub bundle: BundleConfig,
}

/// `[api]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiConfig {
    /// Where gRPC and HTTP are served.
    pub listen: SocketAddr,
    /// Requests in flight; more are refused at once.
    pub requests_max: usize,
    /// Time for an answer where the caller does not say.
    pub deadline_default: HumanDuration,
    /// Time kept back from a deadline for writing the answer down and sending it.
    pub reply_reserve: HumanDuration,
    /// Time that requests in flight get when the server stops.
    pub shutdown_grace: HumanDuration,
}

/// `[rank]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RankConfig {
    /// Memory for shoppers' cards.
    pub profile_cache: ByteSize,
    /// How long a shopper's card is remembered: how stale an answer may be.
    pub profile_ttl: HumanDuration,
}

/// `[scorer]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScorerConfig {
    /// Owner threads.
    pub threads: usize,
    /// Slates scored in one turn.
    pub slates_max: usize,
    /// Slates that may wait for a turn.
    pub slates_waiting_max: usize,
    /// Where large slates are scored: `cpu`, or `cuda` or `cuda:N` where the program was built for that.
    pub device: DeviceSetting,
    /// Candidates times events from which a slate is large.
    pub device_from: usize,
    /// Items that lie on the device, and as many cards: those that were used longest ago give way.
    pub device_rows_max: usize,
}

/// `[engine]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Where it runs: `cpu`, or `cuda` or `cuda:N` where the program was built for that.
    pub device: DeviceSetting,
    /// Threads that compute; 0 for as many as there are cores.
    pub threads: usize,
    /// Memory for keys and values: what remembers the beginnings of prompts.
    pub cache: ByteSize,
    /// How weights are kept in memory; as they are stored, without it.
    pub quantize: Option<Quantize>,
    /// How keys and values are, on a GPU: `bf16`, or `fp8` for twice as many.
    pub quantize_cache: Option<Quantize>,
    /// Whether a GPU replays steps of texts that go on as CUDA graphs, captured when it starts; without, it launches
    /// their kernels one by one.
    pub graphs: bool,
    /// Rows of a step.
    pub rows_max: usize,
    /// Rows of a step that one prompt may take while others want some.
    pub share_max: usize,
    /// Requests that are worked on at a time.
    pub running_max: usize,
    /// Requests that may wait beside those; more fall short at once.
    pub waiting_max: usize,
}

/// Where a model runs, by the names that people know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct DeviceSetting(pub ComputeDevice);

/// How a language model's weights, or its keys and values, are kept, by the names that people know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Quantize {
    /// 32 bits.
    F32,
    /// 16 bits.
    Bf16,
    /// 8 bits, with a scale for each 32 on a processor, and for each row on a GPU; `int8` says the same.
    #[serde(rename = "q8_0", alias = "int8")]
    #[value(name = "q8_0", alias = "int8")]
    Q8_0,
    /// 4 bits.
    #[serde(rename = "q4_k")]
    #[value(name = "q4_k")]
    Q4K,
    /// 8 bits of a floating-point number (E4M3), with a scale for each row; on a GPU.
    Fp8,
}

/// `[store]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// The file; without one, there are only the bundle's cards.
    pub path: Option<PathBuf>,
}

/// `[bundle]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BundleConfig {
    /// The folder.
    pub path: PathBuf,
    /// How another version follows the one that serves.
    pub swap: SwapSetting,
}

/// How one version follows another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SwapSetting {
    /// The new one is whole before the old one leaves: memory has to hold both.
    #[default]
    SideBySide,
    /// The new one loads its language model once that of the old one is gone; until then, answers
    /// are scored and no more.
    OneAtATime,
}

/// A time with its unit: `"150ms"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(pub Duration);

/// A number of bytes with its unit: `"64MiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file is no TOML.
    #[error("the configuration {path} is no TOML")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where it is wrong.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A variable does not name a section and a key.
    #[error("{0} names no section and key; RAISONNE__API__LISTEN does")]
    Variable(String),
    /// A key is unknown, or its value is not what it should be.
    #[error("wrong configuration: {0}")]
    Wrong(Box<toml::de::Error>),
    /// A value is out of its range.
    #[error("wrong configuration: {0}")]
    Range(&'static str),
}

// === impl Config ===

impl Config {
    /// The file's values, if there is one, overridden by this process's environment.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        Self::layered(
            path,
            std::env::vars_os().filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.into_string().ok()?))
            }),
        )
    }

    fn layered(
        path: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut table = path.map_or_else(|| Ok(Table::new()), file)?;
        for (name, value) in environment {
            if let Some(key) = name.strip_prefix(PREFIX) {
                let known = key.split_once(MARK).filter(|(section, key)| {
                    !section.is_empty() && !key.is_empty() && !key.contains(MARK)
                });
                let (section, key) = known.ok_or_else(|| ConfigError::Variable(name.clone()))?;
                put(&mut table, &section.to_lowercase(), key.to_lowercase(), &value);
            }
        }
        let config: Self = table.try_into().map_err(|error| ConfigError::Wrong(Box::new(error)))?;
        config.check()
    }

    fn check(self) -> Result<Self, ConfigError> {
        let wrong = if self.api.requests_max == 0 {
            "api.requests_max must be at least 1"
        } else if self.api.deadline_default.0.is_zero() {
            "api.deadline_default must be longer than 0"
        } else if self.scorer.threads == 0 || self.scorer.slates_max == 0 {
            "scorer.threads and scorer.slates_max must be at least 1"
        } else if self.engine.running_max == 0 || self.engine.share_max == 0 {
            "engine.running_max and engine.share_max must be at least 1"
        } else if self.engine.rows_max <= self.engine.running_max {
            "engine.rows_max must be more than engine.running_max"
        } else {
            return Ok(self);
        };
        Err(ConfigError::Range(wrong))
    }
}

fn file(path: &Path) -> Result<Table, ConfigError> {
    let text = fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.into(), source })?;
    text.parse()
        .map_err(|source| ConfigError::Malformed { path: path.into(), source: Box::new(source) })
}

/// Numbers, `true` and `false` are written plainly in variables; all else is a string.
fn put(table: &mut Table, section: &str, key: String, value: &str) {
    let value = match (value.parse(), value.parse()) {
        (Ok(number), _) => Value::Integer(number),
        (_, Ok(truth)) => Value::Boolean(truth),
        _ => Value::String(value.to_owned()),
    };
    let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(section) = section {
        section.insert(key, value);
    }
}

impl TryFrom<String> for DeviceSetting {
    type Error = ComputeDeviceError;

    fn try_from(text: String) -> Result<Self, ComputeDeviceError> {
        text.parse().map(Self)
    }
}

impl Quantize {
    /// The precision of that name.
    pub fn precision(self) -> WeightDtype {
        match self {
            Self::F32 => WeightDtype::F32,
            Self::Bf16 => WeightDtype::Bf16,
            Self::Q8_0 => WeightDtype::Int8,
            Self::Q4K => WeightDtype::Int4,
            Self::Fp8 => WeightDtype::Float8,
        }
    }
}

impl SwapSetting {
    /// The manner of that name.
    pub fn manner(self) -> SwapStrategy {
        match self {
            Self::SideBySide => SwapStrategy::SideBySide,
            Self::OneAtATime => SwapStrategy::OneAtATime,
        }
    }
}

// === Defaults ===

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::UNSPECIFIED, 8080).into(),
            requests_max: 512,
            deadline_default: HumanDuration(Duration::from_millis(150)),
            reply_reserve: HumanDuration(Duration::from_millis(5)),
            shutdown_grace: HumanDuration(Duration::from_secs(10)),
        }
    }
}

impl Default for RankConfig {
    fn default() -> Self {
        Self {
            profile_cache: ByteSize(64 << 20),
            profile_ttl: HumanDuration(Duration::from_mins(1)),
        }
    }
}

impl Default for ScorerConfig {
    fn default() -> Self {
        Self {
            threads: 1,
            slates_max: 64,
            slates_waiting_max: 1_024,
            device: DeviceSetting::default(),
            // Where an H200 took half of the time of the processor beside it.
            device_from: 5_000,
            device_rows_max: 16_384,
        }
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            device: DeviceSetting::default(),
            threads: 0,
            cache: ByteSize(256 << 20),
            quantize: None,
            quantize_cache: None,
            graphs: true,
            rows_max: 1_024,
            share_max: 512,
            running_max: 16,
            waiting_max: 64,
        }
    }
}

impl Default for BundleConfig {
    fn default() -> Self {
        Self { path: "models/demo".into(), swap: SwapSetting::default() }
    }
}

// === Units ===

const SPANS: [(&str, u64); 5] =
    [("us", 1), ("ms", 1_000), ("s", 1_000_000), ("m", 60_000_000), ("h", 3_600_000_000)];
const SIZES: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// A whole number and its unit.
fn measure(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

fn measured<'de, D: Deserializer<'de>>(from: D, units: &[(&str, u64)]) -> Result<u64, D::Error> {
    let text = String::deserialize(from)?;
    measure(&text, units).ok_or_else(|| {
        let names = units.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        de::Error::custom(format!("`{text}` is no whole number with one of the units {names}"))
    })
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self(Duration::from_micros(measured(from, &SPANS)?)))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self(measured(from, &SIZES)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn load(toml: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(toml.as_bytes()).unwrap();
        let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        Config::layered(Some(file.path()), variables)
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(load("", &[]).unwrap(), Config::default());
        assert_eq!(Config::layered(None, std::iter::empty()).unwrap(), Config::default());
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let config = load(
            "[api]\nlisten = \"127.0.0.1:1\"\nrequests_max = 7\n",
            &[
                ("RAISONNE__API__LISTEN", "[::1]:9000"),
                ("RAISONNE__API__DEADLINE_DEFAULT", "40ms"),
                ("RAISONNE__SCORER__THREADS", "3"),
                ("RAISONNE__SCORER__DEVICE", "cuda"),
                ("RAISONNE__SCORER__DEVICE_FROM", "5000"),
                ("RAISONNE__STORE__PATH", "data/facts.redb"),
                ("RAISONNE__ENGINE__DEVICE", "cuda:1"),
                ("RAISONNE__ENGINE__GRAPHS", "false"),
                ("RAISONNE__BUNDLE__SWAP", "one_at_a_time"),
                ("OTHER__API__LISTEN", "nowhere"),
            ],
        )
        .unwrap();
        assert_eq!(config.api.listen, "[::1]:9000".parse().unwrap());
        assert_eq!(config.api.requests_max, 7);
        assert_eq!(config.api.deadline_default, HumanDuration(Duration::from_millis(40)));
        assert_eq!(config.scorer.threads, 3);
        assert_eq!(
            (config.scorer.device.0, config.scorer.device_from),
            (ComputeDevice::Gpu(0), 5_000)
        );
        assert_eq!(config.store.path.as_deref(), Some(Path::new("data/facts.redb")));
        assert_eq!(config.bundle.swap, SwapSetting::OneAtATime);
        assert_eq!(config.engine.device, DeviceSetting(ComputeDevice::Gpu(1)));
        assert!(!config.engine.graphs);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |toml: &str, variables: &[(&str, &str)], words: &str| {
            let told = load(toml, variables).unwrap_err().to_string();
            assert!(told.contains(words), "{told}");
        };
        check("[api]\nlissten = \"127.0.0.1:1\"", &[], "lissten");
        check("[apu]", &[], "apu");
        check("", &[("RAISONNE__API__LISSTEN", "x")], "lissten");
        check("", &[("RAISONNE__API", "x")], "RAISONNE__API names no section");
        check("[api]\ndeadline_default = \"150\"", &[], "`150` is no whole number");
        check("[api]\ndeadline_default = \"150 parsecs\"", &[], "us, ms, s, m, h");
        check("[rank]\nprofile_cache = \"64MB\"", &[], "KiB");
        check("[api]\nrequests_max = 0", &[], "requests_max");
        check("[bundle]\nswap = \"at_once\"", &[], "one_at_a_time");
        check("[engine]\ndevice = \"gpu\"", &[], "\"gpu\" is no device");
        check("[api", &[], "is no TOML");
    }

    #[test]
    fn units_are_read() {
        let check =
            |text, units: &[_], expected| assert_eq!(measure(text, units), expected, "{text}");
        check("150ms", &SPANS, Some(150_000));
        check("10 m", &SPANS, Some(600_000_000));
        check("64MiB", &SIZES, Some(64 << 20));
        check("", &SIZES, None);
        check("-1B", &SIZES, None);
        check("1.5GiB", &SIZES, None);
        check("99999999999GiB", &SIZES, None);
    }
}
