//! Tables of token vectors in training. A step updates the rows of its own tokens alone (lazy Adam).
//!
//! A dense update of the whole table would cost as much as everything else in a step together.

use candle_core::{Device, Result, Tensor, Var};

/// Adam's β1, β2 and ε.
const ADAM: (f32, f32, f32) = (0.9, 0.999, 1e-8);

/// A trained table with Adam's two moments of each number.
#[derive(Clone, Debug)]
pub struct TrainedTable {
    pub(in crate::nn) values: Vec<f32>,
    width: usize,
    // Both begin as zeroed pages, which take no memory until a row of theirs is updated.
    first: Vec<f32>,
    second: Vec<f32>,
}

/// Adam's learning rate and bias corrections at one step.
#[derive(Clone, Copy, Debug)]
pub struct StepSize {
    rate: f32,
    first: f32,
    second: f32,
}

// === impl StepSize ===

impl StepSize {
    /// At step number `step`, counted from 1.
    pub fn new(rate: f64, step: usize) -> Self {
        let correction = |decay: f32| 1.0 / (1.0 - decay.powi(step.min(i32::MAX as usize) as i32));
        Self { rate: rate as f32, first: correction(ADAM.0), second: correction(ADAM.1) }
    }
}

// === impl TrainedTable ===

impl TrainedTable {
    /// A table that starts with these values: (rows, width).
    pub fn new(values: Vec<f32>, width: usize) -> Self {
        let (first, second) = (vec![0.0; values.len()], vec![0.0; values.len()]);
        Self { values, width, first, second }
    }

    /// The values as they are now: (rows, width).
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// `(rows, width)`: a copy of selected rows.
    pub fn leaf(&self, rows: &[u32]) -> Result<Var> {
        let start = |&row: &u32| row as usize * self.width;
        let values = rows.iter().flat_map(|row| &self.values[start(row)..][..self.width]);
        Var::from_vec(values.copied().collect(), (rows.len(), self.width), &Device::Cpu)
    }

    /// Updates the `touched` rows by their `(touched, width)` gradient.
    pub fn update(&mut self, touched: &[u32], gradient: &[f32], pace: &StepSize) {
        let (keep_first, keep_second, epsilon) = ADAM;
        for (&row, gradient) in touched.iter().zip(gradient.chunks_exact(self.width)) {
            let start = row as usize * self.width;
            for (at, gradient) in (start..).zip(gradient) {
                let first = keep_first * self.first[at] + (1.0 - keep_first) * gradient;
                let second =
                    keep_second * self.second[at] + (1.0 - keep_second) * gradient * gradient;
                let size = (second * pace.second).sqrt() + epsilon;
                self.values[at] -= pace.rate * first * pace.first / size;
                (self.first[at], self.second[at]) = (first, second);
            }
        }
    }
}

/// `(texts, tokens)`: how often each of the ascending `tokens` occurs in each text.
pub fn token_counts(texts: &[&[u32]], tokens: &[u32]) -> Result<Tensor> {
    token_weights(texts, tokens, |_| 1.0)
}

/// The same, divided by the length of the text: its product with the tokens' rows is the mean of a text's rows. A text
/// without a token has a row of zeros.
pub fn token_shares(texts: &[&[u32]], tokens: &[u32]) -> Result<Tensor> {
    token_weights(texts, tokens, |length| (length as f32).recip())
}

fn token_weights(
    texts: &[&[u32]],
    tokens: &[u32],
    weight: impl Fn(usize) -> f32,
) -> Result<Tensor> {
    let mut weights = vec![0.0_f32; texts.len() * tokens.len()];
    if !tokens.is_empty() {
        for (text, row) in texts.iter().zip(weights.chunks_exact_mut(tokens.len())) {
            for token in *text {
                row[tokens.partition_point(|known| known < token)] += weight(text.len());
            }
        }
    }
    Tensor::from_vec(weights, (texts.len(), tokens.len()), &Device::Cpu)
}

/// The distinct tokens of texts, ascending.
pub fn distinct_tokens(texts: &[&[u32]]) -> Vec<u32> {
    let mut tokens = texts.concat();
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_the_mean_of_its_tokens_rows() {
        let texts: [&[u32]; 3] = [&[7, 2, 7], &[], &[9]];
        let tokens = distinct_tokens(&texts);
        assert_eq!(tokens, [2, 7, 9]);
        let shares: Vec<Vec<f32>> = token_shares(&texts, &tokens).unwrap().to_vec2().unwrap();
        let third = 1.0 / 3.0;
        assert_eq!(shares, [[third, 2.0 * third, 0.0], [0.0; 3], [0.0, 0.0, 1.0]]);
        let counts: Vec<Vec<f32>> = token_counts(&texts, &tokens).unwrap().to_vec2().unwrap();
        assert_eq!(counts, [[1.0, 2.0, 0.0], [0.0; 3], [0.0, 0.0, 1.0]]);
    }

    #[test]
    fn a_step_moves_the_touched_rows_alone() {
        let mut table = TrainedTable::new(vec![1.0; 6], 2);
        table.update(&[2], &[0.5, -0.5], &StepSize::new(0.1, 1));
        assert_eq!(table.values()[..4], [1.0; 4]);
        assert!((table.values()[4] - 0.9).abs() < 1e-5 && (table.values()[5] - 1.1).abs() < 1e-5);
        assert_eq!(table.leaf(&[2, 0]).unwrap().dims(), [2, 2]);
    }
}
