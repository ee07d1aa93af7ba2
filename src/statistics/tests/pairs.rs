//! Pairs against counts of all pairs, and how a full row errs.

use super::*;

fn pair(counted: &Counted, item: u32, partner: u32) -> Option<(u32, u32)> {
    let mut pairs = counted.statistics.pairs(item, NOON + 400 * DAY);
    pairs.find(|pair| pair.partner == partner).map(|pair| (pair.same as u32, pair.next as u32))
}

#[test]
fn pairs_are_within_a_basket_and_with_the_next() {
    let mut counted = Counted::of(6);
    // Baskets of one shopper: {0, 1}, a day later {1, 2} with two lines of 2, then {3}.
    let baskets: [(Timestamp, &[u32]); 3] = [(0, &[0, 1]), (DAY, &[1, 2, 2]), (2 * DAY, &[3])];
    for (time, items) in baskets {
        for &item in items {
            counted.apply(0, bought(item, NOON + time));
        }
    }
    // Another shopper's purchases make no pairs with them; clicks make none at all.
    counted.apply(1, bought(5, NOON));
    counted.apply(0, event(5, NOON + 2 * DAY, Click));
    let rows = [
        ((0, 1), Some((1, 1))),
        ((1, 0), Some((1, 0))),
        ((1, 2), Some((1, 1))),
        ((2, 1), Some((1, 0))),
        ((0, 2), Some((0, 1))),
        ((1, 3), Some((0, 1))),
        ((2, 3), Some((0, 1))),
        ((0, 3), None),
        ((3, 2), None),
        ((1, 1), None),
        ((3, 5), None),
    ];
    for ((item, partner), expected) in rows {
        assert_eq!(pair(&counted, item, partner), expected, "{item} with {partner}");
    }
}

#[test]
fn recent_pairs_fade_in_ninety_days() {
    let mut counted = Counted::of(2);
    for day in [0, 30] {
        counted.apply(day, bought(0, NOON + i64::from(day) * DAY));
        counted.apply(day, bought(1, NOON + i64::from(day) * DAY));
    }
    for later in [30_i64, 31, 100, 1_000] {
        let read = counted.statistics.pairs(0, NOON + later * DAY).next().unwrap();
        let age = later as f64;
        let expected = (-age / 90.0).exp() + (-(age - 30.0) / 90.0).exp();
        near(read.recent, expected, "recent");
        assert_eq!((read.same as u32, read.next as u32), (2, 0));
    }
}

#[test]
fn late_purchases_make_pairs_in_the_latest_basket_only() {
    let rows = [
        ("an hour late", [3_600, 0], Some((1, 0))),
        ("more than an hour late", [3_601, 0], None),
        ("days late", [9 * DAY, 0], None),
        ("in order", [0, DAY], Some((0, 1))),
    ];
    for (name, times, expected) in rows {
        let mut counted = Counted::of(2);
        counted.apply(0, bought(0, NOON + times[0]));
        counted.apply(0, bought(1, NOON + times[1]));
        assert_eq!(pair(&counted, 0, 1), expected, "{name}");
    }
}

#[test]
fn only_the_first_items_of_a_basket_make_pairs() {
    let most = BASKET_ITEMS_MAX as u32;
    let mut counted = Counted::of(most + 2);
    (0..=most).for_each(|item| counted.apply(0, bought(item, NOON)));
    counted.apply(0, bought(most + 1, NOON + DAY));
    let partners = |item| counted.statistics.pairs(item, NOON + DAY).count() as u32;
    assert_eq!(pair(&counted, 0, most - 1), Some((1, 0)));
    assert_eq!((pair(&counted, 0, most), partners(most)), (None, 0));
    assert_eq!(pair(&counted, 0, most + 1), Some((0, 1)));
    assert_eq!(partners(0), most, "63 of its basket, and one after");
    assert_eq!(counted.pasts[&0].item(most).unwrap().purchases, 1, "the past has it nevertheless");
}

/// Baskets of two: item 0 with one of 300 partners, low numbers more often. The counts of all pairs are the truth.
fn crowded(days: Timestamp, seed: u64) -> (Counted, BTreeMap<u32, (u32, f64)>) {
    let mut dice = Dice(seed);
    let (mut counted, mut truth) = (Counted::of(301), BTreeMap::<u32, (u32, f64)>::new());
    let baskets = 4_000;
    for basket in 0..baskets {
        let time = NOON + days * DAY * basket / baskets;
        let partner = 1 + (dice.below(300) * dice.below(300) / 300) as u32;
        counted.apply(basket as u32, bought(0, time));
        counted.apply(basket as u32, bought(partner, time));
        let pair = truth.entry(partner).or_default();
        let age = NOON + days * DAY - time;
        *pair = (pair.0 + 1, pair.1 + (-(age as f64) / (90.0 * 86_400.0)).exp());
    }
    (counted, truth)
}

#[test]
fn a_full_row_errs_downwards_and_keeps_the_strong() {
    for (days, seed) in [(10, 1), (400, 2), (4_000, 3)] {
        let (counted, truth) = crowded(days, seed);
        let now = NOON + days * DAY;
        let kept: Vec<_> = counted.statistics.pairs(0, now).collect();
        assert_eq!((kept.len(), truth.len() > 250), (PARTNERS_MAX, true), "the row is full");
        let (mut shown, mut exact) = (0.0, 0);
        for pair in &kept {
            let (same, recent) = truth[&pair.partner];
            assert!(pair.same as u32 <= same, "{days} days: {pair:?}, {same}");
            let limit = recent.min(f64::from(pair.same)) * 1.0001;
            assert!(f64::from(pair.recent) <= limit, "{days} days: {pair:?}, {recent}");
            shown += f64::from(pair.same);
            exact += usize::from(pair.same as u32 == same);
        }
        // The 64 strongest partners of 300 have 46 % of all pairs.
        let mut sorted: Vec<_> = truth.values().map(|(same, _)| f64::from(*same)).collect();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let best: f64 = sorted[..PARTNERS_MAX].iter().sum();
        assert!(shown > 0.5 * best, "{days} days: {shown} of {best} pairs are kept");
        assert!(exact > 0, "{days} days: some partners were never dropped");
        // The other direction has one partner, and no error.
        let partner = kept[0].partner;
        assert_eq!(pair(&counted, partner, 0), Some((truth[&partner].0, 0)));
    }
}

#[test]
fn the_first_of_the_weakest_partners_is_dropped() {
    let most = PARTNERS_MAX as u32;
    let mut counted = Counted::of(most + 3);
    // Partners 1 to 64 once each, all but 2 and 3 once more.
    for partner in (1..=most).chain((1..=most).filter(|n| ![2, 3].contains(n))) {
        let user = counted.pasts.len() as u32;
        counted.apply(user, bought(0, NOON));
        counted.apply(user, bought(partner, NOON));
    }
    let rows = [(most + 1, 2), (most + 2, most + 1), (most + 1, most + 2)];
    for (newcomer, dropped) in rows {
        let user = counted.pasts.len() as u32;
        counted.apply(user, bought(0, NOON));
        counted.apply(user, bought(newcomer, NOON));
        assert_eq!(pair(&counted, 0, dropped), None);
        assert_eq!(pair(&counted, 0, newcomer), Some((1, 0)), "its counts begin at zero");
    }
    assert_eq!(pair(&counted, 0, 3), Some((1, 0)), "of equals, the first was dropped");
    assert_eq!(counted.statistics.pairs(0, NOON).count(), PARTNERS_MAX);
}

#[test]
fn counts_of_a_pair_stop_at_the_most_they_hold() {
    let mut counted = Counted::of(2);
    for user in 0..70_000 {
        let mut past = ShopperPast::default();
        counted.statistics.apply(&mut past, bought(0, NOON + user));
        counted.statistics.apply(&mut past, bought(1, NOON + user));
    }
    assert_eq!(pair(&counted, 0, 1), Some((u32::from(u16::MAX), 0)));
}
