//! Hyperparameters of a training: what is trained, for how long, how fast, and where.

use crate::engine::ComputeDevice;
use crate::nn::decoder::lora::RANK_MAX;
use anyhow::ensure;
use candle_core::DType;
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// The most optimiser steps of a training.
pub const STEPS_MAX: usize = 1 << 24;
/// The most lessons of a step.
pub const LESSONS_MAX: usize = 1 << 16;
/// The most tokens of a micro-batch, padding included.
pub const MAX_BATCHED_TOKENS: usize = 1 << 20;
/// The scale of LoRA: `alpha = LORA_ALPHA_PER_RANK * rank`.
const LORA_ALPHA_PER_RANK: f64 = 2.0;

/// Which weights are trained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TrainScope {
    /// Every weight.
    #[serde(rename = "everything")]
    Full,
    /// Only the embedding and unembedding rows of new tokens. It precedes a full training of a model whose
    /// vocabulary has grown, so that untrained rows do not disturb the other weights.
    NewTokens {
        /// The first new token.
        from: usize,
    },
    /// Low-rank adapters (LoRA) on every matrix of every layer.
    #[serde(rename = "adapters")]
    Lora {
        /// Inputs of the second of an adapter's two matrices.
        rank: usize,
        /// An adapter's output is multiplied by `alpha / rank`.
        alpha: f64,
        /// The share of inputs that dropout sets to zero in training.
        dropout: f32,
    },
}

/// The number format of a forward and backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputeDtype {
    /// 32 bits.
    #[default]
    F32,
    /// bfloat16, with sums in 32 bits. On a CPU it halves the memory of activations and frozen matrices, and
    /// takes four times as long.
    Bf16,
}

/// Hyperparameters of a training. Its JSON is part of a checkpoint's fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearnerConfig {
    /// Which weights are trained.
    pub scope: TrainScope,
    /// Optimiser steps.
    pub steps: usize,
    /// Lessons of a step.
    #[serde(rename = "lessons")]
    pub lessons_per_step: usize,
    /// Tokens of a micro-batch, padding included. Each CPU thread computes one micro-batch at a time.
    #[serde(rename = "rows_max")]
    pub max_batched_tokens: usize,
    /// Tokens of the longest lesson, branches included, if known. A GPU reserves memory for it; without it,
    /// for a lesson of `max_batched_tokens`. It changes no result.
    #[serde(default, skip_serializing)]
    pub max_lesson_tokens: Option<usize>,
    /// The peak learning rate.
    pub learning_rate: f64,
    /// Steps of linear warm-up.
    #[serde(rename = "warm_up")]
    pub warmup_steps: usize,
    /// The share of the peak learning rate at the end of the cosine decay.
    #[serde(rename = "learning_rate_floor")]
    pub min_lr_ratio: f64,
    /// Decoupled weight decay of matrices (AdamW).
    pub weight_decay: f64,
    /// The norm to which the gradients of a step are clipped.
    #[serde(rename = "norm_max")]
    pub max_grad_norm: f64,
    /// Whether the backward pass recomputes each layer's activations, to save memory.
    #[serde(rename = "recompute")]
    pub gradient_checkpointing: bool,
    /// The number format of a pass.
    pub dtype: ComputeDtype,
    /// The device of forward and backward passes. A training may continue on another device.
    #[serde(default, skip_serializing)]
    pub device: ComputeDevice,
    /// The seed of adapters' initial weights, dropout and the order of lessons.
    pub seed: u64,
}

// === impl TrainScope ===

impl TrainScope {
    /// LoRA of a rank, or full training without one.
    pub fn of(adapter_rank: Option<usize>) -> Self {
        match adapter_rank {
            None => Self::Full,
            Some(rank) => {
                Self::Lora { rank, alpha: LORA_ALPHA_PER_RANK * rank as f64, dropout: 0.0 }
            }
        }
    }
}

// === impl ComputeDtype ===

impl From<ComputeDtype> for DType {
    fn from(dtype: ComputeDtype) -> Self {
        match dtype {
            ComputeDtype::F32 => Self::F32,
            ComputeDtype::Bf16 => Self::BF16,
        }
    }
}

// === impl LearnerConfig ===

impl Default for LearnerConfig {
    fn default() -> Self {
        Self {
            scope: TrainScope::Full,
            steps: 1000,
            lessons_per_step: 32,
            max_batched_tokens: 2048,
            max_lesson_tokens: None,
            learning_rate: 3e-4,
            warmup_steps: 50,
            min_lr_ratio: 0.1,
            weight_decay: 0.1,
            max_grad_norm: 1.0,
            gradient_checkpointing: false,
            dtype: ComputeDtype::F32,
            device: ComputeDevice::Cpu,
            seed: 0,
        }
    }
}

impl LearnerConfig {
    /// Whether every field is within its bounds, and the device can train the scope.
    pub fn check(&self) -> anyhow::Result<()> {
        let counts = [
            ("steps", self.steps, STEPS_MAX),
            ("lessons_per_step", self.lessons_per_step, LESSONS_MAX),
            ("max_batched_tokens", self.max_batched_tokens, MAX_BATCHED_TOKENS),
        ];
        for (field, value, max) in counts {
            ensure!((1..=max).contains(&value), "`{field}` is {value}, not from 1 to {max}");
        }
        if let TrainScope::Lora { rank, .. } = self.scope {
            ensure!((1..=RANK_MAX).contains(&rank), "`rank` is {rank}, not from 1 to {RANK_MAX}");
        }
        let is_bf16_lora =
            matches!(self.scope, TrainScope::Lora { .. }) && self.dtype == ComputeDtype::Bf16;
        ensure!(
            self.device == ComputeDevice::Cpu || is_bf16_lora,
            "`device` is \"{}\", and a GPU trains adapters alone, in bf16",
            self.device
        );
        let reals = [
            ("learning_rate", self.learning_rate, 0.0..=1.0),
            ("min_lr_ratio", self.min_lr_ratio, 0.0..=1.0),
            ("weight_decay", self.weight_decay, 0.0..=1.0),
            ("max_grad_norm", self.max_grad_norm, f64::MIN_POSITIVE..=f64::INFINITY),
        ];
        for (field, value, bounds) in reals {
            let (min, max) = (bounds.start(), bounds.end());
            ensure!(bounds.contains(&value), "`{field}` is {value}, not from {min} to {max}");
        }
        Ok(())
    }

    /// The learning rate of a step, from 0 on: linear warm-up, then cosine decay.
    pub(super) fn learning_rate_at(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return self.learning_rate * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let decay_steps = (self.steps - self.warmup_steps).max(1);
        let elapsed = (step - self.warmup_steps) as f64 / decay_steps as f64;
        let decay = 0.5 * (1.0 + (PI * elapsed).cos());
        self.learning_rate * (self.min_lr_ratio + (1.0 - self.min_lr_ratio) * decay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_and_falls_to_its_floor() {
        let config = LearnerConfig {
            steps: 110,
            warmup_steps: 10,
            learning_rate: 2.0,
            ..LearnerConfig::default()
        };
        let at = |step| config.learning_rate_at(step);
        assert!((at(0) - 0.2).abs() < 1e-12 && (at(9) - 2.0).abs() < 1e-12);
        assert!((at(10) - 2.0).abs() < 1e-12 && (at(60) - 1.1).abs() < 1e-12);
        assert!((10..109).all(|step| at(step) > at(step + 1)));
        assert!((at(110) - 0.2).abs() < 1e-12);
        // A training that ends during warm-up never divides by zero.
        let short = LearnerConfig { steps: 5, warmup_steps: 10, ..config };
        assert!((short.learning_rate_at(4) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_field_out_of_bounds_is_named() {
        let says = |config: LearnerConfig| config.check().unwrap_err().to_string();
        let config = LearnerConfig::default();
        config.check().unwrap();
        let steps = says(LearnerConfig { steps: 0, ..config });
        assert_eq!(steps, "`steps` is 0, not from 1 to 16777216");
        let nan = says(LearnerConfig { learning_rate: f64::NAN, ..config });
        assert_eq!(nan, "`learning_rate` is NaN, not from 0 to 1");
        let scope = TrainScope::Lora { rank: 0, alpha: 1.0, dropout: 0.0 };
        assert_eq!(says(LearnerConfig { scope, ..config }), "`rank` is 0, not from 1 to 1024");
        let gpu = says(LearnerConfig { device: ComputeDevice::Gpu(1), ..config });
        assert_eq!(gpu, "`device` is \"cuda:1\", and a GPU trains adapters alone, in bf16");
    }

    #[test]
    fn the_json_in_fingerprints_keeps_its_bytes() {
        let json = |scope| {
            let config = LearnerConfig { scope, max_lesson_tokens: Some(9), ..Default::default() };
            serde_json::to_string(&config).unwrap()
        };
        let rest = r#""steps":1000,"lessons":32,"rows_max":2048,"learning_rate":0.0003,"warm_up":50,"learning_rate_floor":0.1,"weight_decay":0.1,"norm_max":1.0,"recompute":false,"dtype":"f32","seed":0}"#;
        assert_eq!(json(TrainScope::Full), format!(r#"{{"scope":"everything",{rest}"#));
        let new_tokens = json(TrainScope::NewTokens { from: 7 });
        assert_eq!(new_tokens, format!(r#"{{"scope":{{"new_tokens":{{"from":7}}}},{rest}"#));
        let lora = json(TrainScope::of(Some(2)));
        let scope = r#"{"adapters":{"rank":2,"alpha":4.0,"dropout":0.0}}"#;
        assert_eq!(lora, format!(r#"{{"scope":{scope},{rest}"#));
    }
}
