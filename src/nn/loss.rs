//! The losses of the scorer. Each takes logits (batch, candidates) and gives one number.

use super::layers::FAR;
use candle_core::{D, Result, Tensor};

/// Softmax cross-entropy of slates whose candidate 0 is the positive one.
///
/// `mean over slates of logsumexp(y) - y_0`, over the candidates whose `mask` (batch, candidates)
/// is 1; a padded candidate never takes probability.
pub fn softmax_loss(logits: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let logits = (logits + mask.affine(-FAR, FAR)?)?;
    let top = logits.max_keepdim(D::Minus1)?.detach();
    let logits = logits.broadcast_sub(&top)?;
    let total = logits.exp()?.sum(D::Minus1)?.log()?;
    (total - logits.narrow(1, 0, 1)?.squeeze(1)?)?.mean_all()
}

/// Listwise softmax cross-entropy of whole slates with any number of positives.
///
/// `mean over slates of logsumexp(y) - Σ target · y`, over the candidates whose `mask` (batch, candidates) is 1. The
/// `targets` (batch, candidates) of a slate sum to 1, and are 0 where the mask is.
pub fn listwise_loss(logits: &Tensor, targets: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let logits = ((logits * mask)? + mask.affine(-FAR, FAR)?)?;
    let top = logits.max_keepdim(D::Minus1)?.detach();
    let logits = logits.broadcast_sub(&top)?;
    let total = logits.exp()?.sum(D::Minus1)?.log()?;
    let taken = ((logits * mask)? * targets)?.sum(D::Minus1)?;
    (total - taken)?.mean_all()
}

/// Binary cross-entropy of each candidate with its `labels` (batch, candidates), 0 or 1.
///
/// `mean over mask = 1 of max(y, 0) - y * label + ln(1 + exp(-|y|))`, the form that neither
/// overflows nor loses small probabilities.
pub fn bce_loss(logits: &Tensor, labels: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let softplus = (logits.abs()?.neg()?.exp()? + 1.0)?.log()?;
    let each = ((logits.relu()? - (logits * labels)?)? + softplus)?;
    (each * mask)?.sum_all()? / mask.sum_all()?
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn row(values: &[f32]) -> Tensor {
        Tensor::from_slice(values, (1, values.len()), &Device::Cpu).unwrap()
    }

    fn value(loss: &Tensor) -> f32 {
        loss.to_scalar().unwrap()
    }

    #[test]
    fn softmax_of_equal_logits_is_the_log_of_the_number_that_counts() {
        let logits = row(&[0.5, 0.5, 0.5, 90.0]);
        let loss = value(&softmax_loss(&logits, &row(&[1.0, 1.0, 1.0, 0.0])).unwrap());
        assert!((loss - 3_f32.ln()).abs() < 1e-6, "{loss}");
    }

    #[test]
    fn listwise_is_softmax_for_one_positive_and_the_mean_of_several() {
        let (logits, mask) = (row(&[0.5, -1.0, 2.0, 90.0]), row(&[1.0, 1.0, 1.0, 0.0]));
        let listwise =
            |targets: &[f32]| value(&listwise_loss(&logits, &row(targets), &mask).unwrap());
        let first = value(&softmax_loss(&logits, &mask).unwrap());
        assert!((listwise(&[1.0, 0.0, 0.0, 0.0]) - first).abs() < 1e-6);
        let both = f32::midpoint(first, listwise(&[0.0, 0.0, 1.0, 0.0]));
        assert!((listwise(&[0.5, 0.0, 0.5, 0.0]) - both).abs() < 1e-6);
    }

    #[test]
    fn extreme_logits_stay_finite() {
        let ones = row(&[1.0, 1.0]);
        let loss = value(&softmax_loss(&row(&[-1e4, 1e4]), &ones).unwrap());
        assert!((loss - 2e4).abs() < 1.0, "{loss}");
        let loss = value(&bce_loss(&row(&[-1e4, 1e4]), &row(&[1.0, 0.0]), &ones).unwrap());
        assert!((loss - 1e4).abs() < 1.0, "{loss}");
    }

    #[test]
    fn bce_equals_its_definition_and_ignores_padding() {
        let (y, label) = (0.3_f32, 1.0_f32);
        let expected = -(1.0 / (1.0 + (-y).exp())).ln();
        let loss = bce_loss(&row(&[y, 7.0]), &row(&[label, 0.0]), &row(&[1.0, 0.0]));
        assert!((value(&loss.unwrap()) - expected).abs() < 1e-6);
    }

    #[test]
    fn the_gradient_of_softmax_is_probability_minus_target() {
        let logits = Var::from_tensor(&row(&[0.0, 0.0])).unwrap();
        let loss = softmax_loss(&logits, &row(&[1.0, 1.0])).unwrap();
        let gradients = loss.backward().unwrap();
        let gradient = gradients.get(&logits).unwrap().to_vec2::<f32>().unwrap();
        assert!((gradient[0][0] + 0.5).abs() < 1e-6 && (gradient[0][1] - 0.5).abs() < 1e-6);
    }
}
