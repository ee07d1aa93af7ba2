//! A list in chunks that its clones share until one of them writes.

use std::sync::Arc;

/// A list of `T` in chunks of `N`. `Clone` costs one pointer a chunk, and a write copies a chunk that is shared.
#[derive(Debug)]
pub(super) struct Chunked<T, const N: usize> {
    chunks: Vec<Arc<[T; N]>>,
    len: usize,
}

impl<T, const N: usize> Clone for Chunked<T, N> {
    fn clone(&self) -> Self {
        Self { chunks: self.chunks.clone(), len: self.len }
    }
}

impl<T: Clone + Default, const N: usize> Chunked<T, N> {
    /// `len` default values.
    pub(super) fn new(len: usize) -> Self {
        let chunk = || Arc::new(std::array::from_fn(|_| T::default()));
        let chunks = std::iter::repeat_with(chunk).take(len.div_ceil(N)).collect();
        Self { chunks, len }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn get(&self, at: usize) -> Option<&T> {
        if at >= self.len {
            return None;
        }
        Some(&self.chunks[at / N][at % N])
    }

    /// The value to write. Its chunk is copied first if a clone shares it.
    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        if at >= self.len {
            return None;
        }
        Some(&mut Arc::make_mut(&mut self.chunks[at / N])[at % N])
    }

    pub(super) fn push(&mut self, value: T) {
        let at = self.len;
        if at.is_multiple_of(N) {
            self.chunks.push(Arc::new(std::array::from_fn(|_| T::default())));
        }
        self.len += 1;
        *self.get_mut(at).expect("the list was just made longer") = value;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).take(self.len)
    }
}
