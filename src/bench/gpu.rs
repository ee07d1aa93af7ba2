//! How large must slates be for a GPU to pay?

use super::{BenchCase, ITEMS, PreparedRows, PreparedSlate, ScorerOptions, SlateFill, median_us};
use crate::nn::cuda::{CudaScorer, CudaScorerLimits, CudaScorerTables, CudaScores, CudaSlate};
use crate::nn::{FusedDin, FusedScores, FusedSlate};
use crate::scorer::network_shape;
use anyhow::{Context, Result};
use serde::Serialize;
use std::io::Write;
use std::sync::Arc;

/// Candidates of the single slates that are timed before the requested batch.
const CANDIDATES: [usize; 6] = [10, 30, 100, 300, 1_000, 3_000];

/// The median times of slates of one size.
#[derive(Debug, Serialize)]
struct GpuTiming {
    slates: usize,
    candidates: usize,
    /// Pairs of a candidate and an event, over all slates.
    pairs: usize,
    /// One slate after the other, on one thread.
    cpu_ms: f64,
    /// All in one batch whose rows are on the device: from laying out the first slate to copying back the last
    /// score.
    gpu_ms: f64,
    /// The largest difference between two logits.
    apart: f32,
}

/// Times the processor and a GPU on the same slates.
pub(super) fn compare_with_gpu(
    options: &ScorerOptions,
    ordinal: usize,
    out: &mut dyn Write,
) -> Result<()> {
    let singles = CANDIDATES.map(|candidates| (1, candidates));
    let sizes = singles.into_iter().chain([(options.slates, options.candidates)]);
    let timed = sizes.map(|sizes| time(sizes, options.fused, ordinal));
    let timed = timed.collect::<Result<Vec<_>>>()?;
    if options.json {
        serde_json::to_writer(&mut *out, &timed)?;
        writeln!(out)?;
        return Ok(());
    }
    for GpuTiming { slates, candidates, pairs, cpu_ms, gpu_ms, apart } in timed {
        writeln!(
            out,
            "{slates} x {candidates} candidates, {pairs} pairs: cpu {cpu_ms:.3} ms, \
             cuda {gpu_ms:.3} ms, logits at most {apart:.1e} apart"
        )?;
    }
    Ok(())
}

fn time(sizes: (usize, usize), repetitions: usize, ordinal: usize) -> Result<GpuTiming> {
    let shape = network_shape(ITEMS);
    let case = BenchCase::random(&shape, 0, sizes, SlateFill::Full)?;
    let fused = Arc::new(FusedDin::new(&case.weights, &shape)?);
    let (slates, candidates) = sizes;
    let prepared = case.prepare_all(&fused, 0..slates)?;
    let first = prepared.first().context("there must be at least one slate")?;
    let tables = CudaScorerTables {
        items: first.items.clone(),
        reasons: first.reasons.clone(),
        rechead_items: [].into(),
    };
    let all = slates * (candidates + shape.history);
    let bounds = CudaScorerLimits {
        slates_max: slates,
        candidates_max: slates * candidates,
        rows_max: all,
        items_max: all,
        cards_max: all,
    };
    let mut scorer = CudaScorer::load(fused.clone(), tables, bounds, ordinal)?;
    let lent: Vec<PreparedRows<'_>> = prepared.iter().map(PreparedSlate::rows).collect();
    let asked: Vec<FusedSlate<'_>> = lent.iter().map(PreparedRows::slate).collect();
    let jobs: Vec<CudaSlate<'_>> =
        asked.iter().map(|&slate| CudaSlate { slate, shopper: &[] }).collect();
    let mut done: Vec<CudaScores> = jobs.iter().map(|_| CudaScores::default()).collect();
    let gpu_us = median_us(repetitions, || Ok(scorer.score(&jobs, &mut done)?))?;
    let mut scratch = fused.scratch();
    let mut scores: Vec<FusedScores> = asked.iter().map(|_| FusedScores::default()).collect();
    let cpu_us = median_us(repetitions, || {
        for (slate, scores) in asked.iter().zip(&mut scores) {
            fused.score(slate, &mut scratch, scores)?;
        }
        Ok(())
    })?;
    let logits = scores.iter().flat_map(|scores| &scores.logits);
    let found = done.iter().flat_map(|done| &done.scores.logits);
    let apart = logits.zip(found).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let pairs = slates * candidates * shape.history;
    Ok(GpuTiming { slates, candidates, pairs, cpu_ms: cpu_us / 1e3, gpu_ms: gpu_us / 1e3, apart })
}
