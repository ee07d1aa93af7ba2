//! What a batch of rows should say, whatever calculates how far they are from it.

use super::ops::Targets;

/// What the rows of a batch should say.
#[derive(Clone, Copy, Debug)]
pub struct Aims<'a> {
    /// Rows that are followed by a token that counts, each once.
    pub rows: &'a [u32],
    /// Those tokens, how much each counts, and what their sum is divided by.
    pub targets: Targets<'a>,
    /// Choices between rows.
    pub choices: &'a [Choice],
    /// What the sum over those is divided by.
    pub choices_total: f64,
}

/// Rows that compete by the logit of one token: their loss is softmax cross-entropy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The rows, the right one first; none of them is among those of another choice.
    pub rows: Vec<u32>,
    /// The token.
    pub asked: u32,
}
