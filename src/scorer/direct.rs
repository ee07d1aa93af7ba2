//! The direct path of the scorer: which features it reads, and how its logits join those of the deep network.

use super::features::{
    DIRECT_INPUTS, FEATURE_COUNT, FeatureVector, LIVE_COUNT, LiveVector, QueryVector,
    VECTOR_FEATURES, VectorFigures, direct_names, query_path_names,
};
use crate::nn::direct::{DirectScratch, DirectShape, FusedDirect};
use crate::nn::{Weights, WeightsError};
use serde::{Deserialize, Serialize};

/// The largest weight of the deep network's logit.
const DEEP_WEIGHT_MAX: f32 = 10.0;

/// The section `direct` of the scorer's file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectFile {
    /// The weight of the deep network's logit: `logit = direct + deep_weight · deep`. At 0 the deep network is kept
    /// for its attention over the reasons alone.
    pub deep_weight: f32,
    /// Width of the hidden layer.
    pub hidden: usize,
    /// Networks whose logits are averaged.
    pub members: usize,
    /// The names of the features that it reads, in their order.
    pub inputs: Vec<String>,
}

/// The name of the Rechead's score among the direct path's inputs. Only a recipe that names it has it read.
pub const RECHEAD_INPUT: &str = "rechead";

/// The features that a direct path reads: places among those that the program knows. The Rechead's score comes after
/// all features.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectColumns(Vec<usize>);

/// Numbers of [`NamedInputs`].
const NAMED_INPUTS: usize = 4;

/// What a direct path reads of a candidate only if its inputs name it.
#[derive(Clone, Copy, Debug, Default)]
pub struct NamedInputs {
    /// Its score by the Rechead.
    pub rechead: f32,
    /// Its cosines with the history's items.
    pub vectors: VectorFigures,
}

/// A direct path that scores slates.
#[derive(Debug)]
pub struct DirectScorer {
    network: FusedDirect,
    columns: DirectColumns,
    deep_weight: f32,
}

/// Why a direct path is refused.
#[derive(Debug, thiserror::Error)]
pub enum DirectError {
    /// It reads no feature.
    #[error("`{of}.inputs` is empty, expected 1 to {DIRECT_INPUTS} names")]
    NoInput {
        /// Whose inputs they are: `direct` or `query`.
        of: &'static str,
    },
    /// It reads a feature that this program doesn't know.
    #[error("`{of}.inputs[{index}]` is `{name}`, which is no feature of this program")]
    UnknownInput {
        /// Whose inputs they are.
        of: &'static str,
        /// Its place in the list.
        index: usize,
        /// Its name.
        name: String,
    },
    /// It reads a feature twice.
    #[error("`{of}.inputs[{index}]` is `{name}` again, which is `{of}.inputs[{first}]`")]
    DoubleInput {
        /// Whose inputs they are.
        of: &'static str,
        /// Its place in the list.
        index: usize,
        /// Its earlier place.
        first: usize,
        /// Its name.
        name: String,
    },
    /// The weight of the deep logit is out of its range.
    #[error("`direct.deep_weight` is {0}, expected 0 to {DEEP_WEIGHT_MAX}")]
    DeepWeight(f32),
    /// The weights don't fit.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

// === impl DirectColumns ===

impl DirectColumns {
    /// Looks these names up among those of the direct path. Refuses a name that is unknown or comes twice.
    pub fn of<T: AsRef<str>>(names: &[T]) -> Result<Self, DirectError> {
        let vectors = || VECTOR_FEATURES.iter().map(|feature| feature.name);
        Self::among("direct", names, || direct_names().chain([RECHEAD_INPUT]).chain(vectors()))
    }

    /// Looks these names up among those of the query path, which reads no Rechead.
    pub fn of_query_path<T: AsRef<str>>(names: &[T]) -> Result<Self, DirectError> {
        Self::among("query", names, query_path_names)
    }

    fn among<T: AsRef<str>, I: Iterator<Item = &'static str>>(
        of: &'static str,
        names: &[T],
        all: impl Fn() -> I,
    ) -> Result<Self, DirectError> {
        let mut columns: Vec<usize> = Vec::with_capacity(names.len());
        for (index, name) in names.iter().map(AsRef::as_ref).enumerate() {
            let owned = || name.to_owned();
            let column = all().position(|known| known == name);
            let column =
                column.ok_or_else(|| DirectError::UnknownInput { of, index, name: owned() })?;
            if let Some(first) = columns.iter().position(|&earlier| earlier == column) {
                return Err(DirectError::DoubleInput { of, index, first, name: owned() });
            }
            columns.push(column);
        }
        if columns.is_empty() { Err(DirectError::NoInput { of }) } else { Ok(Self(columns)) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none: never.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the Rechead's score is one of them.
    pub fn reads_rechead(&self) -> bool {
        self.0.contains(&DIRECT_INPUTS)
    }

    /// Whether cosines with the history's items are among them.
    pub fn reads_vectors(&self) -> bool {
        self.0.iter().any(|&column| column > DIRECT_INPUTS)
    }

    /// Appends a candidate's row.
    pub fn push_row(
        &self,
        features: &FeatureVector,
        live: &LiveVector,
        named: NamedInputs,
        rows: &mut Vec<f32>,
    ) {
        let (features, live, named) = (features.as_slice(), live.as_slice(), named.to_array());
        rows.extend(self.0.iter().map(|&column| match column.checked_sub(FEATURE_COUNT) {
            None => features[column],
            Some(column) => live.get(column).copied().unwrap_or_else(|| named[column - LIVE_COUNT]),
        }));
    }

    /// Appends a candidate's row of a query path, which does not read the Rechead's score.
    pub fn push_query_row(
        &self,
        features: &FeatureVector,
        live: &LiveVector,
        query: &QueryVector,
        rows: &mut Vec<f32>,
    ) {
        let (features, live, query) = (features.as_slice(), live.as_slice(), query.as_slice());
        rows.extend(self.0.iter().map(|&column| match column {
            ..FEATURE_COUNT => features[column],
            FEATURE_COUNT..DIRECT_INPUTS => live[column - FEATURE_COUNT],
            _ => query[column - DIRECT_INPUTS],
        }));
    }
}

// === impl NamedInputs ===

impl NamedInputs {
    /// The values, in the order of their columns.
    fn to_array(self) -> [f32; NAMED_INPUTS] {
        let [last, mean, best] = self.vectors.to_array();
        [self.rechead, last, mean, best]
    }
}

// === impl DirectFile ===

impl DirectFile {
    /// The network's sizes.
    pub fn shape(&self) -> DirectShape {
        DirectShape { inputs: self.inputs.len(), hidden: self.hidden, members: self.members }
    }
}

// === impl DirectScorer ===

impl DirectScorer {
    /// Packs a direct path, after a check that names, sizes and weights fit together.
    pub fn new(weights: &Weights, file: &DirectFile) -> Result<Self, DirectError> {
        let deep_weight = file.deep_weight;
        if !(0.0..=DEEP_WEIGHT_MAX).contains(&deep_weight) {
            return Err(DirectError::DeepWeight(deep_weight));
        }
        let columns = DirectColumns::of(&file.inputs)?;
        let network = FusedDirect::new(weights, &file.shape())?;
        Ok(Self { network, columns, deep_weight })
    }

    /// The weight of the deep network's logit.
    pub fn deep_weight(&self) -> f32 {
        self.deep_weight
    }

    /// Whether it reads the Rechead's score.
    pub fn reads_rechead(&self) -> bool {
        self.columns.reads_rechead()
    }

    /// Whether it reads cosines with the history's items.
    pub fn reads_vectors(&self) -> bool {
        self.columns.reads_vectors()
    }

    /// Joins the deep network's logits with the direct ones. Candidates without live features read those of an item
    /// of which nothing is known, and those without a score of the Rechead or cosines read 0. The direct logits
    /// stay in `direct`.
    pub(super) fn join(
        &self,
        features: &[FeatureVector],
        live: &[LiveVector],
        (rechead, vectors): (&[f32], &[VectorFigures]),
        scratch: &mut DirectBuffers,
        logits: &mut [f32],
    ) {
        let DirectBuffers { network, direct } = scratch;
        let rows = network.rows_mut();
        rows.clear();
        let unknown = LiveVector::default();
        for (row, features) in features.iter().enumerate() {
            let named = NamedInputs {
                rechead: rechead.get(row).copied().unwrap_or(0.0),
                vectors: vectors.get(row).copied().unwrap_or_default(),
            };
            self.columns.push_row(features, live.get(row).unwrap_or(&unknown), named, rows);
        }
        self.network.score(network, direct).expect("every candidate was given a whole row");
        for (logit, direct) in logits.iter_mut().zip(direct.iter()) {
            *logit = direct + self.deep_weight * *logit;
        }
    }
}

/// Buffers of one thread.
#[derive(Debug, Default)]
pub(super) struct DirectBuffers {
    network: DirectScratch,
    direct: Vec<f32>,
}
