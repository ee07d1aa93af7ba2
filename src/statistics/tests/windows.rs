//! Windows against sums over raw events.

use super::*;

/// Σ e^(−age/w) over the events of an item that `counts`, at `now`.
fn plain(
    events: &[(u32, ShopEvent)],
    (window, now): (f64, Timestamp),
    counts: impl Fn(usize, &ShopEvent) -> bool,
) -> f64 {
    let counted = events.iter().enumerate().filter(|(at, (_, event))| counts(*at, event));
    counted.map(|(_, (_, event))| (-((now - event.time) as f64) / (window * 86_400.0)).exp()).sum()
}

/// Whether event `at` is its shopper's first purchase of the item, in the order of the list.
fn is_first(events: &[(u32, ShopEvent)], at: usize) -> bool {
    let same = |other: &(u32, ShopEvent)| {
        other.0 == events[at].0 && other.1.item == events[at].1.item && other.1.kind == Purchase
    };
    same(&events[at]) && !events[..at].iter().any(same)
}

fn compare(events: &[(u32, ShopEvent)], counted: &Counted, now: Timestamp) {
    for item in 0..6 {
        let counts = counted.statistics.item(item, now);
        for (at, window) in WINDOW_DAYS.into_iter().map(f64::from).enumerate() {
            for kind in EventKind::ALL {
                let sum = plain(events, (window, now), |_, e| e.item == item && e.kind == kind);
                near(counts.events[kind as usize][at], sum, "events of an item");
            }
            let sum = plain(events, (window, now), |n, e| e.item == item && is_first(events, n));
            near(counts.buyers[at], sum, "buyers of an item");
        }
        let sales = events.iter().filter(|(_, e)| e.item == item && e.kind == Purchase);
        assert_eq!(counts.sales_ever as usize, sales.clone().count());
        assert_eq!(counts.last_sale, sales.map(|(_, e)| e.time).max());
        let buyers = (0..events.len()).filter(|&n| events[n].1.item == item && is_first(events, n));
        assert_eq!(counts.buyers_ever as usize, buyers.count());
        let all = events.iter().filter(|(_, e)| e.item == item).map(|(_, e)| e.time);
        assert_eq!(counts.first_event, all.min());
    }
    for (number, member) in [(0, 0), (1, 1), (2, 2)] {
        let counts = counted.statistics.category(number, now);
        for (at, window) in WINDOW_DAYS.into_iter().map(f64::from).enumerate() {
            let of = |e: &ShopEvent| e.item % 3 == member;
            let sum = plain(events, (window, now), |_, e| of(e) && e.kind == Click);
            near(counts.events[Click as usize][at], sum, "clicks of a category");
            let sum = plain(events, (window, now), |n, e| of(e) && is_first(events, n));
            near(counts.buyers[at], sum, "buyers of a category");
        }
        let of = |e: &ShopEvent| if number == 2 { true } else { e.item % 2 == number };
        let sum = plain(events, (28.0, now), |_, e| of(e) && e.kind == Cart);
        near(counted.statistics.attribute(number, now).events[Cart as usize][3], sum, "attribute");
    }
}

#[test]
fn windows_are_sums_over_the_raw_events_in_any_order() {
    let sorted = log(6, 3_000, 7);
    let reversed = sorted.iter().rev().copied().collect();
    let orders = [
        ("in time order", sorted.clone()),
        ("a few late", shaken(sorted.clone(), 50, 3)),
        ("any order", shaken(sorted.clone(), 3_000, 5)),
        ("latest first", reversed),
    ];
    for (order, events) in orders {
        let counted = Counted::all(6, &events);
        assert_eq!(counted.statistics.as_of(), Some(sorted[2_999].1.time), "{order}");
        for later in [0, 1, 3_600, DAY, 40 * DAY, 900 * DAY] {
            compare(&events, &counted, NOON + 9 + later);
        }
    }
}

#[test]
fn equal_orders_make_equal_bits_also_across_a_restart() {
    let mut events = shaken(log(6, 2_000, 11), 20, 4);
    let whole = Counted::all(6, &events);
    assert_eq!(whole.statistics.to_bytes(), Counted::all(6, &events).statistics.to_bytes());
    for cut in [0, 1, 999, 2_000] {
        let mut begun = Counted::all(6, &events[..cut]);
        begun.statistics = Statistics::from_bytes(&begun.statistics.to_bytes()).unwrap();
        events[cut..].iter().for_each(|&(user, event)| begun.apply(user, event));
        assert_eq!(begun.statistics.to_bytes(), whole.statistics.to_bytes(), "cut at {cut}");
        let bits = |c: &Counted| c.statistics.item(2, NOON).events.map(|row| row.map(f32::to_bits));
        assert_eq!(bits(&begun), bits(&whole), "cut at {cut}");
    }
    events.swap(0, 1_999);
    assert_ne!(whole.statistics.to_bytes(), Counted::all(6, &events).statistics.to_bytes());
}

/// Events of one time count in the order in which they are applied: who is the first to buy, and what pairs first.
#[test]
fn events_of_one_time_count_in_the_order_of_apply() {
    let pair = [(0, bought(0, NOON)), (0, bought(1, NOON)), (1, bought(0, NOON))];
    let counted = Counted::all(2, &pair);
    assert_eq!(counted.statistics.item(0, NOON).buyers_ever, 2);
    assert_eq!(counted.statistics.item(0, NOON).buyers[2].to_bits(), 2.0_f32.to_bits());
    let latest: Vec<_> = counted.pasts[&0].latest().collect();
    assert_eq!(latest, [1, 0], "the one applied later is the newer one");
}

#[test]
fn times_far_away_count_without_harm() {
    let extremes = [
        ("the first moment there is", Timestamp::MIN),
        ("long before 1970", -9_000_000_000_000),
        ("before 1970", -1),
        ("1970", 0),
        ("the year 3000", 32_503_680_000),
        ("far in the future", 9_000_000_000_000_000),
        ("the last moment there is", Timestamp::MAX),
    ];
    for (name, time) in extremes {
        let mut counted = Counted::of(3);
        for (user, kind) in [(0, Purchase), (1, Purchase), (0, Click)] {
            counted.apply(user, event(0, time, kind));
        }
        counted.apply(0, bought(1, time));
        let there = counted.statistics.item(0, time);
        assert!((1.99..=2.0001).contains(&there.events[Purchase as usize][5]), "{name}: {there:?}");
        assert_eq!((there.sales_ever, there.buyers_ever), (2, 2), "{name}");
        assert_eq!(there.sales_by_day.today, 2, "{name}");
        assert_eq!(counted.statistics.pairs(0, time).count(), 1, "{name}");
        counted.apply(2, bought(0, NOON));
        for now in [Timestamp::MIN, 0, time, NOON, Timestamp::MAX] {
            let counts = counted.statistics.item(0, now);
            let values = counts.events.as_flattened().iter().chain(&counts.buyers);
            assert!(values.clone().all(|value| value.is_finite() && *value >= 0.0), "{name}");
            assert_eq!(counts.sales_ever, 3, "{name}");
        }
        let bytes = counted.statistics.to_bytes();
        assert_eq!(Statistics::from_bytes(&bytes).unwrap().to_bytes(), bytes, "{name}");
    }
}

/// A clock that jumps back reads what is known, at most as of the start of the latest event's day.
#[test]
fn a_reading_does_not_look_behind_the_day_of_the_latest_event() {
    let counted = Counted::all(1, &[(0, bought(0, NOON))]);
    let read = |now| counted.statistics.item(0, now);
    let start = NOON - DAY / 2;
    let bits = |now| read(now).events.map(|row| row.map(f32::to_bits));
    assert_eq!(bits(start - 1), bits(start));
    assert_eq!(bits(start - 3_000 * DAY), bits(start));
    let sales = read(start).events[Purchase as usize];
    near(sales[0], 0.5_f64.exp(), "half a day early, in the window of one day");
    near(sales[5], (0.5_f64 / 365.0).exp(), "half a day early, in the longest window");
}

/// One event a second: more than a sum of f32 holds exactly.
#[test]
fn long_sums_err_little() {
    let mut counted = Counted::of(1);
    for (seconds, limit) in [(0..100_000, 1e-3), (100_000..350_000, 1e-2)] {
        let end = seconds.end;
        for second in seconds {
            counted.apply(0, event(0, NOON + second, Impression));
        }
        let counts = counted.statistics.item(0, NOON + end).events[Impression as usize];
        let category = counted.statistics.category(0, NOON + end).events[Impression as usize];
        for (at, window) in WINDOW_DAYS.into_iter().enumerate() {
            // The sum of a geometric series.
            let step = (-1.0 / (f64::from(window) * 86_400.0)).exp();
            let sum = step * (1.0 - step.powf(end as f64)) / (1.0 - step);
            let error = (f64::from(counts[at]) / sum - 1.0).abs();
            assert!(error < limit, "{end} events, {window} days: {}, not {sum}", counts[at]);
            near(category[at], sum, "a category");
        }
    }
}

#[test]
fn sales_of_today_and_yesterday_are_exact() {
    /// Times of sales, the moment of the reading, and the sales of today and yesterday.
    type Row<'a> = (&'a str, &'a [Timestamp], Timestamp, (u32, u32));
    let midnight = NOON - DAY / 2;
    let rows: [Row<'_>; 10] = [
        ("nothing sold", &[], NOON, (0, 0)),
        ("two today", &[NOON, NOON + 1], NOON + 2, (2, 0)),
        ("the last second of yesterday", &[midnight - 1, midnight], NOON, (1, 1)),
        ("yesterday only", &[NOON - DAY], NOON, (0, 1)),
        ("the day before yesterday", &[NOON - 2 * DAY], NOON, (0, 0)),
        ("late for yesterday", &[NOON, NOON - DAY], NOON, (1, 1)),
        ("late for the day before", &[NOON, NOON - 2 * DAY], NOON, (1, 0)),
        ("a gap of two days", &[NOON - 3 * DAY, NOON], NOON, (1, 0)),
        ("read on the next day", &[NOON - DAY, NOON], NOON + DAY, (0, 1)),
        ("read a day early", &[NOON - DAY, NOON], NOON - DAY, (1, 0)),
    ];
    for (name, times, now, expected) in rows {
        let events: Vec<_> = times.iter().map(|&time| (0, bought(0, time))).collect();
        let sales = Counted::all(1, &events).statistics.item(0, now).sales_by_day;
        assert_eq!((sales.today, sales.yesterday), expected, "{name}");
    }
}
