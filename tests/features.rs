//! The features of the demo bundle's candidates stay as they were when its network was trained.

#![expect(clippy::unwrap_used, reason = "a test's helper fails as a test does")]

#[path = "support/bundle.rs"]
#[expect(dead_code, reason = "other tests use the rest of it")]
mod copies;

use copies::copied_bundle;
use raisonne::bundle::{Bundle, Manifest, month};
use raisonne::scorer::features::{CandidateItem, FEATURE_COUNT, FEATURES, FeatureContext};
use raisonne::scorer::{OpenedScorer, network_shape};
use std::fs;
use std::path::Path;

/// After the last event, when the basket is still open.
const SOON_S: i64 = 600;

/// Each feature, summed over the candidates of [`sums`], as the network's training computed it.
const EXPECTED: [(&str, f64); FEATURE_COUNT] = [
    ("purchases", 1_028.997_3),
    ("purchase_recency_7d", 188.3054),
    ("purchase_recency_30d", 458.4369),
    ("purchase_recency_120d", 873.3980),
    ("recent_sales", 5_411.455_6),
    ("sales", 7_793.176_8),
    ("recent_sales_share", 1_245.079_6),
    ("days_on_sale", 13_283.519_6),
    ("seasonality", 5_640.468_3),
    ("price_rank", 6_566.770_5),
    ("price_distance", 10_673.657_7),
    ("price_difference", 1_238.414_4),
    ("category_share", 2_352.997_5),
    ("attribute_share", 2_454.227_3),
    ("backing_sum", 7_431.043_6),
    ("backing_max", 3_952.862_7),
    ("partner_sum", 1_390.504_1),
    ("partner_max", 3_385.634_8),
    ("basket_companion_sum", 194.8058),
    ("basket_companion_max", 153.4736),
    ("basket_items", 3_473.607_2),
    ("earlier_companion_sum", 2_985.244_0),
    ("earlier_companion_max", 1_737.704_5),
    ("kind_in_basket", 473.0000),
    ("kind_purchases", 3_057.544_6),
    ("kind_purchase_recency_120d", 2_012.491_7),
    ("browses", 2_069.903_8),
    ("browse_recency_30d", 582.0508),
    ("price_rank_difference", 543.2630),
    ("price_rank_distance", 3_580.736_4),
];

fn demo() -> OpenedScorer {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
    OpenedScorer::of(Bundle::open(&dir).unwrap()).unwrap()
}

/// Sums over each golden request's candidates, its user's history and the companions of that, at the
/// request's time and soon after the user's last event.
fn sums(opened: &OpenedScorer) -> [f64; FEATURE_COUNT] {
    let (catalog, cards) = (&opened.model.catalog, &opened.model.cards);
    let mut sums = [0.0; FEATURE_COUNT];
    for golden in opened.golden() {
        let history = &cards.users[&golden.user.as_str().into()].history;
        let mut items: Vec<u32> = history.iter().map(|event| event.item).collect();
        let companions = items.iter().flat_map(|&item| cards.companions.of(item));
        let companions: Vec<u32> = companions.map(|(item, _)| item).collect();
        items.extend(companions);
        items.extend(golden.items.iter().map(|id| catalog.number(&id.as_str().into()).unwrap()));
        let last = history.last().unwrap().time;
        for now in [golden.now, last + SOON_S] {
            let context = FeatureContext::new(catalog, cards, history, now, month(now));
            for &item in &items {
                let card = &cards.items[item as usize];
                let overlaps: Vec<f32> =
                    card.reasons.iter().map(|reason| context.overlap(reason)).collect();
                let features = context.features(CandidateItem::Known(item, card), &overlaps);
                for (sum, value) in sums.iter_mut().zip(features.as_slice()) {
                    *sum += f64::from(*value);
                }
            }
        }
    }
    sums
}

#[test]
fn features_are_those_that_the_demo_was_trained_with() {
    let found = sums(&demo());
    for ((feature, found), (name, expected)) in FEATURES.iter().zip(found).zip(EXPECTED) {
        let near = (found - expected).abs() <= 1e-4 * expected.abs().max(1.0);
        assert!(near && feature.name == name, "{} sums to {found}, not {expected}", feature.name);
    }
}

#[test]
fn the_demos_golden_requests_hold() {
    demo().check_golden().unwrap();
}

/// Benchmarks take their sizes from `network_shape`: they measure the network that the demo serves.
#[test]
fn the_demos_network_has_the_sizes_that_benchmarks_measure() {
    let opened = demo();
    assert_eq!(opened.file.shape, network_shape(opened.model.catalog.len()));
}

/// A bundle of a program with another catalogue of features is refused by name, before anything is scored.
#[test]
fn a_scorer_with_another_number_of_features_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let dir = copied_bundle(home.path(), "other");
    let shape = dir.join("scorer.toml");
    let text = fs::read_to_string(&shape).unwrap();
    fs::write(&shape, text.replace("features = 30", "features = 29")).unwrap();
    Manifest::of(&dir, "other").unwrap().write(&dir).unwrap();
    let error = OpenedScorer::of(Bundle::open(&dir).unwrap()).unwrap_err().to_string();
    assert!(error.ends_with("`shape.features` is 29, expected 30"), "{error}");
}
