//! The cross-entropy of tokens, from the rows that they follow.
//!
//! Logits are as many as rows times vocabulary, and so is their gradient: for a real vocabulary far
//! more than all that a model's layers keep. Here a few rows at a time are unembedded, their
//! gradient is calculated at once, sent through the unembedding, and forgotten.

use super::{exp, greatest, is_fast, numbers_mut, sum, vectorised};
use candle_core::{
    CpuStorage, CustomOp2, D, DType, Error, InplaceOp1, Layout, Result, Shape, Tensor,
};
use candle_nn::ops::log_softmax;
use rayon::prelude::*;
use std::cell::Cell;

/// Logits that are kept at a time.
const LOGITS_MAX: usize = 1 << 21;
/// Rows that are unembedded at a time at least: with fewer, a product reads its weights too often.
const ROWS_MIN: usize = 32;

/// What should follow some rows, and how much each counts.
#[derive(Clone, Copy, Debug)]
pub struct Targets<'a> {
    /// The token that should follow each row.
    pub tokens: &'a [u32],
    /// How much it counts.
    pub weights: &'a [f32],
    /// What the sum is divided by: the weights of all the rows of a step, in this pass or another.
    pub total: f64,
}

/// `Σ weight · -ln p(token) / total`, where `p = softmax(rows · unembedding^T)`.
///
/// `rows` are `(rows, width)`, and `unembedding` is `(vocabulary, width)`; the sum is in f32.
pub fn surprise(rows: &Tensor, unembedding: &Tensor, targets: Targets<'_>) -> Result<Tensor> {
    let (vocabulary, _) = unembedding.dims2()?;
    targets.check(rows.dim(0)?, vocabulary)?;
    let (rows, unembedding) = (&rows.to_dtype(DType::F32)?, &unembedding.to_dtype(DType::F32)?);
    if is_fast(rows) && is_fast(unembedding) {
        let known = Known::calculate(rows, unembedding, targets)?;
        return rows.apply_op2(unembedding, known);
    }
    composed(rows, unembedding, targets)
}

fn composed(rows: &Tensor, unembedding: &Tensor, targets: Targets<'_>) -> Result<Tensor> {
    let logits = rows.matmul(&unembedding.t()?)?;
    let (count, device) = (targets.tokens.len(), rows.device());
    let tokens = Tensor::from_slice(targets.tokens, (count, 1), device)?;
    let weights = Tensor::from_slice(targets.weights, (count, 1), device)?;
    let each = log_softmax(&logits, D::Minus1)?.gather(&tokens, 1)?;
    (each * weights)?.sum_all()? * (-1.0 / targets.total)
}

/// A loss whose gradients are already known.
struct Known {
    loss: f32,
    to_rows: Option<Tensor>,
    to_unembedding: Option<Tensor>,
}

/// Puts the gradient of the logits of rows from `first` on in place of them.
struct Back<'a> {
    targets: Targets<'a>,
    first: usize,
    /// Their part of the loss.
    loss: Cell<f64>,
}

// === impl Targets ===

impl Targets<'_> {
    fn check(&self, rows: usize, vocabulary: usize) -> Result<()> {
        let wrong = |what: String| Err(Error::Msg(what));
        let (tokens, weights) = (self.tokens.len(), self.weights.len());
        if tokens != rows || weights != rows {
            return wrong(format!("{rows} rows have {tokens} targets and {weights} weights"));
        }
        if let Some(token) = self.tokens.iter().find(|&&token| token as usize >= vocabulary) {
            return wrong(format!("target {token} is not in a vocabulary of {vocabulary}"));
        }
        Ok(())
    }

    /// Puts the gradient of some logits in place of them, and gives the rows' part of the loss.
    fn back(&self, logits: &mut [f32], first: usize) -> f64 {
        let width = logits.len() / (self.tokens.len() - first).max(1);
        let rows = logits.par_chunks_exact_mut(width).enumerate();
        let losses: Vec<f64> = rows
            .map(|(row, logits)| {
                let (token, weight) = (self.tokens[first + row], self.weights[first + row]);
                let share = weight / self.total as f32;
                vectorised(|| share_row(logits, token as usize, share)) * f64::from(share)
            })
            .collect();
        losses.into_iter().sum()
    }
}

/// Puts `(softmax - target) · weight` in place of a row of logits, and gives `-ln p(target)`.
#[expect(clippy::inline_always, reason = "it has to be compiled inside of `vectorised`")]
#[inline(always)]
fn share_row(logits: &mut [f32], target: usize, weight: f32) -> f64 {
    let most = greatest(logits);
    let above = f64::from(logits[target]) - f64::from(most);
    for logit in &mut *logits {
        *logit = exp(*logit - most);
    }
    let total = sum(logits);
    let share = weight / total;
    for logit in &mut *logits {
        *logit *= share;
    }
    logits[target] -= weight;
    f64::from(total).ln() - above
}

// === impl Known ===

impl Known {
    fn calculate(rows: &Tensor, unembedding: &Tensor, targets: Targets<'_>) -> Result<Self> {
        let (rows, from) = (rows.detach().contiguous()?, rows);
        let (weight, tracked) = (unembedding.detach(), unembedding.track_op());
        let at_once = (LOGITS_MAX / weight.dim(0)?).max(ROWS_MIN);
        let (mut loss, mut to_rows, mut to_weight) = (0.0, Vec::new(), None::<Tensor>);
        for first in (0..targets.tokens.len()).step_by(at_once) {
            let count = at_once.min(targets.tokens.len() - first);
            let some = rows.narrow(0, first, count)?;
            let logits = some.matmul(&weight.t()?)?;
            let within = Targets {
                tokens: &targets.tokens[..first + count],
                weights: &targets.weights[..first + count],
                total: targets.total,
            };
            let back = Back { targets: within, first, loss: Cell::new(0.0) };
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

impl InplaceOp1 for Back<'_> {
    fn name(&self) -> &'static str {
        "surprise-back"
    }

    fn cpu_fwd(&self, logits: &mut CpuStorage, layout: &Layout) -> Result<()> {
        self.loss.set(self.targets.back(numbers_mut(logits, layout)?, self.first));
        Ok(())
    }
}

impl CustomOp2 for Known {
    fn name(&self) -> &'static str {
        "surprise"
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
    fn the_surprise_is_the_composed_one_in_one_part_or_in_many() {
        // The wide vocabulary takes the rows in three parts.
        for (rows, vocabulary) in [(40, 50), (70, LOGITS_MAX / 32)] {
            let tokens: Vec<u32> = (0..rows).map(|row| row * 977 % vocabulary as u32).collect();
            let weights: Vec<f32> = (0..rows).map(|row| (row % 3) as f32 * 0.5).collect();
            let total = 11.0;
            let targets = Targets { tokens: &tokens, weights: &weights, total };
            let inputs = [tensor(&[rows as usize, 8], 1), tensor(&[vocabulary, 8], 2)];
            let fast = |[rows, weight]: &[Tensor; 2]| surprise(rows, weight, targets);
            let slow = |[rows, weight]: &[Tensor; 2]| composed(rows, weight, targets);
            assert_twins(inputs, fast, slow, 2e-5);
        }
    }

    #[test]
    fn a_row_is_what_the_definition_says() {
        // In f64 by hand: ln(e^1 + e^2 + e^-3) - 2, and the shares.
        let logits = [1.0_f64, 2.0, -3.0];
        let total: f64 = logits.iter().map(|logit| logit.exp()).sum();
        let mut row = logits.map(|logit| logit as f32);
        let got = share_row(&mut row, 1, 0.5);
        assert!((got - (total.ln() - 2.0)).abs() < 1e-6, "{got}");
        for (place, got) in row.iter().enumerate() {
            let target = f64::from(u8::from(place == 1));
            let expected = 0.5 * (logits[place].exp() / total - target);
            assert!((f64::from(*got) - expected).abs() < 1e-6, "{place}: {got}");
        }
        // A logit that is far out of reach stays finite.
        let mut far = [-1e4, 1e4];
        assert!((share_row(&mut far, 0, 1.0) - 2e4).abs() < 1.0);
        assert!(far.iter().all(|value| value.is_finite()));
    }

    #[test]
    fn targets_that_do_not_fit_are_named() {
        let (rows, weight) = (tensor(&[2, 3], 1), tensor(&[4, 3], 2));
        let says = |tokens: &[u32], weights: &[f32]| {
            surprise(&rows, &weight, Targets { tokens, weights, total: 1.0 })
                .unwrap_err()
                .to_string()
        };
        assert_eq!(says(&[1], &[1.0, 1.0]), "2 rows have 1 targets and 2 weights");
        assert_eq!(says(&[1, 4], &[1.0, 1.0]), "target 4 is not in a vocabulary of 4");
    }
}
