//! Numbers of stored statistics, written and read one by one.

use crate::statistics::error::StatisticsError;

/// Bytes that are written.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

/// Bytes that are read from the front.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

// === impl Writer ===

impl Writer {
    pub(super) fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        self.0.extend_from_slice(&bytes);
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

// === impl Reader ===

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next `N` bytes, of the field that they belong to.
    pub(super) fn take<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], StatisticsError> {
        let rest = &self.bytes[self.at..];
        let Some(taken) = rest.first_chunk::<N>() else {
            let (at, left) = (self.at, rest.len());
            return Err(StatisticsError::Truncated { field, at, needed: N, left });
        };
        self.at += N;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, StatisticsError> {
        Ok(self.take::<1>(field)?[0])
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, StatisticsError> {
        self.take(field).map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, StatisticsError> {
        self.take(field).map(u32::from_le_bytes)
    }

    pub(super) fn i32(&mut self, field: &'static str) -> Result<i32, StatisticsError> {
        self.take(field).map(i32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, StatisticsError> {
        self.take(field).map(u64::from_le_bytes)
    }

    pub(super) fn i64(&mut self, field: &'static str) -> Result<i64, StatisticsError> {
        self.take(field).map(i64::from_le_bytes)
    }

    pub(super) fn f32(&mut self, field: &'static str) -> Result<f32, StatisticsError> {
        self.take(field).map(f32::from_le_bytes)
    }

    pub(super) fn f64(&mut self, field: &'static str) -> Result<f64, StatisticsError> {
        self.take(field).map(f64::from_le_bytes)
    }

    /// Fails if bytes are left.
    pub(super) fn finish(self) -> Result<(), StatisticsError> {
        let left = self.bytes.len() - self.at;
        if left > 0 {
            return Err(StatisticsError::Trailing { at: self.at, left });
        }
        Ok(())
    }
}
