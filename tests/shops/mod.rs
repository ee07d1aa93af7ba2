//! Small simulated shops for tests, imported as any shop would be.

use raisonne::bundle::{Catalog, CatalogRow};
use raisonne::shop::Shop;
use raisonne::simulate;
use raisonne::train::dataset::{Dataset, SplitShares};
use std::path::Path;
use tempfile::TempDir;

/// The seed of everything random in these tests.
pub const SEED: u64 = 11;
/// The split of time in these tests.
pub const CUTS: SplitShares =
    SplitShares { train: 0.3, validate: 0.7, test: 0.85, as_listed: false };

/// A small shop, with its catalogue and log.
pub struct TestShop {
    folder: TempDir,
    pub catalog: Catalog,
    pub dataset: Dataset,
}

impl TestShop {
    /// A few hundred shoppers and products.
    pub fn small() -> Self {
        let folder = tempfile::tempdir().unwrap();
        shop(folder.path(), 400, 200);
        let shop = Shop::open(&folder.path().join("shop")).unwrap();
        let rows = shop.items.iter().map(|item| CatalogRow {
            id: item.id.as_str().into(),
            title: item.title.clone(),
            category: item.category.clone(),
            attributes: item.attributes.clone(),
            price: item.price,
        });
        let catalog = Catalog::new(rows);
        let dataset = Dataset::read(&shop, &catalog, CUTS, SEED).unwrap();
        Self { folder, catalog, dataset }
    }

    /// The shop itself.
    pub fn shop(&self) -> Shop {
        Shop::open(&self.folder.path().join("shop")).unwrap()
    }
}

/// Simulates a shop and imports it into `folder/shop`.
pub fn shop(folder: &Path, shoppers: u32, products: u32) {
    let config = simulate::SimulationConfig {
        seed: SEED,
        shoppers,
        products,
        ..simulate::SimulationConfig::default()
    };
    let raw = folder.join("raw");
    simulate::simulate(&config, &raw, &mut |_, _| {}).unwrap();
    let (items, events) = (raw.join("items.csv.zst"), raw.join("events.csv.zst"));
    let spec = raisonne::shop::ImportSpec {
        attributes: ["color", "material", "style", "season"].map(String::from).to_vec(),
        rejects_max: 5,
        ..raisonne::shop::ImportSpec::new(items, events, 4_000_000_000)
    };
    raisonne::shop::import(&spec, &folder.join("shop"), &mut |_, _| {}).unwrap();
}
