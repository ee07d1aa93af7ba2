//! Trains a language model to read and write the shop's items.
//!
//! GR2's mid-training (B2): next-token prediction on four kinds of text. All of them date from before validation starts,
//! and an item without an event by then occurs in none.

use crate::bundle::{Cards, Catalog, HISTORY_LEN, HistoryEvent, Part};
use crate::domain::EventKind;
use crate::evidence;
use crate::language::{END, LmTokenizer};
use crate::nn::decoder::TrainableDecoder;
use crate::reranker::{EVENTS_MAX, Prompts, ShopperContext, TRUNK_TOKENS_MAX};
use crate::train::dataset::{Dataset, PurchaseLine};
use crate::train::learner::evaluation_loss;
use crate::train::learner_config::TrainScope;
use crate::train::lesson::Lesson;
use crate::train::recipe::{BaseModel, LanguageModelRecipe, Recipe};
use crate::train::snapshot::Snapshot;
use crate::train::{Stage, Workspace, finetune};
use anyhow::Context as _;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

/// Positions of a model with random weights: a trunk, and as much again for thought and answer.
const POSITIONS_MAX: usize = 2 * TRUNK_TOKENS_MAX;
/// The most items of a basket in a sequence. A reseller's basket may have hundreds.
const BASKET_MAX: usize = 32;
/// The most purchases in a persona's text.
const PERSONA_ITEMS: usize = 8;
/// Held-out lessons of each kind, for evaluation.
const HELD_OUT: usize = 100;

/// Trains a language model on the shop's items.
#[derive(Debug)]
pub struct Midtrain;

impl Stage for Midtrain {
    fn name(&self) -> &'static str {
        "midtrain"
    }

    fn about(&self) -> &'static str {
        "Trains a language model on the shop's items: sequences of semantic ids, captions, shoppers in words, plain texts"
    }

    fn inputs(&self) -> &'static [Part] {
        &[Part::Catalog, Part::SemanticIds]
    }

    fn recipe_sections(&self) -> &'static [&'static str] {
        &["seed", "shop", "split", "language_model.begin", "language_model.midtrain"]
    }

    fn outputs(&self) -> &'static [Part] {
        &[Part::Midtrained]
    }

    fn is_enabled(&self, recipe: &Recipe) -> bool {
        recipe.language_model.is_some()
    }

    fn run(&self, workspace: &mut Workspace<'_>) -> anyhow::Result<Value> {
        let of = workspace.recipe.language_model()?.clone();
        let catalog = workspace.catalog()?;
        let dataset = workspace.dataset(&catalog)?;
        let until = dataset.split.validate;
        let currency = workspace.recipe.shop.currency.clone();
        let (_, cards) = Snapshot::write(&dataset, &catalog, until, &currency);
        let known = dataset.touched(catalog.len(), until);
        let corpus = Corpus {
            catalog: &catalog,
            dataset: &dataset,
            cards: &cards,
            known: &known,
            currency: &currency,
        };
        let (mut model, prompts, grown) = initial_model(&of.begin, &corpus, workspace.recipe.seed)?;

        let mut rng = ChaCha8Rng::seed_from_u64(workspace.recipe.seed);
        let mut kinds = corpus.lessons(&of, &prompts, &mut rng)?;
        let mut held_out = Vec::new();
        for (_, lessons) in &mut kinds {
            lessons.shuffle(&mut rng);
            held_out.push(lessons.split_off(lessons.len().saturating_sub(HELD_OUT)));
        }
        let lessons: Vec<Lesson> = kinds.iter().flat_map(|(_, lessons)| lessons).cloned().collect();
        let mut trainings = Map::new();
        if let (Some(teaching), Some(from)) = (&of.midtrain.new_tokens, grown) {
            let scope = TrainScope::NewTokens { from };
            let task = "midtrain_new_tokens";
            let (learned, report) =
                finetune::train(workspace, task, model, teaching, scope, &lessons)?;
            model = learned;
            trainings.insert("new_tokens".into(), finetune::report_json(&report));
        }
        let teaching = &of.midtrain.teaching;
        let scope = TrainScope::of(teaching.adapter_rank);
        let (model, report) =
            finetune::train(workspace, "midtrain", model, teaching, scope, &lessons)?;
        trainings.insert("everything".into(), finetune::report_json(&report));

        let folder = workspace.path(Part::Midtrained);
        finetune::save_model(&model, &prompts, &folder)?;
        let report = kinds.iter().zip(&held_out).map(|((kind, lessons), others)| {
            let tokens = lessons.iter().map(Lesson::total_tokens).sum::<usize>();
            let loss = match others.as_slice() {
                [] => None,
                others => Some(evaluation_loss(&model, others, teaching.max_batched_tokens)?),
            };
            let figures = json!({
                "lessons": lessons.len(),
                "tokens": tokens,
                "loss_on_others": loss.map(|loss| (loss * 1e4).round() / 1e4),
            });
            Ok(((*kind).to_owned(), figures))
        });
        let parameters: usize = model.parameters.iter().map(|(_, t)| t.elem_count()).sum();
        Ok(json!({
            "parameters": parameters,
            "vocabulary": model.config.vocabulary,
            "trainings": trainings,
            "kinds": report.collect::<anyhow::Result<Map<String, Value>>>()?,
        }))
    }
}

/// The initial model, its prompts, and the first new token if the model had a vocabulary before.
fn initial_model(
    base: &BaseModel,
    corpus: &Corpus<'_>,
    seed: u64,
) -> anyhow::Result<(TrainableDecoder, Prompts, Option<usize>)> {
    match base {
        BaseModel::Scratch(sizes) => {
            let mut texts = corpus.texts();
            // The words of the prompts get the frequency that they will have in training.
            let words = Prompts::texts().map(str::to_owned);
            texts.extend(std::iter::repeat_n(words, texts.len()).flatten());
            let texts = texts.iter().map(String::as_str);
            let prompts = Prompts::new(LmTokenizer::fit(texts, sizes.vocabulary)?, corpus.catalog)?;
            let ends = prompts.tokenizer().token(END).into_iter().collect();
            let config = sizes.config(prompts.tokenizer().len(), POSITIONS_MAX, ends);
            Ok((TrainableDecoder::random(config, seed)?, prompts, None))
        }
        BaseModel::Folder(folder) => {
            let opening = || format!("opening the language model {}", folder.display());
            let mut model = TrainableDecoder::open(folder).with_context(opening)?;
            let prompts = Prompts::open(folder, corpus.catalog).with_context(opening)?;
            let known = model.config.vocabulary;
            model.grow(known.max(prompts.tokenizer().len()), seed)?;
            Ok((model, prompts, Some(known)))
        }
    }
}

/// The sources of the texts.
struct Corpus<'a> {
    catalog: &'a Catalog,
    dataset: &'a Dataset,
    /// Cards as of the end of the training time.
    cards: &'a Cards,
    /// By item: whether it has an event by then.
    known: &'a [bool],
    currency: &'a str,
}

// === impl Corpus ===

impl Corpus<'_> {
    /// The lessons of each kind, by name.
    fn lessons(
        &self,
        of: &LanguageModelRecipe,
        prompts: &Prompts,
        rng: &mut ChaCha8Rng,
    ) -> anyhow::Result<[(&'static str, Vec<Lesson>); 4]> {
        let mut sequences = Vec::new();
        for _ in 0..of.midtrain.sequences {
            for user in 0..self.dataset.users.len() {
                sequences.extend(self.sequences(user, prompts, rng));
            }
        }
        let mut captions = Vec::new();
        for _ in 0..of.midtrain.captions {
            for item in self.items() {
                captions.extend(self.captions(item, prompts)?);
            }
        }
        let mut users: Vec<usize> = (0..self.dataset.users.len()).collect();
        users.shuffle(rng);
        let personas = users.into_iter().filter_map(|user| self.persona(user, prompts).transpose());
        let personas = personas.take(of.midtrain.personas_max).collect::<anyhow::Result<_>>()?;
        let reasons: Vec<&str> = self.reasons().collect();
        let texts = reasons.choose_multiple(rng, of.midtrain.texts_max);
        let texts = texts.map(|text| text_lesson(text, prompts)).collect::<anyhow::Result<_>>()?;
        Ok([
            ("sequences", sequences),
            ("captions", captions),
            ("personas", personas),
            ("texts", texts),
        ])
    }

    /// A shopper's log in pieces that fit a trunk. Each trunk is followed by the basket that was bought next.
    fn sequences(&self, user: usize, prompts: &Prompts, rng: &mut ChaCha8Rng) -> Vec<Lesson> {
        let split = self.dataset.split;
        let baskets: Vec<_> = self.dataset.baskets(user, split.begin, split.validate).collect();
        let bought = &self.dataset.bought[user];
        let mut lessons = Vec::new();
        let mut end = baskets.len().checked_sub(1 + rng.random_range(0..baskets.len().clamp(1, 4)));
        while let Some(at) = end {
            let (line, now) = (baskets[at].start, bought[baskets[at].start].time);
            let history = self.dataset.history(user, line, false, EVENTS_MAX);
            let mut tokens = prompts.trunk(ShopperContext::of(&history, now));
            for b in bought[baskets[at].clone()].iter().take(BASKET_MAX) {
                tokens.extend(prompts.item(b.item));
            }
            lessons.push(Lesson::text(tokens));
            let Some(earliest) = history.first().filter(|_| history.len() == EVENTS_MAX) else {
                break;
            };
            end =
                baskets[..at].iter().rposition(|basket| bought[basket.start].time <= earliest.time);
        }
        lessons
    }

    /// An item's text after its id, and its id after its text.
    fn captions(&self, item: u32, prompts: &Prompts) -> anyhow::Result<[Lesson; 2]> {
        let (vocabulary, id) = (prompts.tokenizer(), prompts.item(item));
        let text = self.catalog.text(item);
        let after = vocabulary.encode(&format!(" is {text}."))?;
        let before = vocabulary.encode(&format!("{text} is"))?;
        let end = vocabulary.token(END);
        let lesson = |parts: [&[u32]; 2]| {
            Lesson::text(parts.into_iter().flatten().copied().chain(end).collect())
        };
        Ok([lesson([id, &after]), lesson([&before, id])])
    }

    /// A shopper's pattern in words, then their latest purchases.
    fn persona(&self, user: usize, prompts: &Prompts) -> anyhow::Result<Option<Lesson>> {
        let history = self.latest_events(user);
        if history.is_empty() {
            return Ok(None);
        }
        let pattern =
            evidence::pattern_text(self.catalog, &self.cards.items, &history, self.currency);
        let vocabulary = prompts.tokenizer();
        let mut tokens = vocabulary.encode(&format!("{pattern} PurchaseLine"))?;
        let bought = history.iter().filter(|event| event.kind == EventKind::Purchase).rev();
        for event in bought.take(PERSONA_ITEMS) {
            tokens.extend(prompts.item(event.item));
        }
        tokens.extend(vocabulary.token(END));
        Ok(Some(Lesson::text(tokens)))
    }

    /// A shopper's latest events before the end of the training time.
    fn latest_events(&self, user: usize) -> Vec<HistoryEvent> {
        let until = self.dataset.split.validate;
        let bought = &self.dataset.bought[user];
        let line = bought.partition_point(|b| b.time < until);
        let Some(last) = line.checked_sub(1) else { return Vec::new() };
        let mut history = self.dataset.history(user, last, true, HISTORY_LEN - 1);
        let PurchaseLine { item, time, .. } = bought[last];
        history.push(HistoryEvent { item, time, kind: EventKind::Purchase });
        history
    }

    /// The items with an event before the end of the training time.
    fn items(&self) -> impl Iterator<Item = u32> {
        (0..).zip(self.known).filter(|(_, known)| **known).map(|(item, _)| item)
    }

    fn reasons(&self) -> impl Iterator<Item = &str> {
        let cards = self.items().map(|item| &self.cards.items[item as usize]);
        cards.flat_map(|card| &card.reasons).map(|reason| &*reason.text)
    }

    /// The texts that a tokenizer is trained on.
    fn texts(&self) -> Vec<String> {
        let items = self.items().map(|item| self.catalog.text(item));
        items.chain(self.reasons().map(str::to_owned)).collect()
    }
}

fn text_lesson(text: &str, prompts: &Prompts) -> anyhow::Result<Lesson> {
    let mut tokens = prompts.tokenizer().encode(text)?;
    tokens.extend(prompts.tokenizer().token(END));
    Ok(Lesson::text(tokens))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{CatalogRow, SemanticIds};
    use crate::domain::Timestamp;
    use crate::train::dataset::Split;

    /// Four items: one bought before validation starts, one only viewed by then, one bought later, and one without an event.
    fn shop() -> (Catalog, Dataset) {
        let row = |title: &str| CatalogRow {
            id: title.into(),
            title: title.into(),
            category: "kitchen".into(),
            attributes: Vec::new(),
            price: Some(1.0),
        };
        let catalog = Catalog::new(["Old Mug", "Seen Bowl", "New Jar", "Lone Pan"].map(row));
        let bought = |item, time: Timestamp| PurchaseLine { item, time, basket: item, first: true };
        let past = |item, time| HistoryEvent { item, time, kind: EventKind::Click };
        let dataset = Dataset {
            users: vec!["u".into()],
            bought: vec![vec![bought(0, 10), bought(2, 60)]],
            browsed: vec![vec![past(1, 20), past(2, 50)]],
            purchases: Vec::new(),
            split: Split { begin: 0, train: 5, validate: 50, test: 80, end: 100 },
        };
        (catalog, dataset)
    }

    #[test]
    fn a_basket_of_hundreds_is_truncated_to_the_positions() {
        let (catalog, mut dataset) = shop();
        let ids = SemanticIds::draw(&[0, 1, 2, 3], 2, 4, &mut ChaCha8Rng::seed_from_u64(1));
        let catalog = Catalog::new(catalog.rows()).with_semantic_ids(Some(ids.unwrap()));
        let line =
            |at: usize| PurchaseLine { item: at as u32 % 4, time: 10, basket: 0, first: false };
        dataset.bought[0] = (0..600).map(line).collect();
        let words: Vec<_> = std::iter::repeat_n(Prompts::texts(), 4).flatten().collect();
        let prompts = Prompts::new(LmTokenizer::fit(words, 512).unwrap(), &catalog).unwrap();
        let (_, cards) = Snapshot::write(&dataset, &catalog, dataset.split.validate, "");
        let known = [true; 4];
        let (catalog, dataset, cards) = (&catalog, &dataset, &cards);
        let corpus = Corpus { catalog, dataset, cards, known: &known, currency: "" };
        let lessons = corpus.sequences(0, &prompts, &mut ChaCha8Rng::seed_from_u64(1));
        assert_eq!(lessons.len(), 1);
        let trunk = prompts.trunk(ShopperContext::of(&[], 10)).len();
        assert_eq!(lessons[0].total_tokens(), trunk + BASKET_MAX * prompts.levels());
        const { assert!(TRUNK_TOKENS_MAX + BASKET_MAX * 6 <= POSITIONS_MAX) };
    }

    #[test]
    fn an_item_without_an_event_occurs_in_no_text() {
        let (catalog, dataset) = shop();
        let until = dataset.split.validate;
        let (_, mut cards) = Snapshot::write(&dataset, &catalog, until, "");
        let reason = crate::bundle::CardReason {
            text: "A reason.".into(),
            source: crate::domain::ReasonSource::Evidence,
            evidence: Vec::new().into(),
            strength: 1.0,
            backing: crate::bundle::Backing::Nothing,
            supporters: Vec::new(),
        };
        for card in &mut cards.items {
            card.reasons = vec![reason.clone()];
        }
        let known = dataset.touched(catalog.len(), until);
        let corpus = Corpus {
            catalog: &catalog,
            dataset: &dataset,
            cards: &cards,
            known: &known,
            currency: "",
        };
        assert_eq!(corpus.items().collect::<Vec<_>>(), [0, 1]);
        assert_eq!(corpus.reasons().count(), 2);
        let texts = corpus.texts();
        assert_eq!(texts.len(), 4);
        assert!(
            texts.iter().all(|text| !text.contains("Jar") && !text.contains("Pan")),
            "{texts:?}"
        );
    }
}
