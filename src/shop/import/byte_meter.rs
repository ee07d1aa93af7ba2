//! Counts the bytes that are read of a file.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

/// The number of bytes that were read of a file.
#[derive(Clone, Debug, Default)]
pub(super) struct ByteMeter(Rc<Cell<u64>>);

/// A file that counts the bytes read from it.
struct CountingReader<R> {
    file: R,
    read: ByteMeter,
}

// === impl ByteMeter ===

impl ByteMeter {
    pub(super) fn get(&self) -> u64 {
        self.0.get()
    }

    /// A file whose bytes are counted here.
    pub(super) fn counting(&self, file: impl Read + 'static) -> Box<dyn Read> {
        Box::new(CountingReader { file, read: self.clone() })
    }
}

impl<R: Read> Read for CountingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read(buffer)?;
        self.read.0.set(self.read.get() + bytes as u64);
        Ok(bytes)
    }
}
