//! Makes the text encoder: texts that belong together get similar vectors.

mod bert;
mod distil;
mod pretrained;
mod trained;

use crate::bundle::{Catalog, Part};
use crate::train::recipe::TextEncoderRecipe;
use crate::train::snapshot::Snapshot;
use crate::train::{Stage, Workspace};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use std::fs;
use std::io::ErrorKind;

/// Trains the tokenizer and the text encoder, or takes pretrained ones.
#[derive(Debug)]
pub struct TextEncoderStage;

impl Stage for TextEncoderStage {
    fn name(&self) -> &'static str {
        "text_encoder"
    }

    fn about(&self) -> &'static str {
        "Trains a tokenizer and a static text encoder on texts that belong together, takes pretrained ones, or distils a BERT"
    }

    fn inputs(&self) -> &'static [Part] {
        &[Part::Catalog]
    }

    fn recipe_sections(&self) -> &'static [&'static str] {
        &["seed", "shop", "split", "text_encoder"]
    }

    fn outputs(&self) -> &'static [Part] {
        &[Part::Tokenizer, Part::Text, Part::TextBert, Part::ItemVectors]
    }

    fn run(&self, workspace: &mut Workspace<'_>) -> anyhow::Result<Value> {
        remove_leftovers(workspace)?;
        match workspace.recipe.text_encoder.clone() {
            TextEncoderRecipe::Train(recipe) => trained::run(workspace, &recipe),
            TextEncoderRecipe::Static(folder) => pretrained::run_static(workspace, &folder),
            TextEncoderRecipe::Bert(folder) => bert::run(workspace, &folder),
            TextEncoderRecipe::Distil(recipe) => distil::run(workspace, &recipe),
        }
    }
}

/// Removes the parts that only some encoders have, which another recipe's run may have left.
fn remove_leftovers(workspace: &Workspace<'_>) -> std::io::Result<()> {
    let bert = fs::remove_dir_all(workspace.path(Part::TextBert));
    let vectors = fs::remove_file(workspace.path(Part::ItemVectors));
    for removed in [bert, vectors] {
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The texts of all items, and reasons on cards as of the start of validation, in random order.
struct ShopTexts {
    items: Vec<String>,
    reasons: Vec<String>,
}

// === impl ShopTexts ===

impl ShopTexts {
    fn of(
        workspace: &Workspace<'_>,
        catalog: &Catalog,
        reasons_max: usize,
    ) -> anyhow::Result<Self> {
        let dataset = workspace.dataset(catalog)?;
        let currency = &workspace.recipe.shop.currency;
        let (_, cards) = Snapshot::write(&dataset, catalog, dataset.split.validate, currency);
        let reasons = cards.items.iter().flat_map(|card| &card.reasons);
        let mut reasons: Vec<String> = reasons.map(|reason| reason.text.to_string()).collect();
        reasons.shuffle(&mut ChaCha8Rng::seed_from_u64(workspace.recipe.seed));
        reasons.truncate(reasons_max);
        let items = (0..catalog.len() as u32).map(|item| catalog.text(item)).collect();
        Ok(Self { items, reasons })
    }
}
