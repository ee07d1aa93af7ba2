//! What a batch of rows should say, whatever calculates how far they are from it.

use super::ops::CrossEntropyTargets;
use candle_core::{Error, Result};

/// What the rows of a batch should say.
#[derive(Clone, Copy, Debug)]
pub struct RowTargets<'a> {
    /// What is imitated, and what is made likelier or less likely by what it was worth.
    pub tokens: [TokenTargets<'a>; 2],
    /// Choices between rows.
    pub branches: &'a [BranchTargets],
    /// What the sum over those is divided by.
    pub branches_normaliser: f64,
}

/// Rows that are followed by tokens that count.
#[derive(Clone, Copy, Debug)]
pub struct TokenTargets<'a> {
    /// The rows, each once.
    pub rows: &'a [u32],
    /// The token that follows each.
    pub targets: CrossEntropyTargets<'a>,
}

/// Rows that compete by the logit of one token: their loss is softmax cross-entropy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchTargets {
    /// The rows, the right one first; none of them is among those of another choice.
    pub rows: Vec<u32>,
    /// The token.
    pub label_token: u32,
}

// === impl RowTargets ===

impl RowTargets<'_> {
    /// Whether so many rows, of a decoder with such a vocabulary, can have them.
    pub fn check(&self, rows: usize, vocabulary: usize) -> Result<()> {
        let wrong = |what: String| Err(Error::Msg(what));
        let is_row = |row: &u32| (*row as usize) < rows;
        for TokenTargets { rows: of, targets } in &self.tokens {
            targets.check(of.len(), vocabulary)?;
            if of.len() > rows || !of.iter().all(is_row) {
                return wrong(format!(
                    "{} followed rows are not among {rows}, each once",
                    of.len()
                ));
            }
        }
        let ends: usize = self.branches.iter().map(|choice| choice.rows.len()).sum();
        for BranchTargets { rows: of, label_token } in self.branches {
            if of.len() < 2 || ends > rows || !of.iter().all(is_row) {
                return wrong(format!(
                    "{} rows of a choice are not two of {rows} or more",
                    of.len()
                ));
            }
            if *label_token as usize >= vocabulary {
                return wrong(format!(
                    "token {label_token} is not in a vocabulary of {vocabulary}"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aims_are_among_the_rows_that_there_are() {
        let says = |rows: &[u32], choice: &[u32], asked| {
            let following = vec![1; rows.len()];
            let weights = vec![1.0; rows.len()];
            let targets = CrossEntropyTargets {
                tokens: &following,
                weights: &weights,
                normaliser: 1.0,
                rollout: &[],
            };
            let none = TokenTargets {
                rows: &[],
                targets: CrossEntropyTargets { tokens: &[], weights: &[], ..targets },
            };
            let tokens = [TokenTargets { rows, targets }, none];
            let choices = [BranchTargets { rows: choice.to_vec(), label_token: asked }];
            let aims = RowTargets { tokens, branches: &choices, branches_normaliser: 1.0 };
            aims.check(4, 9).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(says(&[0, 3], &[1, 2], 8), "");
        assert_eq!(says(&[0, 4], &[1, 2], 8), "2 followed rows are not among 4, each once");
        assert_eq!(says(&[0; 5], &[1, 2], 8), "5 followed rows are not among 4, each once");
        assert_eq!(says(&[0], &[1], 8), "1 rows of a choice are not two of 4 or more");
        assert_eq!(says(&[0], &[1, 4], 8), "2 rows of a choice are not two of 4 or more");
        assert_eq!(says(&[0], &[1, 2], 9), "token 9 is not in a vocabulary of 9");
    }
}
