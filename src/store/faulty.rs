//! A store for tests whose disk can be full, and whose writes can be held.

use super::{BatchStore, MemoryStore, StoreEntry, StoreError, StoreTable};
use bytes::Bytes;
use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};

/// A store in memory that can refuse to write.
#[derive(Debug, Default)]
pub struct FaultyStore {
    inner: MemoryStore,
    fault: AtomicU8,
    /// Each write waits for a message from here, or for the end of its sender.
    gate: Option<Mutex<mpsc::Receiver<()>>>,
}

/// What becomes of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum WriteFault {
    /// It is done.
    None,
    /// The disk is full.
    Full,
    /// It is on the disk, and an error is reported.
    WrittenAndReported,
}

// === impl FaultyStore ===

impl FaultyStore {
    /// A store whose every write waits at this gate.
    pub fn behind(gate: mpsc::Receiver<()>) -> Self {
        Self { gate: Some(Mutex::new(gate)), ..Self::default() }
    }

    /// Sets what becomes of the writes from now on.
    pub fn set(&self, fault: WriteFault) {
        self.fault.store(fault as u8, Ordering::SeqCst);
    }
}

impl BatchStore for FaultyStore {
    fn get_many(
        &self,
        table: StoreTable,
        keys: &[Bytes],
    ) -> Result<Vec<Option<Bytes>>, StoreError> {
        self.inner.get_many(table, keys)
    }

    fn change(
        &self,
        table: StoreTable,
        put: &[StoreEntry],
        remove: &[Bytes],
    ) -> Result<(), StoreError> {
        if let Some(gate) = &self.gate {
            gate.lock().unwrap_or_else(PoisonError::into_inner).recv().ok();
        }
        let fault = self.fault.load(Ordering::SeqCst);
        if fault != WriteFault::Full as u8 {
            self.inner.change(table, put, remove)?;
        }
        if fault == WriteFault::None as u8 {
            return Ok(());
        }
        let source = io::ErrorKind::StorageFull.into();
        Err(StoreError::NotWritable { path: "facts.redb".into(), source })
    }

    fn scan_from(
        &self,
        table: StoreTable,
        from: Bound<&[u8]>,
        limit: usize,
    ) -> Result<Vec<StoreEntry>, StoreError> {
        self.inner.scan_from(table, from, limit)
    }
}
