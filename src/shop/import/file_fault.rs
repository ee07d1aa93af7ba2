//! Why a file can't be read on.

use super::ImportError;
use std::io;
use std::path::Path;

/// Why a file can't be read, or not to its end.
#[derive(Debug)]
pub(super) enum FileFault {
    /// The system or a decoder failed. It doesn't know where in the table.
    Io(io::Error),
    /// A sentence that says what is wrong, where, and how to go on.
    Stated(String),
}

// === impl FileFault ===

impl FileFault {
    pub(super) fn stated<T>(why: impl Into<String>) -> Result<T, Self> {
        Err(Self::Stated(why.into()))
    }

    /// The import's error: the fault in the file at `path`, after `line` lines were read of it.
    pub(super) fn at(self, path: &Path, line: u64) -> ImportError {
        let path = path.to_owned();
        match self {
            Self::Stated(why) => ImportError::Kind { path, why },
            Self::Io(source) if line == 0 => ImportError::Read { path, source },
            Self::Io(source) => {
                let after = format!("after line {line}: {source}");
                ImportError::Read { path, source: io::Error::new(source.kind(), after) }
            }
        }
    }
}

impl From<io::Error> for FileFault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
