//! What a batch of slates brings to a device: numbers that say where things lie, and the rows that don't lie there yet.

use super::scorer::{CudaScorerLimits, CudaScorerTables, CudaSlate};
use super::slots::{Place, Slots};
use crate::nn::fused::PaddedWidths;
use crate::nn::{DinShape, FusedDin, ItemRef};
use std::ops::Range;

/// Candidates of a block: `TILE` of the kernels.
pub(super) const TILE: usize = 10;
/// A slate without a pattern: `NO_PATTERN` of the kernels.
const NO_PATTERN: u32 = u32::MAX;

/// The batch at hand. Its memory is used again and again, and never grows.
#[derive(Debug)]
pub(super) struct Batch {
    bounds: CudaScorerLimits,
    columns: PaddedWidths,
    items: Slots,
    cards: Slots,
    pub pieces: Vec<Piece>,
    /// (item, age, kind) of each event, and (item, card, reasons) of each candidate.
    events: Vec<[u32; 3]>,
    candidates: Vec<[u32; 3]>,
    wanted_items: Vec<(u32, Source)>,
    /// The place of a card, and its first reason.
    wanted_cards: Vec<[u32; 2]>,
    /// All that is uploaded.
    pub numbers: Vec<u32>,
}

/// The candidates of a slate that are scored in this batch.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub job: usize,
    pub candidates: Range<usize>,
    first_event: u32,
}

/// How far a list of jobs is done: up to this candidate of this job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    job: usize,
    candidate: usize,
}

/// Where lists begin in what was uploaded.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lists {
    pub slates: usize,
    pub tiles: usize,
    pub events: usize,
    pub candidates: usize,
    pub item_places: usize,
    pub card_places: usize,
    pub patterns: usize,
    pub shoppers: usize,
    pub features: usize,
    pub overlaps: usize,
    pub item_rows: usize,
    pub card_rows: usize,
    /// How long some of them are.
    pub tile_count: usize,
    pub candidate_count: usize,
    pub wanted_items: usize,
    pub wanted_cards: usize,
}

/// Whose row has to be brought.
#[derive(Clone, Copy, Debug)]
enum Source {
    Event(usize, usize),
    Candidate(usize, usize),
}

// === impl Source ===

impl Source {
    fn item<'a>(self, jobs: &[CudaSlate<'a>]) -> ItemRef<'a> {
        match self {
            Self::Event(job, event) => jobs[job].slate.history[event].item,
            Self::Candidate(job, candidate) => jobs[job].slate.candidates[candidate].item,
        }
    }
}

// === impl Batch ===

impl Batch {
    pub fn new(
        bounds: CudaScorerLimits,
        shape: &DinShape,
        columns: PaddedWidths,
        tables: &CudaScorerTables,
    ) -> Self {
        let CudaScorerLimits { slates_max, candidates_max, rows_max, items_max, cards_max } =
            bounds;
        Self {
            bounds,
            columns,
            items: Slots::new(items_max, tables.items.len()),
            cards: Slots::new(cards_max, tables.reasons.len()),
            pieces: Vec::with_capacity(slates_max),
            events: Vec::with_capacity(slates_max * shape.history),
            candidates: Vec::with_capacity(candidates_max),
            wanted_items: Vec::with_capacity(rows_max),
            wanted_cards: Vec::with_capacity(rows_max),
            numbers: Vec::with_capacity(Self::numbers_max(bounds, shape, columns, tables)),
        }
    }

    /// Numbers that a batch brings at most.
    pub fn numbers_max(
        bounds: CudaScorerLimits,
        shape: &DinShape,
        columns: PaddedWidths,
        tables: &CudaScorerTables,
    ) -> usize {
        let CudaScorerLimits { slates_max, candidates_max, rows_max, .. } = bounds;
        let of_slate = 3 + 3 * shape.history + shape.text + tables.rechead_width();
        let of_candidate = 3 + shape.features + shape.reasons;
        let of_rows = 2 + item_row(shape, columns, tables) + card_row(shape);
        let tiles_max = slates_max + candidates_max.div_ceil(TILE);
        slates_max * of_slate + candidates_max * of_candidate + 3 * tiles_max + rows_max * of_rows
    }

    /// Takes candidates from here on until nothing more fits, and says where it stopped.
    pub fn gather(&mut self, jobs: &[CudaSlate<'_>], fused: &FusedDin, from: Cursor) -> Cursor {
        let mut at = from;
        self.items.begin();
        self.cards.begin();
        self.pieces.clear();
        self.events.clear();
        self.candidates.clear();
        self.wanted_items.clear();
        self.wanted_cards.clear();
        while let Some(job) = jobs.get(at.job) {
            let count = job.slate.candidates.len();
            let first = at.candidate;
            if first < count {
                let first_event = self.events.len();
                let fits =
                    self.pieces.len() < self.bounds.slates_max && self.take_events(job, at.job);
                while fits && at.candidate < count && self.take_candidate(job, at, fused) {
                    at.candidate += 1;
                }
                if at.candidate == first {
                    self.events.truncate(first_event);
                    break;
                }
                let (job, first_event) = (at.job, first_event as u32);
                self.pieces.push(Piece { job, candidates: first..at.candidate, first_event });
                if at.candidate < count {
                    break;
                }
            }
            at = Cursor { job: at.job + 1, candidate: 0 };
        }
        at
    }

    /// Forgets which rows lie on the device.
    pub fn forget(&mut self) {
        self.items.forget();
        self.cards.forget();
    }

    fn take_events(&mut self, job: &CudaSlate<'_>, number: usize) -> bool {
        job.slate.history.iter().enumerate().all(|(event, row)| {
            let item = self.take_item(row.item, Source::Event(number, event));
            self.events.extend(item.map(|item| [item, row.age.into(), row.kind.into()]));
            item.is_some()
        })
    }

    fn take_candidate(&mut self, job: &CudaSlate<'_>, at: Cursor, fused: &FusedDin) -> bool {
        if self.candidates.len() == self.bounds.candidates_max {
            return false;
        }
        let row = &job.slate.candidates[at.candidate];
        let reads = fused.shape().ablation.reasons && !row.reasons.is_empty();
        let card = if reads { self.take_card(row.reasons.start) } else { Some(0) };
        let item = self.take_item(row.item, Source::Candidate(at.job, at.candidate));
        let (Some(item), Some(card)) = (item, card) else { return false };
        let reasons = if reads { row.reasons.len() as u32 } else { 0 };
        self.candidates.push([item, card, reasons]);
        true
    }

    /// The place of an item's row.
    fn take_item(&mut self, item: ItemRef<'_>, source: Source) -> Option<u32> {
        let more = self.wanted_items.len() < self.bounds.rows_max;
        let place = match item {
            ItemRef::Row(row) => self.items.find(row, more)?,
            ItemRef::Inline(_) if more => Place::Wanted(self.items.take()?),
            ItemRef::Inline(_) => return None,
        };
        if let Place::Wanted(place) = place {
            self.wanted_items.push((place, source));
        }
        Some(place.slot())
    }

    /// The place of the reasons from this one on.
    fn take_card(&mut self, first: u32) -> Option<u32> {
        let more = self.wanted_cards.len() < self.bounds.rows_max;
        let place = self.cards.find(first, more)?;
        if let Place::Wanted(place) = place {
            self.wanted_cards.push([place, first]);
        }
        Some(place.slot())
    }

    /// Lays out what the kernels read: one list after the other.
    pub fn lay_out(
        &mut self,
        jobs: &[CudaSlate<'_>],
        fused: &FusedDin,
        tables: &CudaScorerTables,
    ) -> Lists {
        let (shape, meeting) = (fused.shape(), tables.rechead_width());
        let out = &mut self.numbers;
        out.clear();
        let mut lists = Lists {
            candidate_count: self.candidates.len(),
            wanted_items: self.wanted_items.len(),
            wanted_cards: self.wanted_cards.len(),
            ..Lists::default()
        };
        let mut patterns = 0;
        for piece in &self.pieces {
            let slate = &jobs[piece.job].slate;
            let pattern = slate.pattern.map_or(NO_PATTERN, |_| patterns);
            patterns += u32::from(slate.pattern.is_some());
            out.extend([piece.first_event, slate.history.len() as u32, pattern]);
        }
        lists.tiles = out.len();
        let mut first = 0;
        for (slate, piece) in self.pieces.iter().enumerate() {
            let end = first + piece.candidates.len();
            for from in (first..end).step_by(TILE) {
                out.extend([slate, from, TILE.min(end - from)].map(|number| number as u32));
                lists.tile_count += 1;
            }
            first = end;
        }
        lists.events = out.len();
        out.extend(self.events.as_flattened());
        lists.candidates = out.len();
        out.extend(self.candidates.as_flattened());
        lists.item_places = out.len();
        out.extend(self.wanted_items.iter().map(|(place, _)| place));
        lists.card_places = out.len();
        out.extend(self.wanted_cards.iter().map(|[place, _]| place));
        lists.patterns = out.len();
        for piece in &self.pieces {
            out.extend(bits(jobs[piece.job].slate.pattern.unwrap_or_default()));
        }
        lists.shoppers = out.len();
        for piece in &self.pieces {
            let end = out.len() + meeting;
            out.extend(bits(jobs[piece.job].shopper));
            out.resize(end, 0);
        }
        lists.features = out.len();
        for candidate in candidates(&self.pieces, jobs) {
            out.extend(bits(candidate.features));
        }
        lists.overlaps = out.len();
        for candidate in candidates(&self.pieces, jobs) {
            let end = out.len() + shape.reasons;
            out.extend(bits(candidate.overlap));
            out.resize(end, 0);
        }
        lists.item_rows = out.len();
        for (_, source) in &self.wanted_items {
            let item = source.item(jobs);
            fused.write_item(&tables.items, item, self.columns, out);
            let end = out.len() + meeting;
            if let ItemRef::Row(row) = item {
                out.extend(bits(&tables.rechead_items[row as usize * meeting..][..meeting]));
            }
            out.resize(end, 0);
        }
        lists.card_rows = out.len();
        for [_, first] in &self.wanted_cards {
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
    pieces: &[Piece],
    jobs: &[CudaSlate<'a>],
) -> impl Iterator<Item = &'a crate::nn::CandidateRow<'a>> {
    pieces.iter().flat_map(|piece| &jobs[piece.job].slate.candidates[piece.candidates.clone()])
}

fn bits(values: &[f32]) -> impl Iterator<Item = u32> + use<'_> {
    values.iter().map(|value| value.to_bits())
}
