//! A decoder whose weights, pages and rows lie on a GPU.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use super::device::{
    Address, Argument, CudaError, DECODER, Device, Graph, Heads, Kernel, Product, Table,
};
use super::graphs::{self, Graphs};
use super::load::{Layer, LoadError, Loader, Weights, check};
use super::pass::OnePass;
use super::products::{CudaWeightDtype, Operands, Products, Shape};
use super::rows::{
    CudaOutput, CudaOutputSpec, DRAW_NUMBERS, FRAGMENT_ROWS, PAGES_A_PART, Plan, Room, Rows,
    norm_threads,
};
use crate::nn::decoder::{self, Checkpoint, DecoderConfig, EMBEDDING, LinearId, NormId};
use crate::nn::packed::{
    AttentionGroup, BlockTableEntry, KvDtype, KvSlot, PAGE_TOKENS, PagedBatch,
};
use crate::nn::softmax::SampleSpec;
use half::bf16;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Threads of a block that embeds a row or goes over numbers wherever they lie, of one that draws a token, and of a warp.
pub(super) const ROW_THREADS: u32 = 256;
const DRAW_THREADS: u32 = 1_024;
pub(super) const WARP: u32 = 32;
/// Layers with whose weights products are tried when a model is loaded.
const TRIED_LAYERS: usize = 4;
/// Bytes that stay free when the pages are taken: for the code that the driver and cuBLAS load when it is first
/// needed, and for graphs.
const RESERVE: usize = 512 << 20;

/// How a model is loaded.
#[derive(Clone, Copy, Debug)]
pub struct CudaOptions {
    /// The number of the GPU.
    pub ordinal: usize,
    /// Pages of keys and values; fewer, if the GPU has no room for so many.
    pub kv_pages: usize,
    /// Rows of a pass.
    pub max_batched_tokens: usize,
    /// Tokens of a text.
    pub context_tokens_max: usize,
    /// Texts that go on at once, at most: passes over a token of each are captured. With 0, none are.
    pub decodes_max: usize,
    /// What the layers' weights are brought into.
    pub weight_dtype: CudaWeightDtype,
    /// How keys and values are kept.
    pub kv_dtype: KvDtype,
}

/// A decoder that serves on a GPU.
#[derive(Debug)]
pub struct CudaDecoder {
    pub(super) config: Arc<DecoderConfig>,
    pub(super) device: Device,
    pub(super) products: Products,
    pub(super) launches: Launches,
    pub(super) layers: Vec<Layer>,
    pub(super) shapes: Shapes,
    pub(super) embedding: Table<bf16>,
    /// The unembedding, where it is another table.
    unembedding: Option<Table<bf16>>,
    last_norm: Table<f32>,
    /// Cosines and sines of each position.
    pub(super) turns: Table<f32>,
    /// Keys and values: a layer's pages, and then the next one's.
    cache: [Table<u8>; 2],
    pages: usize,
    pub(super) room: Room,
    pub(super) rows: Rows,
    pub(super) plan: Plan,
    graphs: Graphs,
    /// How long the last pass took until all of it was asked of the device.
    asked_in: Duration,
    /// The pass to fill before [`CudaDecoder::forward`].
    pub pass: PagedBatch,
}

/// The shapes that weights have, and what multiplies them.
#[derive(Debug)]
pub(super) struct Shapes {
    pub(super) qkv: Shape,
    pub(super) output: Shape,
    pub(super) gates_ups: Shape,
    pub(super) down: Shape,
    unembedding: Shape,
}

#[derive(Debug)]
pub(super) struct Launches {
    pub(super) embed: Kernel,
    pub(super) add_norm: Kernel,
    pick: Kernel,
    columns: Kernel,
    pub(super) place_heads: Kernel,
    pub(super) attend_rows: Kernel,
    pub(super) attend_parts: Kernel,
    pub(super) attend_merge: Kernel,
    pub(super) silu_mul: Kernel,
    pub(super) quantize: Kernel,
    draw: Kernel,
}

// === impl CudaDecoder ===

impl CudaDecoder {
    /// Loads a checkpoint.
    pub fn load(checkpoint: &Checkpoint, options: CudaOptions) -> Result<Self, LoadError> {
        let config = Arc::new(checkpoint.config().clone());
        let format = options.weight_dtype;
        check(&config, format)?;
        let device = Device::open(options.ordinal, DECODER)?;
        let products = Products::open(&device)?;
        let loader = Loader::new(checkpoint, &config, &device, format)?;
        let layers = (0..config.layers).map(|layer| loader.layer(layer));
        let layers = layers.collect::<Result<Vec<_>, _>>()?;
        let embedding = loader.table(&[EMBEDDING.into()])?;
        let unembedding =
            (!config.tied).then(|| loader.table(&[LinearId::Unembed.name()])).transpose()?;
        let last_norm = loader.numbers(&[NormId::Last.name()])?;
        let of_turns = turns(&config, options.context_tokens_max);
        let mut turns = device.zeroed(of_turns.len())?;
        device.write(&mut turns, 0, &of_turns)?;
        let launches = Launches::find(&device, &config, options.kv_dtype)?;
        let room = Room::of(&config, options);
        let rows = Rows::new(&device, &config, &room, format)?;
        let plan = Plan::new(&device, &room)?;
        device.wait()?;
        let mut shapes = Shapes::of(&config, format);
        let unembeds = unembedding.as_ref().unwrap_or(&embedding).at(0);
        shapes.tune(&device, &products, &layers, unembeds, &room)?;
        // At worst every row of a pass is a branch of its own.
        let (pages, cache) = pages(&device, &config, options)?;
        let mut model = Self {
            config,
            device,
            products,
            launches,
            layers,
            shapes,
            embedding,
            unembedding,
            last_norm,
            turns,
            cache,
            pages,
            room,
            rows,
            plan,
            graphs: Graphs::default(),
            asked_in: Duration::ZERO,
            pass: PagedBatch::default(),
        };
        model.warm()?;
        model.capture(options.decodes_max)?;
        Ok(model)
    }

    /// Runs all kernels once, those of a text that goes on and those of as long a text as there can be, so that
    /// whatever the libraries put off until something is first needed is done before anybody waits for it.
    fn warm(&mut self) -> Result<(), CudaError> {
        let draw = [SampleSpec { temperature: 0.0, chance: 0.0, banned: 0..0 }];
        let wanted = CudaOutputSpec {
            rows: &[0],
            full_logits: 1,
            chosen: &[[0, 0]],
            draws: &draw,
            hidden: true,
            ..CudaOutputSpec::default()
        };
        self.fill_bucket(wanted, 1);
        self.plan.upload(&self.device)?;
        self.compute()?;
        self.answer(wanted, &mut [], &mut CudaOutput::default())?;

        let rows = self.room.rows.min(self.turns.len() / self.config.head_dim);
        let scratch = self.pages;
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
        self.plan.fill(&self.pass, CudaOutputSpec::default(), &self.room);
        self.pass = PagedBatch::default();
        self.plan.upload(&self.device)?;
        self.compute()?;
        self.device.wait()
    }

    /// Captures passes over a token of each of up to so many texts. What can't be captured will be launched one by
    /// one, unless the device is lost.
    fn capture(&mut self, decodes_max: usize) -> Result<(), CudaError> {
        for rows in graphs::buckets(decodes_max, self.room.rows) {
            match self.capture_bucket(rows) {
                Ok(graph) => self.graphs.add(rows, graph),
                Err(error) if error.is_lost() => return Err(error),
                Err(error) => {
                    let error = anyhow::Error::from(error);
                    tracing::warn!(
                        rows,
                        error = format!("{error:#}"),
                        "steps of so many texts or more are no graphs"
                    );
                    break;
                }
            }
        }
        Ok(())
    }

    fn capture_bucket(&mut self, rows: usize) -> Result<Graph, CudaError> {
        self.fill_bucket(CudaOutputSpec::default(), rows);
        self.plan.upload(&self.device)?;
        // What a product of so many rows needs is loaded before, because nothing can be while it is captured.
        self.compute()?;
        self.device.wait()?;
        self.device.capture(|| self.compute())
    }

    /// Plans the pass as one of so many texts, of which those that it lacks are made up.
    fn fill_bucket(&mut self, wanted: CudaOutputSpec<'_>, rows: usize) {
        let Self { plan, pass, pages, room, .. } = self;
        plan.fill_bucket(pass, wanted, rows, *pages as u32, room);
    }

    /// Pages of keys and values that last; pages from this number on are scratch.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Computes the pass, and what is wanted of it: `whole` gets the logits of rows that want all of them and no draw,
    /// one row after the other.
    pub fn forward(
        &mut self,
        wanted: CudaOutputSpec<'_>,
        whole: &mut [f32],
        found: &mut CudaOutput,
    ) -> Result<(), CudaError> {
        let begun = Instant::now();
        let Self { device, plan, graphs, pass, pages, room, .. } = self;
        for (what, wanted, room) in [
            ("logits of chosen tokens", wanted.chosen.len(), room.pairs),
            ("tokens that aren't allowed", wanted.banned.len(), room.banned),
        ] {
            if wanted > room {
                return Err(CudaError::Room { what, wanted, room });
            }
        }
        let rows = pass.tokens.len();
        let decodes = graphs::decodes(pass, *pages) && wanted.rows.len() <= rows;
        let graph = if decodes { graphs.find(rows) } else { None };
        match graph {
            Some((bucket, _)) => plan.fill_bucket(pass, wanted, bucket, *pages as u32, room),
            None => plan.fill(pass, wanted, room),
        }
        plan.upload(device)?;
        match graph {
            Some((_, graph)) => graph.replay()?,
            None => self.compute()?,
        }
        self.asked_in = begun.elapsed();
        self.answer(wanted, whole, found)
    }

    /// How long the last pass took until all of it was asked of the device, but for what is read off its rows.
    pub fn asked_in(&self) -> Duration {
        self.asked_in
    }

    /// Waits until the device has done all that was asked of it, and says whether it still does.
    pub fn wait(&self) -> Result<(), CudaError> {
        self.device.wait()
    }

    /// Launches what was planned.
    fn compute(&self) -> Result<(), CudaError> {
        let mut pass = OnePass::of(self);
        decoder::forward(&self.config, &mut pass)?;
        let pending = pass.pending;
        self.pick(pending)
    }

    /// Norms the rows that something is wanted of.
    fn pick(&self, pending: Product) -> Result<(), CudaError> {
        let Self { config, device, launches, rows, plan, last_norm, .. } = self;
        let arguments = [
            Argument::Table(rows.picked.at(0)),
            Argument::Table(rows.exact.at(0)),
            Argument::Table(rows.stream.at(0)),
            Argument::Product(pending),
            Argument::Table(plan.table.at(plan.wanted)),
            Argument::Table(last_norm.at(0)),
            Argument::Number(config.norm_epsilon as f32),
            Argument::Count(config.width as u32),
        ];
        let threads = norm_threads(config.width);
        // SAFETY: the arguments of `pick`; there is room for every wanted row.
        unsafe { device.launch(&launches.pick, [plan.picked, 1, 1], threads, &arguments) }
    }

    fn answer(
        &mut self,
        wanted: CudaOutputSpec<'_>,
        whole: &mut [f32],
        found: &mut CudaOutput,
    ) -> Result<(), CudaError> {
        let Self { config, device, products, launches, rows, plan, room, shapes, .. } = self;
        let Self { embedding, unembedding, .. } = self;
        let table = unembedding.as_ref().unwrap_or(embedding).at(0);
        found.chosen.resize(wanted.chosen.len(), 0.0);
        let pairs = wanted.chosen.len();
        // Rows whose logits are read come before those of which a token is drawn.
        let read = wanted.full_logits - wanted.draws.len();
        for row in (0..wanted.full_logits).step_by(room.whole) {
            let count = room.whole.min(wanted.full_logits - row);
            let (sums, inputs) = (rows.logits.at(0), rows.picked.at(row * config.width));
            let operands = Operands { sums, inputs, weights: table };
            // SAFETY: the picked rows that want all logits come first, and there is room for so many's logits.
            unsafe { products.multiply(device, &shapes.unembedding, operands, count)? };
            let these = read.saturating_sub(row).min(count);
            if these > 0 {
                let out = row * config.vocabulary..(row + these) * config.vocabulary;
                device.read(&rows.logits, &mut whole[out])?;
                // What is read next is written to the same place.
                device.wait()?;
            }
            let first = (row + these) - read.min(row + these);
            let draws = count - these;
            let arguments = [
                Argument::Table(rows.drawn.at(2 * first)),
                Argument::Table(rows.logits.at(these * config.vocabulary)),
                Argument::Table(plan.table.at(plan.draws + DRAW_NUMBERS * first)),
                Argument::Table(plan.table.at(plan.banned)),
                Argument::Count(config.vocabulary as u32),
            ];
            // SAFETY: the arguments of `draw`; there are logits of so many rows, and as many draws.
            unsafe { device.launch(&launches.draw, [draws, 1, 1], DRAW_THREADS, &arguments)? };
        }
        found.drawn.resize(wanted.draws.len(), [0; 2]);
        if !wanted.draws.is_empty() {
            device.read(&rows.drawn, found.drawn.as_flattened_mut())?;
        }
        if pairs > 0 {
            let arguments = [
                Argument::Table(rows.logits.at(0)),
                Argument::Table(rows.picked.at(0)),
                Argument::Table(table),
                Argument::Table(plan.table.at(plan.pairs)),
                Argument::Count(pairs as u32),
                Argument::Count(config.width as u32),
            ];
            let blocks = (pairs * WARP as usize).div_ceil(ROW_THREADS as usize);
            // SAFETY: the arguments of `columns`; there is room for a logit of each pair.
            unsafe { device.launch(&launches.columns, [blocks, 1, 1], ROW_THREADS, &arguments)? };
            device.read(&rows.logits, &mut found.chosen)?;
        }
        found.hidden.clear();
        if wanted.hidden {
            found.hidden.resize(wanted.rows.len() * config.width, 0.0);
            device.read(&rows.exact, &mut found.hidden)?;
        }
        device.wait()
    }

    /// Where the keys, or the values, of a layer begin.
    pub(super) fn layer_of(&self, which: usize, layer: usize) -> Address {
        let all = self.cache[which].len() / self.config.layers;
        self.cache[which].at(layer * all)
    }

    /// Where heads lie, for kernels.
    pub(super) fn heads(&self) -> Argument {
        Argument::Heads(Heads {
            of_queries: self.config.heads as u32,
            of_keys: self.config.kv_heads as u32,
            dim: self.config.head_dim as u32,
            page_tokens: PAGE_TOKENS as u32,
        })
    }
}

/// The cosine and the sine of each pair of a head's numbers, at each position.
pub(super) fn turns(config: &DecoderConfig, positions: usize) -> Vec<f32> {
    let (frequencies, scale) = config.inverse_frequencies();
    let turn = |position: usize, frequency: f32| {
        let (sine, cosine) = (position as f32 * frequency).sin_cos();
        [cosine * scale, sine * scale]
    };
    let of = |position| frequencies.iter().flat_map(move |&frequency| turn(position, frequency));
    (0..positions).flat_map(of).collect()
}

/// Takes memory for keys and values: for as many pages as are wanted, or as there is room for, and for those of branches.
/// Says how many it is.
fn pages(
    device: &Device,
    config: &DecoderConfig,
    options: CudaOptions,
) -> Result<(usize, [Table<u8>; 2]), CudaError> {
    let CudaOptions { kv_pages: wanted, max_batched_tokens: scratch, kv_dtype: kept, .. } = options;
    let page = config.layers * config.kv_heads * kept.head_bytes(config);
    let room = device.free()?.saturating_sub(RESERVE) / (2 * page);
    let mut pages = wanted.min(room.saturating_sub(scratch)).max(1);
    let cache = loop {
        let all = (pages + scratch) * page;
        match device.zeroed(all).and_then(|keys| Ok([keys, device.zeroed(all)?])) {
            Ok(cache) => break cache,
            // Somebody else takes memory as well, or what is free lies scattered.
            Err(error) if error.is_full() && pages > 1 => pages /= 2,
            Err(error) => return Err(error),
        }
    };
    if pages < wanted {
        let (tokens, all) = (pages * PAGE_TOKENS, wanted * PAGE_TOKENS);
        tracing::warn!(tokens, wanted = all, "the GPU has no room for all keys and values");
    }
    Ok((pages, cache))
}

// === impl Shapes ===

impl Shapes {
    fn of(config: &DecoderConfig, format: CudaWeightDtype) -> Self {
        let heads = config.heads * config.head_dim;
        let all = heads + 2 * config.kv_heads * config.head_dim;
        Self {
            qkv: Shape::new([all, config.width], format),
            output: Shape::new([config.width, heads], format),
            gates_ups: Shape::new([2 * config.mlp_width, config.width], format),
            down: Shape::new([config.width, config.mlp_width], format),
            unembedding: Shape::new([config.vocabulary, config.width], CudaWeightDtype::Bf16),
        }
    }

    /// Finds what multiplies fastest.
    fn tune(
        &mut self,
        device: &Device,
        products: &Products,
        layers: &[Layer],
        unembedding: Address,
        room: &Room,
    ) -> Result<(), CudaError> {
        let some = |of: fn(&Layer) -> &Weights| -> Vec<Address> {
            layers.iter().take(TRIED_LAYERS).map(|layer| of(layer).numbers.at(0)).collect()
        };
        products.tune(device, &mut self.qkv, &some(|layer| &layer.qkv), room.rows)?;
        products.tune(device, &mut self.output, &some(|layer| &layer.output), room.rows)?;
        products.tune(device, &mut self.gates_ups, &some(|layer| &layer.gates_ups), room.rows)?;
        products.tune(device, &mut self.down, &some(|layer| &layer.down), room.rows)?;
        products.tune(device, &mut self.unembedding, &[unembedding], room.whole)
    }
}

/// Bytes that a block shares while it attends: keys and values of a part, in rows of 16 bits that are padded so that they
/// are in each other's way nowhere. Of those that are kept in 8, it shares all as they lie, and one of both in 16.
fn shared_bytes(config: &DecoderConfig, kept: KvDtype) -> usize {
    let of_page = PAGE_TOKENS * (config.head_dim.max(FRAGMENT_ROWS) + 8) * size_of::<bf16>();
    PAGES_A_PART
        * match kept {
            KvDtype::Model => 2 * of_page,
            KvDtype::Float8 => of_page + 2 * kept.head_bytes(config),
        }
}

// === impl Launches ===

impl Launches {
    fn find(device: &Device, config: &DecoderConfig, kept: KvDtype) -> Result<Self, CudaError> {
        let (dim, group) = (config.head_dim, config.heads / config.kv_heads);
        let bytes = shared_bytes(config, kept);
        let kept = if kept == KvDtype::Float8 { "_float8" } else { "" };
        let attends = |what: &str| {
            let name = format!("attend_{what}{kept}_{dim}_{group}");
            device.kernel_that_shares(&name, bytes / size_of::<f32>())
        };
        Ok(Self {
            embed: device.kernel("embed")?,
            add_norm: device.kernel("add_norm")?,
            pick: device.kernel("pick")?,
            columns: device.kernel("columns")?,
            place_heads: device.kernel(&format!("place_heads{kept}"))?,
            attend_rows: attends("rows")?,
            attend_parts: attends("parts")?,
            attend_merge: device.kernel("attend_merge")?,
            silu_mul: device.kernel("silu_mul")?,
            quantize: device.kernel("quantize")?,
            draw: device.kernel("draw")?,
        })
    }
}
