//! Drops a ladder on a thread that serves nobody, and signals when that is done.

use std::fmt;
use std::mem;
use std::ops::Deref;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// A value that takes long to drop: it joins threads and frees much memory.
///
/// Its last owner is likely a request, on a thread that serves others as well. So the value is dropped
/// on the runtime's blocking pool, if there is a runtime, and its [`DropSignal`] fires afterwards.
pub(super) struct BackgroundDrop<T: Default + Send + 'static> {
    value: T,
    alive: watch::Sender<()>,
}

/// Fires when a ladder has been dropped: its threads have ended, and their memory is free.
#[derive(Clone, Debug)]
pub struct DropSignal(watch::Receiver<()>);

// === impl BackgroundDrop ===

impl<T: Default + Send + 'static> BackgroundDrop<T> {
    pub(super) fn new(value: T) -> Self {
        Self { value, alive: watch::Sender::new(()) }
    }

    /// Signals when the value has been dropped.
    pub(super) fn signal(&self) -> DropSignal {
        DropSignal(self.alive.subscribe())
    }
}

impl<T: Default + Send + 'static> Deref for BackgroundDrop<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Default + Send + 'static> Drop for BackgroundDrop<T> {
    fn drop(&mut self) {
        let (value, alive) = (mem::take(&mut self.value), self.alive.clone());
        let drop_both = move || {
            drop(value);
            drop(alive);
        };
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(drop_both)),
            Err(_) => drop_both(),
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
    /// Whether the value has been dropped.
    pub fn has_dropped(&self) -> bool {
        self.0.has_changed().is_err()
    }

    /// Completes when the value has been dropped.
    pub async fn dropped(&mut self) {
        // Nothing is ever sent: the only change is that the last sender is gone.
        while self.0.changed().await.is_ok() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;
    use std::time::Duration;
    use tokio::time::Instant;

    /// A value that takes this long to drop.
    #[derive(Default)]
    struct Slow(Duration);

    impl Drop for Slow {
        fn drop(&mut self) {
            thread::sleep(self.0);
        }
    }

    #[tokio::test]
    async fn the_thread_that_drops_it_does_not_wait_and_the_signal_fires_afterwards() {
        let slow = Duration::from_millis(300);
        let value = BackgroundDrop::new(Slow(slow));
        let mut signal = value.signal();
        let begun = Instant::now();
        drop(value);
        assert!(begun.elapsed() < slow / 2, "{:?}", begun.elapsed());
        assert!(!signal.has_dropped());
        signal.dropped().await;
        assert!(begun.elapsed() >= slow && signal.has_dropped());
    }

    #[test]
    fn without_a_runtime_it_is_dropped_on_the_same_thread() {
        let value = BackgroundDrop::new(Slow(Duration::from_millis(1)));
        let signal = value.signal();
        drop(value);
        assert!(signal.has_dropped());
    }
}
