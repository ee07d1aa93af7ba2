//! The data of the stages that train on slates: the log, its items, and a snapshot of the shop for each
//! of many moments.

use super::cases::{Case, CaseBuilder, PredictionTask};
use super::dataset::Dataset;
use super::recipe::RetrieverKind;
use super::replay::{LiveCase, Replay};
use super::snapshot::{Snapshot, moments};
use super::synthetic_query::SyntheticQuery;
use super::workspace::Workspace;
use crate::bundle::Catalog;
use crate::domain::Timestamp;
use crate::language::WordWeights;
use crate::nn::{DinShape, FusedDin, Rechead, Weights};
use crate::regular_file::{self, DATA_BYTES_MAX, Links};
use crate::scorer::{
    DirectScorer, ItemVectors, LiveRows, QueryScorer, RecheadScorer, ScorerModel, ScorerSlate,
    ScoringScratch, SlateItem, SlateScores, TextReader, TextSources,
};
use crate::upstream::{BlendWeights, Blended};
use anyhow::Context as _;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rustc_hash::FxHashMap;
use std::path::Path;
use std::sync::Arc;

/// Seconds of an hour.
const HOUR_S: f64 = 3_600.0;

/// The log, its items, the text encoder and the snapshots of the shop.
#[derive(Debug)]
pub struct TrainingData {
    /// The items.
    pub catalog: Arc<Catalog>,
    /// The log.
    pub dataset: Dataset,
    /// The text encoder.
    pub reader: Arc<TextReader>,
    /// The items' wide vectors.
    pub item_vectors: Arc<ItemVectors>,
    /// In time order.
    pub snapshots: Vec<Snapshot>,
    /// The weighted words of the items.
    words: Arc<WordWeights>,
    /// Seconds by which live counts lag behind a case.
    counts_age_s: i64,
    /// Slates of another ranker, by user, if the recipe names some.
    given: Option<FxHashMap<u32, Vec<u32>>>,
    /// The retriever whose slates replace those of the snapshots, if the recipe asks for it.
    blended: Option<Blended>,
}

/// The parts of a scorer that scores cases.
#[derive(Clone, Copy, Debug)]
pub struct ScorerParts<'a> {
    /// The deep network.
    pub deep: (&'a Weights, &'a DinShape),
    /// The direct path, if there is one.
    pub direct: Option<&'a Arc<DirectScorer>>,
    /// The query path, if there is one.
    pub query: Option<&'a Arc<QueryScorer>>,
    /// A Rechead and its weight, if there is one.
    pub head: Option<&'a (Rechead, f32)>,
}

// === impl TrainingData ===

impl TrainingData {
    /// Reads the data, and takes snapshots so that every moment in `from..until` has a recent one.
    pub fn open(
        workspace: &mut Workspace<'_>,
        from: Timestamp,
        until: Timestamp,
    ) -> anyhow::Result<Self> {
        let catalog = workspace.catalog()?;
        let dataset = workspace.dataset(&catalog)?;
        let reader = workspace.reader()?;
        let item_vectors = workspace.item_vectors(&catalog, &reader)?;
        let recipe = &workspace.recipe;
        let texts: Vec<String> = (0..catalog.len() as u32).map(|item| catalog.text(item)).collect();
        let vectors = reader.vectors(&texts);
        let moments = moments(from, until, recipe.slates.refresh_days);
        let mut snapshots = Vec::with_capacity(moments.len());
        for (done, &as_of) in moments.iter().enumerate() {
            workspace.progress.show("snapshots", done as u64, moments.len() as u64);
            let currency = &recipe.shop.currency;
            let mut snapshot =
                Snapshot::take(&dataset, &catalog, &reader, &vectors, as_of, currency);
            if recipe.reward_model.shuffled_reasons {
                shuffle_reasons(&mut snapshot, recipe.seed);
            }
            snapshots.push(snapshot);
        }
        let given = match &recipe.slates.given {
            Some(path) => Some(read_slates(path, &dataset, &catalog)?),
            None => None,
        };
        let blended = match recipe.slates.retriever {
            RetrieverKind::ItemKnn => None,
            RetrieverKind::Blended => {
                Some(blended(&dataset, &catalog, recipe.slates.blend.unwrap_or_default()))
            }
        };
        let words = Arc::new(WordWeights::of(&texts));
        let counts_age_s = (recipe.evaluate.counts_age_hours * HOUR_S) as i64;
        Ok(Self {
            catalog,
            dataset,
            reader,
            item_vectors,
            snapshots,
            words,
            counts_age_s,
            given,
            blended,
        })
    }

    /// Data that was read elsewhere, with the shop's own slates.
    pub fn new(
        catalog: Arc<Catalog>,
        dataset: Dataset,
        reader: Arc<TextReader>,
        snapshots: Vec<Snapshot>,
    ) -> Self {
        let texts: Vec<String> = (0..catalog.len() as u32).map(|item| catalog.text(item)).collect();
        let item_vectors = Arc::new(ItemVectors::of(&reader.wides(&texts), reader.width()));
        let words = Arc::new(WordWeights::of(texts));
        Self {
            catalog,
            dataset,
            reader,
            item_vectors,
            snapshots,
            words,
            counts_age_s: 0,
            given: None,
            blended: None,
        }
    }

    /// The same data, with cards as a bundle keeps them: vectors in half precision, those of items in the
    /// Rechead's space among them. So an offline climb reads the numbers that serving reads.
    pub fn with_cards_as_kept(mut self, rechead: Option<&Rechead>) -> Self {
        for snapshot in &mut self.snapshots {
            let cards = &mut snapshot.cards;
            if let Some(network) = rechead {
                let scorer = RecheadScorer::new(network.clone(), 0.0, cards, None);
                cards.rechead_vectors = scorer.made_vectors();
            }
            cards.round_as_kept();
        }
        self
    }

    /// Builds cases with slates of this size.
    pub fn cases<'a>(&'a self, size: usize, currency: &'a str) -> CaseBuilder<'a> {
        CaseBuilder {
            dataset: &self.dataset,
            catalog: &self.catalog,
            reader: &self.reader,
            snapshots: &self.snapshots,
            size,
            currency,
            blended: self.blended.as_ref(),
        }
    }

    /// The latest case of each user in `from..until`, for both tasks.
    pub fn last_cases(
        &self,
        size: usize,
        currency: &str,
        from: Timestamp,
        until: Timestamp,
    ) -> anyhow::Result<Vec<(PredictionTask, Vec<Case>)>> {
        let cases = self.cases(size, currency);
        let tasks = [PredictionTask::FirstPurchase, PredictionTask::NextBasket];
        let of_task = |task| {
            let last = cases.last(task, from, until);
            let mut last = match &self.given {
                Some(given) => self.with_given(last, task, given),
                None => last,
            };
            self.count_live(&mut last)?;
            Ok((task, last))
        };
        tasks.into_iter().map(of_task).collect()
    }

    /// The cases of the training time whose slates are another ranker's; none if the recipe gives no such slates.
    pub fn given_cases(&self, currency: &str) -> anyhow::Result<Vec<Case>> {
        let Some(given) = &self.given else { return Ok(Vec::new()) };
        let (task, split) = (PredictionTask::FirstPurchase, self.dataset.split);
        // The slates are replaced, so those that are made for them may be as small as they can be.
        let last = self.cases(1, currency).last(task, split.train, split.validate);
        let mut cases = self.with_given(last, task, given);
        self.count_live(&mut cases)?;
        Ok(cases)
    }

    /// The cases that the other ranker's slates are for, each user's very last purchase, with those
    /// slates.
    fn with_given(
        &self,
        cases: Vec<Case>,
        task: PredictionTask,
        given: &FxHashMap<u32, Vec<u32>>,
    ) -> Vec<Case> {
        let is_last = |case: &Case| {
            let last = self.dataset.bought[case.user as usize].last();
            task == PredictionTask::FirstPurchase && last.is_some_and(|b| case.relevant == [b.item])
        };
        let with_slate = |case: Case| Some(Case { slate: given.get(&case.user)?.clone(), ..case });
        cases.into_iter().filter(is_last).filter_map(with_slate).collect()
    }

    /// Reads the live features of each case as of its moment, by a replay of the log from its beginning.
    pub fn count_live(&self, cases: &mut [Case]) -> anyhow::Result<()> {
        let mut replay =
            Replay::new(&self.dataset, &self.catalog, self.words.clone(), self.counts_age_s)?;
        let mut in_time: Vec<usize> = (0..cases.len()).collect();
        in_time.sort_by_key(|&at| cases[at].now);
        for at in in_time {
            let case = &mut cases[at];
            let within_basket = case.is_within_basket();
            let past =
                self.dataset.history(case.user as usize, case.line, within_basket, usize::MAX);
            case.live = replay.read(LiveCase { now: case.now, past: &past, slate: &case.slate });
        }
        Ok(())
    }

    /// What the texts of a case's items are read from.
    pub fn text_sources(&self, case: &Case) -> TextSources<'_> {
        let cards = &self.snapshots[case.snapshot].cards;
        TextSources { catalog: &self.catalog, cards, reader: &self.reader }
    }

    /// Scores each case's slate by the serving path.
    pub fn score(
        &self,
        parts: &ScorerParts<'_>,
        cases: &[Case],
    ) -> anyhow::Result<Vec<SlateScores>> {
        let mut scores = vec![SlateScores::default(); cases.len()];
        self.score_each(parts, cases, |index, score| scores[index] = score(&[]))?;
        Ok(scores)
    }

    /// Hands each case a scorer of its slate, by the serving path. It scores the slate without some reasons of each
    /// candidate: those whose bit is set.
    pub fn score_each(
        &self,
        parts: &ScorerParts<'_>,
        cases: &[Case],
        mut judge: impl FnMut(usize, &mut dyn FnMut(&[u16]) -> SlateScores),
    ) -> anyhow::Result<()> {
        let (weights, shape) = parts.deep;
        let network = Arc::new(FusedDin::new(weights, shape)?);
        for (at, snapshot) in self.snapshots.iter().enumerate() {
            let mut of_it =
                cases.iter().enumerate().filter(|(_, case)| case.snapshot == at).peekable();
            if of_it.peek().is_none() {
                continue;
            }
            let (catalog, reader) = (self.catalog.clone(), self.reader.clone());
            let mut model =
                ScorerModel::new(catalog, snapshot.cards.clone(), reader, network.clone())?
                    .with_item_vectors(self.item_vectors.clone());
            if let Some(direct) = parts.direct {
                model = model.with_direct(direct.clone());
            }
            if let Some(query) = parts.query {
                model = model.with_query(query.clone());
            }
            if let Some((network, weight)) = parts.head {
                model = model.with_rechead(network.clone(), *weight);
            }
            let mut scratch = model.scratch();
            for (index, case) in of_it {
                judge(index, &mut |left_out| self.score_case(&model, case, left_out, &mut scratch));
            }
        }
        Ok(())
    }

    fn score_case(
        &self,
        model: &ScorerModel,
        case: &Case,
        left_out: &[u16],
        scratch: &mut ScoringScratch,
    ) -> SlateScores {
        let candidates: Vec<SlateItem> = case.slate.iter().copied().map(SlateItem::Known).collect();
        let user = &self.dataset.users[case.user as usize];
        // Serving takes the vector from a stored card.
        let card = model.cards.users.get(user).filter(|card| card.history == case.history);
        let SyntheticQuery { query_text, profile } = &case.synthetic_query;
        let spoken = model.spoken(Some(query_text), Some(profile));
        let slate = ScorerSlate {
            user,
            now: case.now,
            history: &case.history,
            pattern: case.pattern.as_deref(),
            pattern_text: &case.pattern_text,
            rechead: card.map(|card| &*card.rechead_vector),
            expected_item: case.expected_item,
            counts: None,
            live: LiveRows::Given(&case.live),
            query: spoken.as_ref(),
            candidates: &candidates,
        };
        model.score_without(&slate, left_out, scratch)
    }
}

/// The blended retriever of a log.
pub(super) fn blended(dataset: &Dataset, catalog: &Catalog, weights: BlendWeights) -> Blended {
    let bought: Vec<Vec<(u32, Timestamp)>> = dataset
        .bought
        .iter()
        .map(|bought| bought.iter().map(|b| (b.item, b.time)).collect())
        .collect();
    let titles: Vec<&str> = catalog.items().iter().map(|item| &*item.title).collect();
    Blended::build(bought.iter().map(Vec::as_slice), &titles, weights)
}

/// Reads slates of another ranker: lines of `user<TAB>item item …`, plain or compressed with zstd.
/// Unknown items and users are skipped.
fn read_slates(
    path: &Path,
    dataset: &Dataset,
    catalog: &Catalog,
) -> anyhow::Result<FxHashMap<u32, Vec<u32>>> {
    let reading = || format!("reading the slates {}", path.display());
    let mut text =
        regular_file::read(path, Links::Followed, DATA_BYTES_MAX).with_context(reading)?;
    if path.extension().is_some_and(|ending| ending == "zst") {
        text = zstd::decode_all(&text[..]).with_context(reading)?;
    }
    let text = String::from_utf8(text).with_context(reading)?;
    let users: FxHashMap<&str, u32> =
        dataset.users.iter().zip(0..).map(|(user, number)| (user.as_str(), number)).collect();
    let mut slates = FxHashMap::default();
    for (number, line) in text.lines().enumerate() {
        let (user, items) = line.split_once('\t').with_context(|| {
            format!("{}:{}: no tab between the user and the items", path.display(), number + 1)
        })?;
        if let Some(&user) = users.get(user) {
            let known = items.split(' ').filter_map(|item| catalog.number(&item.into()));
            slates.insert(user, known.collect());
        }
    }
    Ok(slates)
}

/// Gives every item the reasons of another item.
fn shuffle_reasons(snapshot: &mut Snapshot, seed: u64) {
    let mut reasons: Vec<_> = snapshot
        .cards
        .items
        .iter_mut()
        .map(|card| (std::mem::take(&mut card.reasons), card.first_reason))
        .collect();
    reasons.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    for (card, (reasons, first_reason)) in snapshot.cards.items.iter_mut().zip(reasons) {
        (card.reasons, card.first_reason) = (reasons, first_reason);
    }
}
