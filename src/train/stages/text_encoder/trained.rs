//! Trains a BPE tokenizer and a static encoder on patterns, reasons and titles that belong together.

use crate::bundle::{Catalog, HISTORY_LEN, Part};
use crate::evidence;
use crate::language::TextTokenizer;
use crate::nn::text::{self as encoder, TextEncoder, TextEncoderConfig};
use crate::train::Workspace;
use crate::train::dataset::Dataset;
use crate::train::recipe::TrainedTextRecipe;
use crate::train::snapshot::Snapshot;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// Patterns and reasons that the tokenizer learns from, beside the items' texts.
const TOKENIZED_MAX: usize = 20_000;

/// Trains the tokenizer and the static text encoder.
pub fn run(workspace: &mut Workspace<'_>, text: &TrainedTextRecipe) -> anyhow::Result<Value> {
    let (catalog, recipe) = (workspace.catalog()?, workspace.recipe.clone());
    let dataset = workspace.dataset(&catalog)?;
    let texts =
        TextPairs::gather(&dataset, &catalog, &recipe.shop.currency, text.pairs_max, recipe.seed);
    let tokens = TextTokenizer::fit(texts.all(), text.vocabulary)?;
    tokens.save(&workspace.path(Part::Tokenizer))?;
    let pairs: Vec<_> =
        texts.pairs.iter().map(|(a, b)| (tokens.encode(a), tokens.encode(b))).collect();
    let plan = TextEncoderConfig {
        epochs: text.epochs,
        batch: text.batch,
        learning_rate: text.learning_rate,
        temperature: text.temperature,
        seed: recipe.seed,
    };
    let mut losses = Vec::new();
    let table = encoder::fit(&pairs, tokens.vocabulary(), &plan, &mut |step| {
        let (done, of) = (step.done as u64, step.of as u64);
        let loss = [("loss", f64::from(step.loss))];
        workspace.progress.show_losses("text encoder", done, of, &loss);
        if step.done % (step.of / 20).max(1) == 0 {
            losses.push((f64::from(step.loss) * 1e4).round() / 1e4);
        }
    })?;
    TextEncoder::trained(table).save(&workspace.path(Part::Text))?;
    Ok(json!({ "vocabulary": tokens.vocabulary(), "pairs": pairs.len(), "losses": losses }))
}

/// Texts of the training time, and the pairs that belong together.
struct TextPairs {
    items: Vec<String>,
    pairs: Vec<(String, String)>,
}

impl TextPairs {
    /// Collects the texts. Events at or after the start of validation are not read.
    fn gather(
        dataset: &Dataset,
        catalog: &Catalog,
        currency: &str,
        most: usize,
        seed: u64,
    ) -> Self {
        let items: Vec<String> = (0..catalog.len() as u32).map(|item| catalog.text(item)).collect();
        let until = dataset.split.validate;
        let mut pairs = Vec::new();
        let (_, cards) = Snapshot::write(dataset, catalog, until, currency);
        for (card, item) in cards.items.iter().zip(&items) {
            pairs.extend(card.reasons.iter().map(|reason| (reason.text.to_string(), item.clone())));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        pairs.shuffle(&mut rng);
        pairs.truncate(most / 4);
        let mut lines: Vec<(usize, usize)> = dataset
            .bought
            .iter()
            .enumerate()
            .flat_map(|(user, bought)| {
                (1..bought.partition_point(|b| b.time < until)).map(move |line| (user, line))
            })
            .collect();
        lines.shuffle(&mut rng);
        lines.truncate(most - pairs.len());
        for (user, line) in lines {
            let bought = &dataset.bought[user];
            let taken = items[bought[line].item as usize].clone();
            let partner = if rng.random_bool(0.5) {
                let history = dataset.history(user, line, true, HISTORY_LEN);
                evidence::pattern_text(catalog, &cards.items, &history, currency)
            } else {
                items[bought[line - 1].item as usize].clone()
            };
            pairs.push((partner, taken));
        }
        Self { items, pairs }
    }

    fn all(&self) -> impl Iterator<Item = &str> {
        let patterns = self.pairs.iter().map(|(partner, _)| partner.as_str());
        self.items.iter().map(String::as_str).chain(patterns.take(TOKENIZED_MAX))
    }
}
