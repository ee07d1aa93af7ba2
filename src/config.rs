//! The configuration: one TOML file, every key overridable by the environment.
//!
//! `RAISONNE__API__LISTEN=0.0.0.0:8080` sets `listen` in `[api]`. Unknown keys are refused. Durations and sizes carry
//! their units (`"150ms"`, `"64MiB"`).

mod load;
mod units;

pub use units::{ByteSize, HumanDuration};

use crate::engine::{ComputeDevice, ComputeDeviceError};
use crate::nn::packed::WeightDtype;
use crate::rank::SwapStrategy;
use clap::ValueEnum;
use serde::Deserialize;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Days for which events can be kept: a hundred years.
const KEEP_DAYS_MAX: usize = 36_500;

/// The whole configuration. Every key has a default.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The listener and admission.
    pub api: ApiConfig,
    /// Cards of shoppers.
    pub rank: RankConfig,
    /// The small models.
    pub scorer: ScorerConfig,
    /// The language model.
    pub engine: EngineConfig,
    /// Facts that change while the server runs.
    pub store: StoreConfig,
    /// What shoppers do while the server runs.
    pub events: EventsConfig,
    /// The bundle to serve.
    pub bundle: BundleConfig,
}

/// `[api]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiConfig {
    /// Where gRPC and HTTP are served.
    pub listen: SocketAddr,
    /// Requests in flight. More are refused at once.
    pub requests_max: usize,
    /// Deadline of a request that states none.
    pub deadline_default: HumanDuration,
    /// Part of the deadline that is reserved for encoding and sending the response.
    pub reply_reserve: HumanDuration,
    /// Time that requests in flight get to finish when the server stops.
    pub shutdown_grace: HumanDuration,
}

/// `[rank]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RankConfig {
    /// Memory of the cache of shoppers' cards.
    pub profile_cache: ByteSize,
    /// Time that a cached card lives. A response can be based on a card that is this old.
    pub profile_ttl: HumanDuration,
}

/// `[scorer]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScorerConfig {
    /// Scorer threads.
    pub threads: usize,
    /// Slates of one batch.
    pub slates_max: usize,
    /// Slates that may wait for a batch. A request beyond them falls short as busy.
    pub slates_waiting_max: usize,
    /// Device that scores large slates: `cpu`, or `cuda` or `cuda:N` in a build with the feature `cuda`.
    pub device: DeviceSetting,
    /// Candidates times events from which a slate is large.
    pub device_from: usize,
    /// Items, and cards, that are cached on the device. The least recently used are evicted.
    pub device_rows_max: usize,
}

/// `[engine]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EngineConfig {
    /// Device of the language model: `cpu`, or `cuda` or `cuda:N` in a build with the feature `cuda`.
    pub device: DeviceSetting,
    /// Threads that compute; 0 for one per core.
    pub threads: usize,
    /// Memory of the KV cache, which also caches prefixes of prompts. A GPU with less memory left
    /// takes what there is, and keeps a reserve.
    pub cache: ByteSize,
    /// Data type of the weights in memory. Without it, the type in the files.
    pub quantize: Option<Quantize>,
    /// Data type of the KV cache on a GPU: `bf16`, or `fp8` for almost twice as many pages.
    pub quantize_cache: Option<Quantize>,
    /// Whether a GPU captures decode steps as CUDA graphs at start-up, and replays them. Otherwise it launches each
    /// kernel.
    pub graphs: bool,
    /// Tokens of one forward pass.
    pub max_batched_tokens: usize,
    /// Tokens of one forward pass that a prompt may take while other requests wait for a turn.
    pub prefill_chunk_max: usize,
    /// Sequences that are computed at a time.
    pub running_max: usize,
    /// Sequences that may wait. A request beyond them falls short as busy.
    pub waiting_max: usize,
}

/// The device that a model runs on, by its usual name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct DeviceSetting(pub ComputeDevice);

/// Data type of a language model's weights or KV cache, by its usual name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Quantize {
    /// 32 bits.
    F32,
    /// 16 bits.
    Bf16,
    /// 8-bit integers, with a scale per 32 weights on a CPU and per row on a GPU. `int8` is the same.
    #[serde(rename = "q8_0", alias = "int8")]
    #[value(name = "q8_0", alias = "int8")]
    Q8_0,
    /// 4 bits.
    #[serde(rename = "q4_k")]
    #[value(name = "q4_k")]
    Q4K,
    /// 8-bit floating point (E4M3) with a scale per row, on a GPU.
    Fp8,
}

/// `[store]`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// The database file. Without one, only the bundle's cards are used.
    pub path: Option<PathBuf>,
}

/// `[events]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventsConfig {
    /// Days for which events are kept. Older ones are refused and removed.
    pub keep_days: usize,
    /// Calls with events that may wait to be stored. More are refused at once.
    pub calls_waiting_max: usize,
    /// Memory of the cache of shoppers' events.
    pub cache: ByteSize,
}

/// `[bundle]`
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BundleConfig {
    /// The bundle's folder.
    pub path: PathBuf,
    /// How a new version replaces the one that serves.
    pub swap: SwapSetting,
}

/// How a new version of the bundle replaces the old one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SwapSetting {
    /// The new version is loaded completely before the old one is dropped. Memory has to hold both.
    #[default]
    SideBySide,
    /// The old language model is dropped before the new one is loaded. Meanwhile, answers reach *scored* at most.
    OneAtATime,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("the configuration {path} is not valid TOML")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The first syntax error.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A variable does not name a section and a key.
    #[error("the variable {0} does not name a section and a key, as RAISONNE__API__LISTEN does")]
    Variable(String),
    /// A key is unknown, or its value has the wrong type.
    #[error("invalid configuration: {}", one_line(.0))]
    Wrong(Box<toml::de::Error>),
    /// A source gives a key under its old name and under its new one.
    #[error(
        "{source_name} gives `{old}` and `{new}`: the first is the old name of the second, so keep one of them"
    )]
    GivenTwice {
        /// The file, or the environment.
        source_name: String,
        /// The old name, with its section.
        old: String,
        /// The new name, with its section.
        new: String,
    },
    /// A value is out of its range.
    #[error("invalid configuration: {key} is {value}, but must be {expected}")]
    Range {
        /// The key, with its section.
        key: &'static str,
        /// Its value.
        value: usize,
        /// The values that are accepted.
        expected: String,
    },
}

// === impl Config ===

impl Config {
    fn check(&self) -> Result<(), ConfigError> {
        let Self { api, scorer, engine, events, .. } = self;
        for (key, value) in [
            ("api.requests_max", api.requests_max),
            ("scorer.threads", scorer.threads),
            ("scorer.slates_max", scorer.slates_max),
            ("engine.running_max", engine.running_max),
            ("engine.prefill_chunk_max", engine.prefill_chunk_max),
            ("events.keep_days", events.keep_days),
            ("events.calls_waiting_max", events.calls_waiting_max),
        ] {
            if value == 0 {
                return Err(ConfigError::range(key, value, "at least 1"));
            }
        }
        if events.keep_days > KEEP_DAYS_MAX {
            let expected = format!("at most {KEEP_DAYS_MAX}");
            return Err(ConfigError::range("events.keep_days", events.keep_days, expected));
        }
        if api.deadline_default.0.is_zero() {
            return Err(ConfigError::range("api.deadline_default", 0, "longer than 0"));
        }
        if engine.max_batched_tokens <= engine.running_max {
            let expected = format!("more than engine.running_max, which is {}", engine.running_max);
            let key = "engine.max_batched_tokens";
            return Err(ConfigError::range(key, engine.max_batched_tokens, expected));
        }
        Ok(())
    }
}

/// The message and the key of a wrong value, which stand on two lines.
fn one_line(error: &toml::de::Error) -> String {
    error.to_string().trim_end().replace('\n', ", ")
}

// === impl ConfigError ===

impl ConfigError {
    fn range(key: &'static str, value: usize, expected: impl Into<String>) -> Self {
        Self::Range { key, value, expected: expected.into() }
    }
}

impl TryFrom<String> for DeviceSetting {
    type Error = ComputeDeviceError;

    fn try_from(text: String) -> Result<Self, ComputeDeviceError> {
        text.parse().map(Self)
    }
}

impl Quantize {
    /// The data type of that name.
    pub fn dtype(self) -> WeightDtype {
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
    /// The strategy of that name.
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
            // From here on, an H200 took at most half of the time of the CPU beside it.
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
            max_batched_tokens: 1_024,
            prefill_chunk_max: 512,
            running_max: 16,
            waiting_max: 64,
        }
    }
}

impl Default for EventsConfig {
    fn default() -> Self {
        // A year is the longest window of the counts.
        Self { keep_days: 400, calls_waiting_max: 64, cache: ByteSize(64 << 20) }
    }
}

impl Default for BundleConfig {
    fn default() -> Self {
        Self { path: "models/demo".into(), swap: SwapSetting::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::io::Write as _;
    use std::path::Path;
    use toml::Table;

    fn load(toml: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(toml.as_bytes()).unwrap();
        let variables = variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        Config::layered(Table::new(), Some(file.path()), variables)
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(load("", &[]).unwrap(), Config::default());
        let nothing = Config::layered(Table::new(), None, std::iter::empty());
        assert_eq!(nothing.unwrap(), Config::default());
    }

    /// The keys of the default configuration: its fields, two levels below the top in `Debug`'s layout.
    fn keys() -> BTreeSet<String> {
        let fields = format!("{:#?}", Config::default());
        let keys = fields.lines().filter_map(|line| line.strip_prefix("        "));
        let keys = keys.filter(|line| !line.starts_with([' ', ')', ']']));
        keys.filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect()
    }

    #[test]
    fn the_file_that_we_ship_shows_every_key_at_its_default() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/config/serve.toml");
        let shipped = Config::layered(Table::new(), Some(&path), std::iter::empty()).unwrap();
        assert_eq!(shipped, Config::default());

        // A key without a default stands in a comment, with an example.
        let text = std::fs::read_to_string(&path).unwrap();
        let line = |line: &str| {
            let key = line.strip_prefix("# ").filter(|rest| rest.contains(" = "));
            key.unwrap_or(line).to_owned()
        };
        let all: Vec<_> = text.lines().map(line).collect();
        let examples = load(&all.join("\n"), &[]).unwrap();
        assert!(examples.store.path.is_some() && examples.engine.quantize.is_some());
        let shown = all.iter().filter(|line| !line.starts_with('#'));
        let shown = shown.filter_map(|line| Some(line.split_once(" = ")?.0.to_owned()));
        assert_eq!(shown.collect::<BTreeSet<_>>(), keys());
    }

    #[test]
    fn a_renamed_key_is_accepted_under_both_names_but_once() {
        let old = "[engine]\nrows_max = 300\nshare_max = 30";
        let check = |toml: &str, variables: &[_], tokens, chunk| {
            let engine = load(toml, variables).unwrap().engine;
            assert_eq!((engine.max_batched_tokens, engine.prefill_chunk_max), (tokens, chunk));
        };
        check(old, &[], 300, 30);
        check("[engine]\nmax_batched_tokens = 300\nprefill_chunk_max = 30", &[], 300, 30);
        let variables =
            [("RAISONNE__ENGINE__ROWS_MAX", "400"), ("RAISONNE__ENGINE__PREFILL_CHUNK_MAX", "40")];
        check("", &variables, 400, 40);
        check(old, &variables, 400, 40);

        let names = ["engine.rows_max", "engine.max_batched_tokens"];
        let both = load("[engine]\nrows_max = 300\nmax_batched_tokens = 300", &[]).unwrap_err();
        assert!(names.iter().all(|name| both.to_string().contains(name)), "{both}");
        let variables = [
            ("RAISONNE__ENGINE__ROWS_MAX", "400"),
            ("RAISONNE__ENGINE__MAX_BATCHED_TOKENS", "400"),
        ];
        let both = load("", &variables).unwrap_err().to_string();
        assert!(both.contains("the environment") && both.contains(names[0]), "{both}");
    }

    #[test]
    fn defaults_of_a_command_give_way_to_everything() {
        let defaults = || "[api]\nlisten = \"127.0.0.1:1\"\nrequests_max = 7".parse().unwrap();
        let listen = |variables: &[(&str, &str)]| {
            let variables =
                variables.iter().map(|(name, value)| (name.to_string(), value.to_string()));
            let config = Config::layered(defaults(), None, variables).unwrap();
            assert_eq!(config.api.requests_max, 7);
            config.api.listen.to_string()
        };
        assert_eq!(listen(&[]), "127.0.0.1:1");
        assert_eq!(listen(&[("RAISONNE__API__LISTEN", "127.0.0.1:2")]), "127.0.0.1:2");
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
            let message = load(toml, variables).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        };
        check("[api]\nlissten = \"127.0.0.1:1\"", &[], "lissten");
        check("[apu]", &[], "apu");
        check("", &[("RAISONNE__API__LISSTEN", "x")], "lissten");
        check("", &[("RAISONNE__API", "x")], "RAISONNE__API does not name a section");
        check("", &[("RAISONNE__API__LISTEN__PORT", "1")], "RAISONNE__API__LISTEN__PORT");
        check("", &[("RAISONNE__API__REQUESTS_MAX", "many")], "\"many\"");
        check("[api]\ndeadline_default = \"150\"", &[], "`150` is not a whole number");
        check("[api]\ndeadline_default = \"150 parsecs\"", &[], "us, ms, s, m, h");
        check("[rank]\nprofile_cache = \"64MB\"", &[], "KiB");
        check("[api]\nrequests_max = 0", &[], "api.requests_max is 0, but must be at least 1");
        check("[engine]\nmax_batched_tokens = 9", &[], "more than engine.running_max, which is 16");
        check("[events]\nkeep_days = 0", &[], "events.keep_days is 0, but must be at least 1");
        check("[events]\nkeep_days = 36501", &[], "is 36501, but must be at most 36500");
        check("[events]\ncalls_waiting_max = 0", &[], "events.calls_waiting_max is 0");
        check("[bundle]\nswap = \"at_once\"", &[], "one_at_a_time");
        check("[engine]\ndevice = \"gpu\"", &[], "\"gpu\" is no device");
        check("[api", &[], "is not valid TOML");
    }
}
