//! Scoring slates on a GPU.

use super::model::{NetworkInputs, PathBuffers};
use super::{GpuLimits, ScorerModel, ScorerSlate, SlateItem, SlateScores};
use crate::nn::CandidateRow;
use crate::nn::cuda::{CudaScorer, CudaScorerLimits, CudaScorerTables, CudaScores, CudaSlate};
use std::borrow::Cow;

pub use crate::nn::cuda::CudaScorerError as GpuError;

/// Candidates of one batch, and rows that it may upload. More become another batch.
const CANDIDATES_MAX: usize = 8_192;
const UPLOADED_ROWS_MAX: usize = 4_096;

/// A model's network on a GPU. Its memory is reused from batch to batch.
#[derive(Debug)]
pub struct Gpu {
    scorer: CudaScorer,
    inputs: Vec<NetworkInputs>,
    scores: Vec<CudaScores>,
    direct: PathBuffers,
}

impl ScorerModel {
    /// Loads the network onto a GPU, for batches of so many slates.
    pub fn on_gpu(&self, limits: GpuLimits, slates_max: usize) -> Result<Gpu, GpuError> {
        let GpuLimits { ordinal, rows_max, .. } = limits;
        let limits = CudaScorerLimits {
            slates_max,
            candidates_max: CANDIDATES_MAX,
            rows_max: UPLOADED_ROWS_MAX,
            items_max: rows_max,
            cards_max: rows_max,
        };
        let rechead_items =
            self.rechead.as_ref().map_or_else(|| [].into(), |head| head.item_rows());
        let tables = CudaScorerTables {
            items: self.items.clone(),
            reasons: self.reasons.clone(),
            rechead_items,
        };
        let scorer = CudaScorer::load(self.network.clone(), tables, limits, ordinal)?;
        let (inputs, scores) = (Vec::new(), Vec::new());
        Ok(Gpu { scorer, inputs, scores, direct: PathBuffers::default() })
    }

    /// Scores slates in one batch, each as [`ScorerModel::score`] does. The processor adds the direct path's logits.
    pub fn score_on(
        &self,
        slates: &[ScorerSlate<'_>],
        gpu: &mut Gpu,
    ) -> Result<Vec<SlateScores>, GpuError> {
        let Gpu { scorer, inputs, scores, direct } = gpu;
        let count = slates.len().max(inputs.len());
        inputs.resize_with(count, NetworkInputs::default);
        scores.resize_with(count, CudaScores::default);
        for (slate, inputs_of_slate) in slates.iter().zip(&mut *inputs) {
            self.fill_inputs(slate, inputs_of_slate);
        }
        let with_inputs = || slates.iter().zip(&*inputs);
        let candidates: Vec<Vec<CandidateRow<'_>>> = with_inputs()
            .map(|(slate, inputs_of_slate)| self.candidate_rows(slate, inputs_of_slate))
            .collect();
        let shoppers: Vec<Cow<'_, [f32]>> =
            slates.iter().map(|slate| self.shopper_vector_of(slate)).collect();
        let cuda_slates = with_inputs().zip(&candidates).zip(&shoppers);
        let cuda_slates = cuda_slates.map(|(((slate, inputs_of_slate), candidates), shopper)| {
            CudaSlate { slate: self.network_slate(slate, inputs_of_slate, candidates), shopper }
        });
        scorer.score(&cuda_slates.collect::<Vec<_>>(), scores)?;
        let scored = slates.iter().zip(&*inputs).zip(&shoppers).zip(scores);
        let scored = scored.map(|(((slate, inputs_of_slate), shopper), scores)| {
            let mut rechead = Vec::new();
            if let Some(head) = &self.rechead {
                rechead.extend_from_slice(&scores.rechead);
                for (item, score) in slate.candidates.iter().zip(&mut rechead) {
                    if let SlateItem::Inline { text, .. } = item {
                        *score = self.rechead_score_inline(head, shopper, text);
                    }
                }
            }
            self.slate_scores(slate, inputs_of_slate, &scores.scores, rechead, direct)
        });
        Ok(scored.collect())
    }
}
