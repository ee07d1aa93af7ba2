//! What of a query does an item answer? "Walnut, as you asked."

use super::wording;
use crate::bundle::Catalog;
use crate::domain::{Evidence, EvidenceKind};
use crate::language::{AskedWords, TITLE_WORDS};
use std::sync::Arc;

/// Values that one answer names, at most.
const VALUES_MAX: usize = 2;
/// The name of the attribute that stands for the category.
const CATEGORY: &str = "category";
/// What stands between the steps of a category's path.
const STEP: char = '>';

/// A sentence that says which wish of a query an item fulfils.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The sentence. It tells values of the catalogue alone, and no word of the query.
    pub text: Arc<str>,
    /// A claim for each value.
    pub evidence: Arc<[Evidence]>,
}

/// A value of an item that the query names.
struct Named<'c> {
    attribute: &'c str,
    value: &'c str,
    words: usize,
}

/// What an item has of what the query asks for: its attributes, the last step of its category, and else the words of
/// its title. `None` if the query names nothing of it.
pub fn answer(catalog: &Catalog, asked: &AskedWords, item: u32) -> Option<Answer> {
    if asked.is_empty() {
        return None;
    }
    let item = catalog.item(item);
    let category = catalog.category(item.category).rsplit(STEP).next().unwrap_or_default().trim();
    let attributes = catalog.attributes_of(item).map(|(name, value)| (&**name, &**value));
    let sayable = attributes.filter(|&(name, _)| wording::can_be_said(name));
    let all = sayable.chain([(CATEGORY, category)]);
    let named = all.filter_map(|(attribute, value)| {
        Some(Named { attribute, value, words: asked.named(value)? })
    });
    let mut named: Vec<Named<'_>> = named.collect();
    // The shop's own words say more than those of a title, and a longer value more than a shorter one.
    named.sort_by_key(|named| (named.attribute == TITLE_WORDS, std::cmp::Reverse(named.words)));
    let mut chosen: Vec<Named<'_>> = Vec::with_capacity(VALUES_MAX);
    for named in named {
        let is_told =
            chosen.iter().any(|told| AskedWords::of(told.value).named(named.value).is_some());
        if !is_told && chosen.len() < VALUES_MAX {
            chosen.push(named);
        }
    }
    if chosen.is_empty() {
        let (value, words) = asked.longest_in(&item.title)?;
        chosen.push(Named { attribute: TITLE_WORDS, value, words });
    }
    let values: Vec<(&str, &str)> = chosen.iter().map(|of| (of.attribute, of.value)).collect();
    let text = wording::answer(&values).into();
    Some(Answer { text, evidence: chosen.iter().map(evidence).collect() })
}

fn evidence(named: &Named<'_>) -> Evidence {
    let words = named.words as u32;
    Evidence {
        kind: EvidenceKind::Asked,
        item: None,
        attribute: named.attribute.into(),
        value: named.value.into(),
        count: words,
        of: words,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::CatalogRow;

    fn catalog() -> Catalog {
        let row = |id: &str, title: &str, category: &str, attributes: &[(&str, &str)]| CatalogRow {
            id: id.into(),
            title: title.into(),
            category: category.into(),
            attributes: attributes
                .iter()
                .map(|&(name, value)| (name.into(), value.into()))
                .collect(),
            price: None,
        };
        let walnut =
            [("material", "walnut"), ("product_type", "coffee table"), ("brand_tier", "high")];
        Catalog::new([
            row("table", "Nordic Coffee Table", "Home > Furniture > Tables", &walnut),
            row("polish", "OPI Nail Lacquer, Simmer", "Beauty > Nail Polish", &[]),
            row("worded", "OPI Nail Lacquer, Red", "", &[(TITLE_WORDS, "Nail Lacquer")]),
            row("bare", "", "", &[]),
        ])
    }

    #[test]
    fn an_answer_names_what_the_catalogue_says_and_the_query_asks_for() {
        let catalog = catalog();
        let told = |query: &str, item: u32| {
            answer(&catalog, &AskedWords::of(query), item).map(|answer| answer.text.to_string())
        };
        for (query, item, expected) in [
            ("something in walnut", 0, Some("Walnut, as you asked.")),
            ("WALNUT coffee tables!", 0, Some("Coffee table and walnut, as you asked.")),
            ("a table", 0, Some("Tables, as you asked.")),
            ("coffee table", 0, Some("Coffee table, as you asked.")),
            ("a nordic one", 0, Some("“Nordic”, as you asked.")),
            ("high", 0, None),
            ("not walnut", 0, None),
            ("not walnut but a coffee table", 0, Some("Coffee table, as you asked.")),
            ("nail polish", 1, Some("Nail Polish, as you asked.")),
            ("nail lacquer", 1, Some("“Nail Lacquer”, as you asked.")),
            ("nail lacquer", 2, Some("“Nail Lacquer”, as you asked.")),
            ("home", 0, None),
            ("walnut", 1, None),
            ("walnut", 3, None),
            ("", 0, None),
            ("🎁", 0, None),
        ] {
            assert_eq!(told(query, item).as_deref(), expected, "{query:?} {item}");
        }
    }

    #[test]
    fn no_word_of_a_query_is_echoed() {
        let asked = AskedWords::of("wAlNuT tABLES, call 555 now");
        let told = answer(&catalog(), &asked, 0).unwrap();
        assert_eq!(&*told.text, "Walnut and Tables, as you asked.");
        let figures: Vec<_> =
            told.evidence.iter().map(|e| (&*e.attribute, &*e.value, e.count, e.of)).collect();
        assert_eq!(figures, [("material", "walnut", 1, 1), ("category", "Tables", 1, 1)]);
    }
}
