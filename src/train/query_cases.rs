//! Cases of requests in words: a past slate, one item of it that was then taken, and a query that asks for that item.

use super::asked_query::{QueryClass, QueryWriter, shared_words};
use super::batch::read_candidate;
use super::cases::Case;
use super::direct_slates::DirectSlate;
use super::synthetic_query::SyntheticQuery;
use super::training_data::TrainingData;
use crate::bundle::month;
use crate::scorer::DirectColumns;
use crate::scorer::features::{
    FeatureContext, LiveVector, QueryIndex, QueryItem, QueryVector, QueryView, SpokenQuery,
};
use crate::simulate::Wordings;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

/// Keeps the draw of held-out shoppers apart from other draws.
const HELD_OUT_SEED: u64 = 0x51_0e_27;

/// A case with a query, and how the query was made.
#[derive(Clone, Debug)]
pub(super) struct QueryCase {
    /// The case: the item that is asked for is the only relevant one.
    pub(super) case: Case,
    /// How the query was made.
    pub(super) class: QueryClass,
    /// Words that the query shares with the title of the item asked for.
    pub(super) shared: usize,
}

/// What the rows of query cases are read from.
pub(super) struct QueryData<'a> {
    pub(super) data: &'a TrainingData,
    pub(super) index: Arc<QueryIndex>,
}

/// Whether a shopper is left out of the training of the query path.
pub(super) fn is_held_out(user: u32, seed: u64, share: f64) -> bool {
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ HELD_OUT_SEED ^ (u64::from(user) << 20));
    rng.random_bool(share)
}

// === impl QueryCase ===

impl QueryCase {
    /// Asks for one of the items of the slate that were taken. The others leave the slate: they are right, but not
    /// asked for. `None` where nothing of the slate was taken, or the catalogue says too little.
    pub(super) fn of(
        writer: &QueryWriter<'_>,
        data: &TrainingData,
        case: &Case,
        class: QueryClass,
        wordings: Wordings,
        rng: &mut ChaCha8Rng,
    ) -> Option<Self> {
        let is_taken = |item: &u32| case.relevant.contains(item);
        let taken: Vec<u32> = case.slate.iter().copied().filter(is_taken).collect();
        let asked = *taken.choose(rng)?;
        let query = writer.write(class, (&case.history, asked), wordings, rng)?;
        let kept = |item: &u32| *item == asked || !is_taken(item);
        let live = case.slate.iter().zip(&case.live).filter(|(item, _)| kept(item));
        let live = live.map(|(_, live)| *live).collect();
        let rechead = case.slate.iter().zip(&case.rechead).filter(|(item, _)| kept(item));
        let rechead = rechead.map(|(_, score)| *score).collect();
        let slate = case.slate.iter().copied().filter(kept).collect();
        let shared = shared_words(&query.query_text, &data.catalog.item(asked).title);
        let (query_text, profile) = (query.query_text, query.profile);
        let synthetic_query = SyntheticQuery { profile, query_text };
        let relevant = vec![asked];
        let case = Case { synthetic_query, slate, relevant, live, rechead, ..case.clone() };
        Some(Self { case, class, shared })
    }
}

// === impl QueryData ===

impl QueryData<'_> {
    /// The query features of each candidate of a case; none where the query says nothing of its slate.
    pub(super) fn vectors(&self, case: &Case) -> Vec<QueryVector> {
        let SyntheticQuery { query_text, profile } = &case.synthetic_query;
        let (index, reader) = (&*self.index, &*self.data.reader);
        let mut rows = Vec::new();
        if let Some(spoken) = SpokenQuery::of(index, reader, query_text, profile) {
            let cards = &self.data.snapshots[case.snapshot].cards;
            let view = QueryView { index, cards, reader, vectors: Some(&self.data.item_vectors) };
            view.rows(&spoken, case.slate.iter().map(|&item| QueryItem::Known(item)), &mut rows);
        }
        rows
    }

    /// The slate of a case as the query path reads it. It has no row where the query says nothing of it.
    pub(super) fn slate(
        &self,
        columns: &DirectColumns,
        case: &Case,
        offsets: Vec<f32>,
    ) -> DirectSlate {
        let cards = &self.data.snapshots[case.snapshot].cards;
        let (history, month) = (&case.history, month(case.now));
        let context = FeatureContext::new(&self.data.catalog, cards, history, case.now, month);
        let vectors = self.vectors(case);
        let (mut rows, unknown) = (Vec::new(), LiveVector::default());
        for (at, (&item, vector)) in case.slate.iter().zip(&vectors).enumerate() {
            let (_, features) = read_candidate(&context, item, &cards.items[item as usize]);
            let live = case.live.get(at).unwrap_or(&unknown);
            columns.push_query_row(&features, live, vector, &mut rows);
        }
        let taken = case.slate.iter().map(|item| case.relevant.contains(item)).collect();
        DirectSlate { rows, taken, offsets }
    }
}
