//! What does a caller hear, and when does it stop listening?

use super::request::Rejection;
use super::sampler::SampleError;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What becomes of an ask.
#[derive(Clone, Debug, PartialEq)]
pub enum EngineEvent {
    /// A text goes on by a token.
    Token {
        /// Which text.
        sample: usize,
        /// The token.
        token: u32,
        /// Its log-probability under the policy: zero if the constraint left no choice.
        logprob: f32,
    },
    /// What is at the end of each branch, in the order of the branches.
    Weighed(Vec<Vec<f32>>),
    /// A text is done, or the branches are.
    Done {
        /// Which text.
        sample: usize,
        /// Why.
        finish_reason: FinishReason,
        /// What it took.
        usage: Usage,
    },
    /// Nothing more will come.
    Failed(RequestFailure),
}

/// Why a text is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// It came to its end: by a token that ends texts, by its constraint, or by its last branch.
    Stop,
    /// It has as many tokens as it may.
    Length,
}

/// What a text took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt or the trunk.
    pub prompt_tokens: usize,
    /// Those of them that others had computed before.
    pub cached_tokens: usize,
    /// Tokens after the prompt, or in branches.
    pub generated_tokens: usize,
    /// Those of them that the constraint left no choice about.
    pub forced_tokens: usize,
}

/// Why nothing more will come.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RequestFailure {
    /// Its deadline passed.
    #[error("the deadline passed")]
    DeadlineExceeded,
    /// The model could not be run.
    #[error("{0}")]
    Runner(Arc<str>),
    /// Nothing could be drawn from what the model said.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// The engine did not take it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The engine is gone.
    #[error("the engine is gone")]
    Gone,
}

/// The caller's end of an ask. Dropping it stops the work, within a step.
#[derive(Debug)]
pub struct ResponseStream {
    events: mpsc::Receiver<EngineEvent>,
    /// Texts that are not done.
    open: usize,
}

// === impl ResponseStream ===

impl ResponseStream {
    pub(super) fn new(events: mpsc::Receiver<EngineEvent>, sequences: usize) -> Self {
        Self { events, open: sequences }
    }

    /// The next event, or `None` after the last. The last one is `Failed`, or `Done` for each text,
    /// also when the engine is gone.
    pub async fn next(&mut self) -> Option<EngineEvent> {
        if self.open == 0 {
            return None;
        }
        let event = self.events.recv().await;
        Some(self.heard(event))
    }

    /// The same for callers that are no tasks.
    pub fn blocking_next(&mut self) -> Option<EngineEvent> {
        if self.open == 0 {
            return None;
        }
        let event = self.events.blocking_recv();
        Some(self.heard(event))
    }

    fn heard(&mut self, event: Option<EngineEvent>) -> EngineEvent {
        let event = event.unwrap_or(EngineEvent::Failed(RequestFailure::Gone));
        match event {
            EngineEvent::Done { .. } => self.open -= 1,
            EngineEvent::Failed(_) => self.open = 0,
            EngineEvent::Token { .. } | EngineEvent::Weighed(_) => {}
        }
        event
    }
}
