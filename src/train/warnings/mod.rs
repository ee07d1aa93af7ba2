//! What is odd about a shop, before an hour of training is spent on it.
//!
//! Each check is a function of the shop, its catalogue and the recipe. It says what is odd with its number, and what to
//! do. What makes a bundle worthless is an error; anything else is a [`Warning`].

mod catalogue;
mod log;
mod reasons;
mod split;

pub use catalogue::{EARLY_SHARE_MIN, SAME_TITLE_SHARE_MIN};
pub use log::{HALF, SAME_DAY_SHARE_MIN};
pub use reasons::{CASES_SAMPLED, CEILING_MIN, REASONLESS_SHARE_MIN};
pub use split::{BASKETS_MIN, CASES_MIN};

use super::dataset::Dataset;
use super::recipe::Recipe;
use crate::bundle::Catalog;
use crate::domain::Timestamp;
use crate::shop::Shop;
use serde::Serialize;
use serde_json::Value;
use std::path::Path;

/// Something odd about a shop or a recipe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// A word for it, which scripts can look for.
    pub about: &'static str,
    /// The number, and what to do: one or two sentences.
    pub text: String,
}

/// What is checked.
#[derive(Clone, Copy, Debug)]
pub struct Examined<'a> {
    /// The shop.
    pub shop: &'a Shop,
    /// Its catalogue, with what was mined.
    pub catalog: &'a Catalog,
    /// Its log, split in time.
    pub dataset: &'a Dataset,
    /// The recipe.
    pub recipe: &'a Recipe,
}

// === impl Warning ===

impl Warning {
    fn new(about: &'static str, text: String) -> Self {
        Self { about, text }
    }
}

/// Fails if no bundle worth its time can come of this.
pub fn check(examined: &Examined<'_>) -> anyhow::Result<()> {
    let days = examined.recipe.slates.refresh_days;
    anyhow::ensure!(
        days >= 1,
        "`slates.refresh_days` is {days}: it must be at least 1, and each snapshot costs seconds"
    );
    split::check(examined)
}

/// Everything that is odd. It takes seconds.
pub fn warnings(examined: &Examined<'_>) -> Vec<Warning> {
    let checks: [fn(&Examined<'_>) -> Vec<Warning>; 4] =
        [split::warnings, log::warnings, catalogue::warnings, reasons::warnings];
    checks.iter().flat_map(|check| check(examined)).collect()
}

/// The warnings in the report that `prepare` left in a folder of parts; none if there is no report.
pub fn reported(work: &Path) -> Vec<String> {
    let report = std::fs::read(work.join("prepare.report.json")).ok();
    let report = report.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let warnings = report.as_ref().and_then(|report| report["measured"]["warnings"].as_array());
    let text = |warning: &Value| warning["text"].as_str().map(str::to_owned);
    warnings.into_iter().flatten().filter_map(text).collect()
}

/// A share in percent: "3.4 %", "62 %".
fn percent(part: usize, whole: usize) -> String {
    let share = 100.0 * part as f64 / whole.max(1) as f64;
    if share < 10.0 { format!("{share:.1} %") } else { format!("{share:.0} %") }
}

/// The day of a moment, in UTC.
fn day(time: Timestamp) -> String {
    let moment = jiff::Timestamp::from_second(time).unwrap_or_default();
    moment.strftime("%Y-%m-%d").to_string()
}

/// Whether a part is at least this share of a whole that is not empty.
fn is_share(part: usize, whole: usize, share: f64) -> bool {
    whole > 0 && part as f64 >= share * whole as f64
}
