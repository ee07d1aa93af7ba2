//! `raisonne generate`: generates text with a language model.

use super::model::LoadArgs;
use crate::engine::{
    ComputeDevice, Constraint, EngineEvent, EngineRequest, FinishReason, GenerateRequest, Priority,
    RequestKind, SamplingParams, Usage,
};
use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;
use std::io::{Write, stdout};
use std::num::NonZeroUsize;
use tokio::time::Instant;

#[derive(Args, Debug)]
pub(super) struct GenerateArgs {
    #[command(flatten)]
    model: LoadArgs,
    /// Device: cpu, or cuda or cuda:N in a build with the feature `cuda`.
    #[arg(long, default_value_t)]
    device: ComputeDevice,
    /// Text to continue.
    #[arg(long)]
    prompt: String,
    /// Maximum number of generated tokens.
    #[arg(long, default_value_t = 128)]
    max_tokens: usize,
    /// Take the most probable token each time.
    #[arg(long, conflicts_with_all = ["temperature", "top_k", "top_p", "min_p"])]
    greedy: bool,
    /// Temperature: logits are divided by it.
    #[arg(long, default_value_t = 0.8, allow_negative_numbers = true)]
    temperature: f32,
    /// Sample from this many of the most probable tokens; 0 for all.
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Sample from the most probable tokens whose probabilities sum to this share.
    #[arg(long, default_value_t = 0.95)]
    top_p: f32,
    /// Sample from tokens with at least this share of the highest probability.
    #[arg(long, default_value_t = 0.0)]
    min_p: f32,
    /// Seed: the same one generates the same text.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print one JSON object at the end instead of the text.
    #[arg(long)]
    json: bool,
}

impl GenerateArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let start = Instant::now();
        let opened = self.model.open(self.device)?;
        let prompt = opened.tokenizer.encode(&self.prompt)?;
        let (stop_tokens, weight_dtype) = (opened.stop_tokens(), opened.weight_dtype());
        let (engine, tokenizer) = opened.start(prompt.len().saturating_add(self.max_tokens))?;
        let loaded = start.elapsed();
        let request = EngineRequest {
            kind: RequestKind::Generate(GenerateRequest {
                prompt,
                samples: NonZeroUsize::MIN,
                tokens_max: self.max_tokens,
                sampling: self.sampling(),
                constraint: Constraint::Free,
                stop_tokens,
            }),
            priority: Priority::BACKGROUND,
        };
        let start = Instant::now();
        let mut response = engine.submit(request)?;
        let mut out = stdout().lock();
        let (mut detokenizer, mut tokens, mut text) =
            (tokenizer.detokenizer(), Vec::new(), String::new());
        let mut first = None;
        while let Some(event) = response.blocking_next() {
            match event {
                EngineEvent::Token { token, .. } => {
                    first.get_or_insert_with(|| start.elapsed());
                    tokens.push(token);
                    let part = detokenizer.add(token)?;
                    if !self.json {
                        out.write_all(part.as_bytes())?;
                        out.flush()?;
                    }
                    text.push_str(&part);
                }
                EngineEvent::Done { finish_reason, usage, .. } => {
                    let rest = detokenizer.finish()?;
                    if !self.json {
                        writeln!(out, "{rest}")?;
                        continue;
                    }
                    text.push_str(&rest);
                    let Usage { prompt_tokens, generated_tokens, .. } = usage;
                    let object = json!({
                        "text": text,
                        "tokens": tokens,
                        "ended": if finish_reason == FinishReason::Stop { "end" } else { "length" },
                        "prompt_tokens": prompt_tokens,
                        "generated_tokens": generated_tokens,
                        "precision": weight_dtype.as_str(),
                        "load_ms": loaded.as_secs_f64() * 1e3,
                        "first_token_ms": first.unwrap_or_default().as_secs_f64() * 1e3,
                        "total_ms": start.elapsed().as_secs_f64() * 1e3,
                    });
                    writeln!(out, "{object}")?;
                }
                EngineEvent::Failed(failure) => bail!(failure),
                EngineEvent::Weighed(_) => {}
            }
        }
        out.flush().context("writing the text")
    }

    fn sampling(&self) -> SamplingParams {
        let Self { temperature, top_k, top_p, min_p, seed, greedy, .. } = *self;
        if greedy {
            return SamplingParams { seed, ..SamplingParams::GREEDY };
        }
        SamplingParams { temperature, top_k, top_p, min_p, seed }
    }
}
