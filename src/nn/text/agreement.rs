//! How well two encoders agree about which texts are near one another.

use rayon::prelude::*;

/// Neighbours of a text that are compared.
pub const NEAREST: usize = 10;

/// The nearest texts of some texts, by the encoder that is the judge.
#[derive(Clone, Debug)]
pub struct NeighbourAgreement {
    /// The texts whose neighbours are compared.
    asked: Vec<u32>,
    /// The nearest ones of each, ascending.
    nearest: Vec<Vec<u32>>,
}

// === impl NeighbourAgreement ===

impl NeighbourAgreement {
    /// The neighbours of the texts `asked` among all texts, by these unit vectors: (texts, width).
    pub fn of(vectors: &[f32], width: usize, asked: Vec<u32>) -> Self {
        let nearest = asked.par_iter().map(|&text| nearest(vectors, width, text)).collect();
        Self { asked, nearest }
    }

    /// The mean share of a text's [`NEAREST`] neighbours that are also its nearest by other vectors. 1 where nothing was
    /// asked.
    pub fn share(&self, vectors: &[f32], width: usize) -> f64 {
        let shares = self.asked.par_iter().zip(&self.nearest).map(|(&text, expected)| {
            let found = nearest(vectors, width, text);
            let common = found.iter().filter(|text| expected.binary_search(text).is_ok()).count();
            common as f64 / expected.len().max(1) as f64
        });
        let shares: Vec<f64> = shares.collect();
        if shares.is_empty() { 1.0 } else { shares.iter().sum::<f64>() / shares.len() as f64 }
    }
}

/// The texts nearest to a text, without itself, ascending. Of equally near ones the first come first.
fn nearest(vectors: &[f32], width: usize, text: u32) -> Vec<u32> {
    let own = &vectors[text as usize * width..][..width];
    let product = |row: &[f32]| row.iter().zip(own).map(|(a, b)| a * b).sum::<f32>();
    let products = (0..).zip(vectors.chunks_exact(width).map(product));
    let mut all: Vec<(u32, f32)> = products.filter(|(other, _)| *other != text).collect();
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if all.len() > NEAREST {
        all.select_nth_unstable_by(NEAREST, order);
        all.truncate(NEAREST);
    }
    let mut nearest: Vec<u32> = all.into_iter().map(|(text, _)| text).collect();
    nearest.sort_unstable();
    nearest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Unit vectors on a circle, at these angles.
    fn circle(angles: impl Iterator<Item = f32>) -> Vec<f32> {
        angles.flat_map(|angle| [angle.cos(), angle.sin()]).collect()
    }

    #[test]
    fn the_same_order_agrees_and_a_shuffled_one_does_not() {
        let line = || (0..60_u16).map(|at| f32::from(at) * 0.05);
        let vectors = circle(line());
        let agreement = NeighbourAgreement::of(&vectors, 2, (0..60).collect());
        assert!((agreement.share(&vectors, 2) - 1.0).abs() < 1e-12);
        // Turning all vectors changes no neighbour.
        assert!(agreement.share(&circle(line().map(|angle| angle + 1.0)), 2) > 0.95);
        let shuffled = circle((0..60_u16).map(|at| f32::from(at * 23 % 60) * 0.05));
        assert!(agreement.share(&shuffled, 2) < 0.5);
    }

    #[test]
    fn few_texts_or_none_are_judged_all_the_same() {
        let vectors = circle([0.0, 1.0, 2.0].into_iter());
        assert!(
            (NeighbourAgreement::of(&vectors, 2, vec![0, 2]).share(&vectors, 2) - 1.0).abs()
                < 1e-12
        );
        assert!((NeighbourAgreement::of(&[], 2, vec![]).share(&[], 2) - 1.0).abs() < 1e-12);
    }
}
