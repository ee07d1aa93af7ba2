//! Opens the scorer's model of a bundle, and checks it by its golden requests.

use super::direct::{DirectError, DirectFile, DirectScorer};
use super::features::{FEATURE_COUNT, past_of};
use super::rechead::RecheadFile;
use super::{
    Fusion, Gpu, ItemVectors, LiveRows, QueryError, QueryFile, QueryScorer, ScorerModel,
    ScorerSlate, ScoringScratch, SlateItem, SlateScores, TextReader,
};
use crate::bundle::{Bundle, BundleError, GoldenRequest, Part};
use crate::language::TextTokenizer;
use crate::nn::text::{TEXT_WIDTH, TextEncoder};
use crate::nn::{DinShape, FusedDin, Rechead, RecheadWiring, Weights};
use crate::statistics::Statistics;
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::sync::Arc;

/// The largest difference between a golden score and this machine's: machines add in different orders.
const GOLDEN_TOLERANCE: f32 = 1e-3;

/// The file of a bundle with the scorer's shape, and the weights of its fusion.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScorerFile {
    /// The currency sign before prices in texts that are written at request time.
    pub currency: String,
    /// The weights of its fusion with the order given.
    pub fusion: Fusion,
    /// The network's shape.
    pub shape: DinShape,
    /// The direct path. A bundle without one has the logits of the network alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct: Option<DirectFile>,
}

/// The scorer's model of an opened bundle.
#[derive(Debug)]
pub struct OpenedScorer {
    /// The model.
    pub model: Arc<ScorerModel>,
    /// Its file.
    pub file: ScorerFile,
    /// The bundle's version.
    pub version: String,
    golden: Vec<GoldenRequest>,
}

// === impl OpenedScorer ===

impl OpenedScorer {
    /// Builds the model of an opened bundle, and checks that its parts fit together.
    pub fn of(bundle: Bundle) -> Result<Self, BundleError> {
        fn wrong<E: Display>(part: Part) -> impl Fn(E) -> BundleError {
            move |error| BundleError::malformed(part.file(), &error.to_string())
        }
        let text = bundle.read_text(Part::ScorerShape)?;
        let file: ScorerFile = toml::from_str(&text).map_err(wrong(Part::ScorerShape))?;
        // The features are counted by the program, whatever the bundle says.
        if file.shape.features != FEATURE_COUNT {
            let (file_name, found) = (Part::ScorerShape.file(), file.shape.features);
            return Err(BundleError::field(file_name, "shape.features", found, FEATURE_COUNT));
        }
        let bytes = bundle.read(Part::Scorer)?;
        let weights = Weights::from_bytes(&bytes).map_err(wrong(Part::Scorer))?;
        let network = FusedDin::new(&weights, &file.shape).map_err(wrong(Part::Scorer))?;
        if file.shape.items != bundle.catalog.len() {
            let why = format!("it knows {} items, not the catalogue's", file.shape.items);
            return Err(BundleError::malformed(Part::Scorer.file(), &why));
        }
        let direct = open_direct(&bundle, &file)?;
        let query = open_query(&bundle)?;
        let tokens =
            TextTokenizer::load(&bundle.path(Part::Tokenizer)).map_err(wrong(Part::Tokenizer))?;
        let encoder = TextEncoder::load(&bundle.path(Part::Text), &bundle.path(Part::TextBert))
            .map_err(wrong(Part::Text))?;
        let reader = Arc::new(TextReader::new(tokens, encoder).map_err(wrong(Part::Tokenizer))?);
        let statistics = open_statistics(&bundle)?;
        let rechead = open_rechead(&bundle, &reader)?;
        if rechead.is_none() && direct.as_ref().is_some_and(DirectScorer::reads_rechead) {
            let expected = format!("none without {}", Part::Rechead.file());
            let (shape, field) = (Part::ScorerShape.file(), "direct.inputs");
            return Err(BundleError::field(shape, field, "`rechead`", expected));
        }
        let item_vectors = open_item_vectors(&bundle, reader.width())?;
        if let Some((network, _)) = &rechead {
            let found = bundle.cards.rechead_vectors.len();
            let expected = network.width() * bundle.catalog.len();
            if found != 0 && found != expected {
                let why =
                    format!("the Rechead's table of items has {found} numbers, not {expected}");
                return Err(BundleError::malformed(Part::CardVectors.file(), &why));
            }
        }
        let catalog = Arc::new(bundle.catalog);
        let model = ScorerModel::new(catalog, bundle.cards, reader, Arc::new(network));
        let mut model = model.map_err(wrong(Part::CardVectors))?;
        if let Some(direct) = direct {
            model = model.with_direct(Arc::new(direct));
        }
        if let Some(query) = query {
            model = model.with_query(Arc::new(query));
        }
        if let Some(vectors) = item_vectors {
            model = model.with_item_vectors(Arc::new(vectors));
        }
        if let Some((network, weight)) = rechead {
            model = model.with_rechead(network, weight);
        }
        if let Some(statistics) = statistics {
            model = model.with_statistics(Arc::new(statistics));
        }
        let model = Arc::new(model);
        Ok(Self { model, file, version: bundle.manifest.version, golden: bundle.golden })
    }

    /// The golden requests.
    pub fn golden(&self) -> &[GoldenRequest] {
        &self.golden
    }

    /// Scores the golden requests, and refuses a bundle whose scores this machine does not reproduce.
    pub fn check_golden(&self) -> Result<(), BundleError> {
        let mut scratch = self.model.scratch();
        self.compare_golden(|golden| score_golden(&self.model, golden, &mut scratch))
    }

    /// Scores the golden requests on a GPU, which warms it up.
    pub fn check_golden_on(&self, gpu: &mut Gpu) -> Result<(), BundleError> {
        self.compare_golden(|golden| {
            with_golden(&self.model, golden, |slate| {
                let scores = self.model.score_on(&[*slate], gpu);
                let scores = scores.map_err(|error| wrong_golden(&error.to_string()))?;
                scores.into_iter().next().ok_or_else(|| wrong_golden("the GPU returned no scores"))
            })?
        })
    }

    fn compare_golden(
        &self,
        mut score: impl FnMut(&GoldenRequest) -> Result<SlateScores, BundleError>,
    ) -> Result<(), BundleError> {
        for golden in &self.golden {
            let card = self.model.cards.users.get(&golden.user.as_str().into());
            if card.is_some_and(|card| !self.model.matches_rechead_vectors(card)) {
                let why = "its vectors in the Rechead's space were made by another Rechead";
                return Err(BundleError::malformed(Part::CardVectors.file(), why));
            }
            let scores = score(golden)?;
            let logits = scores.logits.iter().zip(&golden.scores);
            let far = logits.chain(scores.rechead.iter().zip(&golden.rechead)).find(|(a, b)| {
                let near = (**a - **b).abs() <= GOLDEN_TOLERANCE;
                !near
            });
            if let Some((found, expected)) = far {
                let why = format!(
                    "a golden request of {} scores {found} on this machine, not {expected}",
                    golden.user
                );
                return Err(wrong_golden(&why));
            }
        }
        Ok(())
    }
}

fn wrong_golden(why: &str) -> BundleError {
    BundleError::malformed(Part::Golden.file(), why)
}

/// The bundle's statistics, if it has some.
fn open_statistics(bundle: &Bundle) -> Result<Option<Statistics>, BundleError> {
    if !bundle.has(Part::Statistics) {
        return Ok(None);
    }
    let wrong = |why: String| BundleError::malformed(Part::Statistics.file(), &why);
    let statistics = Statistics::from_bytes(&bundle.read(Part::Statistics)?)
        .map_err(|error| wrong(error.to_string()))?;
    if statistics.len() != bundle.catalog.len() {
        return Err(wrong(format!(
            "it counts {} items, and the catalogue has {}",
            statistics.len(),
            bundle.catalog.len()
        )));
    }
    Ok(Some(statistics))
}

/// The items' wide vectors, if the bundle has some of its own. They are as wide as its encoder's.
fn open_item_vectors(bundle: &Bundle, width: usize) -> Result<Option<ItemVectors>, BundleError> {
    let part = Part::ItemVectors;
    if !bundle.has(part) {
        return Ok(None);
    }
    let wrong = |why: String| BundleError::malformed(part.file(), &why);
    let vectors =
        ItemVectors::from_bytes(&bundle.read(part)?).map_err(|error| wrong(error.to_string()))?;
    let (found, expected) = ((vectors.len(), vectors.width()), (bundle.catalog.len(), width));
    if found != expected {
        let ((items, width), (of_items, of_width)) = (found, expected);
        return Err(wrong(format!(
            "it has {items} vectors of {width} numbers, not {of_items} of {of_width}"
        )));
    }
    Ok(Some(vectors))
}

/// The bundle's direct path, if it has one. Its section in the scorer's file and its weights come together.
fn open_direct(bundle: &Bundle, file: &ScorerFile) -> Result<Option<DirectScorer>, BundleError> {
    let part = Part::Direct;
    let Some(direct) = &file.direct else {
        if bundle.has(part) {
            let (shape, found) = (Part::ScorerShape.file(), "missing");
            let expected = format!("a section, for {}", part.file());
            return Err(BundleError::field(shape, "direct", found, expected));
        }
        return Ok(None);
    };
    if !bundle.has(part) {
        let expected = format!("none without {}", part.file());
        return Err(BundleError::field(Part::ScorerShape.file(), "direct", "a section", expected));
    }
    let malformed =
        |part: Part, error: &dyn Display| BundleError::malformed(part.file(), &error.to_string());
    let weights = Weights::from_bytes(&bundle.read(part)?).map_err(|e| malformed(part, &e))?;
    let opened = DirectScorer::new(&weights, direct).map_err(|error| match &error {
        DirectError::Weights(_) => malformed(part, &error),
        _ => malformed(Part::ScorerShape, &error),
    })?;
    Ok(Some(opened))
}

/// The bundle's query path, if it has one.
fn open_query(bundle: &Bundle) -> Result<Option<QueryScorer>, BundleError> {
    if !bundle.has(Part::QueryShape) {
        return Ok(None);
    }
    let wrong =
        |part: Part, error: &dyn Display| BundleError::malformed(part.file(), &error.to_string());
    let text = bundle.read_text(Part::QueryShape)?;
    let file: QueryFile = toml::from_str(&text).map_err(|e| wrong(Part::QueryShape, &e))?;
    let weights =
        Weights::from_bytes(&bundle.read(Part::Query)?).map_err(|e| wrong(Part::Query, &e))?;
    let opened =
        QueryScorer::new(&weights, &file, &bundle.catalog).map_err(|error| match error {
            QueryError::Direct(error @ DirectError::Weights(_)) => wrong(Part::Query, &error),
            QueryError::Direct(error) => wrong(Part::QueryShape, &error),
            QueryError::Weight(_) => wrong(Part::QueryShape, &error),
        })?;
    Ok(Some(opened))
}

/// The bundle's Rechead and its weight, if it has one.
fn open_rechead(
    bundle: &Bundle,
    reader: &TextReader,
) -> Result<Option<(Rechead, f32)>, BundleError> {
    if !bundle.has(Part::RecheadShape) {
        return Ok(None);
    }
    let wrong =
        |part: Part, why: &dyn Display| BundleError::malformed(part.file(), &why.to_string());
    let text = bundle.read_text(Part::RecheadShape)?;
    let file: RecheadFile =
        toml::from_str(&text).map_err(|error| wrong(Part::RecheadShape, &error))?;
    let bytes = bundle.read(Part::Rechead)?;
    let network = Weights::from_bytes(&bytes)
        .and_then(|weights| Rechead::new(&weights, &file.shape))
        .map_err(|error| wrong(Part::Rechead, &error))?;
    let width = match file.shape.wiring {
        RecheadWiring::Paper => TEXT_WIDTH,
        RecheadWiring::Published => reader.width(),
    };
    if network.text_width() != width {
        let why = format!("it reads texts of width {}, not {width}", network.text_width());
        return Err(wrong(Part::Rechead, &why));
    }
    let (found, expected) = (file.shape.vocabulary, reader.vocabulary());
    if file.shape.wiring == RecheadWiring::Published && found != expected {
        let why = format!("its tables have {found} tokens, not the tokenizer's {expected}");
        return Err(wrong(Part::Rechead, &why));
    }
    Ok(Some((network, file.weight)))
}

/// Scores a golden request; its expected scores are not read.
pub fn score_golden(
    model: &ScorerModel,
    golden: &GoldenRequest,
    scratch: &mut ScoringScratch,
) -> Result<SlateScores, BundleError> {
    with_golden(model, golden, |slate| model.score(slate, scratch))
}

/// Calls `use_it` with the slate of a golden request.
fn with_golden<T>(
    model: &ScorerModel,
    golden: &GoldenRequest,
    use_it: impl FnOnce(&ScorerSlate<'_>) -> T,
) -> Result<T, BundleError> {
    let unknown = |what: &str| wrong_golden(&format!("{what} is not in the bundle"));
    let user = golden.user.as_str().into();
    let card = model.cards.users.get(&user).ok_or_else(|| unknown(&golden.user))?;
    let number = |item: &String| {
        let number = model.catalog.number(&item.as_str().into());
        number.map(SlateItem::Known).ok_or_else(|| unknown(item))
    };
    let candidates = golden.items.iter().map(number).collect::<Result<Vec<_>, _>>()?;
    let live = model.live.as_ref().and_then(|live| {
        let past = Arc::new(past_of(card.past()));
        model.live_counts(&live.statistics, past, golden.now)
    });
    Ok(use_it(&ScorerSlate {
        user: &user,
        now: golden.now,
        history: &card.history,
        pattern: Some(&card.vector),
        pattern_text: &card.pattern,
        rechead: Some(&card.rechead_vector),
        expected_item: card.expected_item,
        counts: None,
        live: live.as_ref().map_or(LiveRows::None, LiveRows::Count),
        query: None,
        candidates: &candidates,
    }))
}
