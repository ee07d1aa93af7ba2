//! The published wiring for serving: the tokens of a shopper's texts become one vector.

use super::layers::{
    NormPlace, RecheadLayer, RecheadLayerNorm, RecheadLinear, RecheadLoader, RecheadScratch,
};
use crate::nn::layers::LEAK;
use crate::nn::rechead::{MLP_LAYERS, MLPS, RecheadShape, TABLES};
use crate::nn::simd::{exp, vectorised};
use crate::nn::{Weights, WeightsError};

/// The network of the published wiring for serving.
#[derive(Clone, Debug)]
pub struct PublishedRechead {
    shape: RecheadShape,
    /// (vocabulary, d) each: of the history, the thought and the answer.
    tables: [Vec<f32>; TABLES.len()],
    history: NormedMlp,
    thought: NormedMlp,
    layers: Vec<RecheadLayer>,
    gate: [RecheadLinear; MLP_LAYERS],
}

/// The tokens of a shopper's texts.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecheadTokens<'a> {
    /// Of the history.
    pub history: &'a [u32],
    /// Of the thought; none if there is no thought.
    pub thought: &'a [u32],
    /// Of the answer, if there is one.
    pub answer: Option<&'a [u32]>,
}

/// Linear layers with a norm before each and LeakyReLU between them.
#[derive(Clone, Debug)]
struct NormedMlp([(RecheadLayerNorm, RecheadLinear); MLP_LAYERS]);

// === impl PublishedRechead ===

impl PublishedRechead {
    /// Builds a network of this shape from its weights.
    pub fn new(weights: &Weights, shape: &RecheadShape) -> Result<Self, WeightsError> {
        shape.check()?;
        weights.check_tensors(shape.tensors())?;
        let load = RecheadLoader(weights);
        let [history, thought] = MLPS.map(|text| NormedMlp::load(&load, text));
        Ok(Self {
            tables: std::array::from_fn(|text| load.values(&RecheadShape::table(text))),
            history,
            thought,
            layers: (0..shape.layers).map(|layer| load.layer(layer)).collect(),
            gate: std::array::from_fn(|layer| load.linear(&format!("gate.{layer}"))),
            shape: shape.clone(),
        })
    }

    /// The sizes.
    pub fn shape(&self) -> &RecheadShape {
        &self.shape
    }

    /// The same network, which reads each text by the table of the next one: a check that the texts differ.
    pub fn with_texts_swapped(mut self) -> Self {
        self.tables.rotate_left(1);
        self
    }

    /// The vector (d) of an item, from its text's unit vector (d).
    pub fn item(&self, text: &[f32]) -> Vec<f32> {
        text.iter().map(|value| value * self.shape.item_length).collect()
    }

    /// The vector h_u (d) of a shopper, from the tokens of their texts.
    pub fn shopper(&self, of: RecheadTokens<'_>, scratch: &mut RecheadScratch) -> Vec<f32> {
        let d = self.shape.width;
        let mut encoded = Vec::new();
        // One closure: functions that are not inlined into it are compiled without vector features.
        vectorised(|| {
            let [of_history, of_thought, of_answer] = &self.tables;
            mean_row(of_history, d, of.history, &mut encoded);
            self.history.apply(&mut encoded, &mut scratch.normed);
            scratch.rows[0].clone_from(&encoded);
            mean_row(of_thought, d, of.thought, &mut encoded);
            self.thought.apply(&mut encoded, &mut scratch.normed);
            scratch.rows[1].clone_from(&encoded);
            let mut selected = scratch.rows[0].clone();
            if let Some(answer) = of.answer {
                mean_row(of_answer, d, answer, &mut selected);
            }
            scratch.rows[2].clone_from(&selected);
            for layer in &self.layers {
                layer.attend(self.shape.heads, NormPlace::After, scratch);
                layer.feed_forward(NormPlace::After, scratch);
            }
            let pooled = &scratch.rows[2];
            encoded.clone_from(&selected);
            encoded.extend_from_slice(pooled);
            for (place, layer) in self.gate.iter().enumerate() {
                if place > 0 {
                    leak(&mut encoded);
                }
                layer.apply(&encoded, &mut scratch.out);
                encoded.clone_from(&scratch.out);
            }
            let gate = self.shape.gamma / (1.0 + exp(-encoded[0]));
            for (value, pooled) in selected.iter_mut().zip(pooled) {
                *value += gate * pooled;
            }
            selected
        })
    }
}

/// The mean of the rows (d) of a text's tokens; zeros for a text without a token. Tokens past the table are left out.
#[expect(clippy::inline_always, reason = "it has to be compiled inside of `vectorised`")]
#[inline(always)]
fn mean_row(table: &[f32], d: usize, tokens: &[u32], mean: &mut Vec<f32>) {
    mean.clear();
    mean.resize(d, 0.0);
    let share = (tokens.len().max(1) as f32).recip();
    for &token in tokens {
        let row = table.get(token as usize * d..).and_then(|rows| rows.get(..d)).unwrap_or(&[]);
        for (mean, value) in mean.iter_mut().zip(row) {
            *mean += share * value;
        }
    }
}

#[expect(clippy::inline_always, reason = "it has to be compiled inside of `vectorised`")]
#[inline(always)]
fn leak(row: &mut [f32]) {
    for value in row {
        *value = value.max(LEAK as f32 * *value);
    }
}

// === impl NormedMlp ===

impl NormedMlp {
    fn load(load: &RecheadLoader<'_>, text: &str) -> Self {
        Self(std::array::from_fn(|layer| {
            (
                load.norm(&format!("{text}.norms.{layer}")),
                load.linear(&format!("{text}.layers.{layer}")),
            )
        }))
    }

    #[expect(clippy::inline_always, reason = "it has to be compiled inside of `vectorised`")]
    #[inline(always)]
    fn apply(&self, row: &mut Vec<f32>, normed: &mut Vec<f32>) {
        for (place, (norm, linear)) in self.0.iter().enumerate() {
            if place > 0 {
                leak(row);
            }
            norm.apply(row, normed);
            linear.apply(normed, row);
        }
    }
}
