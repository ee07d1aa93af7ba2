//! The query path of the scorer: a second direct network, which reads what a request says in words and adds to the logits
//! of the first. It was trained on what they leave over.

use super::direct::{DirectColumns, DirectError};
use super::features::{FeatureVector, LiveVector, QueryIndex, QueryVector};
use crate::bundle::Catalog;
use crate::nn::Weights;
use crate::nn::direct::{DirectScratch, DirectShape, FusedDirect};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The largest weight of the query path's logit.
const WEIGHT_MAX: f32 = 10.0;

/// The file of the query path's shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryFile {
    /// The weight of its logit, which is added to that of the rest.
    pub weight: f32,
    /// Width of the hidden layer.
    pub hidden: usize,
    /// Networks whose logits are averaged.
    pub members: usize,
    /// The names of the features that it reads, in their order.
    pub inputs: Vec<String>,
}

/// A query path that scores slates.
#[derive(Debug)]
pub struct QueryScorer {
    network: FusedDirect,
    columns: DirectColumns,
    weight: f32,
    /// The words and values of the catalogue's items.
    pub index: Arc<QueryIndex>,
}

/// Why a query path is refused.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// Its weight is out of its range.
    #[error("`query.weight` is {0}, expected 0 to {WEIGHT_MAX}")]
    Weight(f32),
    /// Its inputs or its weights don't fit.
    #[error(transparent)]
    Direct(#[from] DirectError),
}

/// Buffers of one thread.
#[derive(Debug, Default)]
pub(super) struct QueryBuffers {
    network: DirectScratch,
    logits: Vec<f32>,
}

// === impl QueryFile ===

impl QueryFile {
    /// The network's sizes.
    pub fn shape(&self) -> DirectShape {
        DirectShape { inputs: self.inputs.len(), hidden: self.hidden, members: self.members }
    }
}

// === impl QueryScorer ===

impl QueryScorer {
    /// Packs a query path and indexes the catalogue, after a check that names, sizes and weights fit together.
    pub fn new(weights: &Weights, file: &QueryFile, catalog: &Catalog) -> Result<Self, QueryError> {
        let weight = file.weight;
        if !(0.0..=WEIGHT_MAX).contains(&weight) {
            return Err(QueryError::Weight(weight));
        }
        let columns = DirectColumns::of_query_path(&file.inputs)?;
        let network = FusedDirect::new(weights, &file.shape()).map_err(DirectError::from)?;
        Ok(Self { network, columns, weight, index: Arc::new(QueryIndex::of(catalog)) })
    }

    /// Adds the query path's logits. Candidates without live features read those of an item of which nothing is known.
    pub(super) fn add(
        &self,
        (features, live, query): (&[FeatureVector], &[LiveVector], &[QueryVector]),
        scratch: &mut QueryBuffers,
        logits: &mut [f32],
    ) {
        let QueryBuffers { network, logits: added } = scratch;
        let rows = network.rows_mut();
        rows.clear();
        let unknown = LiveVector::default();
        for (row, (features, query)) in features.iter().zip(query).enumerate() {
            let live = live.get(row).unwrap_or(&unknown);
            self.columns.push_query_row(features, live, query, rows);
        }
        self.network.score(network, added).expect("every candidate was given a whole row");
        for (logit, added) in logits.iter_mut().zip(added.iter()) {
            *logit += self.weight * added;
        }
    }
}
