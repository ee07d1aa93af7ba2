//! What a batch of slates uploads: the slots of the rows that it uses, and the rows that are not on the device yet.

use super::interface::{
    CandidateSlots, CandidateTile, Feature, NO_PATTERN, Overlap, PatternVector, ShopperVector,
    SlateEvent, SlateEvents, SlotIndex, TILE, UploadedRow,
};
use super::slots::{RowSlot, RowSlots};
use super::words::List;
use crate::nn::fused::PaddedWidths;
use crate::nn::{DinShape, FusedDin, FusedSlate, ItemRef, ItemTable, ReasonTable};
use std::ops::Range;
use std::sync::Arc;

/// The sizes of a scorer's buffers on a GPU.
#[derive(Clone, Copy, Debug)]
pub struct CudaScorerLimits {
    /// Slates of a batch.
    pub slates_max: usize,
    /// Candidates of all slates of a batch.
    pub candidates_max: usize,
    /// Items that a batch may upload. It may upload as many cards, too.
    pub rows_max: usize,
    /// Items kept on the device.
    pub items_max: usize,
    /// Cards kept on the device, each with the reasons of one candidate.
    pub cards_max: usize,
}

/// Tables that do not depend on a request.
#[derive(Clone, Debug)]
pub struct CudaScorerTables {
    /// The catalogue's items.
    pub items: Arc<ItemTable>,
    /// The reasons on their cards.
    pub reasons: Arc<ReasonTable>,
    /// (items, d): the items' Rechead vectors; empty without a Rechead.
    pub rechead_items: Arc<[f32]>,
}

/// A slate to be scored.
#[derive(Clone, Copy, Debug)]
pub struct CudaSlate<'a> {
    /// The slate, over the scorer's own tables.
    pub slate: FusedSlate<'a>,
    /// (d): the shopper's Rechead vector; empty if there is none.
    pub shopper: &'a [f32],
}

/// The slates of one batch. Its memory is reused, and never grows.
#[derive(Debug)]
pub(super) struct SlateBatch {
    limits: CudaScorerLimits,
    /// The padded widths of the target attention, whose first layer is part of an item's row.
    columns: PaddedWidths,
    items: RowSlots,
    /// Each card is known by the row of its first reason.
    cards: RowSlots,
    pub parts: Vec<SlatePart>,
    events: Vec<SlateEvent>,
    candidates: Vec<CandidateSlots>,
    /// The slot of each item that is uploaded, and the item.
    missing_items: Vec<(u32, ItemUse)>,
    /// The slot of each card that is uploaded, and its first reason.
    missing_cards: Vec<(u32, u32)>,
    /// The 32-bit words to upload.
    pub words: Vec<u32>,
}

/// The candidates of a slate that are scored in this batch.
#[derive(Clone, Debug)]
pub(super) struct SlatePart {
    pub slate: usize,
    pub candidates: Range<usize>,
    first_event: u32,
}

/// The next candidate to be scored: an index into the slates, and one into that slate's candidates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    slate: usize,
    candidate: usize,
}

/// Where the lists of a batch begin in its upload, and their lengths.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BatchLists {
    pub slates: List<SlateEvents>,
    pub tiles: List<CandidateTile>,
    pub events: List<SlateEvent>,
    pub candidates: List<CandidateSlots>,
    pub item_slots: List<SlotIndex>,
    pub card_slots: List<SlotIndex>,
    pub patterns: List<PatternVector>,
    pub shoppers: List<ShopperVector>,
    pub features: List<Feature>,
    pub overlaps: List<Overlap>,
    pub item_rows: List<UploadedRow>,
    pub card_rows: List<UploadedRow>,
    pub tile_count: usize,
    pub candidate_count: usize,
    pub missing_items: usize,
    pub missing_cards: usize,
}

/// Where an item is used: the index of a slate, and that of an event or a candidate in it.
#[derive(Clone, Copy, Debug)]
enum ItemUse {
    Event(usize, usize),
    Candidate(usize, usize),
}

// === impl CudaScorerTables ===

impl CudaScorerTables {
    /// Width of the Rechead vectors.
    pub(super) fn rechead_width(&self) -> usize {
        self.rechead_items.len().checked_div(self.items.len()).unwrap_or(0)
    }
}

// === impl ItemUse ===

impl ItemUse {
    fn item<'a>(self, slates: &[CudaSlate<'a>]) -> ItemRef<'a> {
        match self {
            Self::Event(slate, event) => slates[slate].slate.history[event].item,
            Self::Candidate(slate, candidate) => slates[slate].slate.candidates[candidate].item,
        }
    }
}

// === impl SlateBatch ===

impl SlateBatch {
    pub fn new(
        limits: CudaScorerLimits,
        shape: &DinShape,
        columns: PaddedWidths,
        tables: &CudaScorerTables,
    ) -> Self {
        let CudaScorerLimits { slates_max, candidates_max, rows_max, items_max, cards_max } =
            limits;
        Self {
            limits,
            columns,
            items: RowSlots::new(items_max, tables.items.len()),
            cards: RowSlots::new(cards_max, tables.reasons.len()),
            parts: Vec::with_capacity(slates_max),
            events: Vec::with_capacity(slates_max * shape.history),
            candidates: Vec::with_capacity(candidates_max),
            missing_items: Vec::with_capacity(rows_max),
            missing_cards: Vec::with_capacity(rows_max),
            words: Vec::with_capacity(Self::words_max(limits, shape, columns, tables)),
        }
    }

    /// Words that a batch uploads, at most.
    pub fn words_max(
        limits: CudaScorerLimits,
        shape: &DinShape,
        columns: PaddedWidths,
        tables: &CudaScorerTables,
    ) -> usize {
        let CudaScorerLimits { slates_max, candidates_max, rows_max, .. } = limits;
        let of_events = SlateEvent::WORDS * shape.history;
        let of_slate = SlateEvents::WORDS + of_events + shape.text + tables.rechead_width();
        let of_candidate = CandidateSlots::WORDS + shape.features + shape.reasons;
        let of_rows = 2 + item_row(shape, columns, tables) + card_row(shape);
        let tiles_max = slates_max + candidates_max.div_ceil(TILE as usize);
        slates_max * of_slate
            + candidates_max * of_candidate
            + CandidateTile::WORDS * tiles_max
            + rows_max * of_rows
    }

    /// Takes candidates from here on until nothing more fits, and returns the next one.
    pub fn gather(&mut self, slates: &[CudaSlate<'_>], fused: &FusedDin, from: Cursor) -> Cursor {
        let mut at = from;
        self.items.begin();
        self.cards.begin();
        self.parts.clear();
        self.events.clear();
        self.candidates.clear();
        self.missing_items.clear();
        self.missing_cards.clear();
        while let Some(slate) = slates.get(at.slate) {
            let count = slate.slate.candidates.len();
            let first = at.candidate;
            if first < count {
                let first_event = self.events.len();
                let fits =
                    self.parts.len() < self.limits.slates_max && self.take_events(slate, at.slate);
                while fits && at.candidate < count && self.take_candidate(slate, at, fused) {
                    at.candidate += 1;
                }
                if at.candidate == first {
                    self.events.truncate(first_event);
                    break;
                }
                let (candidates, first_event) = (first..at.candidate, first_event as u32);
                self.parts.push(SlatePart { slate: at.slate, candidates, first_event });
                if at.candidate < count {
                    break;
                }
            }
            at = Cursor { slate: at.slate + 1, candidate: 0 };
        }
        at
    }

    /// Forgets which rows are on the device.
    pub fn forget(&mut self) {
        self.items.forget();
        self.cards.forget();
    }

    fn take_events(&mut self, slate: &CudaSlate<'_>, number: usize) -> bool {
        slate.slate.history.iter().enumerate().all(|(event, row)| {
            let item = self.take_item(row.item, ItemUse::Event(number, event));
            let (age, kind) = (row.age.into(), row.kind.into());
            self.events.extend(item.map(|item| SlateEvent { item, age, kind }));
            item.is_some()
        })
    }

    fn take_candidate(&mut self, slate: &CudaSlate<'_>, at: Cursor, fused: &FusedDin) -> bool {
        if self.candidates.len() == self.limits.candidates_max {
            return false;
        }
        let row = &slate.slate.candidates[at.candidate];
        let reads = fused.shape().ablation.reasons && !row.reasons.is_empty();
        let card = if reads { self.take_card(row.reasons.start) } else { Some(0) };
        let item = self.take_item(row.item, ItemUse::Candidate(at.slate, at.candidate));
        let (Some(item), Some(card)) = (item, card) else { return false };
        let reasons = if reads { row.reasons.len() as u32 } else { 0 };
        self.candidates.push(CandidateSlots { item, card, reasons });
        true
    }

    /// The slot of an item's row; nothing, if no row or slot is left.
    fn take_item(&mut self, item: ItemRef<'_>, used: ItemUse) -> Option<u32> {
        let more = self.missing_items.len() < self.limits.rows_max;
        let slot = match item {
            ItemRef::Row(row) => self.items.find(row, more)?,
            ItemRef::Inline(_) if more => RowSlot::Missing(self.items.take()?),
            ItemRef::Inline(_) => return None,
        };
        if let RowSlot::Missing(slot) = slot {
            self.missing_items.push((slot, used));
        }
        Some(slot.index())
    }

    /// The slot of the card whose reasons begin here; nothing, if no row or slot is left.
    fn take_card(&mut self, first: u32) -> Option<u32> {
        let more = self.missing_cards.len() < self.limits.rows_max;
        let slot = self.cards.find(first, more)?;
        if let RowSlot::Missing(slot) = slot {
            self.missing_cards.push((slot, first));
        }
        Some(slot.index())
    }

    /// Lays out the lists that the kernels read.
    pub fn lay_out(
        &mut self,
        slates: &[CudaSlate<'_>],
        fused: &FusedDin,
        tables: &CudaScorerTables,
    ) -> BatchLists {
        let (shape, rechead) = (fused.shape(), tables.rechead_width());
        let out = &mut self.words;
        out.clear();
        let mut lists = BatchLists {
            candidate_count: self.candidates.len(),
            missing_items: self.missing_items.len(),
            missing_cards: self.missing_cards.len(),
            ..BatchLists::default()
        };
        let mut patterns = 0;
        for SlatePart { slate, first_event, .. } in &self.parts {
            let slate = &slates[*slate].slate;
            let pattern = slate.pattern.map_or(NO_PATTERN, |_| patterns);
            patterns += u32::from(slate.pattern.is_some());
            let events = slate.history.len() as u32;
            out.extend(SlateEvents { first_event: *first_event, events, pattern }.words());
        }
        lists.tiles = List::from(out.len());
        let mut first = 0;
        for (slate, part) in (0..).zip(&self.parts) {
            let end = first + part.candidates.len();
            for from in (first..end).step_by(TILE as usize) {
                let (first, count) = (from as u32, TILE.min((end - from) as u32));
                out.extend(CandidateTile { slate, first, count }.words());
                lists.tile_count += 1;
            }
            first = end;
        }
        lists.events = List::from(out.len());
        out.extend(self.events.iter().flat_map(|event| event.words()));
        lists.candidates = List::from(out.len());
        out.extend(self.candidates.iter().flat_map(|candidate| candidate.words()));
        lists.item_slots = List::from(out.len());
        out.extend(self.missing_items.iter().map(|(slot, _)| slot));
        lists.card_slots = List::from(out.len());
        out.extend(self.missing_cards.iter().map(|(slot, _)| slot));
        lists.patterns = List::from(out.len());
        for part in &self.parts {
            out.extend(bits(slates[part.slate].slate.pattern.unwrap_or_default()));
        }
        lists.shoppers = List::from(out.len());
        for part in &self.parts {
            extend_padded(out, slates[part.slate].shopper, rechead);
        }
        lists.features = List::from(out.len());
        for candidate in candidates(&self.parts, slates) {
            out.extend(bits(candidate.features));
        }
        lists.overlaps = List::from(out.len());
        for candidate in candidates(&self.parts, slates) {
            extend_padded(out, candidate.overlap, shape.reasons);
        }
        lists.item_rows = List::from(out.len());
        for (_, used) in &self.missing_items {
            let item = used.item(slates);
            fused.write_item(&tables.items, item, self.columns, out);
            let vector = match item {
                ItemRef::Row(row) => &tables.rechead_items[row as usize * rechead..][..rechead],
                ItemRef::Inline(_) => &[],
            };
            extend_padded(out, vector, rechead);
        }
        lists.card_rows = List::from(out.len());
        for (_, first) in &self.missing_cards {
            fused.write_reasons(&tables.reasons, *first, out);
        }
        lists
    }
}

/// Numbers of an item's row on the device.
pub(super) fn item_row(
    shape: &DinShape,
    columns: PaddedWidths,
    tables: &CudaScorerTables,
) -> usize {
    shape.width + columns.first + shape.head[0] + tables.rechead_width()
}

/// Numbers of a card's row: keys and values.
pub(super) fn card_row(shape: &DinShape) -> usize {
    shape.reasons * 2 * shape.width
}

fn candidates<'a>(
    parts: &[SlatePart],
    slates: &[CudaSlate<'a>],
) -> impl Iterator<Item = &'a crate::nn::CandidateRow<'a>> {
    parts.iter().flat_map(|part| &slates[part.slate].slate.candidates[part.candidates.clone()])
}

fn bits(values: &[f32]) -> impl Iterator<Item = u32> + use<'_> {
    values.iter().map(|value| value.to_bits())
}

/// Appends values, and zeros up to a width.
fn extend_padded(out: &mut Vec<u32>, values: &[f32], width: usize) {
    let end = out.len() + width;
    out.extend(bits(values));
    out.resize(end, 0);
}
