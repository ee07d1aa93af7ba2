//! The network for serving: one shopper at a time, in plain loops that the compiler vectorises.
//!
//! A shopper's vector is computed once per card, an item's once per bundle. A request costs a dot product per candidate.

use super::{RecheadShape, TEXTS};
use crate::nn::simd::{dot, exp, max, sum, vectorised};
use crate::nn::{Weights, WeightsError};

/// Keeps the norm of a constant vector finite; PyTorch's default.
const NORM_EPSILON: f32 = 1e-5;
/// Rows of the Transformer: history, thought, and the selected one of history and answer.
const ROWS: usize = 3;

/// The network for serving.
#[derive(Clone, Debug)]
pub struct Rechead {
    shape: RecheadShape,
    /// `f` of history, thought and answer.
    written: [TextTower; 3],
    /// `f` of an item.
    item: TextTower,
    layers: Vec<RecheadLayer>,
    norm: RecheadLayerNorm,
    gate: RecheadLinear,
}

/// Reused buffers of a forward pass.
#[derive(Clone, Debug, Default)]
pub struct RecheadScratch {
    hidden: Vec<f32>,
    /// (rows, 3d): queries, keys, values.
    projected: Vec<f32>,
    rows: [Vec<f32>; ROWS],
    normed: Vec<f32>,
    out: Vec<f32>,
}

/// `W x + b`.
#[derive(Clone, Debug)]
struct RecheadLinear {
    /// (outputs, inputs)
    weight: Vec<f32>,
    bias: Vec<f32>,
}

#[derive(Clone, Debug)]
struct TextTower {
    project: RecheadLinear,
    up: RecheadLinear,
    down: RecheadLinear,
}

#[derive(Clone, Debug)]
struct RecheadLayer {
    norms: [RecheadLayerNorm; 2],
    project: RecheadLinear,
    out: RecheadLinear,
    up: RecheadLinear,
    down: RecheadLinear,
}

#[derive(Clone, Debug)]
struct RecheadLayerNorm {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

// === impl Rechead ===

impl Rechead {
    /// Builds a network of this shape from its weights.
    pub fn new(weights: &Weights, shape: &RecheadShape) -> Result<Self, WeightsError> {
        shape.check()?;
        weights.check_tensors(shape.tensors())?;
        let load = RecheadLoader(weights);
        let [history, thought, answer, item] = TEXTS.map(|text| load.text_head(text));
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
                layer.attend(self.shape.heads, scratch);
                layer.feed_forward(scratch);
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

// === impl RecheadLinear ===

impl RecheadLinear {
    #[expect(clippy::inline_always, reason = "it has to be compiled inside of `vectorised`")]
    #[inline(always)]
    fn apply(&self, row: &[f32], out: &mut Vec<f32>) {
        out.clear();
        let rows = self.weight.chunks_exact(row.len());
        out.extend(rows.zip(&self.bias).map(|(weights, bias)| dot(weights, row) + bias));
    }
}

// === impl TextTower ===

impl TextTower {
    /// `p + down(relu(up(p)))` of `p = project(text)`.
    #[expect(clippy::inline_always, reason = "it has to be compiled inside of `vectorised`")]
    #[inline(always)]
    fn apply(&self, text: &[f32], hidden: &mut Vec<f32>, out: &mut Vec<f32>) {
        self.project.apply(text, out);
        add_feed_forward(&self.up, &self.down, &out.clone(), hidden, out);
    }
}

// === impl RecheadLayer ===

impl RecheadLayer {
    /// rows += attention(norm(rows))
    #[expect(clippy::inline_always, reason = "it has to be compiled inside of `vectorised`")]
    #[inline(always)]
    fn attend(&self, heads: usize, scratch: &mut RecheadScratch) {
        let d = self.out.bias.len();
        scratch.projected.clear();
        for row in &scratch.rows {
            self.norms[0].apply(row, &mut scratch.normed);
            self.project.apply(&scratch.normed, &mut scratch.out);
            scratch.projected.extend_from_slice(&scratch.out);
        }
        let part = |row: usize, part: usize, head: usize| {
            let from = (3 * row + part) * d + head * (d / heads);
            &scratch.projected[from..from + d / heads]
        };
        let scale = ((d / heads) as f32).sqrt().recip();
        for row in 0..ROWS {
            scratch.normed.clear();
            scratch.normed.resize(d, 0.0);
            for (head, seen) in scratch.normed.chunks_exact_mut(d / heads).enumerate() {
                let logit = |other| dot(part(row, 0, head), part(other, 1, head)) * scale;
                let mut weights: [f32; ROWS] = std::array::from_fn(logit);
                let top = max(&weights);
                for weight in &mut weights {
                    *weight = exp(*weight - top);
                }
                let total = sum(&weights);
                for (other, weight) in weights.iter().enumerate() {
                    for (seen, value) in seen.iter_mut().zip(part(other, 2, head)) {
                        *seen += weight / total * value;
                    }
                }
            }
            self.out.apply(&scratch.normed, &mut scratch.out);
            for (value, more) in scratch.rows[row].iter_mut().zip(&scratch.out) {
                *value += more;
            }
        }
    }

    /// rows += down(relu(up(norm(rows))))
    #[expect(clippy::inline_always, reason = "it has to be compiled inside of `vectorised`")]
    #[inline(always)]
    fn feed_forward(&self, scratch: &mut RecheadScratch) {
        for row in &mut scratch.rows {
            self.norms[1].apply(row, &mut scratch.normed);
            add_feed_forward(&self.up, &self.down, &scratch.normed, &mut scratch.hidden, row);
        }
    }
}

/// out += down(relu(up(row)))
#[expect(clippy::inline_always, reason = "it has to be compiled inside of `vectorised`")]
#[inline(always)]
fn add_feed_forward(
    up: &RecheadLinear,
    down: &RecheadLinear,
    row: &[f32],
    hidden: &mut Vec<f32>,
    out: &mut [f32],
) {
    up.apply(row, hidden);
    for value in &mut *hidden {
        *value = value.max(0.0);
    }
    let rows = down.weight.chunks_exact(hidden.len());
    for ((value, weights), bias) in out.iter_mut().zip(rows).zip(&down.bias) {
        *value += dot(weights, hidden) + bias;
    }
}

// === impl RecheadLayerNorm ===

impl RecheadLayerNorm {
    #[expect(clippy::inline_always, reason = "it has to be compiled inside of `vectorised`")]
    #[inline(always)]
    fn apply(&self, row: &[f32], out: &mut Vec<f32>) {
        let mean = sum(row) / row.len() as f32;
        out.clear();
        out.extend(row.iter().map(|value| value - mean));
        let spread = (dot(out, out) / row.len() as f32 + NORM_EPSILON).sqrt().recip();
        for ((value, scale), shift) in out.iter_mut().zip(&self.scale).zip(&self.shift) {
            *value = *value * spread * scale + shift;
        }
    }
}

/// Reads weights that were checked.
struct RecheadLoader<'a>(&'a Weights);

impl RecheadLoader<'_> {
    fn values(&self, name: &str) -> Vec<f32> {
        self.0.get(name).expect("the tensors are checked before they are taken").to_vec()
    }

    fn linear(&self, name: &str) -> RecheadLinear {
        self.named(&format!("{name}.weight"), &format!("{name}.bias"))
    }

    fn named(&self, weight: &str, bias: &str) -> RecheadLinear {
        RecheadLinear { weight: self.values(weight), bias: self.values(bias) }
    }

    fn norm(&self, name: &str) -> RecheadLayerNorm {
        let RecheadLinear { weight: scale, bias: shift } = self.linear(name);
        RecheadLayerNorm { scale, shift }
    }

    fn text_head(&self, text: &str) -> TextTower {
        let linear = |part| self.linear(&format!("{text}.{part}"));
        TextTower { project: linear("project"), up: linear("up"), down: linear("down") }
    }

    fn layer(&self, layer: usize) -> RecheadLayer {
        let name = format!("encoder.layers.{layer}");
        let (linear, norm) = (
            |part| self.linear(&format!("{name}.{part}")),
            |part| self.norm(&format!("{name}.{part}")),
        );
        let project = ["weight", "bias"].map(|part| format!("{name}.self_attn.in_proj_{part}"));
        RecheadLayer {
            norms: [norm("norm1"), norm("norm2")],
            project: self.named(&project[0], &project[1]),
            out: linear("self_attn.out_proj"),
            up: linear("linear1"),
            down: linear("linear2"),
        }
    }
}
