//! Teachers as recipes configure them.

use serde::{Deserialize, Serialize};
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

/// The teacher of thoughts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TeacherRecipe {
    /// The evidence writer, without a language model.
    #[default]
    Evidence,
    /// The language model of another bundle that climbs to *reasoned*, by its path relative to the recipe. It cannot be
    /// given the label, because its prompts have no words for that.
    Bundle(PathBuf),
    /// A model behind an OpenAI-compatible endpoint.
    Endpoint(EndpointRecipe),
}

/// An OpenAI-compatible endpoint and its sampling.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointRecipe {
    /// The base URL, such as `http://localhost:8000/v1`.
    pub url: String,
    /// The model's name at the endpoint.
    pub model: String,
    /// The environment variable that holds the API key, if one is needed. The key itself is written nowhere.
    #[serde(default)]
    pub key_env: Option<String>,
    /// Concurrent requests.
    #[serde(default = "EndpointRecipe::concurrency")]
    pub concurrency: NonZeroUsize,
    /// The most attempts per slate.
    #[serde(default = "EndpointRecipe::attempts")]
    pub attempts: NonZeroU32,
    /// The most tokens of a reply.
    #[serde(default = "EndpointRecipe::tokens_max")]
    pub tokens_max: NonZeroU32,
    /// The time limit of a call, s.
    #[serde(default = "EndpointRecipe::timeout_s")]
    pub timeout_s: NonZeroU64,
    /// The temperature of a slate's first attempt.
    #[serde(default)]
    pub temperature: f64,
    /// The temperature of later attempts, which should differ from the first.
    #[serde(default = "EndpointRecipe::temperature_later")]
    pub temperature_later: f64,
    /// Retries of a call to a busy or unreachable endpoint, with exponential backoff.
    #[serde(default = "EndpointRecipe::retries")]
    pub retries: usize,
}

// === impl TeacherRecipe ===

impl TeacherRecipe {
    /// Its path, if it has one.
    pub fn path_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            Self::Bundle(path) => Some(path),
            Self::Evidence | Self::Endpoint(_) => None,
        }
    }
}

// === impl EndpointRecipe ===

impl EndpointRecipe {
    fn concurrency() -> NonZeroUsize {
        NonZeroUsize::MIN.saturating_add(7)
    }

    fn attempts() -> NonZeroU32 {
        NonZeroU32::MIN.saturating_add(3)
    }

    /// A thought is short, but a reasoning model generates much before it.
    fn tokens_max() -> NonZeroU32 {
        NonZeroU32::MIN.saturating_add(2047)
    }

    fn timeout_s() -> NonZeroU64 {
        NonZeroU64::MIN.saturating_add(119)
    }

    fn temperature_later() -> f64 {
        1.0
    }

    fn retries() -> usize {
        5
    }
}
