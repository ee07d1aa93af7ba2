//! A fixed thread pool, and slices that its threads write in parallel.
//!
//! A forward pass is hundreds of short rounds of tasks. A general pool parks a thread between two
//! rounds, and waking it takes longer than many a round. Here an idle thread spins for a moment
//! before it parks.
#![allow(
    unsafe_code,
    reason = "tasks live on their caller's stack, and write parts of one table in parallel"
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

/// How long an idle thread spins before it parks: longer than the serial sections of a forward pass.
const SPIN_TIME: Duration = Duration::from_micros(200);
/// Spins between two reads of the clock, and between two yields to other threads.
const SPINS: usize = 256;
/// The bit of [`PoolState::gate`] that is set while a round may be entered.
const OPEN: usize = 1;
/// Added to [`PoolState::gate`] by each thread inside a round.
const INSIDE: usize = 2;

/// The threads of one model: its workers and the calling thread.
#[derive(Debug)]
pub struct ThreadPool {
    common: Arc<PoolState>,
    workers: Vec<JoinHandle<()>>,
    /// Held during a round. A caller that finds it held runs its tasks alone, without the workers.
    turn: Mutex<()>,
}

/// The state that a pool's threads share.
#[derive(Debug)]
struct PoolState {
    /// Rounds so far. Idle threads wait for it to change.
    rounds: AtomicUsize,
    /// [`OPEN`] or not, and the number of threads inside. A thread reads the round's task only if it entered while
    /// the gate was open. The caller writes it only while the gate is shut and no thread is inside.
    gate: AtomicUsize,
    round: UnsafeCell<Round>,
    /// The next task of the round.
    next: AtomicUsize,
    /// Workers that are parked, or about to be.
    asleep: Vec<AtomicBool>,
    /// The first panic of a task.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Set when the pool is dropped: the workers return.
    ends: AtomicBool,
}

/// The tasks of a round.
#[derive(Debug)]
struct Round {
    task: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

// SAFETY: a thread reads the round only after it entered through the open gate. The caller writes it only while the
// gate is shut and no thread is inside. Several threads may call its task at a time.
unsafe impl Sync for PoolState {}
// SAFETY: as above; the task is called only while the caller, which owns it, waits.
unsafe impl Send for PoolState {}

/// A mutable slice of which each task writes a part of its own.
#[derive(Debug)]
pub struct DisjointMut<'a, T> {
    at: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a mutable borrow in parts; the caller of `DisjointMut::slice` promises that no two threads take
// overlapping parts.
unsafe impl<T: Send> Sync for DisjointMut<'_, T> {}

// === impl ThreadPool ===

impl ThreadPool {
    /// Starts `threads - 1` workers: the calling thread is the last.
    pub fn new(threads: NonZeroUsize) -> Self {
        let nothing: &'static (dyn Fn(usize) + Sync) = &|_| ();
        let common = Arc::new(PoolState {
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

    /// Threads, the calling one included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `tasks` tasks, each once, in any order. A call during another one, nested or
    /// concurrent, runs its tasks on the calling thread.
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
        let PoolState { rounds, gate, round, next, asleep, .. } = &*self.common;
        // SAFETY: extends the lifetime, but the gate is shut and no thread is inside when this returns, and no task
        // unwinds past `take`.
        let task = unsafe {
            std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(task)
        };
        // SAFETY: the gate is shut, no thread is inside since the last round, and the caller holds the turn.
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
        let mut spins = 0;
        while gate.load(Ordering::Acquire) != 0 {
            spin(&mut spins);
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.common.ends.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker does not panic: panics of tasks are caught.
            drop(worker.join());
        }
    }
}

// === impl PoolState ===

impl PoolState {
    /// A worker's loop, until the pool is dropped.
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

    /// Waits for the round after round `seen`: spins first, then parks.
    fn wait(&self, index: usize, seen: usize) -> Option<usize> {
        let (mut spins, begun) = (0, Instant::now());
        loop {
            let rounds = self.rounds.load(Ordering::SeqCst);
            if self.ends.load(Ordering::SeqCst) {
                return None;
            }
            if rounds != seen {
                return Some(rounds);
            }
            spin(&mut spins);
            if spins == 0 && begun.elapsed() > SPIN_TIME {
                self.sleep(index, seen);
            }
        }
    }

    fn sleep(&self, index: usize, seen: usize) {
        self.asleep[index].store(true, Ordering::SeqCst);
        // The caller counts a round first and spins for parked workers afterwards, so one of the two sees the
        // other's write.
        while self.rounds.load(Ordering::SeqCst) == seen && !self.ends.load(Ordering::SeqCst) {
            thread::park();
        }
        self.asleep[index].store(false, Ordering::SeqCst);
    }

    /// Runs tasks until none is left. The calling thread must have entered through the open gate.
    fn take(&self) {
        // SAFETY: no thread writes the round while another is inside.
        let Round { task, tasks } = unsafe { &*self.round.get() };
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= *tasks {
                return;
            }
            // SAFETY: the caller of `each`, which owns the task, waits until this thread has left.
            let task = AssertUnwindSafe(|| unsafe { (**task)(index) });
            if let Err(panic) = catch_unwind(task)
                && let Ok(mut first) = self.panic.lock()
            {
                first.get_or_insert(panic);
            }
        }
    }
}

/// Spins once, and yields after many spins: there may be fewer cores than threads.
fn spin(spins: &mut usize) {
    spin_loop();
    *spins += 1;
    if *spins == SPINS {
        *spins = 0;
        thread::yield_now();
    }
}

// === impl DisjointMut ===

impl<'a, T> DisjointMut<'a, T> {
    /// Borrows a table for parallel writes.
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
        // SAFETY: inside the table, which `self` borrows; not aliased, as the caller promises.
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
    fn parked_workers_wake_for_the_next_round() {
        let pool = pool(3);
        let done = AtomicUsize::new(0);
        for _ in 0..3 {
            thread::sleep(4 * SPIN_TIME);
            pool.each(64, |_| add(&done));
        }
        assert_eq!(done.into_inner(), 3 * 64);
    }

    #[test]
    fn tasks_may_nest_and_callers_may_be_concurrent() {
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
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
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
