//! Golden requests: requests with the scores that they must get on every machine.
//!
//! What is pinned: the scorer's and the Rechead's scores, and the language model's logits. The logits also
//! stand for the rungs that compare and reason, which read the same weights by the same tokenizer. Their
//! orders and thoughts are not pinned: at a near tie, two machines that add in other orders differ.

use super::lines::at_most;
use super::{BundleError, Manifest, Part};
use crate::domain::Timestamp;
use crate::domain::limits::CANDIDATES_MAX;
use serde::{Deserialize, Serialize};
use std::fmt::Display;

/// Golden requests of a bundle, at most.
const REQUESTS_MAX: usize = 256;

/// A request with the scores that it must get on every machine, within a tolerance.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GoldenRequest {
    /// The user, whose card is in the bundle.
    pub user: String,
    /// The time of the request.
    pub now: Timestamp,
    /// The slate, in the order given.
    #[serde(deserialize_with = "at_most::<CANDIDATES_MAX, _, _>")]
    pub items: Vec<String>,
    /// The scorer's logits, in that order.
    #[serde(deserialize_with = "at_most::<CANDIDATES_MAX, _, _>")]
    pub scores: Vec<f32>,
    /// The Rechead's scores, in that order; empty without a Rechead.
    #[serde(default, deserialize_with = "at_most::<CANDIDATES_MAX, _, _>")]
    pub rechead: Vec<f32>,
    /// The language model's logits, in that order; empty without a language model.
    #[serde(default, deserialize_with = "at_most::<CANDIDATES_MAX, _, _>")]
    pub weighed: Vec<f32>,
}

/// The file `golden.json`.
#[derive(Deserialize)]
#[serde(transparent)]
struct GoldenFile(#[serde(deserialize_with = "at_most::<REQUESTS_MAX, _, _>")] Vec<GoldenRequest>);

/// Parses `golden.json`.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<GoldenRequest>, BundleError> {
    let golden: GoldenFile = serde_json::from_slice(bytes)
        .map_err(|error| BundleError::malformed(Part::Golden.file(), &error.to_string()))?;
    Ok(golden.0)
}

/// Checks that each request has a score for each of its items, and that the requests cover the small
/// models of a bundle.
pub(super) fn check(golden: &[GoldenRequest], manifest: &Manifest) -> Result<(), BundleError> {
    if golden.is_empty() {
        let expected = "at least one, or nothing shows that this machine scores as it should";
        return Err(wrong("requests", "an empty list", expected));
    }
    for (number, request) in golden.iter().enumerate() {
        request.check(number)?;
    }
    let has_rechead = manifest.hash_of(Part::Rechead).is_some();
    let with_rechead = golden.iter().filter(|request| !request.rechead.is_empty()).count();
    if has_rechead != (with_rechead > 0) {
        let found = format!("in {with_rechead} requests");
        let expected = if has_rechead {
            "in at least one: the bundle has a Rechead"
        } else {
            "in none: the bundle has no Rechead"
        };
        return Err(wrong("rechead", found, expected));
    }
    Ok(())
}

/// Checks that the requests cover the language model of a bundle that serves with one.
pub fn check_language_model(golden: &[GoldenRequest]) -> Result<(), BundleError> {
    if golden.iter().any(|request| !request.weighed.is_empty()) {
        return Ok(());
    }
    let expected = "in at least one: the bundle serves with its language model";
    Err(wrong("weighed", "in 0 requests", expected))
}

// === impl GoldenRequest ===

impl GoldenRequest {
    fn check(&self, number: usize) -> Result<(), BundleError> {
        let items = self.items.len();
        if items == 0 {
            return Err(wrong(&format!("[{number}].items"), "empty", "at least one item"));
        }
        let optional = [("rechead", &self.rechead), ("weighed", &self.weighed)];
        let optional = optional.into_iter().filter(|(_, scores)| !scores.is_empty());
        for (field, scores) in [("scores", &self.scores)].into_iter().chain(optional) {
            if scores.len() != items {
                let found = format!("a list of {}", scores.len());
                let expected = format!("one for each of {items} items");
                return Err(wrong(&format!("[{number}].{field}"), found, expected));
            }
        }
        Ok(())
    }
}

fn wrong(field: &str, found: impl Display, expected: impl Display) -> BundleError {
    BundleError::field(Part::Golden.file(), field, found, expected)
}
