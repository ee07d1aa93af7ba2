//! The sizes of the scorer's network, and the names and dimensions of its tensors.

use serde::{Deserialize, Serialize};

/// The sizes of the scorer's network; part of a bundle's manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DinShape {
    /// Items of the catalogue; ids are 1..=items, and 0 is the unknown item.
    pub items: usize,
    /// Width of every hidden vector (d).
    pub width: usize,
    /// Width of a text vector (e).
    pub text: usize,
    /// Most reasons per item (M).
    pub reasons: usize,
    /// Dense features per candidate (F).
    pub features: usize,
    /// Most events of a history (H).
    pub history: usize,
    /// Buckets of an event's age.
    pub ages: usize,
    /// Kinds of event.
    pub kinds: usize,
    /// Heads of both attentions; divides `width`.
    pub heads: usize,
    /// Layers of the history's Transformer; none leaves the events as they are.
    pub layers: usize,
    /// Hidden width of a Transformer layer's feed-forward part.
    pub ffn: usize,
    /// Hidden widths of the target attention.
    pub attention: [usize; 2],
    /// Hidden widths of the head.
    pub head: [usize; 2],
    /// The inputs that the network may use.
    pub ablation: Ablation,
}

impl Default for DinShape {
    fn default() -> Self {
        Self {
            items: 0,
            width: 64,
            text: 64,
            reasons: 10,
            features: 16,
            history: 50,
            ages: 24,
            kinds: 5,
            heads: 4,
            layers: 2,
            ffn: 128,
            attention: [32, 16],
            head: [128, 32],
            ablation: Ablation::default(),
        }
    }
}

/// Which inputs the network uses; one that is off is replaced by zeros or by its null vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent switch of a table")]
pub struct Ablation {
    /// The reasons; off, every item has the vector of an item without reasons.
    pub reasons: bool,
    /// The target attention over the history; off, its result reads as zero.
    #[serde(skip_serializing_if = "Clone::clone")]
    pub history: bool,
    /// The id embeddings; off, an item is its text alone.
    pub ids: bool,
    /// The history's Transformer; off, events do not see each other.
    pub transformer: bool,
    /// The dense features; off, they read as zero.
    pub features: bool,
}

impl Ablation {
    /// Every input switched off.
    pub const ALL_OFF: Self =
        Self { reasons: false, history: false, ids: false, transformer: false, features: false };

    /// Each input switched off in turn.
    pub fn each() -> [Self; 5] {
        let all = Self::default();
        [
            Self { reasons: false, ..all },
            Self { history: false, ..all },
            Self { ids: false, ..all },
            Self { transformer: false, ..all },
            Self { features: false, ..all },
        ]
    }
}

impl Default for Ablation {
    fn default() -> Self {
        Self { reasons: true, history: true, ids: true, transformer: true, features: true }
    }
}

impl DinShape {
    /// Width of one attention head.
    pub fn head_width(&self) -> usize {
        self.width / self.heads
    }

    /// Layers that run: none when the Transformer is switched off.
    pub(super) fn depth(&self) -> usize {
        if self.ablation.transformer { self.layers } else { 0 }
    }

    /// Inputs of the head: `[h; v; h*v; c; x_p; f]`.
    pub(super) fn head_inputs(&self) -> usize {
        5 * self.width + self.features
    }

    /// Checks that the sizes are consistent; the error names those that are not.
    pub fn check(&self) -> Result<(), String> {
        let sizes = [self.width, self.text, self.reasons, self.features, self.history];
        let sizes = sizes.into_iter().chain([self.ages, self.kinds, self.heads, self.ffn]);
        if sizes.chain(self.attention).chain(self.head).any(|size| size == 0) {
            return Err("every size but `items` and `layers` must be at least 1".into());
        }
        if !self.width.is_multiple_of(self.heads) {
            return Err(format!("{} heads do not divide the width {}", self.heads, self.width));
        }
        Ok(())
    }

    /// Every tensor of the network: its PyTorch name and its dimensions.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (d, e) = (self.width, self.text);
        let mut all = Tensors(Vec::new());
        all.add("item_id.weight", &[self.items + 1, d]);
        all.linear("item_text", e, d);
        all.add("age.weight", &[self.ages, d]);
        all.add("kind.weight", &[self.kinds, d]);
        for layer in 0..self.layers {
            let layer = format!("encoder.layers.{layer}");
            all.norm(&format!("{layer}.norm1"), d);
            all.attention(&format!("{layer}.self_attn"), d);
            all.norm(&format!("{layer}.norm2"), d);
            all.linear(&format!("{layer}.linear1"), d, self.ffn);
            all.linear(&format!("{layer}.linear2"), self.ffn, d);
        }
        if self.layers > 0 {
            all.norm("encoder.norm", d);
        }
        all.mlp("target", 4 * d, self.attention);
        all.linear("pattern", e, d);
        all.add("no_pattern", &[d]);
        all.linear("reason", e, d);
        all.attention("reason_attention", d);
        all.add("own", &[self.heads]);
        all.add("no_reasons", &[d]);
        all.mlp("head", self.head_inputs(), self.head);
        all.0
    }
}

/// Names and dimensions of tensors, in PyTorch's naming.
pub(super) struct Tensors(pub(super) Vec<(String, Vec<usize>)>);

impl Tensors {
    fn add(&mut self, name: &str, dims: &[usize]) {
        self.0.push((name.into(), dims.into()));
    }

    pub(super) fn linear(&mut self, name: &str, inputs: usize, outputs: usize) {
        self.add(&format!("{name}.weight"), &[outputs, inputs]);
        self.add(&format!("{name}.bias"), &[outputs]);
    }

    pub(super) fn norm(&mut self, name: &str, width: usize) {
        self.add(&format!("{name}.weight"), &[width]);
        self.add(&format!("{name}.bias"), &[width]);
    }

    pub(super) fn attention(&mut self, name: &str, width: usize) {
        self.add(&format!("{name}.in_proj_weight"), &[3 * width, width]);
        self.add(&format!("{name}.in_proj_bias"), &[3 * width]);
        self.linear(&format!("{name}.out_proj"), width, width);
    }

    fn mlp(&mut self, name: &str, inputs: usize, hidden: [usize; 2]) {
        self.linear(&format!("{name}.0"), inputs, hidden[0]);
        self.linear(&format!("{name}.2"), hidden[0], hidden[1]);
        self.linear(&format!("{name}.4"), hidden[1], 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_do_not_fit_are_named() {
        assert_eq!(DinShape::default().check(), Ok(()));
        let odd = DinShape { heads: 5, ..DinShape::default() };
        assert!(odd.check().is_err_and(|why| why.contains("5 heads")));
        assert!(DinShape { ffn: 0, ..DinShape::default() }.check().is_err());
        assert!(DinShape { layers: 0, ..DinShape::default() }.check().is_ok());
    }

    #[test]
    fn an_ablation_without_the_switch_of_the_history_is_written_and_read_as_before() {
        let old = "reasons = true\nids = false\ntransformer = true\nfeatures = true\n";
        let read: Ablation = toml::from_str(old).unwrap();
        assert_eq!(read, Ablation { ids: false, ..Ablation::default() });
        assert_eq!(toml::to_string(&read).unwrap(), old);
        let off = Ablation { history: false, ..read };
        assert_eq!(toml::from_str::<Ablation>(&toml::to_string(&off).unwrap()).unwrap(), off);
    }

    #[test]
    fn no_layer_means_no_tensor_of_the_transformer() {
        let shape = DinShape { layers: 0, ..DinShape::default() };
        assert!(shape.tensors().iter().all(|(name, _)| !name.starts_with("encoder")));
    }
}
