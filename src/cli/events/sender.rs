//! Sends batches of events to a server, and tries again while it is full or away.

use crate::api::pb::rerank_service_client::RerankServiceClient;
use crate::api::pb::{RecordEventsRequest, RecordEventsResponse, ShopperEvent, WhyUncounted};
use anyhow::{Context as _, anyhow};
use futures_util::StreamExt as _;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause before the first retry. It doubles with each.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// How to send.
#[derive(Clone, Debug)]
pub(super) struct SenderOptions {
    pub url: String,
    pub in_flight: usize,
    /// Events in a second, at most.
    pub rate: Option<f64>,
    pub retries: u32,
    /// Refused events that are listed.
    pub refused_max: usize,
}

/// An event, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct PushedEvent {
    pub file: Arc<Path>,
    pub line: u64,
    pub event: ShopperEvent,
}

/// What became of the events.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct PushReport {
    /// Events that were sent.
    pub sent: u64,
    /// Those that are new.
    pub taken: u64,
    /// Those that were taken before.
    pub known: u64,
    /// Those that were refused.
    pub refused: u64,
    /// Those of items that the bundle does not hold.
    pub unknown_items: u64,
    /// Those before the bundle's end.
    pub before_bundle: u64,
    /// Calls that were tried again.
    pub retries: u64,
    /// How long it took.
    pub seconds: f64,
    /// The first refused ones: file, line and problem.
    pub refusals: Vec<String>,
}

/// A client of one server.
pub(super) struct Sender {
    client: RerankServiceClient<Channel>,
    options: SenderOptions,
}

// === impl Sender ===

impl Sender {
    pub(super) async fn connect(options: SenderOptions) -> anyhow::Result<Self> {
        let channel = Channel::from_shared(options.url.clone())?.connect().await;
        let channel = channel.with_context(|| format!("connecting to {}", options.url))?;
        Ok(Self { client: RerankServiceClient::new(channel), options })
    }

    /// Sends batches until there are no more. Fails if a batch is refused as a whole, or the server stays away.
    pub(super) async fn send(
        self,
        batches: mpsc::Receiver<Vec<PushedEvent>>,
    ) -> anyhow::Result<PushReport> {
        let begun = Instant::now();
        let Self { client, options } = self;
        let (mut due, rate, retries) = (begun, options.rate, options.retries);
        let answers = ReceiverStream::new(batches).map(|batch| {
            let at = due;
            if let Some(rate) = rate {
                due += Duration::from_secs_f64(batch.len() as f64 / rate);
            }
            let client = client.clone();
            async move {
                sleep_until(at).await;
                deliver(client, batch, retries).await
            }
        });
        let mut answers = answers.buffer_unordered(options.in_flight);
        let mut report = PushReport::default();
        while let Some(answer) = answers.next().await {
            let (batch, answer, retries) = answer?;
            report.add(&batch, &answer, retries, options.refused_max);
        }
        report.seconds = begun.elapsed().as_secs_f64();
        Ok(report)
    }
}

/// The answer to one batch, and how often it was tried again.
async fn deliver(
    mut client: RerankServiceClient<Channel>,
    batch: Vec<PushedEvent>,
    retries: u32,
) -> anyhow::Result<(Vec<PushedEvent>, RecordEventsResponse, u32)> {
    let events: Vec<ShopperEvent> = batch.iter().map(|pushed| pushed.event.clone()).collect();
    let (mut tried, mut pause) = (0, RETRY_PAUSE);
    loop {
        let message = RecordEventsRequest {
            events: events.clone(),
            take_valid: true,
            ..RecordEventsRequest::default()
        };
        let mut request = Request::new(message);
        request.set_timeout(CALL_TIMEOUT);
        match client.record_events(request).await {
            Ok(answer) => return Ok((batch, answer.into_inner(), tried)),
            Err(status) if tried < retries && may_pass(&status) => {}
            Err(status) => return Err(failure(&batch, tried, &status)),
        }
        tried += 1;
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_PAUSE_MAX);
    }
}

/// Whether the same call may succeed later. It may be sent again whatever became of it.
fn may_pass(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Unknown
    )
}

fn failure(batch: &[PushedEvent], tried: u32, status: &Status) -> anyhow::Error {
    let place = batch.first().map(|first| format!("{}:{}", first.file.display(), first.line));
    let place = place.unwrap_or_default();
    let (message, code) = (status.message(), status.code());
    anyhow!(
        "the events from {place} on were not taken, after {tried} retries: {message} ({code:?}); push the file again"
    )
}

// === impl PushReport ===

impl PushReport {
    fn add(
        &mut self,
        batch: &[PushedEvent],
        answer: &RecordEventsResponse,
        retries: u32,
        refused_max: usize,
    ) {
        self.sent += batch.len() as u64;
        self.taken += u64::from(answer.taken);
        self.known += u64::from(answer.known);
        self.refused += answer.refused.len() as u64;
        self.retries += u64::from(retries);
        for uncounted in &answer.uncounted {
            match uncounted.why() {
                WhyUncounted::UnknownItem => self.unknown_items += 1,
                WhyUncounted::BeforeBundle => self.before_bundle += 1,
                WhyUncounted::Unspecified => {}
            }
        }
        for refused in &answer.refused {
            let Some(pushed) = batch.get(refused.index as usize) else { continue };
            if self.refusals.len() < refused_max {
                let field = refused.field.rsplit('.').next().unwrap_or_default();
                let place = format!("{}:{}", pushed.file.display(), pushed.line);
                self.refusals.push(format!("{place}: {field} {}", refused.problem));
            }
        }
    }
}

impl std::fmt::Display for PushReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sent, taken, known, refused, unknown_items, before_bundle, .. } = self;
        for refusal in &self.refusals {
            writeln!(f, "{refusal}")?;
        }
        writeln!(
            f,
            "{sent} events sent in {:.2} s, {:.0} in a second: {taken} taken, {known} known before, {refused} refused",
            self.seconds,
            *sent as f64 / self.seconds.max(f64::EPSILON),
        )?;
        if unknown_items + before_bundle > 0 {
            writeln!(
                f,
                "not counted by the bundle that serves: {unknown_items} of items that it does not hold, {before_bundle} from before its end"
            )?;
        }
        if self.retries > 0 {
            writeln!(f, "{} calls were tried again", self.retries)?;
        }
        Ok(())
    }
}
