//! Text vectors to semantic ids: codes that quantise an item's text, and one more that makes the id
//! unique.

use crate::bundle::{Part, PrefixFull, SemanticIds};
use crate::nn::rqvae::{self, Quantizer};
use crate::nn::text::TEXT_WIDTH;
use crate::train::dataset::Dataset;
use crate::train::{Stage, Workspace};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use rustc_hash::FxHashMap;
use serde_json::{Value, json};

/// Losses that the report shows.
const LOSSES_SHOWN: usize = 10;

/// Trains the residual quantiser and gives every item an id.
#[derive(Debug)]
pub struct SemanticIdsStage;

impl Stage for SemanticIdsStage {
    fn name(&self) -> &'static str {
        "semantic_ids"
    }

    fn about(&self) -> &'static str {
        "Trains a residual quantiser on the items' texts, and gives each item a unique semantic id"
    }

    fn inputs(&self) -> &'static [Part] {
        &[Part::Catalog, Part::Tokenizer, Part::Text]
    }

    fn recipe_sections(&self) -> &'static [&'static str] {
        &["seed", "shop", "split", "semantic_ids"]
    }

    fn outputs(&self) -> &'static [Part] {
        &[Part::Quantizer, Part::SemanticIds]
    }

    fn run(&self, workspace: &mut Workspace<'_>) -> anyhow::Result<Value> {
        let (catalog, reader) = (workspace.catalog()?, workspace.reader()?);
        let (plan, seed) = (workspace.recipe.semantic_ids, workspace.recipe.seed);
        let texts: Vec<String> = (0..catalog.len() as u32).map(|item| catalog.text(item)).collect();
        let vectors = reader.vectors(&texts);
        let known = TrainedItems::of(&workspace.dataset(&catalog)?, catalog.len());

        let mut losses = Vec::new();
        let vectors_trained_on = known.vectors(&vectors);
        let show = &mut |step: rqvae::RqVaeProgress| {
            let error = [("reconstruction error", f64::from(step.losses.reconstruction))];
            let (done, of) = (step.done as u64, step.of as u64);
            workspace.progress.show_losses("semantic ids", done, of, &error);
            if step.done.is_multiple_of((step.of / LOSSES_SHOWN).max(1)) {
                losses.push(step.losses);
            }
        };
        let quantizer =
            rqvae::fit(&vectors_trained_on, TEXT_WIDTH, &known.pairs, &plan, seed, show)?;
        quantizer.save(&workspace.path(Part::Quantizer))?;

        let prefixes: Vec<u16> =
            vectors.par_chunks(TEXT_WIDTH).flat_map_iter(|text| quantizer.encode(text)).collect();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let ids = SemanticIds::draw(&prefixes, plan.levels + 1, plan.codes, &mut rng)?;
        ids.write(&workspace.dir)?;
        let report = IdsReport { vectors: &vectors, ids: &ids, known: &known };
        Ok(report.to_json(&quantizer, &losses))
    }
}

/// Gives an id to an item that was added after training: the codes of its text, and a last one that no
/// other item with these codes has.
pub fn assign(
    quantizer: &Quantizer,
    ids: &mut SemanticIds,
    text: &[f32],
    rng: &mut impl Rng,
) -> Result<Vec<u16>, PrefixFull> {
    ids.add(&quantizer.encode(text), rng).map(<[u16]>::to_vec)
}

/// The items to train on: those with an event before validation starts.
struct TrainedItems {
    /// Their numbers, ascending.
    items: Vec<u32>,
    /// Items that a shopper bought one after the other, by their indices in `items`.
    pairs: Vec<(u32, u32)>,
}

// === impl TrainedItems ===

impl TrainedItems {
    fn of(dataset: &Dataset, items: usize) -> Self {
        let until = dataset.split.validate;
        let bought = || dataset.bought.iter().map(|b| &b[..b.partition_point(|b| b.time < until)]);
        let touched = dataset.touched(items, until);
        let items: Vec<u32> =
            (0..).zip(&touched).filter(|(_, touched)| **touched).map(|(item, _)| item).collect();
        let index = |item: u32| items.partition_point(|&other| other < item) as u32;
        let pairs = bought()
            .flat_map(|lines| lines.windows(2))
            .filter(|pair| pair[0].item != pair[1].item)
            .map(|pair| (index(pair[0].item), index(pair[1].item)))
            .collect();
        Self { items, pairs }
    }

    /// The vectors of these items, from those of all items: (items, width).
    fn vectors(&self, all: &[f32]) -> Vec<f32> {
        let rows = self.items.iter().map(|&item| &all[item as usize * TEXT_WIDTH..][..TEXT_WIDTH]);
        rows.flatten().copied().collect()
    }
}

/// The inputs of the report, which is over all items.
struct IdsReport<'a> {
    vectors: &'a [f32],
    ids: &'a SemanticIds,
    known: &'a TrainedItems,
}

// === impl IdsReport ===

impl IdsReport<'_> {
    fn to_json(&self, quantizer: &Quantizer, losses: &[rqvae::Losses]) -> Value {
        let levels = quantizer.levels();
        let alike = self.by_prefix(levels);
        let shared: Vec<usize> = alike.values().copied().filter(|&items| items > 1).collect();
        let depths: Vec<f64> = (1..=self.ids.levels())
            .map(|depth| share(self.by_prefix(depth).len(), self.ids.len()))
            .collect();
        json!({
            "items": self.ids.len(),
            "learnt_from": self.known.items.len(),
            "pairs": self.known.pairs.len(),
            // An upper bound for every quantiser: some items have equal texts.
            "different_texts": share(self.different_texts(), self.ids.len()),
            // Distinct prefixes over items, by the number of codes; the last code was drawn.
            // Items that shoppers bought one after the other, by the number of leading codes that they share.
            "pairs_with_common_prefix": (1..=levels).map(|depth| self.pairs_alike(depth)).collect::<Vec<_>>(),
            // The same of two items drawn at random.
            "random_with_common_prefix": (1..=levels).map(|depth| self.random_alike(depth)).collect::<Vec<_>>(),
            "unique": depths[levels - 1],
            "unique_with_last": depths[levels],
            "unique_by_depth": depths,
            "items_that_share": shared.iter().sum::<usize>(),
            "items_that_share_most": shared.iter().max().copied().unwrap_or(1),
            "later_items": self.later(&alike, levels),
            "levels": (0..levels).map(|level| self.usage(level)).collect::<Vec<_>>(),
            "reconstruction": self.reconstruction(quantizer),
            "losses": losses,
        })
    }

    /// The number of items with each prefix of `depth` codes.
    fn by_prefix(&self, depth: usize) -> FxHashMap<&[u16], usize> {
        let mut alike = FxHashMap::default();
        for id in self.ids.iter() {
            *alike.entry(&id[..depth]).or_default() += 1;
        }
        alike
    }

    /// The share of co-purchased pairs whose ids begin with the same `depth` codes.
    fn pairs_alike(&self, depth: usize) -> f64 {
        let prefix = |index: u32| &self.ids.of(self.known.items[index as usize])[..depth];
        let alike = self.known.pairs.iter().filter(|(one, other)| prefix(*one) == prefix(*other));
        share(alike.count(), self.known.pairs.len())
    }

    /// The probability that two items, drawn with replacement, begin with the same `depth` codes.
    fn random_alike(&self, depth: usize) -> f64 {
        let part = |&items: &usize| (items as f64 / self.ids.len().max(1) as f64).powi(2);
        rounded(self.by_prefix(depth).values().map(part).sum(), 5)
    }

    fn different_texts(&self) -> usize {
        let bits = |row: &[f32]| row.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        let texts = self.vectors.chunks(TEXT_WIDTH).map(bits);
        texts.collect::<rustc_hash::FxHashSet<_>>().len()
    }

    /// Items that were not trained on, and the share of them whose codes no other item has.
    fn later(&self, alike: &FxHashMap<&[u16], usize>, levels: usize) -> Value {
        let is_later = |item: &u32| self.known.items.binary_search(item).is_err();
        let later: Vec<u32> = (0..self.ids.len() as u32).filter(is_later).collect();
        let alone = |item: &&u32| alike[&self.ids.of(**item)[..levels]] == 1;
        let alone = later.iter().filter(alone).count();
        json!({ "items": later.len(), "alone": share(alone, later.len()) })
    }

    /// The share of a level's codes that are used, and the perplexity of their distribution.
    fn usage(&self, level: usize) -> Value {
        let mut counts = vec![0_usize; self.ids.codes()];
        for id in self.ids.iter() {
            counts[usize::from(id[level])] += 1;
        }
        let used = counts.iter().filter(|&&count| count > 0);
        let part = |&count: &usize| count as f64 / self.ids.len() as f64;
        let entropy: f64 = used.clone().map(part).map(|part| -part * part.ln()).sum();
        json!({
            "used": share(used.count(), self.ids.codes()),
            "perplexity": rounded(entropy.exp(), 1),
        })
    }

    /// The mean squared error of the texts reconstructed from their codes, by the number of codes; and
    /// that of the texts' mean, which is the error without codes.
    fn reconstruction(&self, quantizer: &Quantizer) -> Value {
        let rows: Vec<&[f32]> = self.vectors.chunks(TEXT_WIDTH).collect();
        let mut mean = [0.0_f32; TEXT_WIDTH];
        for row in &rows {
            for (mean, value) in mean.iter_mut().zip(*row) {
                *mean += value / rows.len() as f32;
            }
        }
        let mean_of = |each: Vec<f64>| rounded(each.iter().sum::<f64>() / rows.len() as f64, 4);
        let error = |depth: usize| {
            let ids: Vec<&[u16]> = self.ids.iter().collect();
            let pairs = ids.par_iter().zip(&rows);
            mean_of(pairs.map(|(id, row)| apart(row, &quantizer.decode(&id[..depth]))).collect())
        };
        json!({
            "by_depth": (1..=quantizer.levels()).map(error).collect::<Vec<_>>(),
            "without_codes": mean_of(rows.iter().map(|row| apart(row, &mean)).collect()),
        })
    }
}

fn share(of: usize, all: usize) -> f64 {
    rounded(of as f64 / all.max(1) as f64, 5)
}

/// |a − b|²
fn apart(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from((a - b) * (a - b))).sum()
}

fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10.0_f64.powi(digits);
    (value * scale).round() / scale
}
