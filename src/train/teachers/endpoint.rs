//! A model behind an OpenAI-compatible endpoint as a teacher, prompted in words.

use super::chat::ChatClient;
use super::recipe::EndpointRecipe;
use super::{SlateQuestion, Teacher, TeacherReply, slate_prompt};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::atomic::{AtomicU32, Ordering};

/// Consecutive failures that end the stage: an endpoint that rejects every request of ours would fail on every slate.
const FAILURES_MAX: u32 = 50;

/// A teacher behind an endpoint.
#[derive(Debug)]
pub struct EndpointTeacher {
    recipe: EndpointRecipe,
    chat: ChatClient,
    /// Failures since the last reply.
    failures: AtomicU32,
}

// === impl EndpointTeacher ===

impl EndpointTeacher {
    /// Opens the endpoint of a recipe.
    pub fn open(recipe: &EndpointRecipe) -> anyhow::Result<Self> {
        let chat = ChatClient::open(recipe)?;
        Ok(Self { recipe: recipe.clone(), chat, failures: AtomicU32::new(0) })
    }

    fn call(
        &self,
        question: &SlateQuestion<'_>,
        number: u32,
        label: Option<u32>,
    ) -> anyhow::Result<TeacherReply> {
        let EndpointRecipe { temperature, temperature_later, .. } = self.recipe;
        let request = json!({
            "model": self.recipe.model,
            "messages": slate_prompt::messages(question, label),
            "temperature": if number == 0 { temperature } else { temperature_later },
            "max_tokens": self.recipe.tokens_max,
            "seed": question.seed.wrapping_add(number),
        });
        match self.chat.complete(&request) {
            Ok(text) => {
                self.failures.store(0, Ordering::Relaxed);
                Ok(slate_prompt::parse_reply(&text, question))
            }
            Err(error) if error.is_fatal() => Err(error.into()),
            Err(error) => {
                let before = self.failures.fetch_add(1, Ordering::Relaxed);
                if before + 1 >= FAILURES_MAX {
                    let failed = format!("{FAILURES_MAX} calls to {} failed", self.recipe.url);
                    return Err(error).context(failed);
                }
                Ok(TeacherReply::CallFailed)
            }
        }
    }
}

impl Teacher for EndpointTeacher {
    /// Leaves out concurrency, time limit and retries, which change no reply.
    fn description(&self) -> Value {
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

    fn concurrency(&self) -> NonZeroUsize {
        self.recipe.concurrency
    }

    fn attempts_max(&self) -> NonZeroU32 {
        self.recipe.attempts
    }

    fn attempt(&self, question: &SlateQuestion<'_>, number: u32) -> anyhow::Result<TeacherReply> {
        self.call(question, number, None)
    }

    fn explain(
        &self,
        question: &SlateQuestion<'_>,
        taken: u32,
    ) -> anyhow::Result<Option<TeacherReply>> {
        self.call(question, 0, Some(taken)).map(Some)
    }
}
