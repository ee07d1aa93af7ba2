//! Phrases a claim as a sentence.
//!
//! Each claim has a few phrasings, each of which claims just what the evidence shows. The evidence writer varies them, so
//! that a slate does not repeat itself; a language model chooses.

use crate::domain::{Evidence, EvidenceKind, Timestamp};
use crate::language::TITLE_WORDS;
use jiff::tz::TimeZone;
use std::fmt::Write as _;

/// Attributes that name the kind of an item.
const KINDS: [&str; 3] = ["type", "product_type", "category"];
/// Attributes that are not fit for a sentence: tiers and bare years mean nothing to a shopper.
const UNSAYABLE: [&str; 3] = ["brand_tier", "tier", "year"];
/// Attributes whose values are names.
const NAMES: [&str; 5] = ["brand", "maker", "collection", "occasion", TITLE_WORDS];
/// The months' names.
pub const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// All phrasings of a claim about an item of this `category`; none where it is not fit for a sentence.
pub fn phrasings(evidence: &Evidence, category: &str, currency: &str) -> Vec<String> {
    let Evidence { attribute, value, count, of, .. } = evidence;
    match evidence.kind {
        EvidenceKind::CoPurchase => vec![
            format!("Goes with “{value}”: {count} of the {of} who bought this have both."),
            format!("Of the {of} who bought this, {count} also chose “{value}”."),
            format!("{count} of its {of} buyers own “{value}” too."),
        ],
        EvidenceKind::Attribute => shared(attribute, value, *count, *of),
        EvidenceKind::Price => price(value, category, *count, *of, currency),
        EvidenceKind::Season => vec![
            format!("In season: {count} of its {of} sales came in {value}."),
            format!("One for {value}, when {count} of its {of} sales came."),
        ],
        EvidenceKind::Recency => vec![
            format!("On the rise: {count} shoppers bought it in the last {of} days."),
            format!("{count} shoppers chose it in the last {of} days."),
        ],
        EvidenceKind::Repeat => vec![
            format!("{count} of its {of} buyers came back for it."),
            format!("Bought again by {count} of its {of} buyers."),
        ],
        EvidenceKind::AttributeBuyers => chosen_again(attribute, value, *count, *of),
        EvidenceKind::SoldSince => vec![format!("Sold {count} times since yesterday.")],
        EvidenceKind::Asked => vec![answer(&[(&**attribute, &**value)])],
        EvidenceKind::NewSince => {
            day_in_words(value, *count).map(|day| format!("New since {day}.")).into_iter().collect()
        }
    }
}

/// What an item has of what a query asks for: names and values of attributes.
pub(super) fn answer(asked: &[(&str, &str)]) -> String {
    let values: Vec<String> = asked.iter().map(|&(name, value)| quoted(name, value)).collect();
    let values = list(values.iter().map(String::as_str));
    let mut letters = values.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    let sentence: String = first.chain(letters).collect();
    format!("{sentence}, as you asked.")
}

/// A value as a sentence names it: words of a title stand in quotes.
fn quoted(name: &str, value: &str) -> String {
    if name == TITLE_WORDS { format!("“{value}”") } else { value.into() }
}

/// A moment's day in UTC, as evidence names it: "2026-11-03". Empty for a moment that no calendar knows.
pub(super) fn day(time: Timestamp) -> String {
    let time = jiff::Timestamp::from_second(time).ok();
    time.map_or_else(String::new, |time| time.to_zoned(TimeZone::UTC).date().to_string())
}

/// A day of evidence, so many days ago, as a sentence names it: "yesterday", "3 November".
fn day_in_words(day: &str, ago: u32) -> Option<String> {
    let date: jiff::civil::Date = day.parse().ok()?;
    Some(match ago {
        0 => "today".into(),
        1 => "yesterday".into(),
        _ => format!("{} {}", date.day(), MONTHS[date.month() as usize - 1]),
    })
}

/// `count` of the item's `of` buyers bought another item with this attribute.
fn shared(name: &str, value: &str, count: u32, of: u32) -> Vec<String> {
    if !can_be_said(name) || value.is_empty() {
        return Vec::new();
    }
    match name {
        name if KINDS.contains(&name) => vec![
            format!("{count} of its {of} buyers picked more than one {value}."),
            format!("Of the {of} who bought this {value}, {count} picked another."),
        ],
        "brand" => vec![
            format!("More from {value}: {count} of its {of} buyers came to the brand again."),
            format!("{count} of its {of} buyers chose {value} more than once."),
        ],
        "occasion" => vec![
            format!("Made for {value}: {count} of its {of} buyers chose other things for it."),
            format!("Chosen for {value}: {count} of its {of} buyers picked more for it."),
        ],
        "season" => vec![
            format!("A {value} piece: {count} of its {of} buyers chose other {value} things."),
            format!("{count} of its {of} buyers chose more for {value}."),
        ],
        TITLE_WORDS => vec![
            format!("More “{value}”: {count} of its {of} buyers chose other “{value}” things."),
            format!("{count} of its {of} buyers chose more than one “{value}” thing."),
        ],
        _ => vec![
            format!(
                "For those who like {value}: {count} of its {of} buyers chose other {value} things."
            ),
            format!("{count} of its {of} buyers keep choosing {value}."),
        ],
    }
}

/// `of` shoppers bought an item with this attribute, and `count` of them bought several.
fn chosen_again(name: &str, value: &str, count: u32, of: u32) -> Vec<String> {
    if !can_be_said(name) || value.is_empty() {
        return Vec::new();
    }
    vec![
        format!("Also “{value}”: {of} shoppers chose it, and {count} of them chose several."),
        format!("{of} shoppers chose “{value}” things, and {count} of them chose several."),
    ]
}

/// The item costs more than `cheaper` of the `of` items of its category.
fn price(price: &str, category: &str, cheaper: u32, of: u32, currency: &str) -> Vec<String> {
    let dearer = of - cheaper - 1;
    if cheaper * 2 < of {
        vec![
            format!("At {currency}{price} it costs less than {dearer} of the {of} in {category}."),
            format!("{currency}{price}: less than {dearer} of the {of} in {category}."),
        ]
    } else {
        vec![
            format!(
                "A finer choice at {currency}{price}: above {cheaper} of the {of} in {category}."
            ),
            format!(
                "One of the finer in {category}: at {currency}{price}, above {cheaper} of {of}."
            ),
        ]
    }
}

/// Consecutive months in words: "October to December".
pub(super) fn months_in_words(months: &[usize]) -> String {
    match months {
        [] => String::new(),
        [only] => MONTHS[*only].into(),
        [first, .., last] => format!("{} to {}", MONTHS[*first], MONTHS[*last]),
    }
}

/// Whether an attribute is fit for a sentence.
pub fn can_be_said(name: &str) -> bool {
    !UNSAYABLE.contains(&name)
}

/// Whether an attribute's value describes an item, as "red" or "folk" do, and is no kind or name.
pub fn is_descriptive(name: &str) -> bool {
    can_be_said(name) && !KINDS.contains(&name) && !NAMES.contains(&name)
}

/// "a", "a and b", "a, b and c".
pub(super) fn list<'a>(mut words: impl ExactSizeIterator<Item = &'a str>) -> String {
    let mut text: String = words.next().unwrap_or_default().into();
    while let Some(word) = words.next() {
        let joint = if words.len() == 0 { " and " } else { ", " };
        let _ = write!(text, "{joint}{word}");
    }
    text
}
