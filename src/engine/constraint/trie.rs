//! Entries of a catalogue.

use super::{ConstraintError, refuse_empty, sorted};
use std::ops::Range;
use std::sync::Arc;

/// A prefix trie of a catalogue's entries (semantic ids, say), built once and shared.
///
/// Nodes are numbered breadth first, so the children of a node are neighbours, and the tokens
/// that lead to them are one slice.
#[derive(Debug)]
pub struct Trie {
    nodes: Vec<Node>,
    /// The token that leads to each node.
    tokens: Vec<u32>,
    /// The number that each leaf was given as.
    numbers: Vec<usize>,
    /// Tokens of the longest entry.
    depth_max: usize,
    highest: u32,
}

#[derive(Debug)]
struct Node {
    children: Range<usize>,
    /// The entries below it, in lexical order.
    leaves: Range<usize>,
}

/// A walk through a trie that comes by no entry twice.
#[derive(Clone, Debug)]
pub struct TrieWalk {
    trie: Arc<Trie>,
    count: usize,
    node: usize,
    taken: Vec<usize>,
    entries: Vec<usize>,
    /// The children that still lead somewhere, if they are not all.
    open: Option<Vec<u32>>,
}

const ROOT: usize = 0;

// === impl Trie ===

impl Trie {
    /// The trie of `entries`, of which none may be how another begins.
    pub fn new(entries: &[Vec<u32>]) -> Result<Self, ConstraintError> {
        refuse_empty(entries, "entry")?;
        let sorted = sorted(entries, "entry")?;
        let mut nodes = vec![Node { children: 0..0, leaves: 0..sorted.len() }];
        let mut tokens = vec![0];
        // The nodes of one depth lie together: when `at` comes to `deeper`, a depth begins.
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
        let numbers = sorted.into_iter().map(|(number, _)| number).collect();
        let highest = tokens.iter().copied().max().unwrap_or(0);
        Ok(Self { nodes, tokens, numbers, depth_max, highest })
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there is none: never, once it is built.
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }
}

// === impl TrieWalk ===

impl TrieWalk {
    pub(super) fn new(trie: Arc<Trie>, count: usize) -> Result<Self, ConstraintError> {
        let max = trie.len();
        if count == 0 || count > max {
            return Err(ConstraintError::Range { what: "the count of entries", value: count, max });
        }
        let (taken, entries) = (Vec::with_capacity(count), Vec::with_capacity(count));
        Ok(Self { trie, count, node: ROOT, taken, entries, open: None })
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
            self.taken.push(leaf);
            self.entries.push(self.trie.numbers[leaf]);
            self.node = ROOT;
        }
        self.refresh();
    }

    /// The entries so far.
    pub fn entries(&self) -> &[usize] {
        &self.entries
    }

    pub(super) fn tokens_max(&self) -> usize {
        self.count * self.trie.depth_max
    }

    pub(super) fn highest(&self) -> u32 {
        self.trie.highest
    }

    fn refresh(&mut self) {
        let taken_of =
            |leaves: &Range<usize>| self.taken.iter().filter(|&leaf| leaves.contains(leaf)).count();
        let node = &self.trie.nodes[self.node];
        self.open = if self.taken.len() == self.count {
            Some(Vec::new())
        } else if taken_of(&node.leaves) == 0 {
            None
        } else {
            let leads_on = |&child: &usize| {
                let leaves = &self.trie.nodes[child].leaves;
                taken_of(leaves) < leaves.len()
            };
            let children = node.children.clone().filter(leads_on);
            Some(children.map(|child| self.trie.tokens[child]).collect())
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Allowed, Constraint, ConstraintError};
    use super::*;

    #[test]
    fn an_entry_is_not_met_twice() {
        let trie = Trie::new(&[vec![3, 1], vec![2, 5], vec![3, 4]]).unwrap();
        let mut walk = Constraint::entries(Arc::new(trie), 3).unwrap();
        let mut walked = |expected: &[u32], token| {
            assert_eq!(walk.allowed(), Allowed::Only(expected));
            walk.advance(token).unwrap();
            walk.named().to_vec()
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
        assert_eq!(walk.read(&[2, 3, 5, 1]), Some(vec![2, 0]));
        assert_eq!(walk.tokens_needed(), 6);
        assert_eq!(walk.highest(), 5);
    }

    #[test]
    fn catalogues_that_could_not_be_read_are_refused() {
        let refused = |entries: &[Vec<u32>]| Trie::new(entries).map(drop).unwrap_err();
        assert_eq!(refused(&[]), ConstraintError::Nothing("entry"));
        assert_eq!(refused(&[vec![]]), ConstraintError::Empty { what: "entry", index: 0 });
        let prefix = ConstraintError::Prefix { what: "entry", first: 1, second: 0 };
        assert_eq!(refused(&[vec![1, 2], vec![1]]), prefix);
        let trie = Arc::new(Trie::new(&[vec![1], vec![2]]).unwrap());
        for value in [0, 3] {
            let what = "the count of entries";
            let range = ConstraintError::Range { what, value, max: 2 };
            assert_eq!(Constraint::entries(trie.clone(), value).map(drop).unwrap_err(), range);
        }
    }
}
