//! The scorer's model: a catalogue, its cards and the network, ready to score slates.

use super::features::{Candidate, Context, FEATURES};
use super::rechead::{Head, Written};
use super::{Prior, Reader};
use crate::bundle::{CardReason, Cards, Catalog, HistoryEvent, REASONS_MAX, UserCard, inline_text};
use crate::domain::{ItemText, Timestamp, UserId};
use crate::nn::{
    self, CandidateRow, Fused, HistoryRow, ItemRef, ItemRow, ItemTable, Misfit, ReasonTable,
    Rechead,
};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// What the scorer knows, and the network that weighs it.
#[derive(Debug)]
pub struct Model {
    /// The items.
    pub catalog: Arc<Catalog>,
    /// Their cards.
    pub cards: Cards,
    /// Texts to vectors.
    pub reader: Arc<Reader>,
    pub(super) network: Arc<Fused>,
    pub(super) head: Option<Head>,
    pub(super) items: Arc<ItemTable>,
    pub(super) reasons: Arc<ReasonTable>,
}

/// A slate to be scored.
#[derive(Clone, Copy, Debug)]
pub struct Slate<'a> {
    /// For whom: their own reasons are left out.
    pub user: &'a UserId,
    /// When.
    pub now: Timestamp,
    /// What they did before, oldest first.
    pub history: &'a [HistoryEvent],
    /// The vector of their pattern, if they have one.
    pub pattern: Option<&'a [f32]>,
    /// Their vector in the Rechead's space, if it was made before.
    pub head: Option<&'a [f32]>,
    /// The item that they are expected to want, if somebody said so.
    pub expects: Option<u32>,
    /// What they may be shown.
    pub candidates: &'a [Entry],
}

/// A candidate as the scorer knows it.
#[derive(Clone, Debug)]
pub enum Entry {
    /// An item of the catalogue, by number.
    Known(u32),
    /// An item that only comes inline.
    Inline(ItemText),
}

/// What the scorer says of a slate.
#[derive(Clone, Debug, Default)]
pub struct Scores {
    /// A logit per candidate.
    pub logits: Vec<f32>,
    /// The Rechead's score per candidate; empty where the bundle has none.
    pub rechead: Vec<f32>,
    /// What that counts.
    rechead_weight: f32,
    /// How much each candidate's reasons were attended to: (candidates, [`REASONS_MAX`]).
    attention: Vec<f32>,
}

/// Memory that one owner uses again and again.
#[derive(Debug)]
pub struct Desk {
    scratch: nn::Scratch,
    scores: nn::Scores,
    sheet: Sheet,
}

/// What is written down about a slate before it is scored.
#[derive(Debug, Default)]
pub(super) struct Sheet {
    history: Vec<HistoryRow<'static>>,
    features: Vec<[f32; FEATURES]>,
    /// (candidates, [`REASONS_MAX`])
    overlaps: Vec<[f32; REASONS_MAX]>,
    /// Of candidates that come inline.
    inline: Vec<Option<ItemRow>>,
}

// === impl Model ===

impl Model {
    /// Projects the cards' vectors once, so that a request only pays for what is its own.
    pub fn new(
        catalog: Arc<Catalog>,
        cards: Cards,
        reader: Arc<Reader>,
        network: Arc<Fused>,
    ) -> Result<Self, Misfit> {
        let items = Arc::new(network.items(&cards.item_vectors)?);
        let reasons = Arc::new(network.reasons(&cards.reason_vectors)?);
        Ok(Self { catalog, cards, reader, network, head: None, items, reasons })
    }

    /// The same model with a Rechead, whose score counts this much.
    pub fn with_head(mut self, network: Rechead, weight: f32) -> Self {
        self.head = Some(Head::of(network, weight, &self.cards));
        self
    }

    /// The vector of a shopper in the Rechead's space: empty where there is no Rechead.
    pub fn shopper(&self, written: Written<'_>) -> Vec<f32> {
        let head = self.head.as_ref();
        head.map_or_else(Vec::new, |head| head.shopper(written, &self.cards))
    }

    /// Whether the card of this user was written with the Rechead at hand.
    pub fn is_of_this_head(&self, user: &UserCard) -> bool {
        self.head.as_ref().is_none_or(|head| head.wrote(user, &self.cards))
    }

    /// What the Rechead says of an item to the shopper with this vector.
    pub fn rechead(&self, shopper: &[f32], item: u32) -> Option<f32> {
        Some(self.head.as_ref()?.score(shopper, item))
    }

    /// Memory for [`Self::score`].
    pub fn desk(&self) -> Desk {
        Desk {
            scratch: self.network.scratch(),
            scores: nn::Scores::default(),
            sheet: Sheet::default(),
        }
    }

    /// The reasons on a candidate's card.
    pub fn reasons(&self, entry: &Entry) -> &[CardReason] {
        match entry {
            Entry::Known(number) => &self.cards.items[*number as usize].reasons,
            Entry::Inline(_) => &[],
        }
    }

    /// Scores a slate. A candidate's score does not depend on the order or the company that it
    /// comes in.
    pub fn score(&self, slate: &Slate<'_>, desk: &mut Desk) -> Scores {
        let Desk { scratch, scores, sheet } = desk;
        self.describe(slate, sheet);
        let candidates = self.candidates(slate, sheet);
        let rechead = self.heard(slate);
        self.network
            .score(&self.asked(slate, sheet, &candidates), scratch, scores)
            .expect("rows made from the model's own tables fit its network");
        self.told(scores, candidates.len(), rechead)
    }

    /// What the network is asked.
    pub(super) fn asked<'a>(
        &'a self,
        slate: &Slate<'a>,
        sheet: &'a Sheet,
        candidates: &'a [CandidateRow<'a>],
    ) -> nn::Slate<'a> {
        nn::Slate {
            items: &self.items,
            reasons: &self.reasons,
            history: &sheet.history,
            pattern: slate.pattern.filter(|pattern| !pattern.is_empty()),
            candidates,
        }
    }

    /// What it said.
    pub(super) fn told(&self, scores: &nn::Scores, count: usize, rechead: Vec<f32>) -> Scores {
        Scores {
            logits: scores.logits[..count].to_vec(),
            rechead,
            rechead_weight: self.head.as_ref().map_or(0.0, Head::weight),
            attention: scores.attention[..count * REASONS_MAX].to_vec(),
        }
    }

    /// What the Rechead says of each candidate: nothing where there is none.
    fn heard(&self, slate: &Slate<'_>) -> Vec<f32> {
        let Some(head) = &self.head else { return Vec::new() };
        let shopper = self.shopper_of(slate);
        let score = |entry: &Entry| match entry {
            Entry::Known(number) => head.score(&shopper, *number),
            Entry::Inline(text) => self.heard_inline(head, &shopper, text),
        };
        slate.candidates.iter().map(score).collect()
    }

    /// The same of a candidate that comes inline.
    pub(super) fn heard_inline(&self, head: &Head, shopper: &[f32], text: &ItemText) -> f32 {
        head.score_text(shopper, &self.reader.vector(&inline_text(text)))
    }

    /// The vector of a slate's shopper, made now if it was not made before.
    pub(super) fn shopper_of<'a>(&self, slate: &Slate<'a>) -> Cow<'a, [f32]> {
        let made = slate.head.filter(|made| !made.is_empty()).map(Cow::Borrowed);
        made.unwrap_or_else(|| {
            let Slate { history, pattern: thought, expects: answer, .. } = *slate;
            Cow::Owned(self.shopper(Written { history, thought, answer }))
        })
    }

    /// Writes down the events, and the features and the overlaps of every candidate.
    pub(super) fn describe(&self, slate: &Slate<'_>, sheet: &mut Sheet) {
        let month = crate::bundle::month(slate.now);
        let context = Context::new(&self.catalog, &self.cards, slate.history, slate.now, month);
        let Sheet { history, features, overlaps: all_overlaps, inline } = sheet;
        history.clear();
        history.extend(context.history().iter().map(|past| HistoryRow {
            item: ItemRef::Row(past.item),
            age: context.age(past),
            kind: past.kind as u8,
        }));
        inline.clear();
        inline.extend(slate.candidates.iter().map(|entry| self.inline_row(entry)));
        features.clear();
        all_overlaps.clear();
        for entry in slate.candidates {
            let mut overlaps = [0.0; REASONS_MAX];
            let reasons = self.reasons(entry);
            for (overlap, reason) in overlaps.iter_mut().zip(reasons) {
                *overlap = context.overlap(reason);
            }
            let candidate = match entry {
                Entry::Known(number) => {
                    Candidate::Known(*number, &self.cards.items[*number as usize])
                }
                Entry::Inline(text) => Candidate::Inline(text),
            };
            features.push(context.features(candidate, &overlaps[..reasons.len()]));
            for (overlap, reason) in overlaps.iter_mut().zip(reasons) {
                if Context::is_own(reason, slate.user) {
                    *overlap = nn::LEFT_OUT;
                }
            }
            all_overlaps.push(overlaps);
        }
    }

    /// The candidates as they were described.
    pub(super) fn candidates<'a>(
        &self,
        slate: &Slate<'a>,
        sheet: &'a Sheet,
    ) -> Vec<CandidateRow<'a>> {
        let row = |(row, entry): (usize, &Entry)| {
            let item = match (entry, &sheet.inline[row]) {
                (Entry::Known(number), _) => ItemRef::Row(*number),
                (Entry::Inline(_), Some(item)) => ItemRef::Inline(item),
                (Entry::Inline(_), None) => unreachable!("every inline item was given a row"),
            };
            let overlaps = &sheet.overlaps[row][..self.reasons(entry).len()];
            let (reasons, overlap) = self.standing(entry, overlaps);
            CandidateRow { item, features: &sheet.features[row], reasons, overlap }
        };
        slate.candidates.iter().enumerate().map(row).collect()
    }

    fn inline_row(&self, entry: &Entry) -> Option<ItemRow> {
        let Entry::Inline(text) = entry else { return None };
        let vector = self.reader.vector(&inline_text(text));
        let row = self.network.item_inline(&vector);
        Some(row.expect("the encoder's vectors are as wide as the network's texts"))
    }

    /// The rows of a candidate's reasons and their overlaps: none where all are left out.
    fn standing<'d>(&self, entry: &Entry, overlaps: &'d [f32]) -> (Range<u32>, &'d [f32]) {
        match entry {
            Entry::Known(number) if overlaps.iter().any(|&overlap| overlap != nn::LEFT_OUT) => {
                let first = self.cards.items[*number as usize].first_reason;
                (first..first + overlaps.len() as u32, overlaps)
            }
            _ => (0..0, &[]),
        }
    }
}

// === impl Scores ===

impl Scores {
    /// The final score of the candidate in this row, which came at this place.
    pub fn fused(&self, row: usize, prior: Prior, place: usize) -> f32 {
        let rechead = self.rechead.get(row).map_or(0.0, |score| self.rechead_weight * score);
        prior.fuse(self.logits[row], place) + rechead
    }

    /// How much the reasons of the candidate in this row were attended to: by their places on its
    /// card, summing to one, or all zero where there are none.
    pub fn attention(&self, row: usize) -> &[f32] {
        &self.attention[row * REASONS_MAX..][..REASONS_MAX]
    }
}
