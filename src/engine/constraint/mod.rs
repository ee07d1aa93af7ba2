//! Which tokens may come next?
//!
//! A constraint is a small automaton over tokens. What it allows is a list, known before the model
//! is run, so the model computes the logits of those tokens alone, and a token without alternative
//! is written without running the model at all. No state is a dead end: what cannot be walked to
//! its end from everywhere is refused when it is built.

mod chain;
mod permutation;
mod think;
mod trie;

pub use chain::Chain;
pub use permutation::Permutation;
pub use think::{Think, Thinking};
pub use trie::{Trie, TrieWalk};

use std::sync::Arc;

/// What a text must look like.
#[derive(Clone, Debug, Default)]
pub enum Constraint {
    /// Anything, until a token that ends the text.
    #[default]
    Free,
    /// Each label exactly once.
    Permutation(Permutation),
    /// Distinct entries of a catalogue.
    Trie(TrieWalk),
    /// Free thoughts, then something else.
    Think(Box<Think>),
    /// One thing to its end, then something else.
    Chain(Box<Chain>),
}

/// The tokens that may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed<'a> {
    /// These, in ascending order. None is left when the text is done.
    Only(&'a [u32]),
    /// All others.
    AllBut(&'a [u32]),
}

/// Why there is no such constraint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// Nothing to choose from.
    #[error("there is no {0}")]
    Nothing(&'static str),
    /// Something without tokens.
    #[error("{what} {index} has no tokens")]
    Empty {
        /// A label or an entry.
        what: &'static str,
        /// Which.
        index: usize,
    },
    /// Two that cannot be told apart.
    #[error("{what}s {first} and {second} are the same")]
    Duplicate {
        /// Labels or entries.
        what: &'static str,
        /// The one.
        first: usize,
        /// The other.
        second: usize,
    },
    /// One may go on as another.
    #[error("{what} {first} is how {what} {second} begins")]
    Prefix {
        /// A label or an entry.
        what: &'static str,
        /// The shorter.
        first: usize,
        /// The longer.
        second: usize,
    },
    /// More, or fewer, than there can be.
    #[error("{what} is {value}, and must be 1 to {max}")]
    Range {
        /// The number.
        what: &'static str,
        /// Its value.
        value: usize,
        /// Its limit.
        max: usize,
    },
    /// Something that never ends cannot be followed.
    #[error("free text has no end that anything could follow")]
    Endless,
    /// A thought could not be closed.
    #[error("token {0} closes a thought, and ends the text")]
    EndInClose(u32),
}

/// A token that may not come next.
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

    /// Thoughts, and then what `then` says.
    pub fn think(thinking: Thinking, then: Self) -> Result<Self, ConstraintError> {
        Think::new(thinking, then).map(|think| Self::Think(Box::new(think)))
    }

    /// What `first` says, to its end, and then what `then` says.
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

    /// The token that must come next, if there is only one.
    pub fn forced(&self) -> Option<u32> {
        match self.allowed() {
            Allowed::Only(&[token]) => Some(token),
            _ => None,
        }
    }

    /// Goes on by a token. One that is not allowed changes nothing.
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

    /// Whether nothing may follow.
    pub fn is_done(&self) -> bool {
        matches!(self.allowed(), Allowed::Only([]))
    }

    /// Whether a token that ends the text would end it here. Inside a label or an entry it is a
    /// token like any other, and inside a thought it is banned.
    pub fn is_free(&self) -> bool {
        match self {
            Self::Free => true,
            Self::Think(think) => think.is_over() && think.then().is_free(),
            Self::Chain(chain) => chain.is_free(),
            Self::Permutation(_) | Self::Trie(_) => false,
        }
    }

    /// Whether its text ends only where a token ends it.
    fn ends_free(&self) -> bool {
        match self {
            Self::Free => true,
            Self::Think(think) => think.then().ends_free(),
            Self::Chain(chain) => chain.then().ends_free(),
            Self::Permutation(_) | Self::Trie(_) => false,
        }
    }

    /// The most tokens that it may take from the very beginning to the end; of free text, which has
    /// no end of its own, one.
    pub fn tokens_needed(&self) -> usize {
        match self {
            Self::Free => 1,
            Self::Permutation(permutation) => permutation.tokens_max(),
            Self::Trie(walk) => walk.tokens_max(),
            Self::Think(think) => think.tokens_max() + think.then().tokens_needed(),
            Self::Chain(chain) => chain.tokens_needed(),
        }
    }

    /// The highest token that is named anywhere.
    pub fn highest(&self) -> u32 {
        match self {
            Self::Free => 0,
            Self::Permutation(permutation) => permutation.highest(),
            Self::Trie(walk) => walk.highest(),
            Self::Think(think) => think.highest().max(think.then().highest()),
            Self::Chain(chain) => chain.highest(),
        }
    }

    /// The labels or entries so far, by their number, in the order of the text.
    pub fn named(&self) -> &[usize] {
        match self {
            Self::Free => &[],
            Self::Permutation(permutation) => permutation.order(),
            Self::Trie(walk) => walk.entries(),
            Self::Think(think) => think.then().named(),
            Self::Chain(chain) => chain.then().named(),
        }
    }

    /// Which labels or entries a whole text names, in its order: `None` if it is not a text that
    /// this constraint, as it was built, lets through to its end.
    pub fn read(&self, tokens: &[u32]) -> Option<Vec<usize>> {
        let mut walked = self.clone();
        tokens.iter().try_for_each(|&token| walked.advance(token)).ok()?;
        walked.is_done().then(|| walked.named().to_vec())
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

/// Words in lexical order, each with its number, none of which is how another begins.
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
        // Whatever begins with a word stands right after it.
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

/// Refuses a word without tokens.
fn refuse_empty(words: &[Vec<u32>], what: &'static str) -> Result<(), ConstraintError> {
    match words.iter().position(Vec::is_empty) {
        Some(index) => Err(ConstraintError::Empty { what, index }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Walks to the end by what `pick` says, and reads what was walked.
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
        let named = constraint.read(&text).expect("what was walked can be read");
        assert_eq!(named, state.named());
        named
    }

    fn words() -> impl Strategy<Value = Vec<Vec<u32>>> {
        prop::collection::vec(prop::collection::vec(0_u32..6, 1..4), 1..8)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn a_walk_names_each_label_once(
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
        fn a_walk_names_distinct_entries(
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
        fn a_chain_ends_with_what_comes_last(
            entries in words(),
            labels in words(),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 64),
        ) {
            let said = Trie::new(&entries).and_then(|trie| Constraint::entries(Arc::new(trie), 1));
            let order = Constraint::permutation(&labels, &[]);
            if let (Ok(said), Ok(order)) = (said, order) {
                let mut picks = picks.iter().cycle();
                let chain = Constraint::chain(said, order).unwrap();
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
    fn what_is_not_allowed_changes_nothing() {
        let mut constraint = Constraint::permutation(&[vec![1], vec![2]], &[]).unwrap();
        assert_eq!(constraint.advance(3), Err(Disallowed(3)));
        assert_eq!(constraint.allowed(), Allowed::Only(&[1, 2]));
        assert_eq!(constraint.read(&[2]), None);
        assert_eq!(constraint.read(&[2, 2]), None);
        assert_eq!(constraint.read(&[2, 1, 1]), None);
        assert_eq!(constraint.read(&[2, 1]), Some(vec![1, 0]));
    }
}
