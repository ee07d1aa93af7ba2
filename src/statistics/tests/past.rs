//! Baskets, first and repeated purchases, and what is remembered of a shopper.

use super::*;

/// Minutes, in seconds.
const MINUTE: Timestamp = 60;

#[test]
fn purchases_at_most_an_hour_apart_are_one_basket() {
    let rows: [(&str, &[Timestamp], u32); 9] = [
        ("none", &[], 0),
        ("one", &[0], 1),
        ("the same second", &[0, 0, 0], 1),
        ("an hour apart", &[0, 60 * MINUTE], 1),
        ("a second more than an hour", &[0, 60 * MINUTE + 1], 2),
        ("a chain over three hours", &[0, 60 * MINUTE, 120 * MINUTE, 180 * MINUTE], 1),
        ("late by an hour", &[60 * MINUTE, 0], 1),
        ("late by more: in no basket", &[60 * MINUTE + 1, 0], 1),
        ("between two baskets: in no basket", &[0, 240 * MINUTE, 120 * MINUTE], 2),
    ];
    for (name, times, baskets) in rows {
        let mut past = ShopperPast::default();
        for time in times {
            past.apply(bought(1, NOON + time));
        }
        assert_eq!(past.baskets(), baskets, "{name}");
        assert_eq!(past.purchases() as usize, times.len(), "{name}");
        let (first, last) = (times.iter().min(), times.iter().max());
        assert_eq!(past.first_purchase(), first.map(|time| NOON + time), "{name}");
        assert_eq!(past.last_purchase(), last.map(|time| NOON + time), "{name}");
    }
}

/// Purchases of item 1 by one shopper: who buys for the first time, and who again.
#[test]
fn first_purchases_and_repeats() {
    /// Times, and the buyers, repeats and baskets that they make.
    type Row<'a> = (&'a str, &'a [Timestamp], (u32, u32, u32));
    let rows: [Row<'_>; 7] = [
        ("once", &[0], (1, 0, 1)),
        ("two lines of one basket", &[0, 0], (1, 0, 1)),
        ("two baskets", &[0, DAY], (1, 1, 2)),
        ("three baskets, two lines in the last", &[0, DAY, 2 * DAY, 2 * DAY + 5], (1, 2, 3)),
        ("the earlier basket is late", &[DAY, 0], (1, 1, 1)),
        ("two lines of a late basket", &[DAY, 0, 5], (1, 1, 1)),
        ("a late line near the first purchase", &[0, DAY, 30 * MINUTE], (1, 1, 2)),
    ];
    for (name, times, (buyers, repeats, baskets)) in rows {
        let mut counted = Counted::of(2);
        for time in times {
            counted.apply(0, bought(1, NOON + time));
        }
        let (past, now) = (&counted.pasts[&0], NOON + 2 * DAY + 5);
        let counts = counted.statistics.item(1, now);
        assert_eq!(counts.buyers_ever, buyers, "{name}");
        assert_eq!(past.repeat_purchases(), repeats, "{name}");
        assert_eq!(past.item(1).unwrap().baskets, baskets, "{name}");
        assert_eq!(past.item(1).unwrap().purchases as usize, times.len(), "{name}");
        assert_eq!(counts.sales_ever as usize, times.len(), "{name}");
        assert_eq!(counts.repeats > 0.0, repeats > 0, "{name}: {}", counts.repeats);
    }
    let mut counted = Counted::of(2);
    for time in [0, DAY, 3 * DAY] {
        counted.apply(0, bought(1, NOON + time));
    }
    let expected = (-2.0_f64 / 28.0).exp() + 1.0;
    near(counted.statistics.item(1, NOON + 3 * DAY).repeats, expected, "repeats of 28 days");
}

#[test]
fn the_rebuy_clock_is_a_sum_over_baskets_and_days() {
    let days: [f64; 4] = [0.0, 10.0, 11.0, 40.0];
    let mut past = ShopperPast::default();
    for (at, day) in days.iter().enumerate() {
        let time = NOON + *day as Timestamp * DAY;
        past.apply(bought(9, time));
        // Two lines of item 1 in every basket but the third.
        if at != 2 {
            past.apply(bought(1, time));
            past.apply(bought(1, time + 1));
        }
    }
    let seen = *past.item(1).unwrap();
    assert_eq!((seen.baskets, seen.purchases, past.baskets()), (3, 6, 4));
    let expected = 0.8_f64.powi(3) + 0.8_f64.powi(2) + 1.0;
    near(seen.recent_baskets(past.baskets()) as f32, expected, "now");
    near(seen.recent_baskets(past.baskets() + 2) as f32, expected * 0.64, "two baskets later");
    let now = NOON + 50 * DAY;
    let expected: f64 = [0.0, 10.0, 40.0].iter().map(|day| (-(50.0 - day) / 60.0_f64).exp()).sum();
    let error = (seen.recent_days(now) - expected).abs();
    assert!(error < 1e-5, "{} {expected}", seen.recent_days(now));
    assert_eq!(seen.first_purchase(), Some(NOON));
    assert_eq!(seen.last_purchase(), Some(NOON + 40 * DAY + 1));
    // A late purchase adds at its own age.
    past.apply(bought(1, NOON + 20 * DAY));
    let late = expected + (-30.0_f64 / 60.0).exp();
    assert!((past.item(1).unwrap().recent_days(now) - late).abs() < 1e-5);
}

#[test]
fn only_what_is_read_as_history_is_remembered() {
    let rows = [
        (Impression, None),
        (Dismissal, None),
        (Click, Some((0, 1))),
        (Cart, Some((0, 1))),
        (Purchase, Some((1, 0))),
    ];
    for (kind, expected) in rows {
        let past = ShopperPast::of([event(4, NOON, kind)]);
        let seen = past.item(4);
        assert_eq!(seen.map(|seen| (seen.purchases, seen.browses)), expected, "{kind:?}");
        assert_eq!(past.events(), u32::from(expected.is_some()), "{kind:?}");
        assert_eq!(past.latest().len(), usize::from(expected.is_some()), "{kind:?}");
        assert_eq!(past.item(5), None);
        let bought = seen.and_then(ItemPast::first_purchase);
        assert_eq!(bought, (kind == Purchase).then_some(NOON), "{kind:?}");
    }
}

#[test]
fn the_latest_items_are_distinct_and_newest_first() {
    let rows = [
        ("in order", vec![(1, 0), (2, 1), (3, 2)], vec![3, 2, 1]),
        ("seen again", vec![(1, 0), (2, 1), (1, 2)], vec![1, 2]),
        ("late", vec![(1, 5), (2, 9), (3, 7)], vec![2, 3, 1]),
        ("late, and seen before", vec![(1, 5), (2, 9), (1, 2)], vec![2, 1]),
        ("too many", (0..30).map(|n| (n, n.into())).collect(), (10..30).rev().collect()),
    ];
    for (name, seen, expected) in rows {
        let mut past = ShopperPast::default();
        for (item, time) in seen {
            past.apply(event(item, NOON + time, Click));
        }
        assert_eq!(past.latest().collect::<Vec<_>>(), expected, "{name}");
    }
}

#[test]
fn a_past_of_events_is_the_past_in_time_order() {
    let events: Vec<_> = shaken(log(30, 500, 13), 500, 1).into_iter().map(|(_, e)| e).collect();
    let mut sorted = events.clone();
    sorted.sort_by_key(|event| event.time);
    let mut past = ShopperPast::default();
    for event in sorted {
        past.apply(event);
    }
    assert_eq!(ShopperPast::of(events), past);
}

#[test]
fn what_was_never_bought_and_seen_longest_ago_is_forgotten_first() {
    let most = PAST_ITEMS_MAX as u32;
    let mut past = ShopperPast::default();
    // Item 0 is bought first; the others are clicked, the higher ones later.
    past.apply(bought(0, NOON));
    (1..most).for_each(|item| past.apply(event(item, NOON + i64::from(item), Click)));
    assert_eq!(past.items().len(), PAST_ITEMS_MAX);
    past.apply(event(most, NOON + i64::from(most), Click));
    let dropped = most / 8;
    assert_eq!(past.items().len(), PAST_ITEMS_MAX - dropped as usize + 1);
    assert!(past.item(0).is_some(), "bought items stay");
    let gone = (1..=most).filter(|&item| past.item(item).is_none());
    assert_eq!(gone.collect::<Vec<_>>(), (1..=dropped).collect::<Vec<_>>());
    assert_eq!((past.events(), past.purchases()), (most + 1, 1));

    // Of bought items only, those seen longest ago are forgotten.
    let mut past = ShopperPast::default();
    (0..=most).for_each(|item| past.apply(bought(item, NOON + i64::from(item) * DAY)));
    assert_eq!((past.item(dropped - 1), past.item(dropped).is_some()), (None, true));
    assert_eq!(past.baskets(), most + 1);
    // A purchase of what was forgotten counts as a first one.
    let repeats = past.repeat_purchases();
    past.apply(bought(0, NOON + 5_000 * DAY));
    past.apply(bought(most, NOON + 5_000 * DAY));
    assert_eq!(past.repeat_purchases(), repeats + 1);
}
