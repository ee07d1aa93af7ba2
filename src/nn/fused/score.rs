//! The forward pass over one slate.
#![expect(
    clippy::inline_always,
    reason = "vector code is compiled inside the kernel that switched features on"
)]

use super::kernels::{Epilogue, PanelKernel, PanelLinear, ROWS, RowsView, add_scaled, dot, run};
use super::shape_error::FusedShapeError;
use super::{CandidateRow, DinShape, FusedDin, FusedSlate, HistoryRow, history, reasons, target};
use crate::nn::simd::Lanes;

/// The last part of the network: `MLP([h; v; h*v; c; x_p; f])`, with its first layer split by inputs.
#[derive(Debug)]
pub(super) struct ScoreHead {
    /// The inputs per candidate: `[h; h*v; attended reasons; f]`.
    pub candidate: PanelLinear,
    /// The input per slate, x_p, and the first layer's bias.
    pub slate: PanelLinear,
    /// Added for a candidate with reasons, and for one without.
    pub some_reasons: Vec<f32>,
    pub no_reasons: Vec<f32>,
    pub second: PanelLinear,
    pub third: Vec<f32>,
    pub third_bias: f32,
}

/// Buffers of the forward pass, sized for the longest history; one per thread.
#[derive(Debug)]
pub struct FusedScratch {
    history: history::HistoryScratch,
    target: target::TargetScratch,
    reasons: reasons::ReasonScratch,
    pattern: Vec<f32>,
    /// The slate's part of the head's first layer.
    slate: Vec<f32>,
    /// (ROWS, inputs of the head per candidate)
    inputs: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
}

/// The scores of a slate; reused, it grows to the longest slate and no further.
#[derive(Debug, Default)]
pub struct FusedScores {
    /// (N)
    pub logits: Vec<f32>,
    /// (N, M): attention over the reasons, mean of the heads; zeros past a candidate's last.
    pub attention: Vec<f32>,
}

impl FusedScratch {
    /// Bytes held; constant.
    pub fn bytes(&self) -> usize {
        let own = [&self.pattern, &self.slate, &self.inputs, &self.first, &self.second];
        let own: usize = own.iter().map(|buffer| buffer.capacity()).sum();
        let parts = self.history.numbers() + self.target.numbers() + self.reasons.numbers();
        (own + parts) * size_of::<f32>()
    }
}

impl FusedDin {
    /// The sizes of the network.
    pub fn shape(&self) -> &DinShape {
        &self.shape
    }

    /// Buffers for [`Self::score`].
    pub fn scratch(&self) -> FusedScratch {
        let (shape, level) = (&self.shape, self.level);
        FusedScratch {
            history: history::HistoryScratch::new(shape, level),
            target: target::TargetScratch::new(shape, level),
            reasons: reasons::ReasonScratch::new(shape, level),
            pattern: vec![0.0; self.pattern.outer()],
            slate: vec![0.0; self.head.slate.outer()],
            inputs: vec![0.0; ROWS * self.head.candidate.inner],
            first: vec![0.0; ROWS * self.head.candidate.outer()],
            second: vec![0.0; ROWS * self.head.second.outer()],
        }
    }

    /// Scores a slate. On an error `out` is unchanged.
    pub fn score(
        &self,
        slate: &FusedSlate<'_>,
        scratch: &mut FusedScratch,
        out: &mut FusedScores,
    ) -> Result<(), FusedShapeError> {
        self.check(slate)?;
        let count = slate.candidates.len();
        out.logits.resize(count, 0.0);
        out.attention.resize(count * self.shape.reasons, 0.0);
        run(self.level, ScoreKernel { fused: self, slate, scratch, out });
        Ok(())
    }

    /// Checks a slate against the network and its tables.
    pub(in crate::nn) fn check(&self, slate: &FusedSlate<'_>) -> Result<(), FusedShapeError> {
        let (shape, items) = (&self.shape, slate.items);
        let strides = (items.stride, slate.reasons.stride);
        if strides != (self.item_stride(), self.reasons.project.outer()) {
            return Err(FusedShapeError::Tables);
        }
        if slate.history.len() > shape.history {
            return Err(FusedShapeError::History);
        }
        if slate.pattern.is_some_and(|pattern| pattern.len() != shape.text) {
            return Err(FusedShapeError::Text);
        }
        for event in slate.history {
            if !self.has(items, event.item) {
                return Err(FusedShapeError::Item);
            }
            if usize::from(event.age) >= shape.ages || usize::from(event.kind) >= shape.kinds {
                return Err(FusedShapeError::Event);
            }
        }
        for candidate in slate.candidates {
            if !self.has(items, candidate.item) {
                return Err(FusedShapeError::Item);
            }
            if candidate.features.len() != shape.features {
                return Err(FusedShapeError::Features);
            }
            let reasons = &candidate.reasons;
            let overlaps = candidate.overlap.len() == reasons.len();
            if !overlaps
                || reasons.len() > shape.reasons
                || reasons.end as usize > slate.reasons.len()
            {
                return Err(FusedShapeError::Reasons);
            }
        }
        Ok(())
    }
}

struct ScoreKernel<'a> {
    fused: &'a FusedDin,
    slate: &'a FusedSlate<'a>,
    scratch: &'a mut FusedScratch,
    out: &'a mut FusedScores,
}

impl PanelKernel for ScoreKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes, const V: usize>(self) {
        let Self { fused, slate, scratch, out } = self;
        fused.encode_history::<L, V>(slate, scratch);
        fused.prepare_pattern::<L, V>(slate, scratch);
        let attention = out.attention.chunks_mut(ROWS * fused.shape.reasons);
        let blocks = slate.candidates.chunks(ROWS).zip(out.logits.chunks_mut(ROWS));
        for ((candidates, logits), attention) in blocks.zip(attention) {
            for (r, candidate) in candidates.iter().enumerate() {
                let attention = &mut attention[r * fused.shape.reasons..][..fused.shape.reasons];
                fused.gather::<L, V>(slate, candidate, r, scratch, attention);
            }
            fused.head::<L, V>(scratch, logits);
        }
    }
}

impl FusedDin {
    /// S of the slate's events, and their terms of the target attention.
    #[inline(always)]
    fn encode_history<L: Lanes, const V: usize>(
        &self,
        slate: &FusedSlate<'_>,
        scratch: &mut FusedScratch,
    ) {
        let count = slate.history.len();
        if count == 0 {
            return;
        }
        let d = self.shape.width;
        let history = &mut scratch.history;
        for (event, row) in
            slate.history.iter().zip(history.events.chunks_exact_mut(history.stride))
        {
            self.embed::<L>(slate, event, &mut row[..d]);
        }
        self.history.encode::<L, V>(history, count, d);
        let events = RowsView { values: &history.events, stride: history.stride, inner: d, count };
        self.target.prepare::<L, V>(events, &mut scratch.target);
    }

    /// s = v + age + kind
    #[inline(always)]
    fn embed<L: Lanes>(&self, slate: &FusedSlate<'_>, event: &HistoryRow<'_>, out: &mut [f32]) {
        let (d, item) = (out.len(), self.item(slate.items, event.item));
        out.copy_from_slice(item.vector);
        add_scaled::<L>(1.0, &self.ages[usize::from(event.age) * d..][..d], out);
        add_scaled::<L>(1.0, &self.kinds[usize::from(event.kind) * d..][..d], out);
    }

    /// x_p, its query for the reasons, and its part of the head's first layer.
    #[inline(always)]
    fn prepare_pattern<L: Lanes, const V: usize>(
        &self,
        slate: &FusedSlate<'_>,
        scratch: &mut FusedScratch,
    ) {
        let d = self.shape.width;
        match slate.pattern {
            Some(values) => {
                let inner = self.shape.text;
                let text = RowsView { values, stride: inner, inner, count: 1 };
                let columns = self.pattern.outer();
                self.pattern.apply::<L, V>(text, &mut scratch.pattern, columns, Epilogue::Set);
            }
            None => scratch.pattern[..d].copy_from_slice(&self.no_pattern),
        }
        self.reasons.prepare::<L, V>(&scratch.pattern[..d], &mut scratch.reasons);
        let pattern = RowsView { values: &scratch.pattern, stride: d, inner: d, count: 1 };
        self.head.slate.apply::<L, V>(pattern, &mut scratch.slate, 0, Epilogue::Set);
    }

    /// Fills row `r` of the head's inputs and of its first layer's initial sums.
    #[inline(always)]
    fn gather<L: Lanes, const V: usize>(
        &self,
        slate: &FusedSlate<'_>,
        candidate: &CandidateRow<'_>,
        r: usize,
        scratch: &mut FusedScratch,
        attention: &mut [f32],
    ) {
        let (d, head) = (self.shape.width, &self.head);
        let item = self.item(slate.items, candidate.item);
        let history = &scratch.history;
        let count = slate.history.len();
        let events = RowsView { values: &history.events, stride: history.stride, inner: d, count };

        let row = &mut scratch.inputs[r * head.candidate.inner..][..head.candidate.inner];
        let (interest, rest) = row.split_at_mut(d);
        let (both, rest) = rest.split_at_mut(d);
        let (mixed, features) = rest.split_at_mut(d);
        self.target.interest::<L, V>(item, events, &mut scratch.target, interest);
        for ((both, a), b) in both.iter_mut().zip(interest).zip(item.vector) {
            *both = *a * b;
        }
        features.copy_from_slice(candidate.features);
        let reasons = if candidate.reasons.is_empty() || !self.shape.ablation.reasons {
            mixed.fill(0.0);
            attention.fill(0.0);
            &head.no_reasons
        } else {
            let out = (mixed, attention);
            self.reasons.mix::<L>(slate.reasons, candidate, &mut scratch.reasons, out);
            &head.some_reasons
        };
        let columns = head.candidate.outer();
        let first = &mut scratch.first[r * columns..][..columns];
        first.copy_from_slice(&scratch.slate);
        add_scaled::<L>(1.0, item.head, first);
        add_scaled::<L>(1.0, reasons, first);
    }

    /// The head of a block of candidates.
    #[inline(always)]
    fn head<L: Lanes, const V: usize>(&self, scratch: &mut FusedScratch, logits: &mut [f32]) {
        let (head, count) = (&self.head, logits.len());
        let (inner, columns) = (head.candidate.inner, head.candidate.outer());
        let inputs = RowsView { values: &scratch.inputs, stride: inner, inner, count };
        head.candidate.apply::<L, V>(inputs, &mut scratch.first, columns, Epilogue::AddRelu);
        let first =
            RowsView { values: &scratch.first, stride: columns, inner: head.second.inner, count };
        let columns = head.second.outer();
        head.second.apply::<L, V>(first, &mut scratch.second, columns, Epilogue::SetRelu);
        for (logit, row) in logits.iter_mut().zip(scratch.second.chunks_exact(columns)) {
            *logit = dot::<L>(row, &head.third) + head.third_bias;
        }
    }
}
