//! How a count becomes a sentence.
//!
//! Each function takes figures and returns text that claims just them. Where there are several
//! ways to say a thing, the caller's `turn` picks one, so that a slate does not repeat itself.

use std::fmt::Write as _;

/// Attributes that say what a thing is rather than what it is like.
const KINDS: [&str; 3] = ["type", "product_type", "category"];
/// Attributes that are not fit for a sentence: tiers and bare years mean nothing to a shopper.
const SILENT: [&str; 3] = ["brand_tier", "tier", "year"];
/// Attributes that name somebody or something else.
const NAMES: [&str; 4] = ["brand", "maker", "collection", "occasion"];
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

/// `both` of the item's `buyers` also bought the item called `other`.
pub(super) fn co_purchase(other: &str, both: usize, buyers: usize, turn: u32) -> String {
    match turn % 3 {
        0 => format!("Goes with “{other}”: {both} of the {buyers} who bought this have both."),
        1 => format!("Of the {buyers} who bought this, {both} also chose “{other}”."),
        _ => format!("{both} of its {buyers} buyers own “{other}” too."),
    }
}

/// `also` of the item's `buyers` bought another item with this attribute. Nothing where the
/// attribute is not fit for a sentence.
pub(super) fn attribute(name: &str, value: &str, also: usize, buyers: usize) -> Option<String> {
    if SILENT.contains(&name) || value.is_empty() {
        return None;
    }
    Some(match name {
        name if KINDS.contains(&name) => {
            format!("{also} of its {buyers} buyers picked more than one {value}.")
        }
        "brand" => {
            format!("More from {value}: {also} of its {buyers} buyers came to the brand again.")
        }
        "occasion" => {
            format!("Made for {value}: {also} of its {buyers} buyers chose other things for it.")
        }
        "season" => {
            format!("A {value} piece: {also} of its {buyers} buyers chose other {value} things.")
        }
        _ => format!(
            "For those who like {value}: {also} of its {buyers} buyers chose other {value} things."
        ),
    })
}

/// The item costs more than `cheaper` of the `of` items of its category.
pub(super) fn price(
    currency: &str,
    price: f32,
    category: &str,
    cheaper: usize,
    of: usize,
) -> String {
    let dearer = of - cheaper - 1;
    if cheaper * 2 < of {
        format!("At {currency}{price:.2} it costs less than {dearer} of the {of} in {category}.")
    } else {
        format!(
            "A finer choice at {currency}{price:.2}: above {cheaper} of the {of} in {category}."
        )
    }
}

/// `count` of the item's `sales` fell in these months, which follow each other.
pub(super) fn season(months: &[usize], count: u32, sales: u32) -> String {
    format!("In season: {count} of its {sales} sales came in {}.", months_in_words(months))
}

/// Months that follow each other, in words: "October to December".
pub(super) fn months_in_words(months: &[usize]) -> String {
    match months {
        [] => String::new(),
        [only] => MONTHS[*only].into(),
        [first, .., last] => format!("{} to {}", MONTHS[*first], MONTHS[*last]),
    }
}

/// `count` shoppers bought it in the last `days`.
pub(super) fn recency(count: u32, days: i64) -> String {
    format!("On the rise: {count} shoppers bought it in the last {days} days.")
}

/// `count` of the item's `buyers` bought it again at another time.
pub(super) fn repeat(count: u32, buyers: usize) -> String {
    format!("{count} of its {buyers} buyers came back for it.")
}

/// Whether an attribute can stand in a shopper's pattern.
pub fn speaks(name: &str) -> bool {
    !SILENT.contains(&name)
}

/// Whether an item can be said to be what this attribute says: red, or folk, but not a maker's name.
pub fn describes(name: &str) -> bool {
    speaks(name) && !KINDS.contains(&name) && !NAMES.contains(&name)
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
