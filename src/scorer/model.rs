//! The scorer's model: a catalogue, its cards and the network, ready to score slates.

use super::backed::backed_attention;
use super::direct::{DirectBuffers, DirectScorer};
use super::features::{
    AGE_BUCKETS, CandidateItem, FEATURE_COUNT, FactSales, FeatureContext, FeatureVector,
    HistoryCounts, LiveCounts, LiveItem, LiveVector, RankedPrice,
};
use super::features::{
    HistoryVectors, QueryItem, QueryVector, QueryView, SpokenQuery, VectorFigures,
};
use super::query::{QueryBuffers, QueryScorer};
use super::rechead::{RecheadScorer, ShopperTexts, TextSources};
use super::{ItemVectors, PositionPenalty, TextReader};
use crate::bundle::{
    CardReason, Cards, Catalog, CategoryPrices, HISTORY_LEN, HistoryEvent, REASONS_MAX, UserCard,
    inline_text,
};
use crate::domain::{EventKind, ItemText, Timestamp, UserId};
use crate::language::WordWeights;
use crate::nn::text::TEXT_WIDTH;
use crate::nn::{
    self, CandidateRow, DinShape, FusedDin, FusedShapeError, HistoryRow, InlineItem, ItemRef,
    ItemTable, ReasonTable, Rechead,
};
use crate::statistics::{ShopperPast, Statistics};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// A catalogue, its cards, and the network that scores them.
#[derive(Debug)]
pub struct ScorerModel {
    /// The items.
    pub catalog: Arc<Catalog>,
    /// Their cards.
    pub cards: Cards,
    /// The encoder of texts.
    pub reader: Arc<TextReader>,
    /// The items' wide vectors, in the space of [`TextReader::wide`]. `None` where the cards hold no vectors.
    pub item_vectors: Option<Arc<ItemVectors>>,
    pub(super) network: Arc<FusedDin>,
    pub(super) direct: Option<Arc<DirectScorer>>,
    pub(super) query: Option<Arc<QueryScorer>>,
    pub(super) rechead: Option<RecheadScorer>,
    pub(super) items: Arc<ItemTable>,
    pub(super) reasons: Arc<ReasonTable>,
    prices: CategoryPrices,
    /// What live features are counted from, if the bundle holds statistics.
    pub live: Option<LiveModel>,
    /// How often what reasons rest on was bought.
    pub fact_sales: Arc<FactSales>,
}

/// What live features are counted from.
#[derive(Clone, Debug)]
pub struct LiveModel {
    /// The weighted words of the catalogue's items.
    pub words: Arc<WordWeights>,
    /// The counts of the shop's events as of the bundle's cards.
    pub statistics: Arc<Statistics>,
}

/// A slate to be scored.
#[derive(Clone, Copy, Debug)]
pub struct ScorerSlate<'a> {
    /// The shopper. Reasons that rest on their own purchases are masked.
    pub user: &'a UserId,
    /// The time of the request.
    pub now: Timestamp,
    /// The shopper's history, oldest first.
    pub history: &'a [HistoryEvent],
    /// The vector of their pattern, if they have one.
    pub pattern: Option<&'a [f32]>,
    /// That pattern; empty if they have none.
    pub pattern_text: &'a str,
    /// The shopper's vector in the Rechead's space, if it was computed before.
    pub rechead: Option<&'a [f32]>,
    /// The item that a language model expects the shopper to want, if one was asked.
    pub expected_item: Option<u32>,
    /// The counts of the history, if they were made before.
    pub counts: Option<&'a Arc<HistoryCounts>>,
    /// Where the candidates' live features come from.
    pub live: LiveRows<'a>,
    /// What the request says in words, if the model hears it.
    pub query: Option<&'a SpokenQuery>,
    /// The items to score.
    pub candidates: &'a [SlateItem],
}

/// Where live features come from.
#[derive(Clone, Copy, Debug, Default)]
pub enum LiveRows<'a> {
    /// Nothing is counted live.
    #[default]
    None,
    /// They are computed from counts.
    Count(&'a LiveCounts),
    /// They were computed before, in the order of the candidates.
    Given(&'a [LiveVector]),
}

/// A candidate as the scorer knows it.
#[derive(Clone, Debug)]
pub enum SlateItem {
    /// An item of the catalogue, by number.
    Known(u32),
    /// An item whose text came with the request, or after the bundle was made.
    Inline {
        /// Its text.
        text: ItemText,
        /// Its number in the statistics, if events of it are counted.
        number: Option<u32>,
        /// Its price, if it was put with one.
        price: Option<f32>,
    },
}

/// The scores of a slate.
#[derive(Clone, Debug, Default)]
pub struct SlateScores {
    /// A logit per candidate.
    pub logits: Vec<f32>,
    /// The Rechead's score per candidate; empty where the bundle has none.
    pub rechead: Vec<f32>,
    /// The weight of that score in the fused one.
    rechead_weight: f32,
    /// Attention weights of the candidates' reasons: (candidates, [`REASONS_MAX`]).
    attention: Vec<f32>,
}

/// Buffers of one thread, reused for every slate.
#[derive(Debug)]
pub struct ScoringScratch {
    network: nn::FusedScratch,
    scores: nn::FusedScores,
    inputs: NetworkInputs,
    direct: PathBuffers,
}

/// The buffers of both paths that read features alone.
#[derive(Debug, Default)]
pub(super) struct PathBuffers {
    direct: DirectBuffers,
    query: QueryBuffers,
}

/// The network's inputs for one slate.
#[derive(Debug, Default)]
pub(super) struct NetworkInputs {
    history: Vec<HistoryRow<'static>>,
    features: Vec<FeatureVector>,
    /// Empty where nothing is counted live.
    live: Vec<LiveVector>,
    /// Empty where the direct path does not read them.
    vectors: Vec<VectorFigures>,
    /// Empty where the request says nothing of the slate.
    query: Vec<QueryVector>,
    /// (candidates, [`REASONS_MAX`])
    overlaps: Vec<[f32; REASONS_MAX]>,
    /// The rows of inline candidates, `None` for the others.
    inline: Vec<Option<InlineItem>>,
    /// Which reasons of each candidate are left out, a bit for each. Empty where none is.
    left_out: Vec<u16>,
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
    /// Projects the cards' vectors once, so that no request has to.
    pub fn new(
        catalog: Arc<Catalog>,
        cards: Cards,
        reader: Arc<TextReader>,
        network: Arc<FusedDin>,
    ) -> Result<Self, FusedShapeError> {
        let items = Arc::new(network.items(&cards.item_vectors)?);
        let reasons = Arc::new(network.reasons(&cards.reason_vectors)?);
        // The encoder that a shop trains is no wider than the cards' vectors.
        let is_kept =
            reader.width() == TEXT_WIDTH && cards.item_vectors.len() == catalog.len() * TEXT_WIDTH;
        let item_vectors =
            is_kept.then(|| Arc::new(ItemVectors::of(&cards.item_vectors, TEXT_WIDTH)));
        let prices = cards.items.iter().map(|card| card.stats.price);
        let prices = CategoryPrices::of(&catalog, prices);
        let (direct, query, rechead, live) = (None, None, None, None);
        let fact_sales = Arc::new(FactSales::of(&catalog, &cards));
        Ok(Self {
            catalog,
            cards,
            reader,
            item_vectors,
            network,
            direct,
            query,
            rechead,
            items,
            reasons,
            prices,
            live,
            fact_sales,
        })
    }

    /// The same model with wide vectors of its items, which the reader's encoder made.
    pub fn with_item_vectors(mut self, vectors: Arc<ItemVectors>) -> Self {
        self.item_vectors = Some(vectors);
        self
    }

    /// The same model with a Rechead, whose score has this weight.
    pub fn with_rechead(mut self, network: Rechead, weight: f32) -> Self {
        let vectors = self.item_vectors.as_ref();
        self.rechead = Some(RecheadScorer::new(network, weight, &self.cards, vectors));
        self
    }

    /// The same model, which counts live features from these statistics on.
    pub fn with_statistics(mut self, statistics: Arc<Statistics>) -> Self {
        let texts = (0..self.catalog.len() as u32).map(|item| self.catalog.text(item));
        let words = Arc::new(WordWeights::of(texts));
        self.live = Some(LiveModel { words, statistics });
        self
    }

    /// What is counted live at `now` for a shopper with this past, by these statistics. `None` where no path would read
    /// it.
    pub fn live_counts(
        &self,
        statistics: &Arc<Statistics>,
        past: Arc<ShopperPast>,
        now: Timestamp,
    ) -> Option<LiveCounts> {
        let is_read = self.direct.is_some() || self.query.is_some();
        let live = self.live.as_ref().filter(|_| is_read)?;
        Some(LiveCounts::of(statistics.clone(), live.words.clone(), past, now))
    }

    /// The same model with a direct path, whose logits are added to the network's.
    pub fn with_direct(mut self, direct: Arc<DirectScorer>) -> Self {
        self.direct = Some(direct);
        self
    }

    /// The same model with a query path, whose logits are added for a request in words.
    pub fn with_query(mut self, query: Arc<QueryScorer>) -> Self {
        self.query = Some(query);
        self
    }

    /// The query path, if the bundle has one.
    pub fn query(&self) -> Option<&QueryScorer> {
        self.query.as_deref()
    }

    /// What a request says in a query and a profile. `None` if they say nothing, and where no query path would hear it.
    pub fn spoken(&self, query: Option<&str>, profile: Option<&str>) -> Option<SpokenQuery> {
        let path = self.query.as_ref().filter(|_| query.is_some() || profile.is_some())?;
        let [query, profile] = [query, profile].map(Option::unwrap_or_default);
        SpokenQuery::of(&path.index, &self.reader, query, profile)
    }

    /// The direct path, if the bundle has one.
    pub fn direct(&self) -> Option<&DirectScorer> {
        self.direct.as_deref()
    }

    /// The vector of a shopper in the Rechead's space, empty where there is no Rechead.
    pub fn shopper_vector(&self, texts: ShopperTexts<'_>) -> Vec<f32> {
        let rechead = self.rechead.as_ref();
        rechead.map_or_else(Vec::new, |rechead| rechead.shopper_vector(texts, self.text_sources()))
    }

    /// Whether the vectors of this user's card are those of this model's Rechead.
    pub fn matches_rechead_vectors(&self, user: &UserCard) -> bool {
        self.rechead
            .as_ref()
            .is_none_or(|rechead| rechead.matches_vectors(user, self.text_sources()))
    }

    /// What the texts of its items are read from.
    pub fn text_sources(&self) -> TextSources<'_> {
        TextSources { catalog: &self.catalog, cards: &self.cards, reader: &self.reader }
    }

    /// The Rechead, if the bundle has one.
    pub fn rechead(&self) -> Option<&RecheadScorer> {
        self.rechead.as_ref()
    }

    /// Buffers for [`Self::score`].
    pub fn scratch(&self) -> ScoringScratch {
        ScoringScratch {
            network: self.network.scratch(),
            scores: nn::FusedScores::default(),
            inputs: NetworkInputs::default(),
            direct: PathBuffers::default(),
        }
    }

    /// The reasons on a candidate's card.
    pub fn reasons(&self, item: &SlateItem) -> &[CardReason] {
        match item {
            SlateItem::Known(number) => &self.cards.items[*number as usize].reasons,
            SlateItem::Inline { .. } => &[],
        }
    }

    /// Scores a slate. A candidate's score does not depend on the order of the slate. Without a direct path, it does not
    /// depend on the other candidates either.
    pub fn score(&self, slate: &ScorerSlate<'_>, scratch: &mut ScoringScratch) -> SlateScores {
        let ScoringScratch { network, scores, inputs, direct } = scratch;
        self.fill_inputs(slate, inputs);
        let candidates = self.candidate_rows(slate, inputs);
        let rechead = self.rechead_scores(slate);
        self.network
            .score(&self.network_slate(slate, inputs, &candidates), network, scores)
            .expect("rows made from the model's own tables fit its network");
        self.slate_scores(slate, inputs, scores, rechead, direct)
    }

    /// Scores a slate as if some reasons were on no card: of each candidate, those whose bit is set. An evaluation asks
    /// what a reason is worth to the scorer.
    pub fn score_without(
        &self,
        slate: &ScorerSlate<'_>,
        left_out: &[u16],
        scratch: &mut ScoringScratch,
    ) -> SlateScores {
        scratch.inputs.left_out.extend_from_slice(left_out);
        let scores = self.score(slate, scratch);
        scratch.inputs.left_out.clear();
        scores
    }

    /// Whether any score depends on the network's view of the history. A deep network of weight 0 is kept for its
    /// attention over the reasons, which reads the pattern alone: then most of its work is left out.
    fn reads_history(&self) -> bool {
        let weight = self.direct.as_ref().map_or(1.0, |direct| direct.deep_weight());
        weight > 0.0 && self.network.shape().ablation.history
    }

    /// The slate in the network's form.
    pub(super) fn network_slate<'a>(
        &'a self,
        slate: &ScorerSlate<'a>,
        inputs: &'a NetworkInputs,
        candidates: &'a [CandidateRow<'a>],
    ) -> nn::FusedSlate<'a> {
        nn::FusedSlate {
            items: &self.items,
            reasons: &self.reasons,
            history: if self.reads_history() { &inputs.history } else { &[] },
            pattern: slate.pattern.filter(|pattern| !pattern.is_empty()),
            candidates,
        }
    }

    /// Copies a slate's scores by the network out of the buffers, and joins them with the direct path's.
    pub(super) fn slate_scores(
        &self,
        slate: &ScorerSlate<'_>,
        inputs: &NetworkInputs,
        scores: &nn::FusedScores,
        rechead: Vec<f32>,
        buffers: &mut PathBuffers,
    ) -> SlateScores {
        let count = slate.candidates.len();
        let mut logits = scores.logits[..count].to_vec();
        if let Some(direct) = &self.direct {
            let named = (&*rechead, &*inputs.vectors);
            direct.join(&inputs.features, &inputs.live, named, &mut buffers.direct, &mut logits);
        }
        if let Some(query) = self.query.as_ref().filter(|_| !inputs.query.is_empty()) {
            let rows = (&*inputs.features, &*inputs.live, &*inputs.query);
            query.add(rows, &mut buffers.query, &mut logits);
        }
        SlateScores {
            logits,
            rechead,
            rechead_weight: self.rechead.as_ref().map_or(0.0, RecheadScorer::weight),
            attention: self.attention(slate, inputs, scores),
        }
    }

    /// The network's attention over the reasons of every candidate, or their backing where it does not read reasons.
    fn attention(
        &self,
        slate: &ScorerSlate<'_>,
        inputs: &NetworkInputs,
        scores: &nn::FusedScores,
    ) -> Vec<f32> {
        if self.network.shape().ablation.reasons {
            return scores.attention[..slate.candidates.len() * REASONS_MAX].to_vec();
        }
        let candidates = slate.candidates.iter().zip(&inputs.overlaps);
        let backed = candidates.map(|(item, overlaps)| {
            let reasons = self.reasons(item);
            backed_attention(reasons, &overlaps[..reasons.len()])
        });
        backed.flatten().collect()
    }

    /// The Rechead's score of each candidate, empty where there is no Rechead.
    fn rechead_scores(&self, slate: &ScorerSlate<'_>) -> Vec<f32> {
        let Some(rechead) = &self.rechead else { return Vec::new() };
        let shopper = self.shopper_vector_of(slate);
        let score = |item: &SlateItem| match item {
            SlateItem::Known(number) => rechead.score(&shopper, *number),
            SlateItem::Inline { text, .. } => self.rechead_score_inline(rechead, &shopper, text),
        };
        slate.candidates.iter().map(score).collect()
    }

    /// The Rechead's score of an inline candidate.
    pub(super) fn rechead_score_inline(
        &self,
        rechead: &RecheadScorer,
        shopper: &[f32],
        text: &ItemText,
    ) -> f32 {
        rechead.score_text(shopper, &inline_text(text), &self.reader)
    }

    /// The vector of a slate's shopper, computed now unless it was before.
    pub(super) fn shopper_vector_of<'a>(&self, slate: &ScorerSlate<'a>) -> Cow<'a, [f32]> {
        let known = slate.rechead.filter(|vector| !vector.is_empty()).map(Cow::Borrowed);
        known.unwrap_or_else(|| {
            let ScorerSlate { history, pattern: thought, pattern_text: thought_text, .. } = *slate;
            let answer = slate.expected_item;
            Cow::Owned(self.shopper_vector(ShopperTexts { history, thought, thought_text, answer }))
        })
    }

    /// Fills in the events, and the features and overlaps of every candidate.
    pub(super) fn fill_inputs(&self, slate: &ScorerSlate<'_>, inputs: &mut NetworkInputs) {
        let (catalog, history) = (&*self.catalog, slate.history);
        let context = if let Some(counts) = slate.counts {
            FeatureContext::with_counts(catalog, history, counts.clone())
        } else {
            let month = crate::bundle::month(slate.now);
            FeatureContext::new(catalog, &self.cards, history, slate.now, month)
        };
        self.fill_live(slate, &mut inputs.live);
        self.fill_query(slate, &mut inputs.query);
        self.fill_vectors(slate, &mut inputs.vectors);
        let NetworkInputs { history, features, overlaps: slate_overlaps, inline, left_out, .. } =
            inputs;
        history.clear();
        history.extend(context.history().iter().map(|event| HistoryRow {
            item: ItemRef::Row(event.item),
            age: context.age(event),
            kind: event.kind as u8,
        }));
        inline.clear();
        inline.extend(slate.candidates.iter().map(|item| self.inline_row(item)));
        features.clear();
        slate_overlaps.clear();
        for (row, item) in slate.candidates.iter().enumerate() {
            let mut overlaps = [0.0; REASONS_MAX];
            let reasons = self.reasons(item);
            let left_out = left_out.get(row).copied().unwrap_or(0);
            let is_left_out = |m: usize| left_out >> m & 1 == 1;
            for (m, (overlap, reason)) in overlaps.iter_mut().zip(reasons).enumerate() {
                *overlap = if is_left_out(m) { 0.0 } else { context.overlap(reason) };
            }
            let candidate = match item {
                SlateItem::Known(number) => {
                    CandidateItem::Known(*number, &self.cards.items[*number as usize])
                }
                SlateItem::Inline { text, price, .. } => {
                    CandidateItem::Inline(text, self.ranked_price(text, *price))
                }
            };
            features.push(context.features(candidate, &overlaps[..reasons.len()]));
            for (m, (overlap, reason)) in overlaps.iter_mut().zip(reasons).enumerate() {
                if is_left_out(m) || FeatureContext::is_supported_by(reason, slate.user) {
                    *overlap = nn::MASKED_OVERLAP;
                }
            }
            slate_overlaps.push(overlaps);
        }
    }

    /// The price of an inline candidate, ranked among those on the cards of its category.
    fn ranked_price(&self, text: &ItemText, price: Option<f32>) -> Option<RankedPrice> {
        let category = self.catalog.category_number(&text.category);
        price.map(|price| RankedPrice { price, rank: self.prices.rank(category, Some(price)) })
    }

    /// Fills in the live features of every candidate.
    fn fill_live(&self, slate: &ScorerSlate<'_>, live: &mut Vec<LiveVector>) {
        live.clear();
        match slate.live {
            LiveRows::None => {}
            LiveRows::Given(rows) => live.extend_from_slice(rows),
            LiveRows::Count(counts) => {
                let vector = |item: &SlateItem| self.live_vector(counts, item);
                live.extend(slate.candidates.iter().map(vector));
            }
        }
    }

    /// Fills in the cosines of every candidate with the history's items, if the direct path reads them.
    fn fill_vectors(&self, slate: &ScorerSlate<'_>, figures: &mut Vec<VectorFigures>) {
        figures.clear();
        let is_read = self.direct.as_ref().is_some_and(|direct| direct.reads_vectors());
        let Some(vectors) = self.item_vectors.as_ref().filter(|_| is_read) else { return };
        let history = HistoryVectors::of(vectors, slate.history);
        figures.extend(slate.candidates.iter().map(|item| match item {
            SlateItem::Known(number) => history.known(*number),
            SlateItem::Inline { text, .. } => history.inline(&self.reader.wide(&inline_text(text))),
        }));
    }

    /// Fills in the query features of every candidate; none where the request says nothing of the slate.
    fn fill_query(&self, slate: &ScorerSlate<'_>, rows: &mut Vec<QueryVector>) {
        rows.clear();
        let Some((spoken, path)) = slate.query.zip(self.query.as_ref()) else { return };
        let view = QueryView {
            index: &path.index,
            cards: &self.cards,
            reader: &self.reader,
            vectors: self.item_vectors.as_deref(),
        };
        let items = slate.candidates.iter().map(|item| match item {
            SlateItem::Known(number) => QueryItem::Known(*number),
            SlateItem::Inline { text, price, .. } => QueryItem::Inline(text, *price),
        });
        view.rows(spoken, items, rows);
    }

    fn live_vector(&self, counts: &LiveCounts, item: &SlateItem) -> LiveVector {
        match item {
            SlateItem::Known(number) => counts.vector(&self.catalog, LiveItem::Known(*number)),
            SlateItem::Inline { text, number, .. } => {
                let category = self.catalog.category_number(&text.category);
                let text = &inline_text(text);
                counts.vector(&self.catalog, LiveItem::New { number: *number, category, text })
            }
        }
    }

    /// The candidates in the network's form, from their inputs.
    pub(super) fn candidate_rows<'a>(
        &self,
        slate: &ScorerSlate<'a>,
        inputs: &'a NetworkInputs,
    ) -> Vec<CandidateRow<'a>> {
        let row = |(row, candidate): (usize, &SlateItem)| {
            let item = match (candidate, &inputs.inline[row]) {
                (SlateItem::Known(number), _) => ItemRef::Row(*number),
                (SlateItem::Inline { .. }, Some(item)) => ItemRef::Inline(item),
                (SlateItem::Inline { .. }, None) => {
                    unreachable!("every inline item was given a row")
                }
            };
            let overlaps = &inputs.overlaps[row][..self.reasons(candidate).len()];
            let (reasons, overlap) = self.unmasked_reasons(candidate, overlaps);
            CandidateRow { item, features: inputs.features[row].as_slice(), reasons, overlap }
        };
        slate.candidates.iter().enumerate().map(row).collect()
    }

    fn inline_row(&self, item: &SlateItem) -> Option<InlineItem> {
        let SlateItem::Inline { text, .. } = item else { return None };
        let vector = self.reader.vector(&inline_text(text));
        let row = self.network.item_inline(&vector);
        Some(row.expect("the encoder's vectors are as wide as the network's texts"))
    }

    /// The rows of a candidate's reasons and their overlaps, empty where all are masked.
    fn unmasked_reasons<'d>(
        &self,
        item: &SlateItem,
        overlaps: &'d [f32],
    ) -> (Range<u32>, &'d [f32]) {
        match item {
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
    /// The final score of the candidate in this row, which came at this position of the order given.
    pub fn fused(&self, row: usize, penalty: PositionPenalty, position: usize) -> f32 {
        let rechead = self.rechead.get(row).map_or(0.0, |score| self.rechead_weight * score);
        penalty.fuse(self.logits[row], position) + rechead
    }

    /// Attention weights of the reasons of the candidate in this row, in the order of its card. They sum to one, or
    /// are all zero where there is no reason.
    pub fn attention(&self, row: usize) -> &[f32] {
        &self.attention[row * REASONS_MAX..][..REASONS_MAX]
    }
}
