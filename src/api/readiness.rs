//! Is the server ready for requests?

use super::pb::rerank_service_server::RerankServiceServer;
use std::fmt;
use tokio::sync::watch;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

/// The names under which gRPC reports health: the whole server (empty), and the contract's service.
const SERVICES: [&str; 2] = ["", <RerankServiceServer<()> as NamedService>::NAME];

/// The server's state, for HTTP probes and gRPC health alike.
#[derive(Debug)]
pub struct Readiness {
    state: watch::Sender<ReadinessState>,
    reporter: HealthReporter,
}

/// A state of the server, as probes report it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadinessState {
    /// No canary request has finished yet.
    Starting,
    /// The last canary request reached the top rung, and no rung is broken.
    Ready,
    /// The last canary request did not, for this reason. The rungs below still answer.
    Degraded(&'static str),
    /// The server is shutting down. No other state follows.
    Draining,
}

impl Readiness {
    /// The state of a server that starts.
    pub async fn starting() -> Self {
        let readiness = Self {
            state: watch::Sender::new(ReadinessState::Starting),
            reporter: HealthReporter::new(),
        };
        readiness.report(ReadinessState::Starting).await;
        readiness
    }

    /// Sets the state, unless the server is draining.
    pub async fn set(&self, to: ReadinessState) {
        let changed = self.state.send_if_modified(|state| {
            let changes = *state != to && *state != ReadinessState::Draining;
            if changes {
                *state = to;
            }
            changes
        });
        if changed {
            tracing::info!(state = %to, "readiness");
            self.report(self.state()).await;
        }
    }

    /// The state.
    pub fn state(&self) -> ReadinessState {
        *self.state.borrow()
    }

    /// Whether the server is shutting down.
    pub fn is_draining(&self) -> bool {
        self.state() == ReadinessState::Draining
    }

    /// Completes once the server begins to shut down.
    pub async fn draining(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.state.subscribe().wait_for(|state| *state == ReadinessState::Draining).await;
    }

    /// The gRPC health service that reports it.
    pub(super) fn service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
    }

    async fn report(&self, state: ReadinessState) {
        let status = match state {
            ReadinessState::Ready => ServingStatus::Serving,
            ReadinessState::Starting | ReadinessState::Degraded(_) | ReadinessState::Draining => {
                ServingStatus::NotServing
            }
        };
        for service in SERVICES {
            self.reporter.set_service_status(service, status).await;
        }
    }
}

impl fmt::Display for ReadinessState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("starting"),
            Self::Ready => f.write_str("ready"),
            Self::Degraded(why) => write!(f, "degraded: {why}"),
            Self::Draining => f.write_str("draining"),
        }
    }
}
