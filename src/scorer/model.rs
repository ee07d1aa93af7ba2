//! The scorer's model: a catalogue, its cards and the network, ready to score slates.

use super::features::{
    AGE_BUCKETS, CandidateItem, FEATURE_COUNT, FeatureContext, FeatureVector, HistoryCounts,
};
use super::rechead::{RecheadScorer, ShopperTexts};
use super::{PositionPenalty, TextReader};
use crate::bundle::{
    CardReason, Cards, Catalog, HISTORY_LEN, HistoryEvent, REASONS_MAX, UserCard, inline_text,
};
use crate::domain::{EventKind, ItemText, Timestamp, UserId};
use crate::nn::text::TEXT_WIDTH;
use crate::nn::{
    self, CandidateRow, DinShape, FusedDin, FusedShapeError, HistoryRow, InlineItem, ItemRef,
    ItemTable, ReasonTable, Rechead,
};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// What the scorer knows, and the network that weighs it.
#[derive(Debug)]
pub struct ScorerModel {
    /// The items.
    pub catalog: Arc<Catalog>,
    /// Their cards.
    pub cards: Cards,
    /// Texts to vectors.
    pub reader: Arc<TextReader>,
    pub(super) network: Arc<FusedDin>,
    pub(super) rechead: Option<RecheadScorer>,
    pub(super) items: Arc<ItemTable>,
    pub(super) reasons: Arc<ReasonTable>,
}

/// A slate to be scored.
#[derive(Clone, Copy, Debug)]
pub struct ScorerSlate<'a> {
    /// For whom: their own reasons are left out.
    pub user: &'a UserId,
    /// When.
    pub now: Timestamp,
    /// What they did before, oldest first.
    pub history: &'a [HistoryEvent],
    /// The vector of their pattern, if they have one.
    pub pattern: Option<&'a [f32]>,
    /// Their vector in the Rechead's space, if it was made before.
    pub rechead: Option<&'a [f32]>,
    /// The item that they are expected to want, if somebody said so.
    pub expected_item: Option<u32>,
    /// The counts of the history, if they were made before.
    pub counts: Option<&'a Arc<HistoryCounts>>,
    /// What they may be shown.
    pub candidates: &'a [SlateItem],
}

/// A candidate as the scorer knows it.
#[derive(Clone, Debug)]
pub enum SlateItem {
    /// An item of the catalogue, by number.
    Known(u32),
    /// An item that only comes inline.
    Inline(ItemText),
}

/// What the scorer says of a slate.
#[derive(Clone, Debug, Default)]
pub struct SlateScores {
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
pub struct ScoringScratch {
    network: nn::FusedScratch,
    scores: nn::FusedScores,
    inputs: NetworkInputs,
}

/// What is written down about a slate before it is scored.
#[derive(Debug, Default)]
pub(super) struct NetworkInputs {
    history: Vec<HistoryRow<'static>>,
    features: Vec<FeatureVector>,
    /// (candidates, [`REASONS_MAX`])
    overlaps: Vec<[f32; REASONS_MAX]>,
    /// Of candidates that come inline.
    inline: Vec<Option<InlineItem>>,
}

/// The sizes of the network that training makes, and that is served, for a catalogue of this many items.
pub fn network_shape(items: usize) -> DinShape {
    DinShape {
        items,
        text: TEXT_WIDTH,
        reasons: REASONS_MAX,
        features: FEATURE_COUNT,
        history: HISTORY_LEN,
        ages: AGE_BUCKETS,
        kinds: EventKind::ALL.len(),
        ..DinShape::default()
    }
}

// === impl ScorerModel ===

impl ScorerModel {
    /// Projects the cards' vectors once, so that a request only pays for what is its own.
    pub fn new(
        catalog: Arc<Catalog>,
        cards: Cards,
        reader: Arc<TextReader>,
        network: Arc<FusedDin>,
    ) -> Result<Self, FusedShapeError> {
        let items = Arc::new(network.items(&cards.item_vectors)?);
        let reasons = Arc::new(network.reasons(&cards.reason_vectors)?);
        Ok(Self { catalog, cards, reader, network, rechead: None, items, reasons })
    }

    /// The same model with a Rechead, whose score counts this much.
    pub fn with_rechead(mut self, network: Rechead, weight: f32) -> Self {
        self.rechead = Some(RecheadScorer::from_cards(network, weight, &self.cards));
        self
    }

    /// The vector of a shopper in the Rechead's space: empty where there is no Rechead.
    pub fn shopper_vector(&self, written: ShopperTexts<'_>) -> Vec<f32> {
        let head = self.rechead.as_ref();
        head.map_or_else(Vec::new, |head| head.shopper_vector(written, &self.cards))
    }

    /// Whether the card of this user was written with the Rechead at hand.
    pub fn matches_rechead_vectors(&self, user: &UserCard) -> bool {
        self.rechead.as_ref().is_none_or(|head| head.matches_vectors(user, &self.cards))
    }

    /// The Rechead, if the bundle has one.
    pub fn rechead(&self) -> Option<&RecheadScorer> {
        self.rechead.as_ref()
    }

    /// Memory for [`Self::score`].
    pub fn scratch(&self) -> ScoringScratch {
        ScoringScratch {
            network: self.network.scratch(),
            scores: nn::FusedScores::default(),
            inputs: NetworkInputs::default(),
        }
    }

    /// The reasons on a candidate's card.
    pub fn reasons(&self, entry: &SlateItem) -> &[CardReason] {
        match entry {
            SlateItem::Known(number) => &self.cards.items[*number as usize].reasons,
            SlateItem::Inline(_) => &[],
        }
    }

    /// Scores a slate. A candidate's score does not depend on the order or the company that it
    /// comes in.
    pub fn score(&self, slate: &ScorerSlate<'_>, scratch: &mut ScoringScratch) -> SlateScores {
        let ScoringScratch { network, scores, inputs } = scratch;
        self.fill_inputs(slate, inputs);
        let candidates = self.candidate_rows(slate, inputs);
        let rechead = self.rechead_scores(slate);
        self.network
            .score(&self.network_slate(slate, inputs, &candidates), network, scores)
            .expect("rows made from the model's own tables fit its network");
        self.slate_scores(scores, candidates.len(), rechead)
    }

    /// What the network is asked.
    pub(super) fn network_slate<'a>(
        &'a self,
        slate: &ScorerSlate<'a>,
        inputs: &'a NetworkInputs,
        candidates: &'a [CandidateRow<'a>],
    ) -> nn::FusedSlate<'a> {
        nn::FusedSlate {
            items: &self.items,
            reasons: &self.reasons,
            history: &inputs.history,
            pattern: slate.pattern.filter(|pattern| !pattern.is_empty()),
            candidates,
        }
    }

    /// What it said.
    pub(super) fn slate_scores(
        &self,
        scores: &nn::FusedScores,
        count: usize,
        rechead: Vec<f32>,
    ) -> SlateScores {
        SlateScores {
            logits: scores.logits[..count].to_vec(),
            rechead,
            rechead_weight: self.rechead.as_ref().map_or(0.0, RecheadScorer::weight),
            attention: scores.attention[..count * REASONS_MAX].to_vec(),
        }
    }

    /// What the Rechead says of each candidate: nothing where there is none.
    fn rechead_scores(&self, slate: &ScorerSlate<'_>) -> Vec<f32> {
        let Some(head) = &self.rechead else { return Vec::new() };
        let shopper = self.shopper_vector_of(slate);
        let score = |entry: &SlateItem| match entry {
            SlateItem::Known(number) => head.score(&shopper, *number),
            SlateItem::Inline(text) => self.rechead_score_inline(head, &shopper, text),
        };
        slate.candidates.iter().map(score).collect()
    }

    /// The same of a candidate that comes inline.
    pub(super) fn rechead_score_inline(
        &self,
        head: &RecheadScorer,
        shopper: &[f32],
        text: &ItemText,
    ) -> f32 {
        head.score_text(shopper, &self.reader.vector(&inline_text(text)))
    }

    /// The vector of a slate's shopper, made now if it was not made before.
    pub(super) fn shopper_vector_of<'a>(&self, slate: &ScorerSlate<'a>) -> Cow<'a, [f32]> {
        let made = slate.rechead.filter(|made| !made.is_empty()).map(Cow::Borrowed);
        made.unwrap_or_else(|| {
            let ScorerSlate { history, pattern: thought, expected_item: answer, .. } = *slate;
            Cow::Owned(self.shopper_vector(ShopperTexts { history, thought, answer }))
        })
    }

    /// Writes down the events, and the features and the overlaps of every candidate.
    pub(super) fn fill_inputs(&self, slate: &ScorerSlate<'_>, inputs: &mut NetworkInputs) {
        let (catalog, history) = (&*self.catalog, slate.history);
        let context = match slate.counts {
            Some(counts) => FeatureContext::with_counts(catalog, history, counts.clone()),
            None => {
                let month = crate::bundle::month(slate.now);
                FeatureContext::new(catalog, &self.cards, history, slate.now, month)
            }
        };
        let NetworkInputs { history, features, overlaps: all_overlaps, inline } = inputs;
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
                SlateItem::Known(number) => {
                    CandidateItem::Known(*number, &self.cards.items[*number as usize])
                }
                SlateItem::Inline(text) => CandidateItem::Inline(text),
            };
            features.push(context.features(candidate, &overlaps[..reasons.len()]));
            for (overlap, reason) in overlaps.iter_mut().zip(reasons) {
                if FeatureContext::is_supported_by(reason, slate.user) {
                    *overlap = nn::MASKED_OVERLAP;
                }
            }
            all_overlaps.push(overlaps);
        }
    }

    /// The candidates as they were described.
    pub(super) fn candidate_rows<'a>(
        &self,
        slate: &ScorerSlate<'a>,
        inputs: &'a NetworkInputs,
    ) -> Vec<CandidateRow<'a>> {
        let row = |(row, entry): (usize, &SlateItem)| {
            let item = match (entry, &inputs.inline[row]) {
                (SlateItem::Known(number), _) => ItemRef::Row(*number),
                (SlateItem::Inline(_), Some(item)) => ItemRef::Inline(item),
                (SlateItem::Inline(_), None) => unreachable!("every inline item was given a row"),
            };
            let overlaps = &inputs.overlaps[row][..self.reasons(entry).len()];
            let (reasons, overlap) = self.standing(entry, overlaps);
            CandidateRow { item, features: inputs.features[row].as_slice(), reasons, overlap }
        };
        slate.candidates.iter().enumerate().map(row).collect()
    }

    fn inline_row(&self, entry: &SlateItem) -> Option<InlineItem> {
        let SlateItem::Inline(text) = entry else { return None };
        let vector = self.reader.vector(&inline_text(text));
        let row = self.network.item_inline(&vector);
        Some(row.expect("the encoder's vectors are as wide as the network's texts"))
    }

    /// The rows of a candidate's reasons and their overlaps: none where all are left out.
    fn standing<'d>(&self, entry: &SlateItem, overlaps: &'d [f32]) -> (Range<u32>, &'d [f32]) {
        match entry {
            SlateItem::Known(number)
                if overlaps.iter().any(|&overlap| overlap != nn::MASKED_OVERLAP) =>
            {
                let first = self.cards.items[*number as usize].first_reason;
                (first..first + overlaps.len() as u32, overlaps)
            }
            _ => (0..0, &[]),
        }
    }
}

// === impl SlateScores ===

impl SlateScores {
    /// The final score of the candidate in this row, which came at this place.
    pub fn fused(&self, row: usize, prior: PositionPenalty, place: usize) -> f32 {
        let rechead = self.rechead.get(row).map_or(0.0, |score| self.rechead_weight * score);
        prior.fuse(self.logits[row], place) + rechead
    }

    /// How much the reasons of the candidate in this row were attended to: by their places on its
    /// card, summing to one, or all zero where there are none.
    pub fn attention(&self, row: usize) -> &[f32] {
        &self.attention[row * REASONS_MAX..][..REASONS_MAX]
    }
}
