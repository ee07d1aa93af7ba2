//! Every metric of the service, declared once.

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};
use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

/// Upper bounds of the buckets of durations, in seconds.
const SECONDS: [f64; 13] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
/// Upper bounds of the buckets of candidates in a batch of the scorer.
const SCORER_ROWS: [f64; 11] =
    [1.0, 10.0, 25.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0];
/// Upper bounds of the buckets of tokens in a step of the engine.
const STEP_TOKENS: [f64; 13] =
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0, 2_048.0, 4_096.0];
/// States of a KV page.
const PAGE_STATES: [&str; 3] = ["free", "cached", "held"];
/// Label sets of one metric. Observations with further ones are not recorded.
const LABEL_SETS_MAX: usize = 128;
const METADATA: Metadata<'static> = Metadata::new("raisonne", Level::INFO, None);

/// The instruments of one server. They belong to this value, not to the process, so two servers in one test count
/// apart.
pub struct Metrics {
    recorder: PrometheusRecorder,
    request: MetricFamily<Histogram, 3>,
    rung: MetricFamily<Histogram, 1>,
    shortfall: MetricFamily<Counter, 2>,
    identity: MetricFamily<Counter, 0>,
    scorer_rows: MetricFamily<Histogram, 0>,
    scorer_seconds: MetricFamily<Histogram, 0>,
    cards: MetricFamily<Counter, 1>,
    swaps: MetricFamily<Counter, 1>,
    events: MetricFamily<Counter, 1>,
    events_waiting: MetricFamily<Gauge, 0>,
    events_stored: MetricFamily<Histogram, 0>,
    engine: EngineInstruments,
}

struct EngineInstruments {
    running: MetricFamily<Gauge, 0>,
    waiting: MetricFamily<Gauge, 0>,
    pages: MetricFamily<Gauge, 1>,
    batch: MetricFamily<Histogram, 0>,
    prefill: MetricFamily<Counter, 0>,
    decode: MetricFamily<Counter, 0>,
    hits: MetricFamily<Counter, 0>,
    preempted: MetricFamily<Counter, 0>,
    step: MetricFamily<Histogram, 0>,
    failed: MetricFamily<Counter, 1>,
}

/// One step of the engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineStep {
    /// Tokens that were computed.
    pub rows: usize,
    /// Those of prompts, trunks and branches.
    pub prefill_tokens: usize,
    /// Those of decoding sequences.
    pub decode_tokens: usize,
    /// Tokens of prompts that were found in the prefix cache.
    pub prefix_hit_tokens: usize,
    /// Sequences that were preempted.
    pub preempted: usize,
    /// Duration of the step.
    pub took: Duration,
}

/// The load of the engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineLoad {
    /// Running sequences.
    pub running: usize,
    /// Waiting sequences.
    pub waiting: usize,
    /// KV pages that are free, cached and held.
    pub pages: [usize; 3],
}

/// One metric: an instrument for each set of label values that has occurred.
///
/// Label values are constants of the program (`&'static str`), never parts of a request. So there are few sets, and a
/// linear search without a lock finds one.
struct MetricFamily<I, const LABELS: usize> {
    name: &'static str,
    labels: [&'static str; LABELS],
    cells: Box<[Cell<I, LABELS>]>,
}

type Cell<I, const LABELS: usize> = OnceLock<([&'static str; LABELS], I)>;

/// A kind of instrument that a recorder registers.
trait Instrument: Sized {
    fn describe(recorder: &PrometheusRecorder, name: &'static str, help: &'static str);
    fn register(recorder: &PrometheusRecorder, key: &Key) -> Self;
}

// === impl Metrics ===

impl Metrics {
    /// All instruments at zero.
    pub fn new() -> Self {
        let rows = Matcher::Full("raisonne_scorer_batch_rows".into());
        let step_tokens = Matcher::Full("raisonne_engine_batch_tokens".into());
        let recorder = PrometheusBuilder::new()
            .set_buckets(&SECONDS)
            .and_then(|builder| builder.set_buckets_for_metric(rows, &SCORER_ROWS))
            .and_then(|builder| builder.set_buckets_for_metric(step_tokens, &STEP_TOKENS))
            .expect("the lists of buckets are not empty")
            .build_recorder();
        recorder.describe_gauge(
            KeyName::from_const_str("raisonne_bundle_info"),
            None,
            "1 for the version of the bundle that serves in this slot, 0 for earlier ones.".into(),
        );
        let r = &recorder;
        Self {
            request: MetricFamily::new(
                r,
                "raisonne_request_seconds",
                "Duration of a request, from its head to the end of its response.",
                ["method", "quality", "code"],
            ),
            rung: MetricFamily::new(
                r,
                "raisonne_rank_rung_seconds",
                "Duration of an attempt at a rung, whatever its outcome.",
                ["rung"],
            ),
            shortfall: MetricFamily::new(
                r,
                "raisonne_rank_shortfall_total",
                "Rungs that did not improve the ranking, by reason.",
                ["rung", "why"],
            ),
            identity: MetricFamily::new(
                r,
                "raisonne_order_identity_total",
                "Answers of a rung that left the order as it was given.",
                [],
            ),
            scorer_rows: MetricFamily::new(
                r,
                "raisonne_scorer_batch_rows",
                "Candidates scored in one batch.",
                [],
            ),
            scorer_seconds: MetricFamily::new(
                r,
                "raisonne_scorer_seconds",
                "Duration of the scorer's computation for one batch.",
                [],
            ),
            cards: MetricFamily::new(
                r,
                "raisonne_cards_total",
                "Cards that were looked up, by where they were found.",
                ["source"],
            ),
            swaps: MetricFamily::new(
                r,
                "raisonne_bundle_swaps_total",
                "Swaps of the bundle, by outcome.",
                ["outcome"],
            ),
            events: MetricFamily::new(
                r,
                "raisonne_events_total",
                "Events of shoppers that were reported, by outcome. Those uncounted are also taken.",
                ["outcome"],
            ),
            events_waiting: MetricFamily::new(
                r,
                "raisonne_events_waiting",
                "Calls with events that wait to be stored.",
                [],
            ),
            events_stored: MetricFamily::new(
                r,
                "raisonne_events_stored_seconds",
                "Duration of storing the events of one turn durably.",
                [],
            ),
            engine: EngineInstruments::new(r),
            recorder,
        }
    }

    /// Records a request that was answered, or that its caller gave up, after `took`.
    pub fn request(
        &self,
        method: &'static str,
        quality: &'static str,
        code: &'static str,
        took: Duration,
    ) {
        self.request.at(&self.recorder, [method, quality, code], |h| h.record(took));
    }

    /// Records an attempt at a rung.
    pub fn rung(&self, rung: &'static str, took: Duration) {
        self.rung.at(&self.recorder, [rung], |h| h.record(took));
    }

    /// Counts a rung that fell short.
    pub fn shortfall(&self, rung: &'static str, why: &'static str) {
        self.shortfall.at(&self.recorder, [rung, why], |c| c.increment(1));
    }

    /// Counts an answer in the order given.
    pub fn identity(&self) {
        self.identity.at(&self.recorder, [], |c| c.increment(1));
    }

    /// Records a batch of `rows` candidates that the scorer computed in `took`.
    pub fn scored(&self, rows: usize, took: Duration) {
        self.scorer_rows.at(&self.recorder, [], |h| h.record(rows as f64));
        self.scorer_seconds.at(&self.recorder, [], |h| h.record(took));
    }

    /// Counts cards by their `source`: memory, store, bundle, inline or missing.
    pub fn cards(&self, source: &'static str, count: u64) {
        self.cards.at(&self.recorder, [source], |c| c.increment(count));
    }

    /// Counts events by their `outcome`: taken, known, refused, uncounted or failed.
    pub fn events(&self, outcome: &'static str, count: u64) {
        if count > 0 {
            self.events.at(&self.recorder, [outcome], |c| c.increment(count));
        }
    }

    /// Sets the number of calls with events that wait.
    pub fn events_waiting(&self, calls: usize) {
        self.events_waiting.at(&self.recorder, [], |g| g.set(calls as f64));
    }

    /// Records that the events of one turn were stored in `took`.
    pub fn events_stored(&self, took: Duration) {
        self.events_stored.at(&self.recorder, [], |h| h.record(took));
    }

    /// Records a step of the engine.
    pub fn engine_step(&self, step: &EngineStep) {
        let (r, engine) = (&self.recorder, &self.engine);
        engine.batch.at(r, [], |h| h.record(step.rows as f64));
        engine.prefill.at(r, [], |c| c.increment(step.prefill_tokens as u64));
        engine.decode.at(r, [], |c| c.increment(step.decode_tokens as u64));
        engine.hits.at(r, [], |c| c.increment(step.prefix_hit_tokens as u64));
        engine.preempted.at(r, [], |c| c.increment(step.preempted as u64));
        engine.step.at(r, [], |h| h.record(step.took));
    }

    /// Counts a step of the engine that failed, by reason: failed, full or lost.
    pub fn engine_failed(&self, why: &'static str) {
        self.engine.failed.at(&self.recorder, [why], |c| c.increment(1));
    }

    /// Sets the load of the engine.
    pub fn engine_load(&self, load: &EngineLoad) {
        let (r, engine) = (&self.recorder, &self.engine);
        engine.running.at(r, [], |g| g.set(load.running as f64));
        engine.waiting.at(r, [], |g| g.set(load.waiting as f64));
        for (state, pages) in PAGE_STATES.into_iter().zip(load.pages) {
            engine.pages.at(r, [state], |g| g.set(pages as f64));
        }
    }

    /// Sets the version of the bundle in `slot`, in place of the one `before`.
    pub fn bundle(&self, slot: &'static str, version: &str, before: Option<&str>) {
        let gauge = |version: &str| {
            let labels = vec![Label::new("slot", slot), Label::new("version", version.to_owned())];
            self.recorder
                .register_gauge(&Key::from_parts("raisonne_bundle_info", labels), &METADATA)
        };
        if let Some(before) = before {
            gauge(before).set(0.0);
        }
        gauge(version).set(1.0);
    }

    /// Counts a swap by its outcome: swapped, already, refused or lacking.
    pub fn swap(&self, outcome: &'static str) {
        self.swaps.at(&self.recorder, [outcome], |c| c.increment(1));
    }

    /// All metrics in the Prometheus text format.
    pub fn render(&self) -> String {
        self.recorder.handle().render()
    }

    /// Moves recorded observations into the buckets. Histograms keep each observation until then, so a server that
    /// nobody scrapes must call this every few seconds.
    pub fn run_upkeep(&self) {
        self.recorder.handle().run_upkeep();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

// === impl EngineInstruments ===

impl EngineInstruments {
    fn new(r: &PrometheusRecorder) -> Self {
        Self {
            running: MetricFamily::new(
                r,
                "raisonne_engine_running",
                "Sequences that are being computed.",
                [],
            ),
            waiting: MetricFamily::new(
                r,
                "raisonne_engine_waiting",
                "Sequences that wait in the engine.",
                [],
            ),
            pages: MetricFamily::new(r, "raisonne_engine_pages", "KV pages, by state.", ["state"]),
            batch: MetricFamily::new(
                r,
                "raisonne_engine_batch_tokens",
                "Tokens computed in one step.",
                [],
            ),
            prefill: MetricFamily::new(
                r,
                "raisonne_engine_prefill_tokens_total",
                "Tokens of prompts, trunks and branches that were computed.",
                [],
            ),
            decode: MetricFamily::new(
                r,
                "raisonne_engine_decode_tokens_total",
                "Tokens of decoding sequences that were computed.",
                [],
            ),
            hits: MetricFamily::new(
                r,
                "raisonne_engine_prefix_hit_tokens_total",
                "Tokens of prompts and trunks that were found in the prefix cache.",
                [],
            ),
            preempted: MetricFamily::new(
                r,
                "raisonne_engine_preempted_total",
                "Sequences that lost their KV pages to sequences of higher priority.",
                [],
            ),
            step: MetricFamily::new(r, "raisonne_engine_step_seconds", "Duration of one step.", []),
            failed: MetricFamily::new(
                r,
                "raisonne_engine_failed_total",
                "Steps that failed: `full` is retried in halves, `lost` ends the engine.",
                ["why"],
            ),
        }
    }
}

// === impl MetricFamily ===

impl<I: Instrument, const LABELS: usize> MetricFamily<I, LABELS> {
    fn new(
        recorder: &PrometheusRecorder,
        name: &'static str,
        help: &'static str,
        labels: [&'static str; LABELS],
    ) -> Self {
        I::describe(recorder, name, help);
        let cells = (0..LABEL_SETS_MAX).map(|_| OnceLock::new()).collect();
        Self { name, labels, cells }
    }

    /// Records to the instrument for these label values.
    fn at(
        &self,
        recorder: &PrometheusRecorder,
        values: [&'static str; LABELS],
        record: impl FnOnce(&I),
    ) {
        for cell in &self.cells {
            let (known, instrument) =
                cell.get_or_init(|| (values, self.register(recorder, values)));
            if *known == values {
                return record(instrument);
            }
        }
    }

    fn register(&self, recorder: &PrometheusRecorder, values: [&'static str; LABELS]) -> I {
        let labels: Vec<_> =
            self.labels.iter().zip(values).map(|(name, value)| Label::new(*name, value)).collect();
        I::register(recorder, &Key::from_parts(self.name, labels))
    }
}

// === impl Instrument ===

macro_rules! instrument {
    ($kind:ty, $describe:ident, $register:ident) => {
        impl Instrument for $kind {
            fn describe(recorder: &PrometheusRecorder, name: &'static str, help: &'static str) {
                recorder.$describe(KeyName::from_const_str(name), None, help.into());
            }

            fn register(recorder: &PrometheusRecorder, key: &Key) -> Self {
                recorder.$register(key, &METADATA)
            }
        }
    };
}

instrument!(Counter, describe_counter, register_counter);
instrument!(Gauge, describe_gauge, register_gauge);
instrument!(Histogram, describe_histogram, register_histogram);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_labels_share_one_instrument() {
        let metrics = Metrics::new();
        metrics.shortfall("scored", "late");
        metrics.shortfall("scored", "busy");
        metrics.shortfall("scored", "late");
        let text = metrics.render();
        assert!(text.contains(r#"raisonne_rank_shortfall_total{rung="scored",why="late"} 2"#));
        assert!(text.contains(r#"raisonne_rank_shortfall_total{rung="scored",why="busy"} 1"#));
    }

    #[test]
    fn two_services_in_one_process_count_apart() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.identity();
        assert!(one.render().contains("raisonne_order_identity_total 1"));
        assert!(!other.render().contains("raisonne_order_identity_total"));
    }

    #[test]
    fn buckets_begin_at_half_a_millisecond() {
        let metrics = Metrics::new();
        metrics.rung("scored", Duration::from_micros(400));
        metrics.scored(100, Duration::from_micros(400));
        let text = metrics.render();
        assert!(
            text.contains(r#"raisonne_rank_rung_seconds_bucket{rung="scored",le="0.0005"} 1"#),
            "{text}"
        );
        assert!(text.contains(r#"raisonne_scorer_batch_rows_bucket{le="100"} 1"#), "{text}");
    }

    #[test]
    fn a_swapped_bundle_leaves_its_slot() {
        let metrics = Metrics::new();
        metrics.bundle("stable", "one", None);
        metrics.bundle("stable", "two", Some("one"));
        let text = metrics.render();
        assert!(text.contains(r#"raisonne_bundle_info{slot="stable",version="one"} 0"#), "{text}");
        assert!(text.contains(r#"raisonne_bundle_info{slot="stable",version="two"} 1"#), "{text}");
    }
}
