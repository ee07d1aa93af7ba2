//! The buffers of forward and backward passes, allocated once for the largest batch.

use super::super::device::{CudaError, Device, DeviceBuffer};
use super::super::interface::{
    AdapterNumber, AttendedGradient, AttendedHead, AttendedHeadGradient, AttendedRow,
    AttentionScore, AttentionWeight, DroppedGradient, DroppedRow, GateUpGradient, GatedGradient,
    GatedRow, InputRow, KeyGradient, KeyHead, Logit, LogitGradient, Loss, NormedGradient,
    ProductSum, QkvGradient, QueryGradient, QueryHead, Residual, ResidualGradient,
    ResidualGradientBf16, ValueGradient, ValueHead,
};
use crate::nn::decoder::{DecoderConfig, lora};

/// Times that a row may be read by the losses: for an imitated token, for a generated one, and as the end of a branch.
pub(super) const READS_A_ROW: usize = 3;

/// The memory of [`super::Backprop`].
#[derive(Clone, Copy, Debug)]
pub struct BackpropOptions {
    /// The number of the GPU.
    pub ordinal: usize,
    /// Rows of a batch, at most.
    pub max_batched_tokens: usize,
    /// Rows of one of its sequences, at most.
    pub length_max: usize,
    /// Logits in memory at a time, over a vocabulary and over rows, unless a single row or head has more.
    pub logits_max: usize,
}

/// What the kernels of a batch write to.
#[derive(Debug)]
pub(super) struct TrainScratch {
    pub rows_max: usize,
    pub length_max: usize,
    /// Rows whose logits are in memory at a time.
    pub logit_rows: usize,
    /// The stream before each layer, and after the last one.
    pub stream: Vec<DeviceBuffer<Residual>>,
    /// The stream between a layer's attention and its MLP. The losses' rows use it where they are not rounded.
    pub middle: DeviceBuffer<Residual>,
    /// The normed inputs of attention, and of the MLP.
    pub normed: [DeviceBuffer<InputRow>; 2],
    pub qkv: DeviceBuffer<ProductSum>,
    pub queries: DeviceBuffer<QueryHead>,
    pub keys: DeviceBuffer<KeyHead>,
    pub values: DeviceBuffer<ValueHead>,
    /// Attention's output, head by head and row by row.
    pub attended_heads: DeviceBuffer<AttendedHead>,
    pub attended: DeviceBuffer<AttendedRow>,
    pub gates_ups: DeviceBuffer<ProductSum>,
    pub gated: DeviceBuffer<GatedRow>,
    /// The output of an adapter's first matrix, and its gradient.
    pub low: DeviceBuffer<AdapterNumber>,
    pub low_gradient: DeviceBuffer<AdapterNumber>,
    /// Attention's scores, or the gradient of its weights; and its weights, or the gradient of its scores.
    pub scores: DeviceBuffer<AttentionScore>,
    pub weights: DeviceBuffer<AttentionWeight>,
    /// The stream's gradient, and the same in bf16.
    pub stream_gradient: DeviceBuffer<ResidualGradient>,
    pub stream_gradient_bf16: DeviceBuffer<ResidualGradientBf16>,
    pub normed_gradient: DeviceBuffer<NormedGradient>,
    pub gated_gradient: DeviceBuffer<GatedGradient>,
    pub gates_ups_gradient: DeviceBuffer<GateUpGradient>,
    pub attended_gradient: DeviceBuffer<AttendedGradient>,
    pub attended_heads_gradient: DeviceBuffer<AttendedHeadGradient>,
    pub query_gradient: DeviceBuffer<QueryGradient>,
    pub key_gradient: DeviceBuffer<KeyGradient>,
    pub value_gradient: DeviceBuffer<ValueGradient>,
    pub qkv_gradient: DeviceBuffer<QkvGradient>,
    pub logits: DeviceBuffer<Logit>,
    pub logits_gradient: DeviceBuffer<LogitGradient>,
    /// The logits of branches' ends.
    pub end_logits: DeviceBuffer<Logit>,
    pub losses: DeviceBuffer<Loss>,
    /// Inputs after a dropout, and their gradient, if there is a dropout.
    pub dropped: Option<(DeviceBuffer<DroppedRow>, DeviceBuffer<DroppedGradient>)>,
}

// === impl TrainScratch ===

impl TrainScratch {
    pub fn new(
        device: &Device,
        config: &DecoderConfig,
        options: BackpropOptions,
        adapters: &lora::LoraConfig,
    ) -> Result<Self, CudaError> {
        let BackpropOptions { max_batched_tokens: rows, length_max: length, logits_max, .. } =
            options;
        let DecoderConfig { width, mlp_width, vocabulary, layers, .. } = *config;
        let queries = config.heads * config.head_dim;
        let keys = config.kv_heads * config.head_dim;
        let all = queries + 2 * keys;
        let group = config.heads / config.kv_heads;
        let scores = logits_max.max(group * length * length).min(config.heads * rows * length);
        let logit_rows = (logits_max / vocabulary).clamp(1, rows);
        let widest = width.max(mlp_width).max(queries);
        let dropped = (adapters.dropout > 0.0)
            .then(|| Ok((device.zeroed(rows * widest)?, device.zeroed(rows * widest)?)))
            .transpose()?;
        Ok(Self {
            rows_max: rows,
            length_max: length,
            logit_rows,
            stream: (0..=layers).map(|_| device.zeroed(rows * width)).collect::<Result<_, _>>()?,
            middle: device.zeroed(rows * width)?,
            normed: [device.zeroed(rows * width)?, device.zeroed(rows * width)?],
            qkv: device.zeroed(rows * all)?,
            queries: device.zeroed(rows * queries)?,
            keys: device.zeroed(rows * keys)?,
            values: device.zeroed(rows * keys)?,
            attended_heads: device.zeroed(rows * queries)?,
            attended: device.zeroed(rows * queries)?,
            gates_ups: device.zeroed(rows * 2 * mlp_width)?,
            gated: device.zeroed(rows * mlp_width)?,
            low: device.zeroed(rows * adapters.rank)?,
            low_gradient: device.zeroed(rows * adapters.rank)?,
            scores: device.zeroed(scores)?,
            weights: device.zeroed(scores)?,
            stream_gradient: device.zeroed(rows * width)?,
            stream_gradient_bf16: device.zeroed(rows * width)?,
            normed_gradient: device.zeroed(rows * width)?,
            gated_gradient: device.zeroed(rows * mlp_width)?,
            gates_ups_gradient: device.zeroed(rows * 2 * mlp_width)?,
            attended_gradient: device.zeroed(rows * queries)?,
            attended_heads_gradient: device.zeroed(rows * queries)?,
            query_gradient: device.zeroed(rows * queries)?,
            key_gradient: device.zeroed(rows * keys)?,
            value_gradient: device.zeroed(rows * keys)?,
            qkv_gradient: device.zeroed(rows * all)?,
            logits: device.zeroed(logit_rows * vocabulary)?,
            logits_gradient: device.zeroed(logit_rows * vocabulary)?,
            end_logits: device.zeroed(rows)?,
            losses: device.zeroed(READS_A_ROW * rows)?,
            dropped,
        })
    }
}
