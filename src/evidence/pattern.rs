//! A shopper's interests in words: categories, attributes, usual price, latest items.

use super::wording;
use crate::bundle::{Catalog, HISTORY_LEN, HistoryEvent, ItemCard};
use std::cmp::Reverse;
use std::fmt::Write as _;
use std::sync::Arc;

/// Categories that a pattern names.
const CATEGORIES: usize = 3;
/// Attributes that a pattern names.
pub const PATTERN_LIKES_MAX: usize = 6;
/// Attributes from which a language model may choose those.
const LIKES_MAX: usize = 12;
/// Items that a pattern names.
const LATEST: usize = 3;

/// The interests that the last events of a history show.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern {
    categories: Vec<u32>,
    /// Numbers of attributes that several of the items share, most frequent first.
    pub likes: Vec<u32>,
    price: Option<f32>,
    latest: Vec<Arc<str>>,
}

// === impl Pattern ===

impl Pattern {
    /// The pattern of a history, oldest first; `None` if it is empty. Prices are those of the `cards`, so none is later
    /// than the cards.
    pub fn of(catalog: &Catalog, cards: &[ItemCard], history: &[HistoryEvent]) -> Option<Self> {
        let history = &history[history.len().saturating_sub(HISTORY_LEN)..];
        let latest = history.last()?;
        let categories = history.iter().map(|event| catalog.item(event.item).category);
        let mut likes = liked_attributes(catalog, history);
        likes.truncate(PATTERN_LIKES_MAX);
        let paid = history.iter().filter_map(|event| cards[event.item as usize].stats.price_paid());
        Some(Self {
            categories: most_frequent(categories, CATEGORIES, 1),
            likes,
            price: median(paid.collect()),
            latest: last_titles(catalog, history, latest),
        })
    }

    /// The pattern as a sentence.
    pub fn text(&self, catalog: &Catalog, currency: &str) -> String {
        let mut text = String::from("Buys ");
        let named = self.categories.iter().map(|&number| &**catalog.category(number));
        let named: Vec<_> = named.filter(|name| !name.is_empty()).collect();
        text.push_str(&wording::list(
            if named.is_empty() { vec!["many things"] } else { named }.into_iter(),
        ));
        if !self.likes.is_empty() {
            let liked = self.likes.iter().map(|&number| &**catalog.attribute(number).1);
            text.push_str("; likes ");
            text.push_str(&wording::list(liked));
        }
        if let Some(price) = self.price {
            let _ = write!(text, "; usually pays about {currency}{price:.2}");
        }
        text.push_str("; last chose ");
        text.push_str(&wording::list(self.latest.iter().map(|title| &**title)));
        text.push('.');
        text
    }
}

/// The pattern of a history (oldest first) as a sentence: categories, shared attributes, the usual price and the latest
/// items. Empty for an empty history.
pub fn pattern_text(
    catalog: &Catalog,
    cards: &[ItemCard],
    history: &[HistoryEvent],
    currency: &str,
) -> String {
    let pattern = Pattern::of(catalog, cards, history);
    pattern.map_or_else(String::new, |pattern| pattern.text(catalog, currency))
}

/// Attributes fit for a sentence that several of a history's last items share, most frequent first: more than a pattern
/// names.
pub fn liked_attributes(catalog: &Catalog, history: &[HistoryEvent]) -> Vec<u32> {
    let history = &history[history.len().saturating_sub(HISTORY_LEN)..];
    common_attributes(catalog, history.iter(), |value| !value.is_empty(), LIKES_MAX, 2)
}

/// The `most` most frequent attributes that at least `least` of these events' items have, most frequent first. Each is
/// fit for a sentence, and its value is `fit`.
pub fn common_attributes<'a>(
    catalog: &Catalog,
    events: impl Iterator<Item = &'a HistoryEvent>,
    fit: impl Fn(&str) -> bool,
    most: usize,
    least: usize,
) -> Vec<u32> {
    let attributes = events.flat_map(|event| &catalog.item(event.item).attributes).copied();
    let sayable = attributes.filter(|&number| {
        let (name, value) = catalog.attribute(number);
        wording::can_be_said(name) && fit(value)
    });
    most_frequent(sayable, most, least)
}

fn last_titles(
    catalog: &Catalog,
    history: &[HistoryEvent],
    latest: &HistoryEvent,
) -> Vec<Arc<str>> {
    let mut titles = vec![catalog.item(latest.item).title.clone()];
    for event in history.iter().rev() {
        let title = &catalog.item(event.item).title;
        if titles.len() < LATEST && !titles.contains(title) {
            titles.push(title.clone());
        }
    }
    titles
}

/// The `most` most frequent of the numbers that occur at least `least` times, most frequent first.
fn most_frequent(numbers: impl Iterator<Item = u32>, most: usize, least: usize) -> Vec<u32> {
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

    fn past(item: u32) -> HistoryEvent {
        HistoryEvent { item, time: i64::from(item), kind: EventKind::Purchase }
    }

    #[test]
    fn a_pattern_says_what_the_history_says() {
        let text = pattern_text(&catalog(), &cards(), &[past(0), past(1), past(2)], "£");
        insta::assert_snapshot!(text, @"Buys kitchen and lighting; likes red; usually pays about £4.50; last chose Blue Lamp, Red Bowl and Red Mug.");
    }

    #[test]
    fn an_empty_history_has_no_pattern() {
        assert_eq!(pattern_text(&catalog(), &cards(), &[], "£"), "");
    }
}
