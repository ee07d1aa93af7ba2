//! Each label exactly once.

use super::{ConstraintError, reject_empty, sorted};
use std::sync::Arc;

/// A walk that chooses each label once.
///
/// A label and the separator after it form one word. So both `1` and `10` can be labels, if a separator follows them.
/// The last label has no separator.
#[derive(Clone, Debug)]
pub struct Permutation {
    words: Arc<LabelWords>,
    /// Labels not chosen yet.
    left: Vec<usize>,
    /// Those of them that begin with the tokens of the current word.
    candidates: Vec<usize>,
    /// Tokens of the current word.
    depth: usize,
    allowed: Vec<u32>,
    order: Vec<usize>,
}

#[derive(Debug)]
struct LabelWords {
    words: Vec<Vec<u32>>,
    /// Tokens of the separator.
    separator: usize,
}

// === impl Permutation ===

impl Permutation {
    pub(super) fn new(labels: &[Vec<u32>], separator: &[u32]) -> Result<Self, ConstraintError> {
        reject_empty(labels, "label")?;
        let words: Vec<_> = labels.iter().map(|label| [label, separator].concat()).collect();
        sorted(&words, "label")?;
        let left: Vec<_> = (0..words.len()).collect();
        let words = Arc::new(LabelWords { words, separator: separator.len() });
        let candidates = left.clone();
        let order = Vec::with_capacity(left.len());
        let mut new = Self { words, left, candidates, depth: 0, allowed: Vec::new(), order };
        new.update_allowed();
        Ok(new)
    }

    pub(super) fn allowed(&self) -> &[u32] {
        &self.allowed
    }

    pub(super) fn advance(&mut self, token: u32) {
        let (words, depth) = (&self.words.words, self.depth);
        self.candidates.retain(|&label| words[label][depth] == token);
        self.depth += 1;
        let separator = if self.left.len() == 1 { self.words.separator } else { 0 };
        // No word is a prefix of another, so a whole word is the only candidate.
        if let [label] = self.candidates[..]
            && self.depth == words[label].len() - separator
        {
            self.order.push(label);
            self.left.retain(|&left| left != label);
            self.candidates.clone_from(&self.left);
            self.depth = 0;
        }
        self.update_allowed();
    }

    /// The labels chosen so far.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    pub(super) fn tokens_max(&self) -> usize {
        self.words.words.iter().map(Vec::len).sum::<usize>() - self.words.separator
    }

    pub(super) fn highest_token(&self) -> u32 {
        self.words.words.iter().flatten().copied().max().unwrap_or(0)
    }

    fn update_allowed(&mut self) {
        let next = self.candidates.iter().map(|&label| self.words.words[label][self.depth]);
        self.allowed.clear();
        self.allowed.extend(next);
        self.allowed.sort_unstable();
        self.allowed.dedup();
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Allowed, Constraint, ConstraintError};

    #[test]
    fn a_separator_tells_one_from_ten() {
        let (one, ten, comma) = (vec![1], vec![1, 0], [9]);
        let mut slate = Constraint::permutation(&[one, ten, vec![2]], &comma).unwrap();
        let mut walked = |expected: &[u32], token| {
            assert_eq!(slate.allowed(), Allowed::Only(expected));
            slate.advance(token).unwrap();
            slate.chosen().to_vec()
        };
        assert_eq!(walked(&[1, 2], 1), [0_usize; 0]);
        assert_eq!(walked(&[0, 9], 9), [0]);
        assert_eq!(walked(&[1, 2], 2), [0]);
        assert_eq!(walked(&[9], 9), [0, 2]);
        assert_eq!(walked(&[1], 1), [0, 2]);
        assert_eq!(walked(&[0], 0), [0, 2, 1]);
        assert!(slate.is_done(), "no separator follows the last label");
    }

    #[test]
    fn labels_that_can_not_be_told_apart_are_rejected() {
        let error = |labels: &[Vec<u32>], separator: &[u32]| {
            Constraint::permutation(labels, separator).map(drop).unwrap_err()
        };
        assert_eq!(error(&[], &[]), ConstraintError::Nothing("label"));
        let empty = ConstraintError::Empty { what: "label", index: 1 };
        assert_eq!(error(&[vec![1], vec![]], &[9]), empty);
        let twins = ConstraintError::Duplicate { what: "label", first: 0, second: 2 };
        assert_eq!(error(&[vec![1], vec![2], vec![1]], &[9]), twins);
        let prefix = ConstraintError::Prefix { what: "label", first: 0, second: 1 };
        assert_eq!(error(&[vec![1], vec![1, 0]], &[]), prefix);
        assert_eq!(error(&[vec![1], vec![1, 9, 9]], &[9]), prefix);
        assert_eq!(prefix.to_string(), "label 0 is a prefix of label 1");
    }
}
