//! Slates that are scored on a GPU.

use super::model::Sheet;
use super::{Entry, GpuLimits, Model, Scores, Slate};
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
    sheets: Vec<Sheet>,
    done: Vec<CudaScores>,
}

impl Model {
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
            self.head.as_ref().map_or_else(|| [].into(), |head| head.items().clone());
        let tables = CudaScorerTables {
            items: self.items.clone(),
            reasons: self.reasons.clone(),
            rechead_items,
        };
        let scorer = CudaScorer::load(self.network.clone(), tables, bounds, ordinal)?;
        Ok(Gpu { scorer, sheets: Vec::new(), done: Vec::new() })
    }

    /// Scores slates together, each as [`Model::score`] does.
    pub fn score_on(&self, slates: &[Slate<'_>], gpu: &mut Gpu) -> Result<Vec<Scores>, GpuError> {
        let Gpu { scorer, sheets, done } = gpu;
        let room = slates.len().max(sheets.len());
        sheets.resize_with(room, Sheet::default);
        done.resize_with(room, CudaScores::default);
        for (slate, sheet) in slates.iter().zip(&mut *sheets) {
            self.describe(slate, sheet);
        }
        let described = || slates.iter().zip(&*sheets);
        let candidates: Vec<Vec<CandidateRow<'_>>> =
            described().map(|(slate, sheet)| self.candidates(slate, sheet)).collect();
        let shoppers: Vec<Cow<'_, [f32]>> =
            slates.iter().map(|slate| self.shopper_of(slate)).collect();
        let jobs = described().zip(&candidates).zip(&shoppers);
        let jobs = jobs.map(|(((slate, sheet), candidates), shopper)| CudaSlate {
            slate: self.asked(slate, sheet, candidates),
            shopper,
        });
        scorer.score(&jobs.collect::<Vec<_>>(), done)?;
        let told = slates.iter().zip(&shoppers).zip(done).map(|((slate, shopper), done)| {
            let mut rechead = Vec::new();
            if let Some(head) = &self.head {
                rechead.extend_from_slice(&done.rechead);
                for (entry, score) in slate.candidates.iter().zip(&mut rechead) {
                    if let Entry::Inline(text) = entry {
                        *score = self.heard_inline(head, shopper, text);
                    }
                }
            }
            self.told(&done.scores, slate.candidates.len(), rechead)
        });
        Ok(told.collect())
    }
}
