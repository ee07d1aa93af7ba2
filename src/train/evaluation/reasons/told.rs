//! What is told of the first items of each order, and how much of it is about the shopper.

use super::{SHOWN, TOLD};
use crate::bundle::{Backing, CardReason};
use crate::evidence::{self, ChoiceWeights};
use crate::reranker::{Teller, ToldItem, own_backing};
use crate::scorer::SlateScores;
use crate::scorer::features::{FactSales, FeatureContext};
use crate::train::cases::Case;
use crate::train::measure::{mean_of, rounded};
use crate::train::offline_scorer::OfflineScorer;
use crate::train::training_data::TrainingData;
use rustc_hash::FxHashSet;
use serde_json::{Value, json};
use std::sync::Arc;

/// What is told of one case's first items.
pub(super) struct CaseTold {
    /// The scores of the slate.
    pub(super) scores: Vec<f32>,
    /// The rows of the slate that are shown, best first, each with the places of the reasons that are told of it.
    pub(super) shown: Vec<(usize, Vec<usize>)>,
    /// Of each shown row, the places of all reasons for this shopper.
    pub(super) fit: Vec<Vec<usize>>,
}

/// Figures over the cases.
#[derive(Debug, Default)]
pub(super) struct ToldFigures {
    told: usize,
    own: usize,
    items: usize,
    with_reason: usize,
    first_own: usize,
    unique_sentences: Vec<f64>,
    unique_forms: Vec<f64>,
    shared_facts: Vec<f64>,
}

// === impl CaseTold ===

impl CaseTold {
    /// Chooses what is told, as serving does.
    pub(super) fn new(
        data: &TrainingData,
        scorer: &OfflineScorer,
        case: &Case,
        scores: &SlateScores,
        (sales, weights): (&Arc<FactSales>, ChoiceWeights),
    ) -> Self {
        let cards = &data.snapshots[case.snapshot].cards.items;
        let mut teller = Teller::new(&data.catalog, sales, context(data, case), None, weights);
        let fused = scorer.fused(case, scores);
        let mut order: Vec<usize> = (0..case.slate.len()).collect();
        order.sort_by(|&a, &b| fused[b].total_cmp(&fused[a]).then(a.cmp(&b)));
        order.truncate(SHOWN);
        let (mut shown, mut fit) = (Vec::new(), Vec::new());
        for row in order {
            let (item, attention) = (case.slate[row], scores.attention(row));
            let reasons = &cards[item as usize].reasons;
            let told = ToldItem { number: Some(item), reasons, attention };
            shown.push((row, teller.tell(told, TOLD).reasons));
            fit.push((0..reasons.len()).filter(|&m| attention[m] > 0.0).collect());
        }
        Self { scores: fused, shown, fit }
    }
}

// === impl ToldFigures ===

impl ToldFigures {
    /// Counts what is told of one case.
    pub(super) fn add(&mut self, data: &TrainingData, case: &Case, of: &CaseTold) {
        let cards = &data.snapshots[case.snapshot].cards.items;
        let context = context(data, case);
        let items: Vec<(u32, Vec<&CardReason>)> = of
            .shown
            .iter()
            .map(|(row, told)| {
                let reasons = &cards[case.slate[*row] as usize].reasons;
                (case.slate[*row], told.iter().map(|&m| &reasons[m]).collect())
            })
            .collect();
        for (item, told) in &items {
            let is_own = |reason: &&&CardReason| own_backing(&context, Some(*item), reason) > 0.0;
            self.items += 1;
            self.told += told.len();
            self.own += told.iter().filter(is_own).count();
            self.with_reason += usize::from(!told.is_empty());
            self.first_own += usize::from(told.first().is_some_and(|first| is_own(&first)));
        }
        let all: Vec<&CardReason> = items.iter().flat_map(|(_, told)| told).copied().collect();
        if !all.is_empty() {
            let sentences: FxHashSet<&str> = all.iter().map(|reason| &*reason.text).collect();
            let forms: FxHashSet<_> =
                all.iter().filter_map(|reason| evidence::form(reason)).collect();
            self.unique_sentences.push(sentences.len() as f64 / all.len() as f64);
            self.unique_forms.push(forms.len() as f64 / all.len() as f64);
        }
        let facts: Vec<FxHashSet<Fact>> = items
            .iter()
            .filter(|(_, told)| !told.is_empty())
            .map(|(_, told)| told.iter().map(|reason| fact(reason)).collect())
            .collect();
        let pairs =
            facts.iter().enumerate().flat_map(|(at, a)| facts[..at].iter().map(move |b| (a, b)));
        self.shared_facts.extend(mean_of(pairs.map(|(a, b)| a.intersection(b).count() as f64)));
    }

    pub(super) fn to_json(&self) -> Value {
        let share = |part: usize, of: usize| rounded(part as f64 / of.max(1) as f64);
        let mean = |values: &[f64]| mean_of(values.iter().copied()).map(rounded);
        json!({
            "own_share": share(self.own, self.told),
            "first_own_share": share(self.first_own, self.with_reason),
            "with_reason": share(self.with_reason, self.items),
            "told_per_item": share(self.told, self.items),
            "usr@10": mean(&self.unique_sentences),
            "unique_forms@10": mean(&self.unique_forms),
            "div@10": mean(&self.shared_facts),
        })
    }
}

/// What a reason is about: a kind, and the item or the attribute that it names.
type Fact = (&'static str, Option<u32>);

fn fact(reason: &CardReason) -> Fact {
    let kind = reason.evidence.first().map_or("", |evidence| evidence.kind.as_str());
    match reason.backing {
        Backing::Item(item) => ("item", Some(item)),
        Backing::Attribute(attribute) => ("attribute", Some(attribute)),
        Backing::Nothing => (kind, None),
    }
}

/// What is known of a case's shopper.
pub(super) fn context<'a>(data: &'a TrainingData, case: &'a Case) -> FeatureContext<'a> {
    let month = crate::bundle::month(case.now);
    let cards = &data.snapshots[case.snapshot].cards;
    FeatureContext::new(&data.catalog, cards, &case.history, case.now, month)
}
