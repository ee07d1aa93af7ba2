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
    /// The longest wait for a writer.
    patience: Duration,
}

// === impl FifoReader ===

impl<F> FifoReader<F> {
    pub(super) fn new(pipe: F) -> Self {
        Self { pipe, has_begun: false, patience: WRITER_WAIT }
    }

    /// A pipe whose first bytes were read already.
    pub(super) fn begun(pipe: F) -> Self {
        Self { has_begun: true, ..Self::new(pipe) }
    }
}

impl<F: Read> Read for FifoReader<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut waited = Duration::ZERO;
        loop {
            match self.pipe.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.has_begun = true,
                Ok(0) if !self.has_begun && !buffer.is_empty() => {
                    if waited >= self.patience {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers as a pipe does: no writer, a slow writer, bytes, the end.
    struct Pipe(Vec<io::Result<&'static [u8]>>);

    impl Read for Pipe {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some(next) = self.0.pop() else { return Ok(0) };
            next.and_then(|mut bytes| bytes.read(buffer))
        }
    }

    fn slow() -> io::Result<&'static [u8]> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    #[test]
    fn a_pipe_begins_with_its_writer_and_ends_with_it() {
        for mut answers in [
            vec![Ok(&b"ab"[..]), slow(), Ok(b"cd")],
            vec![Ok(b""), Ok(b""), slow(), Ok(b"ab"), slow(), Ok(b"cd")],
            vec![Ok(b""), Ok(b"abcd")],
        ] {
            answers.reverse();
            let mut text = String::new();
            FifoReader::new(Pipe(answers)).read_to_string(&mut text).unwrap();
            assert_eq!(text, "abcd");
        }
        let mut text = String::new();
        FifoReader::begun(Pipe(Vec::new())).read_to_string(&mut text).unwrap();
        assert_eq!(text, "");
    }

    #[test]
    fn a_pipe_without_a_writer_is_given_up() {
        let mut pipe = FifoReader { patience: PAUSE * 3, ..FifoReader::new(Pipe(Vec::new())) };
        let error = pipe.read(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
