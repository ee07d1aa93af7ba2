//! Items without a reason, and a retriever that misses what is bought.

use super::{Examined, Warning, day, is_share, percent};
use crate::domain::Timestamp;
use crate::train::dataset::{DAY_S, Dataset};
use crate::train::recipe::RetrieverKind;
use crate::train::snapshot::Snapshot;
use crate::train::training_data;
use crate::upstream::{Blended, BlendedDay, ItemKnn};
use rustc_hash::FxHashSet;

/// The share of items without any reason, from which on it is worth a warning.
pub const REASONLESS_SHARE_MIN: f64 = 0.05;
/// The share of cases whose slate holds the item that was bought, below which no order of it can be good.
pub const CEILING_MIN: f64 = 0.2;
/// Cases of the validation time for which a slate is made.
pub const CASES_SAMPLED: usize = 500;

pub(super) fn warnings(examined: &Examined<'_>) -> Vec<Warning> {
    let Examined { dataset, catalog, recipe, .. } = *examined;
    let as_of = dataset.split.validate;
    let (upstream, cards) = Snapshot::write(dataset, catalog, as_of, &recipe.shop.currency);
    let reasonless = cards.items.iter().filter(|card| card.reasons.is_empty()).count();
    let checks = [reasons(reasonless, catalog.len(), as_of), slates(examined, &upstream)];
    checks.into_iter().flatten().collect()
}

fn reasons(reasonless: usize, items: usize, as_of: Timestamp) -> Option<Warning> {
    is_share(reasonless, items, REASONLESS_SHARE_MIN).then(|| {
        let text = format!(
            "{} of the items ({reasonless} of {items}) have no reason at the end of the training time, {}, and would be \
             shown without one. Import attributes (`--attributes brand,color`), categories or fuller titles.",
            percent(reasonless, items),
            day(as_of)
        );
        Warning::new("items_without_reasons", text)
    })
}

/// A retriever whose slates seldom hold the item that was bought.
fn slates(examined: &Examined<'_>, upstream: &ItemKnn) -> Option<Warning> {
    let Examined { dataset, catalog, recipe, .. } = *examined;
    if recipe.slates.given.is_some() {
        return None;
    }
    let cases = sample(dataset, recipe.slates.refresh_days);
    let size = recipe.slates.size;
    let found = match recipe.slates.retriever {
        RetrieverKind::ItemKnn => {
            hits(dataset, &cases, |history, _, exclude| upstream.slate(history, size, exclude))
        }
        RetrieverKind::Blended => {
            let weights = recipe.slates.blend.unwrap_or_default();
            let blended = training_data::blended(dataset, catalog, weights);
            let mut today: Option<(Timestamp, BlendedDay<'_>)> = None;
            hits(dataset, &cases, |history, now, exclude| {
                let start = Blended::day_of(now);
                let (_, day) = match today.take() {
                    Some(known) if known.0 == start => today.insert(known),
                    _ => today.insert((start, blended.day(now))),
                };
                day.slate(history, now, size, exclude)
            })
        }
    };
    if cases.is_empty() || is_share(found, cases.len(), CEILING_MIN) {
        return None;
    }
    let text = format!(
        "The slates of {size} hold the item that was bought in about {} of {} validation cases, and no order can do better. Take \
         a larger `slates.size`, your own ranker's slates (`slates.given`), or `slates.retriever = \"blended\"`.",
        percent(found, cases.len()),
        cases.len()
    );
    Some(Warning::new("slates_miss", text))
}

/// Each shopper's last first purchase of the validation time's first `days`, as (user, line), for some of them, by time.
/// For later ones, the retriever of another snapshot makes the slates.
fn sample(dataset: &Dataset, days: i64) -> Vec<(usize, usize)> {
    let split = &dataset.split;
    let until = split.test.min(split.validate + days * DAY_S);
    let last = |user: usize| {
        let lines = dataset.baskets(user, split.validate, until).rev().flat_map(Iterator::rev);
        lines.into_iter().find(|&line| dataset.bought[user][line].first).map(|line| (user, line))
    };
    let all: Vec<_> = (0..dataset.users.len()).filter_map(last).collect();
    let step = all.len().div_ceil(CASES_SAMPLED).max(1);
    let mut cases: Vec<_> = all.into_iter().step_by(step).collect();
    cases.sort_by_key(|&(user, line)| dataset.bought[user][line].time);
    cases
}

/// The cases whose slate holds the item.
fn hits(
    dataset: &Dataset,
    cases: &[(usize, usize)],
    mut slate: impl FnMut(&[(u32, i64)], Timestamp, &dyn Fn(u32) -> bool) -> Vec<(u32, f32)>,
) -> usize {
    let is_hit = |&&(user, line): &&(usize, usize)| {
        let (had, bought) = (&dataset.bought[user][..line], &dataset.bought[user][line]);
        let history: Vec<(u32, i64)> = had.iter().map(|line| (line.item, line.time)).collect();
        let seen: FxHashSet<u32> = had.iter().map(|line| line.item).collect();
        let slate = slate(&history, bought.time, &|item| seen.contains(&item));
        slate.iter().any(|&(item, _)| item == bought.item)
    };
    cases.iter().filter(is_hit).count()
}
