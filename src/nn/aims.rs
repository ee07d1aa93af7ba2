//! What a batch of rows should say, whatever calculates how far they are from it.

use super::ops::Targets;
use candle_core::{Error, Result};

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

// === impl Aims ===

impl Aims<'_> {
    /// Whether so many rows, of a decoder with such a vocabulary, can have them.
    pub fn check(&self, rows: usize, vocabulary: usize) -> Result<()> {
        let wrong = |what: String| Err(Error::Msg(what));
        let is_row = |row: &u32| (*row as usize) < rows;
        for Followed { rows: of, targets } in &self.texts {
            targets.check(of.len(), vocabulary)?;
            if of.len() > rows || !of.iter().all(is_row) {
                return wrong(format!(
                    "{} followed rows are not among {rows}, each once",
                    of.len()
                ));
            }
        }
        let ends: usize = self.choices.iter().map(|choice| choice.rows.len()).sum();
        for Choice { rows: of, asked } in self.choices {
            if of.len() < 2 || ends > rows || !of.iter().all(is_row) {
                return wrong(format!(
                    "{} rows of a choice are not two of {rows} or more",
                    of.len()
                ));
            }
            if *asked as usize >= vocabulary {
                return wrong(format!("token {asked} is not in a vocabulary of {vocabulary}"));
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
            let tokens = vec![1; rows.len()];
            let weights = vec![1.0; rows.len()];
            let targets = Targets { tokens: &tokens, weights: &weights, total: 1.0, written: &[] };
            let none =
                Followed { rows: &[], targets: Targets { tokens: &[], weights: &[], ..targets } };
            let texts = [Followed { rows, targets }, none];
            let choices = [Choice { rows: choice.to_vec(), asked }];
            let aims = Aims { texts, choices: &choices, choices_total: 1.0 };
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
