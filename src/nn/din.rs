//! The scorer's network as candle trains it: reasons, history, target attention, head.

use super::DinShape;
use super::dropout::{Dropout, drop};
use super::layers::{
    AttentionModule, EncoderModule, FAR, LayerNormModule, LinearModule, repeat, softmax,
};
use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;

/// A batch of slates. B slates, N candidates, H ≥ 1 events, M reasons.
///
/// Padded entries may hold anything finite and valid; the masks are 1 where an entry counts.
#[derive(Debug, Clone)]
pub struct DinBatch {
    /// (B, N) u32; 0 is the unknown item.
    pub item_ids: Tensor,
    /// (B, N, e)
    pub item_texts: Tensor,
    /// (B, N, F)
    pub features: Tensor,
    /// (B, H) u32
    pub history_ids: Tensor,
    /// (B, H, e)
    pub history_texts: Tensor,
    /// (B, H) u32, buckets
    pub history_ages: Tensor,
    /// (B, H) u32
    pub history_kinds: Tensor,
    /// (B, H)
    pub history_mask: Tensor,
    /// (B, e)
    pub pattern: Tensor,
    /// (B), 1 where the shopper has a pattern
    pub pattern_known: Tensor,
    /// (B, N, M, e)
    pub reasons: Tensor,
    /// (B, N, M), 0 to 1: how strongly the shopper's own history backs the reason's evidence
    pub overlap: Tensor,
    /// (B, N, M)
    pub reason_mask: Tensor,
}

/// The network's output.
#[derive(Debug, Clone)]
pub struct DinOutput {
    /// (B, N)
    pub logits: Tensor,
    /// (B, N, M): attention over the reasons, mean of the heads; zeros where there is none
    pub attention: Tensor,
}

/// The network; its tensors are those of [`DinShape::tensors`].
#[derive(Debug)]
pub struct Din {
    shape: DinShape,
    item_id: Tensor,
    item_text: LinearModule,
    age: Tensor,
    kind: Tensor,
    encoder: Vec<EncoderModule>,
    encoder_norm: Option<LayerNormModule>,
    target: [LinearModule; 3],
    pattern: LinearModule,
    no_pattern: Tensor,
    reason: LinearModule,
    reason_attention: AttentionModule,
    own: Tensor,
    no_reasons: Tensor,
    head: [LinearModule; 3],
}

// === Loading ===

impl Din {
    /// Takes the network's tensors from `vb`.
    pub fn new(shape: &DinShape, vb: &VarBuilder<'_>) -> Result<Self> {
        shape.check().map_err(candle_core::Error::msg)?;
        let (d, e) = (shape.width, shape.text);
        let layers = 0..shape.depth();
        Ok(Self {
            item_id: vb.get((shape.items + 1, d), "item_id.weight")?,
            item_text: LinearModule::new(e, d, &vb.pp("item_text"))?,
            age: vb.get((shape.ages, d), "age.weight")?,
            kind: vb.get((shape.kinds, d), "kind.weight")?,
            encoder: layers
                .map(|layer| {
                    let vb = vb.pp(format!("encoder.layers.{layer}"));
                    EncoderModule::new(d, shape.ffn, shape.heads, &vb)
                })
                .collect::<Result<_>>()?,
            encoder_norm: (shape.depth() > 0)
                .then(|| LayerNormModule::new(d, &vb.pp("encoder.norm")))
                .transpose()?,
            target: mlp(4 * d, shape.attention, &vb.pp("target"))?,
            pattern: LinearModule::new(e, d, &vb.pp("pattern"))?,
            no_pattern: vb.get(d, "no_pattern")?,
            reason: LinearModule::new(e, d, &vb.pp("reason"))?,
            reason_attention: AttentionModule::new(d, &vb.pp("reason_attention"))?,
            own: vb.get(shape.heads, "own")?,
            no_reasons: vb.get(d, "no_reasons")?,
            head: mlp(shape.head_inputs(), shape.head, &vb.pp("head"))?,
            shape: shape.clone(),
        })
    }
}

fn mlp(inputs: usize, hidden: [usize; 2], vb: &VarBuilder<'_>) -> Result<[LinearModule; 3]> {
    Ok([
        LinearModule::new(inputs, hidden[0], &vb.pp("0"))?,
        LinearModule::new(hidden[0], hidden[1], &vb.pp("2"))?,
        LinearModule::new(hidden[1], 1, &vb.pp("4"))?,
    ])
}

// === The pass ===

impl Din {
    /// Scores the candidates of each slate.
    pub fn forward(&self, batch: &DinBatch) -> Result<DinOutput> {
        self.pass(batch, None)
    }

    /// The same with dropout on the events and on the head's first hidden layer.
    pub fn forward_train(&self, batch: &DinBatch, dropout: &mut Dropout) -> Result<DinOutput> {
        self.pass(batch, Some(dropout))
    }

    fn pass(&self, batch: &DinBatch, mut dropout: Option<&mut Dropout>) -> Result<DinOutput> {
        let (b, n) = batch.item_ids.dims2()?;
        let (items, events) = self.items_and_events(batch)?;
        let events = drop(dropout.as_deref_mut(), events)?;
        let events = self.encode(events, &batch.history_mask)?;
        let interest = if self.shape.ablation.history {
            self.target_attention(&items, &events, &batch.history_mask)?
        } else {
            items.zeros_like()?
        };
        let pattern = self.shopper_pattern(batch)?;
        let (reasons, attention) = self.reasons(batch, &pattern)?;
        let features = if self.shape.ablation.features {
            batch.features.clone()
        } else {
            batch.features.zeros_like()?
        };
        let both = (&interest * &items)?;
        let patterns = pattern.unsqueeze(1)?.repeat((1, n, 1))?;
        let inputs = Tensor::cat(&[&interest, &items, &both, &reasons, &patterns, &features], 2)?;
        let hidden = self.head[0].forward(&inputs.reshape((b * n, ()))?)?.relu()?;
        let hidden = self.head[1].forward(&drop(dropout, hidden)?)?.relu()?;
        let logits = self.head[2].forward(&hidden)?.reshape((b, n))?;
        Ok(DinOutput { logits, attention })
    }

    /// v (B, N, d) and s (B, H, d).
    ///
    /// One gather for both, because each gather's gradient is a table as large as the catalogue.
    fn items_and_events(&self, batch: &DinBatch) -> Result<(Tensor, Tensor)> {
        let (b, n) = batch.item_ids.dims2()?;
        let h = batch.history_ids.dim(1)?;
        let texts =
            Tensor::cat(&[batch.item_texts.flatten(0, 1)?, batch.history_texts.flatten(0, 1)?], 0)?;
        let mut rows = self.item_text.forward(&texts)?;
        if self.shape.ablation.ids {
            let ids = [batch.item_ids.flatten_all()?, batch.history_ids.flatten_all()?];
            rows = (rows + self.item_id.index_select(&Tensor::cat(&ids, 0)?, 0)?)?;
        }
        let ages = self.age.index_select(&batch.history_ages.flatten_all()?, 0)?;
        let kinds = self.kind.index_select(&batch.history_kinds.flatten_all()?, 0)?;
        let events = ((rows.narrow(0, b * n, b * h)? + ages)? + kinds)?;
        Ok((rows.narrow(0, 0, b * n)?.reshape((b, n, ()))?, events.reshape((b, h, ()))?))
    }

    /// S = Transformer(s), (B, H, d).
    fn encode(&self, mut events: Tensor, mask: &Tensor) -> Result<Tensor> {
        // (B, 1, 1, H) → every head and query
        let (b, h) = mask.dims2()?;
        let far = mask.affine(-FAR, FAR)?.reshape((b, 1, 1, h))?;
        let far = far.broadcast_as((b, self.shape.heads, h, h))?.contiguous()?;
        for layer in &self.encoder {
            events = layer.forward(&events, Some(&far))?;
        }
        match &self.encoder_norm {
            Some(norm) => norm.forward(&events),
            None => Ok(events),
        }
    }

    /// h (B, N, d) of items v (B, N, d) and events S (B, H, d).
    ///
    /// The first layer is `(W1+W3) v + (W2-W3) S + W4 (v*S) + b`. Folded over the candidate it is
    /// linear in S: for each candidate a matrix `diag(v) W4 + (W2-W3)` and a last row for the
    /// rest, so that all pairs of a slate are one product and no (B, N, H, 4d) is ever made.
    fn target_attention(&self, items: &Tensor, events: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let ((b, n, d), h) = (items.dims3()?, events.dim(1)?);
        let weight = &self.target[0].weight;
        let [w1, w2, w3, w4] = [0, 1, 2, 3].map(|part| weight.narrow(1, part * d, d));
        let (w1, w2, w3, w4) = (w1?, w2?, w3?, w4?);
        let constant = LinearModule { weight: (w1 + &w3)?, bias: self.target[0].bias.clone() };
        let constant = constant.forward(items)?.reshape((b, 1, ()))?;

        // (d, B*N, 2) x (d, 2, o): the outer products of both terms at once
        let flat = items.reshape((b * n, d))?.t()?.contiguous()?.unsqueeze(2)?;
        let left = Tensor::cat(&[&flat, &flat.ones_like()?], 2)?;
        let right = Tensor::stack(&[w4.t()?, (w2 - w3)?.t()?], 1)?;
        let folded = left.matmul(&right)?.reshape((d, b, ()))?.transpose(0, 1)?;
        let folded = Tensor::cat(&[folded.contiguous()?, constant], 1)?;

        let ones = Tensor::ones((b, h, 1), DType::F32, events.device())?;
        let pairs = Tensor::cat(&[events, &ones], 2)?.matmul(&folded)?;
        let hidden = pairs.reshape((b * h * n, ()))?.relu()?;
        let hidden = self.target[1].forward(&hidden)?.relu()?;
        let weights = self.target[2].forward(&hidden)?.reshape((b, h, n))?;

        let events = events.broadcast_mul(&mask.unsqueeze(2)?)?;
        let interest = weights.transpose(1, 2)?.contiguous()?.matmul(&events)?;
        let scale = mask.sum_keepdim(1)?.maximum(1.0)?.sqrt()?.recip()?.unsqueeze(2)?;
        interest.broadcast_mul(&scale)
    }

    /// x_p (B, d), the null vector where there is no pattern.
    fn shopper_pattern(&self, batch: &DinBatch) -> Result<Tensor> {
        let known = batch.pattern_known.unsqueeze(1)?;
        let pattern = self.pattern.forward(&batch.pattern)?.broadcast_mul(&known)?;
        let null = known.affine(-1.0, 1.0)?.matmul(&self.no_pattern.unsqueeze(0)?)?;
        pattern + null
    }

    /// c (B, N, d), and the attention (B, N, M).
    ///
    /// The query is one per slate, so it is taken to the space of the texts, where the reasons
    /// already are; and values are mixed before they are projected. Both save projecting every
    /// reason. The key's bias adds the same to all logits of a head, which softmax takes out.
    fn reasons(&self, batch: &DinBatch, pattern: &Tensor) -> Result<(Tensor, Tensor)> {
        let (b, n, m, e) = batch.reasons.dims4()?;
        let (heads, width) = (self.shape.heads, self.shape.head_width());
        let none = self.no_reasons.reshape((1, 1, ()))?;
        if !self.shape.ablation.reasons {
            let attention = batch.reason_mask.zeros_like()?;
            return Ok((none.broadcast_as((b, n, heads * width))?.contiguous()?, attention));
        }
        let texts = batch.reasons.reshape((b * n, m, e))?;

        let queries = self.reason_attention.part(0)?.forward(pattern)?;
        let queries = (queries * (width as f64).sqrt().recip())?;
        let queries = queries.reshape((b, heads, width))?.transpose(0, 1)?.contiguous()?;
        let keys = self.reason_attention.part(1)?.weight.matmul(&self.reason.weight)?;
        let queries = queries.matmul(&keys.reshape((heads, width, e))?)?; // (heads, B, e)
        let queries = queries.permute((1, 2, 0))?.contiguous()?; // (B, e, heads)
        let logits = texts.reshape((b, n * m, e))?.matmul(&queries)?.reshape((b * n * m, heads))?;
        let own = batch.overlap.reshape((b * n * m, 1))?.matmul(&self.own.unsqueeze(0)?)?;
        let far = batch.reason_mask.reshape((b * n * m, 1))?.affine(-FAR, FAR)?;
        let logits = (logits + own)?.broadcast_add(&far)?.reshape((b * n, m, heads))?;
        let attention = softmax(&logits.transpose(1, 2)?.contiguous()?)?; // (B*N, heads, M)

        let mixed = attention.matmul(&texts)?.transpose(0, 1)?.contiguous()?; // (heads, B*N, e)
        let project = self.reason_attention.part(2)?;
        let values = project.weight.matmul(&self.reason.weight)?.reshape((heads, width, e))?;
        let mixed = mixed.matmul(&values.transpose(1, 2)?)?;
        let mixed = mixed.transpose(0, 1)?.reshape((b * n, heads * width))?;
        let bias = project.forward(&self.reason.bias.unsqueeze(0)?)?.squeeze(0)?;
        let mixed = (&mixed + repeat(&bias, mixed.dims())?)?;
        let context = self.reason_attention.out.forward(&mixed)?.reshape((b, n, ()))?;

        let any = batch.reason_mask.max_keepdim(2)?;
        let context = context.broadcast_mul(&any)?;
        let null = any.affine(-1.0, 1.0)?.broadcast_mul(&none)?;
        let attention = attention.mean(1)?.reshape((b, n, m))?.mul(&batch.reason_mask)?;
        Ok(((context + null)?, attention))
    }
}
