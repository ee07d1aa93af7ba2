//! Packs named tensors for the fused network, and folds products of constant matrices.

use super::history::{EncoderLayer, HistoryEncoder};
use super::kernels::{FusedLayerNorm, PanelLinear, padded};
use super::reasons::ReasonAttention;
use super::score::ScoreHead;
use super::target::TargetAttention;
use super::{DinShape, FusedDin};
use crate::nn::simd::VectorLevel;
use crate::nn::{Weights, WeightsError};

impl FusedDin {
    /// Packs the weights for the widest vectors of this processor.
    pub fn new(weights: &Weights, shape: &DinShape) -> Result<Self, WeightsError> {
        Self::for_level(weights, shape, VectorLevel::best())
    }

    /// Packs the weights for a level of vector registers.
    pub fn for_level(
        weights: &Weights,
        shape: &DinShape,
        level: VectorLevel,
    ) -> Result<Self, WeightsError> {
        weights.check(shape)?;
        let load = FusedLoader { weights, shape, level };
        Ok(Self {
            shape: shape.clone(),
            level,
            item_ids: load.item_ids(),
            item_text: load.dense("item_text"),
            ages: load.values("age.weight").into(),
            kinds: load.values("kind.weight").into(),
            history: load.history(),
            target: load.target(),
            item_target: load.item_target(),
            item_head: load.item_head(),
            pattern: load.dense("pattern"),
            no_pattern: load.values("no_pattern").into(),
            reasons: load.reasons(),
            head: load.head(),
        })
    }
}

struct FusedLoader<'a> {
    weights: &'a Weights,
    shape: &'a DinShape,
    level: VectorLevel,
}

/// A matrix (outputs, inputs) and a bias, row-major.
struct Affine {
    inputs: usize,
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Affine {
    fn at(&self, output: usize, input: usize) -> f32 {
        self.weight[output * self.inputs + input]
    }

    /// The composition of this layer after `first` as one layer, computed in double precision.
    fn after(&self, first: &Affine) -> Affine {
        let outputs = self.bias.len();
        let sum = |output: usize, column: &dyn Fn(usize) -> f32| -> f64 {
            (0..self.inputs).map(|k| f64::from(self.at(output, k)) * f64::from(column(k))).sum()
        };
        let weight = (0..outputs * first.inputs)
            .map(|at| sum(at / first.inputs, &|k| first.at(k, at % first.inputs)) as f32)
            .collect();
        let bias = (0..outputs)
            .map(|o| (sum(o, &|k| first.bias[k]) + f64::from(self.bias[o])) as f32)
            .collect();
        Affine { inputs: first.inputs, weight, bias }
    }

    /// Rows `from..from + count`.
    fn rows(&self, from: usize, count: usize) -> Affine {
        Affine {
            inputs: self.inputs,
            weight: self.weight[from * self.inputs..(from + count) * self.inputs].into(),
            bias: self.bias[from..from + count].into(),
        }
    }

    /// Columns of some blocks of `width`, without the bias.
    fn block(&self, block: usize, width: usize) -> Affine {
        let rows = self.weight.chunks_exact(self.inputs);
        let weight = rows.flat_map(|row| &row[block * width..(block + 1) * width]).copied();
        Affine { inputs: width, weight: weight.collect(), bias: vec![0.0; self.bias.len()] }
    }
}

impl FusedLoader<'_> {
    fn values(&self, name: &str) -> &[f32] {
        self.weights.get(name).expect("the tensors are checked before they are packed")
    }

    fn affine(&self, weight: &str, bias: &str) -> Affine {
        let (weight, bias) = (self.values(weight).to_vec(), self.values(bias).to_vec());
        Affine { inputs: weight.len() / bias.len(), weight, bias }
    }

    fn layer(&self, name: &str) -> Affine {
        self.affine(&format!("{name}.weight"), &format!("{name}.bias"))
    }

    fn pack(&self, layer: &Affine) -> PanelLinear {
        PanelLinear::new(self.level, layer.inputs, &layer.bias, |output, k| layer.at(output, k))
    }

    fn dense(&self, name: &str) -> PanelLinear {
        self.pack(&self.layer(name))
    }

    /// The single row of a last layer, padded to whole panels, and its bias.
    fn last(&self, name: &str) -> (Vec<f32>, f32) {
        let layer = self.layer(name);
        let mut weights = layer.weight;
        weights.resize(padded(self.level, weights.len()), 0.0);
        (weights, layer.bias[0])
    }

    fn item_ids(&self) -> Vec<f32> {
        let rows = self.values("item_id.weight");
        if self.shape.ablation.ids { rows.into() } else { vec![0.0; rows.len()] }
    }

    fn history(&self) -> HistoryEncoder {
        let norm = |name: &str| FusedLayerNorm {
            scale: self.values(&format!("{name}.weight")).into(),
            shift: self.values(&format!("{name}.bias")).into(),
        };
        let layer = |index: usize| {
            let name = format!("encoder.layers.{index}");
            let attention = format!("{name}.self_attn");
            EncoderLayer {
                norms: [norm(&format!("{name}.norm1")), norm(&format!("{name}.norm2"))],
                project: self.pack(&self.in_project(&attention)),
                out: self.dense(&format!("{attention}.out_proj")),
                up: self.dense(&format!("{name}.linear1")),
                down: self.dense(&format!("{name}.linear2")),
            }
        };
        HistoryEncoder {
            layers: (0..self.shape.depth()).map(layer).collect(),
            norm: (self.shape.depth() > 0).then(|| norm("encoder.norm")),
            heads: self.shape.heads,
        }
    }

    /// Queries, keys and values, the queries divided by the root of a head's width.
    fn in_project(&self, name: &str) -> Affine {
        let mut all =
            self.affine(&format!("{name}.in_proj_weight"), &format!("{name}.in_proj_bias"));
        let (d, scale) = (self.shape.width, (self.shape.head_width() as f32).sqrt().recip());
        let queries = all.weight[..d * d].iter_mut().chain(&mut all.bias[..d]);
        queries.for_each(|value| *value *= scale);
        all
    }

    fn target(&self) -> TargetAttention {
        let (d, layer) = (self.shape.width, self.layer("target.0"));
        let outputs = vec![0.0; layer.bias.len()];
        let (third, third_bias) = self.last("target.4");
        TargetAttention {
            event: PanelLinear::new(self.level, d, &outputs, |o, k| {
                layer.at(o, d + k) - layer.at(o, 2 * d + k)
            }),
            pair: PanelLinear::new(self.level, d, &outputs, |o, k| layer.at(o, 3 * d + k)),
            second: self.dense("target.2"),
            third,
            third_bias,
        }
    }

    fn item_target(&self) -> PanelLinear {
        let (d, layer) = (self.shape.width, self.layer("target.0"));
        PanelLinear::new(self.level, d, &layer.bias, |o, k| layer.at(o, k) + layer.at(o, 2 * d + k))
    }

    fn reasons(&self) -> ReasonAttention {
        let d = self.shape.width;
        let inside = self.in_project("reason_attention");
        let project = inside.rows(d, 2 * d).after(&self.layer("reason"));
        ReasonAttention {
            project: self.pack(&project),
            query: self.pack(&inside.rows(0, d)),
            own: self.values("own").into(),
        }
    }

    /// The head's first layer restricted to v, without its bias.
    fn item_head(&self) -> PanelLinear {
        let (d, layer) = (self.shape.width, self.layer("head.0"));
        let outputs = vec![0.0; layer.bias.len()];
        PanelLinear::new(self.level, d, &outputs, |o, k| layer.at(o, d + k))
    }

    /// The blocks of the head's inputs are h, v, h*v, c, x_p and then the features.
    fn head(&self) -> ScoreHead {
        let (d, layer) = (self.shape.width, self.layer("head.0"));
        let context = layer.block(3, d);
        let out = context.after(&self.layer("reason_attention.out_proj"));
        let null =
            Affine { inputs: 1, weight: vec![0.0; d], bias: self.values("no_reasons").into() };
        let padded = |mut values: Vec<f32>| {
            values.resize(padded(self.level, values.len()), 0.0);
            values
        };
        let on = |switch: bool| if switch { 1.0 } else { 0.0 };
        let ablation = self.shape.ablation;
        let (history, features) = (on(ablation.history), on(ablation.features));
        let outputs = vec![0.0; layer.bias.len()];
        let inputs = 3 * d + self.shape.features;
        let candidate = PanelLinear::new(self.level, inputs, &outputs, |o, k| match k / d {
            0 => layer.at(o, k) * history,
            1 => layer.at(o, k + d) * history,
            2 => out.at(o, k - 2 * d),
            _ => layer.at(o, k + 2 * d) * features,
        });
        let (third, third_bias) = self.last("head.4");
        ScoreHead {
            candidate,
            slate: PanelLinear::new(self.level, d, &layer.bias, |o, k| layer.at(o, 4 * d + k)),
            some_reasons: padded(out.bias.clone()),
            no_reasons: padded(context.after(&null).bias),
            second: self.dense("head.2"),
            third,
            third_bias,
        }
    }
}
