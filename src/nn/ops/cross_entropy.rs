//! The cross-entropy of target tokens, from hidden rows.
//!
//! The logits of a real vocabulary and their gradient take more memory than all activations of the layers. Here a few
//! rows at a time are unembedded, and their gradient goes back through the unembedding at once (fused linear
//! cross-entropy).

use super::{is_fast, numbers_mut};
use crate::nn::simd::{exp, max, sum, vectorised};
use candle_core::{
    CpuStorage, CustomOp2, D, DType, Error, InplaceOp1, Layout, Result, Shape, Tensor,
};
use candle_nn::ops::log_softmax;
use rayon::prelude::*;
use std::cell::Cell;

/// Most logits in memory at a time.
const LOGITS_MAX: usize = 1 << 21;
/// Fewest rows that are unembedded at a time: with fewer, the weights are read too often.
const ROWS_MIN: usize = 32;

/// The target tokens of rows, and their weights.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropyTargets<'a> {
    /// The target token of each row.
    pub tokens: &'a [u32],
    /// The weight of each: a loss weight, or the advantage of a rollout token.
    pub weights: &'a [f32],
    /// The divisor of the sum: the total weight of a step, over all its batches.
    pub normaliser: f64,
    /// One entry per row if the tokens were sampled by the model; else empty.
    pub rollout: &'a [RolloutToken],
}

/// A token that the model sampled itself, trained by PPO's clipped objective (Schulman et al. 2017, eq. 7).
///
/// The loss is `-min(r w, clip(r) w)`, where `w` is the token's advantage and `r` the ratio of its probability now to
/// that when it was sampled. The bounds of `r` are independent, as in DAPO (Yu et al. 2025).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RolloutToken {
    /// Its log-probability when it was sampled.
    pub old_logprob: f32,
    /// The bounds of `r`.
    pub ratio_bounds: [f32; 2],
}

/// `Σ weight · -ln p(token) / normaliser`, where `p = softmax(rows · unembedding^T)`; or the clipped loss of each
/// [`RolloutToken`].
///
/// `rows` are `(rows, width)`, and `unembedding` is `(vocabulary, width)`. Computed in f32.
pub fn cross_entropy(
    rows: &Tensor,
    unembedding: &Tensor,
    targets: CrossEntropyTargets<'_>,
) -> Result<Tensor> {
    let (vocabulary, _) = unembedding.dims2()?;
    targets.check(rows.dim(0)?, vocabulary)?;
    let (rows, unembedding) = (&rows.to_dtype(DType::F32)?, &unembedding.to_dtype(DType::F32)?);
    if is_fast(rows) && is_fast(unembedding) {
        let known = CrossEntropyOp::calculate(rows, unembedding, targets)?;
        return rows.apply_op2(unembedding, known);
    }
    composed(rows, unembedding, targets)
}

fn composed(
    rows: &Tensor,
    unembedding: &Tensor,
    targets: CrossEntropyTargets<'_>,
) -> Result<Tensor> {
    let logits = rows.matmul(&unembedding.t()?)?;
    let (count, device) = (targets.tokens.len(), rows.device());
    let tokens = Tensor::from_slice(targets.tokens, (count, 1), device)?;
    let weights = Tensor::from_slice(targets.weights, (count, 1), device)?;
    let each = log_softmax(&logits, D::Minus1)?.gather(&tokens, 1)?;
    let worth = if targets.rollout.is_empty() {
        (each * weights)?
    } else {
        let of = |part: fn(&RolloutToken) -> f32| {
            Tensor::from_iter(targets.rollout.iter().map(part), device)?.reshape((count, 1))
        };
        let ratio = (each - of(|token| token.old_logprob)?)?.exp()?;
        let [low, high] = [of(|token| token.ratio_bounds[0])?, of(|token| token.ratio_bounds[1])?];
        let clipped = ratio.maximum(&low)?.minimum(&high)?;
        (ratio * &weights)?.minimum(&(clipped * weights)?)?
    };
    worth.sum_all()? * (-1.0 / targets.normaliser)
}

/// A loss with its gradients, which were computed in the forward pass.
struct CrossEntropyOp {
    loss: f32,
    to_rows: Option<Tensor>,
    to_unembedding: Option<Tensor>,
}

/// Replaces the logits of the rows from `first` on by their gradient.
struct CrossEntropyBackward<'a> {
    targets: CrossEntropyTargets<'a>,
    first: usize,
    /// The rows' part of the loss.
    loss: Cell<f64>,
}

// === impl CrossEntropyTargets ===

impl CrossEntropyTargets<'_> {
    /// Checks that each of `rows` rows has a target, and that each target is in the vocabulary.
    pub fn check(&self, rows: usize, vocabulary: usize) -> Result<()> {
        let wrong = |what: String| Err(Error::Msg(what));
        let (tokens, weights) = (self.tokens.len(), self.weights.len());
        if tokens != rows || weights != rows {
            return wrong(format!("{rows} rows have {tokens} targets and {weights} weights"));
        }
        if !self.rollout.is_empty() && self.rollout.len() != rows {
            return wrong(format!("{rows} rows have {} rollout tokens", self.rollout.len()));
        }
        if let Some(token) = self.tokens.iter().find(|&&token| token as usize >= vocabulary) {
            return wrong(format!("target {token} is not in a vocabulary of {vocabulary}"));
        }
        Ok(())
    }

    /// Replaces the logits of the rows from `first` on by their gradient. Gives the rows' part of the loss.
    fn gradient_in_place(&self, logits: &mut [f32], first: usize) -> f64 {
        let width = logits.len() / (self.tokens.len() - first).max(1);
        let rows = logits.par_chunks_exact_mut(width).enumerate();
        let losses: Vec<f64> = rows
            .map(|(row, logits)| {
                let (token, weight) = (self.tokens[first + row], self.weights[first + row]);
                let share = weight / self.normaliser as f32;
                let written = self.rollout.get(first + row);
                vectorised(|| row_gradient(logits, token as usize, share, written))
            })
            .collect();
        losses.into_iter().sum()
    }
}

/// Replaces a row of logits by its gradient, `(softmax - target) · weight`, and gives the row's loss. A rollout token's
/// weight is clipped.
#[expect(clippy::inline_always, reason = "it has to be compiled inside of `vectorised`")]
#[inline(always)]
fn row_gradient(
    logits: &mut [f32],
    target: usize,
    weight: f32,
    written: Option<&RolloutToken>,
) -> f64 {
    let most = max(logits);
    let above = f64::from(logits[target]) - f64::from(most);
    for logit in &mut *logits {
        *logit = exp(*logit - most);
    }
    let total = sum(logits);
    let nll = f64::from(total).ln() - above;
    let [loss, weight] = match written {
        None => [f64::from(weight) * nll, f64::from(weight)],
        Some(written) => written.clip(nll, f64::from(weight)),
    };
    let share = weight as f32 / total;
    for logit in &mut *logits {
        *logit *= share;
    }
    logits[target] -= weight as f32;
    loss
}

// === impl RolloutToken ===

impl RolloutToken {
    /// The clipped loss of a token with negative log-likelihood `nll`, and its weight in the gradient.
    fn clip(&self, nll: f64, weight: f64) -> [f64; 2] {
        let ratio = (-nll - f64::from(self.old_logprob)).exp();
        let [low, high] = self.ratio_bounds.map(f64::from);
        let worth = (ratio * weight).min(ratio.clamp(low, high) * weight);
        let gains = if weight > 0.0 { ratio <= high } else { ratio >= low };
        [-worth, if gains { ratio * weight } else { 0.0 }]
    }
}

// === impl CrossEntropyOp ===

impl CrossEntropyOp {
    fn calculate(
        rows: &Tensor,
        unembedding: &Tensor,
        targets: CrossEntropyTargets<'_>,
    ) -> Result<Self> {
        let (rows, from) = (rows.detach().contiguous()?, rows);
        let (weight, tracked) = (unembedding.detach(), unembedding.track_op());
        let at_once = (LOGITS_MAX / weight.dim(0)?).max(ROWS_MIN);
        let (mut loss, mut to_rows, mut to_weight) = (0.0, Vec::new(), None::<Tensor>);
        for first in (0..targets.tokens.len()).step_by(at_once) {
            let count = at_once.min(targets.tokens.len() - first);
            let some = rows.narrow(0, first, count)?;
            let logits = some.matmul(&weight.t()?)?;
            let within = CrossEntropyTargets {
                tokens: &targets.tokens[..first + count],
                weights: &targets.weights[..first + count],
                ..targets
            };
            let back = CrossEntropyBackward { targets: within, first, loss: Cell::new(0.0) };
            logits.inplace_op1(&back)?;
            loss += back.loss.get();
            if from.track_op() {
                to_rows.push(logits.matmul(&weight)?);
            }
            if tracked {
                let more = logits.t()?.matmul(&some)?;
                to_weight = Some(to_weight.map_or(Ok(more.clone()), |sum| sum + more)?);
            }
        }
        let to_rows = (!to_rows.is_empty()).then(|| Tensor::cat(&to_rows, 0)).transpose()?;
        Ok(Self { loss: loss as f32, to_rows, to_unembedding: to_weight })
    }
}

impl InplaceOp1 for CrossEntropyBackward<'_> {
    fn name(&self) -> &'static str {
        "cross-entropy-back"
    }

    fn cpu_fwd(&self, logits: &mut CpuStorage, layout: &Layout) -> Result<()> {
        self.loss.set(self.targets.gradient_in_place(numbers_mut(logits, layout)?, self.first));
        Ok(())
    }
}

impl CustomOp2 for CrossEntropyOp {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(
        &self,
        _rows: &CpuStorage,
        _rows_layout: &Layout,
        _unembedding: &CpuStorage,
        _unembedding_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![self.loss]), Shape::from(())))
    }

    fn bwd(
        &self,
        _rows: &Tensor,
        _unembedding: &Tensor,
        _loss: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let upstream = f64::from(upstream.to_scalar::<f32>()?);
        let scaled = |known: &Option<Tensor>| {
            let whole = (upstream - 1.0).abs() < f64::EPSILON;
            let scale = |known: &Tensor| if whole { Ok(known.clone()) } else { known * upstream };
            known.as_ref().map(scale).transpose()
        };
        Ok((scaled(&self.to_rows)?, scaled(&self.to_unembedding)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_twins, tensor};
    use super::*;

    #[test]
    fn the_cross_entropy_is_the_composed_one_in_one_part_or_in_many() {
        // The wide vocabulary splits the rows into three parts.
        for (rows, vocabulary) in [(40, 50), (70, LOGITS_MAX / 32)] {
            let tokens: Vec<u32> = (0..rows).map(|row| row * 977 % vocabulary as u32).collect();
            let weights: Vec<f32> = (0..rows).map(|row| (row % 3) as f32 * 0.5).collect();
            let total = 11.0;
            let targets = CrossEntropyTargets {
                tokens: &tokens,
                weights: &weights,
                normaliser: total,
                rollout: &[],
            };
            let inputs = || [tensor(&[rows as usize, 8], 1), tensor(&[vocabulary, 8], 2)];
            let fast = |[rows, weight]: &[Tensor; 2]| cross_entropy(rows, weight, targets);
            let slow = |[rows, weight]: &[Tensor; 2]| composed(rows, weight, targets);
            assert_twins(inputs(), fast, slow, 2e-5);

            // Rollout tokens: some have negative advantages, and some ratios are beyond either bound.
            let worth: Vec<f32> = (0..rows).map(|row| (row % 5) as f32 * 0.5 - 1.0).collect();
            let known = -(vocabulary as f32).ln();
            let written = |row| RolloutToken {
                old_logprob: known + (row % 7) as f32 * 0.3 - 0.9,
                ratio_bounds: [0.8, 1.28],
            };
            let written: Vec<RolloutToken> = (0..rows).map(written).collect();
            let targets = CrossEntropyTargets { weights: &worth, rollout: &written, ..targets };
            let fast = |[rows, weight]: &[Tensor; 2]| cross_entropy(rows, weight, targets);
            let slow = |[rows, weight]: &[Tensor; 2]| composed(rows, weight, targets);
            assert_twins(inputs(), fast, slow, 2e-5);
        }
    }

    #[test]
    fn a_ratio_beyond_its_bound_has_no_gradient() {
        let written = RolloutToken { old_logprob: 0.5_f32.ln(), ratio_bounds: [0.8, 1.28] };
        let clip = |chance: f64, worth| written.clip(-chance.ln(), worth);
        let near = |found: [f64; 2], right: [f64; 2]| {
            assert!(found.iter().zip(right).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
        };
        // Unchanged; above the bound; and less likely, where the gradient stays.
        near(clip(0.5, 2.0), [-2.0, 2.0]);
        near(clip(0.7, 2.0), [-2.56, 0.0]);
        near(clip(0.1, 2.0), [-0.4, 0.4]);
        // With a negative advantage a token may become less likely, down to the bound.
        near(clip(0.5, -1.0), [1.0, -1.0]);
        near(clip(0.3, -1.0), [0.8, 0.0]);
        near(clip(0.9, -1.0), [1.8, -1.8]);
    }

    #[test]
    fn a_row_is_what_the_definition_says() {
        // In f64 by hand: ln(e^1 + e^2 + e^-3) - 2, and the shares.
        let logits = [1.0_f64, 2.0, -3.0];
        let total: f64 = logits.iter().map(|logit| logit.exp()).sum();
        let mut row = logits.map(|logit| logit as f32);
        let got = row_gradient(&mut row, 1, 0.5, None);
        assert!((got - 0.5 * (total.ln() - 2.0)).abs() < 1e-6, "{got}");
        for (place, got) in row.iter().enumerate() {
            let target = f64::from(u8::from(place == 1));
            let expected = 0.5 * (logits[place].exp() / total - target);
            assert!((f64::from(*got) - expected).abs() < 1e-6, "{place}: {got}");
        }
        // The loss of a very unlikely token is finite.
        let mut far = [-1e4, 1e4];
        assert!((row_gradient(&mut far, 0, 1.0, None) - 2e4).abs() < 1.0);
        assert!(far.iter().all(|value| value.is_finite()));
    }

    #[test]
    fn targets_that_do_not_fit_are_named() {
        let (rows, weight) = (tensor(&[2, 3], 1), tensor(&[4, 3], 2));
        let says = |tokens: &[u32], weights: &[f32]| {
            cross_entropy(
                &rows,
                &weight,
                CrossEntropyTargets { tokens, weights, normaliser: 1.0, rollout: &[] },
            )
            .unwrap_err()
            .to_string()
        };
        assert_eq!(says(&[1], &[1.0, 1.0]), "2 rows have 1 targets and 2 weights");
        assert_eq!(says(&[1, 4], &[1.0, 1.0]), "target 4 is not in a vocabulary of 4");
    }
}
