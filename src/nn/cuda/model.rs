//! A decoder whose weights, pages and rows lie on a GPU.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use super::device::{Address, Argument, DECODER, Device, DeviceError, Graph, Heads, Kernel, Table};
use super::graphs::{self, Graphs};
use super::load::{Layer, LoadError, Loader, check};
use super::pass::OnePass;
use super::products::Products;
use super::rows::{Found, Plan, Room, Rows, Wanted};
use crate::nn::decoder::{self, Checkpoint, Config, EMBEDDING, Linear, Norm};
use crate::nn::packed::{PAGE_TOKENS, Pass};
use half::bf16;
use std::sync::Arc;

/// Threads of a block that goes over a row, and of a warp.
pub(super) const ROW_THREADS: u32 = 256;
pub(super) const WARP: u32 = 32;
/// Bytes that stay free when the pages are taken: for the code that the driver and cuBLAS load when it is first
/// needed, and for graphs.
const RESERVE: usize = 512 << 20;

/// How a model is loaded.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The number of the GPU.
    pub ordinal: usize,
    /// Pages of keys and values; fewer, if the GPU has no room for so many.
    pub pages: usize,
    /// Rows of a pass.
    pub rows_max: usize,
    /// Tokens of a text.
    pub context_tokens_max: usize,
    /// Texts that go on at once, at most: passes over a token of each are captured. With 0, none are.
    pub decodes_max: usize,
}

/// A decoder that serves on a GPU.
#[derive(Debug)]
pub struct Model {
    pub(super) config: Arc<Config>,
    pub(super) device: Device,
    pub(super) products: Products,
    pub(super) launches: Launches,
    pub(super) layers: Vec<Layer>,
    pub(super) embedding: Table<bf16>,
    /// The unembedding, where it is another table.
    unembedding: Option<Table<bf16>>,
    last_norm: Table<f32>,
    pub(super) frequencies: Table<f32>,
    pub(super) turn_scale: f32,
    /// Keys and values: a layer's pages, and then the next one's.
    cache: [Table<bf16>; 2],
    pages: usize,
    pub(super) room: Room,
    pub(super) rows: Rows,
    pub(super) plan: Plan,
    graphs: Graphs,
    /// The pass to fill before [`Model::forward`].
    pub pass: Pass,
}

#[derive(Debug)]
pub(super) struct Launches {
    pub(super) embed: Kernel,
    pub(super) add_norm: Kernel,
    pick: Kernel,
    columns: Kernel,
    pub(super) place_heads: Kernel,
    pub(super) attend: Kernel,
    pub(super) attend_merge: Kernel,
    pub(super) silu_mul: Kernel,
}

// === impl Model ===

impl Model {
    /// Loads a checkpoint.
    pub fn load(checkpoint: &Checkpoint, options: Options) -> Result<Self, LoadError> {
        let config = Arc::new(checkpoint.config().clone());
        check(&config)?;
        let device = Device::open(options.ordinal, DECODER)?;
        let products = Products::open(&device)?;
        let loader = Loader::new(checkpoint, &config, &device);
        let layers = (0..config.layers).map(|layer| loader.layer(layer));
        let layers = layers.collect::<Result<Vec<_>, _>>()?;
        let embedding = loader.table(&[EMBEDDING.into()])?;
        let unembedding =
            (!config.tied).then(|| loader.table(&[Linear::Unembed.name()])).transpose()?;
        let last_norm = loader.numbers(&[Norm::Last.name()])?;
        let (of_turns, turn_scale) = config.inverse_frequencies();
        let mut frequencies = device.zeroed(of_turns.len())?;
        device.write(&mut frequencies, 0, &of_turns)?;
        let launches = Launches::find(&device, &config)?;
        let room = Room::of(&config, options);
        let rows = Rows::new(&device, &config, &room)?;
        let plan = Plan::new(&device, &room)?;
        device.wait()?;
        // At worst every row of a pass is a branch of its own.
        let (pages, cache) = pages(&device, &config, options.pages, options.rows_max)?;
        let mut model = Self {
            config,
            device,
            products,
            launches,
            layers,
            embedding,
            unembedding,
            last_norm,
            frequencies,
            turn_scale,
            cache,
            pages,
            room,
            rows,
            plan,
            graphs: Graphs::default(),
            pass: Pass::default(),
        };
        model.warm()?;
        model.capture(options.decodes_max)?;
        Ok(model)
    }

    /// Runs all kernels once, in as large a pass as there can be, so that whatever the libraries put off until
    /// something is first needed is done before anybody waits for it.
    fn warm(&mut self) -> Result<(), DeviceError> {
        let wanted = Wanted { rows: &[0], whole: 1, pairs: &[[0, 0]], exact: true };
        let mut logits = vec![0.0; self.config.vocabulary];
        self.fill_bucket(wanted, self.room.rows);
        self.plan.upload(&self.device)?;
        self.compute()?;
        self.answer(wanted, &mut logits, &mut Found::default())
    }

    /// Captures passes over a token of each of up to so many texts. What can't be captured will be launched one by
    /// one, unless the device is lost.
    fn capture(&mut self, decodes_max: usize) -> Result<(), DeviceError> {
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

    fn capture_bucket(&mut self, rows: usize) -> Result<Graph, DeviceError> {
        self.fill_bucket(Wanted::default(), rows);
        self.plan.upload(&self.device)?;
        // What a product of so many rows needs is loaded before, because nothing can be while it is captured.
        self.compute()?;
        self.device.wait()?;
        self.device.capture(|| self.compute())
    }

    /// Plans the pass as one of so many texts, of which those that it lacks are made up.
    fn fill_bucket(&mut self, wanted: Wanted<'_>, rows: usize) {
        let Self { plan, pass, pages, room, .. } = self;
        plan.fill_bucket(pass, wanted, rows, *pages as u32, room);
    }

    /// Pages of keys and values that last; pages from this number on are scratch.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Computes the pass, and what is wanted of it: `whole` gets the logits of rows that want all of them, one row
    /// after the other.
    pub fn forward(
        &mut self,
        wanted: Wanted<'_>,
        whole: &mut [f32],
        found: &mut Found,
    ) -> Result<(), DeviceError> {
        let Self { device, plan, graphs, pass, pages, room, .. } = self;
        if wanted.pairs.len() > room.pairs {
            return Err(DeviceError::Room { wanted: wanted.pairs.len(), room: room.pairs });
        }
        let rows = pass.tokens.len();
        let decodes = graphs::decodes(pass, *pages) && wanted.rows.len() <= rows;
        let graph = if decodes { graphs.find(rows) } else { None };
        match graph {
            Some((bucket, _)) => plan.fill_bucket(pass, wanted, bucket, *pages as u32, room),
            None => plan.fill(pass, wanted),
        }
        plan.upload(device)?;
        match graph {
            Some((_, graph)) => graph.replay()?,
            None => self.compute()?,
        }
        self.answer(wanted, whole, found)
    }

    /// Waits until the device has done all that was asked of it, and says whether it still does.
    pub fn wait(&self) -> Result<(), DeviceError> {
        self.device.wait()
    }

    /// Launches what was planned.
    fn compute(&self) -> Result<(), DeviceError> {
        let mut pass = OnePass { of: self, pending: None, gates_ups_bias: 0 };
        decoder::forward(&self.config, &mut pass)?;
        let pending = pass.pending;
        self.pick(pending)
    }

    /// Norms the rows that something is wanted of.
    fn pick(&self, pending: Option<Address>) -> Result<(), DeviceError> {
        let Self { config, device, launches, rows, plan, last_norm, .. } = self;
        let [delta, bias] = rows.pending(pending);
        let arguments = [
            Argument::Table(rows.picked.at(0)),
            Argument::Table(rows.exact.at(0)),
            Argument::Table(rows.stream.at(0)),
            delta,
            bias,
            Argument::Table(plan.table.at(plan.wanted)),
            Argument::Table(last_norm.at(0)),
            Argument::Number(config.norm_epsilon as f32),
            Argument::Count(config.width as u32),
        ];
        // SAFETY: the arguments of `pick`; there is room for every wanted row.
        unsafe { device.launch(&launches.pick, [plan.picked, 1, 1], ROW_THREADS, &arguments) }
    }

    fn answer(
        &mut self,
        wanted: Wanted<'_>,
        whole: &mut [f32],
        found: &mut Found,
    ) -> Result<(), DeviceError> {
        let Self { config, device, products, launches, rows, plan, room, .. } = self;
        let Self { embedding, unembedding, .. } = self;
        let table = unembedding.as_ref().unwrap_or(embedding).at(0);
        found.logits.resize(wanted.pairs.len(), 0.0);
        let pairs = wanted.pairs.len();
        let at_once = whole.chunks_mut(room.whole * config.vocabulary);
        for (out, row) in at_once.zip((0..).step_by(room.whole)) {
            let dims = [out.len() / config.vocabulary, config.vocabulary, config.width];
            let picked = rows.picked.at(row * config.width);
            // SAFETY: the picked rows that want all logits come first, and there is room for so many's logits.
            unsafe { products.multiply(rows.logits.at(0), picked, table, dims)? };
            device.read(&rows.logits, out)?;
            // What is read next is written to the same place.
            device.wait()?;
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
            device.read(&rows.logits, &mut found.logits)?;
        }
        found.rows.clear();
        if wanted.exact {
            found.rows.resize(wanted.rows.len() * config.width, 0.0);
            device.read(&rows.exact, &mut found.rows)?;
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

/// Takes memory for keys and values: for as many pages as are wanted, or as there is room for, and `scratch` more. Says
/// how many it is.
fn pages(
    device: &Device,
    config: &Config,
    wanted: usize,
    scratch: usize,
) -> Result<(usize, [Table<bf16>; 2]), DeviceError> {
    let page = config.kv_heads * PAGE_TOKENS * config.head_dim * config.layers;
    let room = device.free()?.saturating_sub(RESERVE) / (2 * page * size_of::<bf16>());
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

// === impl Launches ===

impl Launches {
    fn find(device: &Device, config: &Config) -> Result<Self, DeviceError> {
        let group = config.heads / config.kv_heads;
        Ok(Self {
            embed: device.kernel("embed")?,
            add_norm: device.kernel("add_norm")?,
            pick: device.kernel("pick")?,
            columns: device.kernel("columns")?,
            place_heads: device.kernel("place_heads")?,
            attend: device.kernel(&format!("attend_{}_{group}", config.head_dim))?,
            attend_merge: device.kernel("attend_merge")?,
            silu_mul: device.kernel("silu_mul")?,
        })
    }
}
