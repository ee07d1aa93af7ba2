//! The products: drawn once, from the seed.
//!
//! Most belong to a collection: one brand's style, colours and motif across a few categories. A
//! collection makes a teapot and its cups recognisable as a set.

use super::SimulationConfig;
use super::dice::{Purpose, one, stream, weighted};
use super::goods::{CATEGORIES, CatalogueKind, ProductKind, kinds};
use super::season::Season;
use super::title::{self, Label};
use super::words::{
    BRANDS, COLLECTION_HEADS, COLLECTION_TAILS, COLORS, Facet, MATERIALS, MOTIFS, OCCASIONS,
    STYLES, number,
};
use rand::Rng;
use rand_distr::{Distribution, StandardNormal};
use rustc_hash::FxHashSet;

/// How many products share a collection, on average.
const COLLECTION_ITEMS: u32 = 13;
/// How many categories a collection covers.
const COLLECTION_CATEGORIES: usize = 4;
/// The share of products that belong to a collection.
const COLLECTED_SHARE: f64 = 0.78;
/// The share of products sold from the first day. The others are launched later.
const FIRST_DAY_SHARE: f64 = 0.62;
/// The share of products that are retired before the end.
const RETIRED_SHARE: f64 = 0.12;
/// The share of products that have one wave of popularity.
const WAVE_SHARE: f64 = 0.15;

/// One brand's style across a few categories.
#[derive(Debug)]
pub struct Collection {
    /// Its invented name.
    pub name: String,
    /// The numbers of the categories that it covers.
    categories: Vec<usize>,
    brand: u8,
    style: u8,
    motif: u8,
    colors: [u8; 2],
    materials: [u8; 3],
}

/// A wave of a product's popularity.
#[derive(Clone, Copy, Debug)]
pub struct Wave {
    /// Its middle, in days.
    peak: f32,
    /// Its spread, in days.
    spread: f32,
    /// Its height in the middle, in logits.
    height: f32,
}

/// A product.
#[derive(Debug)]
pub struct SimItem {
    /// Its title.
    pub title: String,
    /// One or two sentences.
    pub description: String,
    /// The number of its type.
    pub kind: u16,
    /// The number of its category.
    pub category: u8,
    /// Its value of each facet, in the order of [`Facet::ALL`].
    pub facets: [u8; 6],
    /// When it is in season.
    pub season: Season,
    /// The number of its collection.
    pub collection: Option<u32>,
    /// Its list price, in hundredths.
    pub cents: u32,
    /// The logarithm of its list price over the usual price of its type.
    pub dearness: f32,
    /// Its quality, in logits: the same for every shopper.
    pub quality: f32,
    /// The day on which it is first sold.
    pub launched: u16,
    /// The first day on which it is no longer sold.
    pub retired: u16,
    wave: Option<Wave>,
}

/// Everything that is sold at some time.
#[derive(Debug)]
pub struct SimCatalogue {
    /// The product types.
    pub kinds: Vec<CatalogueKind>,
    /// The collections.
    pub collections: Vec<Collection>,
    /// The products, by number.
    pub items: Vec<SimItem>,
}

impl SimCatalogue {
    /// Draws the catalogue of a configuration.
    pub fn draw(config: &SimulationConfig) -> Self {
        let kinds = kinds();
        let mut rng = stream(config.seed, Purpose::Catalogue, 0, 0);
        let count = config.products.div_ceil(COLLECTION_ITEMS);
        let collections: Vec<_> = (0..count).map(|index| collection(index, &mut rng)).collect();
        let mut titles = FxHashSet::default();
        let mut items: Vec<SimItem> = Vec::with_capacity(config.products as usize);
        for index in 0..config.products {
            let mut rng = stream(config.seed, Purpose::Catalogue, 1, u64::from(index));
            let item = item(config, &kinds, &collections, &mut titles, &mut rng);
            items.push(item);
        }
        Self { kinds, collections, items }
    }
}

impl SimItem {
    /// Whether it is sold on `day`.
    pub fn sold(&self, day: u16) -> bool {
        (self.launched..self.retired).contains(&day)
    }

    /// Its popularity on `day`, in logits: that of its launch, and perhaps a later wave.
    pub fn trend(&self, day: u16) -> f32 {
        let age = f32::from(day.saturating_sub(self.launched));
        let launch = if self.launched == 0 { 0.0 } else { 0.8 * (-age / 40.0).exp() };
        let wave = self.wave.map_or(0.0, |wave| {
            let apart = (f32::from(day) - wave.peak) / wave.spread;
            wave.height * (-0.5 * apart * apart).exp()
        });
        launch + wave
    }
}

fn collection(index: u32, rng: &mut impl Rng) -> Collection {
    let style = rng.random_range(0..STYLES.len());
    let look = &STYLES[style];
    let mut color = || number(&COLORS, one(rng, look.colors));
    let colors = [color(), color()];
    let mut material = || number(&MATERIALS, one(rng, look.materials));
    let materials = [material(), material(), material()];
    let mut categories = Vec::new();
    while categories.len() < COLLECTION_CATEGORIES {
        let category = rng.random_range(0..CATEGORIES.len());
        if !categories.contains(&category) {
            categories.push(category);
        }
    }
    Collection {
        name: collection_name(index as usize),
        categories,
        brand: rng.random_range(0..BRANDS.len()) as u8,
        style: style as u8,
        motif: number(&MOTIFS, one(rng, look.motifs)),
        colors,
        materials,
    }
}

/// The name of a collection. Heads and tails advance together, so that neighbours differ in both. After
/// all pairs, the names begin again with "New …".
fn collection_name(index: usize) -> String {
    let pairs = COLLECTION_HEADS.len() * COLLECTION_TAILS.len();
    let head = COLLECTION_HEADS[index % COLLECTION_HEADS.len()];
    let step = index / COLLECTION_HEADS.len();
    let tail = COLLECTION_TAILS[(index + step) % COLLECTION_TAILS.len()];
    let new = "New ".repeat((index / pairs).min(2));
    format!("{new}{head}{tail}")
}

fn item(
    config: &SimulationConfig,
    kinds: &[CatalogueKind],
    collections: &[Collection],
    titles: &mut FxHashSet<String>,
    rng: &mut impl Rng,
) -> SimItem {
    let number = rng.random_range(0..collections.len());
    let chosen = rng.random_bool(COLLECTED_SHARE).then(|| (number, &collections[number]));
    let category = draw_category(chosen.map(|(_, collection)| collection), rng);
    let of_category = kinds.iter().position(|kind| usize::from(kind.category) == category);
    let first = of_category.expect("every category has types");
    let kind = first + rng.random_range(0..CATEGORIES[category].kinds.len());
    let facets = draw_facets(&kinds[kind], chosen.map(|(_, collection)| collection), rng);
    let (cents, dearness) = draw_price(kinds[kind].kind, facets[Facet::Brand as usize], rng);
    let season = draw_season(kinds[kind].kind, CATEGORIES[category].festive, rng);
    let name = chosen.map(|(_, collection)| collection.name.as_str());
    let label = Label { kind: &kinds[kind], facets, season, collection: name };
    let title = title::unique(&label, titles, rng);
    let description = title::describe(&label, rng);
    let (launched, retired) = draw_life(config.days as u16, rng);
    SimItem {
        title,
        description,
        kind: kind as u16,
        category: category as u8,
        facets,
        season,
        collection: chosen.map(|(number, _)| number as u32),
        cents,
        dearness,
        quality: 0.45 * normal(rng),
        launched,
        retired,
        wave: rng.random_bool(WAVE_SHARE).then(|| Wave {
            peak: rng.random_range(0.0..config.days as f32),
            spread: rng.random_range(12.0..40.0),
            height: rng.random_range(0.6..1.6),
        }),
    }
}

fn draw_category(collection: Option<&Collection>, rng: &mut impl Rng) -> usize {
    let weight = |&number: &usize| CATEGORIES[number].weight;
    let all: Vec<_> = (0..CATEGORIES.len()).collect();
    let possible = collection.map_or(&all, |collection| &collection.categories);
    let weights: Vec<_> = possible.iter().map(weight).collect();
    possible[weighted(rng, &weights).expect("categories have positive weights")]
}

fn draw_facets(
    kind: &CatalogueKind,
    collection: Option<&Collection>,
    rng: &mut impl Rng,
) -> [u8; 6] {
    let style = collection.map_or_else(|| rng.random_range(0..STYLES.len()) as u8, |c| c.style);
    let look = &STYLES[usize::from(style)];
    let color = match collection {
        Some(collection) if rng.random_bool(0.9) => one(rng, &collection.colors),
        None if rng.random_bool(0.6) => number(&COLORS, one(rng, look.colors)),
        _ => rng.random_range(0..COLORS.len()) as u8,
    };
    let motif = match collection {
        Some(collection) if rng.random_bool(0.9) => collection.motif,
        None if rng.random_bool(0.6) => number(&MOTIFS, one(rng, look.motifs)),
        _ => rng.random_range(0..MOTIFS.len()) as u8,
    };
    let occasions = CATEGORIES[usize::from(kind.category)].occasions;
    let brand = match collection {
        Some(collection) => collection.brand,
        None => rng.random_range(0..BRANDS.len()) as u8,
    };
    [
        color,
        draw_material(kind, collection, style, rng),
        style,
        motif,
        number(&OCCASIONS, one(rng, occasions)),
        brand,
    ]
}

/// A material of the type, if possible one of the collection or the style.
fn draw_material(
    kind: &CatalogueKind,
    collection: Option<&Collection>,
    style: u8,
    rng: &mut impl Rng,
) -> u8 {
    let possible: Vec<u8> =
        kind.kind.materials.iter().map(|word| number(&MATERIALS, word)).collect();
    let own = collection.map(|collection| collection.materials.as_slice()).unwrap_or_default();
    let look = STYLES[usize::from(style)].materials.iter().map(|word| number(&MATERIALS, word));
    let liked = own.iter().copied().chain(look).find(|material| possible.contains(material));
    match liked {
        Some(material) if rng.random_bool(0.8) => material,
        _ => one(rng, &possible),
    }
}

/// A list price in hundredths, log-normal about the type's and the tier's, and its dearness.
fn draw_price(kind: &ProductKind, brand: u8, rng: &mut impl Rng) -> (u32, f32) {
    let tier = BRANDS[usize::from(brand)].1;
    let price = kind.price * tier.factor() * (0.22 * normal(rng)).exp();
    // Shops end their prices on 49 and 99.
    let cents = ((price * 2.0).round().max(2.0) * 50.0) as u32 - 1;
    (cents, (cents as f32 / (100.0 * kind.price)).ln())
}

fn draw_season(kind: &ProductKind, festive: bool, rng: &mut impl Rng) -> Season {
    let feast = festive && kind.season == Season::AllYear && rng.random_bool(0.16);
    if !feast {
        return kind.season;
    }
    let feast = weighted(rng, &[0.6, 0.14, 0.14, 0.12]).expect("feasts have positive weights");
    Season::FEASTS[feast]
}

/// The first day on which a product is sold, and the first on which it no longer is.
fn draw_life(days: u16, rng: &mut impl Rng) -> (u16, u16) {
    let launched = if rng.random_bool(FIRST_DAY_SHARE) { 0 } else { rng.random_range(0..days) };
    if rng.random_bool(RETIRED_SHARE) {
        (launched, rng.random_range(launched..days).saturating_add(1))
    } else {
        (launched, u16::MAX)
    }
}

/// A standard normal number.
pub fn normal(rng: &mut impl Rng) -> f32 {
    StandardNormal.sample(rng)
}
