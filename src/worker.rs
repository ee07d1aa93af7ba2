//! Owner threads: each owns a model and serves a bounded inbox.
//!
//! Other threads post messages without waiting. The owner sleeps while its inbox is empty, then takes the messages that
//! wait there, and handles them in one turn. No timer forms a batch: the next batch collects while a turn runs.

use std::num::NonZeroUsize;
use std::thread::{self, JoinHandle};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::{TryRecvError, TrySendError};

/// The sending side of an owner's inbox. After the last clone is dropped, the owner handles the remaining messages and
/// ends.
#[derive(Debug)]
pub struct Inbox<T>(mpsc::Sender<T>);

/// The handle of an owner thread. Dropping it joins the thread, so drop the inboxes first.
#[derive(Debug)]
pub struct Worker {
    thread: Option<JoinHandle<()>>,
}

/// The bounds of an inbox.
#[derive(Clone, Copy, Debug)]
pub struct InboxLimits {
    /// Messages that may wait.
    pub waiting_max: NonZeroUsize,
    /// Messages that one turn takes, at most.
    pub batch_max: NonZeroUsize,
}

/// The load of an inbox at the start of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InboxLoad {
    /// Messages of this turn.
    pub batch: usize,
    /// Messages that wait for the next turn.
    pub waiting: usize,
}

/// When an owner takes its next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextTurn {
    /// At once, even without messages: the owner has unfinished work.
    AtOnce,
    /// When the next message arrives.
    OnMessage,
    /// Never: the owner ends.
    Never,
}

/// A message that was not posted, returned to its sender.
#[derive(Debug, thiserror::Error)]
pub enum PostError<T> {
    /// The inbox is full.
    #[error("the inbox is full")]
    Full(T),
    /// The owner has ended.
    #[error("the owner thread has ended")]
    Closed(T),
}

/// Starts an owner thread called `name`.
///
/// `build` runs on the thread itself, so the state need not be `Send`. A turn gets the messages in the order in which they
/// were posted, and messages that it leaves in the batch are dropped. `observe` gets the load before each turn. A panic
/// in `build` or `turn` ends the owner: its inbox closes, and its messages are dropped with their reply channels.
pub fn start<T, S>(
    name: &str,
    limits: InboxLimits,
    mut observe: impl FnMut(InboxLoad) + Send + 'static,
    build: impl FnOnce() -> S + Send + 'static,
    mut turn: impl FnMut(&mut S, &mut Vec<T>) + Send + 'static,
) -> (Inbox<T>, Worker)
where
    T: Send + 'static,
{
    let (sender, mut receiver) = mpsc::channel(limits.waiting_max.get());
    let run = move || {
        let mut state = build();
        let mut batch = Vec::new();
        while receiver.blocking_recv_many(&mut batch, limits.batch_max.get()) > 0 {
            observe(InboxLoad { batch: batch.len(), waiting: receiver.len() });
            turn(&mut state, &mut batch);
            batch.clear();
        }
    };
    (Inbox(sender), Worker::spawn(name, run))
}

/// Starts an owner thread that also takes turns without messages, as long as a turn returns [`NextTurn::AtOnce`].
///
/// A turn takes all messages that wait, at most `waiting_max`. The thread ends after a turn that returns
/// [`NextTurn::Never`], once the last inbox is dropped (even with work left), or at once if `build` returns `None`.
/// Otherwise it is like [`start`].
pub fn start_busy<T, S>(
    name: &str,
    waiting_max: NonZeroUsize,
    build: impl FnOnce() -> Option<S> + Send + 'static,
    mut turn: impl FnMut(&mut S, &mut Vec<T>) -> NextTurn + Send + 'static,
) -> (Inbox<T>, Worker)
where
    T: Send + 'static,
{
    let (sender, mut receiver) = mpsc::channel(waiting_max.get());
    let run = move || {
        let Some(mut state) = build() else { return };
        let (mut batch, mut next) = (Vec::new(), NextTurn::OnMessage);
        loop {
            if next == NextTurn::OnMessage
                && receiver.blocking_recv_many(&mut batch, waiting_max.get()) == 0
            {
                return;
            }
            let mut closed = false;
            while batch.len() < waiting_max.get() && !closed {
                match receiver.try_recv() {
                    Ok(message) => batch.push(message),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => closed = true,
                }
            }
            // Messages from before the last inbox was dropped still get their turn.
            if closed && batch.is_empty() {
                return;
            }
            next = turn(&mut state, &mut batch);
            batch.clear();
            if next == NextTurn::Never {
                // Senders must not wait while the state is dropped.
                drop(receiver);
                return;
            }
        }
    };
    (Inbox(sender), Worker::spawn(name, run))
}

// === impl Inbox ===

impl<T> Inbox<T> {
    /// Posts a message without waiting, or returns it.
    pub fn try_post(&self, message: T) -> Result<(), PostError<T>> {
        self.0.try_send(message).map_err(|error| match error {
            TrySendError::Full(message) => PostError::Full(message),
            TrySendError::Closed(message) => PostError::Closed(message),
        })
    }

    /// Whether the owner still receives messages.
    pub fn is_alive(&self) -> bool {
        !self.0.is_closed()
    }

    /// Messages that wait for the next turn.
    pub fn waiting(&self) -> usize {
        self.0.max_capacity() - self.0.capacity()
    }
}

impl<T> Clone for Inbox<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

// === impl Worker ===

impl Worker {
    fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Self {
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(run)
            .expect("the system can start a thread while the service starts");
        Self { thread: Some(thread) }
    }

    /// Whether the thread still runs.
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        // The last handle may be dropped by the owner itself, with a message. A thread that joins itself would wait
        // for ever.
        if thread.thread().id() == thread::current().id() {
            return;
        }
        let name = thread.thread().name().unwrap_or_default().to_owned();
        if thread.join().is_err() {
            tracing::error!(name, "an owner thread panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc as std_mpsc;
    use tokio::sync::oneshot;

    fn limits(waiting_max: usize, batch_max: usize) -> InboxLimits {
        let nonzero = |n| NonZeroUsize::new(n).unwrap();
        InboxLimits { waiting_max: nonzero(waiting_max), batch_max: nonzero(batch_max) }
    }

    type Gate = std_mpsc::Sender<()>;
    type Turns = std_mpsc::Receiver<Vec<u32>>;

    /// An owner that sends each batch to the test, then waits at a gate before its turn ends.
    fn gated(limits: InboxLimits) -> (Inbox<u32>, Worker, Gate, Turns) {
        let (gate, opened) = std_mpsc::channel();
        let (show, turns) = std_mpsc::channel();
        let turn = move |(): &mut (), batch: &mut Vec<u32>| {
            show.send(batch.clone()).ok();
            opened.recv().ok();
        };
        let (inbox, worker) = start("gated", limits, |_| {}, || (), turn);
        (inbox, worker, gate, turns)
    }

    #[test]
    fn waiting_messages_are_taken_in_one_turn_and_in_order() {
        let (inbox, worker, gate, turns) = gated(limits(8, 3));
        inbox.try_post(0).unwrap();
        assert_eq!(turns.recv().unwrap(), [0]);
        (1..=5).for_each(|n| inbox.try_post(n).unwrap());
        assert_eq!(inbox.waiting(), 5);
        (0..3).for_each(|_| gate.send(()).unwrap());
        assert_eq!(turns.recv().unwrap(), [1, 2, 3], "no more than batch_max");
        assert_eq!(turns.recv().unwrap(), [4, 5], "no timer waits for a full batch");
        drop(inbox);
        drop(worker);
    }

    #[test]
    fn a_full_inbox_returns_the_message_at_once() {
        let (inbox, _worker, gate, turns) = gated(limits(2, 8));
        inbox.try_post(0).unwrap();
        turns.recv().unwrap();
        inbox.try_post(1).unwrap();
        inbox.try_post(2).unwrap();
        assert!(matches!(inbox.try_post(3), Err(PostError::Full(3))));
        gate.send(()).unwrap();
        assert_eq!(turns.recv().unwrap(), [1, 2]);
        inbox.try_post(4).unwrap();
        drop((gate, inbox));
    }

    #[test]
    fn dropping_the_last_inbox_ends_the_thread_after_its_last_message() {
        let (done, results) = std_mpsc::channel();
        let turn = move |sum: &mut u32, batch: &mut Vec<u32>| {
            *sum += batch.drain(..).sum::<u32>();
            done.send(*sum).ok();
        };
        let (inbox, worker) = start("sum", limits(8, 1), |_| {}, || 100, turn);
        let second = inbox.clone();
        inbox.try_post(1).unwrap();
        drop(inbox);
        second.try_post(2).unwrap();
        drop(second);
        drop(worker);
        assert_eq!(results.iter().collect::<Vec<_>>(), [101, 103]);
    }

    #[test]
    fn a_panic_closes_the_inbox_and_drops_the_replies() {
        let turn = |(): &mut (), _: &mut Vec<oneshot::Sender<()>>| panic!("on purpose");
        let (inbox, worker) = start("panics", limits(8, 8), |_| {}, || (), turn);
        let (reply, answer) = oneshot::channel();
        inbox.try_post(reply).unwrap();
        assert!(answer.blocking_recv().is_err());
        while worker.is_alive() {
            thread::yield_now();
        }
        assert!(!inbox.is_alive());
        assert!(matches!(inbox.try_post(oneshot::channel().0), Err(PostError::Closed(_))));
    }

    #[test]
    fn a_panic_while_building_closes_the_inbox() {
        let (inbox, worker) =
            start("unbuilt", limits(1, 1), |_| {}, || panic!("on purpose"), |(), _| {});
        while worker.is_alive() {
            thread::yield_now();
        }
        assert!(matches!(inbox.try_post(1), Err(PostError::Closed(1))));
    }

    #[test]
    fn the_load_is_observed_before_each_turn() {
        let (seen, loads) = std_mpsc::channel();
        let (gate, opened) = std_mpsc::channel::<()>();
        let observe = move |load| seen.send(load).unwrap();
        let turn = move |(): &mut (), _: &mut Vec<u32>| {
            opened.recv().ok();
        };
        let (inbox, _worker) = start("observed", limits(8, 2), observe, || (), turn);
        inbox.try_post(0).unwrap();
        assert_eq!(loads.recv().unwrap(), InboxLoad { batch: 1, waiting: 0 });
        (1..=3).for_each(|n| inbox.try_post(n).unwrap());
        gate.send(()).unwrap();
        assert_eq!(loads.recv().unwrap(), InboxLoad { batch: 2, waiting: 1 });
        drop((gate, inbox));
    }

    #[test]
    fn the_owner_itself_may_drop_the_last_handle() {
        let (inbox, worker) =
            start("self", limits(1, 1), |_| {}, || (), |(), _: &mut Vec<Worker>| {});
        let thread = worker.thread.as_ref().unwrap().thread().id();
        assert_ne!(thread, thread::current().id());
        inbox.try_post(worker).unwrap();
        while inbox.waiting() > 0 {
            thread::yield_now();
        }
        assert!(inbox.is_alive());
    }

    #[test]
    fn a_busy_owner_takes_turns_without_messages_while_it_has_work() {
        let (show, turns) = std_mpsc::channel();
        let turn = move |work: &mut u32, batch: &mut Vec<u32>| {
            show.send((*work, batch.clone())).ok();
            *work += batch.drain(..).sum::<u32>();
            *work = work.saturating_sub(1);
            if *work > 0 { NextTurn::AtOnce } else { NextTurn::OnMessage }
        };
        let (inbox, worker) = start_busy("busy", limits(8, 8).waiting_max, || Some(0), turn);
        inbox.try_post(3).unwrap();
        let turns: Vec<_> = (0..3).map(|_| turns.recv().unwrap()).collect();
        assert_eq!(turns, [(0, vec![3]), (2, vec![]), (1, vec![])]);
        drop(inbox);
        drop(worker);
    }

    #[test]
    fn a_busy_owner_ends_with_its_last_inbox() {
        let turn = |(): &mut (), _: &mut Vec<u32>| NextTurn::AtOnce;
        let (inbox, worker) = start_busy("endless", limits(1, 1).waiting_max, || Some(()), turn);
        inbox.try_post(1).unwrap();
        drop(inbox);
        drop(worker);
    }

    #[test]
    fn a_busy_owner_that_ends_itself_drops_waiting_messages() {
        let (gate, opened) = std_mpsc::channel::<()>();
        let turn = move |(): &mut (), _: &mut Vec<oneshot::Sender<()>>| {
            opened.recv().ok();
            NextTurn::Never
        };
        let (inbox, _worker) = start_busy("ends", limits(8, 8).waiting_max, || Some(()), turn);
        inbox.try_post(oneshot::channel().0).unwrap();
        while inbox.waiting() > 0 {
            thread::yield_now();
        }
        let (reply, answer) = oneshot::channel();
        inbox.try_post(reply).unwrap();
        gate.send(()).unwrap();
        assert!(answer.blocking_recv().is_err());
        assert!(!inbox.is_alive());
    }

    #[test]
    fn a_busy_owner_that_was_not_built_receives_nothing() {
        let turn = |(): &mut (), _: &mut Vec<u32>| NextTurn::OnMessage;
        let (inbox, worker) = start_busy("unbuilt", limits(1, 1).waiting_max, || None, turn);
        while worker.is_alive() {
            thread::yield_now();
        }
        assert!(matches!(inbox.try_post(1), Err(PostError::Closed(1))));
    }

    /// Prints the latency of a message to an owner and back: `cargo test --release hop -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    fn hop() {
        const HOPS: usize = 20_000;
        let turn = |(): &mut (), batch: &mut Vec<oneshot::Sender<()>>| {
            batch.drain(..).for_each(|reply| reply.send(()).expect("the task waits"));
        };
        let (inbox, _worker) = start("hop", limits(8, 8), |_| {}, || (), turn);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let task = async move {
            let mut took = Vec::with_capacity(HOPS);
            for _ in 0..HOPS {
                let begun = tokio::time::Instant::now();
                let (reply, answer) = oneshot::channel();
                inbox.try_post(reply).unwrap();
                answer.await.unwrap();
                took.push(begun.elapsed());
            }
            took.sort();
            took
        };
        let took = runtime.block_on(runtime.spawn(task)).unwrap();
        println!("round trip: median {:?}, p99 {:?}", took[HOPS / 2], took[HOPS * 99 / 100]);
    }
}
