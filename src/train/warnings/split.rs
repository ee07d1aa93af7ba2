//! Times of training, validation and test that hold too little.

use super::{Examined, Warning, day};
use crate::domain::Timestamp;
use crate::train::dataset::{Dataset, Split};

/// Shoppers who buy in the validation and in the test time, at least: each is one case. Below it, an interval of NDCG is
/// wider than most gains.
pub const CASES_MIN: usize = 200;
/// Baskets of the training time, at least.
pub const BASKETS_MIN: usize = 1_000;

/// A part of the log's time, by the recipe's name of its first moment.
struct SplitPart {
    name: &'static str,
    key: &'static str,
    from: Timestamp,
    until: Timestamp,
}

/// The three parts, in the order of time.
fn parts(split: &Split) -> [SplitPart; 3] {
    let part = |name, key, from, until| SplitPart { name, key, from, until };
    [
        part("training", "train", split.train, split.validate),
        part("validation", "validate", split.validate, split.test),
        part("test", "test", split.test, split.end),
    ]
}

/// Fails if nobody buys in one of the parts.
pub(super) fn check(examined: &Examined<'_>) -> anyhow::Result<()> {
    let dataset = examined.dataset;
    for part in parts(&dataset.split) {
        let SplitPart { name, key, from, until } = part;
        let bought = latest_purchases(dataset, from, until).len();
        anyhow::ensure!(
            bought > 0,
            "nobody buys in the {name} time, {} to {} (`split.{key}`): {}",
            day(from),
            day(until),
            if dataset.purchases.is_empty() {
                "the log has no purchases, so the column of kinds may be read wrongly".to_owned()
            } else {
                moves(examined, CASES_MIN).unwrap_or_else(|| few(dataset))
            }
        );
    }
    Ok(())
}

pub(super) fn warnings(examined: &Examined<'_>) -> Vec<Warning> {
    let dataset = examined.dataset;
    let [training, validation, test] = parts(&dataset.split);
    let mut found = Vec::new();
    let users = 0..dataset.users.len();
    let baskets: usize =
        users.map(|user| dataset.baskets(user, training.from, training.until).count()).sum();
    if baskets < BASKETS_MIN {
        let text = format!(
            "The training time, {} to {}, has {baskets} baskets, and a scorer needs about {BASKETS_MIN} to learn from. \
             Lower `split.train`, or import a longer log.",
            day(training.from),
            day(training.until)
        );
        found.push(Warning::new("few_training_baskets", text));
    }
    for (about, part) in [("few_validation_cases", validation), ("few_test_cases", test)] {
        let cases = latest_purchases(dataset, part.from, part.until).len();
        if cases < CASES_MIN {
            let text = format!(
                "Only {cases} shoppers buy in the {} time, {} to {}; figures of fewer than {CASES_MIN} are mostly \
                 chance. {}",
                part.name,
                day(part.from),
                day(part.until),
                capital(&moves(examined, CASES_MIN).unwrap_or_else(|| few(dataset)))
            );
            found.push(Warning::new(about, text));
        }
    }
    found
}

/// The time of each user's last purchase in `from..until`, latest first.
fn latest_purchases(dataset: &Dataset, from: Timestamp, until: Timestamp) -> Vec<Timestamp> {
    let last = |bought: &Vec<crate::train::dataset::PurchaseLine>| {
        let known = &bought[..bought.partition_point(|line| line.time < until)];
        known.last().map(|line| line.time).filter(|&time| time >= from)
    };
    let mut times: Vec<Timestamp> = dataset.bought.iter().filter_map(last).collect();
    times.sort_unstable_by(|a, b| b.cmp(a));
    times
}

/// The shares with which `most` shoppers buy in the validation and in the test time; `None` if no shares give so many.
fn moves(examined: &Examined<'_>, most: usize) -> Option<String> {
    let (dataset, shares) = (examined.dataset, examined.recipe.split);
    let Split { begin, train, test, end, .. } = dataset.split;
    let share = |time: Timestamp| (time - begin) as f64 / (end - 1 - begin).max(1) as f64;
    // Rounded down, so that no shopper falls out again.
    let rounded = |time| (share(time) * 1_000.0).floor() / 1_000.0;
    let at = |share: f64| begin + ((end - 1 - begin) as f64 * share) as i64;
    let moved = |until, now: Timestamp, share_now: f64| {
        let last = *latest_purchases(dataset, begin, until).get(most - 1)?;
        Some(if last < now { rounded(last) } else { share_now })
    };
    let test = moved(end, test, shares.test)?;
    let validate = moved(at(test), dataset.split.validate, shares.validate)?;
    (0.0 < validate && validate < test && test < 1.0).then(|| {
        let mut text =
            format!("`split.validate = {validate}` and `split.test = {test}` give {most} to both");
        if at(validate) <= train {
            text += ", with an earlier `split.train`";
        }
        text + "."
    })
}

fn few(dataset: &Dataset) -> String {
    let buyers = dataset.bought.iter().filter(|bought| !bought.is_empty()).count();
    format!("the whole log has {buyers} buyers, so no other split helps: import a longer log.")
}

/// The text with a capital letter, unless it begins with code.
fn capital(text: &str) -> String {
    text.strip_prefix('t').map_or_else(|| text.to_owned(), |rest| format!("T{rest}"))
}
