//! Which rows of a table lie on the device: what was used longest ago gives way.

/// No row, and no slot.
const NONE: u32 = u32::MAX;

/// Slots for rows, in the order of their last use.
#[derive(Debug)]
pub(super) struct Slots {
    /// The slot of each row, if it has one.
    of: Vec<u32>,
    all: Vec<Slot>,
    oldest: u32,
    newest: u32,
    /// The number of the batch at hand.
    batch: u64,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    row: u32,
    older: u32,
    newer: u32,
    /// The batch that used it last.
    used: u64,
}

/// Where a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It lies there.
    Here(u32),
    /// It has to be brought there.
    Wanted(u32),
}

// === impl Place ===

impl Place {
    pub fn slot(self) -> u32 {
        match self {
            Self::Here(slot) | Self::Wanted(slot) => slot,
        }
    }
}

// === impl Slots ===

impl Slots {
    /// So many slots, at least one, for a table of so many rows.
    pub fn new(count: usize, rows: usize) -> Self {
        let slot = |at: u32| Slot {
            row: NONE,
            older: at.checked_sub(1).unwrap_or(NONE),
            newer: if at + 1 < count as u32 { at + 1 } else { NONE },
            used: 0,
        };
        let all = (0..count as u32).map(slot).collect();
        Self { of: vec![NONE; rows], all, oldest: 0, newest: count as u32 - 1, batch: 0 }
    }

    /// Begins a batch: what it uses stays until it is over.
    pub fn begin(&mut self) {
        self.batch += 1;
    }

    /// Finds a row, or a place for it, if more rows may be brought: nowhere if the batch uses all of them.
    pub fn find(&mut self, row: u32, more: bool) -> Option<Place> {
        let slot = self.of[row as usize];
        if slot != NONE {
            self.touch(slot);
            return Some(Place::Here(slot));
        }
        let slot = if more { self.take()? } else { return None };
        self.of[row as usize] = slot;
        self.all[slot as usize].row = row;
        Some(Place::Wanted(slot))
    }

    /// A place for what only this batch knows.
    pub fn take(&mut self) -> Option<u32> {
        let slot = self.oldest;
        let Slot { row, used, .. } = self.all[slot as usize];
        // Whatever a batch uses is newer than all else.
        if used == self.batch {
            return None;
        }
        if row != NONE {
            self.of[row as usize] = NONE;
            self.all[slot as usize].row = NONE;
        }
        self.touch(slot);
        Some(slot)
    }

    /// Takes no row to be anywhere any more.
    pub fn forget(&mut self) {
        self.of.fill(NONE);
        for slot in &mut self.all {
            slot.row = NONE;
        }
    }

    /// Makes a slot the newest, once in a batch.
    fn touch(&mut self, slot: u32) {
        let Slot { older, newer, used, .. } = self.all[slot as usize];
        if used == self.batch {
            return;
        }
        self.all[slot as usize].used = self.batch;
        if newer == NONE {
            return;
        }
        self.all[newer as usize].older = older;
        match older {
            NONE => self.oldest = newer,
            older => self.all[older as usize].newer = newer,
        }
        self.all[self.newest as usize].newer = slot;
        let moved = &mut self.all[slot as usize];
        (moved.older, moved.newer) = (self.newest, NONE);
        self.newest = slot;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which rows of a batch had to be brought.
    fn brought(slots: &mut Slots, rows: &[u32]) -> Vec<u32> {
        slots.begin();
        let wanted = |row: &u32| matches!(slots.find(*row, true), Some(Place::Wanted(_)));
        rows.iter().copied().filter(wanted).collect()
    }

    #[test]
    fn what_was_used_longest_ago_gives_way() {
        let mut slots = Slots::new(3, 10);
        assert_eq!(brought(&mut slots, &[4, 7, 4, 9]), [4, 7, 9]);
        assert!(brought(&mut slots, &[4]).is_empty());
        // 7 is older than 4 by now.
        assert_eq!(brought(&mut slots, &[1]), [1]);
        assert!(brought(&mut slots, &[4, 9]).is_empty());
        assert_eq!(brought(&mut slots, &[7]), [7]);
        assert_eq!(brought(&mut slots, &[1]), [1]);
        assert!(brought(&mut slots, &[9, 7, 1]).is_empty());
        assert_eq!(brought(&mut slots, &[4]), [4]);
        assert_eq!(brought(&mut slots, &[9]), [9]);
    }

    #[test]
    fn a_batch_keeps_what_it_uses() {
        let mut slots = Slots::new(2, 10);
        slots.begin();
        assert_eq!(slots.find(5, true), Some(Place::Wanted(0)));
        let own = slots.take();
        assert_eq!(own, Some(1));
        assert_eq!((slots.find(6, true), slots.take()), (None, None));
        assert_eq!(slots.find(5, true), Some(Place::Here(0)));
        slots.begin();
        assert_eq!(slots.find(6, false), None);
        // What only that batch knew is nobody's.
        assert_eq!(slots.find(5, true), Some(Place::Here(0)));
        assert_eq!(slots.find(6, true), Some(Place::Wanted(1)));
        assert_eq!(slots.find(7, true), None);
        slots.forget();
        assert_eq!(brought(&mut slots, &[5, 6]), [5, 6]);
    }

    #[test]
    fn one_slot_is_enough_for_one_row_at_a_time() {
        let mut slots = Slots::new(1, 3);
        for row in [2, 0, 2] {
            assert_eq!(brought(&mut slots, &[row]), [row]);
            assert!(brought(&mut slots, &[row]).is_empty());
        }
    }
}
