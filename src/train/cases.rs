//! Cases: slates that the shop's own ranker would have shown, and the items that were then bought.

use super::dataset::Dataset;
use super::snapshot::Snapshot;
use super::synthetic_query::SyntheticQuery;
use crate::bundle::{Catalog, HISTORY_LEN, HistoryEvent};
use crate::domain::Timestamp;
use crate::evidence;
use crate::reranker::{self, OfferedItem, ShopperContext};
use crate::scorer::features::LiveVector;
use crate::scorer::{ShopperTexts, TextReader, is_cold};
use crate::upstream::Blended;
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use rustc_hash::FxHashSet;
use std::collections::BTreeMap;

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
    /// What is to be predicted.
    pub task: PredictionTask,
    /// The moment.
    pub now: Timestamp,
    /// The user's events before it, oldest first.
    pub history: Vec<HistoryEvent>,
    /// The vector of the user's pattern at that moment, if there is a history.
    pub pattern: Option<Vec<f32>>,
    /// That pattern; empty if there is no history.
    pub pattern_text: String,
    /// A synthetic query; empty unless a stage generates one.
    pub synthetic_query: SyntheticQuery,
    /// The item that a language model predicts, if a stage has it predict one.
    pub expected_item: Option<u32>,
    /// The slate, in the order given.
    pub slate: Vec<u32>,
    /// The items that were then bought: one, or those of a basket.
    pub relevant: Vec<u32>,
    /// The live features of each candidate, as of the moment. Empty until
    /// [`TrainingData::count_live`](super::training_data::TrainingData::count_live) reads them.
    pub live: Vec<LiveVector>,
    /// The Rechead's score of each candidate, where the direct path reads it; empty elsewhere.
    pub rechead: Vec<f32>,
    /// The purchase line of the user that it was built from.
    pub line: usize,
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
    /// The retriever whose slates replace those of the snapshots, if the recipe asks for it.
    pub blended: Option<&'a Blended>,
}

/// A purchase line to build a case for.
#[derive(Clone, Copy, Debug)]
struct Picked {
    user: usize,
    line: usize,
    task: PredictionTask,
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
        let picked: Vec<Picked> = (0..self.dataset.users.len())
            .into_par_iter()
            .filter_map(|user| {
                let mut baskets = self.dataset.baskets(user, from, until).rev();
                let line = match task {
                    PredictionTask::NextBasket => baskets.next()?.start,
                    PredictionTask::FirstPurchase => baskets
                        .flat_map(Iterator::rev)
                        .find(|&line| self.dataset.bought[user][line].first)?,
                };
                Some(Picked { user, line, task })
            })
            .collect();
        self.build(&picked)
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
                    picked.push(Picked { user, line, task });
                }
            }
        }
        picked.shuffle(rng);
        self.build(&picked)
    }

    fn build(&self, picked: &[Picked]) -> Vec<Case> {
        let slates: Vec<Vec<u32>> = match self.blended {
            Some(blended) => self.slates_by_day(blended, picked),
            None => picked.par_iter().map(|&picked| self.slate_of_snapshot(picked)).collect(),
        };
        picked.par_iter().zip(slates).map(|(&picked, slate)| self.case(picked, slate)).collect()
    }

    fn slate_of_snapshot(&self, picked: Picked) -> Vec<u32> {
        let upstream = &self.snapshots[self.snapshot(picked)].upstream;
        let (history, excluded) = self.known_to_retriever(picked);
        let slate = upstream.slate(&history, self.size, &|item| excluded.contains(&item));
        slate.into_iter().map(|(item, _)| item).collect()
    }

    /// Slates in the order of `picked`. Cases of one day share its counts.
    fn slates_by_day(&self, blended: &Blended, picked: &[Picked]) -> Vec<Vec<u32>> {
        let mut days: BTreeMap<Timestamp, Vec<usize>> = BTreeMap::new();
        for (at, &case) in picked.iter().enumerate() {
            days.entry(Blended::day_of(self.now(case))).or_default().push(at);
        }
        let of_day = |(&day, cases): (&Timestamp, &Vec<usize>)| -> Vec<(usize, Vec<u32>)> {
            let mut day = blended.day(day);
            let slate = |&at: &usize| {
                let (history, excluded) = self.known_to_retriever(picked[at]);
                let exclude = |item| excluded.contains(&item);
                let slate = day.slate(&history, self.now(picked[at]), self.size, &exclude);
                (at, slate.into_iter().map(|(item, _)| item).collect())
            };
            cases.iter().map(slate).collect()
        };
        let made: Vec<_> = days.par_iter().flat_map_iter(of_day).collect();
        let mut slates = vec![Vec::new(); picked.len()];
        for (at, slate) in made {
            slates[at] = slate;
        }
        slates
    }

    /// The purchases that a retriever knows of, and the items that it leaves out.
    fn known_to_retriever(&self, picked: Picked) -> (Vec<(u32, Timestamp)>, FxHashSet<u32>) {
        let bought = &self.dataset.bought[picked.user];
        let (had, basket) = (&bought[..picked.line], bought[picked.line].basket);
        match picked.task {
            PredictionTask::FirstPurchase => (
                had.iter().map(|b| (b.item, b.time)).collect(),
                had.iter().map(|b| b.item).collect(),
            ),
            PredictionTask::NextBasket => {
                let before = had.iter().filter(|b| b.basket != basket);
                (before.map(|b| (b.item, b.time)).collect(), FxHashSet::default())
            }
        }
    }

    fn now(&self, picked: Picked) -> Timestamp {
        self.dataset.bought[picked.user][picked.line].time
    }

    /// The index of the latest snapshot that is not newer than the case.
    fn snapshot(&self, picked: Picked) -> usize {
        let now = self.now(picked);
        self.snapshots.partition_point(|s| s.cards.as_of <= now).saturating_sub(1)
    }

    fn case(&self, picked: Picked, slate: Vec<u32>) -> Case {
        let Picked { user, line, task } = picked;
        let bought = &self.dataset.bought[user];
        let within_basket = task == PredictionTask::FirstPurchase;
        let history = self.dataset.history(user, line, within_basket, HISTORY_LEN);
        let snapshot = self.snapshot(picked);
        let relevant = match task {
            PredictionTask::FirstPurchase => vec![bought[line].item],
            PredictionTask::NextBasket => {
                let basket = bought.iter().filter(|b| b.basket == bought[line].basket);
                let mut relevant: Vec<u32> = basket.map(|b| b.item).collect();
                relevant.sort_unstable();
                relevant.dedup();
                relevant
            }
        };
        let cards = &self.snapshots[snapshot].cards.items;
        let pattern_text = evidence::pattern_text(self.catalog, cards, &history, self.currency);
        let pattern = (!history.is_empty()).then(|| self.reader.vector(&pattern_text));
        Case {
            user: user as u32,
            task,
            now: self.now(picked),
            history,
            pattern,
            pattern_text,
            synthetic_query: SyntheticQuery::default(),
            expected_item: None,
            slate,
            relevant,
            live: Vec::new(),
            rechead: Vec::new(),
            line,
            snapshot,
        }
    }
}

impl Case {
    /// Whether earlier lines of the basket are part of the past.
    pub fn is_within_basket(&self) -> bool {
        self.task == PredictionTask::FirstPurchase
    }

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
            thought_text: &self.pattern_text,
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
