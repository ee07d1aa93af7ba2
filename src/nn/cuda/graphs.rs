//! CUDA graphs of passes over decoding sequences: all launches of a pass become one.
//!
//! A pass in which every row is the next token of a sequence of its own is the same launches each time, over other
//! numbers. So it is captured once for each **bucket**, a number of rows, when the model is loaded. Later passes are
//! padded to the next bucket and replayed. Whatever differs between two passes of a bucket is uploaded.

use super::device::Graph;
use crate::nn::packed::PagedBatch;

/// There is a bucket for every number of rows up to this one, and then for powers of two.
const EXACT_MAX: usize = 8;

/// The captured graphs by bucket, in ascending order.
#[derive(Debug, Default)]
pub(super) struct Graphs {
    captured: Vec<(usize, Graph)>,
}

/// The buckets of passes with up to `most` rows, none of them larger than `rows_max`.
pub(super) fn buckets(most: usize, rows_max: usize) -> impl Iterator<Item = usize> {
    let largest = if most <= EXACT_MAX { most } else { most.next_power_of_two().min(rows_max) };
    let powers = (EXACT_MAX.ilog2() + 1..usize::BITS).map(|power| 1 << power);
    let up_to = powers.take_while(move |&rows| rows < largest);
    let last = (largest > EXACT_MAX).then_some(largest);
    (1..=largest.min(EXACT_MAX)).chain(up_to).chain(last)
}

/// Whether every row of a pass is a token of a sequence of its own, in pages that last: scratch begins at `pages`.
pub(super) fn decodes(pass: &PagedBatch, pages: usize) -> bool {
    let lasts = |page: u32| (page as usize) < pages;
    pass.groups.len() == pass.tokens.len() && pass.slots.iter().all(|slot| lasts(slot.page))
}

// === impl Graphs ===

impl Graphs {
    /// Adds the graph of a bucket that is larger than those before.
    pub fn add(&mut self, rows: usize, graph: Graph) {
        self.captured.push((rows, graph));
    }

    /// The smallest bucket for so many rows, and its graph.
    pub fn find(&self, rows: usize) -> Option<(usize, &Graph)> {
        let at = self.captured.partition_point(|(bucket, _)| *bucket < rows);
        self.captured.get(at).map(|(bucket, graph)| (*bucket, graph))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_exact_and_then_double() {
        let of = |most, rows_max| buckets(most, rows_max).collect::<Vec<_>>();
        assert!(of(0, 64).is_empty());
        assert_eq!(of(3, 64), [1, 2, 3]);
        assert_eq!(of(8, 64), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(of(9, 64)[7..], [8, 16]);
        assert_eq!(of(33, 512)[7..], [8, 16, 32, 64]);
        assert_eq!(of(33, 48)[7..], [8, 16, 32, 48]);
    }
}
