//! The layers that both wirings share in serving: plain loops that the compiler vectorises.

use crate::nn::Weights;
use crate::nn::simd::{dot, exp, max, sum};

/// Keeps the norm of a constant vector finite; PyTorch's default.
const NORM_EPSILON: f32 = 1e-5;
/// Rows of the Transformer: history, thought, and the selected one of history and answer.
pub(super) const ROWS: usize = 3;

/// Where a layer's norms stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NormPlace {
    /// Before each part.
    Before,
    /// After each part's sum, PyTorch's default.
    After,
}

/// `W x + b`.
#[derive(Clone, Debug)]
pub(super) struct RecheadLinear {
    /// (outputs, inputs)
    weight: Vec<f32>,
    bias: Vec<f32>,
}

/// A layer of the Transformer over the rows.
#[derive(Clone, Debug)]
pub(super) struct RecheadLayer {
    norms: [RecheadLayerNorm; 2],
    project: RecheadLinear,
    out: RecheadLinear,
    up: RecheadLinear,
    down: RecheadLinear,
}

#[derive(Clone, Debug)]
pub(super) struct RecheadLayerNorm {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

/// Reused buffers of a forward pass.
#[derive(Clone, Debug, Default)]
pub struct RecheadScratch {
    pub(super) hidden: Vec<f32>,
    /// (rows, 3d): queries, keys, values.
    projected: Vec<f32>,
    pub(super) rows: [Vec<f32>; ROWS],
    pub(super) normed: Vec<f32>,
    pub(super) out: Vec<f32>,
}

// === impl RecheadLinear ===

impl RecheadLinear {
    #[expect(clippy::inline_always, reason = "it has to be compiled inside of `vectorised`")]
    #[inline(always)]
    pub fn apply(&self, row: &[f32], out: &mut Vec<f32>) {
        out.clear();
        let rows = self.weight.chunks_exact(row.len());
        out.extend(rows.zip(&self.bias).map(|(weights, bias)| dot(weights, row) + bias));
    }
}

// === impl RecheadLayer ===

impl RecheadLayer {
    /// `rows += attention(norm(rows))`, or `rows = norm(rows + attention(rows))`.
    #[expect(clippy::inline_always, reason = "it has to be compiled inside of `vectorised`")]
    #[inline(always)]
    pub fn attend(&self, heads: usize, norm: NormPlace, scratch: &mut RecheadScratch) {
        let d = self.out.bias.len();
        scratch.projected.clear();
        for row in &scratch.rows {
            match norm {
                NormPlace::Before => {
                    self.norms[0].apply(row, &mut scratch.normed);
                    self.project.apply(&scratch.normed, &mut scratch.out);
                }
                NormPlace::After => self.project.apply(row, &mut scratch.out),
            }
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
            if norm == NormPlace::After {
                self.norms[0].apply(&scratch.rows[row], &mut scratch.normed);
                scratch.rows[row].clone_from(&scratch.normed);
            }
        }
    }

    /// `rows += down(relu(up(norm(rows))))`, or `rows = norm(rows + down(relu(up(rows))))`.
    #[expect(clippy::inline_always, reason = "it has to be compiled inside of `vectorised`")]
    #[inline(always)]
    pub fn feed_forward(&self, norm: NormPlace, scratch: &mut RecheadScratch) {
        let RecheadScratch { rows, normed, hidden, .. } = scratch;
        for row in rows {
            match norm {
                NormPlace::Before => {
                    self.norms[1].apply(row, normed);
                    add_feed_forward(&self.up, &self.down, normed, hidden, row);
                }
                NormPlace::After => {
                    normed.clone_from(row);
                    add_feed_forward(&self.up, &self.down, normed, hidden, row);
                    self.norms[1].apply(row, normed);
                    row.clone_from(normed);
                }
            }
        }
    }
}

/// out += down(relu(up(row)))
#[expect(clippy::inline_always, reason = "it has to be compiled inside of `vectorised`")]
#[inline(always)]
pub(super) fn add_feed_forward(
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
    pub fn apply(&self, row: &[f32], out: &mut Vec<f32>) {
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
pub(super) struct RecheadLoader<'a>(pub &'a Weights);

impl RecheadLoader<'_> {
    pub fn values(&self, name: &str) -> Vec<f32> {
        self.0.get(name).expect("the tensors are checked before they are taken").to_vec()
    }

    pub fn linear(&self, name: &str) -> RecheadLinear {
        self.named(&format!("{name}.weight"), &format!("{name}.bias"))
    }

    fn named(&self, weight: &str, bias: &str) -> RecheadLinear {
        RecheadLinear { weight: self.values(weight), bias: self.values(bias) }
    }

    pub fn norm(&self, name: &str) -> RecheadLayerNorm {
        let RecheadLinear { weight: scale, bias: shift } = self.linear(name);
        RecheadLayerNorm { scale, shift }
    }

    pub fn layer(&self, layer: usize) -> RecheadLayer {
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
