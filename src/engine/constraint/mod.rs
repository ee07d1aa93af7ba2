//! Which tokens may come next?
//!
//! A constraint is a small automaton over tokens (guided decoding in vLLM). The allowed tokens are a list that is known
//! before the forward pass, so the model computes the logits of those alone. A token without an alternative is forced:
//! it is appended without sampling. No state is a dead end: a constraint that could get stuck is rejected when it is
//! built.

mod chain;
mod permutation;
mod think;
mod trie;

pub use chain::Chain;
pub use permutation::Permutation;
pub use think::{Think, Thinking};
pub use trie::{Trie, TrieWalk};

use std::sync::Arc;

/// The grammar of a completion, and the state of the walk through it.
#[derive(Clone, Debug, Default)]
pub enum Constraint {
    /// Any tokens, up to a stop token.
    #[default]
    Free,
    /// Each label exactly once.
    Permutation(Permutation),
    /// Distinct entries of a catalogue.
    Trie(TrieWalk),
    /// A free thought, then another constraint.
    Think(Box<Think>),
    /// One constraint to its end, then another.
    Chain(Box<Chain>),
}

/// The tokens that may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed<'a> {
    /// These tokens, in ascending order. None is left once the constraint is done.
    Only(&'a [u32]),
    /// All tokens but these.
    AllBut(&'a [u32]),
}

/// Why a constraint can't be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// A list is empty.
    #[error("there is no {0}")]
    Nothing(&'static str),
    /// A label or an entry is empty.
    #[error("{what} {index} has no tokens")]
    Empty {
        /// `label` or `entry`.
        what: &'static str,
        /// Its index.
        index: usize,
    },
    /// Two labels or entries are equal.
    #[error("{what}s {first} and {second} are the same")]
    Duplicate {
        /// `label` or `entry`.
        what: &'static str,
        /// The index of the one.
        first: usize,
        /// The index of the other.
        second: usize,
    },
    /// One label or entry is a prefix of another.
    #[error("{what} {first} is a prefix of {what} {second}")]
    Prefix {
        /// `label` or `entry`.
        what: &'static str,
        /// The index of the shorter.
        first: usize,
        /// The index of the longer.
        second: usize,
    },
    /// A count is out of range.
    #[error("{what} is {value}, and must be 1 to {max}")]
    Range {
        /// The count.
        what: &'static str,
        /// Its value.
        value: usize,
        /// Its limit.
        max: usize,
    },
    /// Nothing can follow free text, which ends at a stop token only.
    #[error("free text has no end that anything could follow")]
    Endless,
    /// A token closes a thought and is also a stop token.
    #[error("token {0} closes a thought and is also a stop token")]
    StopTokenInClose(u32),
}

/// A token that is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("token {0} may not come next")]
pub struct Disallowed(pub u32);

// === impl Constraint ===

impl Constraint {
    /// Each of `labels` once, in any order, with `separator` (which may be empty) between them.
    pub fn permutation(labels: &[Vec<u32>], separator: &[u32]) -> Result<Self, ConstraintError> {
        Permutation::new(labels, separator).map(Self::Permutation)
    }

    /// `count` distinct entries of a catalogue, in any order.
    pub fn entries(trie: Arc<Trie>, count: usize) -> Result<Self, ConstraintError> {
        TrieWalk::new(trie, count).map(Self::Trie)
    }

    /// A thought, and then `then`.
    pub fn think(thinking: Thinking, then: Self) -> Result<Self, ConstraintError> {
        Think::new(thinking, then).map(|think| Self::Think(Box::new(think)))
    }

    /// `first` to its end, and then `then`.
    pub fn chain(first: Self, then: Self) -> Result<Self, ConstraintError> {
        Chain::new(first, then).map(|chain| Self::Chain(Box::new(chain)))
    }

    /// The tokens that may come next.
    pub fn allowed(&self) -> Allowed<'_> {
        match self {
            Self::Free => Allowed::AllBut(&[]),
            Self::Permutation(permutation) => Allowed::Only(permutation.allowed()),
            Self::Trie(walk) => Allowed::Only(walk.allowed()),
            Self::Think(think) => think.allowed(),
            Self::Chain(chain) => chain.allowed(),
        }
    }

    /// The next token, if only one is allowed.
    pub fn forced(&self) -> Option<u32> {
        match self.allowed() {
            Allowed::Only(&[token]) => Some(token),
            _ => None,
        }
    }

    /// Advances by a token. A disallowed token is an error and changes nothing.
    pub fn advance(&mut self, token: u32) -> Result<(), Disallowed> {
        if !self.allowed().contains(token) {
            return Err(Disallowed(token));
        }
        match self {
            Self::Free => {}
            Self::Permutation(permutation) => permutation.advance(token),
            Self::Trie(walk) => walk.advance(token),
            Self::Think(think) => think.advance(token),
            Self::Chain(chain) => chain.advance(token),
        }
        Ok(())
    }

    /// Whether no token is allowed any more.
    pub fn is_done(&self) -> bool {
        matches!(self.allowed(), Allowed::Only([]))
    }

    /// Whether a stop token would end the text here. Inside a label or an entry it is an ordinary token, and inside a
    /// thought it is banned.
    pub fn accepts_stop_token(&self) -> bool {
        match self {
            Self::Free => true,
            Self::Think(think) => think.is_over() && think.then().accepts_stop_token(),
            Self::Chain(chain) => chain.accepts_stop_token(),
            Self::Permutation(_) | Self::Trie(_) => false,
        }
    }

    /// Whether its last part is free text, which ends at a stop token only.
    fn ends_in_free_text(&self) -> bool {
        match self {
            Self::Free => true,
            Self::Think(think) => think.then().ends_in_free_text(),
            Self::Chain(chain) => chain.then().ends_in_free_text(),
            Self::Permutation(_) | Self::Trie(_) => false,
        }
    }

    /// Tokens of its longest text, from the start. Free text counts as one token.
    pub fn tokens_needed(&self) -> usize {
        match self {
            Self::Free => 1,
            Self::Permutation(permutation) => permutation.tokens_max(),
            Self::Trie(walk) => walk.tokens_max(),
            Self::Think(think) => think.tokens_max() + think.then().tokens_needed(),
            Self::Chain(chain) => chain.tokens_needed(),
        }
    }

    /// The highest token that it names.
    pub fn highest_token(&self) -> u32 {
        match self {
            Self::Free => 0,
            Self::Permutation(permutation) => permutation.highest_token(),
            Self::Trie(walk) => walk.highest_token(),
            Self::Think(think) => think.highest_token().max(think.then().highest_token()),
            Self::Chain(chain) => chain.highest_token(),
        }
    }

    /// The labels or entries so far, by index, in the order of the text.
    pub fn chosen(&self) -> &[usize] {
        match self {
            Self::Free => &[],
            Self::Permutation(permutation) => permutation.order(),
            Self::Trie(walk) => walk.entries(),
            Self::Think(think) => think.then().chosen(),
            Self::Chain(chain) => chain.then().chosen(),
        }
    }

    /// The labels or entries that a whole text chooses, in its order. `None` if the constraint, as it was built, does
    /// not accept the text.
    pub fn parse(&self, tokens: &[u32]) -> Option<Vec<usize>> {
        let mut walked = self.clone();
        tokens.iter().try_for_each(|&token| walked.advance(token)).ok()?;
        walked.is_done().then(|| walked.chosen().to_vec())
    }
}

// === impl Allowed ===

impl Allowed<'_> {
    /// Whether a token may come next.
    pub fn contains(self, token: u32) -> bool {
        match self {
            Self::Only(tokens) => tokens.binary_search(&token).is_ok(),
            Self::AllBut(tokens) => !tokens.contains(&token),
        }
    }
}

/// The words in lexical order, each with its index. Rejects equal words, and words that are prefixes of others.
fn sorted(
    words: &[Vec<u32>],
    what: &'static str,
) -> Result<Vec<(usize, Vec<u32>)>, ConstraintError> {
    if words.is_empty() {
        return Err(ConstraintError::Nothing(what));
    }
    let mut sorted: Vec<_> = words.iter().cloned().enumerate().collect();
    sorted.sort_by(|(_, a), (_, b)| a.cmp(b));
    for pair in sorted.windows(2) {
        // In lexical order, a word is followed directly by those that it is a prefix of.
        let [(first, short), (second, long)] = pair else { continue };
        let (first, second) = (*first, *second);
        if short == long {
            return Err(ConstraintError::Duplicate { what, first, second });
        }
        if long.starts_with(short) {
            return Err(ConstraintError::Prefix { what, first, second });
        }
    }
    Ok(sorted)
}

/// Rejects a word without tokens.
fn reject_empty(words: &[Vec<u32>], what: &'static str) -> Result<(), ConstraintError> {
    match words.iter().position(Vec::is_empty) {
        Some(index) => Err(ConstraintError::Empty { what, index }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Walks to the end by picking allowed tokens, and parses the text.
    fn walk(constraint: &Constraint, mut pick: impl FnMut(usize) -> usize) -> Vec<usize> {
        const VOCABULARY: usize = 50;
        let bound = constraint.tokens_needed();
        let (mut state, mut text) = (constraint.clone(), Vec::new());
        while !state.is_done() {
            let token = match state.allowed() {
                Allowed::Only(tokens) => {
                    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
                    tokens[pick(tokens.len())]
                }
                Allowed::AllBut(banned) => {
                    let mut token = pick(VOCABULARY) as u32;
                    while banned.contains(&token) {
                        token = (token + 1) % VOCABULARY as u32;
                    }
                    token
                }
            };
            state.advance(token).unwrap();
            text.push(token);
            assert!(text.len() <= bound, "{text:?} is longer than {bound}");
        }
        let chosen = constraint.parse(&text).expect("the walked text is accepted");
        assert_eq!(chosen, state.chosen());
        chosen
    }

    fn words() -> impl Strategy<Value = Vec<Vec<u32>>> {
        prop::collection::vec(prop::collection::vec(0_u32..6, 1..4), 1..8)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn a_walk_chooses_each_label_once(
            labels in words(),
            separator in prop::collection::vec(0_u32..8, 0..3),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 64),
        ) {
            if let Ok(constraint) = Constraint::permutation(&labels, &separator) {
                let mut picks = picks.iter().cycle();
                let mut named = walk(&constraint, |n| picks.next().unwrap().index(n));
                named.sort_unstable();
                prop_assert_eq!(named, (0..labels.len()).collect::<Vec<_>>());
            }
        }

        #[test]
        fn a_walk_chooses_distinct_entries(
            entries in words(),
            count in 1_usize..8,
            picks in prop::collection::vec(any::<prop::sample::Index>(), 64),
        ) {
            let trie = Trie::new(&entries).map(Arc::new);
            if let Ok(constraint) = trie.and_then(|trie| Constraint::entries(trie, count)) {
                let mut picks = picks.iter().cycle();
                let mut named = walk(&constraint, |n| picks.next().unwrap().index(n));
                named.sort_unstable();
                named.dedup();
                prop_assert_eq!(named.len(), count);
            }
        }

        #[test]
        fn a_chain_ends_with_its_last_constraint(
            entries in words(),
            labels in words(),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 64),
        ) {
            let claim = Trie::new(&entries).and_then(|trie| Constraint::entries(Arc::new(trie), 1));
            let order = Constraint::permutation(&labels, &[]);
            if let (Ok(claim), Ok(order)) = (claim, order) {
                let mut picks = picks.iter().cycle();
                let chain = Constraint::chain(claim, order).unwrap();
                let named = walk(&chain, |n| picks.next().unwrap().index(n));
                prop_assert_eq!(named.len(), labels.len());
            }
        }

        #[test]
        fn a_thought_ends_within_its_budget(
            tokens_max in 1_usize..12,
            open in prop::collection::vec(0_u32..4, 0..3),
            close in prop::collection::vec(0_u32..3, 1..4),
            ends in prop::collection::vec(3_u32..6, 0..3),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 64),
        ) {
            let then = Constraint::permutation(&[vec![1], vec![2], vec![3]], &[]).unwrap();
            let thinking = Thinking { tokens_max, open, close, stop_tokens: ends };
            let constraint = Constraint::think(thinking, then).unwrap();
            let mut picks = picks.iter().cycle();
            prop_assert_eq!(walk(&constraint, |n| picks.next().unwrap().index(n)).len(), 3);
        }
    }

    #[test]
    fn a_disallowed_token_changes_nothing() {
        let mut constraint = Constraint::permutation(&[vec![1], vec![2]], &[]).unwrap();
        assert_eq!(constraint.advance(3), Err(Disallowed(3)));
        assert_eq!(constraint.allowed(), Allowed::Only(&[1, 2]));
        assert_eq!(constraint.parse(&[2]), None);
        assert_eq!(constraint.parse(&[2, 2]), None);
        assert_eq!(constraint.parse(&[2, 1, 1]), None);
        assert_eq!(constraint.parse(&[2, 1]), Some(vec![1, 0]));
    }
}
