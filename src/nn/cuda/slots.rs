//! Which rows of a table are in slots on the device. The least recently used row is evicted.

/// No row, and no slot.
const NONE: u32 = u32::MAX;

/// Slots for rows, in the order of their last use.
#[derive(Debug)]
pub(super) struct RowSlots {
    /// The slot of each row, or [`NONE`].
    slot_of: Vec<u32>,
    slots: Vec<SlotState>,
    oldest: u32,
    newest: u32,
    /// The number of the current batch.
    batch: u64,
}

#[derive(Clone, Copy, Debug)]
struct SlotState {
    row: u32,
    older: u32,
    newer: u32,
    /// The last batch that used it.
    used: u64,
}

/// The slot of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowSlot {
    /// The row is there.
    Resident(u32),
    /// The row has to be uploaded.
    Missing(u32),
}

// === impl RowSlot ===

impl RowSlot {
    pub fn index(self) -> u32 {
        match self {
            Self::Resident(slot) | Self::Missing(slot) => slot,
        }
    }
}

// === impl RowSlots ===

impl RowSlots {
    /// `count` slots, at least one, for a table of so many rows.
    pub fn new(count: usize, rows: usize) -> Self {
        let slot = |at: u32| SlotState {
            row: NONE,
            older: at.checked_sub(1).unwrap_or(NONE),
            newer: if at + 1 < count as u32 { at + 1 } else { NONE },
            used: 0,
        };
        let slots = (0..count as u32).map(slot).collect();
        Self { slot_of: vec![NONE; rows], slots, oldest: 0, newest: count as u32 - 1, batch: 0 }
    }

    /// Begins a batch. Rows that it uses are not evicted before the next one.
    pub fn begin(&mut self) {
        self.batch += 1;
    }

    /// Finds a row's slot, or takes one for it if `more` rows may be uploaded. `None` if the row is
    /// missing and may not be uploaded, or if the batch uses all slots.
    pub fn find(&mut self, row: u32, more: bool) -> Option<RowSlot> {
        let slot = self.slot_of[row as usize];
        if slot != NONE {
            self.touch(slot);
            return Some(RowSlot::Resident(slot));
        }
        let slot = if more { self.take()? } else { return None };
        self.slot_of[row as usize] = slot;
        self.slots[slot as usize].row = row;
        Some(RowSlot::Missing(slot))
    }

    /// Takes a slot for a row that only this batch uses. `None` if the batch uses all slots.
    pub fn take(&mut self) -> Option<u32> {
        let slot = self.oldest;
        let SlotState { row, used, .. } = self.slots[slot as usize];
        // Slots of the current batch are the newest ones.
        if used == self.batch {
            return None;
        }
        if row != NONE {
            self.slot_of[row as usize] = NONE;
            self.slots[slot as usize].row = NONE;
        }
        self.touch(slot);
        Some(slot)
    }

    /// Forgets which rows are in slots.
    pub fn forget(&mut self) {
        self.slot_of.fill(NONE);
        for slot in &mut self.slots {
            slot.row = NONE;
        }
    }

    /// Makes a slot the newest, once in a batch.
    fn touch(&mut self, slot: u32) {
        let SlotState { older, newer, used, .. } = self.slots[slot as usize];
        if used == self.batch {
            return;
        }
        self.slots[slot as usize].used = self.batch;
        if newer == NONE {
            return;
        }
        self.slots[newer as usize].older = older;
        match older {
            NONE => self.oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
        self.slots[self.newest as usize].newer = slot;
        let moved = &mut self.slots[slot as usize];
        (moved.older, moved.newer) = (self.newest, NONE);
        self.newest = slot;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which rows of a batch had to be uploaded.
    fn uploaded(slots: &mut RowSlots, rows: &[u32]) -> Vec<u32> {
        slots.begin();
        let missing = |row: &u32| matches!(slots.find(*row, true), Some(RowSlot::Missing(_)));
        rows.iter().copied().filter(missing).collect()
    }

    #[test]
    fn the_least_recently_used_row_is_evicted() {
        let mut slots = RowSlots::new(3, 10);
        assert_eq!(uploaded(&mut slots, &[4, 7, 4, 9]), [4, 7, 9]);
        assert!(uploaded(&mut slots, &[4]).is_empty());
        // 7 is older than 4 by now.
        assert_eq!(uploaded(&mut slots, &[1]), [1]);
        assert!(uploaded(&mut slots, &[4, 9]).is_empty());
        assert_eq!(uploaded(&mut slots, &[7]), [7]);
        assert_eq!(uploaded(&mut slots, &[1]), [1]);
        assert!(uploaded(&mut slots, &[9, 7, 1]).is_empty());
        assert_eq!(uploaded(&mut slots, &[4]), [4]);
        assert_eq!(uploaded(&mut slots, &[9]), [9]);
    }

    #[test]
    fn a_batch_keeps_what_it_uses() {
        let mut slots = RowSlots::new(2, 10);
        slots.begin();
        assert_eq!(slots.find(5, true), Some(RowSlot::Missing(0)));
        let own = slots.take();
        assert_eq!(own, Some(1));
        assert_eq!((slots.find(6, true), slots.take()), (None, None));
        assert_eq!(slots.find(5, true), Some(RowSlot::Resident(0)));
        slots.begin();
        assert_eq!(slots.find(6, false), None);
        // A row that only that batch used is forgotten.
        assert_eq!(slots.find(5, true), Some(RowSlot::Resident(0)));
        assert_eq!(slots.find(6, true), Some(RowSlot::Missing(1)));
        assert_eq!(slots.find(7, true), None);
        slots.forget();
        assert_eq!(uploaded(&mut slots, &[5, 6]), [5, 6]);
    }

    #[test]
    fn one_slot_is_enough_for_one_row_at_a_time() {
        let mut slots = RowSlots::new(1, 3);
        for row in [2, 0, 2] {
            assert_eq!(uploaded(&mut slots, &[row]), [row]);
            assert!(uploaded(&mut slots, &[row]).is_empty());
        }
    }
}
