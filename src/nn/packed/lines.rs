//! Memory for weights and the KV cache: zeroed, aligned to cache lines, and on huge pages where the system has them,
//! because streaming it in pages of 4 kB would miss the TLB all the time.
#![allow(unsafe_code, reason = "a map of bytes is read as lines")]

use crate::nn::simd::CacheLine;
use memmap2::MmapMut;
use std::io;
use std::ops::{Deref, DerefMut};

/// A table of cache lines.
#[derive(Debug)]
pub struct Lines {
    map: MmapMut,
    /// Where the first huge page of the map begins.
    from: usize,
    len: usize,
}

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

impl Lines {
    /// `len` lines of zeros; an error if the system has too little memory. Pages that are never written take none.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        let bytes =
            len.checked_mul(size_of::<CacheLine>()).and_then(|bytes| bytes.checked_add(HUGE));
        let bytes = bytes.ok_or(io::ErrorKind::OutOfMemory)?;
        let map = MmapMut::map_anon(bytes)?;
        let from = map.as_ptr().align_offset(HUGE);
        // Miri does not support this advice.
        #[cfg(all(target_os = "linux", not(miri)))]
        if let Err(error) = map.advise(memmap2::Advice::HugePage) {
            tracing::debug!(%error, "no huge pages for weights");
        }
        Ok(Self { map, from, len })
    }
}

impl Deref for Lines {
    type Target = [CacheLine];

    fn deref(&self) -> &[CacheLine] {
        // SAFETY: the map is longer than the lines by a huge page, and they begin at the first whole one; any bytes
        // are a valid line.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(self.from).cast(), self.len) }
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [CacheLine] {
        // SAFETY: as above.
        unsafe {
            std::slice::from_raw_parts_mut(self.map.as_mut_ptr().add(self.from).cast(), self.len)
        }
    }
}
