//! The paper's wiring for serving.

use super::layers::{
    NormPlace, ROWS, RecheadLayer, RecheadLayerNorm, RecheadLinear, RecheadLoader, RecheadScratch,
    add_feed_forward,
};
use crate::nn::rechead::{RecheadShape, TEXTS};
use crate::nn::simd::{exp, vectorised};
use crate::nn::{Weights, WeightsError};

/// The network of the paper's wiring for serving.
#[derive(Clone, Debug)]
pub struct PaperRechead {
    shape: RecheadShape,
    /// `f` of history, thought and answer.
    written: [TextTower; 3],
    /// `f` of an item.
    item: TextTower,
    layers: Vec<RecheadLayer>,
    norm: RecheadLayerNorm,
    gate: RecheadLinear,
}

#[derive(Clone, Debug)]
struct TextTower {
    project: RecheadLinear,
    up: RecheadLinear,
    down: RecheadLinear,
}

// === impl PaperRechead ===

impl PaperRechead {
    /// Builds a network of this shape from its weights.
    pub fn new(weights: &Weights, shape: &RecheadShape) -> Result<Self, WeightsError> {
        shape.check()?;
        weights.check_tensors(shape.tensors())?;
        let load = RecheadLoader(weights);
        let [history, thought, answer, item] = TEXTS.map(|text| TextTower::load(&load, text));
        Ok(Self {
            written: [history, thought, answer],
            item,
            layers: (0..shape.layers).map(|layer| load.layer(layer)).collect(),
            norm: load.norm("encoder.norm"),
            gate: load.linear("gate"),
            shape: shape.clone(),
        })
    }

    /// Width of a shopper's and of an item's vector.
    pub fn width(&self) -> usize {
        self.shape.width
    }

    /// Width of a text's vector.
    pub fn text_width(&self) -> usize {
        self.shape.text
    }

    /// The same network, which reads each text by the `f` of the next one: a check that the texts differ.
    pub fn with_texts_swapped(mut self) -> Self {
        self.written.rotate_left(1);
        self
    }

    /// The vector (d) of an item, from its text's vector (e).
    pub fn item(&self, text: &[f32], scratch: &mut RecheadScratch) -> Vec<f32> {
        let mut item = Vec::new();
        vectorised(|| self.item.apply(text, &mut scratch.hidden, &mut item));
        item
    }

    /// The vector h_u (d) of a shopper, from the vectors (e) of history, thought and answer. A missing thought is a vector
    /// of zeros.
    pub fn shopper(
        &self,
        history: &[f32],
        thought: &[f32],
        answer: Option<&[f32]>,
        scratch: &mut RecheadScratch,
    ) -> Vec<f32> {
        let d = self.shape.width;
        // One closure: functions that are not inlined into it are compiled without vector features.
        vectorised(|| {
            let [of_history, of_thought, of_answer] = &self.written;
            of_history.apply(history, &mut scratch.hidden, &mut scratch.rows[0]);
            of_thought.apply(thought, &mut scratch.hidden, &mut scratch.rows[1]);
            let mut selected = Vec::new();
            match answer {
                Some(answer) => of_answer.apply(answer, &mut scratch.hidden, &mut selected),
                None => selected.extend_from_slice(&scratch.rows[0]),
            }
            scratch.rows[2].clone_from(&selected);
            for layer in &self.layers {
                layer.attend(self.shape.heads, NormPlace::Before, scratch);
                layer.feed_forward(NormPlace::Before, scratch);
            }
            let mut both = selected.clone();
            both.resize(2 * d, 0.0);
            for row in &scratch.rows {
                self.norm.apply(row, &mut scratch.normed);
                for (mean, value) in both[d..].iter_mut().zip(&scratch.normed) {
                    *mean += value / ROWS as f32;
                }
            }
            self.gate.apply(&both, &mut scratch.out);
            for ((value, gate), reasoned) in selected.iter_mut().zip(&scratch.out).zip(&both[d..]) {
                *value += self.shape.gamma / (1.0 + exp(0.5 - gate)) * reasoned;
            }
            selected
        })
    }
}

// === impl TextTower ===

impl TextTower {
    fn load(load: &RecheadLoader<'_>, text: &str) -> Self {
        let linear = |part| load.linear(&format!("{text}.{part}"));
        Self { project: linear("project"), up: linear("up"), down: linear("down") }
    }

    /// `p + down(relu(up(p)))` of `p = project(text)`.
    #[expect(clippy::inline_always, reason = "it has to be compiled inside of `vectorised`")]
    #[inline(always)]
    fn apply(&self, text: &[f32], hidden: &mut Vec<f32>, out: &mut Vec<f32>) {
        self.project.apply(text, out);
        add_feed_forward(&self.up, &self.down, &out.clone(), hidden, out);
    }
}
