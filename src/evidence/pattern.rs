//! A shopper's interests in words.

use super::wording;
use crate::bundle::{Catalog, HISTORY_LEN, HistoryEvent, ItemCard};
use std::cmp::Reverse;
use std::fmt::Write as _;
use std::sync::Arc;

/// Categories named in a pattern.
const CATEGORIES: usize = 3;
/// Attributes named in a pattern.
pub const PATTERN_LIKES_MAX: usize = 6;
/// Attributes that those are chosen from.
const LIKES_KNOWN: usize = 12;
/// Items named in a pattern.
const LATEST: usize = 3;

/// What the last events of a history say about its owner.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern {
    categories: Vec<u32>,
    /// The numbers of attributes that their things have in common, what counts most first.
    pub likes: Vec<u32>,
    price: Option<f32>,
    latest: Vec<Arc<str>>,
}

// === impl Pattern ===

impl Pattern {
    /// Of a history, oldest first: `None` of an empty one. Prices are those of the `cards`, which know
    /// nothing later than themselves.
    pub fn of(catalog: &Catalog, cards: &[ItemCard], history: &[HistoryEvent]) -> Option<Self> {
        let history = &history[history.len().saturating_sub(HISTORY_LEN)..];
        let latest = history.last()?;
        let categories = history.iter().map(|past| catalog.item(past.item).category);
        let mut likes = liked_attributes(catalog, history);
        likes.truncate(PATTERN_LIKES_MAX);
        let paid = history.iter().filter_map(|past| cards[past.item as usize].stats.price_paid());
        Some(Self {
            categories: commonest(categories, CATEGORIES, 1),
            likes,
            price: median(paid.collect()),
            latest: last_titles(catalog, history, latest),
        })
    }

    /// In words.
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

/// What a history (oldest first) says about its owner in words: their categories, what their things have
/// in common, what they usually pay, and what they chose last. Empty for an empty history.
pub fn pattern_text(
    catalog: &Catalog,
    cards: &[ItemCard],
    history: &[HistoryEvent],
    currency: &str,
) -> String {
    let pattern = Pattern::of(catalog, cards, history);
    pattern.map_or_else(String::new, |pattern| pattern.text(catalog, currency))
}

/// The attributes that the last things of a history have in common and that can be said, commonest first:
/// more than a pattern tells.
pub fn liked_attributes(catalog: &Catalog, history: &[HistoryEvent]) -> Vec<u32> {
    let history = &history[history.len().saturating_sub(HISTORY_LEN)..];
    common_attributes(catalog, history.iter(), |value| !value.is_empty(), LIKES_KNOWN, 2)
}

/// The `most` commonest attributes of these things that can be said and have a value that is `fit`, and that
/// at least `least` of them have, commonest first.
pub fn common_attributes<'a>(
    catalog: &Catalog,
    things: impl Iterator<Item = &'a HistoryEvent>,
    fit: impl Fn(&str) -> bool,
    most: usize,
    least: usize,
) -> Vec<u32> {
    let attributes = things.flat_map(|past| &catalog.item(past.item).attributes).copied();
    let said = attributes.filter(|&number| {
        let (name, value) = catalog.attribute(number);
        wording::can_be_said(name) && fit(value)
    });
    commonest(said, most, least)
}

fn last_titles(
    catalog: &Catalog,
    history: &[HistoryEvent],
    latest: &HistoryEvent,
) -> Vec<Arc<str>> {
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
