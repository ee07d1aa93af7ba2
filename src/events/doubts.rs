//! Which events may be in the store although their write failed?

use std::collections::VecDeque;
use std::ops::Range;

/// Failed writes that are remembered, at most: those before are forgotten first.
const RANGES_MAX: usize = 1_024;

/// The sequences of failed writes. Such a write may be on the disk all the same. Its events are not counted, so they are taken
/// anew when they come again.
#[derive(Debug, Default)]
pub(super) struct Doubts(VecDeque<Range<u64>>);

// === impl Doubts ===

impl Doubts {
    /// The write of these sequences failed. They are above all others.
    pub(super) fn add(&mut self, sequences: Range<u64>) {
        match self.0.back_mut() {
            Some(last) if last.end == sequences.start => last.end = sequences.end,
            _ => self.0.push_back(sequences),
        }
        if self.0.len() > RANGES_MAX {
            self.0.pop_front();
        }
    }

    /// Whether the write of this sequence failed.
    pub(super) fn has(&self, sequence: u64) -> bool {
        let before = self.0.partition_point(|range| range.end <= sequence);
        self.0.get(before).is_some_and(|range| range.contains(&sequence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_writes_are_told_from_others() {
        let mut doubts = Doubts::default();
        for range in [3..5, 5..6, 9..10] {
            doubts.add(range);
        }
        let found: Vec<u64> = (0..12).filter(|sequence| doubts.has(*sequence)).collect();
        assert_eq!(found, [3, 4, 5, 9]);
        assert_eq!(doubts.0.len(), 2);
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut doubts = Doubts::default();
        let last = 2 * RANGES_MAX as u64;
        (0..=last).step_by(2).for_each(|start| doubts.add(start..start + 1));
        assert!(!doubts.has(0) && doubts.has(2) && doubts.has(last));
    }
}
