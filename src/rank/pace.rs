//! What a rung usually costs, and whether it fits into the time left.
//!
//! A rung's owner serves one after the other, so a request that comes as the third takes about three
//! times what it takes alone. What is remembered is therefore what *one* costs: what an attempt took,
//! divided by how many there were when it began. Without that, a burst would look like a slow rung,
//! and close it to all who come after; with it, as many are let in as will be done in time.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// How long a forgotten spell takes to lose half its weight.
const HALF_LIFE: Duration = Duration::from_secs(5);
/// The weight of a new observation.
const BLEND: f64 = 0.1;

/// A decayed mean of what one attempt costs, and of how far it strayed from that.
///
/// It forgets: an estimate loses half its weight every few seconds without an attempt, so that
/// one slow spell cannot close a rung for ever. Torn reads between the three atomics cost one
/// misjudged request, which the deadline forgives.
#[derive(Debug, Default)]
pub struct RungPace {
    mean_us: AtomicU64,
    stray_us: AtomicU64,
    /// Microseconds from the first observation to the last one.
    last_us: AtomicU64,
    epoch: std::sync::OnceLock<Instant>,
    /// Attempts that are being made.
    company: AtomicUsize,
}

/// An attempt that is being made, until it is dropped.
#[derive(Debug)]
pub struct Attempt<'a> {
    pace: &'a RungPace,
    begun: Instant,
    /// How many there were when it began, itself among them.
    company: usize,
}

impl RungPace {
    /// Begins an attempt at `now`, if it is likely to end within `remaining`.
    pub fn begin(&self, remaining: Duration, now: Instant) -> Option<Attempt<'_>> {
        let company = self.company.fetch_add(1, Ordering::Relaxed) + 1;
        let attempt = Attempt { pace: self, begun: now, company };
        let likely = self.estimate(now).saturating_mul(company as u32);
        (!remaining.is_zero() && likely <= remaining).then_some(attempt)
    }

    /// What one attempt at `now` is likely to cost.
    fn estimate(&self, now: Instant) -> Duration {
        let idle_us = self.elapsed_us(now).saturating_sub(self.last_us.load(Ordering::Relaxed));
        let faded = (-(idle_us as f64) / HALF_LIFE.as_micros() as f64).exp2();
        let [mean, stray] =
            [&self.mean_us, &self.stray_us].map(|us| f64::from_bits(us.load(Ordering::Relaxed)));
        Duration::from_micros(((mean + stray) * faded) as u64)
    }

    /// Takes note of what one attempt, which ended at `now`, has cost.
    fn record(&self, took: Duration, now: Instant) {
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

// === impl Attempt ===

impl Attempt<'_> {
    /// It came to its end at `now`.
    pub fn done(self, now: Instant) {
        self.pace.record(self.cost(now), now);
    }

    /// It was cut off at `now`. It would have taken longer than it was given: recorded as twice that,
    /// else cutting slow rungs short would make them look quick.
    pub fn cut(self, now: Instant) {
        self.pace.record(self.cost(now) * 2, now);
    }

    fn cost(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.begun) / self.company as u32
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.pace.company.fetch_sub(1, Ordering::Relaxed);
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
