//! The chat completions of an OpenAI-compatible endpoint: one request, one text.

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

/// Below the address where the interface begins.
const PATH: &str = "chat/completions";
/// How long a connection may take to stand.
const CONNECT: Duration = Duration::from_secs(10);
/// The pause before a call is made again: it doubles, up to the second.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long an endpoint may ask for patience.
const PATIENCE_MAX: Duration = Duration::from_mins(5);
/// Bytes of a reply that are read.
const REPLY_BYTES_MAX: u64 = 4 << 20;
/// Characters of a refusal that are told.
const REFUSAL_MAX: usize = 300;

/// A way to an endpoint.
pub struct Chat {
    agent: Agent,
    url: String,
    key: Option<String>,
    pauses: ExponentialBuilder,
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// Nobody is there.
    #[error("the endpoint {url} can't be reached")]
    Unreachable {
        /// The address.
        url: String,
        /// Why.
        source: ureq::Error,
    },
    /// It will never answer like this: the address, the model or the key is wrong.
    #[error("the endpoint {url} refuses with {status}: {said}")]
    Refused {
        /// The address.
        url: String,
        /// Its word for it.
        status: StatusCode,
        /// What it said.
        said: String,
    },
    /// It has too much to do, or is broken for the moment.
    #[error("it is busy: {status}, {said}")]
    Busy {
        /// Its word for it.
        status: StatusCode,
        /// What it said.
        said: String,
        /// How long it asks to be left alone.
        patience: Duration,
    },
    /// Nothing that could be read came back in time.
    #[error("the call failed: {0}")]
    Failed(String),
}

// === impl Chat ===

impl Chat {
    /// Prepares for calls. The key is read from the environment, and told to the endpoint alone.
    pub fn open(recipe: &EndpointRecipe) -> anyhow::Result<Self> {
        let key = recipe.key_env.as_ref().map(|name| {
            std::env::var(name).with_context(|| format!("the key in the environment's {name}"))
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
            pauses: ExponentialBuilder::new()
                .with_jitter()
                .with_min_delay(PAUSE)
                .with_max_delay(PAUSE_MAX)
                .with_max_times(recipe.retries),
        })
    }

    /// The text of the reply to a request; empty if there is none in it. Where the endpoint is busy or
    /// away, the call is made again, each time after a longer pause, and not before it wants to be asked.
    pub fn ask(&self, request: &Value) -> Result<String, ChatError> {
        let body = request.to_string();
        let patience = Rc::new(Cell::new(Duration::ZERO));
        let asked = patience.clone();
        let call = || self.call(&body);
        call.retry(self.pauses)
            .when(ChatError::is_passing)
            .notify(|error, _| patience.set(error.patience()))
            .sleep(move |pause: Duration| std::thread::sleep(pause.max(asked.get())))
            .call()
    }

    fn call(&self, body: &str) -> Result<String, ChatError> {
        let mut request = self.agent.post(&self.url).header("content-type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let mut response = request.send(body).map_err(|error| self.unsent(error))?;
        let reply = response.body_mut().with_config().limit(REPLY_BYTES_MAX).lossy_utf8(true);
        let reply = reply.read_to_string().map_err(|error| ChatError::Failed(error.to_string()))?;
        self.judge(response.status(), response.headers(), &reply)?;
        let reply: Value = serde_json::from_str(&reply)
            .map_err(|error| ChatError::Failed(format!("the reply is no JSON: {error}")))?;
        Ok(reply["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned())
    }

    /// Whether there will be a text.
    fn judge(&self, status: StatusCode, headers: &HeaderMap, reply: &str) -> Result<(), ChatError> {
        let said = || -> String { reply.chars().take(REFUSAL_MAX).collect() };
        let busy = || ChatError::Busy { status, said: said(), patience: patience(headers) };
        match status {
            status if status.is_success() => Ok(()),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Err(busy()),
            status if status.is_server_error() => Err(busy()),
            // A prompt that this model can't take says nothing of the next.
            StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNPROCESSABLE_ENTITY => {
                Err(ChatError::Failed(format!("{status}, {}", said())))
            }
            status => Err(ChatError::Refused { url: self.url.clone(), status, said: said() }),
        }
    }

    /// Tells an endpoint that is not there from one that did not answer this time.
    fn unsent(&self, error: ureq::Error) -> ChatError {
        let is_there = match &error {
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
        if is_there {
            return ChatError::Failed(error.to_string());
        }
        ChatError::Unreachable { url: self.url.clone(), source: error }
    }
}

/// How long a reply asks for patience: the seconds of its `Retry-After`, up to a bound. A date, which no
/// endpoint that serves models is known to send, asks for none.
fn patience(headers: &HeaderMap) -> Duration {
    let seconds =
        headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    seconds.map_or(Duration::ZERO, |seconds| Duration::from_secs(seconds).min(PATIENCE_MAX))
}

impl std::fmt::Debug for Chat {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chat").field("url", &self.url).finish_non_exhaustive()
    }
}

// === impl ChatError ===

impl ChatError {
    /// Whether the same call may do better after a while.
    fn is_passing(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Unreachable { .. })
    }

    /// How long the endpoint asked to be left alone.
    fn patience(&self) -> Duration {
        match self {
            Self::Busy { patience, .. } => *patience,
            _ => Duration::ZERO,
        }
    }

    /// Whether it concerns more than this call.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Unreachable { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ureq::http::HeaderValue;

    #[test]
    fn an_endpoint_is_left_alone_for_as_long_as_it_asks_within_bounds() {
        let asked = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
            patience(&headers)
        };
        assert_eq!(asked(" 7 "), Duration::from_secs(7));
        assert_eq!(asked("86400"), PATIENCE_MAX);
        for nothing in ["-1", "soon", "Wed, 21 Oct 2026 07:28:00 GMT"] {
            assert_eq!(asked(nothing), Duration::ZERO);
        }
        assert_eq!(patience(&HeaderMap::new()), Duration::ZERO);
    }
}
