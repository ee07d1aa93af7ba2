//! Which page holds which tokens, and who reads it?
//!
//! Pages are numbers and reference counts; the keys and values lie with the runner. A page is in
//! one of three states:
//!
//! ```text
//! free     nobody holds it, and what it contains is of no use
//! cached   nobody holds it, but it has a name: whoever wants those tokens can have it
//! held     by one sequence that writes it, or by any number that only read it
//! ```
//!
//! A full page whose tokens are computed gets a name: the BLAKE3 hash of the name of the page
//! before it and of its own tokens, so equal names mean equal texts from the very beginning. With
//! 256 bits of a cryptographic hash, two texts of one name are not a case that can be met, and the
//! tokens are not compared again. A named page is never written.

use rustc_hash::FxHashMap;

/// What a full page is called: it stands for all tokens up to the page's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageHash([u8; blake3::OUT_LEN]);

/// The pages of one runner.
#[derive(Debug)]
pub struct KvPages {
    slots: Vec<KvPage>,
    free: Vec<u32>,
    named: FxHashMap<PageHash, u32>,
    /// The ends of the list of cached pages, by when they were freed.
    oldest: u32,
    newest: u32,
    cached: usize,
}

#[derive(Debug)]
struct KvPage {
    holders: u32,
    name: Option<PageHash>,
    /// Its neighbours among the cached pages.
    older: u32,
    newer: u32,
}

/// How many pages are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvPageCounts {
    /// Of no use to anybody.
    pub free: usize,
    /// Named, and held by nobody.
    pub cached: usize,
    /// In somebody's table.
    pub held: usize,
}

/// No page, in the list of cached pages.
const NIL: u32 = u32::MAX;

// === impl PageHash ===

impl PageHash {
    /// The name of the page that holds `tokens` after the page called `before`.
    pub fn of(before: Option<&PageHash>, tokens: &[u32]) -> Self {
        let mut hasher = blake3::Hasher::new();
        // A first page is told from a later one by the length of what is hashed.
        if let Some(before) = before {
            hasher.update(&before.0);
        }
        for token in tokens {
            hasher.update(&token.to_le_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }
}

// === impl KvPages ===

impl KvPages {
    /// `count` free pages.
    pub fn new(count: usize) -> Self {
        let slot = || KvPage { holders: 0, name: None, older: NIL, newer: NIL };
        let count = u32::try_from(count).expect("pages are numbered in 32 bits");
        Self {
            slots: (0..count).map(|_| slot()).collect(),
            // The lowest number comes out first.
            free: (0..count).rev().collect(),
            named: FxHashMap::default(),
            oldest: NIL,
            newest: NIL,
            cached: 0,
        }
    }

    /// A page to write: a free one, or else the one that has been cached longest.
    pub fn take(&mut self) -> Option<u32> {
        let page = match self.free.pop() {
            Some(page) => page,
            None if self.oldest != NIL => {
                let page = self.oldest;
                self.unlink(page);
                let name = self.slots[page as usize].name.take();
                self.named.remove(&name.expect("a cached page has a name"));
                page
            }
            None => return None,
        };
        self.slots[page as usize].holders = 1;
        Some(page)
    }

    /// The page of this name, to read.
    pub fn hold(&mut self, name: &PageHash) -> Option<u32> {
        let page = *self.named.get(name)?;
        if self.slots[page as usize].holders == 0 {
            self.unlink(page);
        }
        self.slots[page as usize].holders += 1;
        Some(page)
    }

    /// Names a page that its holder has filled. If another page has the name already, this one
    /// stays nameless and is of no use after its holder.
    pub fn name(&mut self, page: u32, name: PageHash) {
        let slot = &mut self.slots[page as usize];
        debug_assert!(slot.holders == 1 && slot.name.is_none(), "a page is named by its writer");
        if let std::collections::hash_map::Entry::Vacant(vacant) = self.named.entry(name) {
            vacant.insert(page);
            slot.name = Some(name);
        }
    }

    /// Gives back a page that was taken or held.
    pub fn give(&mut self, page: u32) {
        let slot = &mut self.slots[page as usize];
        slot.holders = slot.holders.checked_sub(1).expect("a page is given as often as held");
        match (slot.holders, slot.name) {
            (0, Some(_)) => self.link(page),
            (0, None) => self.free.push(page),
            _ => {}
        }
    }

    /// How many hold a page.
    pub fn holders(&self, page: u32) -> usize {
        self.slots[page as usize].holders as usize
    }

    /// How many pages could be taken.
    pub fn available(&self) -> usize {
        self.free.len() + self.cached
    }

    /// How many pages are in each state.
    pub fn counts(&self) -> KvPageCounts {
        let (free, cached) = (self.free.len(), self.cached);
        KvPageCounts { free, cached, held: self.slots.len() - free - cached }
    }

    /// Whether the holder of a page may write it.
    pub fn is_writable(&self, page: u32) -> bool {
        let slot = &self.slots[page as usize];
        slot.holders == 1 && slot.name.is_none()
    }

    /// Asserts that every page is in the state that the lists say, given how often each is in a
    /// table.
    pub fn audit(&self, tables: impl Iterator<Item = u32>) {
        let mut holders = vec![0; self.slots.len()];
        tables.for_each(|page| holders[page as usize] += 1);
        for (slot, holders) in self.slots.iter().zip(&holders) {
            assert_eq!(slot.holders, *holders, "a page is held by those whose table names it");
        }
        let (mut cached, mut page, mut before) = (0, self.oldest, NIL);
        while page != NIL {
            let slot = &self.slots[page as usize];
            assert!(slot.holders == 0 && slot.name.is_some() && slot.older == before);
            (before, page) = (page, slot.newer);
            cached += 1;
        }
        assert_eq!(
            (cached, before),
            (self.cached, self.newest),
            "the list of cached pages is whole"
        );
        let held = self.slots.iter().filter(|slot| slot.holders > 0).count();
        assert_eq!(self.free.len() + cached + held, self.slots.len(), "no page is lost");
        let free = |page: &u32| {
            let slot = &self.slots[*page as usize];
            slot.holders == 0 && slot.name.is_none()
        };
        assert!(self.free.iter().all(free), "a free page has neither holder nor name");
        let called =
            |(name, page): (&PageHash, &u32)| self.slots[*page as usize].name == Some(*name);
        assert!(self.named.iter().all(called), "a name leads to the page that bears it");
    }

    /// Puts a page at the newest end of the cached ones.
    fn link(&mut self, page: u32) {
        let newest = std::mem::replace(&mut self.newest, page);
        let slot = &mut self.slots[page as usize];
        (slot.older, slot.newer) = (newest, NIL);
        match newest {
            NIL => self.oldest = page,
            newest => self.slots[newest as usize].newer = page,
        }
        self.cached += 1;
    }

    /// Takes a page out of the cached ones.
    fn unlink(&mut self, page: u32) {
        let slot = &self.slots[page as usize];
        let (older, newer) = (slot.older, slot.newer);
        match older {
            NIL => self.oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
        match newer {
            NIL => self.newest = older,
            newer => self.slots[newer as usize].older = older,
        }
        self.cached -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(pages: &mut KvPages, name: PageHash) -> u32 {
        let page = pages.take().unwrap();
        pages.name(page, name);
        page
    }

    #[test]
    fn a_name_stands_for_everything_before() {
        let first = PageHash::of(None, &[1, 2]);
        assert_eq!(first, PageHash::of(None, &[1, 2]));
        assert_ne!(first, PageHash::of(None, &[2, 1]));
        assert_ne!(PageHash::of(Some(&first), &[3, 4]), PageHash::of(None, &[3, 4]));
    }

    #[test]
    fn a_freed_page_is_found_by_its_name_until_it_is_taken() {
        let mut pages = KvPages::new(2);
        let name = PageHash::of(None, &[7]);
        let page = filled(&mut pages, name);
        pages.give(page);
        assert_eq!(pages.counts(), KvPageCounts { free: 1, cached: 1, held: 0 });
        assert_eq!(pages.hold(&name), Some(page));
        pages.give(page);
        assert_eq!((pages.take(), pages.take()), (Some(1), Some(page)), "free pages go first");
        assert_eq!(pages.hold(&name), None);
        assert_eq!(pages.take(), None);
        pages.audit([0, 1].into_iter());
    }

    #[test]
    fn the_page_that_was_freed_first_goes_first() {
        let mut pages = KvPages::new(3);
        let names = [1, 2, 3].map(|token| PageHash::of(None, &[token]));
        let held = names.map(|name| filled(&mut pages, name));
        for at in [1, 0, 2] {
            pages.give(held[at]);
        }
        // A hit makes it young again.
        pages.hold(&names[1]).unwrap();
        pages.give(held[1]);
        pages.audit([].into_iter());
        let taken = [(); 3].map(|()| pages.take().unwrap());
        assert_eq!(taken, [held[0], held[2], held[1]]);
    }

    #[test]
    fn a_shared_page_may_not_be_written() {
        let mut pages = KvPages::new(2);
        let name = PageHash::of(None, &[7]);
        let page = pages.take().unwrap();
        assert!(pages.is_writable(page));
        pages.name(page, name);
        assert!(!pages.is_writable(page), "others may hold it at any time");
        assert_eq!(pages.hold(&name), Some(page));
        pages.audit([page, page].into_iter());
    }

    #[test]
    fn a_second_page_of_one_name_is_of_no_use_after_its_holder() {
        let mut pages = KvPages::new(2);
        let name = PageHash::of(None, &[7]);
        let (first, second) = (filled(&mut pages, name), filled(&mut pages, name));
        pages.give(second);
        pages.give(first);
        assert_eq!(pages.counts(), KvPageCounts { free: 1, cached: 1, held: 0 });
        assert_eq!(pages.hold(&name), Some(first));
    }
}
