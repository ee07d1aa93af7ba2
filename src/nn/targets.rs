//! The training targets of a batch's rows, for the CPU and for a GPU.

use super::ops::CrossEntropyTargets;
use candle_core::{Error, Result};

/// The targets of a batch: tokens to predict, and choices between branches.
#[derive(Clone, Copy, Debug)]
pub struct RowTargets<'a> {
    /// Supervised tokens, then rollout tokens with their advantages.
    pub tokens: [TokenTargets<'a>; 2],
    /// Choices between branches.
    pub branches: &'a [BranchTargets],
    /// The divisor of the sum of their losses.
    pub branches_normaliser: f64,
}

/// Rows with target tokens.
#[derive(Clone, Copy, Debug)]
pub struct TokenTargets<'a> {
    /// The rows, each once.
    pub rows: &'a [u32],
    /// The target of each.
    pub targets: CrossEntropyTargets<'a>,
}

/// Rows at the ends of branches, which compete by the logit of one token. The loss is softmax cross-entropy over the
/// branches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchTargets {
    /// The rows, the taken branch first. No row is in two choices.
    pub rows: Vec<u32>,
    /// The token whose logit is a branch's score.
    pub label_token: u32,
}

// === impl RowTargets ===

impl RowTargets<'_> {
    /// Checks the targets against a batch of `rows` rows and a vocabulary.
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
