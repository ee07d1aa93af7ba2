//! The usual cost of a rung, and whether it fits into the time left.
//!
//! A rung's owner serves one request after the other, so the third in a queue takes about three times as
//! long as it would alone. The estimate is therefore the cost of *one* attempt: its duration, divided by
//! the number of attempts in flight when it began. Without the division, a burst would look like a slow
//! rung and close it to all later requests. With it, as many are started as will end in time.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The time in which an estimate loses half its weight, if no attempt is made.
const HALF_LIFE: Duration = Duration::from_secs(5);
/// The weight of a new observation.
const BLEND: f64 = 0.1;

/// A decayed mean of the cost of one attempt, and of its deviation.
///
/// The estimate fades every few seconds without an attempt, so that one slow spell cannot close a rung
/// for ever. A torn read between the three atomics misjudges one request, and the deadline still holds.
#[derive(Debug, Default)]
pub struct RungPace {
    mean_us: AtomicU64,
    deviation_us: AtomicU64,
    /// Microseconds from the first observation to the last one.
    last_us: AtomicU64,
    epoch: std::sync::OnceLock<Instant>,
    /// Attempts in flight.
    in_flight: AtomicUsize,
}

/// An attempt in flight, until it is dropped.
#[derive(Debug)]
pub struct Attempt<'a> {
    pace: &'a RungPace,
    begun: Instant,
    /// Attempts in flight when it began, itself among them.
    in_flight: usize,
}

impl RungPace {
    /// Begins an attempt at `now`, if it is likely to end within `remaining`.
    pub fn begin(&self, remaining: Duration, now: Instant) -> Option<Attempt<'_>> {
        let in_flight = self.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        let attempt = Attempt { pace: self, begun: now, in_flight };
        let likely = self.estimate(now).saturating_mul(in_flight as u32);
        (!remaining.is_zero() && likely <= remaining).then_some(attempt)
    }

    /// The likely cost of one attempt at `now`.
    fn estimate(&self, now: Instant) -> Duration {
        let idle_us = self.elapsed_us(now).saturating_sub(self.last_us.load(Ordering::Relaxed));
        let decay = (-(idle_us as f64) / HALF_LIFE.as_micros() as f64).exp2();
        let [mean, deviation] = [&self.mean_us, &self.deviation_us]
            .map(|us| f64::from_bits(us.load(Ordering::Relaxed)));
        Duration::from_micros(((mean + deviation) * decay) as u64)
    }

    /// Records the cost of one attempt that ended at `now`.
    fn record(&self, cost: Duration, now: Instant) {
        let cost = cost.as_micros() as f64;
        let [mean, deviation] = [&self.mean_us, &self.deviation_us]
            .map(|us| f64::from_bits(us.load(Ordering::Relaxed)));
        let (mean, deviation) = if mean == 0.0 {
            (cost, 0.0)
        } else {
            (mean + BLEND * (cost - mean), deviation + BLEND * ((cost - mean).abs() - deviation))
        };
        self.mean_us.store(mean.to_bits(), Ordering::Relaxed);
        self.deviation_us.store(deviation.to_bits(), Ordering::Relaxed);
        self.last_us.store(self.elapsed_us(now), Ordering::Relaxed);
    }

    fn elapsed_us(&self, now: Instant) -> u64 {
        let epoch = *self.epoch.get_or_init(|| now);
        now.saturating_duration_since(epoch).as_micros() as u64
    }
}

// === impl Attempt ===

impl Attempt<'_> {
    /// It ended at `now`.
    pub fn done(self, now: Instant) {
        self.pace.record(self.cost(now), now);
    }

    /// It was cut off at `now`. It is recorded as twice as long as it ran, since cutting slow rungs
    /// short would make them look quick.
    pub fn cut(self, now: Instant) {
        self.pace.record(self.cost(now) * 2, now);
    }

    fn cost(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.begun) / self.in_flight as u32
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.pace.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// An attempt that takes so long.
    async fn attempt(pace: &RungPace, took: Duration) {
        let attempt = pace.begin(Duration::MAX, Instant::now()).unwrap();
        tokio::time::advance(took).await;
        attempt.done(Instant::now());
    }

    fn fits(pace: &RungPace, remaining: Duration) -> bool {
        pace.begin(remaining, Instant::now()).is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn a_rung_that_cannot_finish_is_not_begun() {
        let pace = RungPace::default();
        assert!(fits(&pace, ms(1)), "nothing is known yet");
        attempt(&pace, ms(40)).await;
        assert!(!fits(&pace, ms(20)));
        assert!(fits(&pace, ms(41)));
        assert!(!fits(&pace, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_spell_is_forgotten() {
        let pace = RungPace::default();
        attempt(&pace, ms(400)).await;
        assert!(!fits(&pace, ms(50)));
        tokio::time::advance(HALF_LIFE * 4).await;
        assert!(fits(&pace, ms(50)));
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_are_let_in_as_will_be_done_in_time() {
        let pace = RungPace::default();
        attempt(&pace, ms(10)).await;
        let let_in: Vec<_> = (0..20).map(|_| pace.begin(ms(55), Instant::now())).collect();
        assert_eq!(let_in.iter().flatten().count(), 5);
        // Each takes its turn; what the last one waited is no sign of a slow rung.
        for attempt in let_in.into_iter().flatten() {
            tokio::time::advance(ms(10)).await;
            attempt.done(Instant::now());
        }
        assert!(fits(&pace, ms(12)));
        let all: Vec<_> = (0..20).filter_map(|_| pace.begin(ms(55), Instant::now())).collect();
        assert!(all.len() >= 4, "{} are let in", all.len());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_cut_off_counts_as_slower_than_it_was_seen_to_be() {
        let pace = RungPace::default();
        let cut = pace.begin(ms(30), Instant::now()).unwrap();
        tokio::time::advance(ms(30)).await;
        cut.cut(Instant::now());
        assert!(!fits(&pace, ms(50)));
        assert!(fits(&pace, ms(60)));
    }
}
