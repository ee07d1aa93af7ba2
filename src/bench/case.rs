//! Weights and slates for the scorer's network, from a file or from a seed.

use crate::nn::{
    CandidateRow, DinBatch, DinShape, FusedDin, FusedScores, FusedSlate, HistoryRow, InlineItem,
    ItemRef, ItemTable, ReasonTable, Weights,
};
use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;
use safetensors::SafeTensors;
use std::ops::Range;
use std::sync::Arc;

/// Standard deviation of the noise that is added to a random case's initial weights.
const WEIGHT_NOISE: f32 = 0.02;

/// A network, and slates of one size that are padded like a training batch.
#[derive(Debug)]
pub struct BenchCase {
    /// The network's sizes.
    pub shape: DinShape,
    /// The network's weights.
    pub weights: Weights,
    /// The outputs of another program, if the file has them: `logits` and `attention`.
    pub expected: Weights,
    /// The fields of [`DinBatch`] by name, and `catalogue`, (items, e).
    inputs: Weights,
}

/// The lengths of a random case's slates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlateFill {
    /// The longest history, all reasons, only known items.
    Full,
    /// All lengths from 0, with unknown items and missing patterns.
    Ragged,
}

/// A slate of a case in the form of the network that serves.
#[derive(Debug)]
pub struct PreparedSlate {
    /// The catalogue.
    pub items: Arc<ItemTable>,
    /// The reasons of all slates of one [`BenchCase::prepare_all`].
    pub reasons: Arc<ReasonTable>,
    inline: Vec<InlineItem>,
    history: Vec<(PreparedItem, u8, u8)>,
    pattern: Option<Vec<f32>>,
    candidates: Vec<PreparedCandidate>,
}

/// The rows of a [`PreparedSlate`], borrowed from it.
#[derive(Debug)]
pub struct PreparedRows<'a> {
    slate: &'a PreparedSlate,
    history: Vec<HistoryRow<'a>>,
    candidates: Vec<CandidateRow<'a>>,
}

#[derive(Debug, Clone, Copy)]
enum PreparedItem {
    Known(u32),
    Inline(usize),
}

/// Inline items, events (item, age, kind), pattern and candidates of a slate.
type SlateParts =
    (Vec<InlineItem>, Vec<(PreparedItem, u8, u8)>, Option<Vec<f32>>, Vec<PreparedCandidate>);

#[derive(Debug)]
struct PreparedCandidate {
    item: PreparedItem,
    features: Vec<f32>,
    reasons: Range<u32>,
    overlap: Vec<f32>,
}

impl BenchCase {
    /// Reads safetensors: `weights.*`, `inputs.*`, `expected.*`, and the shape in its metadata.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let (_, metadata) = SafeTensors::read_metadata(bytes)?;
        let shape = metadata.metadata().as_ref().and_then(|entries| entries.get("shape"));
        let shape = serde_json::from_str(shape.context("no `shape` in the file's metadata")?)?;
        let all = Weights::from_bytes(bytes)?;
        let part = |part: &str| {
            let mut tensors = Weights::default();
            for name in all.names().filter(|name| name.starts_with(part)) {
                let (dims, values) = (all.dims(name), all.get(name));
                let (dims, values) = dims.zip(values).expect("a listed tensor is there");
                tensors.insert(&name[part.len()..], dims, values.to_vec());
            }
            tensors
        };
        let [weights, inputs, expected] = ["weights.", "inputs.", "expected."].map(part);
        weights.check(&shape)?;
        Ok(Self { shape, weights, expected, inputs })
    }

    /// Draws weights, catalogue and slates. The same seed gives the same case.
    pub fn random(
        shape: &DinShape,
        seed: u64,
        (slates, candidates): (usize, usize),
        fill: SlateFill,
    ) -> Result<Self> {
        let mut draw = CaseGenerator { rng: ChaCha8Rng::seed_from_u64(seed), fill };
        let mut inputs = Weights::default();
        let (b, n, h, m, e) = (slates, candidates, shape.history, shape.reasons, shape.text);
        let catalogue = draw.normal(shape.items * e);
        for (name, count) in [("item", n), ("history", h)] {
            let ids = draw.ids(b * count, shape.items);
            let texts = ids.iter().flat_map(|&id| match id {
                0 => draw.normal(e),
                _ => catalogue[(id - 1) * e..id * e].to_vec(),
            });
            inputs.insert(&format!("{name}_texts"), &[b, count, e], texts.collect());
            let ids = ids.iter().map(|id| *id as f32).collect();
            inputs.insert(&format!("{name}_ids"), &[b, count], ids);
        }
        inputs.insert("catalogue", &[shape.items, e], catalogue);
        inputs.insert("features", &[b, n, shape.features], draw.normal(b * n * shape.features));
        inputs.insert("history_ages", &[b, h], draw.below(b * h, shape.ages));
        inputs.insert("history_kinds", &[b, h], draw.below(b * h, shape.kinds));
        inputs.insert("history_mask", &[b, h], draw.prefixes(b, h));
        inputs.insert("pattern", &[b, e], draw.normal(b * e));
        inputs.insert("pattern_known", &[b], draw.prefixes(b, 1));
        inputs.insert("reasons", &[b, n, m, e], draw.normal(b * n * m * e));
        inputs.insert("overlap", &[b, n, m], draw.unit(b * n * m));
        inputs.insert("reason_mask", &[b, n, m], draw.prefixes(b * n, m));
        let fresh = Weights::random(shape, seed)?;
        let mut weights = Weights::default();
        for (name, dims) in shape.tensors() {
            // Initial weights are zeros and ones in part, which could hide a mistake.
            let mut values = draw.normal(dims.iter().product());
            for (value, fresh) in values.iter_mut().zip(fresh.get(&name).unwrap_or_default()) {
                *value = fresh + *value * WEIGHT_NOISE;
            }
            weights.insert(&name, &dims, values);
        }
        Ok(Self { shape: shape.clone(), weights, expected: Weights::default(), inputs })
    }

    /// (slates, candidates of each).
    pub fn sizes(&self) -> (usize, usize) {
        let dims = self.inputs.dims("item_ids").unwrap_or(&[0, 0]);
        (dims[0], dims[1])
    }

    /// The slates in the form of the network that is trained.
    pub fn batch(&self) -> Result<DinBatch> {
        let tensor = |name: &str| -> Result<Tensor> {
            let dims = self.inputs.dims(name).with_context(|| format!("no input `{name}`"))?;
            Ok(Tensor::from_slice(self.values(name)?, dims, &Device::Cpu)?)
        };
        let whole = |name: &str| anyhow::Ok(tensor(name)?.to_dtype(DType::U32)?);
        Ok(DinBatch {
            item_ids: whole("item_ids")?,
            item_texts: tensor("item_texts")?,
            features: tensor("features")?,
            history_ids: whole("history_ids")?,
            history_texts: tensor("history_texts")?,
            history_ages: whole("history_ages")?,
            history_kinds: whole("history_kinds")?,
            history_mask: tensor("history_mask")?,
            pattern: tensor("pattern")?,
            pattern_known: tensor("pattern_known")?,
            reasons: tensor("reasons")?,
            overlap: tensor("overlap")?,
            reason_mask: tensor("reason_mask")?,
        })
    }

    /// Slate `index` in the form of the network that serves, with its tables computed.
    pub fn prepare(&self, fused: &FusedDin, index: usize) -> Result<PreparedSlate> {
        let prepared = self.prepare_all(fused, index..index + 1)?.pop();
        prepared.context("a range of one slate holds one")
    }

    /// The same for several slates, which share their tables.
    pub fn prepare_all(
        &self,
        fused: &FusedDin,
        slates: Range<usize>,
    ) -> Result<Vec<PreparedSlate>> {
        let items = Arc::new(fused.items(self.values("catalogue")?)?);
        let mut texts = Vec::new();
        let rows = slates.map(|index| self.parts(fused, index, &mut texts));
        let rows = rows.collect::<Result<Vec<_>>>()?;
        let reasons = Arc::new(fused.reasons(&texts)?);
        let prepared = rows.into_iter().map(|(inline, history, pattern, candidates)| {
            let (items, reasons) = (items.clone(), reasons.clone());
            PreparedSlate { items, reasons, inline, history, pattern, candidates }
        });
        Ok(prepared.collect())
    }

    /// The parts of slate `index`. The texts of its reasons are appended to `reasons`.
    fn parts(&self, fused: &FusedDin, index: usize, reasons: &mut Vec<f32>) -> Result<SlateParts> {
        let (_, n) = self.sizes();
        let (h, m, e, f) =
            (self.shape.history, self.shape.reasons, self.shape.text, self.shape.features);
        let mut inline = Vec::new();
        let mut item = |ids: &str, texts: &str, at: usize| -> Result<PreparedItem> {
            let id = self.values(ids)?[at] as u32;
            if let Some(row) = id.checked_sub(1) {
                return Ok(PreparedItem::Known(row));
            }
            inline.push(fused.item_inline(&self.values(texts)?[at * e..][..e])?);
            Ok(PreparedItem::Inline(inline.len() - 1))
        };
        let (ages, kinds) = (self.values("history_ages")?, self.values("history_kinds")?);
        let events = prefix_length(&self.values("history_mask")?[index * h..][..h])?;
        let history = (index * h..index * h + events)
            .map(|at| {
                Ok((item("history_ids", "history_texts", at)?, ages[at] as u8, kinds[at] as u8))
            })
            .collect::<Result<_>>()?;
        let mut candidates = Vec::new();
        for at in index * n..(index + 1) * n {
            let count = prefix_length(&self.values("reason_mask")?[at * m..][..m])?;
            let first = (reasons.len() / e) as u32;
            reasons.extend_from_slice(&self.values("reasons")?[at * m * e..][..count * e]);
            candidates.push(PreparedCandidate {
                item: item("item_ids", "item_texts", at)?,
                features: self.values("features")?[at * f..][..f].into(),
                reasons: first..first + count as u32,
                overlap: self.values("overlap")?[at * m..][..count].into(),
            });
        }
        let pattern = &self.values("pattern")?[index * e..][..e];
        let pattern = (self.values("pattern_known")?[index] > 0.0).then(|| pattern.to_vec());
        Ok((inline, history, pattern, candidates))
    }

    /// Logits (N) and attention (N, M) of slate `index` by the network that serves.
    pub fn score(&self, fused: &FusedDin, index: usize) -> Result<FusedScores> {
        let mut scores = FusedScores::default();
        let prepared = self.prepare(fused, index)?;
        prepared.with_slate(|slate| fused.score(slate, &mut fused.scratch(), &mut scores))?;
        Ok(scores)
    }

    fn values(&self, name: &str) -> Result<&[f32]> {
        self.inputs.get(name).with_context(|| format!("no input `{name}`"))
    }
}

impl PreparedSlate {
    /// Calls `use_it` with the slate.
    pub fn with_slate<T>(&self, use_it: impl FnOnce(&FusedSlate<'_>) -> T) -> T {
        use_it(&self.rows().slate())
    }

    /// Borrows the slate's rows.
    pub fn rows(&self) -> PreparedRows<'_> {
        let item = |item| match item {
            PreparedItem::Known(row) => ItemRef::Row(row),
            PreparedItem::Inline(index) => ItemRef::Inline(&self.inline[index]),
        };
        let event =
            |&(at, age, kind): &(PreparedItem, u8, u8)| HistoryRow { item: item(at), age, kind };
        let candidates = self.candidates.iter().map(|row| CandidateRow {
            item: item(row.item),
            features: &row.features,
            reasons: row.reasons.clone(),
            overlap: &row.overlap,
        });
        let candidates = candidates.collect();
        PreparedRows { slate: self, history: self.history.iter().map(event).collect(), candidates }
    }
}

impl PreparedRows<'_> {
    /// The slate.
    pub fn slate(&self) -> FusedSlate<'_> {
        FusedSlate {
            items: &self.slate.items,
            reasons: &self.slate.reasons,
            history: &self.history,
            pattern: self.slate.pattern.as_deref(),
            candidates: &self.candidates,
        }
    }
}

/// The length of a mask's leading ones; the rest must be zeros.
fn prefix_length(mask: &[f32]) -> Result<usize> {
    let ones = mask.iter().take_while(|value| **value > 0.0).count();
    ensure!(mask[ones..].iter().all(|value| *value <= 0.0), "a mask is not ones followed by zeros");
    Ok(ones)
}

struct CaseGenerator {
    rng: ChaCha8Rng,
    fill: SlateFill,
}

impl CaseGenerator {
    fn normal(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.rng.sample(StandardNormal)).collect()
    }

    fn unit(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.rng.random()).collect()
    }

    fn below(&mut self, count: usize, limit: usize) -> Vec<f32> {
        (0..count).map(|_| self.rng.random_range(0..limit) as f32).collect()
    }

    /// Ids up to `items`; in a ragged case, 0 (the unknown item) is among them.
    fn ids(&mut self, count: usize, items: usize) -> Vec<usize> {
        let lowest = usize::from(self.fill == SlateFill::Full);
        (0..count).map(|_| self.rng.random_range(lowest..=items)).collect()
    }

    /// Masks of `size`: all ones, or ones up to a random length in a ragged case.
    fn prefixes(&mut self, rows: usize, size: usize) -> Vec<f32> {
        let mut mask = Vec::with_capacity(rows * size);
        for _ in 0..rows {
            let lowest = if self.fill == SlateFill::Full { size } else { 0 };
            let ones = self.rng.random_range(lowest..=size);
            mask.extend((0..size).map(|at| if at < ones { 1.0 } else { 0.0 }));
        }
        mask
    }
}
