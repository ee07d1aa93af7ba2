//! One thing after another.

use super::{Allowed, Constraint, ConstraintError};

/// What is said first, to its end, and then something else.
#[derive(Clone, Debug)]
pub struct Chain {
    first: Constraint,
    then: Constraint,
}

// === impl Chain ===

impl Chain {
    /// `first` must come to an end: free text has none that this could wait for.
    pub(super) fn new(first: Constraint, then: Constraint) -> Result<Self, ConstraintError> {
        if first.ends_free() {
            return Err(ConstraintError::Endless);
        }
        Ok(Self { first, then })
    }

    /// What goes on now.
    pub(super) fn now(&self) -> &Constraint {
        if self.first.is_done() { &self.then } else { &self.first }
    }

    pub(super) fn allowed(&self) -> Allowed<'_> {
        self.now().allowed()
    }

    pub(super) fn advance(&mut self, token: u32) {
        let now = if self.first.is_done() { &mut self.then } else { &mut self.first };
        // Whoever calls has seen that the token is allowed.
        let _ = now.advance(token);
    }

    pub(super) fn is_free(&self) -> bool {
        self.first.is_done() && self.then.is_free()
    }

    pub(super) fn tokens_needed(&self) -> usize {
        self.first.tokens_needed() + self.then.tokens_needed()
    }

    pub(super) fn highest(&self) -> u32 {
        self.first.highest().max(self.then.highest())
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
    fn what_is_said_first_ends_before_the_rest_begins() {
        let trie = Arc::new(Trie::new(&[vec![5, 6], vec![5, 7, 8]]).unwrap());
        let said = Constraint::entries(trie, 1).unwrap();
        let order = Constraint::permutation(&[vec![1], vec![2]], &[]).unwrap();
        let chain = Constraint::chain(said.clone(), order).unwrap();
        assert_eq!(chain.forced(), Some(5));
        assert_eq!(chain.read(&[5, 6, 2, 1]), Some(vec![1, 0]));
        assert_eq!(chain.read(&[5, 7, 8, 1, 2]), Some(vec![0, 1]));
        assert_eq!(chain.read(&[5, 6]), None, "the rest is missing");
        assert_eq!(chain.read(&[5, 1, 2]), None, "what comes first is not at its end");
        assert_eq!((chain.tokens_needed(), chain.highest()), (3 + 2, 8));
        let endless = Constraint::chain(Constraint::Free, said).map(drop);
        assert_eq!(endless.unwrap_err(), ConstraintError::Endless);
    }
}
