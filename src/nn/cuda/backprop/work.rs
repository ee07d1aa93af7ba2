//! What the way there and back writes to, taken once for the largest batch, and what is uploaded for the one at hand.

use super::super::device::{Address, CudaError, Device, Table};
use super::BackpropOptions;
use crate::nn::decoder::{DecoderConfig, TokenBatch, lora};
use crate::nn::{RowTargets, TokenTargets};
use half::bf16;

/// What a batch's kernels write to.
#[derive(Debug)]
pub(super) struct Work {
    pub rows_max: usize,
    pub length_max: usize,
    /// Rows whose logits there is room for.
    pub logit_rows: usize,
    /// What came into each layer, and what came out of the last.
    pub stream: Vec<Table<f32>>,
    /// The stream between a layer's attention and its MLP.
    pub middle: Table<f32>,
    /// What goes into attention, and into the MLP.
    pub normed: [Table<bf16>; 2],
    pub qkv: Table<f32>,
    /// Queries, keys and values, head by head, and what was attended to.
    pub queries: Table<bf16>,
    pub keys: Table<bf16>,
    pub values: Table<bf16>,
    pub seen: Table<bf16>,
    pub attended: Table<bf16>,
    pub gates_ups: Table<f32>,
    pub activated: Table<bf16>,
    /// What the first matrix of an adapter came to, and the gradient of that.
    pub low: Table<bf16>,
    pub low_back: Table<bf16>,
    /// Logits of rows over rows, or the gradient of shares; and shares, or the gradient of logits.
    pub scores: Table<f32>,
    pub shares: Table<bf16>,
    /// The gradient of the stream, and the same in 16 bits.
    pub back: Table<f32>,
    pub back_short: Table<bf16>,
    pub normed_back: Table<f32>,
    pub activated_back: Table<f32>,
    pub gates_ups_back: Table<bf16>,
    pub attended_back: Table<f32>,
    pub seen_back: Table<bf16>,
    /// Gradients of queries, keys and values, head by head; and of what projections came to.
    pub queries_back: Table<f32>,
    pub keys_back: Table<f32>,
    pub values_back: Table<f32>,
    pub qkv_back: Table<bf16>,
    pub logits: Table<f32>,
    pub logits_back: Table<bf16>,
    pub losses: Table<f32>,
    /// What inputs are left of, and the gradient that comes back to them, where some are left out.
    pub left: Option<(Table<bf16>, Table<f32>)>,
}

/// What was uploaded for a batch: lists, one after the other, in one table.
#[derive(Debug)]
pub(super) struct Plan {
    numbers: Vec<u32>,
    table: Table<u32>,
    pub sequences: usize,
    pub length: usize,
    pub tokens: usize,
    pub positions: usize,
    pub segments: usize,
    /// Rows that something is asked of: those that are followed by a token that counts, once for what is imitated and once
    /// for what was written, and then the ends of branches.
    pub wanted: usize,
    pub picked: usize,
    pub followers: usize,
    pub weights: usize,
    /// Of tokens that a model wrote itself, which come after those that it imitates, what is known of that.
    written: usize,
    imitated: usize,
    /// Of each end of a branch: its place among those, and the token that is asked for.
    pub pairs: usize,
    pub choices: usize,
    losses: usize,
}

/// Times that a row may be wanted: what follows it is imitated and was written, and it ends a branch.
const WANTED: usize = 3;
/// Numbers that are uploaded for a row, at most: a token, a position, a segment, that it is wanted, two followers and
/// their weights, what is known of one, a pair, and a choice, of which two rows have one at most.
const NUMBERS_A_ROW: usize = 3 + WANTED + 2 * 2 + WRITTEN + 2 + 2;
/// Numbers that are known of a token that was written: `Written` of the kernels.
const WRITTEN: usize = 3;

// === impl Work ===

impl Work {
    pub fn new(
        device: &Device,
        config: &DecoderConfig,
        options: BackpropOptions,
        adapters: &lora::LoraConfig,
    ) -> Result<Self, CudaError> {
        let BackpropOptions { rows_max: rows, length_max: length, logits_max, .. } = options;
        let DecoderConfig { width, mlp_width, vocabulary, layers, .. } = *config;
        let queries = config.heads * config.head_dim;
        let keys = config.kv_heads * config.head_dim;
        let all = queries + 2 * keys;
        let group = config.heads / config.kv_heads;
        let scores = logits_max.max(group * length * length).min(config.heads * rows * length);
        // The ends of branches have a score each as well.
        let scores = scores.max(rows);
        let logit_rows = (logits_max / vocabulary).clamp(1, rows);
        let exact = |numbers: usize| device.zeroed::<f32>(numbers);
        let short = |numbers: usize| device.zeroed::<bf16>(numbers);
        let widest = width.max(mlp_width).max(queries);
        let left = (adapters.dropout > 0.0)
            .then(|| Ok((short(rows * widest)?, exact(rows * widest)?)))
            .transpose()?;
        Ok(Self {
            rows_max: rows,
            length_max: length,
            logit_rows,
            stream: (0..=layers).map(|_| exact(rows * width)).collect::<Result<_, _>>()?,
            middle: exact(rows * width)?,
            normed: [short(rows * width)?, short(rows * width)?],
            qkv: exact(rows * all)?,
            queries: short(rows * queries)?,
            keys: short(rows * keys)?,
            values: short(rows * keys)?,
            seen: short(rows * queries)?,
            attended: short(rows * queries)?,
            gates_ups: exact(rows * 2 * mlp_width)?,
            activated: short(rows * mlp_width)?,
            low: short(rows * adapters.rank)?,
            low_back: short(rows * adapters.rank)?,
            scores: exact(scores)?,
            shares: short(scores)?,
            back: exact(rows * width)?,
            back_short: short(rows * width)?,
            normed_back: exact(rows * width)?,
            activated_back: exact(rows * mlp_width)?,
            gates_ups_back: short(rows * 2 * mlp_width)?,
            attended_back: exact(rows * queries)?,
            seen_back: short(rows * queries)?,
            queries_back: exact(rows * queries)?,
            keys_back: exact(rows * keys)?,
            values_back: exact(rows * keys)?,
            qkv_back: short(rows * all)?,
            logits: exact(logit_rows * vocabulary)?,
            logits_back: short(logit_rows * vocabulary)?,
            losses: exact(WANTED * rows)?,
            left,
        })
    }

    /// The gradient of the stream begins at nothing.
    pub fn clear(&mut self, device: &Device) -> Result<(), CudaError> {
        device.clear(&mut self.back)
    }
}

// === impl Plan ===

impl Plan {
    pub fn new(device: &Device, rows: usize) -> Result<Self, CudaError> {
        Ok(Self {
            numbers: Vec::with_capacity(rows * NUMBERS_A_ROW),
            table: device.zeroed(rows * NUMBERS_A_ROW)?,
            sequences: 0,
            length: 0,
            tokens: 0,
            positions: 0,
            segments: 0,
            wanted: 0,
            picked: 0,
            followers: 0,
            weights: 0,
            written: 0,
            imitated: 0,
            pairs: 0,
            choices: 0,
            losses: 0,
        })
    }

    pub fn fill(&mut self, batch: &TokenBatch, aims: &RowTargets<'_>) {
        (self.sequences, self.length) = (batch.sequences, batch.length);
        let numbers = &mut self.numbers;
        numbers.clear();
        let mut list = |values: &mut dyn Iterator<Item = u32>| {
            let at = numbers.len();
            numbers.extend(values);
            at
        };
        self.tokens = list(&mut batch.tokens.iter().copied());
        self.positions = list(&mut batch.positions.iter().copied());
        self.segments = list(&mut batch.segments.iter().copied());
        let followed = aims.tokens.iter().flat_map(|text| text.rows);
        let ends = aims.branches.iter().flat_map(|choice| &choice.rows);
        self.wanted = list(&mut followed.chain(ends).copied());
        self.followers =
            list(&mut aims.tokens.iter().flat_map(|text| text.targets.tokens).copied());
        self.picked = self.followers - self.wanted;
        let shares = aims.tokens.iter().flat_map(|TokenTargets { targets, .. }| {
            targets.weights.iter().map(|weight| (weight / targets.normaliser as f32).to_bits())
        });
        self.weights = list(&mut shares.into_iter());
        self.imitated = aims.tokens[0].rows.len();
        let written = aims.tokens.iter().flat_map(|text| text.targets.rollout);
        self.written = list(&mut written.flat_map(|of| {
            [of.old_logprob, of.ratio_bounds[0], of.ratio_bounds[1]].map(f32::to_bits)
        }));
        let asked = aims.branches.iter().flat_map(|of| of.rows.iter().map(|_| of.label_token));
        self.pairs = list(&mut (0..).zip(asked).flat_map(|(place, token)| [place, token]));
        let mut end = 0;
        self.choices = list(&mut aims.branches.iter().flat_map(|choice| {
            let begin = end;
            end += choice.rows.len() as u32;
            [begin, end, choice.label_token]
        }));
        self.losses = self.weights - self.followers + aims.branches.len();
    }

    pub fn upload(&mut self, device: &Device) -> Result<(), CudaError> {
        device.write(&mut self.table, 0, &self.numbers)
    }

    /// Losses that a batch has.
    pub fn losses(&self) -> usize {
        self.losses
    }

    /// What is known of how the follower at a place was written; 0 where it is imitated.
    pub fn written_at(&self, follower: usize) -> Address {
        let known = follower.checked_sub(self.imitated);
        known.map_or(0, |known| self.at(self.written + WRITTEN * known))
    }

    pub fn at(&self, place: usize) -> Address {
        self.table.at(place)
    }
}
