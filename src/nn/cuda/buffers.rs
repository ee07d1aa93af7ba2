//! What a forward pass writes to, beside KV pages. All of it is allocated when the model is loaded, and never moves.

use super::device::{CudaError, Device, DeviceBuffer};
use super::interface::{
    AttendedPart, AttendedRow, CudaWeightDtype, DevicePtr, DrawSpec, Drawn, FRAGMENT_ROWS,
    HiddenRow, Logit, LogitPair, NORM_THREADS, PAGES_A_PART, Packed, PageRange, PageSlot, PartSum,
    PickedRow, ProductSum, QueryHead, ROWS_WARPS, Residual, RowScale, RowTile, SeenPage, WARP,
    WIDE_THREADS,
};
use super::options::CudaOptions;
use crate::nn::decoder::DecoderConfig;
use crate::nn::packed::PAGE_TOKENS;

/// Parts of attention in memory at once, at most, unless a single row has more. A pass with more attends some rows at
/// a time.
const PARTS_MAX: usize = 16_384;
/// Rows whose whole logits are in memory at once, at least. More are computed in turns.
const WHOLE_MIN: usize = 64;
/// Chosen logits for each row of the largest pass.
const PAIRS_A_ROW: usize = 256;
/// Banned tokens for each row of the largest pass.
const BANNED_A_ROW: usize = 64;
/// Blocks of attention that keep a device busy, and blocks per row, at least, so that a long sequence beside many short
/// ones is not the work of one block.
const BLOCKS_ENOUGH: usize = 1024;
const BLOCKS_MIN: usize = 8;

/// The largest forward pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct PassLimits {
    pub rows: usize,
    kv_heads: usize,
    /// Rows of a tile of attention: `TILE_TOKENS` of the kernels.
    pub tile_rows: usize,
    /// Parts of the pages that one row sees.
    pub parts_of_row: usize,
    /// Parts of all rows that attend at once.
    pub parts: usize,
    /// Rows whose whole logits are in memory at once.
    pub whole: usize,
    /// Chosen logits of a pass.
    pub pairs: usize,
    /// Banned tokens of a pass.
    pub banned: usize,
    /// Words that are uploaded.
    pub words: usize,
}

/// What a pass writes to.
#[derive(Debug)]
pub(super) struct PassBuffers {
    /// The dtype of rows that are multiplied with a layer's weights.
    pub dtype: CudaWeightDtype,
    pub stream: DeviceBuffer<Residual>,
    /// The product that is to be added to the stream.
    pub delta: DeviceBuffer<ProductSum>,
    pub normed: PackedRows,
    pub qkv: DeviceBuffer<ProductSum>,
    pub queries: DeviceBuffer<QueryHead>,
    pub attended: DeviceBuffer<AttendedRow>,
    /// The same in 8 bits, if weights have 8 bits.
    pub attended_packed: Option<PackedRows>,
    pub parts: DeviceBuffer<AttendedPart>,
    pub sums: DeviceBuffer<PartSum>,
    pub gates_ups: DeviceBuffer<ProductSum>,
    pub gated: PackedRows,
    /// Rows that are read, after the last norm.
    pub picked: DeviceBuffer<PickedRow>,
    pub hidden: DeviceBuffer<HiddenRow>,
    pub logits: DeviceBuffer<Logit>,
    pub drawn: DeviceBuffer<Drawn>,
}

/// Rows in a dtype of weights, and their scales if they have 8 bits.
#[derive(Debug)]
pub(super) struct PackedRows {
    numbers: DeviceBuffer<Packed>,
    scales: Option<DeviceBuffer<RowScale>>,
}

/// Threads of a block that norms rows of this width: a thread has up to `NARROW` groups of four numbers.
pub(super) fn norm_threads(width: usize) -> u32 {
    threads(width, NORM_THREADS)
}

/// The same for the widest rows, with up to `WIDE` groups of four.
pub(super) fn wide_threads(width: usize) -> u32 {
    threads(width, WIDE_THREADS)
}

fn threads(width: usize, most: u32) -> u32 {
    (width.div_ceil(4) as u32).next_multiple_of(WARP).min(most)
}

// === impl PassLimits ===

impl PassLimits {
    pub fn of(config: &DecoderConfig, options: CudaOptions) -> Self {
        let CudaOptions {
            kv_pages, max_batched_tokens: rows, context_tokens_max, decodes_max, ..
        } = options;
        // A branch sees lasting pages, and some scratch pages of its own.
        let pages_of_row = context_tokens_max.div_ceil(PAGE_TOKENS) + 1;
        let pages_of_row = pages_of_row.min(kv_pages + rows.div_ceil(PAGE_TOKENS));
        let parts_of_row = pages_of_row.div_ceil(PAGES_A_PART as usize);
        let pairs = (rows * PAIRS_A_ROW).max(config.vocabulary);
        let banned = rows * BANNED_A_ROW;
        let decodes = decodes_max.next_power_of_two().min(rows);
        // A token, a position, a slot, a range, an index among the rows that are read, a tile and a draw; and its pages.
        let of_row = 3
            + PageSlot::WORDS
            + PageRange::WORDS
            + RowTile::WORDS
            + DrawSpec::WORDS
            + SeenPage::WORDS * pages_of_row;
        Self {
            rows,
            kv_heads: config.kv_heads,
            tile_rows: ROWS_WARPS as usize
                * (FRAGMENT_ROWS as usize / (config.heads / config.kv_heads)),
            parts_of_row,
            parts: (decodes * parts_of_row).min(PARTS_MAX).max(parts_of_row),
            whole: decodes_max.max(WHOLE_MIN).min(rows),
            pairs,
            banned,
            words: rows * of_row + LogitPair::WORDS * pairs + banned,
        }
    }

    /// Blocks that take turns at the parts of each of so many rows.
    pub fn blocks(&self, rows: usize) -> usize {
        let enough = BLOCKS_ENOUGH.div_ceil(rows * self.kv_heads);
        enough.max(BLOCKS_MIN).min(self.parts_of_row)
    }
}

// === impl PassBuffers ===

impl PassBuffers {
    pub fn new(
        device: &Device,
        config: &DecoderConfig,
        limits: &PassLimits,
        dtype: CudaWeightDtype,
    ) -> Result<Self, CudaError> {
        let rows = limits.rows;
        let packed = |width: usize| PackedRows::new(device, rows, width, dtype);
        let has_8_bits = dtype != CudaWeightDtype::Bf16;
        let heads = config.heads * config.head_dim;
        let all = heads + 2 * config.kv_heads * config.head_dim;
        Ok(Self {
            dtype,
            stream: device.zeroed(rows * config.width)?,
            delta: device.zeroed(rows * config.width)?,
            normed: packed(config.width)?,
            qkv: device.zeroed(rows * all)?,
            queries: device.zeroed(rows * heads)?,
            attended: device.zeroed(rows * heads)?,
            attended_packed: has_8_bits.then(|| packed(heads)).transpose()?,
            parts: device.zeroed(limits.parts * heads)?,
            sums: device.zeroed(limits.parts * config.heads * 2)?,
            gates_ups: device.zeroed(rows * 2 * config.mlp_width)?,
            gated: packed(config.mlp_width)?,
            picked: device.zeroed(rows * config.width)?,
            hidden: device.zeroed(rows * config.width)?,
            logits: device.zeroed((limits.whole * config.vocabulary).max(limits.pairs))?,
            drawn: device.zeroed(Drawn::WORDS * rows)?,
        })
    }
}

// === impl PackedRows ===

impl PackedRows {
    fn new(
        device: &Device,
        rows: usize,
        width: usize,
        dtype: CudaWeightDtype,
    ) -> Result<Self, CudaError> {
        let numbers = device.zeroed(rows * width * dtype.bytes())?;
        let has_8_bits = dtype != CudaWeightDtype::Bf16;
        let scales = has_8_bits.then(|| device.zeroed(rows)).transpose()?;
        Ok(Self { numbers, scales })
    }

    pub fn numbers(&self) -> DevicePtr<Packed> {
        self.numbers.at(0)
    }

    /// The scale of each row; null, if they have none.
    pub fn scales(&self) -> DevicePtr<RowScale> {
        DeviceBuffer::or_null(self.scales.as_ref())
    }
}
