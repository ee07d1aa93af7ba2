//! A fixed pool of threads, and memory that they fill side by side.
//!
//! A pass is hundreds of short rounds of tasks, one after the other. A general pool puts a thread to
//! sleep between two of them and wakes it for the next, which takes longer than many a round: a
//! third of a decode was spent so. Here a thread that has nothing to do watches for the next round
//! for a moment before it sleeps.
#![allow(
    unsafe_code,
    reason = "tasks live on their caller's stack, and write parts of one table side by side"
)]

use std::any::Any;
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::time::Instant;

/// How long a thread watches for the next round before it sleeps: longer than what one thread does
/// alone within a pass, shorter than anybody would notice.
const WATCH: Duration = Duration::from_micros(200);
/// Looks between two glances at the clock, or two offers to let others run.
const LOOKS: usize = 256;
/// Set in [`Common::gate`] while a round may be entered.
const OPEN: usize = 1;
/// What a thread in a round adds to [`Common::gate`].
const INSIDE: usize = 2;

/// The threads of one model: those that it started, and whoever calls.
#[derive(Debug)]
pub struct ThreadPool {
    common: Arc<Common>,
    workers: Vec<JoinHandle<()>>,
    /// Held for a round, so that two callers take turns.
    turn: Mutex<()>,
}

/// What a pool's threads share.
#[derive(Debug)]
struct Common {
    /// Rounds so far: what waiting threads watch.
    rounds: AtomicUsize,
    /// [`OPEN`] or not, and how many threads are inside. Nobody reads the round's task unless they
    /// came in while it was open, and nobody writes it unless it is shut and empty.
    gate: AtomicUsize,
    round: UnsafeCell<Round>,
    /// The next task of the round.
    next: AtomicUsize,
    /// Workers that sleep, or are about to.
    asleep: Vec<AtomicBool>,
    /// What a task panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    ends: AtomicBool,
}

/// Tasks to be done.
#[derive(Debug)]
struct Round {
    task: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

// SAFETY: the round is read by those who came in through the open gate, and written while it is
// shut and empty; its task may be called by several threads at a time.
unsafe impl Sync for Common {}
// SAFETY: as above; what it points to is used only while the caller, who owns it, waits.
unsafe impl Send for Common {}

/// A table of which each task writes a part of its own.
#[derive(Debug)]
pub struct DisjointMut<'a, T> {
    at: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a mutable borrow cut in parts; `DisjointMut::slice` makes its caller promise that no
// two threads take the same part.
unsafe impl<T: Send> Sync for DisjointMut<'_, T> {}

// === impl ThreadPool ===

impl ThreadPool {
    /// Starts the threads, one fewer than are to work: whoever calls is one of them.
    pub fn new(threads: NonZeroUsize) -> Self {
        let nothing: &'static (dyn Fn(usize) + Sync) = &|_| ();
        let common = Arc::new(Common {
            rounds: AtomicUsize::new(0),
            gate: AtomicUsize::new(0),
            round: UnsafeCell::new(Round { task: nothing, tasks: 0 }),
            next: AtomicUsize::new(0),
            asleep: (1..threads.get()).map(|_| AtomicBool::new(false)).collect(),
            panic: Mutex::new(None),
            ends: AtomicBool::new(false),
        });
        let workers = (1..threads.get()).map(|index| {
            let common = common.clone();
            let worker = thread::Builder::new().name(format!("model-{index}"));
            let worker = worker.spawn(move || common.work(index - 1));
            worker.expect("the system can start threads while a model is being loaded")
        });
        Self { workers: workers.collect(), common, turn: Mutex::new(()) }
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Does `tasks` tasks, each once, in any order. A task that hands out tasks itself does them alone.
    pub fn each(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        let turn =
            if tasks > 1 && !self.workers.is_empty() { self.turn.try_lock().ok() } else { None };
        let Some(_turn) = turn else { return (0..tasks).for_each(task) };
        self.round(tasks, &task);
        let panic = self.common.panic.lock().ok().and_then(|mut panic| panic.take());
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    fn round(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        let Common { rounds, gate, round, next, asleep, .. } = &*self.common;
        // SAFETY: the lifetime is cut off, but the gate is shut and empty again before this returns,
        // and no task unwinds past `take`.
        let task = unsafe {
            std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(task)
        };
        // SAFETY: the gate is shut, and was empty after the last round; it is our turn.
        unsafe { *round.get() = Round { task, tasks } };
        next.store(0, Ordering::Relaxed);
        gate.fetch_or(OPEN, Ordering::Release);
        rounds.fetch_add(1, Ordering::SeqCst);
        for (worker, asleep) in self.workers.iter().zip(asleep) {
            if asleep.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        self.common.take();
        gate.fetch_and(!OPEN, Ordering::Relaxed);
        let mut looks = 0;
        while gate.load(Ordering::Acquire) != 0 {
            look(&mut looks);
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.common.ends.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker does not panic: its tasks' panics are caught.
            drop(worker.join());
        }
    }
}

// === impl Common ===

impl Common {
    /// What a worker does until the pool is dropped.
    fn work(&self, index: usize) {
        let mut seen = 0;
        while let Some(rounds) = self.wait(index, seen) {
            seen = rounds;
            if self.gate.fetch_add(INSIDE, Ordering::Acquire) & OPEN != 0 {
                self.take();
            }
            self.gate.fetch_sub(INSIDE, Ordering::Release);
        }
    }

    /// Waits for a round after the `seen`th: watching at first, then asleep.
    fn wait(&self, index: usize, seen: usize) -> Option<usize> {
        let (mut looks, begun) = (0, Instant::now());
        loop {
            let rounds = self.rounds.load(Ordering::SeqCst);
            if self.ends.load(Ordering::SeqCst) {
                return None;
            }
            if rounds != seen {
                return Some(rounds);
            }
            look(&mut looks);
            if looks == 0 && begun.elapsed() > WATCH {
                self.sleep(index, seen);
            }
        }
    }

    fn sleep(&self, index: usize, seen: usize) {
        self.asleep[index].store(true, Ordering::SeqCst);
        // Whoever counts a round up looks at who sleeps afterwards, so one of the two sees the other.
        while self.rounds.load(Ordering::SeqCst) == seen && !self.ends.load(Ordering::SeqCst) {
            thread::park();
        }
        self.asleep[index].store(false, Ordering::SeqCst);
    }

    /// Does tasks until there are none left. To be called with the gate open to the caller.
    fn take(&self) {
        // SAFETY: nobody writes it while we are inside.
        let Round { task, tasks } = unsafe { &*self.round.get() };
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= *tasks {
                return;
            }
            // SAFETY: the caller of `each` waits until we are outside.
            let task = AssertUnwindSafe(|| unsafe { (**task)(index) });
            if let Err(panic) = catch_unwind(task)
                && let Ok(mut first) = self.panic.lock()
            {
                first.get_or_insert(panic);
            }
        }
    }
}

/// Counts a look, and lets others run after many: there may be fewer cores than threads.
fn look(looks: &mut usize) {
    spin_loop();
    *looks += 1;
    if *looks == LOOKS {
        *looks = 0;
        thread::yield_now();
    }
}

// === impl DisjointMut ===

impl<'a, T> DisjointMut<'a, T> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(threads: usize) -> ThreadPool {
        ThreadPool::new(NonZeroUsize::new(threads).unwrap())
    }

    fn add(done: &AtomicUsize) {
        done.fetch_add(1, Ordering::Relaxed);
    }

    #[test]
    fn every_task_is_done_once_in_every_round() {
        let rounds = if cfg!(miri) { 20 } else { 5_000 };
        for threads in [1, 2, 5] {
            let pool = pool(threads);
            let mut table = vec![0_usize; 97];
            for round in 1..=rounds {
                let tasks = 1 + round % table.len();
                let shared = DisjointMut::new(&mut table);
                // SAFETY: each task writes an entry of its own.
                pool.each(tasks, |task| unsafe { shared.slice(task, 1)[0] += 1 });
            }
            let expected = |task| (1..=rounds).filter(|round| task <= round % 97).count();
            assert!(table.iter().enumerate().all(|(task, done)| *done == expected(task)));
        }
    }

    #[test]
    fn sleepers_wake_for_the_next_round() {
        let pool = pool(3);
        let done = AtomicUsize::new(0);
        for _ in 0..3 {
            thread::sleep(4 * WATCH);
            pool.each(64, |_| add(&done));
        }
        assert_eq!(done.into_inner(), 3 * 64);
    }

    #[test]
    fn a_task_may_hand_out_tasks_and_several_may_call() {
        let (pool, done) = (pool(3), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    pool.each(8, |_| pool.each(8, |_| add(&done)));
                });
            }
        });
        assert_eq!(done.into_inner(), 2 * 64);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_crew_goes_on() {
        let (pool, done) = (pool(2), AtomicUsize::new(0));
        let round = |bad: usize| {
            let task = |task| {
                assert_ne!(task, bad, "this one fails");
                done.fetch_add(1, Ordering::Relaxed);
            };
            catch_unwind(AssertUnwindSafe(|| pool.each(10, task)))
        };
        let panic = round(3).unwrap_err();
        assert!(panic.downcast_ref::<String>().unwrap().contains("this one fails"));
        round(10).unwrap();
        assert_eq!(done.into_inner(), 9 + 10, "the others are done all the same");
    }
}
