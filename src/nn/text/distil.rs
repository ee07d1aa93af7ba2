//! Distils an encoder into a static table: a row for each token, fitted to the encoder's vectors of a shop's texts.
//!
//! The rows begin as the encoder's own vectors of single tokens, by their principal components, weighted by frequency
//! (Model2Vec; SIF, Arora et al. 2017). Ridge regression then moves them so that the texts' vectors meet the teacher's.

use super::error::TextEncoderError;
use super::projection::principal_components;
use super::sparse::SparseRows;
use super::table::TokenTable;

/// The share of all tokens at which a token's weight is one half.
const COMMON_SHARE: f32 = 1e-3;
/// Steps of conjugate gradients. Some ten suffice: the ridge keeps the system well conditioned.
const STEPS: usize = 24;

/// A static table in the making.
#[derive(Clone, Debug)]
pub struct Distillation {
    /// (vocabulary, width)
    rows: Vec<f32>,
    /// (width, wide): the principal components of the teacher's vectors.
    components: Vec<f32>,
    width: usize,
    wide: usize,
}

/// Weights of tokens, `a / (a + share)`. A token's share is the larger of two: its share of the shop's tokens, and that
/// which Zipf's law gives to its rank among the `ranked` tokens, the most frequent first. So "the" weighs little, also in
/// a query to a shop whose titles never say it.
pub fn token_weights(counts: &[u32], ranked: &[u32]) -> Vec<f32> {
    let all = counts.iter().map(|&count| f64::from(count)).sum::<f64>().max(1.0);
    let mut shares: Vec<f32> =
        counts.iter().map(|&count| (f64::from(count) / all) as f32).collect();
    let harmonic: f32 = (1..=ranked.len()).map(|rank| (rank as f32).recip()).sum();
    for (rank, &token) in (1..).zip(ranked) {
        if let Some(share) = shares.get_mut(token as usize) {
            *share = share.max((rank as f32 * harmonic).recip());
        }
    }
    shares.into_iter().map(|share| COMMON_SHARE / (COMMON_SHARE + share)).collect()
}

// === impl Distillation ===

impl Distillation {
    /// Begins with the teacher's vectors of single tokens, (vocabulary, wide), less their mean, by the `width` principal
    /// components of them and of the teacher's vectors of texts, (texts, wide). Tokens of zeros stay zeros.
    pub fn begin(
        tokens: &[f32],
        texts: &[f32],
        wide: usize,
        width: usize,
        weights: &[f32],
    ) -> Self {
        let is_known = |row: &&[f32]| row.iter().any(|value| *value != 0.0);
        let known: Vec<&[f32]> = tokens.chunks_exact(wide).filter(is_known).collect();
        let mut mean = vec![0.0; wide];
        for row in &known {
            for (mean, value) in mean.iter_mut().zip(*row) {
                *mean += value / known.len() as f32;
            }
        }
        let centred = |row: &[f32]| -> Vec<f32> {
            row.iter().zip(&mean).map(|(value, mean)| value - mean).collect()
        };
        let mut seen: Vec<f32> = known.iter().flat_map(|row| centred(row)).collect();
        seen.extend_from_slice(texts);
        let width = width.min(wide);
        let components = principal_components(&seen, wide, width);
        let mut begun = Self { rows: Vec::new(), components, width, wide };
        for (row, weight) in tokens.chunks_exact(wide).zip(weights) {
            let row =
                if is_known(&row) { begun.projected(&centred(row)) } else { vec![0.0; width] };
            begun.rows.extend(row.into_iter().map(|value| value * weight));
        }
        begun
    }

    /// Vectors of the teacher by the principal components: (vectors, width).
    fn projected(&self, vectors: &[f32]) -> Vec<f32> {
        let product =
            |vector: &[f32], row: &[f32]| row.iter().zip(vector).map(|(a, b)| a * b).sum();
        let rows = vectors.chunks_exact(self.wide);
        rows.flat_map(|vector| {
            self.components.chunks_exact(self.wide).map(move |row| product(vector, row))
        })
        .collect()
    }

    /// The table as it is.
    pub fn table(&self) -> Result<TokenTable, TextEncoderError> {
        TokenTable::new(self.rows.clone(), self.width)
    }

    /// Moves the rows of the tokens of these texts towards the teacher's unit vectors of them, (texts, wide).
    ///
    /// A text's vector is the sum of its rows over the root of their number. The rows minimise the squared distance to the
    /// teacher's vectors, plus `ridge` times the squared distance from where they were, which are first scaled as one.
    pub fn fitted(&self, texts: &[Vec<u32>], teacher: &[f32], ridge: f32) -> Self {
        let vocabulary = self.rows.len() / self.width.max(1);
        let sums = SparseRows::of(texts, vocabulary);
        let mut fitted = self.clone();
        let targets = self.projected(teacher);
        let before = sums.times(&self.rows, self.width);
        let scale = dot(&before, &targets) / dot(&before, &before).max(f32::MIN_POSITIVE);
        let scale = if scale.is_finite() && scale > 0.0 { scale } else { 1.0 };
        fitted.rows.iter_mut().for_each(|value| *value *= scale);
        let missed: Vec<f32> =
            targets.iter().zip(&before).map(|(target, before)| target - scale * before).collect();
        let moves = ridge_moves(&sums, &missed, self.width, ridge);
        for (row, moved) in fitted.rows.iter_mut().zip(moves) {
            *row += moved;
        }
        fitted
    }
}

/// Solves `(AᵀA + ridge) x = Aᵀ missed` for each column by conjugate gradients (Hestenes and Stiefel 1952).
fn ridge_moves(sums: &SparseRows, missed: &[f32], width: usize, ridge: f32) -> Vec<f32> {
    let transposed = sums.transposed();
    let mut left = transposed.times(missed, width);
    let mut solution = vec![0.0; left.len()];
    let mut direction = left.clone();
    let mut square = column_products(&left, &left, width);
    for _ in 0..STEPS {
        let mut image = transposed.times(&sums.times(&direction, width), width);
        for (image, direction) in image.iter_mut().zip(&direction) {
            *image += ridge * direction;
        }
        let along = column_products(&direction, &image, width);
        let step: Vec<f32> = ratios(&square, &along);
        add_columns(&mut solution, &direction, &step, 1.0);
        add_columns(&mut left, &image, &step, -1.0);
        let after = column_products(&left, &left, width);
        let keep = ratios(&after, &square);
        for (direction, left) in direction.chunks_exact_mut(width).zip(left.chunks_exact(width)) {
            for ((direction, left), keep) in direction.iter_mut().zip(left).zip(&keep) {
                *direction = left + keep * *direction;
            }
        }
        square = after;
    }
    solution
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
}

/// The products of two matrices of this width, column by column.
fn column_products(a: &[f32], b: &[f32], width: usize) -> Vec<f64> {
    let mut products = vec![0.0; width];
    for (a, b) in a.chunks_exact(width).zip(b.chunks_exact(width)) {
        for (product, (a, b)) in products.iter_mut().zip(a.iter().zip(b)) {
            *product += f64::from(*a) * f64::from(*b);
        }
    }
    products
}

/// Quotients, and 0 where a column has come to its end.
fn ratios(over: &[f64], under: &[f64]) -> Vec<f32> {
    let ratio =
        |(over, under): (&f64, &f64)| if *under > 0.0 { (over / under) as f32 } else { 0.0 };
    over.iter().zip(under).map(ratio).collect()
}

/// Adds the columns of `other`, each times its number and `sign`.
fn add_columns(to: &mut [f32], other: &[f32], times: &[f32], sign: f32) {
    let width = times.len();
    for (to, other) in to.chunks_exact_mut(width).zip(other.chunks_exact(width)) {
        for ((to, other), times) in to.iter_mut().zip(other).zip(times) {
            *to += sign * times * other;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::text::EncodeTokens as _;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn frequent_tokens_weigh_little_by_the_shop_or_by_their_rank() {
        let weights = token_weights(&[900, 0, 0, 100], &[2, 1]);
        assert!(weights[0] < 0.01 && weights[3] < 0.02);
        assert!(weights[2] < weights[1] && weights[1] < 0.01, "{weights:?}");
        assert_eq!(token_weights(&[0, 0], &[9]), [1.0, 1.0]);
    }

    /// A teacher whose vectors are sums of hidden rows, and texts of some of its tokens.
    fn teacher(tokens: usize, wide: usize) -> (Vec<f32>, Vec<Vec<u32>>, Vec<f32>) {
        let mut random = ChaCha8Rng::seed_from_u64(4);
        let hidden: Vec<f32> = (0..tokens * wide).map(|_| random.random_range(-1.0..1.0)).collect();
        let mut text = || (0..5).map(|_| random.random_range(1..tokens as u32)).collect::<Vec<_>>();
        let texts: Vec<Vec<u32>> = (0..300).map(|_| text()).collect();
        let table = TokenTable::new(hidden.clone(), wide).unwrap();
        let vectors = table.encode_all(&texts);
        (hidden, texts, vectors)
    }

    #[test]
    fn fitting_brings_texts_nearer_to_their_teacher() {
        let (hidden, texts, vectors) = teacher(40, 12);
        // The first rows are another token's: only the fit can find the right ones.
        let mut wrong = hidden.clone();
        wrong[12..].rotate_left(12);
        wrong[..12].fill(0.0);
        let begun = Distillation::begin(&wrong, &vectors, 12, 12, &[1.0; 40]);
        let nearness = |of: &Distillation| {
            let found = of.table().unwrap().encode_all(&texts);
            dot(&found, &begun.projected(&vectors)) / texts.len() as f32
        };
        let fitted = begun.fitted(&texts, &vectors, 0.1);
        assert!(nearness(&begun) < 0.5, "{}", nearness(&begun));
        assert!(nearness(&fitted) > 0.95, "{}", nearness(&fitted));
        assert_eq!(fitted.table().unwrap().numbers()[..12], [0.0; 12], "an unseen token stays");
        // The stronger the ridge, the nearer to where the rows were.
        assert!(nearness(&begun.fitted(&texts, &vectors, 1e6)) < 0.5);
    }

    #[test]
    fn nothing_to_fit_on_leaves_the_table_as_it_was() {
        let begun = Distillation::begin(&[1.0, 0.0, 0.0, 1.0], &[], 2, 5, &[1.0, 0.5]);
        assert_eq!(begun.table().unwrap().width(), 2);
        assert_eq!(begun.fitted(&[], &[], 1.0).rows, begun.rows);
        assert_eq!(begun.fitted(&[vec![]], &[0.6, 0.8], 1.0).rows, begun.rows);
    }
}
