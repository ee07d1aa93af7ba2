//! Logs in which one user, item, moment or basket outweighs all others, and logs of whole days.

use super::{Examined, Warning, day, is_share, percent};
use crate::shop::{Shop, ShopEvent};
use crate::train::dataset::DAY_S;
use rustc_hash::{FxHashMap, FxHashSet};
use std::hash::Hash;

/// The share of all events that no single user, item, moment or basket should have.
pub const HALF: f64 = 0.5;
/// Different times of day of a log whose times are days: those of one time zone, in summer and in winter.
const DAY_TIMES_MAX: usize = 2;
/// The share of purchases that follow another purchase of the same day, from which on their order matters.
pub const SAME_DAY_SHARE_MIN: f64 = 0.1;

pub(super) fn warnings(examined: &Examined<'_>) -> Vec<Warning> {
    let shop = examined.shop;
    let checks = [one_user(shop), one_item(shop), one_moment(shop), one_basket(shop)];
    checks.into_iter().flatten().chain(days(examined)).collect()
}

/// The key that at least half of all events have, if there is one among several, and its events.
fn half<K: Copy + Eq + Hash + Ord>(
    shop: &Shop,
    key: impl Fn(&ShopEvent) -> K,
) -> Option<(K, usize)> {
    let mut counts: FxHashMap<K, usize> = FxHashMap::default();
    for event in &shop.events {
        *counts.entry(key(event)).or_default() += 1;
    }
    let most = counts.into_iter().max_by_key(|&(key, events)| (events, key))?;
    is_share(most.1, shop.events.len(), HALF).then_some(most)
}

fn one_user(shop: &Shop) -> Option<Warning> {
    let (user, events) = half(shop, |event| event.user)?;
    let text = format!(
        "The user {:?} has {} of all events ({events}). If that is a till, a test account or every guest, leave it out, \
         or give each guest an id.",
        shop.users[user as usize].as_str(),
        percent(events, shop.events.len())
    );
    Some(Warning::new("one_user", text))
}

fn one_item(shop: &Shop) -> Option<Warning> {
    let (item, events) = half(shop, |event| event.item)?;
    let item = &shop.items[item as usize];
    let text = format!(
        "The item {:?} ({}) is in {} of all events ({events}). If it is postage, a bag or a voucher, leave it out.",
        item.id.as_str(),
        item.title,
        percent(events, shop.events.len())
    );
    Some(Warning::new("one_item", text))
}

fn one_moment(shop: &Shop) -> Option<Warning> {
    let (time, events) = half(shop, |event| event.time)?;
    let moment = jiff::Timestamp::from_second(time).unwrap_or_default();
    let text = format!(
        "{} of all events ({events}) are at one moment, {moment}. If that is a default or the time of an export, import \
         the column that says when they happened.",
        percent(events, shop.events.len())
    );
    Some(Warning::new("one_moment", text))
}

fn one_basket(shop: &Shop) -> Option<Warning> {
    let (basket, events) = half(shop, |event| event.basket)?;
    let event = shop.events.iter().find(|event| event.basket == basket)?;
    let text = format!(
        "One basket, of the user {:?} on {}, has {} of all events ({events}). Import the column that tells baskets apart \
         (`--column basket=NAME`).",
        shop.users[event.user as usize].as_str(),
        day(event.time),
        percent(events, shop.events.len())
    );
    Some(Warning::new("one_basket", text))
}

/// A log whose finest time is the day: what came first on a day is unknown.
fn days(examined: &Examined<'_>) -> Option<Warning> {
    let mut times = FxHashSet::default();
    let mut days = FxHashSet::default();
    for event in &examined.shop.events {
        times.insert(event.time.rem_euclid(DAY_S));
        days.insert(event.time.div_euclid(DAY_S));
        if times.len() > DAY_TIMES_MAX {
            return None;
        }
    }
    let dataset = examined.dataset;
    let after = |pair: &[crate::train::dataset::PurchaseLine]| pair[0].time == pair[1].time;
    let same_day: usize = dataset
        .bought
        .iter()
        .map(|bought| bought.windows(2).filter(|&pair| after(pair)).count())
        .sum();
    if days.len() < 2 || !is_share(same_day, dataset.purchases.len(), SAME_DAY_SHARE_MIN) {
        return None;
    }
    let text = format!(
        "Times are whole days, and {} of the purchases follow another of the same shopper and day. Their order is \
         unknown, so first-purchase cases may read what was bought later that day: import the time of day, or trust the \
         next-basket figures.",
        percent(same_day, dataset.purchases.len())
    );
    Some(Warning::new("times_are_days", text))
}
