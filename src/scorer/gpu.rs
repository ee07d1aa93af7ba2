//! Slates that are scored on a GPU.

use super::model::NetworkInputs;
use super::{GpuLimits, ScorerModel, ScorerSlate, SlateItem, SlateScores};
use crate::nn::CandidateRow;
use crate::nn::cuda::{CudaScorer, CudaScorerLimits, CudaScorerTables, CudaScores, CudaSlate};
use std::borrow::Cow;

pub use crate::nn::cuda::CudaScorerError as GpuError;

/// Candidates of one batch, and rows that it may bring: more become another batch.
const CANDIDATES_MAX: usize = 8_192;
const BROUGHT_MAX: usize = 4_096;

/// A model's network on a GPU. Memory is used again and again.
#[derive(Debug)]
pub struct Gpu {
    scorer: CudaScorer,
    inputs: Vec<NetworkInputs>,
    done: Vec<CudaScores>,
}

impl ScorerModel {
    /// Brings the network to a GPU, with room for so many slates of a batch.
    pub fn on_gpu(&self, limits: GpuLimits, slates_max: usize) -> Result<Gpu, GpuError> {
        let GpuLimits { ordinal, rows_max, .. } = limits;
        let bounds = CudaScorerLimits {
            slates_max,
            candidates_max: CANDIDATES_MAX,
            rows_max: BROUGHT_MAX,
            items_max: rows_max,
            cards_max: rows_max,
        };
        let rechead_items =
            self.rechead.as_ref().map_or_else(|| [].into(), |head| head.item_vectors().clone());
        let tables = CudaScorerTables {
            items: self.items.clone(),
            reasons: self.reasons.clone(),
            rechead_items,
        };
        let scorer = CudaScorer::load(self.network.clone(), tables, bounds, ordinal)?;
        Ok(Gpu { scorer, inputs: Vec::new(), done: Vec::new() })
    }

    /// Scores slates together, each as [`ScorerModel::score`] does.
    pub fn score_on(
        &self,
        slates: &[ScorerSlate<'_>],
        gpu: &mut Gpu,
    ) -> Result<Vec<SlateScores>, GpuError> {
        let Gpu { scorer, inputs, done } = gpu;
        let room = slates.len().max(inputs.len());
        inputs.resize_with(room, NetworkInputs::default);
        done.resize_with(room, CudaScores::default);
        for (slate, inputs_of_slate) in slates.iter().zip(&mut *inputs) {
            self.fill_inputs(slate, inputs_of_slate);
        }
        let described = || slates.iter().zip(&*inputs);
        let candidates: Vec<Vec<CandidateRow<'_>>> = described()
            .map(|(slate, inputs_of_slate)| self.candidate_rows(slate, inputs_of_slate))
            .collect();
        let shoppers: Vec<Cow<'_, [f32]>> =
            slates.iter().map(|slate| self.shopper_vector_of(slate)).collect();
        let jobs = described().zip(&candidates).zip(&shoppers);
        let jobs = jobs.map(|(((slate, inputs_of_slate), candidates), shopper)| CudaSlate {
            slate: self.network_slate(slate, inputs_of_slate, candidates),
            shopper,
        });
        scorer.score(&jobs.collect::<Vec<_>>(), done)?;
        let told = slates.iter().zip(&shoppers).zip(done).map(|((slate, shopper), done)| {
            let mut rechead = Vec::new();
            if let Some(head) = &self.rechead {
                rechead.extend_from_slice(&done.rechead);
                for (entry, score) in slate.candidates.iter().zip(&mut rechead) {
                    if let SlateItem::Inline(text) = entry {
                        *score = self.rechead_score_inline(head, shopper, text);
                    }
                }
            }
            self.slate_scores(&done.scores, slate.candidates.len(), rechead)
        });
        Ok(told.collect())
    }
}
