//! The language model of another bundle as a teacher.
//!
//! It knows the items by its own bundle's semantic ids, so it is asked about its own items of the same
//! names. A plain Hugging Face folder can't be asked like that: its model never learned what an id
//! means. Such a model is served elsewhere and asked in words, as an `endpoint`.

use super::{Question, Said, Teacher};
use crate::bundle::{Backing, Bundle, Catalog, HistoryEvent, Part};
use crate::reranker::{OfferedItem, RerankerFile, ShopperContext, Thought};
use crate::train::offline_reranker::{self, OfflineReranker};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

/// It thinks as it would when it serves, and always the same: so it is asked once. Its prompts have no
/// words for a candidate that was taken, so it can't be told.
pub struct BundleTeacher {
    version: String,
    reranker: OfflineReranker,
    thought_tokens_max: usize,
    /// What the items of our catalogue are to it.
    numbers: Vec<Option<u32>>,
    /// And their attributes.
    attributes: Vec<Option<u32>>,
}

// === impl BundleTeacher ===

impl BundleTeacher {
    /// Starts the language model of a bundle. `catalog` is ours.
    pub fn open(folder: &Path, catalog: &Catalog) -> anyhow::Result<Self> {
        let opening = || {
            let folder = folder.display();
            format!(
                "the teacher {folder}, which must be a bundle (other models teach as `endpoint`)"
            )
        };
        let bundle = Bundle::open(folder).with_context(opening)?;
        let file = bundle.path(Part::Reranker);
        let text = std::fs::read_to_string(&file).context("it has no language model");
        let text = text.with_context(opening)?;
        let file: RerankerFile = toml::from_str(&text).with_context(opening)?;
        let reasoned = file.reasoned.context("it does not climb to reasoned");
        let thought_tokens_max = reasoned.with_context(opening)?.thought_tokens_max;
        let numbers = catalog.items().iter().map(|item| bundle.catalog.number(&item.id)).collect();
        let attributes = (0..catalog.attributes_len() as u32).map(|number| {
            let (name, value) = catalog.attribute(number);
            bundle.catalog.attribute_number(name, value)
        });
        let attributes = attributes.collect();
        let decoder = bundle.path(Part::Decoder);
        let reranker = OfflineReranker::start(&decoder, &Arc::new(bundle.catalog))?;
        Ok(Self {
            version: bundle.manifest.version,
            reranker,
            thought_tokens_max,
            numbers,
            attributes,
        })
    }

    /// A history as it knows it: without what it never heard of.
    fn history(&self, history: &[HistoryEvent]) -> Vec<HistoryEvent> {
        let past = |past: &HistoryEvent| {
            Some(HistoryEvent { item: self.numbers[past.item as usize]?, ..*past })
        };
        history.iter().filter_map(past).collect()
    }

    /// What is offered as it knows it, in our order; `None` if it knows one of them not.
    fn offers(&self, question: &Question<'_>) -> Option<Vec<OfferedItem>> {
        let shopper = question.case.shopper();
        let Question { catalog, cards, offered, .. } = question;
        let offers = crate::reranker::offers(catalog, cards, shopper, offered).into_iter();
        let known = |offer: OfferedItem| {
            let item = self.numbers[offer.item as usize]?;
            Some(OfferedItem { item, facts: offer.facts, because: self.backing(offer.because) })
        };
        offers.map(known).collect()
    }

    /// What backs a candidate as it knows it.
    fn backing(&self, because: Backing) -> Backing {
        let known = match because {
            Backing::Item(item) => self.numbers[item as usize].map(Backing::Item),
            Backing::Attribute(number) => self.attributes[number as usize].map(Backing::Attribute),
            Backing::Nothing => None,
        };
        known.unwrap_or(Backing::Nothing)
    }
}

impl Teacher for BundleTeacher {
    fn about(&self) -> Value {
        json!({ "bundle": self.version })
    }

    fn at_once(&self) -> NonZeroUsize {
        NonZeroUsize::MIN.saturating_add(offline_reranker::CONCURRENCY - 1)
    }

    fn attempt(&self, question: &Question<'_>, _number: u32) -> anyhow::Result<Said> {
        let Some(offers) = self.offers(question) else { return Ok(Said::Nothing) };
        let history = self.history(&question.case.history);
        let shopper = ShopperContext::of(&history, question.case.now);
        let compared = self.reranker.think(shopper, &offers, self.thought_tokens_max)?;
        let first = offers.iter().position(|offer| Some(&offer.item) == compared.order.first());
        let Some(place) = first else { return Ok(Said::Nothing) };
        let thought = Thought::read(&compared.thought);
        Ok(thought.map_or(Said::Unreadable, |thought| Said::Took(question.offered[place], thought)))
    }

    fn explain(&self, _question: &Question<'_>, _taken: u32) -> anyhow::Result<Option<Said>> {
        Ok(None)
    }
}
