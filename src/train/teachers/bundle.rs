//! The language model of another bundle as a teacher.
//!
//! It knows items by its own bundle's semantic ids, so a question is translated to its own numbers of the same items. A
//! plain Hugging Face folder cannot be a teacher of this kind, because its model has never learned semantic ids. Such a model is
//! served elsewhere and prompted in words, as an `endpoint`.

use super::{SlateQuestion, Teacher, TeacherReply};
use crate::bundle::{Backing, Bundle, Catalog, HistoryEvent, Part};
use crate::reranker::{OfferedItem, RerankerFile, ShopperContext, Thought};
use crate::train::offline_reranker::{self, OfflineReranker};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

/// It thinks as in serving and is deterministic, so it has one attempt. Its prompts have no words for the label, so it
/// cannot explain.
pub struct BundleTeacher {
    version: String,
    reranker: OfflineReranker,
    thought_tokens_max: usize,
    /// Its numbers of our catalogue's items.
    items: Vec<Option<u32>>,
    /// Its numbers of our catalogue's attributes.
    attributes: Vec<Option<u32>>,
}

// === impl BundleTeacher ===

impl BundleTeacher {
    /// Starts the language model of a bundle. `catalog` is that of the bundle in training.
    pub fn open(folder: &Path, catalog: &Catalog) -> anyhow::Result<Self> {
        let opening = || {
            let folder = folder.display();
            format!(
                "opening the teacher {folder}, which must be a bundle (other models teach as `endpoint`)"
            )
        };
        let bundle = Bundle::open(folder).with_context(opening)?;
        let text = bundle.read_text(Part::Reranker).context("it has no language model");
        let text = text.with_context(opening)?;
        let file: RerankerFile = toml::from_str(&text).with_context(opening)?;
        let reasoned = file.reasoned.context("it does not climb to reasoned");
        let thought_tokens_max = reasoned.with_context(opening)?.thought_tokens_max;
        let items = catalog.items().iter().map(|item| bundle.catalog.number(&item.id)).collect();
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
            items,
            attributes,
        })
    }

    /// A history in its item numbers, without items that it does not have.
    fn history(&self, history: &[HistoryEvent]) -> Vec<HistoryEvent> {
        let event = |event: &HistoryEvent| {
            Some(HistoryEvent { item: self.items[event.item as usize]?, ..*event })
        };
        history.iter().filter_map(event).collect()
    }

    /// The candidates in its item numbers and our order. `None` if it does not have one of them.
    fn offers(&self, question: &SlateQuestion<'_>) -> Option<Vec<OfferedItem>> {
        let shopper = question.case.shopper();
        let SlateQuestion { catalog, cards, offered, .. } = question;
        let offers = crate::reranker::offers(catalog, cards, shopper, offered).into_iter();
        let known = |offer: OfferedItem| {
            let item = self.items[offer.item as usize]?;
            Some(OfferedItem { item, facts: offer.facts, because: self.backing(offer.because) })
        };
        offers.map(known).collect()
    }

    /// A candidate's backing in its numbers, if it has the item or attribute.
    fn backing(&self, because: Backing) -> Backing {
        let known = match because {
            Backing::Item(item) => self.items[item as usize].map(Backing::Item),
            Backing::Attribute(number) => self.attributes[number as usize].map(Backing::Attribute),
            Backing::Nothing => None,
        };
        known.unwrap_or(Backing::Nothing)
    }
}

impl Teacher for BundleTeacher {
    fn description(&self) -> Value {
        json!({ "bundle": self.version })
    }

    fn concurrency(&self) -> NonZeroUsize {
        NonZeroUsize::MIN.saturating_add(offline_reranker::CONCURRENCY - 1)
    }

    fn attempt(&self, question: &SlateQuestion<'_>, _number: u32) -> anyhow::Result<TeacherReply> {
        let Some(offers) = self.offers(question) else { return Ok(TeacherReply::NoAnswer) };
        let history = self.history(&question.case.history);
        let shopper = ShopperContext::of(&history, question.case.now);
        let compared = self.reranker.think(shopper, &offers, self.thought_tokens_max)?;
        let first = offers.iter().position(|offer| Some(&offer.item) == compared.order.first());
        let Some(index) = first else { return Ok(TeacherReply::NoAnswer) };
        let thought = Thought::parse(&compared.thought);
        Ok(thought.map_or(TeacherReply::Unreadable, |thought| {
            TeacherReply::Chose(question.offered[index], thought)
        }))
    }

    fn explain(
        &self,
        _question: &SlateQuestion<'_>,
        _taken: u32,
    ) -> anyhow::Result<Option<TeacherReply>> {
        Ok(None)
    }
}
