//! Whoever answers at an OpenAI-compatible endpoint, as a teacher: it is asked in words.

use super::chat::Chat;
use super::recipe::EndpointRecipe;
use super::{Question, Said, Teacher, words};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::atomic::{AtomicU32, Ordering};

/// Calls that fail one after the other before nothing more is hoped for: an endpoint that no request
/// of ours suits would fail for every slate.
const FAILURES_MAX: u32 = 50;

/// An endpoint as a teacher.
#[derive(Debug)]
pub struct Endpoint {
    recipe: EndpointRecipe,
    chat: Chat,
    /// Failures since something last came back.
    failures: AtomicU32,
}

// === impl Endpoint ===

impl Endpoint {
    /// The endpoint of a recipe.
    pub fn open(recipe: &EndpointRecipe) -> anyhow::Result<Self> {
        let chat = Chat::open(recipe)?;
        Ok(Self { recipe: recipe.clone(), chat, failures: AtomicU32::new(0) })
    }

    fn ask(&self, question: &Question<'_>, number: u32, told: Option<u32>) -> anyhow::Result<Said> {
        let EndpointRecipe { temperature, temperature_later, .. } = self.recipe;
        let request = json!({
            "model": self.recipe.model,
            "messages": words::messages(question, told),
            "temperature": if number == 0 { temperature } else { temperature_later },
            "max_tokens": self.recipe.tokens_max,
            "seed": question.seed.wrapping_add(number),
        });
        match self.chat.ask(&request) {
            Ok(text) => {
                self.failures.store(0, Ordering::Relaxed);
                Ok(words::read(&text, question))
            }
            Err(error) if error.is_final() => Err(error.into()),
            Err(error) => {
                let before = self.failures.fetch_add(1, Ordering::Relaxed);
                if before + 1 >= FAILURES_MAX {
                    let told = format!("{FAILURES_MAX} calls to {} failed", self.recipe.url);
                    return Err(error).context(told);
                }
                Ok(Said::Failed)
            }
        }
    }
}

impl Teacher for Endpoint {
    /// Without what only says how fast and how patiently it is asked.
    fn about(&self) -> Value {
        let EndpointRecipe {
            url, model, attempts, tokens_max, temperature, temperature_later, ..
        } = &self.recipe;
        json!({ "endpoint": {
            "url": url,
            "model": model,
            "attempts": attempts,
            "tokens_max": tokens_max,
            "temperature": temperature,
            "temperature_later": temperature_later,
        } })
    }

    fn at_once(&self) -> NonZeroUsize {
        self.recipe.concurrency
    }

    fn attempts_max(&self) -> NonZeroU32 {
        self.recipe.attempts
    }

    fn attempt(&self, question: &Question<'_>, number: u32) -> anyhow::Result<Said> {
        self.ask(question, number, None)
    }

    fn explain(&self, question: &Question<'_>, taken: u32) -> anyhow::Result<Option<Said>> {
        self.ask(question, 0, Some(taken)).map(Some)
    }
}
