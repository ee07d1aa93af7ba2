//! What `make` says about odd shops before it trains, with shops made by hand.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use raisonne::bundle::{Catalog, CatalogRow};
use raisonne::domain::EventKind;
use raisonne::language::{TITLE_WORDS, TitleWordsConfig, shared_words};
use raisonne::shop::{Shop, ShopEvent, ShopItem};
use raisonne::train::Recipe;
use raisonne::train::dataset::Dataset;
use raisonne::train::warnings::{self, Examined, Warning};

const DAY: i64 = 86_400;
/// 2024-01-01T00:00:00Z.
const BEGIN: i64 = 1_704_067_200;

/// A healthy shop: 600 users, each of whom buys two of 40 items ten times, at odd times of 400 days.
fn healthy() -> Shop {
    let items = (0..40).map(|n| ShopItem {
        id: format!("item-{n}").as_str().into(),
        title: format!("Thing number {n}"),
        category: format!("Kind {}", n % 4),
        attributes: vec![("color".into(), ["red", "blue"][n % 2].into())],
        description: String::new(),
        price: None,
    });
    let mut shop = Shop { items: items.collect(), ..Shop::default() };
    shop.users = (0..600).map(|n| format!("user-{n}").as_str().into()).collect();
    for basket in 0..6_000_u32 {
        let (user, time) = (basket % 600, BEGIN + i64::from(basket) * 5_761);
        for line in 0..2 {
            // Shoppers of a group buy the same few items.
            let item = (user % 8) * 5 + (basket / 600 + line * 2) % 5;
            shop.events.push(purchase(user, item, time, basket));
        }
    }
    shop
}

fn purchase(user: u32, item: u32, time: i64, basket: u32) -> ShopEvent {
    let kind = EventKind::Purchase;
    ShopEvent { time, user, item, kind, quantity: 1.0, price: None, basket }
}

fn recipe(set: &[&str]) -> Recipe {
    let path = format!("{}/models/demo.toml", env!("CARGO_MANIFEST_DIR"));
    let set: Vec<String> = set.iter().map(|&set| set.to_owned()).collect();
    Recipe::read(path.as_ref(), &set).unwrap()
}

fn catalog(shop: &Shop, words: bool) -> Catalog {
    let titles: Vec<&str> = shop.items.iter().map(|item| item.title.as_str()).collect();
    let shared = shared_words(&titles, &TitleWordsConfig::default());
    let rows = shop.items.iter().zip(shared).map(|(item, shared)| {
        let shared = shared.into_iter().filter(|_| words);
        let mined = shared.map(|words| (TITLE_WORDS.to_owned(), words));
        CatalogRow {
            id: item.id.as_str().into(),
            title: item.title.clone(),
            category: item.category.clone(),
            attributes: item.attributes.iter().cloned().chain(mined).collect(),
            price: item.price,
        }
    });
    Catalog::new(rows)
}

/// Checks a shop by a recipe: its warnings, or why it is refused.
fn examine(mut shop: Shop, set: &[&str], words: bool) -> Result<Vec<Warning>, String> {
    shop.events.sort_by_key(|event| (event.time, event.user, event.basket));
    let (recipe, catalog) = (recipe(set), catalog(&shop, words));
    let dataset = Dataset::read(&shop, &catalog, recipe.split, 7).unwrap();
    let examined = Examined { shop: &shop, catalog: &catalog, dataset: &dataset, recipe: &recipe };
    warnings::check(&examined).map_err(|error| error.to_string())?;
    Ok(warnings::warnings(&examined))
}

fn text_of<'a>(warnings: &'a [Warning], about: &str) -> Option<&'a str> {
    warnings.iter().find(|warning| warning.about == about).map(|warning| warning.text.as_str())
}

#[test]
fn a_healthy_shop_has_no_warnings() {
    assert_eq!(examine(healthy(), &[], false), Ok(Vec::new()));
}

/// In the validation time, everybody buys what others buy.
fn buys_elsewhere(shop: &mut Shop) {
    for (line, event) in shop.events.iter_mut().enumerate() {
        if (4_800..5_400).contains(&event.basket) {
            event.item = (event.item + 5 + 5 * (line as u32 % 7)) % 40;
        }
    }
}

/// What is done to the healthy shop.
type Twist = fn(&mut Shop);

/// What is done in words, how, settings of the recipe, the warning, and words of its text.
type WarningCase =
    (&'static str, Twist, &'static [&'static str], &'static str, &'static [&'static str]);

const TWISTS: &[WarningCase] = &[
    (
        "one user buys as much as all others",
        |shop| {
            for event in shop.events.iter_mut().step_by(2) {
                event.user = 3;
            }
        },
        &[],
        "one_user",
        &["\"user-3\"", "50 %", "till"],
    ),
    (
        "every basket has postage",
        |shop| {
            for event in shop.events.iter_mut().step_by(2) {
                event.item = 7;
            }
        },
        &[],
        "one_item",
        &["\"item-7\"", "Thing number 7", "51 %", "postage"],
    ),
    (
        "half of the times are a default",
        |shop| {
            for event in shop.events.iter_mut().step_by(2) {
                event.time = BEGIN;
            }
        },
        &[],
        "one_moment",
        &["2024-01-01T00:00:00Z", "50 %", "(6001)"],
    ),
    (
        "half of all lines are in one basket",
        |shop| {
            for event in shop.events.iter_mut().step_by(2) {
                event.basket = 0;
            }
        },
        &[],
        "one_basket",
        &["50 %", "--column basket=NAME"],
    ),
    (
        "times are days",
        |shop| {
            for event in &mut shop.events {
                event.time -= event.time.rem_euclid(DAY);
            }
        },
        &[],
        "times_are_days",
        &["whole days", "50 %"],
    ),
    (
        "times are days of a zone with summer time",
        |shop| {
            for event in &mut shop.events {
                let day = event.time.div_euclid(DAY);
                event.time = day * DAY + if day % 300 < 150 { 79_200 } else { 82_800 };
            }
        },
        &[],
        "times_are_days",
        &["whole days"],
    ),
    (
        "a fifth of the titles are empty",
        |shop| {
            for item in shop.items.iter_mut().step_by(5) {
                item.title = " ".into();
            }
        },
        &[],
        "same_titles",
        &["20 %", "(8 of 40)", "no title"],
    ),
    (
        "all titles are the same",
        |shop| {
            for item in &mut shop.items {
                item.title = "n/a".into();
            }
        },
        &[],
        "same_titles",
        &["100 %", "\"n/a\""],
    ),
    (
        "items have only titles",
        |shop| {
            for item in &mut shop.items {
                item.attributes.clear();
                item.category.clear();
            }
        },
        &[],
        "only_titles",
        &["No item has a category or an attribute", "--attributes"],
    ),
    (
        "the number of sales is an attribute",
        |shop| shop.items[0].attributes.push(("units_sold".into(), "912".into())),
        &[],
        "counted_attribute",
        &["\"units_sold\"", "1 items"],
    ),
    (
        "the number of ratings is an attribute",
        |shop| shop.items[0].attributes.push(("ratingCount".into(), "4,5".into())),
        &[],
        "counted_attribute",
        &["\"ratingCount\""],
    ),
    (
        "half of the events look at items that have not sold",
        |shop| {
            for item in &mut shop.items {
                item.price = Some(2.0);
            }
            for event in shop.events.iter_mut().filter(|event| event.item % 2 == 0) {
                event.kind = EventKind::Click;
            }
        },
        &[],
        "catalogue_prices",
        &["50 %", "no time"],
    ),
    (
        "cards are old",
        |_| {},
        &["cards.as_of=2024-06-01T00:00:00Z"],
        "old_cards",
        &["2024-06-01", "28 days"],
    ),
    (
        "the test time is short",
        |_| {},
        &["split.test=0.99"],
        "few_test_cases",
        &["Only 60 shoppers", "`split.test = 0.966`"],
    ),
    (
        "the validation time is short",
        |_| {},
        &["split.validate=0.89"],
        "few_validation_cases",
        &["Only 60 shoppers", "`split.validate = 0.866`"],
    ),
    (
        "the training time is short",
        |_| {},
        &["split.train=0.7"],
        "few_training_baskets",
        &["600 baskets", "`split.train`"],
    ),
    (
        "slates are short",
        buys_elsewhere,
        &["slates.size=1"],
        "slates_miss",
        &["slates of 1 hold", "slates.size"],
    ),
    (
        "nobody buys the same",
        |shop| {
            let item = shop.items[0].clone();
            shop.items = (0..12_000_usize)
                .map(|n| ShopItem { id: format!("item-{n}").as_str().into(), ..item.clone() })
                .collect();
            for (item, event) in shop.items.iter_mut().enumerate().zip(&mut shop.events) {
                event.item = item.0 as u32;
                item.1.title = format!("Thing {}", item.0);
                item.1.attributes.clear();
            }
        },
        &[],
        "items_without_reasons",
        &["100 %", "(12000 of 12000)", "--attributes"],
    ),
];

#[test]
fn each_oddity_is_said_with_its_number_and_what_to_do() {
    for (what, twist, set, about, words) in TWISTS {
        let mut shop = healthy();
        twist(&mut shop);
        let warnings = examine(shop, set, false).unwrap();
        let Some(text) = text_of(&warnings, about) else {
            panic!("{what}: no warning {about}, but {warnings:?}");
        };
        for words in *words {
            assert!(text.contains(words), "{what}: {words:?} is not in {text:?}");
        }
    }
}

#[test]
fn what_only_sounds_like_a_count_is_no_warning() {
    for (name, value) in
        [("rating", "PG-13"), ("discount", "no"), ("country", "4"), ("stars", "Brad Pitt")]
    {
        let mut shop = healthy();
        shop.items[0].attributes.push((name.into(), value.into()));
        assert_eq!(examine(shop, &[], false), Ok(Vec::new()), "{name}");
    }
}

#[test]
fn title_words_are_counted_where_they_stand_in() {
    let mut shop = healthy();
    for (number, item) in shop.items.iter_mut().enumerate() {
        item.attributes.clear();
        item.category.clear();
        item.title = format!("{} {number}", ["Dragon Age", "Mass Effect", "Halo"][number % 3]);
    }
    let warnings = examine(shop, &[], true).unwrap();
    let text = text_of(&warnings, "only_titles").unwrap();
    assert!(text.contains("stand in for 40 of 40 items"), "{text}");
}

/// What is done in words, how, settings of the recipe, and words of the error.
type ErrorCase = (&'static str, Twist, &'static [&'static str], &'static [&'static str]);

#[test]
fn what_no_bundle_can_come_of_is_an_error() {
    let cases: &[ErrorCase] = &[
        (
            "nobody buys in the test time",
            |shop| {
                for event in shop.events.iter_mut().filter(|event| event.time > BEGIN + 330 * DAY) {
                    event.kind = EventKind::Click;
                }
            },
            &[],
            &["nobody buys in the test time", "2024-12-26", "`split.test = 0.7"],
        ),
        (
            "nobody buys in the validation time",
            |shop| {
                shop.events
                    .retain(|event| !(BEGIN + 310 * DAY..BEGIN + 370 * DAY).contains(&event.time));
            },
            &[],
            &["nobody buys in the validation time", "`split.validate = 0."],
        ),
        (
            "nobody buys in the training time",
            |shop| {
                shop.events
                    .retain(|event| event.time < BEGIN + DAY || event.time > BEGIN + 350 * DAY);
            },
            &[],
            &["nobody buys in the training time"],
        ),
        (
            "nobody buys at all",
            |shop| shop.events.iter_mut().for_each(|event| event.kind = EventKind::Click),
            &[],
            &["the log has no purchases"],
        ),
        (
            "few people buy at all",
            |shop| shop.events.truncate(200),
            &["split.test=0.995", "split.validate=0.99", "split.train=0.985"],
            &["the whole log has 100 buyers"],
        ),
        (
            "snapshots every zero days",
            |_| {},
            &["slates.refresh_days=0"],
            &["`slates.refresh_days` is 0"],
        ),
    ];
    for (what, twist, set, words) in cases {
        let mut shop = healthy();
        twist(&mut shop);
        let error = examine(shop, set, false).unwrap_err();
        for words in *words {
            assert!(error.contains(words), "{what}: {words:?} is not in {error:?}");
        }
    }
}

#[test]
fn shares_that_are_proposed_are_enough() {
    let shares = |text: &str, key: &str| -> String {
        let from = text.find(&format!("`{key} = ")).unwrap() + key.len() + 4;
        text[from..].split('`').next().unwrap().to_owned()
    };
    let warnings = examine(healthy(), &["split.test=0.99", "split.validate=0.985"], false).unwrap();
    let text = text_of(&warnings, "few_test_cases").unwrap();
    let set = ["split.validate", "split.test"].map(|key| format!("{key}={}", shares(text, key)));
    let set: Vec<&str> = set.iter().map(String::as_str).collect();
    assert_eq!(examine(healthy(), &set, false), Ok(Vec::new()), "{set:?}");
}
