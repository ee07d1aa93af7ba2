//! Cases: slates that the shop's own ranker would have shown, and the items that were then bought.

use super::dataset::{Dataset, PurchaseLine};
use super::snapshot::Snapshot;
use super::synthetic_query::SyntheticQuery;
use crate::bundle::{Catalog, HISTORY_LEN, HistoryEvent};
use crate::domain::Timestamp;
use crate::evidence;
use crate::reranker::{self, OfferedItem, ShopperContext};
use crate::scorer::{ShopperTexts, TextReader, is_cold};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// What is to be predicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PredictionTask {
    /// The next item that the shopper buys for the first time. Earlier lines of the basket are history,
    /// and items bought before are not in the slate.
    FirstPurchase,
    /// The items of the next basket, including items bought before.
    NextBasket,
}

/// A slate of a past moment, and the items that were then bought.
#[derive(Clone, Debug)]
pub struct Case {
    /// The user's number.
    pub user: u32,
    /// The moment.
    pub now: Timestamp,
    /// The user's events before it, oldest first.
    pub history: Vec<HistoryEvent>,
    /// The vector of the user's pattern at that moment, if there is a history.
    pub pattern: Option<Vec<f32>>,
    /// A synthetic query; empty unless a stage generates one.
    pub synthetic_query: SyntheticQuery,
    /// The item that a language model predicts, if a stage has it predict one.
    pub expected_item: Option<u32>,
    /// The slate, in the order given.
    pub slate: Vec<u32>,
    /// The items that were then bought: one, or those of a basket.
    pub relevant: Vec<u32>,
    /// The index of the snapshot that it was built from.
    pub snapshot: usize,
}

/// Builds cases from a log and its snapshots.
#[derive(Debug)]
pub struct CaseBuilder<'a> {
    /// The log.
    pub dataset: &'a Dataset,
    /// Its items.
    pub catalog: &'a Catalog,
    /// The text encoder.
    pub reader: &'a TextReader,
    /// In time order. A case uses the latest one that is not newer than itself.
    pub snapshots: &'a [Snapshot],
    /// Items of a slate.
    pub size: usize,
    /// The currency sign of the patterns.
    pub currency: &'a str,
}

// === impl PredictionTask ===

impl PredictionTask {
    /// Its name in tables and files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FirstPurchase => "first_purchase",
            Self::NextBasket => "next_basket",
        }
    }
}

// === impl CaseBuilder ===

impl CaseBuilder<'_> {
    /// One case for each user with a purchase in `from..until`: their last such purchase or basket, with
    /// everything before it as history.
    pub fn last(&self, task: PredictionTask, from: Timestamp, until: Timestamp) -> Vec<Case> {
        (0..self.dataset.users.len())
            .into_par_iter()
            .filter_map(|user| {
                let mut baskets = self.dataset.baskets(user, from, until).rev();
                let line = match task {
                    PredictionTask::NextBasket => baskets.next()?.start,
                    PredictionTask::FirstPurchase => baskets
                        .flat_map(Iterator::rev)
                        .find(|&line| self.dataset.bought[user][line].first)?,
                };
                Some(self.case(user, line, task))
            })
            .collect()
    }

    /// Up to `most` cases of each basket bought in `from..until`, in random order. A first purchase is a
    /// case of either task with equal probability.
    pub fn many(
        &self,
        from: Timestamp,
        until: Timestamp,
        most: usize,
        rng: &mut ChaCha8Rng,
    ) -> Vec<Case> {
        let mut picked = Vec::new();
        for user in 0..self.dataset.users.len() {
            for basket in self.dataset.baskets(user, from, until) {
                let mut lines: Vec<usize> = basket.collect();
                lines.shuffle(rng);
                for &line in lines.iter().take(most) {
                    let first = self.dataset.bought[user][line].first && rng.random_bool(0.5);
                    let task = if first {
                        PredictionTask::FirstPurchase
                    } else {
                        PredictionTask::NextBasket
                    };
                    picked.push((user, line, task));
                }
            }
        }
        picked.shuffle(rng);
        picked.into_par_iter().map(|(user, line, task)| self.case(user, line, task)).collect()
    }

    fn case(&self, user: usize, line: usize, task: PredictionTask) -> Case {
        let bought = &self.dataset.bought[user];
        let now = bought[line].time;
        let within_basket = task == PredictionTask::FirstPurchase;
        let history = self.dataset.history(user, line, within_basket, HISTORY_LEN);
        let snapshot = self.snapshots.partition_point(|s| s.cards.as_of <= now).saturating_sub(1);
        let upstream = &self.snapshots[snapshot].upstream;
        let had = &bought[..line];
        let basket = || bought.iter().filter(|b| b.basket == bought[line].basket);
        let (slate, relevant) = match task {
            PredictionTask::FirstPurchase => {
                let seen: rustc_hash::FxHashSet<u32> = had.iter().map(|b| b.item).collect();
                let slate =
                    upstream.slate(&purchases(had), self.size, &|item| seen.contains(&item));
                (slate, vec![bought[line].item])
            }
            PredictionTask::NextBasket => {
                let before: Vec<PurchaseLine> =
                    had.iter().copied().filter(|b| b.basket != bought[line].basket).collect();
                let mut relevant: Vec<u32> = basket().map(|b| b.item).collect();
                relevant.sort_unstable();
                relevant.dedup();
                (upstream.slate(&purchases(&before), self.size, &|_| false), relevant)
            }
        };
        let cards = &self.snapshots[snapshot].cards.items;
        let pattern = (!history.is_empty()).then(|| {
            self.reader.vector(&evidence::pattern_text(
                self.catalog,
                cards,
                &history,
                self.currency,
            ))
        });
        let slate = slate.into_iter().map(|(item, _)| item).collect();
        let user = user as u32;
        let (synthetic_query, expected_item) = (SyntheticQuery::default(), None);
        Case {
            user,
            now,
            history,
            pattern,
            synthetic_query,
            expected_item,
            slate,
            relevant,
            snapshot,
        }
    }
}

impl Case {
    /// The shopper, as a language model's prompts read them.
    pub fn shopper(&self) -> ShopperContext<'_> {
        ShopperContext {
            history: &self.history,
            now: self.now,
            words: self.synthetic_query.words(),
        }
    }

    /// What was written about the shopper, as the Rechead reads it.
    pub fn written(&self) -> ShopperTexts<'_> {
        ShopperTexts {
            history: &self.history,
            thought: self.pattern.as_deref(),
            answer: self.expected_item,
        }
    }

    /// Items as a language model is offered them, by the case's snapshot.
    pub fn offers(
        &self,
        catalog: &Catalog,
        snapshots: &[Snapshot],
        items: &[u32],
    ) -> Vec<OfferedItem> {
        reranker::offers(catalog, &snapshots[self.snapshot].cards, self.shopper(), items)
    }

    /// Whether the shopper is cold: few purchases are known.
    pub fn is_cold(&self) -> bool {
        is_cold(&self.history)
    }
}

fn purchases(bought: &[PurchaseLine]) -> Vec<(u32, Timestamp)> {
    bought.iter().map(|b| (b.item, b.time)).collect()
}
