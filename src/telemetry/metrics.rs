//! Every metric of the service, declared once.

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};
use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

/// Upper bounds of buckets of time, in seconds.
const SECONDS: [f64; 13] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
/// Upper bounds of buckets of rows in one batch of the scorer.
const ROWS: [f64; 11] =
    [1.0, 10.0, 25.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0];
/// Upper bounds of buckets of rows in one step of the engine.
const STEP_ROWS: [f64; 13] =
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0, 2_048.0, 4_096.0];
/// States of a page of the engine.
const PAGE_STATES: [&str; 3] = ["free", "cached", "held"];
/// Label sets that one metric may have; what comes after them is not recorded.
const CELLS_MAX: usize = 128;
const METADATA: Metadata<'static> = Metadata::new("raisonne", Level::INFO, None);

/// The instruments of the service. They belong to this value, not to the process, so two servers
/// in one test do not count each other's requests.
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
    /// Rows of the step.
    pub rows: usize,
    /// Those that read prompts.
    pub prefill_tokens: usize,
    /// Those that go on with texts.
    pub decode_tokens: usize,
    /// Tokens that did not need to be read, because others had.
    pub prefix_hit_tokens: usize,
    /// Sequences that lost their pages to more urgent ones.
    pub preempted: usize,
    /// How long it took.
    pub took: Duration,
}

/// How much the engine holds.
#[derive(Clone, Copy, Debug)]
pub struct EngineLoad {
    /// Sequences in work.
    pub running: usize,
    /// Sequences that wait.
    pub waiting: usize,
    /// Pages that are free, cached and held.
    pub pages: [usize; 3],
}

/// One metric: an instrument for each set of label values that was met.
///
/// Label values are words of the program (`&'static str`), never of a request, so the cells are
/// few; finding one is a short walk without a lock.
struct MetricFamily<I, const LABELS: usize> {
    name: &'static str,
    labels: [&'static str; LABELS],
    cells: Box<[Cell<I, LABELS>]>,
}

type Cell<I, const LABELS: usize> = OnceLock<([&'static str; LABELS], I)>;

/// A kind of instrument that a recorder can make.
trait Instrument: Sized {
    fn describe(recorder: &PrometheusRecorder, name: &'static str, help: &'static str);
    fn register(recorder: &PrometheusRecorder, key: &Key) -> Self;
}

// === impl Metrics ===

impl Metrics {
    /// Fresh instruments, all at zero.
    pub fn new() -> Self {
        let rows = Matcher::Full("raisonne_scorer_batch_rows".into());
        let step_rows = Matcher::Full("raisonne_engine_batch_tokens".into());
        let recorder = PrometheusBuilder::new()
            .set_buckets(&SECONDS)
            .and_then(|builder| builder.set_buckets_for_metric(rows, &ROWS))
            .and_then(|builder| builder.set_buckets_for_metric(step_rows, &STEP_ROWS))
            .expect("the lists of buckets are not empty")
            .build_recorder();
        recorder.describe_gauge(
            KeyName::from_const_str("raisonne_bundle_info"),
            None,
            "1 for the bundle in each slot, 0 for those that were in it before.".into(),
        );
        let r = &recorder;
        Self {
            request: MetricFamily::new(
                r,
                "raisonne_request_seconds",
                "Time from a request's head to the end of its answer.",
                ["method", "quality", "code"],
            ),
            rung: MetricFamily::new(
                r,
                "raisonne_rank_rung_seconds",
                "Time that an attempt at a rung took, however it ended.",
                ["rung"],
            ),
            shortfall: MetricFamily::new(
                r,
                "raisonne_rank_shortfall_total",
                "Rungs that fell short, by reason.",
                ["rung", "why"],
            ),
            identity: MetricFamily::new(
                r,
                "raisonne_order_identity_total",
                "Answers above the order given whose order is the one given.",
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
                "Time that the scorer computed for one batch.",
                [],
            ),
            cards: MetricFamily::new(
                r,
                "raisonne_cards_total",
                "Cards asked for, by where they were found.",
                ["source"],
            ),
            swaps: MetricFamily::new(
                r,
                "raisonne_bundle_swaps_total",
                "Swaps of bundles, by what came of them.",
                ["outcome"],
            ),
            engine: EngineInstruments::new(r),
            recorder,
        }
    }

    /// A request was answered, or was given up by its caller, after `took`.
    pub fn request(
        &self,
        method: &'static str,
        quality: &'static str,
        code: &'static str,
        took: Duration,
    ) {
        self.request.at(&self.recorder, [method, quality, code], |h| h.record(took));
    }

    /// A rung was attempted and took this long.
    pub fn rung(&self, rung: &'static str, took: Duration) {
        self.rung.at(&self.recorder, [rung], |h| h.record(took));
    }

    /// A rung fell short.
    pub fn shortfall(&self, rung: &'static str, why: &'static str) {
        self.shortfall.at(&self.recorder, [rung, why], |c| c.increment(1));
    }

    /// A rung answered, and its order is the one given.
    pub fn identity(&self) {
        self.identity.at(&self.recorder, [], |c| c.increment(1));
    }

    /// The scorer computed a batch of `rows` candidates in `took`.
    pub fn scored(&self, rows: usize, took: Duration) {
        self.scorer_rows.at(&self.recorder, [], |h| h.record(rows as f64));
        self.scorer_seconds.at(&self.recorder, [], |h| h.record(took));
    }

    /// `count` cards were found in `source`: memory, store, bundle, inline or missing.
    pub fn cards(&self, source: &'static str, count: u64) {
        self.cards.at(&self.recorder, [source], |c| c.increment(count));
    }

    /// The engine computed a step.
    pub fn engine_step(&self, step: &EngineStep) {
        let (r, engine) = (&self.recorder, &self.engine);
        engine.batch.at(r, [], |h| h.record(step.rows as f64));
        engine.prefill.at(r, [], |c| c.increment(step.prefill_tokens as u64));
        engine.decode.at(r, [], |c| c.increment(step.decode_tokens as u64));
        engine.hits.at(r, [], |c| c.increment(step.prefix_hit_tokens as u64));
        engine.preempted.at(r, [], |c| c.increment(step.preempted as u64));
        engine.step.at(r, [], |h| h.record(step.took));
    }

    /// The engine could not compute a step, or a part of one: failed, full or lost.
    pub fn engine_failed(&self, why: &'static str) {
        self.engine.failed.at(&self.recorder, [why], |c| c.increment(1));
    }

    /// The engine now holds so much.
    pub fn engine_load(&self, load: &EngineLoad) {
        let (r, engine) = (&self.recorder, &self.engine);
        engine.running.at(r, [], |g| g.set(load.running as f64));
        engine.waiting.at(r, [], |g| g.set(load.waiting as f64));
        for (state, pages) in PAGE_STATES.into_iter().zip(load.pages) {
            engine.pages.at(r, [state], |g| g.set(pages as f64));
        }
    }

    /// The bundle in `slot` now has this version, and no longer the one `before`.
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

    /// A swap was carried out, and this came of it: swapped, already, refused or lacking.
    pub fn swap(&self, outcome: &'static str) {
        self.swaps.at(&self.recorder, [outcome], |c| c.increment(1));
    }

    /// Everything in the Prometheus text format.
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
            running: MetricFamily::new(r, "raisonne_engine_running", "Sequences in work.", []),
            waiting: MetricFamily::new(
                r,
                "raisonne_engine_waiting",
                "Sequences that wait for the engine.",
                [],
            ),
            pages: MetricFamily::new(
                r,
                "raisonne_engine_pages",
                "Pages of keys and values, by state.",
                ["state"],
            ),
            batch: MetricFamily::new(
                r,
                "raisonne_engine_batch_tokens",
                "Tokens computed in one step.",
                [],
            ),
            prefill: MetricFamily::new(
                r,
                "raisonne_engine_prefill_tokens_total",
                "Tokens of prompts, trunks and branches computed.",
                [],
            ),
            decode: MetricFamily::new(
                r,
                "raisonne_engine_decode_tokens_total",
                "Tokens of texts that go on computed.",
                [],
            ),
            hits: MetricFamily::new(
                r,
                "raisonne_engine_prefix_hit_tokens_total",
                "Tokens of prompts and trunks found in cached pages.",
                [],
            ),
            preempted: MetricFamily::new(
                r,
                "raisonne_engine_preempted_total",
                "Sequences that lost their pages to more urgent ones.",
                [],
            ),
            step: MetricFamily::new(
                r,
                "raisonne_engine_step_seconds",
                "Time that one step took.",
                [],
            ),
            failed: MetricFamily::new(
                r,
                "raisonne_engine_failed_total",
                "Steps that failed: `full` is tried again in halves, after `lost` there is no engine.",
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
        let cells = (0..CELLS_MAX).map(|_| OnceLock::new()).collect();
        Self { name, labels, cells }
    }

    /// Hands the instrument for these label values to `record`.
    fn at(
        &self,
        recorder: &PrometheusRecorder,
        values: [&'static str; LABELS],
        record: impl FnOnce(&I),
    ) {
        for cell in &self.cells {
            let (met, instrument) = cell.get_or_init(|| (values, self.register(recorder, values)));
            if *met == values {
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
