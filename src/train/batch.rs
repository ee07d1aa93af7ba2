//! Cases to the tensors that the network trains on, with the features that it is served with.

use super::cases::Case;
use super::snapshot::Snapshot;
use crate::bundle::{Catalog, HISTORY_LEN, ItemCard, REASONS_MAX, month};
use crate::domain::UserId;
use crate::nn::{DinBatch, DinShape};
use crate::scorer::features::{CandidateItem, FEATURE_COUNT, FeatureContext, FeatureVector};
use candle_core::{Device, Result, Tensor};
use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

/// Builds batches of cases.
#[derive(Debug)]
pub struct Batcher<'a> {
    /// The items.
    pub catalog: &'a Catalog,
    /// The users, by number.
    pub users: &'a [UserId],
    /// The snapshots that the cases refer to.
    pub snapshots: &'a [Snapshot],
    /// The network's shape.
    pub shape: DinShape,
    /// Candidates of an example. The first one was taken.
    pub candidates: usize,
    /// The share of item ids that are hidden.
    pub id_dropout: f64,
}

/// The columns of a batch, example after example.
#[derive(Default)]
struct BatchColumns {
    item_ids: Vec<u32>,
    item_texts: Vec<f32>,
    features: Vec<f32>,
    history_ids: Vec<u32>,
    history_texts: Vec<f32>,
    history_ages: Vec<u32>,
    history_kinds: Vec<u32>,
    history_mask: Vec<f32>,
    pattern: Vec<f32>,
    pattern_known: Vec<f32>,
    reasons: Vec<f32>,
    overlap: Vec<f32>,
    reason_mask: Vec<f32>,
}

/// The overlaps of a candidate's reasons with a history, and its features.
pub fn read_candidate(
    context: &FeatureContext<'_>,
    item: u32,
    card: &ItemCard,
) -> (Vec<f32>, FeatureVector) {
    let overlaps: Vec<f32> = card.reasons.iter().map(|reason| context.overlap(reason)).collect();
    let features = context.features(CandidateItem::Known(item, card), &overlaps);
    (overlaps, features)
}

// === impl Batcher ===

impl Batcher<'_> {
    /// A batch of these cases, and the items that each shows: one that was taken, then others of its slate. They
    /// are drawn in each call.
    pub fn batch(
        &self,
        cases: &[&Case],
        rng: &mut ChaCha8Rng,
    ) -> Result<(DinBatch, Vec<Vec<u32>>)> {
        let (mut columns, mut all_shown) = (BatchColumns::default(), Vec::new());
        for case in cases {
            let shown = self.draw(case, rng);
            self.example(case, &shown, rng, &mut columns);
            all_shown.push(shown);
        }
        Ok((columns.batch(cases.len(), self.candidates, &self.shape)?, all_shown))
    }

    /// One item taken, then others that were not. They repeat only if the slate is short.
    fn draw(&self, case: &Case, rng: &mut ChaCha8Rng) -> Vec<u32> {
        let taken: Vec<u32> =
            case.relevant.iter().copied().filter(|item| case.slate.contains(item)).collect();
        let others: Vec<u32> =
            case.slate.iter().copied().filter(|item| !case.relevant.contains(item)).collect();
        let mut shown = vec![*taken.choose(rng).unwrap_or(&case.relevant[0])];
        shown.extend(others.choose_multiple(rng, self.candidates - 1));
        while shown.len() < self.candidates {
            shown.push(*others.choose(rng).unwrap_or(&0));
        }
        shown
    }

    fn example(&self, case: &Case, shown: &[u32], rng: &mut ChaCha8Rng, to: &mut BatchColumns) {
        let cards = &self.snapshots[case.snapshot].cards;
        let month = month(case.now);
        let context = FeatureContext::new(self.catalog, cards, &case.history, case.now, month);
        let width = self.shape.text;
        let text = |item: u32| &cards.item_vectors[item as usize * width..][..width];
        for past in context.history() {
            to.history_ids.push(self.id(past.item, rng));
            to.history_texts.extend_from_slice(text(past.item));
            to.history_ages.push(u32::from(context.age(past)));
            to.history_kinds.push(past.kind as u32);
            to.history_mask.push(1.0);
        }
        to.pad_history(HISTORY_LEN - context.history().len(), width);
        to.pattern_known.push(f32::from(u8::from(case.pattern.is_some())));
        match &case.pattern {
            Some(pattern) => to.pattern.extend_from_slice(pattern),
            None => to.pattern.resize(to.pattern.len() + width, 0.0),
        }
        for &item in shown {
            let card = &cards.items[item as usize];
            let (overlaps, features) = read_candidate(&context, item, card);
            to.item_ids.push(self.id(item, rng));
            to.item_texts.extend_from_slice(text(item));
            to.features.extend_from_slice(features.as_slice());
            let first = card.first_reason as usize * width;
            to.reasons
                .extend_from_slice(&cards.reason_vectors[first..][..card.reasons.len() * width]);
            for (reason, overlap) in card.reasons.iter().zip(&overlaps) {
                let own = FeatureContext::is_supported_by(reason, &self.users[case.user as usize]);
                to.overlap.push(*overlap);
                to.reason_mask.push(f32::from(u8::from(!own)));
            }
            to.pad_reasons(REASONS_MAX - card.reasons.len(), width);
        }
    }

    /// The row of an item's id embedding. Row 0 is the unknown item's.
    fn id(&self, item: u32, rng: &mut ChaCha8Rng) -> u32 {
        if rng.random_bool(self.id_dropout) { 0 } else { item + 1 }
    }
}

// === impl BatchColumns ===

impl BatchColumns {
    fn pad_history(&mut self, missing: usize, width: usize) {
        for column in [&mut self.history_ids, &mut self.history_ages, &mut self.history_kinds] {
            column.resize(column.len() + missing, 0);
        }
        self.history_texts.resize(self.history_texts.len() + missing * width, 0.0);
        self.history_mask.resize(self.history_mask.len() + missing, 0.0);
    }

    fn pad_reasons(&mut self, missing: usize, width: usize) {
        self.reasons.resize(self.reasons.len() + missing * width, 0.0);
        self.overlap.resize(self.overlap.len() + missing, 0.0);
        self.reason_mask.resize(self.reason_mask.len() + missing, 0.0);
    }

    fn batch(self, b: usize, n: usize, shape: &DinShape) -> Result<DinBatch> {
        let (h, m, e) = (HISTORY_LEN, REASONS_MAX, shape.text);
        let cpu = &Device::Cpu;
        Ok(DinBatch {
            item_ids: Tensor::from_vec(self.item_ids, (b, n), cpu)?,
            item_texts: Tensor::from_vec(self.item_texts, (b, n, e), cpu)?,
            features: Tensor::from_vec(self.features, (b, n, FEATURE_COUNT), cpu)?,
            history_ids: Tensor::from_vec(self.history_ids, (b, h), cpu)?,
            history_texts: Tensor::from_vec(self.history_texts, (b, h, e), cpu)?,
            history_ages: Tensor::from_vec(self.history_ages, (b, h), cpu)?,
            history_kinds: Tensor::from_vec(self.history_kinds, (b, h), cpu)?,
            history_mask: Tensor::from_vec(self.history_mask, (b, h), cpu)?,
            pattern: Tensor::from_vec(self.pattern, (b, e), cpu)?,
            pattern_known: Tensor::from_vec(self.pattern_known, b, cpu)?,
            reasons: Tensor::from_vec(self.reasons, (b, n, m, e), cpu)?,
            overlap: Tensor::from_vec(self.overlap, (b, n, m), cpu)?,
            reason_mask: Tensor::from_vec(self.reason_mask, (b, n, m), cpu)?,
        })
    }
}
