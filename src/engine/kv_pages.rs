//! The KV pages: which are free, cached or held, and which tokens each contains.
//!
//! This is the block manager with a prefix cache. It knows page numbers and reference counts; the runner stores the
//! keys and values. A page is in one of three states:
//!
//! ```text
//! free     no reference, no hash: its content is unused
//! cached   no reference, but a hash: a sequence with the same prefix can acquire it
//! held     referenced by one sequence that writes it, or by any number that read it
//! ```
//!
//! A full page gets a hash once its tokens are computed: BLAKE3 of the hash of the page before it and its own
//! tokens. So equal hashes mean equal prefixes from the first token on. Collisions of 256 bits are not checked for.
//! A page with a hash is never written. The least recently used cached page is evicted first.

use rustc_hash::FxHashMap;

/// The hash of a full page. It identifies all tokens up to the page's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageHash([u8; blake3::OUT_LEN]);

/// The KV pages of one runner.
#[derive(Debug)]
pub struct KvPages {
    pages: Vec<KvPage>,
    free: Vec<u32>,
    by_hash: FxHashMap<PageHash, u32>,
    /// The ends of the LRU list of cached pages.
    oldest: u32,
    newest: u32,
    cached: usize,
}

#[derive(Debug)]
struct KvPage {
    references: u32,
    hash: Option<PageHash>,
    /// Its neighbours in the LRU list.
    older: u32,
    newer: u32,
}

/// The number of pages in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvPageCounts {
    /// Without reference and hash.
    pub free: usize,
    /// With a hash, without reference.
    pub cached: usize,
    /// In at least one block table.
    pub held: usize,
}

/// No page: the end of the LRU list.
const NIL: u32 = u32::MAX;

// === impl PageHash ===

impl PageHash {
    /// The hash of the page that holds `tokens` after the page with the hash `parent`.
    pub fn of(parent: Option<&Self>, tokens: &[u32]) -> Self {
        let mut hasher = blake3::Hasher::new();
        // The length of the input separates a first page from a later one.
        if let Some(parent) = parent {
            hasher.update(&parent.0);
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
        let page = || KvPage { references: 0, hash: None, older: NIL, newer: NIL };
        let count = u32::try_from(count).expect("pages are numbered in 32 bits");
        Self {
            pages: (0..count).map(|_| page()).collect(),
            // The lowest number is allocated first.
            free: (0..count).rev().collect(),
            by_hash: FxHashMap::default(),
            oldest: NIL,
            newest: NIL,
            cached: 0,
        }
    }

    /// Allocates a page to write: a free one, or else the least recently used cached one. `None` if all are held.
    pub fn allocate(&mut self) -> Option<u32> {
        let page = match self.free.pop() {
            Some(page) => page,
            None if self.oldest != NIL => {
                let page = self.oldest;
                self.unlink(page);
                let hash = self.pages[page as usize].hash.take();
                self.by_hash.remove(&hash.expect("a cached page has a hash"));
                page
            }
            None => return None,
        };
        self.pages[page as usize].references = 1;
        Some(page)
    }

    /// Acquires the page with this hash, to read.
    pub fn acquire(&mut self, hash: &PageHash) -> Option<u32> {
        let page = *self.by_hash.get(hash)?;
        if self.pages[page as usize].references == 0 {
            self.unlink(page);
        }
        self.pages[page as usize].references += 1;
        Some(page)
    }

    /// Puts a page that its writer has filled into the prefix cache. If another page has the same hash, this one
    /// stays without, and is free once it is released.
    pub fn publish(&mut self, page: u32, hash: PageHash) {
        let entry = &mut self.pages[page as usize];
        debug_assert!(entry.references == 1 && entry.hash.is_none(), "only its writer publishes");
        if let std::collections::hash_map::Entry::Vacant(vacant) = self.by_hash.entry(hash) {
            vacant.insert(page);
            entry.hash = Some(hash);
        }
    }

    /// Releases one reference to a page.
    pub fn release(&mut self, page: u32) {
        let entry = &mut self.pages[page as usize];
        entry.references = entry.references.checked_sub(1).expect("a released page was held");
        match (entry.references, entry.hash) {
            (0, Some(_)) => self.link(page),
            (0, None) => self.free.push(page),
            _ => {}
        }
    }

    /// The number of references to a page.
    pub fn references(&self, page: u32) -> usize {
        self.pages[page as usize].references as usize
    }

    /// The number of pages that can be allocated.
    pub fn available(&self) -> usize {
        self.free.len() + self.cached
    }

    /// The number of pages in each state.
    pub fn counts(&self) -> KvPageCounts {
        let (free, cached) = (self.free.len(), self.cached);
        KvPageCounts { free, cached, held: self.pages.len() - free - cached }
    }

    /// Whether the holder of a page may write it.
    pub fn is_writable(&self, page: u32) -> bool {
        let page = &self.pages[page as usize];
        page.references == 1 && page.hash.is_none()
    }

    /// Asserts that all lists agree, given every entry of every block table.
    pub fn audit(&self, block_tables: impl Iterator<Item = u32>) {
        let mut references = vec![0; self.pages.len()];
        block_tables.for_each(|page| references[page as usize] += 1);
        for (page, references) in self.pages.iter().zip(&references) {
            assert_eq!(page.references, *references, "a reference is an entry of a block table");
        }
        let (mut cached, mut page, mut previous) = (0, self.oldest, NIL);
        while page != NIL {
            let entry = &self.pages[page as usize];
            assert!(entry.references == 0 && entry.hash.is_some() && entry.older == previous);
            (previous, page) = (page, entry.newer);
            cached += 1;
        }
        assert_eq!((cached, previous), (self.cached, self.newest), "the LRU list is complete");
        let held = self.pages.iter().filter(|page| page.references > 0).count();
        assert_eq!(self.free.len() + cached + held, self.pages.len(), "no page is lost");
        let is_free = |page: &u32| {
            let page = &self.pages[*page as usize];
            page.references == 0 && page.hash.is_none()
        };
        assert!(self.free.iter().all(is_free), "a free page has neither reference nor hash");
        let has_hash =
            |(hash, page): (&PageHash, &u32)| self.pages[*page as usize].hash == Some(*hash);
        assert!(self.by_hash.iter().all(has_hash), "a hash leads to the page that has it");
    }

    /// Appends a page to the newest end of the LRU list.
    fn link(&mut self, page: u32) {
        let newest = std::mem::replace(&mut self.newest, page);
        let entry = &mut self.pages[page as usize];
        (entry.older, entry.newer) = (newest, NIL);
        match newest {
            NIL => self.oldest = page,
            newest => self.pages[newest as usize].newer = page,
        }
        self.cached += 1;
    }

    /// Removes a page from the LRU list.
    fn unlink(&mut self, page: u32) {
        let entry = &self.pages[page as usize];
        let (older, newer) = (entry.older, entry.newer);
        match older {
            NIL => self.oldest = newer,
            older => self.pages[older as usize].newer = newer,
        }
        match newer {
            NIL => self.newest = older,
            newer => self.pages[newer as usize].older = older,
        }
        self.cached -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(pages: &mut KvPages, hash: PageHash) -> u32 {
        let page = pages.allocate().unwrap();
        pages.publish(page, hash);
        page
    }

    #[test]
    fn a_hash_identifies_the_whole_prefix() {
        let first = PageHash::of(None, &[1, 2]);
        assert_eq!(first, PageHash::of(None, &[1, 2]));
        assert_ne!(first, PageHash::of(None, &[2, 1]));
        assert_ne!(PageHash::of(Some(&first), &[3, 4]), PageHash::of(None, &[3, 4]));
    }

    #[test]
    fn a_released_page_is_cached_until_it_is_allocated() {
        let mut pages = KvPages::new(2);
        let hash = PageHash::of(None, &[7]);
        let page = filled(&mut pages, hash);
        pages.release(page);
        assert_eq!(pages.counts(), KvPageCounts { free: 1, cached: 1, held: 0 });
        assert_eq!(pages.acquire(&hash), Some(page));
        pages.release(page);
        assert_eq!(
            (pages.allocate(), pages.allocate()),
            (Some(1), Some(page)),
            "free pages before cached ones"
        );
        assert_eq!(pages.acquire(&hash), None);
        assert_eq!(pages.allocate(), None);
        pages.audit([0, 1].into_iter());
    }

    #[test]
    fn the_least_recently_used_page_is_evicted_first() {
        let mut pages = KvPages::new(3);
        let hashes = [1, 2, 3].map(|token| PageHash::of(None, &[token]));
        let held = hashes.map(|hash| filled(&mut pages, hash));
        for at in [1, 0, 2] {
            pages.release(held[at]);
        }
        // A hit makes it the newest again.
        pages.acquire(&hashes[1]).unwrap();
        pages.release(held[1]);
        pages.audit([].into_iter());
        let taken = [(); 3].map(|()| pages.allocate().unwrap());
        assert_eq!(taken, [held[0], held[2], held[1]]);
    }

    #[test]
    fn a_shared_page_may_not_be_written() {
        let mut pages = KvPages::new(2);
        let hash = PageHash::of(None, &[7]);
        let page = pages.allocate().unwrap();
        assert!(pages.is_writable(page));
        pages.publish(page, hash);
        assert!(!pages.is_writable(page), "others may acquire it at any time");
        assert_eq!(pages.acquire(&hash), Some(page));
        pages.audit([page, page].into_iter());
    }

    #[test]
    fn a_second_page_with_the_same_hash_is_not_cached() {
        let mut pages = KvPages::new(2);
        let hash = PageHash::of(None, &[7]);
        let (first, second) = (filled(&mut pages, hash), filled(&mut pages, hash));
        pages.release(second);
        pages.release(first);
        assert_eq!(pages.counts(), KvPageCounts { free: 1, cached: 1, held: 0 });
        assert_eq!(pages.acquire(&hash), Some(first));
    }
}
