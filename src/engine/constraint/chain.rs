//! One constraint after another.

use super::{Allowed, Constraint, ConstraintError};

/// One constraint to its end, and then another.
#[derive(Clone, Debug)]
pub struct Chain {
    first: Constraint,
    then: Constraint,
}

// === impl Chain ===

impl Chain {
    /// `first` must have an end of its own, which free text lacks.
    pub(super) fn new(first: Constraint, then: Constraint) -> Result<Self, ConstraintError> {
        if first.ends_in_free_text() {
            return Err(ConstraintError::Endless);
        }
        Ok(Self { first, then })
    }

    /// The constraint of the next token.
    fn current(&self) -> &Constraint {
        if self.first.is_done() { &self.then } else { &self.first }
    }

    pub(super) fn allowed(&self) -> Allowed<'_> {
        self.current().allowed()
    }

    pub(super) fn advance(&mut self, token: u32) {
        let current = if self.first.is_done() { &mut self.then } else { &mut self.first };
        // The caller has checked that the token is allowed.
        let _ = current.advance(token);
    }

    pub(super) fn accepts_stop_token(&self) -> bool {
        self.first.is_done() && self.then.accepts_stop_token()
    }

    pub(super) fn tokens_needed(&self) -> usize {
        self.first.tokens_needed() + self.then.tokens_needed()
    }

    pub(super) fn highest_token(&self) -> u32 {
        self.first.highest_token().max(self.then.highest_token())
    }

    pub(super) fn then(&self) -> &Constraint {
        &self.then
    }
}

#[cfg(test)]
mod tests {
    use super::super::Trie;
    use super::*;
    use std::sync::Arc;

    #[test]
    fn the_first_constraint_ends_before_the_second_begins() {
        let trie = Arc::new(Trie::new(&[vec![5, 6], vec![5, 7, 8]]).unwrap());
        let claim = Constraint::entries(trie, 1).unwrap();
        let order = Constraint::permutation(&[vec![1], vec![2]], &[]).unwrap();
        let chain = Constraint::chain(claim.clone(), order).unwrap();
        assert_eq!(chain.forced(), Some(5));
        assert_eq!(chain.parse(&[5, 6, 2, 1]), Some(vec![1, 0]));
        assert_eq!(chain.parse(&[5, 7, 8, 1, 2]), Some(vec![0, 1]));
        assert_eq!(chain.parse(&[5, 6]), None, "the second is missing");
        assert_eq!(chain.parse(&[5, 1, 2]), None, "the first is not at its end");
        assert_eq!((chain.tokens_needed(), chain.highest_token()), (3 + 2, 8));
        let endless = Constraint::chain(Constraint::Free, claim).map(drop);
        assert_eq!(endless.unwrap_err(), ConstraintError::Endless);
    }
}
