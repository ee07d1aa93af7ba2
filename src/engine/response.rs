//! What does a caller receive?

use super::request::Rejection;
use super::sampler::SampleError;
use std::sync::Arc;
use tokio::sync::mpsc;

/// One event of a response.
#[derive(Clone, Debug, PartialEq)]
pub enum EngineEvent {
    /// A sample grew by a token.
    Token {
        /// The index of the sample.
        sample: usize,
        /// The token.
        token: u32,
        /// Its log-probability under the policy; 0 for a forced token.
        logprob: f32,
    },
    /// The output of each branch, in the order of the branches.
    Weighed(Vec<Vec<f32>>),
    /// A sample is complete, or all branches are.
    Done {
        /// The index of the sample; 0 for branches.
        sample: usize,
        /// Why it ended.
        finish_reason: FinishReason,
        /// Tokens that it took.
        usage: Usage,
    },
    /// The request failed. No event follows.
    Failed(RequestFailure),
}

/// Why a sample ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// By a stop token, at the end of its constraint, or with the last branch.
    Stop,
    /// It has `tokens_max` tokens.
    Length,
}

/// Tokens that a sample took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt or the trunk.
    pub prompt_tokens: usize,
    /// Those of them that the prefix cache held.
    pub cached_tokens: usize,
    /// Tokens after the prompt, or in branches.
    pub generated_tokens: usize,
    /// Those of them that the constraint forced.
    pub forced_tokens: usize,
}

/// Why an admitted request failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RequestFailure {
    /// Its deadline passed.
    #[error("the deadline passed")]
    DeadlineExceeded,
    /// The model's forward pass failed.
    #[error("{0}")]
    Runner(Arc<str>),
    /// No token could be sampled from the logits.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// The scheduler rejected it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The engine has stopped.
    #[error("the engine has stopped")]
    Gone,
}

/// The events of one request. Dropping the stream aborts the request within a step.
#[derive(Debug)]
pub struct ResponseStream {
    events: mpsc::Receiver<EngineEvent>,
    /// Samples that are not done.
    unfinished: usize,
}

// === impl ResponseStream ===

impl ResponseStream {
    pub(super) fn new(events: mpsc::Receiver<EngineEvent>, sequences: usize) -> Self {
        Self { events, unfinished: sequences }
    }

    /// The next event, or `None` after the last. The last one is `Failed`, or the `Done` of the last sample. If the
    /// engine stops, it is `Failed`.
    pub async fn next(&mut self) -> Option<EngineEvent> {
        if self.unfinished == 0 {
            return None;
        }
        let event = self.events.recv().await;
        Some(self.count(event))
    }

    /// [`next`](Self::next) for a thread that is not in an async runtime.
    pub fn blocking_next(&mut self) -> Option<EngineEvent> {
        if self.unfinished == 0 {
            return None;
        }
        let event = self.events.blocking_recv();
        Some(self.count(event))
    }

    /// Counts the samples that an event ends.
    fn count(&mut self, event: Option<EngineEvent>) -> EngineEvent {
        let event = event.unwrap_or(EngineEvent::Failed(RequestFailure::Gone));
        match event {
            EngineEvent::Done { .. } => self.unfinished -= 1,
            EngineEvent::Failed(_) => self.unfinished = 0,
            EngineEvent::Token { .. } | EngineEvent::Weighed(_) => {}
        }
        event
    }
}
