//! What a rung usually costs, and whether it fits into the time left.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// How long a forgotten spell takes to lose half its weight.
const HALF_LIFE: Duration = Duration::from_secs(5);
/// The weight of a new observation.
const BLEND: f64 = 0.1;

/// A decayed mean of what a rung took, and of how far it strayed from that.
///
/// It forgets: an estimate loses half its weight every few seconds without an attempt, so that
/// one slow spell cannot close a rung for ever. Torn reads between the three atomics cost one
/// misjudged request, which the deadline forgives.
#[derive(Debug, Default)]
pub struct Pace {
    mean_us: AtomicU64,
    stray_us: AtomicU64,
    /// Microseconds from the first observation to the last one.
    last_us: AtomicU64,
    epoch: std::sync::OnceLock<Instant>,
}

impl Pace {
    /// Whether an attempt begun at `now` is likely to end within `remaining`.
    pub fn fits(&self, remaining: Duration, now: Instant) -> bool {
        !remaining.is_zero() && self.estimate(now) <= remaining
    }

    /// What an attempt at `now` is likely to take.
    fn estimate(&self, now: Instant) -> Duration {
        let idle_us = self.elapsed_us(now).saturating_sub(self.last_us.load(Ordering::Relaxed));
        let faded = (-(idle_us as f64) / HALF_LIFE.as_micros() as f64).exp2();
        let [mean, stray] =
            [&self.mean_us, &self.stray_us].map(|us| f64::from_bits(us.load(Ordering::Relaxed)));
        Duration::from_micros(((mean + stray) * faded) as u64)
    }

    /// Takes note of an attempt that ended at `now`.
    pub fn record(&self, took: Duration, now: Instant) {
        let took = took.as_micros() as f64;
        let [mean, stray] =
            [&self.mean_us, &self.stray_us].map(|us| f64::from_bits(us.load(Ordering::Relaxed)));
        let (mean, stray) = if mean == 0.0 {
            (took, 0.0)
        } else {
            (mean + BLEND * (took - mean), stray + BLEND * ((took - mean).abs() - stray))
        };
        self.mean_us.store(mean.to_bits(), Ordering::Relaxed);
        self.stray_us.store(stray.to_bits(), Ordering::Relaxed);
        self.last_us.store(self.elapsed_us(now), Ordering::Relaxed);
    }

    fn elapsed_us(&self, now: Instant) -> u64 {
        let epoch = *self.epoch.get_or_init(|| now);
        now.saturating_duration_since(epoch).as_micros() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[tokio::test(start_paused = true)]
    async fn a_rung_that_cannot_finish_is_not_begun() {
        let pace = Pace::default();
        assert!(pace.fits(ms(1), Instant::now()), "nothing is known yet");
        pace.record(ms(40), Instant::now());
        assert!(!pace.fits(ms(20), Instant::now()));
        assert!(pace.fits(ms(41), Instant::now()));
        assert!(!pace.fits(Duration::ZERO, Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_spell_is_forgotten() {
        let pace = Pace::default();
        pace.record(ms(400), Instant::now());
        assert!(!pace.fits(ms(50), Instant::now()));
        tokio::time::advance(HALF_LIFE * 4).await;
        assert!(pace.fits(ms(50), Instant::now()));
    }
}
