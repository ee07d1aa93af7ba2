//! Would it be wise to send requests here?

use super::pb::rerank_service_server::RerankServiceServer;
use std::fmt;
use tokio::sync::watch;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

/// The services whose health is told: the whole server (the empty name), and the contract's.
const SERVICES: [&str; 2] = ["", <RerankServiceServer<()> as NamedService>::NAME];

/// What state the server is in, for HTTP and gRPC alike.
#[derive(Debug)]
pub struct Readiness {
    state: watch::Sender<ReadinessState>,
    reporter: HealthReporter,
}

/// A state of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadinessState {
    /// No canary has come back yet.
    Starting,
    /// The last canary went through every rung that is there, and none is out of order.
    Ready,
    /// The last canary did not, for this reason: the rungs below still answer.
    Degraded(&'static str),
    /// Shutting down. There is no way back.
    Draining,
}

impl Readiness {
    /// Of a server that starts.
    pub async fn starting() -> Self {
        let readiness = Self {
            state: watch::Sender::new(ReadinessState::Starting),
            reporter: HealthReporter::new(),
        };
        readiness.report(ReadinessState::Starting).await;
        readiness
    }

    /// Takes note of a new state, unless the server is draining.
    pub async fn turn(&self, to: ReadinessState) {
        let turned = self.state.send_if_modified(|state| {
            let turns = *state != to && *state != ReadinessState::Draining;
            if turns {
                *state = to;
            }
            turns
        });
        if turned {
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

    /// Completes once the server has begun to shut down.
    pub async fn drained(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.state.subscribe().wait_for(|state| *state == ReadinessState::Draining).await;
    }

    /// The gRPC health service that tells it.
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
