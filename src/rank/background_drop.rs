//! How a ladder ends: off the threads that serve, and so that one can wait for it.

use std::fmt;
use std::mem;
use std::ops::Deref;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Something that takes its time to drop: it joins threads, and gives much memory back.
///
/// Whoever is the last to hold it is likely a request, on a thread that others wait for. So what is
/// held leaves on the pool for what blocks, if there is one, and its [`DropSignal`] comes afterwards.
pub(super) struct BackgroundDrop<T: Default + Send + 'static> {
    held: T,
    alive: watch::Sender<()>,
}

/// The end of a ladder: its owners have ended, and their memory is given back.
#[derive(Clone, Debug)]
pub struct DropSignal(watch::Receiver<()>);

// === impl BackgroundDrop ===

impl<T: Default + Send + 'static> BackgroundDrop<T> {
    pub(super) fn new(held: T) -> Self {
        Self { held, alive: watch::Sender::new(()) }
    }

    /// When it will have been dropped.
    pub(super) fn end(&self) -> DropSignal {
        DropSignal(self.alive.subscribe())
    }
}

impl<T: Default + Send + 'static> Deref for BackgroundDrop<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.held
    }
}

impl<T: Default + Send + 'static> Drop for BackgroundDrop<T> {
    fn drop(&mut self) {
        let (held, alive) = (mem::take(&mut self.held), self.alive.clone());
        let leave = move || {
            drop(held);
            drop(alive);
        };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(leave)),
            Err(_) => leave(),
        }
    }
}

impl<T: Default + Send + 'static> fmt::Debug for BackgroundDrop<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackgroundDrop").finish_non_exhaustive()
    }
}

// === impl DropSignal ===

impl DropSignal {
    /// Whether it has come.
    pub fn has_dropped(&self) -> bool {
        self.0.has_changed().is_err()
    }

    /// Completes when it comes.
    pub async fn dropped(&mut self) {
        // Nothing is ever sent: all that can be heard is that the sender is gone.
        while self.0.changed().await.is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use std::time::Duration;
    use tokio::time::Instant;

    /// What takes so long to drop.
    #[derive(Default)]
    struct Slow(Duration);

    impl Drop for Slow {
        fn drop(&mut self) {
            thread::sleep(self.0);
        }
    }

    #[tokio::test]
    async fn the_thread_that_drops_it_does_not_wait_and_the_end_comes_afterwards() {
        let slow = Duration::from_millis(300);
        let ending = BackgroundDrop::new(Slow(slow));
        let mut end = ending.end();
        let begun = Instant::now();
        drop(ending);
        assert!(begun.elapsed() < slow / 2, "{:?}", begun.elapsed());
        assert!(!end.has_dropped());
        end.dropped().await;
        assert!(begun.elapsed() >= slow && end.has_dropped());
    }

    #[test]
    fn without_a_runtime_it_is_dropped_where_it_is() {
        let ending = BackgroundDrop::new(Slow(Duration::from_millis(1)));
        let end = ending.end();
        drop(ending);
        assert!(end.has_dropped());
    }
}
