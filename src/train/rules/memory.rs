//! What rules read: the sales of every item, and all that one shopper did.

use crate::domain::Timestamp;
use crate::train::cases::{Case, PredictionTask};
use crate::train::dataset::{DAY_S, Dataset, Past, PurchaseLine};
use rustc_hash::FxHashMap;

/// Days in which a purchase loses most of its weight among a shopper's favourites.
pub const FAVOURITE_DAYS: f64 = 90.0;

/// The log by item: when each was sold.
#[derive(Debug)]
pub struct SalesLog<'a> {
    dataset: &'a Dataset,
    /// By item, ascending.
    sales: Vec<Vec<Timestamp>>,
}

/// What was known at the moment of a case: events strictly before it. Where days are the finest time,
/// these are the events of earlier days.
#[derive(Debug)]
pub struct SalesMoment<'a> {
    log: &'a SalesLog<'a>,
    now: Timestamp,
    own: FxHashMap<u32, OwnPast>,
}

/// What one shopper did with one item before the moment, over their whole history.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct OwnPast {
    /// How often they bought it.
    pub bought: u32,
    /// How often they looked at it or put it into the cart.
    pub browsed: u32,
    /// Whether it is an earlier line of the basket of the moment.
    pub in_basket: bool,
    /// `Σ e^(−days ÷ 90)` over their purchases of it.
    pub favour: f64,
}

// === impl SalesLog ===

impl<'a> SalesLog<'a> {
    /// Sorts the purchases of a log by item, for a catalogue of so many.
    pub fn new(dataset: &'a Dataset, items: usize) -> Self {
        let mut sales = vec![Vec::new(); items];
        // The log is in time order, so each item's times are, too.
        for sale in &dataset.purchases {
            sales[sale.item as usize].push(sale.time);
        }
        Self { dataset, sales }
    }

    /// All that a shopper did strictly before their last case of its task.
    pub fn past(&self, case: &Case) -> Past<'a> {
        self.known(case).0
    }

    /// The shopper's past, and the earlier lines of the basket: they are of the same moment, and known to
    /// a first purchase alone.
    fn known(&self, case: &Case) -> (Past<'a>, &'a [PurchaseLine]) {
        let within_basket = case.task == PredictionTask::FirstPurchase;
        let Some(line) = line_of(self.dataset, case) else { return Default::default() };
        let past = self.dataset.past(case.user as usize, line, within_basket);
        let before = past.bought.partition_point(|bought| bought.time < case.now);
        let (bought, at_once) = past.bought.split_at(before);
        (Past { bought, ..past }, if within_basket { at_once } else { &[] })
    }

    /// The moment of a shopper's last case of its task.
    pub fn moment(&self, case: &Case) -> SalesMoment<'_> {
        let (past, at_once) = self.known(case);
        let mut own: FxHashMap<u32, OwnPast> = FxHashMap::default();
        for bought in past.bought {
            let days = (case.now - bought.time) as f64 / DAY_S as f64;
            let own = own.entry(bought.item).or_default();
            own.bought += 1;
            own.favour += (-days / FAVOURITE_DAYS).exp();
        }
        for browsed in past.browsed {
            own.entry(browsed.item).or_default().browsed += 1;
        }
        for line in at_once {
            own.entry(line.item).or_default().in_basket = true;
        }
        SalesMoment { log: self, now: case.now, own }
    }

    /// The sales of an item in `from..until`.
    fn between(&self, item: u32, from: Timestamp, until: Timestamp) -> usize {
        let before = |moment| self.sales[item as usize].partition_point(|&time| time < moment);
        before(until) - before(from)
    }
}

/// The line that a shopper's last case predicts: the first purchase itself, or a line of the basket.
fn line_of(dataset: &Dataset, case: &Case) -> Option<usize> {
    let bought = &dataset.bought[case.user as usize];
    match case.task {
        PredictionTask::FirstPurchase => {
            let wanted = case.relevant.first()?;
            bought.iter().position(|line| line.item == *wanted)
        }
        // Of the baskets of that moment, the last is the case.
        PredictionTask::NextBasket => bought.iter().rposition(|line| line.time == case.now),
    }
}

// === impl SalesMoment ===

impl SalesMoment<'_> {
    /// The purchase lines of an item in the last so many days.
    pub fn sales(&self, item: u32, days: i64) -> f64 {
        self.log.between(item, self.now - days * DAY_S, self.now) as f64
    }

    /// What the shopper did with an item.
    pub fn own(&self, item: u32) -> OwnPast {
        self.own.get(&item).copied().unwrap_or_default()
    }
}

// === impl OwnPast ===

impl OwnPast {
    /// Whether the shopper met the item before the moment.
    pub fn seen(self) -> bool {
        self.bought > 0 || self.browsed > 0
    }
}
