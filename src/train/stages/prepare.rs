//! A shop to a catalogue.

use crate::bundle::{Catalog, CatalogRow, Part, write_catalog};
use crate::language::{self, MiningConfig, TITLE_WORDS, TitleWordsConfig};
use crate::shop::{Shop, ShopItem};
use crate::simulate;
use crate::train::dataset::{DAY_S, Dataset};
use crate::train::warnings::{self, Examined};
use crate::train::{Stage, Workspace};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Attributes of an item, in the mean, from which on the words of titles are not needed.
const ATTRIBUTES_ENOUGH: usize = 2;
/// The attribute that replaces a missing category.
const TYPE: &str = "type";

/// Simulates the shop if the recipe says so, and writes its catalogue.
#[derive(Debug)]
pub struct Prepare;

impl Stage for Prepare {
    fn name(&self) -> &'static str {
        "prepare"
    }

    fn about(&self) -> &'static str {
        "Opens or simulates the shop, mines attributes from titles if the recipe says so, and writes the catalogue"
    }

    fn inputs(&self) -> &'static [Part] {
        &[]
    }

    fn recipe_sections(&self) -> &'static [&'static str] {
        &["seed", "shop"]
    }

    fn outputs(&self) -> &'static [Part] {
        &[Part::Catalog]
    }

    fn run(&self, workspace: &mut Workspace<'_>) -> anyhow::Result<Value> {
        if let Some(simulated) = workspace.recipe.shop.simulated {
            simulated_shop(workspace, simulated)?;
        }
        let dir = workspace.shop_dir();
        let shop = Shop::open(&dir)?;
        let mut rows: Vec<CatalogRow> = shop.items.iter().map(row).collect();
        let mined = mined(workspace.recipe.shop.mine_attributes, &rows);
        match mined {
            Mined::Nothing => {}
            Mined::Lexicon => add_mined_attributes(&mut rows),
            Mined::TitleWords => add_title_words(&mut rows),
        }
        let catalog = Catalog::new(rows);
        let recipe = &workspace.recipe;
        let dataset = Dataset::read(&shop, &catalog, recipe.split, recipe.seed)?;
        let examined = Examined { shop: &shop, catalog: &catalog, dataset: &dataset, recipe };
        warnings::check(&examined)?;
        let warnings = warnings::warnings(&examined);
        for warning in &warnings {
            workspace.progress.warn(&warning.text);
        }
        write_catalog(&workspace.dir, &catalog)?;
        remove_ids(&workspace.path(Part::SemanticIds))?;
        let mut named: BTreeMap<&str, usize> = BTreeMap::new();
        for item in catalog.items() {
            let mut names: Vec<&str> =
                catalog.attributes_of(item).map(|(name, _)| &**name).collect();
            names.sort_unstable();
            names.dedup();
            for name in names {
                *named.entry(name).or_default() += 1;
            }
        }
        Ok(json!({
            "items": catalog.len(),
            "users": shop.users.len(),
            "events": shop.events.len(),
            "purchases": dataset.purchases.len(),
            "categories": catalog.categories_len(),
            "mined": mined.as_str(),
            "items_with_attribute": named,
            "graph": graph(&catalog),
            "split": dataset.split,
            "warnings": warnings,
        }))
    }
}

/// What is mined from titles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mined {
    Nothing,
    /// Attributes of the lexicon, since the recipe asks for them.
    Lexicon,
    /// The words that titles share, since items have few attributes.
    TitleWords,
}

impl Mined {
    /// Its word in the report.
    fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Lexicon => "attributes of the lexicon, as the recipe asks",
            Self::TitleWords => {
                "title words, since the items have fewer than two attributes in the mean"
            }
        }
    }
}

/// What to mine from the titles of these items, where the recipe says `mine_attributes`.
fn mined(mine_attributes: Option<bool>, rows: &[CatalogRow]) -> Mined {
    let attributes: usize = rows.iter().map(|row| row.attributes.len()).sum();
    match mine_attributes {
        Some(true) => Mined::Lexicon,
        // A category or a brand says too little: a third of what was shown on two shops had no reason.
        None if attributes < rows.len() * ATTRIBUTES_ENOUGH => Mined::TitleWords,
        Some(false) | None => Mined::Nothing,
    }
}

/// Counts of the graph of items and attributes.
fn graph(catalog: &Catalog) -> Value {
    let holders = || (0..catalog.attributes_len() as u32).map(|a| catalog.items_with(a).len());
    json!({
        "attributes": catalog.attributes_len(),
        "shared_attributes": holders().filter(|&items| items > 1).count(),
        "edges": holders().sum::<usize>(),
    })
}

/// Removes the semantic ids of a catalogue that was prepared here before.
fn remove_ids(path: &std::path::Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("clearing {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn simulated_shop(
    workspace: &mut Workspace<'_>,
    of: crate::train::recipe::Simulated,
) -> anyhow::Result<()> {
    let config = simulate::SimulationConfig {
        seed: workspace.recipe.seed,
        shoppers: of.shoppers,
        products: of.products,
        days: of.days,
        ..simulate::SimulationConfig::default()
    };
    let (raw, shop) = (workspace.dir.join("simulated"), workspace.shop_dir());
    for stale in [&raw, &shop] {
        if stale.exists() {
            std::fs::remove_dir_all(stale)
                .with_context(|| format!("clearing {}", stale.display()))?;
        }
    }
    simulate::simulate(&config, &raw, &mut |done, of| {
        workspace.progress.show("simulating", done, of);
    })?;
    let (items, events) = (raw.join("items.csv.zst"), raw.join("events.csv.zst"));
    let now = config.start + i64::from(of.days) * DAY_S;
    let spec = crate::shop::ImportSpec {
        attributes: ATTRIBUTES.iter().map(|&name| name.to_owned()).collect(),
        rejects_max: 1,
        ..crate::shop::ImportSpec::new(items, events, now)
    };
    crate::shop::import(&spec, &shop, &mut |done, of| {
        workspace.progress.show("importing", done, of);
    })?;
    Ok(())
}

/// The attributes of a simulated shop.
const ATTRIBUTES: [&str; 8] =
    ["color", "material", "style", "occasion", "season", "brand", "brand_tier", "product_type"];

fn row(item: &ShopItem) -> CatalogRow {
    CatalogRow {
        id: item.id.as_str().into(),
        title: item.title.clone(),
        category: item.category.clone(),
        attributes: item.attributes.clone(),
        price: item.price,
    }
}

/// Adds the attributes of titles. A product's type replaces a missing category.
fn add_mined_attributes(rows: &mut [CatalogRow]) {
    let titles: Vec<&str> = rows.iter().map(|row| row.title.as_str()).collect();
    let mined = language::mine(&titles, &MiningConfig::default());
    for (row, mined) in rows.iter_mut().zip(mined) {
        if row.category.is_empty()
            && let Some((_, kind)) = mined.iter().find(|(name, _)| name == TYPE)
        {
            row.category.clone_from(kind);
        }
        row.attributes.extend(mined);
    }
}

/// Adds the words that titles share.
fn add_title_words(rows: &mut [CatalogRow]) {
    let titles: Vec<&str> = rows.iter().map(|row| row.title.as_str()).collect();
    let shared = language::shared_words(&titles, &TitleWordsConfig::default());
    for (row, words) in rows.iter_mut().zip(shared) {
        row.attributes.extend(words.into_iter().map(|words| (TITLE_WORDS.to_owned(), words)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn title_words_stand_in_where_items_have_few_attributes() {
        let row = |attributes: &usize| CatalogRow {
            id: "a".into(),
            title: "OPI Nail Lacquer".into(),
            category: "nails".into(),
            attributes: vec![("brand".into(), "OPI".into()); *attributes],
            price: None,
        };
        let rows =
            |attributes: &[usize]| -> Vec<CatalogRow> { attributes.iter().map(row).collect() };
        let bare = CatalogRow { category: String::new(), ..row(&0) };
        for (mine_attributes, rows, expected) in [
            (None, rows(&[0, 0, 0]), Mined::TitleWords),
            (None, vec![bare], Mined::TitleWords),
            (None, rows(&[1, 1, 1]), Mined::TitleWords),
            (None, rows(&[3, 0, 2]), Mined::TitleWords),
            (None, rows(&[3, 0, 3]), Mined::Nothing),
            (None, rows(&[2, 2, 2]), Mined::Nothing),
            (Some(false), rows(&[0, 0]), Mined::Nothing),
            (Some(true), rows(&[0, 0]), Mined::Lexicon),
            (Some(true), rows(&[4, 4]), Mined::Lexicon),
        ] {
            assert_eq!(mined(mine_attributes, &rows), expected, "{mine_attributes:?} {rows:?}");
        }
    }
}
