//! A client of the chat completions of an OpenAI-compatible endpoint: one request, one text.

use super::recipe::EndpointRecipe;
use anyhow::Context as _;
use backon::{BlockingRetryable as _, ExponentialBuilder};
use serde_json::Value;
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;
use ureq::http::{HeaderMap, StatusCode, header::RETRY_AFTER};
use ureq::{Agent, Timeout};

/// The path below the base URL.
const PATH: &str = "chat/completions";
/// The time limit of opening a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// The backoff before a retry: it doubles from the first to the second.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// The longest `Retry-After` that is respected.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(5);
/// Bytes of a reply that are read.
const REPLY_BYTES_MAX: u64 = 4 << 20;
/// Characters of an error reply that an error quotes.
const QUOTED_MAX: usize = 300;

/// A client of one endpoint.
pub struct ChatClient {
    agent: Agent,
    url: String,
    key: Option<String>,
    backoff: ExponentialBuilder,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// No connection.
    #[error("the endpoint {url} can't be reached")]
    Unreachable {
        /// The address.
        url: String,
        /// The cause.
        source: ureq::Error,
    },
    /// The address, the model or the key is wrong, so every call would fail.
    #[error("the endpoint {url} refuses with {status}: {body}")]
    Refused {
        /// The address.
        url: String,
        /// The status.
        status: StatusCode,
        /// The beginning of the reply.
        body: String,
    },
    /// Overloaded, or a server error.
    #[error("the endpoint is busy: {status}, {body}")]
    Busy {
        /// The status.
        status: StatusCode,
        /// The beginning of the reply.
        body: String,
        /// The time in its `Retry-After`, or zero.
        retry_after: Duration,
    },
    /// No readable reply in time. The next call may succeed.
    #[error("the call failed: {0}")]
    Failed(String),
}

// === impl ChatClient ===

impl ChatClient {
    /// Opens a client. The API key is read from the environment, and sent to the endpoint only.
    pub fn open(recipe: &EndpointRecipe) -> anyhow::Result<Self> {
        let key = recipe.key_env.as_ref().map(|name| {
            std::env::var(name)
                .with_context(|| format!("reading the key in the environment variable {name}"))
        });
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections_per_host(recipe.concurrency.get())
            .timeout_connect(Some(CONNECT))
            .timeout_global(Some(Duration::from_secs(recipe.timeout_s.get())))
            .build();
        Ok(Self {
            agent: config.new_agent(),
            url: format!("{}/{PATH}", recipe.url.trim_end_matches('/')),
            key: key.transpose()?,
            backoff: ExponentialBuilder::new()
                .with_jitter()
                .with_min_delay(BACKOFF_MIN)
                .with_max_delay(BACKOFF_MAX)
                .with_max_times(recipe.retries),
        })
    }

    /// The text of the reply to a request, or an empty one if the reply has none. Calls to a busy or unreachable endpoint
    /// are retried with exponential backoff, and not before its `Retry-After`.
    pub fn complete(&self, request: &Value) -> Result<String, ChatError> {
        let body = request.to_string();
        let retry_after = Rc::new(Cell::new(Duration::ZERO));
        let wait = retry_after.clone();
        let call = || self.call(&body);
        call.retry(self.backoff)
            .when(ChatError::is_transient)
            .notify(|error, _| retry_after.set(error.retry_after()))
            .sleep(move |pause: Duration| std::thread::sleep(pause.max(wait.get())))
            .call()
    }

    fn call(&self, body: &str) -> Result<String, ChatError> {
        let mut request = self.agent.post(&self.url).header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let mut response = request.send(body).map_err(|error| self.send_error(error))?;
        let reply = response.body_mut().with_config().limit(REPLY_BYTES_MAX).lossy_utf8(true);
        let reply = reply.read_to_string().map_err(|error| ChatError::Failed(error.to_string()))?;
        self.check_status(response.status(), response.headers(), &reply)?;
        let reply: Value = serde_json::from_str(&reply)
            .map_err(|error| ChatError::Failed(format!("the reply is not JSON: {error}")))?;
        Ok(reply["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned())
    }

    /// The error of a reply without a text, by its status.
    fn check_status(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        reply: &str,
    ) -> Result<(), ChatError> {
        let body = || -> String { reply.chars().take(QUOTED_MAX).collect() };
        let busy = || ChatError::Busy { status, body: body(), retry_after: retry_after(headers) };
        match status {
            status if status.is_success() => Ok(()),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Err(busy()),
            status if status.is_server_error() => Err(busy()),
            // The model rejects this prompt, and may accept the next.
            StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNPROCESSABLE_ENTITY => {
                Err(ChatError::Failed(format!("{status}, {}", body())))
            }
            status => Err(ChatError::Refused { url: self.url.clone(), status, body: body() }),
        }
    }

    /// Distinguishes an endpoint that is unreachable from one that failed this once.
    fn send_error(&self, error: ureq::Error) -> ChatError {
        let is_reachable = match &error {
            ureq::Error::Timeout(at) => !matches!(at, Timeout::Resolve | Timeout::Connect),
            ureq::Error::Io(error) => matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::TimedOut
            ),
            ureq::Error::Protocol(_) => true,
            _ => false,
        };
        if is_reachable {
            return ChatError::Failed(error.to_string());
        }
        ChatError::Unreachable { url: self.url.clone(), source: error }
    }
}

/// The seconds of a reply's `Retry-After`, up to a bound. A date counts as none, because no endpoint that serves models is
/// known to send one.
fn retry_after(headers: &HeaderMap) -> Duration {
    let seconds =
        headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    seconds.map_or(Duration::ZERO, |seconds| Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

impl std::fmt::Debug for ChatClient {
    /// Leaves out the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatClient").field("url", &self.url).finish_non_exhaustive()
    }
}

// === impl ChatError ===

impl ChatError {
    /// Whether a retry after a pause may succeed.
    fn is_transient(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Unreachable { .. })
    }

    /// The time that the endpoint wants to pass before the next call.
    fn retry_after(&self) -> Duration {
        match self {
            Self::Busy { retry_after, .. } => *retry_after,
            _ => Duration::ZERO,
        }
    }

    /// Whether every other call would fail too.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Unreachable { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ureq::http::HeaderValue;

    #[test]
    fn a_retry_waits_for_the_seconds_in_retry_after_within_bounds() {
        let parsed = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
            retry_after(&headers)
        };
        assert_eq!(parsed(" 7 "), Duration::from_secs(7));
        assert_eq!(parsed("86400"), RETRY_AFTER_MAX);
        for nothing in ["-1", "soon", "Wed, 21 Oct 2026 07:28:00 GMT"] {
            assert_eq!(parsed(nothing), Duration::ZERO);
        }
        assert_eq!(retry_after(&HeaderMap::new()), Duration::ZERO);
    }
}
