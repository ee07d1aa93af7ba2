//! The ids of events that were read, as fingerprints: enough to know one again.

use std::hash::{DefaultHasher, Hasher};

/// Slots of an empty set.
const SLOTS_MIN: usize = 64;
/// Begins the text of the second half of a fingerprint, so that it differs from the first.
const SECOND_HALF: u64 = 0x5bd1_e995_9d1b_58f3;

/// A set of ids. It holds 128 bits of each, which take 21 to 43 bytes: texts of 36 bytes would take three times that.
/// Among 2³² ids, two share a fingerprint with a probability under 10⁻¹⁹.
#[derive(Debug)]
pub(super) struct EventIds {
    /// A power of two of slots, at most three quarters of them taken. Zero is a free one.
    slots: Vec<u128>,
    taken: usize,
}

// === impl EventIds ===

impl EventIds {
    /// Adds an id. Returns whether it is new.
    pub(super) fn insert(&mut self, id: &str) -> bool {
        let fingerprint = fingerprint(id);
        let at = self.slot(fingerprint);
        if self.slots[at] == fingerprint {
            return false;
        }
        self.slots[at] = fingerprint;
        self.taken += 1;
        if self.taken * 4 > self.slots.len() * 3 {
            self.grow();
        }
        true
    }

    fn slot(&self, fingerprint: u128) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = fingerprint as usize & mask;
        while self.slots[at] != 0 && self.slots[at] != fingerprint {
            at = (at + 1) & mask;
        }
        at
    }

    fn grow(&mut self) {
        let free = vec![0; self.slots.len() * 2];
        let taken = std::mem::replace(&mut self.slots, free);
        for fingerprint in taken.into_iter().filter(|fingerprint| *fingerprint != 0) {
            let at = self.slot(fingerprint);
            self.slots[at] = fingerprint;
        }
    }
}

impl Default for EventIds {
    fn default() -> Self {
        Self { slots: vec![0; SLOTS_MIN], taken: 0 }
    }
}

/// 128 bits of two hashes of an id. Never zero.
fn fingerprint(id: &str) -> u128 {
    let half = |begin: Option<u64>| {
        let mut hasher = DefaultHasher::new();
        if let Some(begin) = begin {
            hasher.write_u64(begin);
        }
        hasher.write(id.as_bytes());
        u128::from(hasher.finish())
    };
    (half(None) | half(Some(SECOND_HALF)) << 64).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_new_once() {
        let mut ids = EventIds::default();
        let mut known = std::collections::HashSet::new();
        for n in 0..20_000_u32 {
            let id = (n.wrapping_mul(2_654_435_761) % 7_000).to_string();
            assert_eq!(ids.insert(&id), known.insert(id));
        }
    }
}
