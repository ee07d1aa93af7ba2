//! Who thinks aloud, as a recipe names them.

use serde::{Deserialize, Serialize};
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

/// Who thinks aloud about slates, for a language model to learn from.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TeacherRecipe {
    /// The evidence writer, which is no language model.
    #[default]
    Evidence,
    /// The language model of another bundle that climbs to *reasoned*, relative to the recipe. It can't
    /// be told which candidate was taken, since its prompts have no words for that.
    Bundle(PathBuf),
    /// Whoever answers at an OpenAI-compatible endpoint.
    Endpoint(EndpointRecipe),
}

/// An OpenAI-compatible endpoint, and how much is asked of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndpointRecipe {
    /// Where the interface begins, such as `http://localhost:8000/v1`.
    pub url: String,
    /// The model's name there.
    pub model: String,
    /// The environment variable that holds the key, if one is needed. The key itself is written nowhere.
    #[serde(default)]
    pub key_env: Option<String>,
    /// Slates that it is asked about at a time.
    #[serde(default = "EndpointRecipe::concurrency")]
    pub concurrency: NonZeroUsize,
    /// Answers that are drawn for one slate, until one is right.
    #[serde(default = "EndpointRecipe::attempts")]
    pub attempts: NonZeroU32,
    /// Tokens of an answer.
    #[serde(default = "EndpointRecipe::tokens_max")]
    pub tokens_max: NonZeroU32,
    /// Seconds after which an answer is not waited for any more.
    #[serde(default = "EndpointRecipe::timeout_s")]
    pub timeout_s: NonZeroU64,
    /// The temperature of the first answer of a slate, …
    #[serde(default)]
    pub temperature: f64,
    /// … and of those after it, which should differ from it.
    #[serde(default = "EndpointRecipe::temperature_later")]
    pub temperature_later: f64,
    /// Times that a call is made again where the endpoint is busy or away, each after a longer pause.
    #[serde(default = "EndpointRecipe::retries")]
    pub retries: usize,
}

// === impl TeacherRecipe ===

impl TeacherRecipe {
    /// The path in it, if there is one.
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

    /// A thought is short, but a model that reasons by itself writes much before it.
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
