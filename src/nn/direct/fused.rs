//! The direct path for serving: all members side by side, without allocations per slate.
#![expect(
    clippy::inline_always,
    reason = "vector code is compiled inside the kernel that switched features on"
)]

use super::{DirectShape, SlateMoments, Standardiser};
use crate::nn::fused::{
    Epilogue, FusedLayerNorm, PanelKernel, PanelLinear, ROWS, RowsView, dot, run,
};
use crate::nn::simd::{LANES, Lanes, VectorLevel};
use crate::nn::{Weights, WeightsError};

/// The constants of GELU's form with tanh: `x · σ(2 · √(2/π) · (x + 0.044715 x³))`.
const GELU: [f32; 2] = [1.595_769_2, 0.044_715];

/// The network, packed for this processor.
#[derive(Debug)]
pub struct FusedDirect {
    shape: DirectShape,
    level: VectorLevel,
    standardiser: Standardiser,
    /// The mean over the members, (2F).
    linear: Vec<f32>,
    /// The first layers of all members, side by side.
    hidden: PanelLinear,
    norms: Vec<FusedLayerNorm>,
    /// The last layer of each member over the number of members, (H) padded to whole vectors.
    out: Vec<Vec<f32>>,
    out_bias: f32,
}

/// Buffers of [`FusedDirect::score`]. They grow to the longest slate and no further; one per thread.
#[derive(Debug, Default)]
pub struct DirectScratch {
    /// (N, F): features, which are standardised in place.
    rows: Vec<f32>,
    moments: SlateMoments,
    /// (ROWS, 2F)
    inputs: Vec<f32>,
    /// (ROWS, members · H and padding)
    hidden: Vec<f32>,
    /// (H and padding)
    normed: Vec<f32>,
}

/// A slate does not fit the direct path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectSlateError {
    /// The rows are not whole.
    #[error("{found} features do not fill rows of {expected}")]
    Features {
        /// Numbers found.
        found: usize,
        /// Features of a row.
        expected: usize,
    },
}

// === impl DirectScratch ===

impl DirectScratch {
    /// The buffer of a slate's features, row by row: clear it, and fill it before [`FusedDirect::score`].
    pub fn rows_mut(&mut self) -> &mut Vec<f32> {
        &mut self.rows
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let buffers = [&self.rows, &self.inputs, &self.hidden, &self.normed];
        let numbers: usize = buffers.iter().map(|buffer| buffer.capacity()).sum();
        numbers * size_of::<f32>() + self.moments.bytes()
    }
}

// === impl FusedDirect ===

impl FusedDirect {
    /// Packs the weights for the widest vectors of this processor.
    pub fn new(weights: &Weights, shape: &DirectShape) -> Result<Self, WeightsError> {
        Self::for_level(weights, shape, VectorLevel::best())
    }

    /// Packs the weights for a level of vector registers.
    pub fn for_level(
        weights: &Weights,
        shape: &DirectShape,
        level: VectorLevel,
    ) -> Result<Self, WeightsError> {
        shape.check()?;
        weights.check_tensors(shape.tensors())?;
        let (inputs, hidden) = (2 * shape.inputs, shape.hidden);
        let of = |member: usize, name: &str| {
            let name = format!("{}.{name}", DirectShape::member(member));
            weights.get(&name).expect("the tensors are checked before they are packed")
        };
        let members = || 0..shape.members;
        let share = (shape.members as f32).recip();
        let mean = |k: usize| members().map(|m| of(m, "linear.weight")[k]).sum::<f32>() * share;
        let first: Vec<&[f32]> = members().map(|m| of(m, "hidden.weight")).collect();
        let bias: Vec<f32> = members().flat_map(|m| of(m, "hidden.bias")).copied().collect();
        let weight = |column: usize, k: usize| first[column / hidden][column % hidden * inputs + k];
        let norm = |m| FusedLayerNorm {
            scale: of(m, "norm.weight").to_vec(),
            shift: of(m, "norm.bias").to_vec(),
        };
        let out = |m| {
            let mut out: Vec<f32> = of(m, "out.weight").iter().map(|w| w * share).collect();
            out.resize(hidden.next_multiple_of(LANES), 0.0);
            out
        };
        Ok(Self {
            shape: *shape,
            level,
            standardiser: Standardiser::of(weights)?,
            linear: (0..inputs).map(mean).collect(),
            hidden: PanelLinear::new(level, inputs, &bias, weight),
            norms: members().map(norm).collect(),
            out: members().map(out).collect(),
            out_bias: members().map(|m| of(m, "out.bias")[0]).sum::<f32>() * share,
        })
    }

    /// The network's sizes.
    pub fn shape(&self) -> &DirectShape {
        &self.shape
    }

    /// Logits of the slate whose features (N, F) are in [`DirectScratch::rows_mut`]. `logits` becomes as long as the
    /// slate; on an error it is unchanged. The features are used up.
    pub fn score(
        &self,
        scratch: &mut DirectScratch,
        logits: &mut Vec<f32>,
    ) -> Result<(), DirectSlateError> {
        let (found, expected) = (scratch.rows.len(), self.shape.inputs);
        if !found.is_multiple_of(expected) {
            return Err(DirectSlateError::Features { found, expected });
        }
        let count = found / expected;
        scratch.inputs.resize(ROWS * 2 * expected, 0.0);
        scratch.hidden.resize(ROWS * self.hidden.outer(), 0.0);
        scratch.normed.clear();
        scratch.normed.resize(self.shape.hidden.next_multiple_of(LANES), 0.0);
        logits.resize(count, 0.0);
        run(self.level, DirectKernel { fused: self, scratch, logits });
        Ok(())
    }
}

struct DirectKernel<'a> {
    fused: &'a FusedDirect,
    scratch: &'a mut DirectScratch,
    logits: &'a mut [f32],
}

impl PanelKernel for DirectKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes, const V: usize>(self) {
        let Self { fused, scratch, logits } = self;
        let DirectScratch { rows, moments, inputs, hidden, normed } = scratch;
        let (features, inner) = (fused.shape.inputs, 2 * fused.shape.inputs);
        fused.standardiser.standardise(rows);
        moments.measure(rows, features);
        let columns = fused.hidden.outer();
        for (rows, logits) in rows.chunks(ROWS * features).zip(logits.chunks_mut(ROWS)) {
            for (row, out) in rows.chunks_exact(features).zip(inputs.chunks_exact_mut(inner)) {
                moments.write(row, out);
            }
            let block = RowsView { values: inputs, stride: inner, inner, count: logits.len() };
            fused.hidden.apply::<L, V>(block, hidden, columns, Epilogue::Set);
            let rows = inputs.chunks_exact(inner).zip(hidden.chunks_exact(columns));
            for (logit, (inputs, hidden)) in logits.iter_mut().zip(rows) {
                *logit = fused.logit::<L>(inputs, hidden, normed);
            }
        }
    }
}

impl FusedDirect {
    /// The logit of a candidate with inputs u (2F) and the first layers of all members.
    #[inline(always)]
    fn logit<L: Lanes>(&self, inputs: &[f32], hidden: &[f32], normed: &mut [f32]) -> f32 {
        let mut logit = dot::<L>(&self.linear, inputs) + self.out_bias;
        let width = self.shape.hidden;
        for ((norm, out), row) in self.norms.iter().zip(&self.out).zip(hidden.chunks(width)) {
            norm.apply::<L>(row, &mut normed[..width]);
            gelu::<L>(normed);
            logit += dot::<L>(normed, out);
        }
        logit
    }
}

/// GELU of whole vectors, in place; of 0 it is 0.
#[inline(always)]
fn gelu<L: Lanes>(values: &mut [f32]) {
    let (vectors, _) = values.as_chunks_mut::<LANES>();
    for values in vectors {
        let x = L::load(values);
        let cubic = x.mul(x).mul_add(L::splat(GELU[1]), L::splat(1.0));
        let at = x.mul(L::splat(GELU[0])).mul(cubic);
        let negative = L::splat(0.0).sub(at);
        // e^-|t|, from which the sigmoid of either sign follows without an overflow.
        let odds = L::splat(0.0).sub(at.max(negative)).exp().array();
        for ((value, at), odds) in values.iter_mut().zip(at.array()).zip(odds) {
            *value *= if at < 0.0 { odds } else { 1.0 } / (1.0 + odds);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct GeluKernel<'a>(&'a mut [f32]);

    impl PanelKernel for GeluKernel<'_> {
        type Output = ();

        #[inline(always)]
        fn run<L: Lanes, const V: usize>(self) {
            gelu::<L>(self.0);
        }
    }

    #[test]
    fn gelu_equals_double_precision() {
        for level in VectorLevel::all_here() {
            let xs: Vec<f32> = (0..2_048).map(|at| at as f32 * 0.02 - 20.48).collect();
            let mut got = xs.clone();
            run(level, GeluKernel(&mut got));
            for (x, got) in xs.iter().map(|x| f64::from(*x)).zip(got) {
                let at = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
                let expected = 0.5 * x * (1.0 + at.tanh());
                assert!((f64::from(got) - expected).abs() < 2e-6, "GELU of {x} is {got}");
            }
        }
    }
}
