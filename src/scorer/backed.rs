//! Attention over reasons where the network does not read them: a reason counts by how strongly the history backs it.

use super::features::FeatureContext;
use crate::bundle::{CardReason, REASONS_MAX};
use crate::nn::MASKED_OVERLAP;

/// The attention to the reasons of a card with these overlaps: the softmax of their backing. Reasons without backing
/// share what is left, so that a card keeps its order. Masked reasons get 0.
pub(super) fn backed_attention(reasons: &[CardReason], overlaps: &[f32]) -> [f32; REASONS_MAX] {
    let mut attention = [0.0; REASONS_MAX];
    for ((weight, reason), &overlap) in attention.iter_mut().zip(reasons).zip(overlaps) {
        if overlap != MASKED_OVERLAP {
            *weight = FeatureContext::backing(overlap, reason).exp();
        }
    }
    let sum: f32 = attention.iter().sum();
    if sum > 0.0 {
        for weight in &mut attention {
            *weight /= sum;
        }
    }
    attention
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::Backing;
    use crate::domain::ReasonSource;

    fn reason(strength: f32) -> CardReason {
        CardReason {
            text: "bought often".into(),
            source: ReasonSource::Evidence,
            evidence: [].into(),
            backing: Backing::Nothing,
            strength,
            supporters: Vec::new(),
        }
    }

    #[test]
    fn reasons_rank_by_backing_and_a_masked_one_is_out() {
        let reasons = [1.0, 1.0, 0.5, 1.0].map(reason);
        let cases: [(&[f32], &[usize]); 5] = [
            (&[0.2, 0.9, 0.9, 0.0], &[1, 2, 0, 3]),
            (&[0.0, 0.0, 0.0, 0.0], &[0, 1, 2, 3]),
            (&[0.9, MASKED_OVERLAP, 0.0, 1.0], &[3, 0, 2]),
            (&[MASKED_OVERLAP; 4], &[]),
            (&[], &[]),
        ];
        for (overlaps, expected) in cases {
            let attention = backed_attention(&reasons[..overlaps.len()], overlaps);
            let mut order: Vec<usize> = (0..REASONS_MAX).filter(|&m| attention[m] > 0.0).collect();
            order.sort_by(|&a, &b| attention[b].total_cmp(&attention[a]));
            assert_eq!(order, expected, "{overlaps:?}: {attention:?}");
            let sum: f32 = attention.iter().sum();
            let total = if expected.is_empty() { 0.0 } else { 1.0 };
            assert!((sum - total).abs() < 1e-6, "{attention:?}");
        }
    }
}
