//! A fixed pool of threads, and memory that they fill side by side.
#![allow(unsafe_code, reason = "rows of one table are written by several threads at a time")]

use rayon::prelude::*;
use std::marker::PhantomData;
use std::num::NonZeroUsize;

/// The threads of one model. The whole forward pass runs inside [`Crew::install`], so that handing
/// out tasks costs no hop to another pool.
#[derive(Debug)]
pub struct Crew(rayon::ThreadPool);

/// A table of which each task writes a part of its own.
#[derive(Debug)]
pub struct Shared<'a, T> {
    at: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a mutable borrow cut in parts; `Shared::slice` makes its caller promise that no
// two threads take the same part.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl Crew {
    /// Starts the threads.
    pub fn new(threads: NonZeroUsize) -> Self {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.get())
            .thread_name(|index| format!("model-{index}"))
            .build();
        Self(pool.expect("the system can start threads while a model is being loaded"))
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.0.current_num_threads()
    }

    /// Runs a whole pass on the crew.
    pub fn install<R: Send>(&self, pass: impl FnOnce() -> R + Send) -> R {
        self.0.install(pass)
    }

    /// Does `tasks` tasks, each once, in any order. To be called inside [`Crew::install`].
    pub fn each(&self, tasks: usize, task: impl Fn(usize) + Sync + Send) {
        if tasks == 1 || self.threads() == 1 {
            (0..tasks).for_each(task);
        } else {
            (0..tasks).into_par_iter().with_max_len(1).for_each(task);
        }
    }
}

impl<'a, T> Shared<'a, T> {
    /// Shares a table.
    pub fn new(table: &'a mut [T]) -> Self {
        Self { at: table.as_mut_ptr(), len: table.len(), owner: PhantomData }
    }

    /// Entries of the table.
    pub fn len(&self) -> usize {
        self.len
    }

    /// `len` entries from `from` on.
    ///
    /// # Safety
    /// While the slice lives, no other slice of this table may hold one of its entries.
    #[expect(clippy::mut_from_ref, reason = "the caller promises that parts do not overlap")]
    pub unsafe fn slice(&self, from: usize, len: usize) -> &mut [T] {
        assert!(from + len <= self.len, "{from} + {len} is past the {} of the table", self.len);
        // SAFETY: inside the table, which is borrowed for as long as we live; not shared, as the
        // caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.at.add(from), len) }
    }
}
