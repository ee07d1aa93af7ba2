//! Reads a named pipe, and gives up if nobody writes to it.

use std::io::{self, Read};
use std::thread::sleep;
use std::time::Duration;

/// The longest wait for somebody to open a pipe for writing.
const WRITER_WAIT: Duration = Duration::from_secs(10);
/// The wait between two looks at a pipe.
const PAUSE: Duration = Duration::from_millis(2);

/// A pipe that was opened without blocking. It ends when its last writer closes it.
pub(super) struct FifoReader<F> {
    pipe: F,
    /// Whether a writer was seen. Before, the pipe's end is only the lack of one.
    has_begun: bool,
}

// === impl FifoReader ===

impl<F> FifoReader<F> {
    pub(super) fn new(pipe: F) -> Self {
        Self { pipe, has_begun: false }
    }

    /// A pipe whose first bytes were read already.
    pub(super) fn begun(pipe: F) -> Self {
        Self { pipe, has_begun: true }
    }
}

impl<F: Read> Read for FifoReader<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut waited = Duration::ZERO;
        loop {
            match self.pipe.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.has_begun = true,
                Ok(0) if !self.has_begun && !buffer.is_empty() => {
                    if waited >= WRITER_WAIT {
                        let why = "a pipe that nobody writes to: start its writer first";
                        return Err(io::Error::new(io::ErrorKind::TimedOut, why));
                    }
                    waited += PAUSE;
                }
                other => {
                    self.has_begun = true;
                    return other;
                }
            }
            sleep(PAUSE);
        }
    }
}
