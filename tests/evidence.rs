//! Every claim in a reason is checked against the data, by counting anew in the plainest way, and
//! reasons and patterns know nothing of what came after them.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod shops;

use raisonne::bundle::{Catalog, CatalogRow, HistoryEvent};
use raisonne::domain::{EventKind, EvidenceKind};
use raisonne::evidence::{BUYERS_MIN, Purchase, pattern_text};
use raisonne::language::{TITLE_WORDS, TitleWordsConfig, shared_words};
use raisonne::train::dataset::Dataset;
use raisonne::train::snapshot::Snapshot;
use shops::TestShop;
use std::collections::{BTreeMap, BTreeSet};

/// The purchases before a moment, and the plain counts that claims are checked with.
struct PlainCounts<'a> {
    catalog: &'a Catalog,
    purchases: Vec<&'a Purchase>,
    as_of: i64,
}

impl<'a> PlainCounts<'a> {
    fn before(dataset: &'a Dataset, catalog: &'a Catalog, as_of: i64) -> Self {
        let purchases = dataset.purchases.iter().filter(|p| p.time < as_of).collect();
        Self { catalog, purchases, as_of }
    }

    fn buyers(&self, item: u32) -> BTreeSet<u32> {
        self.purchases.iter().filter(|p| p.item == item).map(|p| p.user).collect()
    }

    fn items(&self, user: u32) -> BTreeSet<u32> {
        self.purchases.iter().filter(|p| p.user == user).map(|p| p.item).collect()
    }

    fn price(&self, item: u32) -> Option<f32> {
        let last = self.purchases.iter().rev().find(|p| p.item == item && p.price.is_some());
        last.map_or(self.catalog.item(item).price, |p| p.price)
    }

    /// Figure by figure, what a reason's evidence must say.
    fn figures(&self, item: u32, evidence: &raisonne::domain::Evidence) -> (u32, u32) {
        let buyers = self.buyers(item);
        let (count, of) = match evidence.kind {
            EvidenceKind::CoPurchase => {
                let other = evidence.item.as_ref().and_then(|id| self.catalog.number(id)).unwrap();
                (self.buyers(other).intersection(&buyers).count(), buyers.len())
            }
            EvidenceKind::Attribute => {
                let attribute =
                    self.catalog.attribute_number(&evidence.attribute, &evidence.value).unwrap();
                let has = |item: &u32| self.catalog.item(*item).attributes.contains(&attribute);
                assert!(has(&item), "the item has the attribute that is claimed");
                let more = |user: &&u32| self.items(**user).iter().filter(|i| has(i)).count() > 1;
                (buyers.iter().filter(more).count(), buyers.len())
            }
            EvidenceKind::Price => {
                let category = self.catalog.item(item).category;
                let priced: Vec<f32> = (0..self.catalog.len() as u32)
                    .filter(|&other| self.catalog.item(other).category == category)
                    .filter_map(|other| self.price(other))
                    .collect();
                let own = self.price(item).unwrap();
                assert_eq!(&*evidence.value, format!("{own:.2}"));
                (priced.iter().filter(|&&price| price < own).count(), priced.len())
            }
            EvidenceKind::Season => {
                let sales: Vec<_> = self.purchases.iter().filter(|p| p.item == item).collect();
                let months = MONTHS.iter().cycle();
                let mut words = evidence.value.split(" to ");
                let first = words.next().unwrap();
                let last = words.next().unwrap_or(first);
                let from = MONTHS.iter().position(|month| *month == first).unwrap();
                let span = months.skip(from).take(12).position(|month| *month == last).unwrap();
                let within = |time: i64| (raisonne::bundle::month(time) + 12 - from) % 12 <= span;
                (sales.iter().filter(|p| within(p.time)).count(), sales.len())
            }
            EvidenceKind::Recency => {
                let days = evidence.of;
                let since = self.as_of - i64::from(days) * 86_400;
                let recent: BTreeSet<u32> = self
                    .purchases
                    .iter()
                    .filter(|p| p.item == item && p.time >= since)
                    .map(|p| p.user)
                    .collect();
                (recent.len(), days as usize)
            }
            EvidenceKind::Repeat => {
                let mut times: BTreeMap<u32, BTreeSet<i64>> = BTreeMap::new();
                for p in self.purchases.iter().filter(|p| p.item == item) {
                    times.entry(p.user).or_default().insert(p.time);
                }
                (times.values().filter(|times| times.len() > 1).count(), buyers.len())
            }
            EvidenceKind::AttributeBuyers => {
                let attribute =
                    self.catalog.attribute_number(&evidence.attribute, &evidence.value).unwrap();
                let has = |item: &u32| self.catalog.item(*item).attributes.contains(&attribute);
                assert!(has(&item), "the item has the attribute that is claimed");
                let users: BTreeSet<u32> = self.purchases.iter().map(|p| p.user).collect();
                let owned =
                    users.iter().map(|&user| self.items(user).iter().filter(|i| has(i)).count());
                let owned: Vec<usize> = owned.filter(|&items| items > 0).collect();
                (owned.iter().filter(|&&items| items > 1).count(), owned.len())
            }
            EvidenceKind::SoldSince | EvidenceKind::NewSince | EvidenceKind::Asked => {
                panic!("a card, which stands in a bundle, claims nothing about a request")
            }
        };
        (count as u32, of as u32)
    }
}

const MONTHS: [&str; 12] = [
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

/// Counts each reason's figures anew, and returns how many reasons of each kind there were.
fn count_anew(dataset: &Dataset, catalog: &Catalog, as_of: i64) -> BTreeMap<&'static str, usize> {
    let (_, cards) = Snapshot::write(dataset, catalog, as_of, "£");
    let facts = PlainCounts::before(dataset, catalog, as_of);
    let mut checked: BTreeMap<&str, usize> = BTreeMap::new();
    for (item, card) in cards.items.iter().enumerate() {
        for reason in &card.reasons {
            let evidence = &reason.evidence[0];
            let figures = facts.figures(item as u32, evidence);
            assert_eq!((evidence.count, evidence.of), figures, "{}", reason.text);
            let said = |figure: u32| reason.text.contains(&figure.to_string());
            assert!(
                said(evidence.count) || evidence.kind == EvidenceKind::Price,
                "{}",
                reason.text
            );
            *checked.entry(evidence.kind.as_str()).or_default() += 1;
        }
    }
    checked
}

#[test]
fn every_figure_in_every_reason_can_be_counted() {
    let TestShop { dataset, catalog, .. } = &TestShop::small();
    let checked = count_anew(dataset, catalog, dataset.split.test);
    assert!(checked.len() == 6, "every kind of claim was met: {checked:?}");
    assert!(checked["co_purchase"] > 100, "{checked:?}");
}

/// The catalogue of a shop whose items have only titles: the words that titles share are their attributes.
fn titles_only(catalog: &Catalog) -> Catalog {
    let rows: Vec<CatalogRow> = catalog.rows().collect();
    let titles: Vec<&str> = rows.iter().map(|row| row.title.as_str()).collect();
    let words = shared_words(&titles, &TitleWordsConfig::default());
    let bare = rows.iter().zip(words).map(|(row, words)| CatalogRow {
        category: String::new(),
        attributes: words.into_iter().map(|words| (TITLE_WORDS.to_owned(), words)).collect(),
        ..row.clone()
    });
    Catalog::new(bare)
}

#[test]
fn a_shop_with_nothing_but_titles_has_reasons_that_can_be_counted() {
    let TestShop { dataset, catalog, .. } = &TestShop::small();
    let catalog = titles_only(catalog);
    let bare = catalog.rows().map(|row| CatalogRow { attributes: Vec::new(), ..row });
    let bare = Catalog::new(bare);
    // Early on, few items have buyers enough for a claim of their own.
    for as_of in [dataset.split.train, dataset.split.test] {
        let checked = count_anew(dataset, &catalog, as_of);
        assert!(checked["attribute"] > 10 && checked["attribute_buyers"] > 10, "{checked:?}");
        let reasonless = |catalog: &Catalog| {
            let (_, cards) = Snapshot::write(dataset, catalog, as_of, "£");
            cards.items.iter().filter(|card| card.reasons.is_empty()).count()
        };
        let (with, without) = (reasonless(&catalog), reasonless(&bare));
        assert!(with * 2 <= without, "{with} items instead of {without} have no reason");
    }
}

#[test]
fn a_shop_with_attributes_has_no_reasons_from_the_words_of_titles() {
    let TestShop { dataset, catalog, .. } = &TestShop::small();
    let checked = count_anew(dataset, catalog, dataset.split.train);
    assert!(!checked.contains_key("attribute_buyers"), "{checked:?}");
}

#[test]
fn nobody_is_told_what_their_own_purchase_alone_supports() {
    let TestShop { dataset, catalog, .. } = &TestShop::small();
    let catalog = titles_only(catalog);
    let as_of = dataset.split.train;
    let (_, cards) = Snapshot::write(dataset, &catalog, as_of, "£");
    let facts = PlainCounts::before(dataset, &catalog, as_of);
    let reasons = cards.items.iter().flat_map(|card| &card.reasons);
    let shared = |kind| kind == EvidenceKind::AttributeBuyers;
    for reason in reasons.filter(|reason| shared(reason.evidence[0].kind)) {
        let evidence = &reason.evidence[0];
        let attribute = catalog.attribute_number(&evidence.attribute, &evidence.value).unwrap();
        let has = |item: &u32| catalog.item(*item).attributes.contains(&attribute);
        let users: BTreeSet<u32> = facts.purchases.iter().map(|p| p.user).collect();
        let several = |user: &u32| facts.items(*user).iter().filter(|item| has(item)).count() > 1;
        let also: Vec<_> = users.into_iter().filter(several).collect();
        let named: Vec<_> = also.iter().map(|&user| dataset.users[user as usize].clone()).collect();
        let expected = if also.len() > BUYERS_MIN { Vec::new() } else { named };
        assert_eq!(reason.supporters, expected, "{}", reason.text);
    }
}

#[test]
fn few_buyers_are_no_reason() {
    let test_shop = TestShop::small();
    let (_, cards) =
        Snapshot::write(&test_shop.dataset, &test_shop.catalog, test_shop.dataset.split.test, "£");
    for reason in cards.items.iter().flat_map(|card| &card.reasons) {
        let evidence = &reason.evidence[0];
        assert!(
            evidence.kind == EvidenceKind::Price || evidence.count as usize >= BUYERS_MIN,
            "{}",
            reason.text
        );
    }
}

#[test]
fn cards_know_nothing_of_what_came_after_them() {
    let test_shop = TestShop::small();
    let as_of = test_shop.dataset.split.validate;
    let (_, cards) = Snapshot::write(&test_shop.dataset, &test_shop.catalog, as_of, "£");
    let mut shop = test_shop.shop();
    shop.events.retain(|line| line.time < as_of);
    // The end of the log has moved, and with it the cuts; the card's time is the same.
    let truncated = Dataset::read(&shop, &test_shop.catalog, shops::CUTS, shops::SEED).unwrap();
    let (_, again) = Snapshot::write(&truncated, &test_shop.catalog, as_of, "£");
    let texts = |cards: &raisonne::bundle::Cards| -> Vec<String> {
        cards.items.iter().flat_map(|c| &c.reasons).map(|r| r.text.to_string()).collect()
    };
    assert!(texts(&cards).len() > 100);
    assert_eq!(texts(&cards), texts(&again));
}

#[test]
fn different_histories_have_different_patterns() {
    let test_shop = TestShop::small();
    let history = |user: usize| -> Vec<HistoryEvent> {
        let bought = test_shop.dataset.bought[user].iter();
        bought
            .map(|b| HistoryEvent { item: b.item, time: b.time, kind: EventKind::Purchase })
            .collect()
    };
    let as_of = test_shop.dataset.split.end;
    let (_, cards) = Snapshot::write(&test_shop.dataset, &test_shop.catalog, as_of, "£");
    let mut seen: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
    for user in 0..test_shop.dataset.users.len() {
        let history = history(user);
        if history.len() < 3 {
            continue;
        }
        let items = history.iter().map(|past| past.item).collect();
        let text = pattern_text(&test_shop.catalog, &cards.items, &history, "£");
        let before = seen.insert(text.clone(), items);
        assert!(before.is_none(), "two shoppers share the pattern {text:?}");
    }
    assert!(seen.len() > 50);
}
