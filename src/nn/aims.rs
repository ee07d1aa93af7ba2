//! What a batch of rows should say, whatever calculates how far they are from it.

use super::ops::Targets;

/// What the rows of a batch should say.
#[derive(Clone, Copy, Debug)]
pub struct Aims<'a> {
    /// What is imitated, and what is made likelier or less likely by what it was worth.
    pub texts: [Followed<'a>; 2],
    /// Choices between rows.
    pub choices: &'a [Choice],
    /// What the sum over those is divided by.
    pub choices_total: f64,
}

/// Rows that are followed by tokens that count.
#[derive(Clone, Copy, Debug)]
pub struct Followed<'a> {
    /// The rows, each once.
    pub rows: &'a [u32],
    /// The token that follows each.
    pub targets: Targets<'a>,
}

/// Rows that compete by the logit of one token: their loss is softmax cross-entropy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The rows, the right one first; none of them is among those of another choice.
    pub rows: Vec<u32>,
    /// The token.
    pub asked: u32,
}
