//! The small models of a workspace, which score the slates of many cases.

use super::cases::Case;
use super::training_data::{ScorerParts, TrainingData};
use super::workspace::Workspace;
use crate::bundle::Part;
use crate::nn::{Rechead, Weights};
use crate::reranker::{ScoredOrder, scored_order};
use crate::scorer::{
    DirectFile, DirectScorer, PositionPenalty, QueryFile, QueryScorer, RecheadFile, ScorerFile,
    SlateScores,
};
use anyhow::Context as _;
use serde::de::DeserializeOwned;
use std::sync::Arc;

/// The scorer of a workspace, with its direct path and its Rechead.
#[derive(Debug)]
pub struct OfflineScorer {
    weights: Weights,
    file: ScorerFile,
    direct: Option<Arc<DirectScorer>>,
    query: Option<Arc<QueryScorer>>,
    head: Option<(Rechead, f32)>,
}

// === impl OfflineScorer ===

impl OfflineScorer {
    /// The same scorer with the query path, if the workspace has one.
    pub fn hearing(self, workspace: &Workspace<'_>, data: &TrainingData) -> anyhow::Result<Self> {
        if !workspace.has(Part::QueryShape) {
            return Ok(self);
        }
        let file: QueryFile = shape(workspace, Part::QueryShape)?;
        let weights = weights(workspace, Part::Query)?;
        let path = Arc::new(QueryScorer::new(&weights, &file, &data.catalog)?);
        Ok(Self { query: Some(path), ..self })
    }

    /// The query path, if it has one.
    pub fn query(&self) -> Option<&QueryScorer> {
        self.query.as_deref()
    }

    /// The names of the features that the direct path reads; none without one.
    pub fn direct_inputs(&self) -> &[String] {
        self.file.direct.as_ref().map_or(&[], |direct| &direct.inputs)
    }

    /// Reads the scorer, and the Rechead if there is one.
    pub fn read(workspace: &Workspace<'_>) -> anyhow::Result<Self> {
        Ok(Self { head: rechead(workspace)?, ..Self::without_head(workspace)? })
    }

    /// Reads the scorer alone, for stages that come before the Rechead is there.
    pub fn without_head(workspace: &Workspace<'_>) -> anyhow::Result<Self> {
        let weights = weights(workspace, Part::Scorer)?;
        let file = file(workspace)?;
        let direct = match &file.direct {
            Some(direct) => Some(
                self::weights(workspace, Part::Direct)
                    .and_then(|weights| Ok(Arc::new(DirectScorer::new(&weights, direct)?)))?,
            ),
            None => None,
        };
        Ok(Self { weights, file, direct, query: None, head: None })
    }

    /// The Rechead.
    pub fn head(&self) -> Option<&Rechead> {
        self.head.as_ref().map(|(network, _)| network)
    }

    /// The same scorer without the Rechead's part of the sum. A direct path may read its score all the same.
    pub fn without_late_sum(&self) -> Self {
        let Self { weights, file, direct, head, .. } = self;
        let (weights, file, direct) = (weights.clone(), file.clone(), direct.clone());
        let head = head.as_ref().map(|(network, _)| (network.clone(), 0.0));
        Self { weights, file, direct, query: None, head }
    }

    /// The scored rung's order of each case's slate.
    pub fn orders(&self, data: &TrainingData, cases: &[Case]) -> anyhow::Result<Vec<ScoredOrder>> {
        self.each(data, cases, |scores, prior, length| {
            // The catalogue holds every item of a case.
            scored_order(scores, prior, &(0..length).collect::<Vec<_>>(), length)
        })
    }

    /// The scored rung's score of each candidate of each case's slate.
    pub fn scores(&self, data: &TrainingData, cases: &[Case]) -> anyhow::Result<Vec<Vec<f32>>> {
        self.each(data, cases, |scores, prior, length| {
            (0..length).map(|position| scores.fused(position, prior, position)).collect()
        })
    }

    /// Hands each case a scorer of its slate, which leaves out some reasons of each candidate.
    pub fn score_each(
        &self,
        data: &TrainingData,
        cases: &[Case],
        judge: impl FnMut(usize, &mut dyn FnMut(&[u16]) -> SlateScores),
    ) -> anyhow::Result<()> {
        data.score_each(&self.parts(), cases, judge)
    }

    /// The scored rung's score of each candidate of a case's slate.
    pub fn fused(&self, case: &Case, scores: &SlateScores) -> Vec<f32> {
        let prior = self.file.fusion.position_penalty(&case.history);
        (0..case.slate.len()).map(|position| scores.fused(position, prior, position)).collect()
    }

    fn parts(&self) -> ScorerParts<'_> {
        ScorerParts {
            deep: (&self.weights, &self.file.shape),
            direct: self.direct.as_ref(),
            query: self.query.as_ref(),
            head: self.head.as_ref(),
        }
    }

    fn each<T>(
        &self,
        data: &TrainingData,
        cases: &[Case],
        fuse: impl Fn(&SlateScores, PositionPenalty, usize) -> T,
    ) -> anyhow::Result<Vec<T>> {
        let scores = data.score(&self.parts(), cases)?;
        let fused = cases.iter().zip(&scores).map(|(case, scores)| {
            fuse(scores, self.file.fusion.position_penalty(&case.history), case.slate.len())
        });
        Ok(fused.collect())
    }
}

/// The scorer's file of a workspace.
pub fn file(workspace: &Workspace<'_>) -> anyhow::Result<ScorerFile> {
    shape(workspace, Part::ScorerShape)
}

/// The weights of a workspace's direct path, and its section of the scorer's file.
pub fn direct(workspace: &Workspace<'_>) -> anyhow::Result<(Weights, DirectFile)> {
    let file = file(workspace)?;
    let of = Part::ScorerShape.file();
    let file = file.direct.with_context(|| format!("{of} has no section `direct` to keep"))?;
    Ok((weights(workspace, Part::Direct)?, file))
}

/// The Rechead of a workspace and the weight of its scores, if there is one.
pub fn rechead(workspace: &Workspace<'_>) -> anyhow::Result<Option<(Rechead, f32)>> {
    if !workspace.has(Part::RecheadShape) {
        return Ok(None);
    }
    let file: RecheadFile = shape(workspace, Part::RecheadShape)?;
    let network = Rechead::new(&weights(workspace, Part::Rechead)?, &file.shape)?;
    Ok(Some((network, file.weight)))
}

fn weights(workspace: &Workspace<'_>, part: Part) -> anyhow::Result<Weights> {
    let bytes =
        std::fs::read(workspace.path(part)).with_context(|| format!("reading {}", part.file()))?;
    Ok(Weights::from_bytes(&bytes)?)
}

fn shape<T: DeserializeOwned>(workspace: &Workspace<'_>, part: Part) -> anyhow::Result<T> {
    let reading = || format!("reading {}", part.file());
    let text = std::fs::read_to_string(workspace.path(part)).with_context(reading)?;
    toml::from_str(&text).with_context(reading)
}
