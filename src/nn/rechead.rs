//! The Rechead (RPORec, B1): a two-tower head. A shopper is one vector, computed from texts; its dot product with an
//! item's vector is the score.
//!
//! ```text
//! r_x, r_y, r_z = f_his(x), f_cot(y), f_ans(z)      history, thought, answer: vectors of texts
//! r_sel = r_z if there is an answer, else r_x
//! r_rea = mean(Transformer([r_x; r_y; r_sel]))
//! h_u   = r_sel + γ · σ(f_gate([r_sel || r_rea]) − ½) · r_rea
//! s     = h_u · f_item(v)
//! ```
//!
//! The thought is an additive correction, which bounds the harm of a bad one. Each `f` is a projection with a residual
//! feed-forward part. The paper leaves open how the three rows are pooled (here: their mean) and the gate's width (here:
//! one number per dimension).

mod served;

pub use served::{Rechead, RecheadScratch};

use super::layers::{EncoderModule, LayerNormModule, LinearModule, sigmoid};
use super::shape::Tensors;
use super::{Weights, WeightsError};
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use serde::{Deserialize, Serialize};

/// The sizes of a Rechead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecheadShape {
    /// Width of a text's vector (e).
    pub text: usize,
    /// Width of a shopper's and of an item's vector (d).
    pub width: usize,
    /// Hidden width of every feed-forward part.
    pub ffn: usize,
    /// Heads of the Transformer; divides `width`.
    pub heads: usize,
    /// Its layers.
    pub layers: usize,
    /// The weight of the thought's correction (γ), in `0..=1`.
    pub gamma: f32,
}

/// A batch of B shoppers with N candidates each.
#[derive(Clone, Debug)]
pub struct RecheadBatch {
    /// (B, e): the vector of the history's text.
    pub history: Tensor,
    /// (B, e): the thought's vector; zeros if there is none.
    pub thought: Tensor,
    /// (B, e): the answer's vector; zeros if there is none.
    pub answer: Tensor,
    /// (B), 1 if there is an answer.
    pub answered: Tensor,
    /// (B, N, e): the vectors of the candidates' texts.
    pub items: Tensor,
}

/// The network for training with candle; its tensors are those of [`RecheadShape::tensors`].
#[derive(Debug)]
pub struct RecheadNetwork {
    gamma: f64,
    history: TextTowerModule,
    thought: TextTowerModule,
    answer: TextTowerModule,
    item: TextTowerModule,
    layers: Vec<EncoderModule>,
    norm: LayerNormModule,
    gate: LinearModule,
}

/// `f`: maps a text's vector (e) to the space of shoppers and items (d).
#[derive(Debug)]
struct TextTowerModule {
    project: LinearModule,
    up: LinearModule,
    down: LinearModule,
}

/// The names of the four `f`, in the order of their initialisation.
const TEXTS: [&str; 4] = ["history", "thought", "answer", "item"];

// === impl RecheadShape ===

impl RecheadShape {
    /// A Rechead over text vectors of this width.
    pub fn of(text: usize, width: usize, gamma: f32) -> Self {
        Self { text, width, ffn: 2 * width, heads: 4, layers: 1, gamma }
    }

    /// The names and dimensions of its tensors.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (e, d, f) = (self.text, self.width, self.ffn);
        let mut all = Tensors(Vec::new());
        for text in TEXTS {
            all.linear(&format!("{text}.project"), e, d);
            all.linear(&format!("{text}.up"), d, f);
            all.linear(&format!("{text}.down"), f, d);
        }
        for layer in 0..self.layers {
            let layer = format!("encoder.layers.{layer}");
            all.norm(&format!("{layer}.norm1"), d);
            all.attention(&format!("{layer}.self_attn"), d);
            all.norm(&format!("{layer}.norm2"), d);
            all.linear(&format!("{layer}.linear1"), d, f);
            all.linear(&format!("{layer}.linear2"), f, d);
        }
        all.norm("encoder.norm", d);
        all.linear("gate", 2 * d, d);
        all.0
    }

    /// Checks that the sizes are consistent.
    pub fn check(&self) -> std::result::Result<(), WeightsError> {
        let Self { text, width, ffn, heads, gamma, .. } = *self;
        let wrong = |why: String| Err(WeightsError::Shape(why));
        if [text, width, ffn, heads].contains(&0) {
            return wrong("a Rechead's sizes are at least 1".into());
        }
        if width % heads != 0 {
            return wrong(format!("`width` is {width}, which `heads`, {heads}, does not divide"));
        }
        if !(0.0..=1.0).contains(&gamma) {
            return wrong(format!("`gamma` is {gamma}, and is to be in 0..=1"));
        }
        Ok(())
    }

    /// Initial weights; the same seed gives the same ones on every machine.
    pub fn random(&self, seed: u64) -> std::result::Result<Weights, WeightsError> {
        self.check()?;
        Ok(Weights::drawn(&self.tensors(), seed))
    }
}

// === impl RecheadNetwork ===

impl RecheadNetwork {
    /// Takes the network's tensors from `vb`.
    pub fn new(shape: &RecheadShape, vb: &VarBuilder<'_>) -> Result<Self> {
        let d = shape.width;
        let [history, thought, answer, item] =
            TEXTS.map(|text| TextTowerModule::new(shape, &vb.pp(text)));
        let layer = |layer: usize| {
            let vb = vb.pp(format!("encoder.layers.{layer}"));
            EncoderModule::new(d, shape.ffn, shape.heads, &vb)
        };
        Ok(Self {
            gamma: shape.gamma.into(),
            history: history?,
            thought: thought?,
            answer: answer?,
            item: item?,
            layers: (0..shape.layers).map(layer).collect::<Result<_>>()?,
            norm: LayerNormModule::new(d, &vb.pp("encoder.norm"))?,
            gate: LinearModule::new(2 * d, d, &vb.pp("gate"))?,
        })
    }

    /// s (B, N).
    pub fn forward(&self, batch: &RecheadBatch) -> Result<Tensor> {
        let items = self.item.forward(&batch.items)?;
        let shoppers = self.shoppers(batch)?.unsqueeze(2)?;
        items.matmul(&shoppers)?.squeeze(2)
    }

    /// h_u (B, d).
    pub fn shoppers(&self, batch: &RecheadBatch) -> Result<Tensor> {
        let history = self.history.forward(&batch.history)?;
        let thought = self.thought.forward(&batch.thought)?;
        let answer = self.answer.forward(&batch.answer)?;
        let answered = batch.answered.unsqueeze(1)?;
        let selected = (answer.broadcast_mul(&answered)?
            + history.broadcast_mul(&answered.affine(-1.0, 1.0)?)?)?;
        let mut rows = Tensor::stack(&[&history, &thought, &selected], 1)?;
        for layer in &self.layers {
            rows = layer.forward(&rows, None)?;
        }
        let reasoned = self.norm.forward(&rows)?.mean(1)?;
        let gate = self.gate.forward(&Tensor::cat(&[&selected, &reasoned], 1)?)?;
        let gate = (sigmoid(&(gate - 0.5)?)? * self.gamma)?;
        selected + (gate * reasoned)?
    }
}

// === impl TextTowerModule ===

impl TextTowerModule {
    fn new(shape: &RecheadShape, vb: &VarBuilder<'_>) -> Result<Self> {
        let (d, f) = (shape.width, shape.ffn);
        Ok(Self {
            project: LinearModule::new(shape.text, d, &vb.pp("project"))?,
            up: LinearModule::new(d, f, &vb.pp("up"))?,
            down: LinearModule::new(f, d, &vb.pp("down"))?,
        })
    }

    /// (…, e) → (…, d)
    fn forward(&self, text: &Tensor) -> Result<Tensor> {
        let rows = self.project.forward(text)?;
        &rows + self.down.forward(&self.up.forward(&rows)?.relu()?)?
    }
}
