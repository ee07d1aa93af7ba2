//! A contrastive loss on latents: items that are bought together get close latents.

use candle_core::{D, Device, Result, Tensor};

/// Added to the logit of a masked partner; its `exp` is zero.
const MASKED: f32 = -1e4;
/// Keeps the inverse length of a zero latent finite.
const SQUARE_MIN: f64 = 1e-12;

/// The mean symmetric InfoNCE of pairs: `−log softmax(cos / temperature)` of each item's partner among the partners of all
/// pairs. `left` and `right` are (pairs, width). The same item as the partner of another pair is masked.
pub(super) fn info_nce(
    pairs: &[(u32, u32)],
    left: &Tensor,
    right: &Tensor,
    temperature: f64,
) -> Result<Tensor> {
    let (lefts, rights): (Vec<u32>, Vec<u32>) = pairs.iter().copied().unzip();
    let logits = (unit(left)?.matmul(&unit(right)?.t()?)? / temperature)?;
    let targets = Tensor::arange(0, pairs.len() as u32, &Device::Cpu)?;
    let rightward = (&logits + mask(&rights)?)?;
    let leftward = (logits.t()?.contiguous()? + mask(&lefts)?)?;
    let rightward = candle_nn::loss::cross_entropy(&rightward, &targets)?;
    (rightward + candle_nn::loss::cross_entropy(&leftward, &targets)?)? / 2.0
}

/// Normalises rows to length one.
fn unit(rows: &Tensor) -> Result<Tensor> {
    let square = rows.sqr()?.sum_keepdim(D::Minus1)?;
    rows.broadcast_div(&(square + SQUARE_MIN)?.sqrt()?)
}

/// (pairs, pairs): [`MASKED`] where another pair has the same item.
fn mask(items: &[u32]) -> Result<Tensor> {
    let rows = items.iter().enumerate().flat_map(|(row, own)| {
        let others = items.iter().enumerate();
        others.map(move |(at, other)| if at != row && other == own { MASKED } else { 0.0 })
    });
    Tensor::from_vec(rows.collect(), (items.len(), items.len()), &Device::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(pairs: &[(u32, u32)], left: &[[f32; 2]; 2], right: &[[f32; 2]; 2]) -> f32 {
        let table = |rows: &[[f32; 2]; 2]| Tensor::new(rows, &Device::Cpu).unwrap();
        info_nce(pairs, &table(left), &table(right), 0.5).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn partners_that_lie_together_cost_less() {
        let (a, b) = ([3.0, 0.0], [0.0, 2.0]);
        let pairs = [(0, 1), (2, 3)];
        let together = loss(&pairs, &[a, b], &[a, b]);
        // −log(e² / (e² + 1)) by hand: cosines of 1 and 0, over 0.5.
        assert!((together - 0.126_928).abs() < 1e-5, "{together}");
        assert!(loss(&pairs, &[a, b], &[b, a]) > 2.0);
    }

    #[test]
    fn the_same_partner_twice_is_not_told_from_itself() {
        let a = [1.0, 0.0];
        let lone = loss(&[(0, 7), (1, 7)], &[a, a], &[a, a]);
        // Rightward there is nobody else; leftward there are two alike: half of ln 2.
        assert!((lone - 2.0_f32.ln() / 2.0).abs() < 1e-5, "{lone}");
    }
}
