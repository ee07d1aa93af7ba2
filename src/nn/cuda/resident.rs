//! A decoder that is loaded onto a GPU: its weights, its KV pages, the buffers of a forward pass, and its kernels.

use super::buffers::{PassBuffers, PassLimits};
use super::device::{CudaError, Device, DeviceBuffer, Kernel};
use super::interface::{
    AddNorm, AddNormPicked, AttendMerge, AttendParts, AttendRows, ChosenLogits, CudaWeightDtype,
    DevicePtr, Draw, Embed, Epsilon, FRAGMENT_ROWS, Heads, KeyPage, NormRopeAndWrite, NormScale,
    PAGES_A_PART, Packed, Quantize, RopeAngle, SiluMul, ValuePage, VocabularyWeight, Width,
};
use super::load::{DeviceLayer, DeviceWeights, LoadError, WeightLoader, check};
use super::options::CudaOptions;
use super::products::{Products, WeightShape};
use super::rope::upload_rope;
use super::upload::PassUpload;
use crate::nn::decoder::{Checkpoint, DecoderConfig, EMBEDDING, LinearId, NormId};
use crate::nn::packed::{KvDtype, PAGE_TOKENS};
use half::bf16;
use std::sync::Arc;

/// Layers whose weights are used to time products when a model is loaded.
const TUNED_LAYERS: usize = 4;
/// Bytes that stay free when KV pages are allocated: for code that the driver and cuBLAS load when it is first used, and
/// for graphs.
const RESERVE: usize = 512 << 20;

/// What a decoder has on a GPU.
#[derive(Debug)]
pub(super) struct Resident {
    pub config: Arc<DecoderConfig>,
    pub device: Device,
    pub products: Products,
    pub kernels: DecoderKernels,
    pub layers: Vec<DeviceLayer>,
    pub shapes: WeightShapes,
    pub embedding: DeviceBuffer<VocabularyWeight>,
    /// The unembedding, if the model does not tie it to the embedding.
    unembedding: Option<DeviceBuffer<VocabularyWeight>>,
    last_norm: DeviceBuffer<NormScale>,
    pub rope: DeviceBuffer<RopeAngle>,
    keys: DeviceBuffer<KeyPage>,
    values: DeviceBuffer<ValuePage>,
    /// KV pages that last. Pages from this number on are scratch.
    pub kv_pages: usize,
    pub limits: PassLimits,
    pub buffers: PassBuffers,
    pub upload: PassUpload,
}

/// The shapes of a decoder's weights, and the algorithms of their products.
#[derive(Debug)]
pub(super) struct WeightShapes {
    pub qkv: WeightShape,
    pub output: WeightShape,
    pub gates_ups: WeightShape,
    pub down: WeightShape,
    pub unembedding: WeightShape,
}

/// The kernels of a decoder that serves.
#[derive(Debug)]
pub(super) struct DecoderKernels {
    pub embed: Kernel<Embed>,
    pub add_norm: Kernel<AddNorm>,
    pub add_norm_picked: Kernel<AddNormPicked>,
    pub chosen_logits: Kernel<ChosenLogits>,
    pub norm_rope_and_write: Kernel<NormRopeAndWrite>,
    pub attend_rows: Kernel<AttendRows>,
    pub attend_parts: Kernel<AttendParts>,
    pub attend_merge: Kernel<AttendMerge>,
    pub silu_mul: Kernel<SiluMul>,
    pub quantize: Kernel<Quantize>,
    pub draw: Kernel<Draw>,
}

// === impl Resident ===

impl Resident {
    /// Loads a checkpoint, and tunes its products.
    pub fn load(
        checkpoint: &Checkpoint,
        options: CudaOptions,
        kernels: &[u8],
    ) -> Result<Self, LoadError> {
        let config = Arc::new(checkpoint.config().clone());
        let dtype = options.weight_dtype;
        check(&config, dtype)?;
        let device = Device::open(options.ordinal, kernels)?;
        let products = Products::open(&device)?;
        let loader = WeightLoader::new(checkpoint, &config, &device, dtype)?;
        let layers = (0..config.layers).map(|layer| loader.layer(layer));
        let layers = layers.collect::<Result<Vec<_>, _>>()?;
        let embedding: DeviceBuffer<VocabularyWeight> = loader.table(&[EMBEDDING.into()])?;
        let unembedding: Option<DeviceBuffer<VocabularyWeight>> =
            (!config.tied).then(|| loader.table(&[LinearId::Unembed.name()])).transpose()?;
        let last_norm = loader.numbers(&[NormId::Last.name()])?;
        let rope = upload_rope(&device, &config, options.context_tokens_max)?;
        let kernels = DecoderKernels::find(&device, &config, options.kv_dtype)?;
        let limits = PassLimits::of(&config, options);
        let buffers = PassBuffers::new(&device, &config, &limits, dtype)?;
        let upload = PassUpload::new(&device, &limits)?;
        device.wait()?;
        let mut shapes = WeightShapes::of(&config, dtype);
        let unembeds = unembedding.as_ref().unwrap_or(&embedding).at(0).packed();
        shapes.tune(&device, &products, &layers, unembeds, &limits)?;
        // At worst every row of a pass is a branch of its own.
        let (kv_pages, keys, values) = allocate_kv_pages(&device, &config, options)?;
        Ok(Self {
            config,
            device,
            products,
            kernels,
            layers,
            shapes,
            embedding,
            unembedding,
            last_norm,
            rope,
            keys,
            values,
            kv_pages,
            limits,
            buffers,
            upload,
        })
    }

    /// The table that unembeds.
    pub fn unembedding(&self) -> DevicePtr<VocabularyWeight> {
        self.unembedding.as_ref().unwrap_or(&self.embedding).at(0)
    }

    /// The scale of a norm over rows. Norms over heads have tables of their own: [`DeviceLayer::head_norms`].
    pub fn norm_scale(&self, norm: NormId) -> DevicePtr<NormScale> {
        match norm {
            NormId::Attention(layer) => self.layers[layer].attention_norm.at(0),
            NormId::Mlp(layer) => self.layers[layer].mlp_norm.at(0),
            NormId::Last => self.last_norm.at(0),
            NormId::Query(_) | NormId::Key(_) => unreachable!("{norm:?} is a norm over heads"),
        }
    }

    /// A layer's keys and values.
    pub fn kv_of(&self, layer: usize) -> (DevicePtr<KeyPage>, DevicePtr<ValuePage>) {
        let bytes = self.keys.len() / self.config.layers;
        (self.keys.at(layer * bytes), self.values.at(layer * bytes))
    }

    pub fn heads(&self) -> Heads {
        Heads {
            heads: self.config.heads as u32,
            kv_heads: self.config.kv_heads as u32,
            dim: self.config.head_dim as u32,
            page_tokens: PAGE_TOKENS as u32,
        }
    }

    /// Numbers of a row of the stream.
    pub fn width(&self) -> Width {
        Width::of(self.config.width)
    }

    pub fn epsilon(&self) -> Epsilon {
        Epsilon::of(self.config.norm_epsilon as f32)
    }
}

/// Allocates keys and values: the requested KV pages, or as many as there is memory for, and scratch pages for branches.
/// Returns the number of lasting pages.
fn allocate_kv_pages(
    device: &Device,
    config: &DecoderConfig,
    options: CudaOptions,
) -> Result<(usize, DeviceBuffer<KeyPage>, DeviceBuffer<ValuePage>), CudaError> {
    let CudaOptions { kv_pages: requested, max_batched_tokens: scratch, kv_dtype, .. } = options;
    let page = config.layers * config.kv_heads * kv_dtype.head_bytes(config);
    let fit = device.free()?.saturating_sub(RESERVE) / (2 * page);
    let mut pages = requested.min(fit.saturating_sub(scratch)).max(1);
    let (keys, values) = loop {
        let bytes = (pages + scratch) * page;
        match device.zeroed(bytes).and_then(|keys| Ok((keys, device.zeroed(bytes)?))) {
            Ok(cache) => break cache,
            // Another process allocates as well, or free memory is fragmented.
            Err(error) if error.is_full() && pages > 1 => pages /= 2,
            Err(error) => return Err(error),
        }
    };
    if pages < requested {
        let (tokens, requested) = (pages * PAGE_TOKENS, requested * PAGE_TOKENS);
        tracing::warn!(tokens, requested, "the GPU has no memory for the whole KV cache");
    }
    Ok((pages, keys, values))
}

// === impl WeightShapes ===

impl WeightShapes {
    fn of(config: &DecoderConfig, dtype: CudaWeightDtype) -> Self {
        let heads = config.heads * config.head_dim;
        let all = heads + 2 * config.kv_heads * config.head_dim;
        Self {
            qkv: WeightShape::new([all, config.width], dtype),
            output: WeightShape::new([config.width, heads], dtype),
            gates_ups: WeightShape::new([2 * config.mlp_width, config.width], dtype),
            down: WeightShape::new([config.width, config.mlp_width], dtype),
            unembedding: WeightShape::new([config.vocabulary, config.width], CudaWeightDtype::Bf16),
        }
    }

    /// Finds the fastest algorithm for each product.
    fn tune(
        &mut self,
        device: &Device,
        products: &Products,
        layers: &[DeviceLayer],
        unembedding: DevicePtr<Packed>,
        limits: &PassLimits,
    ) -> Result<(), CudaError> {
        let some = |of: fn(&DeviceLayer) -> &DeviceWeights| -> Vec<DevicePtr<Packed>> {
            layers.iter().take(TUNED_LAYERS).map(|layer| of(layer).numbers.at(0)).collect()
        };
        let rows = limits.rows;
        products.tune(device, &mut self.qkv, &some(|layer| &layer.qkv), rows)?;
        products.tune(device, &mut self.output, &some(|layer| &layer.output), rows)?;
        products.tune(device, &mut self.gates_ups, &some(|layer| &layer.gates_ups), rows)?;
        products.tune(device, &mut self.down, &some(|layer| &layer.down), rows)?;
        products.tune(device, &mut self.unembedding, &[unembedding], limits.whole)
    }
}

// === impl DecoderKernels ===

/// Bytes of shared memory of a block that attends: `SHARED_BYTES` of the kernels.
fn attention_shared_bytes(config: &DecoderConfig, kv_dtype: KvDtype) -> usize {
    let padded = config.head_dim.max(FRAGMENT_ROWS as usize) + 8;
    let page = PAGE_TOKENS * padded * size_of::<bf16>();
    PAGES_A_PART as usize
        * match kv_dtype {
            KvDtype::Model => 2 * page,
            KvDtype::Float8 => page + 2 * kv_dtype.head_bytes(config),
        }
}

impl DecoderKernels {
    fn find(device: &Device, config: &DecoderConfig, kv_dtype: KvDtype) -> Result<Self, CudaError> {
        let bytes = attention_shared_bytes(config, kv_dtype);
        let variant = match kv_dtype {
            KvDtype::Model => 0,
            KvDtype::Float8 => 1,
        };
        let shape = format!("{}_{}", config.head_dim, config.heads / config.kv_heads);
        Ok(Self {
            embed: device.kernel()?,
            add_norm: device.kernel()?,
            add_norm_picked: device.kernel()?,
            chosen_logits: device.kernel()?,
            norm_rope_and_write: device.variant(variant, "")?,
            attend_rows: device.variant(variant, &shape)?.with_shared(bytes)?,
            attend_parts: device.variant(variant, &shape)?.with_shared(bytes)?,
            attend_merge: device.kernel()?,
            silu_mul: device.kernel()?,
            quantize: device.kernel()?,
            draw: device.kernel()?,
        })
    }
}
