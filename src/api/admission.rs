//! Which requests are admitted?

use super::call::Call;
use super::error::ApiError;
use super::readiness::Readiness;
use crate::domain::{Criticality, Query, Version};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// One permit in so many is reserved for critical requests.
const CRITICAL_SHARE: usize = 16;
/// Sheddable requests leave one permit in so many free.
const UNSHEDDABLE_SHARE: usize = 4;

/// How many requests are admitted, and how long each may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiLimits {
    /// Requests in flight.
    pub requests_max: usize,
    /// Deadline of a request that states none.
    pub deadline_default: Duration,
    /// Part of the deadline that is reserved for encoding and sending the response.
    pub reply_reserve: Duration,
}

/// Admits requests while there are permits. A call keeps its permit until its response is complete.
#[derive(Debug)]
pub struct AdmissionControl {
    limits: ApiLimits,
    permits: Arc<Semaphore>,
    readiness: Arc<Readiness>,
}

impl AdmissionControl {
    /// With all permits free.
    pub fn new(limits: ApiLimits, readiness: Arc<Readiness>) -> Self {
        let permits = Arc::new(Semaphore::new(limits.requests_max));
        Self { limits, permits, readiness }
    }

    /// The limits in force.
    pub fn limits(&self) -> &ApiLimits {
        &self.limits
    }

    /// The server's state.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// A permit for one more call, before anything of it is read.
    pub fn admit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        if self.readiness.is_draining() {
            return Err(ApiError::draining());
        }
        self.permits.clone().try_acquire_owned().map_err(|_| ApiError::busy())
    }

    /// Refuses a valid query that is for another version of the bundle, too late, or not critical enough.
    pub fn check(&self, call: &Call, query: &Query, serving: &Version) -> Result<(), ApiError> {
        if let Some(other) = query.bundle.as_ref().filter(|version| *version != serving) {
            return Err(ApiError::not_found("bundle", other.as_str()));
        }
        self.check_capacity(call, query.criticality)
    }

    /// Refuses a call without a query that is too late, or not critical enough: it is as critical as ordinary requests.
    pub fn check_default(&self, call: &Call) -> Result<(), ApiError> {
        self.check_capacity(call, Criticality::Default)
    }

    fn check_capacity(&self, call: &Call, criticality: Criticality) -> Result<(), ApiError> {
        if call.response_deadline.passed(Instant::now()) {
            return Err(ApiError::late());
        }
        let reserved = match criticality {
            Criticality::Critical => 0,
            Criticality::Default => self.limits.requests_max / CRITICAL_SHARE,
            Criticality::Sheddable => self.limits.requests_max / UNSHEDDABLE_SHARE,
        };
        if self.permits.available_permits() < reserved { Err(ApiError::busy()) } else { Ok(()) }
    }
}
