//! What is uploaded for a training batch: lists, one after the other, in one table.

use super::super::device::{CudaError, Device};
use super::super::interface::{
    BranchChoice, DevicePtr, LogitPair, OldPolicy, Position, Role, RowIndex, Segment, TargetWeight,
    TokenId,
};
use super::super::words::{List, WordTable};
use super::scratch::READS_A_ROW;
use crate::nn::RowTargets;
use crate::nn::decoder::TokenBatch;

/// Words for each row, at most: a token, a position, a segment, the reads of a row, two targets and their weights, an old
/// policy, a pair, and a choice, of which two rows have one at most.
const WORDS_A_ROW: usize = 3 + READS_A_ROW + 2 * 2 + OldPolicy::WORDS + LogitPair::WORDS + 2;

/// The batch that was uploaded.
#[derive(Debug)]
pub(super) struct TrainUpload {
    words: Vec<u32>,
    table: WordTable,
    pub sequences: usize,
    pub length: usize,
    pub tokens: List<TokenId>,
    pub positions: List<Position>,
    pub segments: List<Segment>,
    /// Rows that the losses read: those of imitated tokens, those of generated tokens, and the ends of branches.
    pub picked: List<RowIndex>,
    pub picked_count: usize,
    /// The target of each row of a token, and its weight in the loss.
    pub targets: List<TokenId>,
    pub weights: List<TargetWeight>,
    /// The old policies of generated tokens, whose targets come after the imitated ones.
    old_policies: List<OldPolicy>,
    imitated: usize,
    /// The logit that is read of each end of a branch.
    pub pairs: List<LogitPair>,
    pub choices: List<BranchChoice>,
    losses: usize,
}

// === impl TrainUpload ===

impl TrainUpload {
    pub fn new(device: &Device, rows: usize) -> Result<Self, CudaError> {
        Ok(Self {
            words: Vec::with_capacity(rows * WORDS_A_ROW),
            table: WordTable::new(device, rows * WORDS_A_ROW)?,
            sequences: 0,
            length: 0,
            tokens: List::default(),
            positions: List::default(),
            segments: List::default(),
            picked: List::default(),
            picked_count: 0,
            targets: List::default(),
            weights: List::default(),
            old_policies: List::default(),
            imitated: 0,
            pairs: List::default(),
            choices: List::default(),
            losses: 0,
        })
    }

    /// Lays out the lists of a batch and its targets.
    pub fn fill(&mut self, batch: &TokenBatch, targets: &RowTargets<'_>) {
        (self.sequences, self.length) = (batch.sequences, batch.length);
        let words = &mut self.words;
        words.clear();
        self.tokens = List::from(words.len());
        words.extend(&batch.tokens);
        self.positions = List::from(words.len());
        words.extend(&batch.positions);
        self.segments = List::from(words.len());
        words.extend(&batch.segments);
        let picked_begin = words.len();
        self.picked = List::from(picked_begin);
        words.extend(targets.tokens.iter().flat_map(|text| text.rows));
        words.extend(targets.branches.iter().flat_map(|choice| &choice.rows));
        self.picked_count = words.len() - picked_begin;
        let targets_begin = words.len();
        self.targets = List::from(targets_begin);
        words.extend(targets.tokens.iter().flat_map(|text| text.targets.tokens));
        self.losses = words.len() - targets_begin + targets.branches.len();
        self.weights = List::from(words.len());
        for text in &targets.tokens {
            let normaliser = text.targets.normaliser as f32;
            words.extend(text.targets.weights.iter().map(|weight| (weight / normaliser).to_bits()));
        }
        self.imitated = targets.tokens[0].rows.len();
        self.old_policies = List::from(words.len());
        for token in targets.tokens.iter().flat_map(|text| text.targets.rollout) {
            let [low, high] = token.ratio_bounds;
            words.extend(OldPolicy { logprob: token.old_logprob, low, high }.words());
        }
        self.pairs = List::from(words.len());
        let tokens = targets.branches.iter().flat_map(|of| of.rows.iter().map(|_| of.label_token));
        words.extend((0..).zip(tokens).flat_map(|(row, token)| LogitPair { row, token }.words()));
        self.choices = List::from(words.len());
        let mut end = 0;
        for choice in targets.branches {
            let begin = end;
            end += choice.rows.len() as u32;
            words.extend(BranchChoice { begin, end, token: choice.label_token }.words());
        }
    }

    pub fn upload(&mut self, device: &Device) -> Result<(), CudaError> {
        self.table.upload(device, &self.words)
    }

    /// Rows of the batch, padding included.
    pub fn rows(&self) -> usize {
        self.sequences * self.length
    }

    /// Losses of the batch: one for each target token and for each choice.
    pub fn losses(&self) -> usize {
        self.losses
    }

    /// The old policies from this target on; null, if it is imitated.
    pub fn old_policies_from(&self, target: usize) -> DevicePtr<OldPolicy> {
        let generated = target.checked_sub(self.imitated);
        generated.map_or(DevicePtr::NULL, |index| self.at(self.old_policies).record(index))
    }

    /// The address of a list.
    pub fn at<R: Role>(&self, list: List<R>) -> DevicePtr<R> {
        self.table.at(list)
    }
}
