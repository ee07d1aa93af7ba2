//! The scorer's network on a GPU, over `kernels/scorer.cu`: many slates at a time.
//!
//! Rows of items and reasons of cards are kept on the device, and the least recently used ones are evicted. A batch is one
//! upload (slots of rows, and the rows that are missing), two launches, two more if rows are uploaded, and one download.
//! It allocates nothing.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use super::batch::{
    BatchLists, CudaScorerLimits, CudaScorerTables, CudaSlate, Cursor, SlateBatch, card_row,
    item_row,
};
use super::device::{CudaError, Device, DeviceBuffer, Kernel, SCORER};
use super::interface::{
    CachedRow, CandidateWeight, CardRow, DevicePtr, EncodeHistories, EncodedEvent, EventTerm,
    FIRST, HISTORY_THREADS, HistoryWeight, ItemRow, Logit, Network, PatternShare, Role, SECOND,
    ScoreCandidates, SlotIndex, TILE, TILE_THREADS, UploadedRow, WARP, Width, WriteRows,
};
use super::words::{List, WordTable};
use crate::nn::fused::PaddedWidths;
use crate::nn::{DinShape, FusedDin, FusedScores, FusedShapeError, FusedSlate};
use std::ops::Range;
use std::sync::Arc;

/// Threads of a block that copies a row to its slot.
const ROW_THREADS: u32 = 128;

/// The scores of a slate.
#[derive(Debug, Default)]
pub struct CudaScores {
    /// Logits and attention, as the CPU returns them.
    pub scores: FusedScores,
    /// (N): the Rechead's `h_u · h_v`. 0 for inline items, whose vectors are not in the tables, and without a Rechead.
    pub rechead: Vec<f32>,
}

/// Why slates can't be scored on a GPU.
#[derive(Debug, thiserror::Error)]
pub enum CudaScorerError {
    /// A slate has another network's shape, or other tables.
    #[error(transparent)]
    Misfit(#[from] FusedShapeError),
    /// A shopper's vector has another Rechead's width.
    #[error("a shopper's vector has another width than the Rechead's")]
    Shopper,
    /// There are no kernels for the network.
    #[error("the target attention's second layer has {0} numbers, and a GPU has room for {SECOND}")]
    Attention(usize),
    /// A batch has no space for a single candidate.
    #[error("a batch on a GPU has to hold a slate of one candidate and the longest history")]
    Limits,
    /// The device refuses.
    #[error(transparent)]
    Device(#[from] CudaError),
}

/// A network that scores on a GPU.
#[derive(Debug)]
pub struct CudaScorer {
    fused: Arc<FusedDin>,
    tables: CudaScorerTables,
    device: Device,
    write_rows: Kernel<WriteRows>,
    encode_histories: Kernel<EncodeHistories>,
    score_candidates: Kernel<ScoreCandidates>,
    network: Network,
    history_weights: DeviceBuffer<HistoryWeight>,
    candidate_weights: DeviceBuffer<CandidateWeight>,
    items: DeviceBuffer<ItemRow>,
    cards: DeviceBuffer<CardRow>,
    encoded: DeviceBuffer<EncodedEvent>,
    terms: DeviceBuffer<EventTerm>,
    shares: DeviceBuffer<PatternShare>,
    batch: SlateBatch,
    upload: WordTable,
    /// The candidates' logits, then their Rechead scores, then their attention over reasons.
    out: DeviceBuffer<Logit>,
    found: Vec<f32>,
}

// === impl CudaScorer ===

impl CudaScorer {
    /// Loads a network onto the GPU of this number. Rows of tables are uploaded when they are first used.
    pub fn load(
        fused: Arc<FusedDin>,
        tables: CudaScorerTables,
        limits: CudaScorerLimits,
        ordinal: usize,
    ) -> Result<Self, CudaScorerError> {
        let shape = fused.shape().clone();
        if shape.attention[1] > SECOND as usize {
            return Err(CudaScorerError::Attention(shape.attention[1]));
        }
        let CudaScorerLimits { slates_max, candidates_max, rows_max, items_max, cards_max } =
            limits;
        let of_slate = shape.history + 1;
        if items_max.min(rows_max) < of_slate || slates_max.min(candidates_max).min(cards_max) < 1 {
            return Err(CudaScorerError::Limits);
        }
        let first = shape.attention[0].next_multiple_of(FIRST as usize);
        let columns = PaddedWidths { first, second: SECOND as usize };
        let device = Device::open(ordinal, SCORER)?;
        let events = slates_max * shape.history;
        let words = SlateBatch::words_max(limits, &shape, columns, &tables);
        let out = candidates_max * (2 + shape.reasons);
        let history_bytes = history_shared_numbers(&shape) * size_of::<f32>();
        let tile_bytes = tile_shared_numbers(&shape, columns) * size_of::<f32>();
        let scorer = Self {
            write_rows: device.kernel()?,
            encode_histories: device.kernel()?.with_shared(history_bytes)?,
            score_candidates: device.kernel()?.with_shared(tile_bytes)?,
            network: network(&shape, columns, tables.rechead_width()),
            history_weights: device.upload::<HistoryWeight>(&fused.plain_history(columns))?,
            candidate_weights: device
                .upload::<CandidateWeight>(&fused.plain_candidates(columns, FIRST as usize))?,
            items: device.zeroed(items_max * item_row(&shape, columns, &tables))?,
            cards: device.zeroed(cards_max * card_row(&shape))?,
            encoded: device.zeroed(events * shape.width)?,
            terms: device.zeroed(events * columns.first)?,
            shares: device.zeroed(slates_max * (shape.width + shape.head[0]))?,
            batch: SlateBatch::new(limits, &shape, columns, &tables),
            upload: WordTable::new(&device, words)?,
            out: device.zeroed(out)?,
            found: vec![0.0; out],
            fused,
            tables,
            device,
        };
        scorer.device.wait()?;
        Ok(scorer)
    }

    /// FusedScores slates in as many batches as they need. `scores` stays unchanged if a slate is refused.
    pub fn score(
        &mut self,
        slates: &[CudaSlate<'_>],
        scores: &mut [CudaScores],
    ) -> Result<(), CudaScorerError> {
        for slate in slates {
            self.check(slate)?;
        }
        let reasons = self.fused.shape().reasons;
        for (slate, scores) in slates.iter().zip(&mut *scores) {
            let count = slate.slate.candidates.len();
            scores.scores.logits.resize(count, 0.0);
            scores.scores.attention.resize(count * reasons, 0.0);
            scores.rechead.resize(count, 0.0);
        }
        let mut at = Cursor::default();
        loop {
            let next = self.batch.gather(slates, &self.fused, at);
            if self.batch.parts.is_empty() {
                return Ok(());
            }
            let lists = self.batch.lay_out(slates, &self.fused, &self.tables);
            if let Err(error) = self.compute(lists) {
                // Some rows may not have arrived.
                self.batch.forget();
                return Err(error.into());
            }
            self.copy_scores(lists.candidate_count, scores);
            at = next;
        }
    }

    fn check(&self, slate: &CudaSlate<'_>) -> Result<(), CudaScorerError> {
        let FusedSlate { items, reasons, .. } = slate.slate;
        let own = std::ptr::eq(items, Arc::as_ptr(&self.tables.items))
            && std::ptr::eq(reasons, Arc::as_ptr(&self.tables.reasons));
        if !own {
            return Err(FusedShapeError::Tables.into());
        }
        if !slate.shopper.is_empty() && slate.shopper.len() != self.tables.rechead_width() {
            return Err(CudaScorerError::Shopper);
        }
        Ok(self.fused.check(&slate.slate)?)
    }

    /// Computes the batch that was laid out.
    fn compute(&mut self, lists: BatchLists) -> Result<(), CudaError> {
        self.upload.upload(&self.device, &self.batch.words)?;
        let items = self.items.at(0).with_role();
        let (slots, count) = (lists.item_slots, lists.missing_items);
        self.write_rows(items, lists.item_rows, slots, count, self.item_row())?;
        let cards = self.cards.at(0).with_role();
        let (slots, count) = (lists.card_slots, lists.missing_cards);
        self.write_rows(cards, lists.card_rows, slots, count, card_row(self.fused.shape()))?;
        self.encode_histories(lists)?;
        self.score_candidates(lists)?;
        let numbers = lists.candidate_count * (2 + self.fused.shape().reasons);
        self.device.read(&self.out, &mut self.found[..numbers])?;
        self.device.wait()
    }

    /// Copies uploaded rows to their slots.
    fn write_rows(
        &self,
        table: DevicePtr<CachedRow>,
        rows: List<UploadedRow>,
        slots: List<SlotIndex>,
        count: usize,
        width: usize,
    ) -> Result<(), CudaError> {
        let (rows, slots) = (self.upload.at(rows), self.upload.at(slots));
        let arguments = WriteRows { table, rows, slots, width: Width::of(width) };
        // SAFETY: slots are in the table.
        unsafe { self.device.launch(&self.write_rows, [count, 1, 1], ROW_THREADS, &arguments) }
    }

    fn encode_histories(&self, lists: BatchLists) -> Result<(), CudaError> {
        let arguments = EncodeHistories {
            encoded: self.encoded.at(0),
            terms: self.terms.at(0),
            shares: self.shares.at(0),
            weights: self.history_weights.at(0),
            items: self.items.at(0),
            slates: self.list(lists.slates),
            events: self.list(lists.events),
            patterns: self.list(lists.patterns),
            network: self.network,
        };
        let grid = [self.batch.parts.len(), 1, 1];
        let kernel = &self.encode_histories;
        // SAFETY: there is space for every slate of a batch, and slots of items are in their table.
        unsafe { self.device.launch(kernel, grid, HISTORY_THREADS, &arguments) }
    }

    fn score_candidates(&self, lists: BatchLists) -> Result<(), CudaError> {
        let count = lists.candidate_count;
        let arguments = ScoreCandidates {
            logits: self.out.at(0),
            rechead: self.out.at(count).with_role(),
            attention: self.out.at(2 * count).with_role(),
            weights: self.candidate_weights.at(0),
            items: self.items.at(0),
            cards: self.cards.at(0),
            encoded: self.encoded.at(0),
            terms: self.terms.at(0),
            shares: self.shares.at(0),
            shoppers: self.list(lists.shoppers),
            slates: self.list(lists.slates),
            tiles: self.list(lists.tiles),
            candidates: self.list(lists.candidates),
            features: self.list(lists.features),
            overlaps: self.list(lists.overlaps),
            network: self.network,
        };
        let grid = [lists.tile_count, 1, 1];
        let kernel = &self.score_candidates;
        // SAFETY: there is space for every candidate of a batch, and slots of items and cards are in their tables.
        unsafe { self.device.launch(kernel, grid, TILE_THREADS, &arguments) }
    }

    fn list<R: Role>(&self, list: List<R>) -> DevicePtr<R> {
        self.upload.at(list)
    }

    /// Numbers of an item's row.
    fn item_row(&self) -> usize {
        let Network { width, columns, head_first, rechead, .. } = self.network;
        (width + columns + head_first + rechead) as usize
    }

    /// Copies the batch's scores to those of each slate.
    fn copy_scores(&self, count: usize, scores: &mut [CudaScores]) {
        let reasons = self.fused.shape().reasons;
        let (logits, rest) = self.found.split_at(count);
        let (rechead, attention) = rest.split_at(count);
        let mut first = 0;
        for part in &self.batch.parts {
            let (scores, to) = (&mut scores[part.slate], part.candidates.clone());
            let from = first..first + to.len();
            scores.scores.logits[to.clone()].copy_from_slice(&logits[from.clone()]);
            scores.rechead[to.clone()].copy_from_slice(&rechead[from.clone()]);
            let numbers = |rows: &Range<usize>| rows.start * reasons..rows.end * reasons;
            scores.scores.attention[numbers(&to)].copy_from_slice(&attention[numbers(&from)]);
            first = from.end;
        }
    }
}

fn network(shape: &DinShape, columns: PaddedWidths, rechead: usize) -> Network {
    Network {
        width: shape.width as u32,
        text: shape.text as u32,
        reasons: shape.reasons as u32,
        features: shape.features as u32,
        history: shape.history as u32,
        ages: shape.ages as u32,
        kinds: shape.kinds as u32,
        heads: shape.heads as u32,
        layers: shape.depth() as u32,
        ffn: shape.ffn as u32,
        columns: columns.first as u32,
        head_first: shape.head[0] as u32,
        head_second: shape.head[1] as u32,
        rechead: rechead as u32,
    }
}

/// Rounds a count of numbers up to whole 16 bytes: `whole` of the kernels.
fn whole(count: usize) -> usize {
    count.next_multiple_of(4)
}

/// Numbers in shared memory of a block of `encode_histories`: events, their norms and attention's output; projections or
/// hidden numbers; and the attention weights of each warp.
fn history_shared_numbers(shape: &DinShape) -> usize {
    let events = shape.history * whole(shape.width);
    let projected = whole(shape.history * ((3 * shape.width) | 1).max(whole(shape.ffn)));
    let weights = (HISTORY_THREADS / WARP) as usize * shape.history;
    2 * events + events.max(whole(shape.text)) + projected + weights
}

/// Numbers in shared memory of a block of `score_candidates`: weights, numbers of each candidate, and events with their
/// terms.
fn tile_shared_numbers(shape: &DinShape, columns: PaddedWidths) -> usize {
    let PaddedWidths { first, second } = columns;
    let weights = first * shape.width + first * second + 2 * second;
    let inputs = whole(3 * shape.width + shape.features) + whole(shape.head[0]) + shape.head[1];
    let of_candidate = inputs + shape.width + first + shape.history + shape.heads * shape.reasons;
    weights + TILE as usize * of_candidate + (shape.history | 1) * (shape.width + first)
}
