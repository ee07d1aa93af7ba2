//! The scorer's network on a GPU, over `kernels/scorer.cu`: many slates at a time.
//!
//! The rows of items and the reasons of cards lie on the device, as many as were given room; those that were used
//! longest ago give way. A batch is one upload (what slates are made of by the places of rows, and the rows that don't
//! lie there yet), two launches, two more where rows are brought, and one download. Nothing is taken meanwhile.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use super::batch::{Batch, Cursor, Lists, TILE, card_row, item_row};
use super::device::{Argument, CudaError, Device, Kernel, SCORER, Sizes, Table};
use crate::nn::fused::PaddedWidths;
use crate::nn::{
    DinShape, FusedDin, FusedScores, FusedShapeError, FusedSlate, ItemTable, ReasonTable,
};
use std::sync::Arc;

/// Columns of the target attention's first layer that a thread has at a time, and the most of the second: `FIRST` and
/// `SECOND` of the kernels.
const FIRST: usize = 32;
const SECOND: usize = 16;
/// Threads of a block: `HISTORY_THREADS` and `TILE_THREADS` of the kernels, and those that bring a row.
const HISTORY_THREADS: u32 = 512;
const TILE_THREADS: u32 = 256;
const ROW_THREADS: u32 = 128;
const WARP: usize = 32;

/// How much a scorer has room for.
#[derive(Clone, Copy, Debug)]
pub struct CudaScorerLimits {
    /// Slates of a batch.
    pub slates_max: usize,
    /// Candidates of a batch, of all its slates.
    pub candidates_max: usize,
    /// Items, and as many cards, that one batch may bring.
    pub rows_max: usize,
    /// Items that lie on the device.
    pub items_max: usize,
    /// Cards that do: the reasons of one candidate.
    pub cards_max: usize,
}

/// What is known before a request.
#[derive(Clone, Debug)]
pub struct CudaScorerTables {
    /// The catalogue's items.
    pub items: Arc<ItemTable>,
    /// The reasons on their cards.
    pub reasons: Arc<ReasonTable>,
    /// (items, d): the items' vectors in the Rechead's space; empty where there is no Rechead.
    pub rechead_items: Arc<[f32]>,
}

/// A slate to be scored.
#[derive(Clone, Copy, Debug)]
pub struct CudaSlate<'a> {
    /// The slate: of the scorer's own tables.
    pub slate: FusedSlate<'a>,
    /// (d): the shopper's vector in the Rechead's space; empty if there is none.
    pub shopper: &'a [f32],
}

/// What comes of it.
#[derive(Debug, Default)]
pub struct CudaScores {
    /// As the processor gives them.
    pub scores: FusedScores,
    /// (N): `h_u · h_v`; 0 for items that came inline, whose vectors only those have who just made them, and where
    /// there is no Rechead.
    pub rechead: Vec<f32>,
}

/// Why slates can't be scored on a device.
#[derive(Debug, thiserror::Error)]
pub enum CudaScorerError {
    /// One of them is not of this network, or of other tables.
    #[error(transparent)]
    Misfit(#[from] Misfit),
    /// A shopper's vector is of another space.
    #[error("a shopper's vector has another width than the Rechead's")]
    Shopper,
    /// There are no kernels for the network.
    #[error("the target attention's second layer has {0} numbers, and a GPU has room for {SECOND}")]
    Attention(usize),
    /// A batch may be too small to hold anything.
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
    place_rows: Kernel,
    encode_histories: Kernel,
    score_candidates: Kernel,
    sizes: Sizes,
    /// Weights for histories, and for candidates.
    of_histories: Table<f32>,
    of_candidates: Table<f32>,
    items: Table<f32>,
    cards: Table<f32>,
    /// What histories come to.
    encoded: Table<f32>,
    terms: Table<f32>,
    shares: Table<f32>,
    batch: Batch,
    uploaded: Table<u32>,
    /// Of each candidate its logit; then of each what the Rechead says; then of each its attention.
    out: Table<f32>,
    found: Vec<f32>,
}

// === impl CudaScorerTables ===

impl CudaScorerTables {
    /// Width of the vectors in the Rechead's space.
    pub(super) fn meeting(&self) -> usize {
        self.rechead_items.len().checked_div(self.items.len()).unwrap_or(0)
    }
}

// === impl CudaScorer ===

impl CudaScorer {
    /// Brings a network to the GPU of this number. Rows follow when they are asked for.
    pub fn load(
        fused: Arc<FusedDin>,
        tables: CudaScorerTables,
        bounds: CudaScorerLimits,
        ordinal: usize,
    ) -> Result<Self, CudaScorerError> {
        let shape = fused.shape().clone();
        if shape.attention[1] > SECOND {
            return Err(CudaScorerError::Attention(shape.attention[1]));
        }
        let CudaScorerLimits { slates_max, candidates_max, rows_max, items_max, cards_max } =
            bounds;
        let of_a_slate = shape.history + 1;
        if items_max.min(rows_max) < of_a_slate || slates_max.min(candidates_max).min(cards_max) < 1
        {
            return Err(CudaScorerError::Limits);
        }
        let columns =
            PaddedWidths { first: shape.attention[0].next_multiple_of(FIRST), second: SECOND };
        let device = Device::open(ordinal, SCORER)?;
        let table = |values: &[f32]| {
            let mut table = device.zeroed(values.len())?;
            device.write(&mut table, 0, values)?;
            // What is being copied must not change.
            device.wait()?;
            Ok::<_, CudaError>(table)
        };
        let histories = slates_max * shape.history;
        let numbers = Batch::numbers_max(bounds, &shape, columns, &tables);
        let out = candidates_max * (2 + shape.reasons);
        let (history_room, tile_room) = (history_room(&shape), tile_room(&shape, columns));
        let scorer = Self {
            place_rows: device.kernel("place_rows")?,
            encode_histories: device.kernel_that_shares("encode_histories", history_room)?,
            score_candidates: device.kernel_that_shares("score_candidates", tile_room)?,
            sizes: sizes(&shape, columns, tables.rechead_width()),
            of_histories: table(&fused.plain_history(columns))?,
            of_candidates: table(&fused.plain_candidates(columns, FIRST))?,
            items: device.zeroed(items_max * item_row(&shape, columns, &tables))?,
            cards: device.zeroed(cards_max * card_row(&shape))?,
            encoded: device.zeroed(histories * shape.width)?,
            terms: device.zeroed(histories * columns.first)?,
            shares: device.zeroed(slates_max * (shape.width + shape.head[0]))?,
            batch: Batch::new(bounds, &shape, columns, &tables),
            uploaded: device.zeroed(numbers)?,
            out: device.zeroed(out)?,
            found: vec![0.0; out],
            fused,
            tables,
            device,
        };
        scorer.device.wait()?;
        Ok(scorer)
    }

    /// Scores slates, as many batches as they need. `done` is left as it was when one of them does not fit.
    pub fn score(
        &mut self,
        jobs: &[CudaSlate<'_>],
        done: &mut [CudaScores],
    ) -> Result<(), CudaScorerError> {
        for job in jobs {
            self.check(job)?;
        }
        let reasons = self.fused.shape().reasons;
        for (job, done) in jobs.iter().zip(&mut *done) {
            let count = job.slate.candidates.len();
            done.scores.logits.resize(count, 0.0);
            done.scores.attention.resize(count * reasons, 0.0);
            done.rechead.resize(count, 0.0);
        }
        let mut at = Cursor::default();
        loop {
            let next = self.batch.gather(jobs, &self.fused, at);
            if self.batch.pieces.is_empty() {
                return Ok(());
            }
            let lists = self.batch.lay_out(jobs, &self.fused, &self.tables);
            if let Err(error) = self.compute(lists) {
                // Nobody knows which rows arrived.
                self.batch.forget();
                return Err(error.into());
            }
            self.hand_out(lists.candidate_count, done);
            at = next;
        }
    }

    fn check(&self, job: &CudaSlate<'_>) -> Result<(), CudaScorerError> {
        let FusedSlate { items, reasons, .. } = job.slate;
        let own = std::ptr::eq(items, Arc::as_ptr(&self.tables.items))
            && std::ptr::eq(reasons, Arc::as_ptr(&self.tables.reasons));
        if !own {
            return Err(FusedShapeError::Tables.into());
        }
        if !job.shopper.is_empty() && job.shopper.len() != self.tables.rechead_width() {
            return Err(CudaScorerError::Shopper);
        }
        Ok(self.fused.check(&job.slate)?)
    }

    /// Computes what was laid out.
    fn compute(&mut self, lists: Lists) -> Result<(), CudaError> {
        let Self { device, batch, uploaded, .. } = self;
        device.write(uploaded, 0, &batch.numbers)?;
        let (items, cards) = (&self.items, &self.cards);
        let of_item = [lists.item_rows, lists.item_places, lists.wanted_items];
        self.place(items, of_item, self.item_row())?;
        let of_card = [lists.card_rows, lists.card_places, lists.wanted_cards];
        self.place(cards, of_card, card_row(self.fused.shape()))?;

        let at = |list: usize| Argument::Table(self.uploaded.at(list));
        let arguments = [
            Argument::Table(self.encoded.at(0)),
            Argument::Table(self.terms.at(0)),
            Argument::Table(self.shares.at(0)),
            Argument::Table(self.of_histories.at(0)),
            Argument::Table(self.items.at(0)),
            at(lists.slates),
            at(lists.events),
            at(lists.patterns),
            Argument::Sizes(self.sizes),
        ];
        let grid = [self.batch.pieces.len(), 1, 1];
        // SAFETY: the arguments of `encode_histories`; there is room for every slate of a batch, and places of items lie
        // within their table.
        unsafe { self.device.launch(&self.encode_histories, grid, HISTORY_THREADS, &arguments)? };

        let count = lists.candidate_count;
        let arguments = [
            Argument::Table(self.out.at(0)),
            Argument::Table(self.out.at(count)),
            Argument::Table(self.out.at(2 * count)),
            Argument::Table(self.of_candidates.at(0)),
            Argument::Table(self.items.at(0)),
            Argument::Table(self.cards.at(0)),
            Argument::Table(self.encoded.at(0)),
            Argument::Table(self.terms.at(0)),
            Argument::Table(self.shares.at(0)),
            at(lists.shoppers),
            at(lists.slates),
            at(lists.tiles),
            at(lists.candidates),
            at(lists.features),
            at(lists.overlaps),
            Argument::Sizes(self.sizes),
        ];
        let grid = [lists.tile_count, 1, 1];
        // SAFETY: the arguments of `score_candidates`; there is room for every candidate of a batch, and places of items
        // and cards lie within their tables.
        unsafe { self.device.launch(&self.score_candidates, grid, TILE_THREADS, &arguments)? };
        let numbers = count * (2 + self.fused.shape().reasons);
        self.device.read(&self.out, &mut self.found[..numbers])?;
        self.device.wait()
    }

    /// Brings rows to their places.
    fn place(
        &self,
        table: &Table<f32>,
        [rows, places, count]: [usize; 3],
        width: usize,
    ) -> Result<(), CudaError> {
        let arguments = [
            Argument::Table(table.at(0)),
            Argument::Table(self.uploaded.at(rows)),
            Argument::Table(self.uploaded.at(places)),
            Argument::Count(width as u32),
        ];
        // SAFETY: the arguments of `place_rows`; places lie within the table.
        unsafe { self.device.launch(&self.place_rows, [count, 1, 1], ROW_THREADS, &arguments) }
    }

    fn item_row(&self) -> usize {
        let Sizes { width, columns, head_first, meeting, .. } = self.sizes;
        (width + columns + head_first + meeting) as usize
    }

    /// Gives each slate what was found for it.
    fn hand_out(&self, count: usize, done: &mut [CudaScores]) {
        let reasons = self.fused.shape().reasons;
        let (logits, rest) = self.found.split_at(count);
        let (met, attention) = rest.split_at(count);
        let mut first = 0;
        for piece in &self.batch.pieces {
            let (done, to) = (&mut done[piece.job], piece.candidates.clone());
            let from = first..first + to.len();
            done.scores.logits[to.clone()].copy_from_slice(&logits[from.clone()]);
            done.rechead[to.clone()].copy_from_slice(&met[from.clone()]);
            let numbers = |rows: &std::ops::Range<usize>| rows.start * reasons..rows.end * reasons;
            done.scores.attention[numbers(&to)].copy_from_slice(&attention[numbers(&from)]);
            first = from.end;
        }
    }
}

fn sizes(shape: &DinShape, columns: PaddedWidths, meeting: usize) -> Sizes {
    Sizes {
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
        meeting: meeting as u32,
    }
}

/// Numbers of whole 16 bytes that hold as many: `whole` of the kernels.
fn whole(count: usize) -> usize {
    count.next_multiple_of(4)
}

/// Numbers that a block of `encode_histories` shares: events, normed and seen; projected or hidden; and the attention of each
/// warp.
fn history_room(shape: &DinShape) -> usize {
    let events = shape.history * whole(shape.width);
    let projected = whole(shape.history * ((3 * shape.width) | 1).max(whole(shape.ffn)));
    let odds = HISTORY_THREADS as usize / WARP * shape.history;
    2 * events + events.max(whole(shape.text)) + projected + odds
}

/// Numbers that a block of `score_candidates` shares: weights, what each candidate has, and events with their terms.
fn tile_room(shape: &DinShape, columns: PaddedWidths) -> usize {
    let PaddedWidths { first, second } = columns;
    let weights = first * shape.width + first * second + 2 * second;
    let inputs = whole(3 * shape.width + shape.features) + whole(shape.head[0]) + shape.head[1];
    let of_candidate = inputs + shape.width + first + shape.history + shape.heads * shape.reasons;
    weights + TILE * of_candidate + (shape.history | 1) * (shape.width + first)
}
