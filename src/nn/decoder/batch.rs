//! The rows of a training batch: tokens, positions and attention segments.

use candle_core::{Device, Error, Result, Tensor};

/// The segment of the trunk, to which all later rows of the sequence attend.
pub const TRUNK: u32 = 0;
/// The segment of padding rows, each of which attends to itself only.
pub const PADDING: u32 = u32::MAX;
/// Added to the logit of a masked key; its `exp` is zero in f32.
const MASKED_LOGIT: f32 = -1e9;

/// Sequences padded to one length.
///
/// A row attends to the earlier rows of the trunk and of its own segment. A sequence without branches is all trunk.
/// Each branch continues where the trunk ended, and gets the same outputs as in a sequence of the trunk and that branch
/// alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenBatch {
    /// Sequences.
    pub sequences: usize,
    /// Rows of each.
    pub length: usize,
    /// The token of each row, sequence by sequence.
    pub tokens: Vec<u32>,
    /// The position of each row.
    pub positions: Vec<u32>,
    /// [`TRUNK`], a branch from 1 on, or [`PADDING`].
    pub segments: Vec<u32>,
}

// === impl TokenBatch ===

impl TokenBatch {
    /// Plain sequences, padded to the longest.
    pub fn plain<T: AsRef<[u32]>>(sequences: &[T]) -> Self {
        let no_branches: &[&[u32]] = &[];
        let sequences: Vec<_> = sequences.iter().map(|text| (text.as_ref(), no_branches)).collect();
        Self::branched(&sequences)
    }

    /// Trunks with their branches, padded to the longest.
    pub fn branched<T: AsRef<[u32]>, B: AsRef<[u32]>>(sequences: &[(T, &[B])]) -> Self {
        let size = |(trunk, branches): &(T, &[B])| {
            let branches = branches.iter().map(|branch| branch.as_ref().len());
            trunk.as_ref().len() + branches.sum::<usize>()
        };
        let length = sequences.iter().map(size).max().unwrap_or(0);
        let mut batch = Self { sequences: sequences.len(), length, ..Self::default() };
        for (at, (trunk, branches)) in sequences.iter().enumerate() {
            let trunk = trunk.as_ref();
            batch.extend(trunk, 0, TRUNK);
            for (branch, segment) in branches.iter().zip(1..) {
                batch.extend(branch.as_ref(), trunk.len(), segment);
            }
            let missing = (at + 1) * length - batch.tokens.len();
            batch.extend(&vec![0; missing], 0, PADDING);
        }
        batch
    }

    fn extend(&mut self, tokens: &[u32], start: usize, segment: u32) {
        self.tokens.extend_from_slice(tokens);
        self.positions.extend((start as u32..).take(tokens.len()));
        self.segments.resize(self.tokens.len(), segment);
    }

    /// Checks that each row has a token, a position and a segment.
    pub fn check(&self) -> Result<()> {
        let rows = self.sequences.checked_mul(self.length).filter(|&rows| rows > 0);
        let lengths = [self.tokens.len(), self.positions.len(), self.segments.len()];
        if lengths.iter().all(|&length| Some(length) == rows) {
            return Ok(());
        }
        let (sequences, length) = (self.sequences, self.length);
        Err(Error::Msg(format!("{sequences} sequences of {length} rows are not {lengths:?} rows")))
    }

    /// `(sequences, 1, 1, length, length)`: the additive attention mask.
    pub(super) fn mask(&self, window: Option<usize>, device: &Device) -> Result<Tensor> {
        let mut mask = vec![MASKED_LOGIT; self.sequences * self.length * self.length];
        for (at, seen) in mask.chunks_exact_mut(self.length.max(1)).enumerate() {
            let first = at / self.length * self.length;
            for key in first..=at {
                if self.attends_to(at, key, window) {
                    seen[key - first] = 0.0;
                }
            }
        }
        Tensor::from_vec(mask, (self.sequences, 1, 1, self.length, self.length), device)
    }

    /// Whether a row attends to a key at or before it in its sequence.
    fn attends_to(&self, row: usize, key: usize, window: Option<usize>) -> bool {
        let segment = self.segments[key];
        let known = segment == TRUNK || segment == self.segments[row];
        let apart = self.positions[row].abs_diff(self.positions[key]) as usize;
        let near = window.is_none_or(|window| apart < window);
        key == row || known && near && self.segments[row] != PADDING
    }

    /// `(1 or sequences, length, 1, pairs)`: the cosines and sines of each row's angles.
    pub(super) fn rotations(
        &self,
        (frequencies, attention): &(Vec<f32>, f32),
        device: &Device,
    ) -> Result<[Tensor; 2]> {
        let angle = |&position| frequencies.iter().map(move |turn| position as f32 * turn);
        let angles: Vec<f32> = self.positions.iter().flat_map(angle).collect();
        let shape = (self.sequences, self.length, 1, frequencies.len());
        let tensor = |turn: fn(f32) -> f32| {
            let values = angles.iter().map(|&angle| turn(angle) * attention).collect();
            Tensor::from_vec(values, shape, device)
        };
        Ok([tensor(f32::cos)?, tensor(f32::sin)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_go_on_where_the_trunk_ends() {
        let branches: [&[u32]; 2] = [&[4, 5], &[6]];
        let batch =
            TokenBatch::branched(&[(&[1, 2, 3][..], &branches[..]), (&[7], &branches[1..])]);
        assert_eq!((batch.sequences, batch.length), (2, 6));
        assert_eq!(batch.tokens, [1, 2, 3, 4, 5, 6, 7, 6, 0, 0, 0, 0]);
        assert_eq!(batch.positions, [0, 1, 2, 3, 4, 3, 0, 1, 0, 1, 2, 3]);
        let p = PADDING;
        assert_eq!(batch.segments, [0, 0, 0, 1, 1, 2, 0, 1, p, p, p, p]);
        batch.check().unwrap();
    }

    #[test]
    fn a_row_sees_the_trunk_and_its_own_branch_within_the_window() {
        let branches: [&[u32]; 2] = [&[4, 5], &[6]];
        let batch = TokenBatch::branched(&[(&[1, 2, 3][..], &branches[..])]);
        let seen = |window, row: usize| -> Vec<usize> {
            (0..=row).filter(|&key| batch.attends_to(row, key, window)).collect()
        };
        assert_eq!(seen(None, 2), [0, 1, 2]);
        assert_eq!(seen(None, 4), [0, 1, 2, 3, 4]);
        assert_eq!(seen(None, 5), [0, 1, 2, 5]);
        assert_eq!(seen(Some(2), 4), [3, 4]);
        assert_eq!(seen(Some(2), 5), [2, 5]);
    }

    #[test]
    fn rows_that_do_not_fill_the_sequences_are_refused() {
        assert!(TokenBatch::default().check().is_err());
        let mut batch = TokenBatch::plain(&[[1, 2]]);
        batch.check().unwrap();
        batch.positions.pop();
        assert!(batch.check().is_err());
    }
}
