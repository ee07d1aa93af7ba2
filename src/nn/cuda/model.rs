//! A decoder whose weights, pages and rows lie on a GPU.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use super::device::{Address, Argument, DECODER, Device, DeviceError, Heads, Kernel, Table};
use super::load::{Layer, LoadError, Loader, check};
use super::pass::OnePass;
use super::products::Products;
use super::rows::{Found, Plan, Rows, Wanted};
use crate::nn::decoder::{self, Checkpoint, Config, EMBEDDING, Linear, Norm};
use crate::nn::packed::{PAGE_TOKENS, Pass};
use half::bf16;
use std::sync::Arc;

/// Threads of a block that goes over a row, and of a warp.
pub(super) const ROW_THREADS: u32 = 256;
pub(super) const WARP: u32 = 32;

/// How a model is loaded.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The number of the GPU.
    pub ordinal: usize,
    /// Pages of keys and values.
    pub pages: usize,
    /// Rows of a pass.
    pub rows_max: usize,
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
    pub(super) rows: Rows,
    pub(super) plan: Plan,
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
        let loader = Loader { checkpoint, config: &config, device: &device };
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
        // At worst every row of a pass is a branch of its own.
        let page = config.kv_heads * PAGE_TOKENS * config.head_dim;
        let all = (options.pages + options.rows_max) * page * config.layers;
        let cache = [device.zeroed(all)?, device.zeroed(all)?];
        let rows = Rows::new(&device, &config, options.rows_max)?;
        let plan = Plan::new(&device)?;
        device.wait()?;
        Ok(Self {
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
            pages: options.pages,
            rows,
            plan,
            pass: Pass::default(),
        })
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
        self.plan.fill(&self.pass, wanted);
        self.plan.upload(&self.device)?;
        let parts = self.plan.rows * self.config.heads * self.plan.parts;
        self.rows.fit(&self.device, &self.config, parts, wanted)?;
        let config = self.config.clone();
        let mut pass = OnePass { of: self, pending: None, gates_ups_bias: 0 };
        decoder::forward(&config, &mut pass)?;
        let pending = pass.pending;
        self.pick(wanted, pending)?;
        self.answer(wanted, whole, found)
    }

    /// Norms the rows that something is wanted of.
    fn pick(&mut self, wanted: Wanted<'_>, pending: Option<Address>) -> Result<(), DeviceError> {
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
        unsafe { device.launch(&launches.pick, [wanted.rows.len(), 1, 1], ROW_THREADS, &arguments) }
    }

    fn answer(
        &mut self,
        wanted: Wanted<'_>,
        whole: &mut [f32],
        found: &mut Found,
    ) -> Result<(), DeviceError> {
        let Self { config, device, products, launches, rows, plan, embedding, unembedding, .. } =
            self;
        let table = unembedding.as_ref().unwrap_or(embedding).at(0);
        found.logits.resize(wanted.pairs.len(), 0.0);
        let pairs = wanted.pairs.len();
        if wanted.whole > 0 {
            let dims = [wanted.whole, config.vocabulary, config.width];
            // SAFETY: the picked rows that want all logits come first, and there is room for their logits.
            unsafe { products.multiply(rows.logits.at(0), rows.picked.at(0), table, dims)? };
            device.read(&rows.logits, whole)?;
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
