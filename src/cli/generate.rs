//! `raisonne generate`: what a model's folder writes.

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
pub(super) struct Generate {
    #[command(flatten)]
    model: LoadArgs,
    /// Where it runs: cpu, or cuda or cuda:N where this program was built for that.
    #[arg(long, default_value_t)]
    device: ComputeDevice,
    /// The text to go on from.
    #[arg(long)]
    prompt: String,
    /// Tokens to write at most.
    #[arg(long, default_value_t = 128)]
    max_tokens: usize,
    /// Always takes the likeliest token.
    #[arg(long, conflicts_with_all = ["temperature", "top_k", "top_p", "min_p"])]
    greedy: bool,
    /// What logits are divided by.
    #[arg(long, default_value_t = 0.8)]
    temperature: f32,
    /// Only so many of the likeliest tokens; 0 means all.
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Only the likeliest tokens that together have this share.
    #[arg(long, default_value_t = 0.95)]
    top_p: f32,
    /// Only tokens that have this share of the likeliest one's probability.
    #[arg(long, default_value_t = 0.0)]
    min_p: f32,
    /// Where chance comes from: the same seed writes the same text.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Prints one JSON object at the end instead of the text.
    #[arg(long)]
    json: bool,
}

impl Generate {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let begun = Instant::now();
        let opened = self.model.open(self.device)?;
        let prompt = opened.vocabulary.encode(&self.prompt)?;
        let (ends, precision) = (opened.ends(), opened.precision());
        let (engine, vocabulary) = opened.start(prompt.len().saturating_add(self.max_tokens))?;
        let loaded = begun.elapsed();
        let ask = EngineRequest {
            kind: RequestKind::Generate(GenerateRequest {
                prompt,
                samples: NonZeroUsize::MIN,
                tokens_max: self.max_tokens,
                sampling: self.sampling(),
                constraint: Constraint::Free,
                stop_tokens: ends,
            }),
            priority: Priority::BACKGROUND,
        };
        let begun = Instant::now();
        let mut reply = engine.submit(ask)?;
        let mut out = stdout().lock();
        let (mut written, mut tokens, mut text) =
            (vocabulary.detokenizer(), Vec::new(), String::new());
        let mut first = None;
        while let Some(event) = reply.blocking_next() {
            match event {
                EngineEvent::Token { token, .. } => {
                    first.get_or_insert_with(|| begun.elapsed());
                    tokens.push(token);
                    let part = written.add(token)?;
                    if !self.json {
                        out.write_all(part.as_bytes())?;
                        out.flush()?;
                    }
                    text.push_str(&part);
                }
                EngineEvent::Done { finish_reason: why, usage, .. } => {
                    let rest = written.finish()?;
                    if !self.json {
                        writeln!(out, "{rest}")?;
                        continue;
                    }
                    text.push_str(&rest);
                    let Usage { prompt_tokens, generated_tokens, .. } = usage;
                    let object = json!({
                        "text": text,
                        "tokens": tokens,
                        "ended": if why == FinishReason::Stop { "end" } else { "length" },
                        "prompt_tokens": prompt_tokens,
                        "generated_tokens": generated_tokens,
                        "precision": precision.as_str(),
                        "load_ms": loaded.as_secs_f64() * 1e3,
                        "first_token_ms": first.unwrap_or_default().as_secs_f64() * 1e3,
                        "total_ms": begun.elapsed().as_secs_f64() * 1e3,
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
