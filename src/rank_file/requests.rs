//! A file of requests, read ahead on a thread of its own.

use crate::domain::limits::BODY_BYTES_MAX;
use crate::train::packed_lines::{PackedLine, PackedLines};
use anyhow::Context as _;
use std::io;
use std::path::Path;
use std::thread;
use tokio::sync::mpsc;

/// The name of stdin.
pub(super) const STDIN: &str = "-";
/// Bytes of the longest line: of the longest body that a call may have.
const LINE_BYTES_MAX: u64 = BODY_BYTES_MAX as u64;

/// A line with a request.
pub(super) struct RequestLine {
    /// Its number, from 1.
    pub number: u64,
    /// Its text, or why it has none.
    pub text: Result<Vec<u8>, String>,
}

/// A file of requests.
pub(super) struct RequestLines {
    pub lines: PackedLines,
    /// The file's name, for errors.
    pub name: String,
    /// Bytes of the file; 0 where they are not known.
    pub bytes: u64,
}

impl RequestLines {
    /// Opens a file, or stdin if its name is `-`.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let is_stdin = path == Path::new(STDIN);
        let name = if is_stdin { "stdin".to_owned() } else { path.display().to_string() };
        let lines = if is_stdin {
            PackedLines::of(io::stdin(), LINE_BYTES_MAX)
        } else {
            PackedLines::open(path, LINE_BYTES_MAX)
        };
        let lines = lines.with_context(|| format!("opening the requests {name}"))?;
        let bytes = if is_stdin { 0 } else { path.metadata().map_or(0, |about| about.len()) };
        Ok(Self { lines, name, bytes })
    }

    /// Reads at most `ahead` lines before they are taken. The thread ends with the file, or when nobody takes lines any
    /// more.
    pub(super) fn read_ahead(
        mut self,
        ahead: usize,
    ) -> anyhow::Result<mpsc::Receiver<anyhow::Result<RequestLine>>> {
        let (sender, receiver) = mpsc::channel(ahead);
        let read = move || {
            while let Some(line) = self.next().transpose() {
                let failed = line.is_err();
                if sender.blocking_send(line).is_err() || failed {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("requests".into());
        thread.spawn(read).context("starting the thread that reads the requests")?;
        Ok(receiver)
    }

    fn next(&mut self) -> anyhow::Result<Option<RequestLine>> {
        let line = self.lines.next_line();
        let line = line
            .with_context(|| format!("reading {} after line {}", self.name, self.lines.number))?;
        Ok(line.map(|PackedLine { number, text }| RequestLine {
            number,
            text: text.ok_or_else(|| self.lines.too_long()),
        }))
    }
}
