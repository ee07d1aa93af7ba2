//! The state of a shopper between two visits.

/// Purchases that a shopper remembers.
pub const REMEMBERED: usize = 48;

/// The last purchases of a shopper. Everything else is drawn again from the seed.
#[derive(Clone, Debug)]
pub struct PurchaseMemory {
    items: [u32; REMEMBERED],
    days: [u16; REMEMBERED],
    /// Purchases so far. The last [`REMEMBERED`] are in a ring buffer.
    bought: u32,
    /// Visits so far: the number of the next visit's random stream.
    pub visits: u32,
}

/// A purchase that is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimPurchase {
    /// The product's number.
    pub item: u32,
    /// The day.
    pub day: u16,
}

impl PurchaseMemory {
    /// The memory of a shopper without purchases.
    pub const EMPTY: Self =
        Self { items: [0; REMEMBERED], days: [0; REMEMBERED], bought: 0, visits: 0 };

    /// Remembers a purchase. A full memory forgets the oldest.
    pub fn remember(&mut self, bought: SimPurchase) {
        let slot = self.bought as usize % REMEMBERED;
        self.items[slot] = bought.item;
        self.days[slot] = bought.day;
        self.bought += 1;
    }

    /// The remembered purchases, latest first.
    pub fn latest(&self) -> impl Iterator<Item = SimPurchase> {
        let bought = self.bought as usize;
        let remembered = bought.min(REMEMBERED);
        (1..=remembered).map(move |back| {
            let slot = (bought - back) % REMEMBERED;
            SimPurchase { item: self.items[slot], day: self.days[slot] }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_purchase_is_forgotten_first() {
        let mut memory = PurchaseMemory::EMPTY;
        let total = REMEMBERED as u32 + 8;
        for item in 0..total {
            memory.remember(SimPurchase { item, day: item as u16 });
        }
        let latest: Vec<_> = memory.latest().map(|bought| bought.item).collect();
        assert_eq!(latest, (8..total).rev().collect::<Vec<_>>());
    }

    #[test]
    fn a_memory_is_small() {
        assert_eq!(size_of::<PurchaseMemory>(), 296);
    }
}
