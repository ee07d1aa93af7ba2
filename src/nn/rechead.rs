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
//!
//! The paper's published code wires it in another way ([`RecheadWiring::Published`]):
//!
//! ```text
//! e_x, e_y, e_z = means of the rows of each text's tokens, in a trained table for each text
//! r_x, r_y      = MLP(e_x), MLP(e_y)          r_z = e_z
//! r_sel = r_z if there is an answer, else r_x
//! pooled = the last row of Transformer([r_x; r_y; r_sel]), whose norms come after each part
//! h_u   = r_sel + γ · σ(MLP([r_sel || pooled])) · pooled         the gate is one number, γ = 0.1
//! s     = h_u · h_v                                              h_v is the item's text vector, which never moves
//! ```

mod published;
mod served;

pub use published::PublishedNetwork;
pub use served::{PaperRechead, PublishedRechead, Rechead, RecheadScratch, RecheadTokens};

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
    /// How its parts are wired.
    #[serde(default, skip_serializing_if = "RecheadWiring::is_paper")]
    pub wiring: RecheadWiring,
    /// Tokens of the published wiring's tables; 0 for the paper's wiring, which has none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub vocabulary: usize,
    /// The length of an item's vector in the published wiring. It stands for a temperature, which scores don't have.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub item_length: f32,
}

/// How the parts of a Rechead are wired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecheadWiring {
    /// As the paper describes it, over fixed vectors of texts.
    #[default]
    Paper,
    /// As the paper's published code has it, over the tokens of texts.
    Published,
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

/// The network of the paper's wiring for training with candle; its tensors are those of [`RecheadShape::tensors`].
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
/// The texts of the published wiring that have a table of their own.
const TABLES: [&str; 3] = ["history", "thought", "answer"];
/// Of them, those that pass through an MLP.
const MLPS: [&str; 2] = ["history", "thought"];
/// Linear layers of an MLP of the published wiring.
const MLP_LAYERS: usize = 3;
/// Tokens of a table, at most.
const VOCABULARY_MAX: usize = 1 << 20;
/// The published weight of the thought's correction.
pub const PUBLISHED_GAMMA: f32 = 0.1;

// === impl RecheadWiring ===

impl RecheadWiring {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
    fn is_paper(&self) -> bool {
        *self == Self::Paper
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

fn one() -> f32 {
    1.0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_one(number: &f32) -> bool {
    number.to_bits() == one().to_bits()
}

// === impl RecheadShape ===

impl RecheadShape {
    /// A Rechead over text vectors of this width, as the paper wires it.
    pub fn of(text: usize, width: usize, gamma: f32) -> Self {
        Self {
            text,
            width,
            ffn: 2 * width,
            heads: 4,
            layers: 1,
            gamma,
            wiring: RecheadWiring::Paper,
            vocabulary: 0,
            item_length: one(),
        }
    }

    /// A Rechead in the published wiring with its published sizes, over this many tokens and item vectors of this
    /// width.
    pub fn published(vocabulary: usize, width: usize, item_length: f32) -> Self {
        Self {
            text: width,
            width,
            ffn: 2_048,
            heads: 8,
            layers: 4,
            gamma: PUBLISHED_GAMMA,
            wiring: RecheadWiring::Published,
            vocabulary,
            item_length,
        }
    }

    /// The name of the published wiring's table of a text: 0 for the history, 1 for the thought, 2 for the answer.
    pub fn table(text: usize) -> String {
        format!("{}.table", TABLES[text])
    }

    /// The names and dimensions of its tensors.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut all = self.network_tensors();
        if self.wiring == RecheadWiring::Published {
            let dims = || vec![self.vocabulary, self.width];
            all.extend((0..TABLES.len()).map(|text| (Self::table(text), dims())));
        }
        all
    }

    /// The same without the tables of the published wiring, which training holds apart.
    pub fn network_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (e, d, f) = (self.text, self.width, self.ffn);
        let mut all = Tensors(Vec::new());
        match self.wiring {
            RecheadWiring::Paper => {
                for text in TEXTS {
                    all.linear(&format!("{text}.project"), e, d);
                    all.linear(&format!("{text}.up"), d, f);
                    all.linear(&format!("{text}.down"), f, d);
                }
                self.encoder_tensors(&mut all);
                all.norm("encoder.norm", d);
                all.linear("gate", 2 * d, d);
            }
            RecheadWiring::Published => {
                for text in MLPS {
                    for layer in 0..MLP_LAYERS {
                        all.norm(&format!("{text}.norms.{layer}"), d);
                        all.linear(&format!("{text}.layers.{layer}"), d, d);
                    }
                }
                self.encoder_tensors(&mut all);
                for (layer, (inputs, outputs)) in self.gate_sizes().into_iter().enumerate() {
                    all.linear(&format!("gate.{layer}"), inputs, outputs);
                }
            }
        }
        all.0
    }

    fn encoder_tensors(&self, all: &mut Tensors) {
        let (d, f) = (self.width, self.ffn);
        for layer in 0..self.layers {
            let layer = format!("encoder.layers.{layer}");
            all.norm(&format!("{layer}.norm1"), d);
            all.attention(&format!("{layer}.self_attn"), d);
            all.norm(&format!("{layer}.norm2"), d);
            all.linear(&format!("{layer}.linear1"), d, f);
            all.linear(&format!("{layer}.linear2"), f, d);
        }
    }

    /// (inputs, outputs) of each layer of the published wiring's gate.
    fn gate_sizes(&self) -> [(usize, usize); MLP_LAYERS] {
        let d = self.width;
        [(2 * d, d), (d, d), (d, 1)]
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
        if self.wiring == RecheadWiring::Published { self.check_published() } else { Ok(()) }
    }

    fn check_published(&self) -> std::result::Result<(), WeightsError> {
        let Self { text, width, vocabulary, item_length, .. } = *self;
        let wrong = |why: String| Err(WeightsError::Shape(why));
        if text != width {
            return wrong(format!(
                "`text` is {text}, and is to be `width`, {width}: items never move"
            ));
        }
        if !(1..=VOCABULARY_MAX).contains(&vocabulary) {
            return wrong(format!("`vocabulary` is {vocabulary}, not 1 to {VOCABULARY_MAX}"));
        }
        if !(item_length > 0.0 && item_length.is_finite()) {
            return wrong(format!("`item_length` is {item_length}, and is to be above 0"));
        }
        Ok(())
    }

    /// Initial weights without the tables of the published wiring; the same seed gives the same ones on every machine.
    pub fn random(&self, seed: u64) -> std::result::Result<Weights, WeightsError> {
        self.check()?;
        Ok(Weights::drawn(&self.network_tensors(), seed))
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
        let selected = selected(&history, &answer, &batch.answered)?;
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

/// r_sel (B, d): the answer's row where there is one, and else the history's.
fn selected(history: &Tensor, answer: &Tensor, answered: &Tensor) -> Result<Tensor> {
    let answered = answered.unsqueeze(1)?;
    answer.broadcast_mul(&answered)? + history.broadcast_mul(&answered.affine(-1.0, 1.0)?)?
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
