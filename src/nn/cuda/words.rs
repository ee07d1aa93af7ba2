//! Tables of 32-bit words that are uploaded at once: lists of several roles, one after the other.

use super::device::{CudaError, Device, DeviceBuffer};
use super::interface::{DevicePtr, Role, UploadedWord};
use std::marker::PhantomData;

/// A table of words on a device.
#[derive(Debug)]
pub(super) struct WordTable {
    words: DeviceBuffer<UploadedWord>,
}

/// Where a list of one role begins in a table.
#[derive(Debug)]
pub(super) struct List<R> {
    first: usize,
    role: PhantomData<R>,
}

// === impl WordTable ===

impl WordTable {
    /// A table for so many words.
    pub fn new(device: &Device, words: usize) -> Result<Self, CudaError> {
        Ok(Self { words: device.zeroed(words)? })
    }

    pub fn upload(&mut self, device: &Device, words: &[u32]) -> Result<(), CudaError> {
        device.write(&mut self.words, 0, words)
    }

    /// The address of a list.
    pub fn at<R: Role>(&self, list: List<R>) -> DevicePtr<R> {
        const { assert!(size_of::<R::Number>() == size_of::<u32>()) };
        DevicePtr::new(self.words.at(list.first).address())
    }
}

// === impl List ===

impl<R> List<R> {
    /// A list that begins at this word.
    pub fn from(first: usize) -> Self {
        Self { first, role: PhantomData }
    }
}

impl<R> Clone for List<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for List<R> {}

impl<R> Default for List<R> {
    fn default() -> Self {
        Self::from(0)
    }
}
