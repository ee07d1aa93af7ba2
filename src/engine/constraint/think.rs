//! A thought with a token budget.

use super::{Allowed, Constraint, ConstraintError};
use std::sync::Arc;

/// How a model thinks before it answers.
#[derive(Clone, Debug)]
pub struct Thinking {
    /// Tokens of the thought, including the closing tokens if the model generates them itself.
    pub tokens_max: usize,
    /// Tokens that open the thought; may be empty.
    pub open: Vec<u32>,
    /// Tokens that close it. They are forced when the budget is spent.
    pub close: Vec<u32>,
    /// Stop tokens, which are banned inside the thought.
    pub stop_tokens: Vec<u32>,
}

/// A thought, and then another constraint.
#[derive(Clone, Debug)]
pub struct Think {
    thinking: Arc<Thinking>,
    state: ThinkState,
    then: Constraint,
}

#[derive(Clone, Copy, Debug)]
enum ThinkState {
    /// This many opening tokens are generated.
    Opening(usize),
    /// `spent` tokens of the budget are used. The last `closed` of them are a prefix of the closing tokens.
    Thinking {
        spent: usize,
        closed: usize,
    },
    /// The budget is spent, and this many closing tokens are generated.
    Closing(usize),
    Over,
}

/// The largest budget. It keeps sums of token counts from overflowing.
const THOUGHT_TOKENS_MAX: usize = 1 << 20;

// === impl Think ===

impl Think {
    pub(super) fn new(thinking: Thinking, then: Constraint) -> Result<Self, ConstraintError> {
        let (value, max) = (thinking.tokens_max, THOUGHT_TOKENS_MAX);
        if value == 0 || value > max {
            return Err(ConstraintError::Range { what: "the budget of a thought", value, max });
        }
        if thinking.close.is_empty() {
            return Err(ConstraintError::Nothing("token that closes a thought"));
        }
        if let Some(token) =
            thinking.close.iter().find(|token| thinking.stop_tokens.contains(token))
        {
            return Err(ConstraintError::StopTokenInClose(*token));
        }
        let thinking = Arc::new(thinking);
        let mut new = Self { thinking, state: ThinkState::Opening(0), then };
        new.state = new.opening(0);
        Ok(new)
    }

    pub(super) fn allowed(&self) -> Allowed<'_> {
        let Thinking { open, close, stop_tokens, .. } = &*self.thinking;
        match self.state {
            ThinkState::Opening(written) => Allowed::Only(&open[written..=written]),
            ThinkState::Thinking { .. } => Allowed::AllBut(stop_tokens),
            ThinkState::Closing(written) => Allowed::Only(&close[written..=written]),
            ThinkState::Over => self.then.allowed(),
        }
    }

    pub(super) fn advance(&mut self, token: u32) {
        self.state = match self.state {
            ThinkState::Opening(written) => self.opening(written + 1),
            ThinkState::Thinking { spent, closed } => {
                match (spent + 1, self.closed_by(closed, token)) {
                    (_, closed) if closed == self.thinking.close.len() => ThinkState::Over,
                    // The closing tokens that the model has generated are not forced again.
                    (spent, closed) if spent == self.thinking.tokens_max => {
                        ThinkState::Closing(closed)
                    }
                    (spent, closed) => ThinkState::Thinking { spent, closed },
                }
            }
            ThinkState::Closing(written) if written + 1 == self.thinking.close.len() => {
                ThinkState::Over
            }
            ThinkState::Closing(written) => ThinkState::Closing(written + 1),
            ThinkState::Over => {
                let _ = self.then.advance(token);
                ThinkState::Over
            }
        };
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, ThinkState::Over)
    }

    pub(super) fn then(&self) -> &Constraint {
        &self.then
    }

    /// Tokens of the thought at most, without the second constraint.
    pub(super) fn tokens_max(&self) -> usize {
        let Thinking { tokens_max, open, close, .. } = &*self.thinking;
        open.len() + tokens_max + close.len()
    }

    pub(super) fn highest_token(&self) -> u32 {
        let Thinking { open, close, stop_tokens, .. } = &*self.thinking;
        [open, close, stop_tokens].into_iter().flatten().copied().max().unwrap_or(0)
    }

    fn opening(&self, written: usize) -> ThinkState {
        if written < self.thinking.open.len() {
            ThinkState::Opening(written)
        } else {
            ThinkState::Thinking { spent: 0, closed: 0 }
        }
    }

    /// The length of the longest prefix of the closing tokens that the thought ends with, after `token`. Before it,
    /// that length was `closed`. There are one or two closing tokens, so this tries every length.
    fn closed_by(&self, closed: usize, token: u32) -> usize {
        let close = &self.thinking.close;
        let ends_with = |length: &usize| {
            close[*length - 1] == token && close[..length - 1] == close[closed + 1 - length..closed]
        };
        (1..=closed + 1).rev().find(ends_with).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thinking(tokens_max: usize, close: &[u32]) -> Thinking {
        Thinking { tokens_max, open: vec![10], close: close.to_vec(), stop_tokens: vec![0] }
    }

    fn answer() -> Constraint {
        Constraint::permutation(&[vec![1], vec![2]], &[]).unwrap()
    }

    #[test]
    fn a_thought_is_closed_by_the_model_or_its_budget() {
        let constraint = Constraint::think(thinking(3, &[11, 12]), answer()).unwrap();
        for (text, case) in [
            (&[10, 11, 12, 2, 1][..], "closed by the model"),
            (&[10, 5, 5, 5, 11, 12, 2, 1], "closed by the budget"),
            (&[10, 5, 5, 11, 12, 2, 1], "the model had begun to close it"),
            (&[10, 11, 11, 12, 2, 1], "a false start is no start"),
        ] {
            assert_eq!(constraint.parse(text), Some(vec![1, 0]), "{case}");
        }
        assert_eq!(constraint.parse(&[10, 5, 0]), None, "a stop token is banned in a thought");
        assert_eq!(constraint.tokens_needed(), 1 + 3 + 2 + 2);
    }

    #[test]
    fn a_stop_token_counts_once_the_thought_is_over() {
        let mut constraint = Constraint::think(thinking(1, &[11]), Constraint::Free).unwrap();
        assert_eq!(constraint.forced(), Some(10));
        constraint.advance(10).unwrap();
        assert_eq!(constraint.allowed(), Allowed::AllBut(&[0]));
        constraint.advance(5).unwrap();
        assert_eq!(constraint.forced(), Some(11));
        assert!(!constraint.accepts_stop_token());
        constraint.advance(11).unwrap();
        assert!(constraint.accepts_stop_token());
        assert_eq!(constraint.tokens_needed(), 1 + 1 + 1 + 1);
    }

    #[test]
    fn thoughts_that_could_not_end_are_rejected() {
        let error = |thinking| Constraint::think(thinking, answer()).map(drop).unwrap_err();
        let zero = error(thinking(0, &[11]));
        assert_eq!(zero.to_string(), "the budget of a thought is 0, and must be 1 to 1048576");
        assert_eq!(
            error(thinking(1, &[])),
            ConstraintError::Nothing("token that closes a thought")
        );
        assert_eq!(error(thinking(1, &[11, 0])), ConstraintError::StopTokenInClose(0));
    }
}
