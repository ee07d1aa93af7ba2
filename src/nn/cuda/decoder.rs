//! A decoder that serves on a GPU.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use super::device::{CudaError, DECODER, Graph};
use super::graphs::{self, Graphs};
use super::interface::{ChosenLogits, DRAW_THREADS, Draw, Drawn, PairCount, Vocabulary, WARP};
use super::load::LoadError;
use super::options::CudaOptions;
use super::pass::{ROW_THREADS, ServingPass};
use super::products::ProductOperands;
use super::resident::Resident;
use super::upload::{CudaOutput, CudaOutputSpec};
use crate::nn::decoder::{self, Checkpoint};
use crate::nn::packed::{AttentionGroup, BlockTableEntry, KvSlot, PAGE_TOKENS, PagedBatch};
use crate::nn::softmax::SampleSpec;
use std::time::{Duration, Instant};

/// A decoder that serves on a GPU.
#[derive(Debug)]
pub struct CudaDecoder {
    resident: Resident,
    graphs: Graphs,
    enqueue_time: Duration,
    /// The pass to fill before [`CudaDecoder::forward`].
    pub pass: PagedBatch,
}

// === impl CudaDecoder ===

impl CudaDecoder {
    /// Loads a checkpoint.
    pub fn load(checkpoint: &Checkpoint, options: CudaOptions) -> Result<Self, LoadError> {
        let resident = Resident::load(checkpoint, options, DECODER)?;
        let (graphs, enqueue_time) = (Graphs::default(), Duration::ZERO);
        let mut decoder = Self { resident, graphs, enqueue_time, pass: PagedBatch::default() };
        decoder.warm()?;
        decoder.capture(options.decodes_max)?;
        Ok(decoder)
    }

    /// Runs all kernels once, on a decoding sequence and on the longest prompt of one pass, so that the libraries load
    /// what they load at first use before requests wait for it.
    fn warm(&mut self) -> Result<(), CudaError> {
        let draw = [SampleSpec { temperature: 0.0, chance: 0.0, banned: 0..0 }];
        let outputs = CudaOutputSpec {
            rows: &[0],
            full_logits: 1,
            chosen: &[[0, 0]],
            draws: &draw,
            hidden: true,
            ..CudaOutputSpec::default()
        };
        self.fill_bucket(outputs, 1);
        self.upload()?;
        self.compute()?;
        self.read_outputs(outputs, &mut [], &mut CudaOutput::default())?;

        let Resident { limits, rope, config, kv_pages: scratch, .. } = &self.resident;
        let (rows, scratch) = (limits.rows.min(rope.len() / config.head_dim), *scratch);
        let slot = |page, token| KvSlot { page: (scratch + page) as u32, token: token as u32 };
        let pages = rows.div_ceil(PAGE_TOKENS);
        let seen = (0..pages).map(|page| BlockTableEntry {
            page: (scratch + page) as u32,
            first: (page * PAGE_TOKENS) as u32,
            tokens: PAGE_TOKENS.min(rows - page * PAGE_TOKENS) as u32,
        });
        let pass = &mut self.pass;
        pass.tokens.resize(rows, 0);
        pass.positions.extend(0..rows as u32);
        pass.slots.extend((0..rows).map(|row| slot(row / PAGE_TOKENS, row % PAGE_TOKENS)));
        pass.block_table.extend(seen);
        pass.groups.push(AttentionGroup { rows: 0..rows, pages: 0..pages, past: 0 });
        let Resident { upload, limits, .. } = &mut self.resident;
        upload.fill(&self.pass, CudaOutputSpec::default(), limits);
        self.pass = PagedBatch::default();
        self.upload()?;
        self.compute()?;
        self.wait()
    }

    /// Captures passes over one token of each of up to so many sequences. Passes that can't be captured will be launched
    /// kernel by kernel, unless the device is lost.
    fn capture(&mut self, decodes_max: usize) -> Result<(), CudaError> {
        for rows in graphs::buckets(decodes_max, self.resident.limits.rows) {
            match self.capture_bucket(rows) {
                Ok(graph) => self.graphs.add(rows, graph),
                Err(error) if error.is_lost() => return Err(error),
                Err(error) => {
                    let error = anyhow::Error::from(error);
                    tracing::warn!(
                        rows,
                        error = format!("{error:#}"),
                        "passes with so many decoding sequences or more have no CUDA graph"
                    );
                    break;
                }
            }
        }
        Ok(())
    }

    fn capture_bucket(&mut self, rows: usize) -> Result<Graph, CudaError> {
        self.fill_bucket(CudaOutputSpec::default(), rows);
        self.upload()?;
        // Libraries load code at first use, which is impossible during a capture.
        self.compute()?;
        self.wait()?;
        self.resident.device.capture(|| self.compute())
    }

    /// Lays out the pass, padded to so many decoding sequences.
    fn fill_bucket(&mut self, outputs: CudaOutputSpec<'_>, rows: usize) {
        let Resident { upload, limits, kv_pages, .. } = &mut self.resident;
        upload.fill_bucket(&self.pass, outputs, rows, *kv_pages as u32, limits);
    }

    fn upload(&mut self) -> Result<(), CudaError> {
        let Resident { upload, device, .. } = &mut self.resident;
        upload.upload(device)
    }

    /// KV pages that last. Pages from this number on are scratch.
    pub fn pages(&self) -> usize {
        self.resident.kv_pages
    }

    /// Computes the pass and the requested outputs. `logits` gets the whole logits of the rows that request them without
    /// a draw, one row after the other.
    pub fn forward(
        &mut self,
        outputs: CudaOutputSpec<'_>,
        logits: &mut [f32],
        output: &mut CudaOutput,
    ) -> Result<(), CudaError> {
        let begun = Instant::now();
        let Self { resident, graphs, pass, .. } = self;
        let Resident { device, upload, limits, kv_pages, .. } = resident;
        for (what, requested, capacity) in [
            ("logits of chosen tokens", outputs.chosen.len(), limits.pairs),
            ("banned tokens", outputs.banned.len(), limits.banned),
        ] {
            if requested > capacity {
                return Err(CudaError::Capacity { what, requested, capacity });
            }
        }
        let rows = pass.tokens.len();
        let decodes = graphs::decodes(pass, *kv_pages) && outputs.rows.len() <= rows;
        let graph = if decodes { graphs.find(rows) } else { None };
        match graph {
            Some((bucket, _)) => {
                upload.fill_bucket(pass, outputs, bucket, *kv_pages as u32, limits);
            }
            None => upload.fill(pass, outputs, limits),
        }
        upload.upload(device)?;
        match graph {
            Some((_, graph)) => graph.replay()?,
            None => self.compute()?,
        }
        self.enqueue_time = begun.elapsed();
        self.read_outputs(outputs, logits, output)
    }

    /// Time to enqueue the last pass on the device, without its outputs.
    pub fn enqueue_time(&self) -> Duration {
        self.enqueue_time
    }

    /// Waits until the device has finished, and returns its error if it is lost.
    pub fn wait(&self) -> Result<(), CudaError> {
        self.resident.device.wait()
    }

    /// Launches the pass that was uploaded.
    fn compute(&self) -> Result<(), CudaError> {
        decoder::forward(&self.resident.config, &mut ServingPass::of(&self.resident))
    }

    fn read_outputs(
        &self,
        outputs: CudaOutputSpec<'_>,
        logits: &mut [f32],
        output: &mut CudaOutput,
    ) -> Result<(), CudaError> {
        self.read_logits(outputs, logits)?;
        let Resident { config, device, buffers, .. } = &self.resident;
        output.drawn.resize(outputs.draws.len(), [0; 2]);
        if !outputs.draws.is_empty() {
            device.read(&buffers.drawn, output.drawn.as_flattened_mut())?;
        }
        output.chosen.resize(outputs.chosen.len(), 0.0);
        if !outputs.chosen.is_empty() {
            self.read_chosen(&mut output.chosen)?;
        }
        output.hidden.clear();
        if outputs.hidden {
            output.hidden.resize(outputs.rows.len() * config.width, 0.0);
            device.read(&buffers.hidden, &mut output.hidden)?;
        }
        device.wait()
    }

    /// Unembeds the rows that request whole logits, as many at a time as there is space for, and draws from those with a
    /// draw, which come last.
    fn read_logits(
        &self,
        outputs: CudaOutputSpec<'_>,
        logits: &mut [f32],
    ) -> Result<(), CudaError> {
        let Resident { config, device, products, kernels, .. } = &self.resident;
        let Resident { buffers, upload, limits, shapes, .. } = &self.resident;
        let read = outputs.full_logits - outputs.draws.len();
        for row in (0..outputs.full_logits).step_by(limits.whole) {
            let count = limits.whole.min(outputs.full_logits - row);
            let operands = ProductOperands {
                sums: buffers.logits.at(0).with_role(),
                inputs: buffers.picked.at(row * config.width).packed(),
                weights: self.resident.unembedding().packed(),
            };
            // SAFETY: rows with whole logits come first among the picked ones, and there is space for so many logits.
            unsafe { products.multiply(device, &shapes.unembedding, operands, count)? };
            let copied = read.saturating_sub(row).min(count);
            if copied > 0 {
                let out = row * config.vocabulary..(row + copied) * config.vocabulary;
                device.read(&buffers.logits, &mut logits[out])?;
                // The next rows overwrite the buffer.
                device.wait()?;
            }
            let first = (row + copied) - read.min(row + copied);
            let arguments = Draw {
                drawn: buffers.drawn.at(0).record(first),
                logits: buffers.logits.at(copied * config.vocabulary),
                draws: upload.at(upload.draws).record(first),
                banned: upload.at(upload.banned),
                vocabulary: Vocabulary::of(config.vocabulary),
            };
            let grid = [count - copied, 1, 1];
            // SAFETY: there are logits and draws of so many rows.
            unsafe { device.launch(&kernels.draw, grid, DRAW_THREADS, &arguments)? };
        }
        Ok(())
    }

    fn read_chosen(&self, chosen: &mut [f32]) -> Result<(), CudaError> {
        let Resident { device, kernels, buffers, upload, .. } = &self.resident;
        let arguments = ChosenLogits {
            logits: buffers.logits.at(0),
            normed: buffers.picked.at(0),
            table: self.resident.unembedding(),
            pairs: upload.at(upload.pairs),
            count: PairCount::of(chosen.len()),
            width: self.resident.width(),
        };
        let blocks = (chosen.len() * WARP as usize).div_ceil(ROW_THREADS as usize);
        // SAFETY: there is space for a logit of each pair.
        unsafe {
            device.launch(&kernels.chosen_logits, [blocks, 1, 1], ROW_THREADS, &arguments)?;
        }
        device.read(&buffers.logits, chosen)
    }
}

const _: () = assert!(Drawn::WORDS == 2, "`CudaOutput::drawn` has a token and a log-probability");
