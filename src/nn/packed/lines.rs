//! Memory for weights and for keys and values: zeroed, aligned to lines, on huge pages where the
//! system has them, since streaming it page by page would miss the translation buffer all the time.
#![allow(unsafe_code, reason = "a map of bytes is read as lines")]

use crate::nn::simd::Line;
use memmap2::MmapMut;
use std::io;
use std::ops::{Deref, DerefMut};

/// A table of lines.
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
    /// `len` lines of zeros, unless the system has no room for so many. Memory that is never written
    /// is never taken.
    pub fn zeroed(len: usize) -> io::Result<Self> {
        let bytes = len.checked_mul(size_of::<Line>()).and_then(|bytes| bytes.checked_add(HUGE));
        let bytes = bytes.ok_or(io::ErrorKind::OutOfMemory)?;
        let map = MmapMut::map_anon(bytes)?;
        let from = map.as_ptr().align_offset(HUGE);
        // Miri knows no such advice.
        #[cfg(all(target_os = "linux", not(miri)))]
        if let Err(error) = map.advise(memmap2::Advice::HugePage) {
            tracing::debug!(%error, "no huge pages for weights");
        }
        Ok(Self { map, from, len })
    }
}

impl Deref for Lines {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        // SAFETY: the map is longer by a huge page than the lines, which begin at the first whole
        // one; any bytes make a line.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().add(self.from).cast(), self.len) }
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [Line] {
        // SAFETY: as above.
        unsafe {
            std::slice::from_raw_parts_mut(self.map.as_mut_ptr().add(self.from).cast(), self.len)
        }
    }
}
