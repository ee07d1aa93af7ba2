//! A shopper's interests in words.

use super::wording;
use crate::bundle::{Catalog, HISTORY_LEN, ItemCard, Past};
use std::cmp::Reverse;
use std::fmt::Write as _;
use std::sync::Arc;

/// Categories named in a pattern.
const CATEGORIES: usize = 3;
/// Attributes named in a pattern.
const ATTRIBUTES: usize = 6;
/// Items named in a pattern.
const LATEST: usize = 3;

/// What the last events of a history (oldest first) say about its owner: their categories, what
/// their things have in common, what they usually pay, and what they chose last. Empty for an
/// empty history. Prices are those of the `cards`, which know nothing later than themselves.
pub fn pattern(catalog: &Catalog, cards: &[ItemCard], history: &[Past], currency: &str) -> String {
    let history = &history[history.len().saturating_sub(HISTORY_LEN)..];
    let Some(latest) = history.last() else { return String::new() };
    let items = || history.iter().map(|past| catalog.item(past.item));
    let mut text = String::from("Buys ");
    let categories = commonest(items().map(|item| item.category), CATEGORIES, 1);
    let named: Vec<_> = categories.iter().map(|&number| &**catalog.category(number)).collect();
    let named = named.into_iter().filter(|name| !name.is_empty()).collect::<Vec<_>>();
    text.push_str(&wording::list(
        if named.is_empty() { vec!["many things"] } else { named }.into_iter(),
    ));
    let spoken = items().flat_map(|item| &item.attributes).copied();
    let spoken = spoken.filter(|&number| wording::speaks(catalog.attribute(number).0));
    let liked = commonest(spoken, ATTRIBUTES, 2);
    if !liked.is_empty() {
        text.push_str("; likes ");
        text.push_str(&wording::list(liked.iter().map(|&number| &**catalog.attribute(number).1)));
    }
    let paid = history.iter().filter_map(|past| cards[past.item as usize].stats.price_paid());
    if let Some(price) = median(paid.collect()) {
        let _ = write!(text, "; usually pays about {currency}{price:.2}");
    }
    text.push_str("; last chose ");
    text.push_str(&wording::list(
        last_titles(catalog, history, latest).iter().map(|title| &**title),
    ));
    text.push('.');
    text
}

fn last_titles(catalog: &Catalog, history: &[Past], latest: &Past) -> Vec<Arc<str>> {
    let mut titles = vec![catalog.item(latest.item).title.clone()];
    for past in history.iter().rev() {
        let title = &catalog.item(past.item).title;
        if titles.len() < LATEST && !titles.contains(title) {
            titles.push(title.clone());
        }
    }
    titles
}

/// The `most` commonest numbers that occur at least `least` times, commonest first.
fn commonest(numbers: impl Iterator<Item = u32>, most: usize, least: usize) -> Vec<u32> {
    let mut all: Vec<u32> = numbers.collect();
    all.sort_unstable();
    let mut counted: Vec<(usize, u32)> =
        all.chunk_by(|a, b| a == b).map(|same| (same.len(), same[0])).collect();
    counted.retain(|(count, _)| *count >= least);
    counted.sort_by_key(|&(count, number)| (Reverse(count), number));
    counted.into_iter().take(most).map(|(_, number)| number).collect()
}

fn median(mut values: Vec<f32>) -> Option<f32> {
    values.sort_by(f32::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{CatalogRow, ItemStats};
    use crate::domain::EventKind;

    fn catalog() -> Catalog {
        let row = |id: &str, title: &str, category: &str, colour: &str, price| CatalogRow {
            id: id.into(),
            title: title.into(),
            category: category.into(),
            attributes: vec![("colour".into(), colour.into())],
            price: Some(price),
        };
        Catalog::new([
            row("a", "Red Mug", "kitchen", "red", 2.0),
            row("b", "Red Bowl", "kitchen", "red", 4.0),
            row("c", "Blue Lamp", "lighting", "blue", 30.0),
        ])
    }

    /// Cards that know other prices than the catalogue, and none of the lamp.
    fn cards() -> Vec<ItemCard> {
        let card = |sales, price| ItemCard {
            stats: ItemStats { sales, price, ..ItemStats::default() },
            ..ItemCard::default()
        };
        vec![card(3, Some(2.0)), card(1, Some(4.5)), card(0, Some(30.0))]
    }

    fn past(item: u32) -> Past {
        Past { item, time: i64::from(item), kind: EventKind::Purchase }
    }

    #[test]
    fn a_pattern_says_what_the_history_says() {
        let text = pattern(&catalog(), &cards(), &[past(0), past(1), past(2)], "£");
        insta::assert_snapshot!(text, @"Buys kitchen and lighting; likes red; usually pays about £4.50; last chose Blue Lamp, Red Bowl and Red Mug.");
    }

    #[test]
    fn an_empty_history_has_no_pattern() {
        assert_eq!(pattern(&catalog(), &cards(), &[], "£"), "");
    }
}
