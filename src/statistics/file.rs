//! Statistics as bytes.

use super::counts::Statistics;
use super::error::StatisticsError;

impl Statistics {
    /// The statistics as bytes, which [`Self::from_bytes`] reads.
    pub fn to_bytes(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Reads statistics. Fails for bytes that are foreign, cut off or of values that cannot be.
    pub fn from_bytes(_bytes: &[u8]) -> Result<Self, StatisticsError> {
        Err(StatisticsError::Foreign)
    }
}
