//! Distinct entries of a catalogue.

use super::{ConstraintError, reject_empty, sorted};
use std::ops::Range;
use std::sync::Arc;

/// A prefix trie of a catalogue's entries, such as semantic ids. It is built once and shared.
///
/// Nodes are numbered breadth first. So the children of a node are consecutive, and the tokens that lead to them are
/// one slice.
#[derive(Debug)]
pub struct Trie {
    nodes: Vec<Node>,
    /// The token that leads to each node.
    tokens: Vec<u32>,
    /// The index in `entries` of each leaf, in lexical order.
    indices: Vec<usize>,
    /// Tokens of the longest entry.
    depth_max: usize,
    highest_token: u32,
}

#[derive(Debug)]
struct Node {
    children: Range<usize>,
    /// The leaves below it, in lexical order.
    leaves: Range<usize>,
}

/// A walk through a trie that chooses distinct entries.
#[derive(Clone, Debug)]
pub struct TrieWalk {
    trie: Arc<Trie>,
    /// Entries to choose.
    count: usize,
    node: usize,
    /// The leaves of the entries chosen so far.
    chosen_leaves: Vec<usize>,
    /// The indices of the entries chosen so far.
    entries: Vec<usize>,
    /// The tokens of the children with a leaf that is not chosen; `None` if all children have one.
    open: Option<Vec<u32>>,
}

const ROOT: usize = 0;

// === impl Trie ===

impl Trie {
    /// The trie of `entries`, none of which may be a prefix of another.
    pub fn new(entries: &[Vec<u32>]) -> Result<Self, ConstraintError> {
        reject_empty(entries, "entry")?;
        let sorted = sorted(entries, "entry")?;
        let mut nodes = vec![Node { children: 0..0, leaves: 0..sorted.len() }];
        let mut tokens = vec![0];
        // The nodes of one depth are consecutive: at `deeper`, the next depth begins.
        let (mut at, mut depth, mut deeper) = (ROOT, 0, 1);
        while at < nodes.len() {
            if at == deeper {
                (depth, deeper) = (depth + 1, nodes.len());
            }
            let first = nodes.len();
            let mut rest = nodes[at].leaves.clone();
            while let Some(&token) = sorted.get(rest.start).and_then(|(_, word)| word.get(depth))
                && !rest.is_empty()
            {
                let end = rest.start
                    + sorted[rest.clone()].partition_point(|(_, word)| word[depth] <= token);
                nodes.push(Node { children: 0..0, leaves: rest.start..end });
                tokens.push(token);
                rest.start = end;
            }
            nodes[at].children = first..nodes.len();
            at += 1;
        }
        let depth_max = sorted.iter().map(|(_, word)| word.len()).max().unwrap_or(0);
        let indices = sorted.into_iter().map(|(index, _)| index).collect();
        let highest_token = tokens.iter().copied().max().unwrap_or(0);
        Ok(Self { nodes, tokens, indices, depth_max, highest_token })
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there is no entry: never, once it is built.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }
}

// === impl TrieWalk ===

impl TrieWalk {
    pub(super) fn new(trie: Arc<Trie>, count: usize) -> Result<Self, ConstraintError> {
        let max = trie.len();
        if count == 0 || count > max {
            return Err(ConstraintError::Range { what: "the count of entries", value: count, max });
        }
        let (chosen_leaves, entries) = (Vec::with_capacity(count), Vec::with_capacity(count));
        Ok(Self { trie, count, node: ROOT, chosen_leaves, entries, open: None })
    }

    pub(super) fn allowed(&self) -> &[u32] {
        match &self.open {
            Some(open) => open,
            None => &self.trie.tokens[self.trie.nodes[self.node].children.clone()],
        }
    }

    pub(super) fn advance(&mut self, token: u32) {
        let children = self.trie.nodes[self.node].children.clone();
        let child = self.trie.tokens[children.clone()].partition_point(|&other| other < token);
        self.node = children.start + child;
        let node = &self.trie.nodes[self.node];
        if node.children.is_empty() {
            let leaf = node.leaves.start;
            self.chosen_leaves.push(leaf);
            self.entries.push(self.trie.indices[leaf]);
            self.node = ROOT;
        }
        self.update_open();
    }

    /// The entries chosen so far.
    pub fn entries(&self) -> &[usize] {
        &self.entries
    }

    pub(super) fn tokens_max(&self) -> usize {
        self.count * self.trie.depth_max
    }

    pub(super) fn highest_token(&self) -> u32 {
        self.trie.highest_token
    }

    fn update_open(&mut self) {
        let chosen_of = |leaves: &Range<usize>| {
            self.chosen_leaves.iter().filter(|&leaf| leaves.contains(leaf)).count()
        };
        let node = &self.trie.nodes[self.node];
        self.open = if self.chosen_leaves.len() == self.count {
            Some(Vec::new())
        } else if chosen_of(&node.leaves) == 0 {
            None
        } else {
            let is_open = |&child: &usize| {
                let leaves = &self.trie.nodes[child].leaves;
                chosen_of(leaves) < leaves.len()
            };
            let children = node.children.clone().filter(is_open);
            Some(children.map(|child| self.trie.tokens[child]).collect())
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Allowed, Constraint, ConstraintError};
    use super::*;

    #[test]
    fn an_entry_is_not_chosen_twice() {
        let trie = Trie::new(&[vec![3, 1], vec![2, 5], vec![3, 4]]).unwrap();
        let mut walk = Constraint::entries(Arc::new(trie), 3).unwrap();
        let mut walked = |expected: &[u32], token| {
            assert_eq!(walk.allowed(), Allowed::Only(expected));
            walk.advance(token).unwrap();
            walk.chosen().to_vec()
        };
        assert_eq!(walked(&[2, 3], 3), [0_usize; 0]);
        assert_eq!(walked(&[1, 4], 4), [2]);
        assert_eq!(walked(&[2, 3], 2), [2]);
        assert_eq!(walked(&[5], 5), [2, 1]);
        assert_eq!(walked(&[3], 3), [2, 1]);
        assert_eq!(walked(&[1], 1), [2, 1, 0]);
        assert!(walk.is_done());
    }

    #[test]
    fn entries_may_differ_in_length() {
        let trie = Trie::new(&[vec![1], vec![2, 3, 4], vec![2, 3, 5]]).unwrap();
        assert_eq!((trie.len(), trie.depth_max), (3, 3));
        let walk = Constraint::entries(Arc::new(trie), 2).unwrap();
        assert_eq!(walk.parse(&[2, 3, 5, 1]), Some(vec![2, 0]));
        assert_eq!(walk.tokens_needed(), 6);
        assert_eq!(walk.highest_token(), 5);
    }

    #[test]
    fn entries_that_can_not_be_told_apart_are_rejected() {
        let error = |entries: &[Vec<u32>]| Trie::new(entries).map(drop).unwrap_err();
        assert_eq!(error(&[]), ConstraintError::Nothing("entry"));
        assert_eq!(error(&[vec![]]), ConstraintError::Empty { what: "entry", index: 0 });
        let prefix = ConstraintError::Prefix { what: "entry", first: 1, second: 0 };
        assert_eq!(error(&[vec![1, 2], vec![1]]), prefix);
        let trie = Arc::new(Trie::new(&[vec![1], vec![2]]).unwrap());
        for value in [0, 3] {
            let what = "the count of entries";
            let range = ConstraintError::Range { what, value, max: 2 };
            assert_eq!(Constraint::entries(trie.clone(), value).map(drop).unwrap_err(), range);
        }
    }
}
