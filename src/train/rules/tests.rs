use super::*;
use crate::bundle::HistoryEvent;
use crate::domain::{EventKind, Timestamp};
use crate::evidence::Purchase;
use crate::train::cases::{Case, PredictionTask};
use crate::train::dataset::{DAY_S, Dataset, PurchaseLine, Split};
use crate::train::synthetic_query::SyntheticQuery;

/// The moment of the cases: day 100.
const NOW: Timestamp = 100 * DAY_S;

/// A shop with these purchases (user, item, day, basket), in time order.
fn shop(purchases: &[(u32, u32, i64, u32)]) -> Dataset {
    let users = 1 + purchases.iter().map(|line| line.0).max().unwrap() as usize;
    let mut bought = vec![Vec::<PurchaseLine>::new(); users];
    let mut all = Vec::new();
    for &(user, item, day, basket) in purchases {
        let time = day * DAY_S;
        let lines = &mut bought[user as usize];
        let first = !lines.iter().any(|line| line.item == item);
        lines.push(PurchaseLine { item, time, basket, first });
        all.push(Purchase { user, item, time, price: None });
    }
    let split = Split { begin: 0, train: 0, validate: 0, test: 0, end: NOW + DAY_S };
    Dataset {
        users: (0..users).map(|user| user.to_string().as_str().into()).collect(),
        bought,
        browsed: vec![Vec::new(); users],
        purchases: all,
        split,
    }
}

fn case(user: u32, slate: &[u32], relevant: &[u32]) -> Case {
    Case {
        user,
        task: PredictionTask::NextBasket,
        now: NOW,
        history: Vec::new(),
        pattern: None,
        pattern_text: String::new(),
        synthetic_query: SyntheticQuery::default(),
        expected_item: None,
        slate: slate.to_vec(),
        relevant: relevant.to_vec(),
        live: Vec::new(),
        rechead: Vec::new(),
        line: 0,
        snapshot: 0,
    }
}

fn ordered(log: &SalesLog<'_>, rule: &str, weight: f64, case: &Case) -> Vec<u32> {
    let rule = RULES.iter().find(|known| known.name == rule).unwrap();
    let moment = log.moment(case);
    let fitted = FittedRule { rule, place_weight: weight, ndcg: 0.0 };
    fitted.order(&moment, case).iter().map(|&(place, _)| case.slate[place]).collect()
}

/// User 0 buys on day 100. The others bought before. Item 6 was never sold.
fn small_shop() -> Dataset {
    let mut shop = shop(&[
        // Old favourites: item 1 thrice long ago, item 2 once lately.
        (0, 1, 0, 0),
        (0, 1, 1, 1),
        (0, 1, 2, 2),
        (1, 3, 20, 3),
        (2, 3, 21, 4),
        (3, 3, 22, 5),
        (1, 4, 75, 6),
        (2, 4, 80, 7),
        (0, 2, 90, 8),
        (1, 5, 95, 9),
        // The day of the case itself: it counts for nothing.
        (2, 6, 100, 10),
        (3, 6, 100, 11),
        (0, 4, 100, 12),
        (0, 3, 100, 12),
    ]);
    // Looked at three weeks ago, and within the visit that ends in the basket.
    let browsed = |item, time| HistoryEvent { item, time, kind: EventKind::Click };
    shop.browsed[0] = vec![browsed(5, 79 * DAY_S), browsed(4, NOW - 60)];
    shop
}

#[test]
fn each_rule_orders_a_slate_by_its_own_counts() {
    let shop = small_shop();
    let log = SalesLog::new(&shop, 7);
    let case = case(0, &[6, 5, 4, 3, 2, 1], &[3, 4]);
    let check = |rule, weight, expected: [u32; 6]| {
        assert_eq!(ordered(&log, rule, weight, &case), expected, "{rule}, weight {weight}");
    };
    // Sales in 7 days: item 5 has 1. In 28 days: item 4 has 2, items 5 and 2 have 1. In 90: item 3 has 3.
    check("popular_7d", 0.0, [5, 6, 4, 3, 2, 1]);
    check("popular_28d", 0.0, [4, 5, 2, 6, 3, 1]);
    check("popular_90d", 0.0, [3, 4, 5, 2, 6, 1]);
    // Item 1: 3 · e^(−99 ÷ 90) = 0.999; item 2: e^(−10 ÷ 90) = 0.895.
    check("own_favourites", 0.0, [1, 2, 6, 5, 4, 3]);
    check("bought_before_first", 0.0, [2, 1, 6, 5, 4, 3]);
    // Item 5 was looked at. That item 4 was, a minute before it was bought, is not known yet.
    check("seen_before_last", 0.0, [6, 4, 3, 5, 2, 1]);
    // A heavy place restores the order given, and a light one changes nothing.
    for rule in &RULES {
        check(rule.name, 1e6, [6, 5, 4, 3, 2, 1]);
        let alone = ordered(&log, rule.name, 0.0, &case);
        check(rule.name, 1e-6, alone.try_into().unwrap());
    }
    // ln 3 − 0.5 · ln 3 = 0.549 for item 4, ln 2 − 0.5 · ln 2 = 0.347 for item 5, and −0.111 for item 2.
    check("popular_28d", 0.5, [4, 5, 6, 2, 3, 1]);
}

#[test]
fn a_count_ends_at_the_moment_and_begins_a_whole_number_of_days_before_it() {
    let shop = shop(&[(1, 0, 72, 0), (1, 0, 71, 1), (1, 0, 93, 2), (1, 0, 92, 3), (0, 0, 100, 4)]);
    let mut shop = shop;
    shop.purchases.sort_by_key(|sale| sale.time);
    let log = SalesLog::new(&shop, 1);
    let moment = log.moment(&case(0, &[0], &[0]));
    for (days, expected) in [(7, 1.0), (8, 2.0), (28, 3.0), (29, 4.0), (90, 4.0)] {
        let found = moment.sales(0, days);
        assert!((found - expected).abs() < 1e-9, "{days} days: {found}");
    }
}

#[test]
fn a_shopper_is_known_over_their_whole_history() {
    let mut purchases = vec![(0, 9, 0, 0)];
    // More events than a network reads lie between the first and the case.
    purchases.extend((1..99).map(|day| (0, 1, day, day as u32)));
    purchases.extend([(0, 2, 100, 99), (0, 3, 100, 99)]);
    let shop = shop(&purchases);
    let log = SalesLog::new(&shop, 10);
    let basket = case(0, &[9, 3, 2], &[2, 3]);
    let moment = log.moment(&basket);
    assert_eq!(moment.own(9).bought, 1);
    assert_eq!(moment.own(1).bought, 98);
    assert_eq!(moment.own(2), memory::OwnPast::default(), "a basket does not know its own lines");
    // A first purchase knows the earlier lines of its basket, and not the later ones. They are no past.
    let first = Case { task: PredictionTask::FirstPurchase, ..case(0, &[9, 3, 2, 4], &[3]) };
    let moment = log.moment(&first);
    assert_eq!([9, 2, 3].map(|item| moment.own(item).bought), [1, 0, 0]);
    assert_eq!([9, 2, 3].map(|item| moment.own(item).in_basket), [false, true, false]);
    assert_eq!(log.past(&first).bought.len(), 99);
    assert_eq!(ordered(&log, "seen_before_last", 0.0, &first), [3, 2, 4, 9]);
    assert_eq!(ordered(&log, "seen_or_in_basket_last", 0.0, &first), [3, 4, 9, 2]);
}

/// Shoppers who buy again what they bought before, or what sold last week.
fn habits(repeat: bool) -> (Dataset, Vec<Case>) {
    let mut purchases = Vec::new();
    let (before, lately) = (1, 2);
    let shoppers = 20;
    purchases.extend((0..shoppers).map(|user| (user, before, 5, user)));
    purchases.extend((0..5).map(|at| (shoppers, lately, 98, 100 + at)));
    let taken = if repeat { before } else { lately };
    purchases.extend((0..shoppers).map(|user| (user, taken, 100, 200 + user)));
    let cases = (0..shoppers).map(|user| case(user, &[0, lately, before], &[taken])).collect();
    (shop(&purchases), cases)
}

#[test]
fn weights_and_the_best_rule_come_from_the_slates_that_they_are_fitted_on() {
    let fit = |repeat| {
        let (shop, cases) = habits(repeat);
        FittedRules::fit(&SalesLog::new(&shop, 3), &cases)
    };
    let (repeats, lately) = (fit(true), fit(false));
    let best = |rules: &FittedRules| rules.best().unwrap().name();
    assert_eq!([best(&repeats), best(&lately)], ["own_favourites", "popular_7d"]);
    assert!((repeats.best().unwrap().ndcg - 1.0).abs() < 1e-9);
    assert_eq!(repeats.cases, 20);
    // The report holds what was fitted, by name.
    let report = repeats.to_json();
    assert_eq!(report["best_rule"], "own_favourites");
    assert_eq!(report["fitted"].as_object().unwrap().len(), 2 * RULES.len());
    assert_eq!(report["fitted"]["own_favourites"]["validation_ndcg@10"], 1.0);
}

#[test]
fn the_weight_of_the_place_is_fitted() {
    // Half of the shoppers take a late item that sold well, and half take the first of the order given,
    // which sold a little: only a weight in between serves both.
    let mut purchases: Vec<(u32, u32, i64, u32)> = (0..30).map(|at| (9, 5, 98, at)).collect();
    purchases.extend((0..4).map(|at| (9, 0, 99, 50 + at)));
    purchases.extend((0..6).map(|at| (9, 1, 99, 60 + at)));
    let late: Vec<u32> = vec![3, 4, 2, 6, 7, 5];
    let early: Vec<u32> = vec![0, 3, 4, 2, 6, 7, 8, 1];
    let mut cases = Vec::new();
    for user in 0..8 {
        let (slate, taken) = if user % 2 == 0 { (&late, 5) } else { (&early, 0) };
        purchases.push((user, taken, 100, 100 + user));
        cases.push(case(user, slate, &[taken]));
    }
    let shop = shop(&purchases);
    let fitted = FittedRules::fit(&SalesLog::new(&shop, 9), &cases);
    let best = fitted.best().unwrap();
    assert_eq!((best.name().as_str(), best.ndcg), ("popular_7d_and_place", 1.0));
    assert!((0.1..=2.0).contains(&best.place_weight), "{best:?}");
    let alone = fitted.rules.iter().find(|rule| rule.name() == "popular_7d").unwrap();
    assert!(alone.ndcg < 1.0, "{alone:?}");
}

#[test]
fn nothing_is_chosen_without_slates() {
    let shop = small_shop();
    let fitted = FittedRules::fit(&SalesLog::new(&shop, 7), &[]);
    assert!(fitted.best().is_none());
    assert_eq!(fitted.to_json()["best_rule"], serde_json::Value::Null);
    assert_eq!(
        fitted.to_json()["fitted"]["popular_7d"]["validation_ndcg@10"],
        serde_json::Value::Null
    );
    let names: Vec<String> = fitted.rules.iter().map(FittedRule::name).collect();
    assert_eq!(names[..2], ["popular_7d", "popular_7d_and_place"]);
}
