//! Ids, stored once each and numbered by their first appearance.

use rustc_hash::FxHasher;
use std::hash::Hasher;

/// A slot that holds no number. No table of this import has as many rows.
const FREE: u32 = u32::MAX;
/// Slots of an empty table.
const SLOTS_MIN: usize = 64;

/// Distinct ids with their numbers. An id costs its own bytes, 8 for its end in the text, and 11 to 22 for its slot:
/// a map of strings takes more than twice that.
#[derive(Debug)]
pub(super) struct IdNumbers {
    /// The text of all ids, one after the other.
    text: Vec<u8>,
    /// Where the text of each id ends.
    ends: Vec<u64>,
    /// A power of two of slots, at most three quarters of them taken.
    slots: Vec<Slot>,
}

/// The number of an id, and 32 bits of its hash, which spare most comparisons.
#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: u32,
    number: u32,
}

// === impl IdNumbers ===

impl IdNumbers {
    /// How many distinct ids there are.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of the id with this number.
    pub(super) fn bytes(&self, number: u32) -> &[u8] {
        let at = number as usize;
        let begin = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.text[begin as usize..self.ends[at] as usize]
    }

    /// The id with this number.
    pub(super) fn text(&self, number: u32) -> &str {
        str::from_utf8(self.bytes(number)).expect("this table was filled with texts")
    }

    /// The number of an id that is here.
    pub(super) fn find(&self, id: &[u8]) -> Option<u32> {
        let hash = hash(id);
        let slot = self.slots[self.slot(id, hash)];
        (slot.number != FREE).then_some(slot.number)
    }

    /// The number of an id, and whether it is new.
    pub(super) fn number(&mut self, id: &[u8]) -> (u32, bool) {
        let hash = hash(id);
        let at = self.slot(id, hash);
        if self.slots[at].number != FREE {
            return (self.slots[at].number, false);
        }
        let number = self.ends.len() as u32;
        self.text.extend_from_slice(id);
        self.ends.push(self.text.len() as u64);
        self.slots[at] = Slot { hash, number };
        if self.ends.len() * 4 > self.slots.len() * 3 {
            self.grow();
        }
        (number, true)
    }

    /// The index of the slot that holds an id, or that is free for it.
    fn slot(&self, id: &[u8], hash: u32) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = spread(hash) & mask;
        loop {
            let slot = self.slots[at];
            if slot.number == FREE || (slot.hash == hash && self.bytes(slot.number) == id) {
                return at;
            }
            at = (at + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let free = vec![Slot { hash: 0, number: FREE }; self.slots.len() * 2];
        let taken = std::mem::replace(&mut self.slots, free);
        let mask = self.slots.len() - 1;
        for slot in taken.into_iter().filter(|slot| slot.number != FREE) {
            let mut at = spread(slot.hash) & mask;
            while self.slots[at].number != FREE {
                at = (at + 1) & mask;
            }
            self.slots[at] = slot;
        }
    }
}

impl Default for IdNumbers {
    fn default() -> Self {
        let slots = vec![Slot { hash: 0, number: FREE }; SLOTS_MIN];
        Self { text: Vec::new(), ends: Vec::new(), slots }
    }
}

fn hash(id: &[u8]) -> u32 {
    let mut hasher = FxHasher::default();
    hasher.write(id);
    let hash = hasher.finish();
    (hash ^ (hash >> 32)) as u32
}

/// Where to look for a hash: a table may have more slots than a hash has values.
fn spread(hash: u32) -> usize {
    (u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_keep_their_numbers_while_the_table_grows() {
        let mut ids = IdNumbers::default();
        let id = |n: u32| format!("id-{}", n.wrapping_mul(2_654_435_761) % 5_000);
        let mut known = std::collections::HashMap::new();
        for n in 0..20_000 {
            let next = known.len() as u32;
            let is_new = !known.contains_key(&id(n));
            let expected = *known.entry(id(n)).or_insert(next);
            assert_eq!(ids.number(id(n).as_bytes()), (expected, is_new), "{}", id(n));
        }
        assert_eq!(ids.len(), known.len());
        for (id, number) in known {
            assert_eq!((ids.text(number), ids.find(id.as_bytes())), (&*id, Some(number)));
        }
        assert_eq!(ids.find(b"id"), None);
        assert_eq!(ids.find(b""), None);
    }

    #[test]
    fn an_empty_id_and_ids_within_others_are_apart() {
        let mut ids = IdNumbers::default();
        for (number, id) in (0..).zip(["", "a", "ab", "b", "a\u{e9}"]) {
            assert_eq!(ids.number(id.as_bytes()), (number, true));
        }
        assert_eq!((ids.text(0), ids.text(4)), ("", "a\u{e9}"));
    }
}
