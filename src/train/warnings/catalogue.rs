//! Catalogues that say little, or that know what came later: items' columns have no time.

use super::{Examined, Warning, day, is_share, percent};
use crate::domain::{EventKind, Timestamp};
use crate::language::TITLE_WORDS;
use crate::train::dataset::DAY_S;
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};

/// The share of items that may have one and the same title.
pub const SAME_TITLE_SHARE_MIN: f64 = 0.1;
/// The share of events before or at the first sale of their item, from which on the catalogue's prices matter.
pub const EARLY_SHARE_MIN: f64 = 0.2;
/// The share of an attribute's values that are numbers, for a name that may also mean a class ("rating: PG").
const NUMBERS_SHARE: f64 = 0.9;
/// Words of columns that are counted over a log.
const COUNTED: &[&str] = &[
    "bestseller",
    "bought",
    "buyer",
    "buyers",
    "click",
    "clicks",
    "conversion",
    "conversions",
    "customers",
    "favorites",
    "favourites",
    "impressions",
    "likes",
    "orders",
    "popularity",
    "purchases",
    "revenue",
    "reviews",
    "sales",
    "salesrank",
    "sold",
    "trending",
    "turnover",
    "views",
    "wishlists",
];
/// Words of columns that are counted over a log if their values are numbers.
const COUNTED_IF_NUMBERS: &[&str] = &[
    "average", "avg", "count", "mean", "rank", "rating", "ratings", "review", "score", "stars",
    "total", "votes",
];

pub(super) fn warnings(examined: &Examined<'_>) -> Vec<Warning> {
    let checks =
        [same_titles(examined), only_titles(examined), early_prices(examined), old_cards(examined)];
    checks.into_iter().flatten().chain(counted_attributes(examined)).collect()
}

/// Titles that are empty, or all the same.
fn same_titles(examined: &Examined<'_>) -> Option<Warning> {
    let items = &examined.shop.items;
    let mut titles: FxHashMap<&str, usize> = FxHashMap::default();
    for item in items {
        *titles.entry(item.title.trim()).or_default() += 1;
    }
    let (title, same) = titles.into_iter().max_by_key(|&(title, items)| (items, title))?;
    if same < 2 || !is_share(same, items.len(), SAME_TITLE_SHARE_MIN) {
        return None;
    }
    let what = if title.is_empty() { "no title".into() } else { format!("the title {title:?}") };
    let text = format!(
        "{} of the items ({same} of {}) have {what}. Models and shoppers can't tell them apart: import the column with \
         their names (`--column title=NAME`).",
        percent(same, items.len()),
        items.len()
    );
    Some(Warning::new("same_titles", text))
}

/// A catalogue of nothing but titles.
fn only_titles(examined: &Examined<'_>) -> Option<Warning> {
    let items = &examined.shop.items;
    if items.iter().any(|item| !item.category.is_empty() || !item.attributes.is_empty()) {
        return None;
    }
    let catalog = examined.catalog;
    let worded = catalog
        .items()
        .iter()
        .filter(|item| catalog.attributes_of(item).any(|(name, _)| &**name == TITLE_WORDS));
    let worded = worded.count();
    let instead = if worded == 0 {
        "No reason rests on what they are".to_owned()
    } else {
        format!("Words that titles share stand in for {worded} of {} items", items.len())
    };
    let text = format!(
        "No item has a category or an attribute. {instead}; import a category, or attributes such as the brand \
         (`--attributes brand`), if there are any."
    );
    Some(Warning::new("only_titles", text))
}

/// Prices of the catalogue that are read before the item has sold.
fn early_prices(examined: &Examined<'_>) -> Option<Warning> {
    let shop = examined.shop;
    let mut first_sale: FxHashMap<u32, Timestamp> = FxHashMap::default();
    for event in shop.events.iter().filter(|event| event.kind == EventKind::Purchase) {
        first_sale.entry(event.item).or_insert(event.time);
    }
    let is_early = |item: u32, time| first_sale.get(&item).is_none_or(|&first| time <= first);
    let priced = |item: u32| shop.items[item as usize].price.is_some();
    let early =
        shop.events.iter().filter(|event| priced(event.item) && is_early(event.item, event.time));
    let early = early.count();
    if !is_share(early, shop.events.len(), EARLY_SHARE_MIN) {
        return None;
    }
    let text = format!(
        "In {} of the events the item had not sold before, so its price is that of the catalogue, which has no time. If \
         prices have changed since, training reads later ones: leave the items' price out, and import that of the events.",
        percent(early, shop.events.len())
    );
    Some(Warning::new("catalogue_prices", text))
}

/// Cards that are written as of a moment long before the end of the log.
fn old_cards(examined: &Examined<'_>) -> Option<Warning> {
    let as_of = examined.recipe.cards.as_of?.as_second();
    let (end, refresh_days) = (examined.dataset.split.end, examined.recipe.slates.refresh_days);
    let days = (end - as_of) / DAY_S;
    (days > refresh_days).then(|| {
        let text = format!(
            "`cards.as_of` is {}, {days} days before the end of the log, and models are trained on snapshots of at most \
             {refresh_days} days (`slates.refresh_days`). Leave it out, so that the bundle knows the whole log.",
            day(as_of)
        );
        Warning::new("old_cards", text)
    })
}

/// Attributes whose names say that they were counted over the log, so that they know its end.
fn counted_attributes(examined: &Examined<'_>) -> Vec<Warning> {
    let mut attributes: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for (name, value) in examined.shop.items.iter().flat_map(|item| &item.attributes) {
        let (values, numbers) = attributes.entry(name).or_default();
        *values += 1;
        *numbers += usize::from(value.trim().replace(',', ".").parse::<f64>().is_ok());
    }
    let counted = attributes.into_iter().filter(|&(name, (values, numbers))| {
        let words = words_of(name);
        let has = |known: &[&str]| words.iter().any(|word| known.contains(&word.as_str()));
        has(COUNTED) || has(COUNTED_IF_NUMBERS) && is_share(numbers, values, NUMBERS_SHARE)
    });
    let warning = |(name, (values, _)): (&str, (usize, usize))| {
        let text = format!(
            "The attribute {name:?} of {values} items sounds like a figure that was counted over the whole log. Training \
             would read the future from it: import again without it."
        );
        Warning::new("counted_attribute", text)
    };
    counted.map(warning).collect()
}

/// The words of a column's name, in lower case: "ratingCount" and "rating_count" are rating and count.
fn words_of(name: &str) -> BTreeSet<String> {
    let mut spaced = String::new();
    let mut was_lower = false;
    for letter in name.chars() {
        if letter.is_uppercase() && was_lower || !letter.is_alphanumeric() {
            spaced.push(' ');
        }
        was_lower = letter.is_lowercase();
        spaced.extend(letter.to_lowercase().filter(|letter| letter.is_alphanumeric()));
    }
    spaced.split_whitespace().map(str::to_owned).collect()
}
