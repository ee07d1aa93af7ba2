//! One forward pass of a decoder that serves: the wiring of [`crate::nn::decoder`] as launches.
//!
//! A value of the wiring is either a product that the next operation scales, or a proof that a buffer was written. So
//! operations can be neither skipped nor exchanged: each consumes what the operation before it returned.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use super::buffers::{norm_threads, wide_threads};
use super::device::{CudaError, DeviceBuffer};
use super::interface::{
    AddNorm, AddNormPicked, AttendMerge, AttendParts, AttendRows, CudaWeightDtype, DevicePtr,
    Embed, NormRopeAndWrite, Packed, PartCount, Product, ProductSum, Quantize, ROWS_WARPS,
    RowScale, ScoreScale, SiluMul, WARP, Width, Window,
};
use super::load::DeviceWeights;
use super::products::{ProductOperands, WeightShape};
use super::resident::Resident;
use crate::nn::decoder::{Kernels, NormId};

/// Threads of a block that embeds a row, or reads chosen logits.
pub(super) const ROW_THREADS: u32 = 256;
/// Threads of a block that attends for a tile of rows.
const TILE_THREADS: u32 = ROWS_WARPS * WARP;
/// Heads of a block that norms and rotates them, one per warp.
const HEADS_A_BLOCK: u32 = 8;

/// The pass that was uploaded.
pub(super) struct ServingPass<'a> {
    resident: &'a Resident,
}

/// The stream's buffer was written.
pub(super) struct Stream(());
/// The buffer of normed rows was written.
pub(super) struct Normed(());
/// Queries, keys and values, not scaled yet.
pub(super) struct ProjectedHeads(Product);
/// Queries were written to their buffer, and keys and values to their pages.
pub(super) struct WrittenHeads(());
/// The buffer of attention's output was written.
pub(super) struct Attended(());
/// The buffer of gated numbers was written.
pub(super) struct Gated(());
/// A sublayer's output, not scaled yet, and not yet added to the stream.
pub(super) struct Delta(Product);

// === impl ServingPass ===

impl<'a> ServingPass<'a> {
    pub fn of(resident: &'a Resident) -> Self {
        Self { resident }
    }

    /// Adds a delta, if it has sums, and norms.
    fn launch_add_norm(&self, delta: Product, norm: NormId) -> Result<Normed, CudaError> {
        let Resident { config, device, kernels, buffers, upload, .. } = self.resident;
        let arguments = AddNorm {
            normed: buffers.normed.numbers(),
            row_scales: buffers.normed.scales(),
            dtype: buffers.dtype,
            stream: buffers.stream.at(0),
            delta,
            norm_scale: self.resident.norm_scale(norm),
            epsilon: self.resident.epsilon(),
            width: self.resident.width(),
        };
        let threads = norm_threads(config.width);
        // SAFETY: all buffers have space for a pass's rows.
        unsafe { device.launch(&kernels.add_norm, [upload.rows, 1, 1], threads, &arguments)? };
        Ok(Normed(()))
    }

    /// Attention part by part, for single rows: as many at a time as there is space for their parts.
    fn attend_singles(&self, layer: usize) -> Result<(), CudaError> {
        let Resident { config, device, kernels, buffers, upload, limits, .. } = self.resident;
        let width = config.heads * config.head_dim;
        let (keys, values) = self.resident.kv_of(layer);
        let heads = self.resident.heads();
        let parts_max = PartCount::of(upload.parts);
        let at_once = (limits.parts / upload.parts).max(1);
        for row in (0..upload.singles).step_by(at_once) {
            let count = at_once.min(upload.singles - row);
            let ranges = upload.at(upload.ranges).record(row);
            let arguments = AttendParts {
                parts: buffers.parts.at(0),
                sums: buffers.sums.at(0),
                queries: buffers.queries.at(row * width),
                keys,
                values,
                positions: upload.at(upload.positions).from(row),
                ranges,
                seen: upload.at(upload.seen),
                score_scale: self.score_scale(),
                window: self.window(layer),
                parts_max,
                heads,
            };
            let grid = [count, config.kv_heads, upload.blocks];
            // SAFETY: there is space for each part of each of these rows' heads.
            unsafe { device.launch(&kernels.attend_parts, grid, WARP, &arguments)? };
            let arguments = AttendMerge {
                attended: buffers.attended.at(row * width),
                parts: buffers.parts.at(0),
                sums: buffers.sums.at(0),
                ranges,
                parts_max,
                heads,
            };
            let (grid, threads) = ([count, config.heads, 1], (config.head_dim as u32).max(WARP));
            // SAFETY: it reads the parts that were just written.
            unsafe { device.launch(&kernels.attend_merge, grid, threads, &arguments)? };
        }
        Ok(())
    }

    /// Attention tile by tile, for neighbouring rows.
    fn attend_tiles(&self, layer: usize) -> Result<(), CudaError> {
        let Resident { config, device, kernels, buffers, upload, .. } = self.resident;
        let (keys, values) = self.resident.kv_of(layer);
        let arguments = AttendRows {
            attended: buffers.attended.at(0),
            queries: buffers.queries.at(0),
            keys,
            values,
            positions: upload.at(upload.positions),
            ranges: upload.at(upload.ranges),
            seen: upload.at(upload.seen),
            tiles: upload.at(upload.tiles),
            score_scale: self.score_scale(),
            window: self.window(layer),
            heads: self.resident.heads(),
        };
        let grid = [upload.tile_count, config.kv_heads, 1];
        // SAFETY: tiles are of rows of the pass.
        unsafe { device.launch(&kernels.attend_rows, grid, TILE_THREADS, &arguments) }
    }

    /// Converts attention's output to 8 bits, if weights have 8 bits. Returns the rows, and their scales or null.
    fn pack_attended(&self) -> Result<(DevicePtr<Packed>, DevicePtr<RowScale>), CudaError> {
        let Resident { config, device, kernels, buffers, upload, .. } = self.resident;
        let Some(packed) = &buffers.attended_packed else {
            return Ok((buffers.attended.at(0).packed(), DevicePtr::NULL));
        };
        let width = config.heads * config.head_dim;
        let arguments = Quantize {
            packed: packed.numbers(),
            row_scales: packed.scales(),
            dtype: buffers.dtype,
            rows: buffers.attended.at(0).with_role(),
            width: Width::of(width),
        };
        let grid = [upload.rows, 1, 1];
        // SAFETY: all buffers have space for a pass's rows.
        unsafe { device.launch(&kernels.quantize, grid, wide_threads(width), &arguments)? };
        Ok((packed.numbers(), packed.scales()))
    }

    /// Multiplies all rows. The kernel that reads the product applies scales and bias.
    fn multiply(
        &self,
        sums: DevicePtr<ProductSum>,
        (inputs, row_scales): (DevicePtr<Packed>, DevicePtr<RowScale>),
        weights: &DeviceWeights,
        shape: &WeightShape,
    ) -> Result<Product, CudaError> {
        let Resident { device, products, upload, .. } = self.resident;
        let operands = ProductOperands { sums, inputs, weights: weights.numbers.at(0) };
        // SAFETY: every buffer has space for a pass's rows, and weights have this shape.
        unsafe { products.multiply(device, shape, operands, upload.rows)? };
        Ok(Product {
            sums,
            bias: DeviceBuffer::or_null(weights.bias.as_ref()),
            row_scales,
            column_scales: DeviceBuffer::or_null(weights.scales.as_ref()),
            integers: shape.dtype == CudaWeightDtype::Int8,
        })
    }

    fn score_scale(&self) -> ScoreScale {
        ScoreScale::of((self.resident.config.head_dim as f32).sqrt().recip())
    }

    fn window(&self, layer: usize) -> Window {
        Window::of(self.resident.config.windows[layer].unwrap_or(0))
    }
}

impl Kernels for ServingPass<'_> {
    type Stream = Stream;
    type Normed = Normed;
    type Heads = ProjectedHeads;
    type RotatedHeads = WrittenHeads;
    type Attended = Attended;
    type Gated = Gated;
    type Delta = Delta;
    /// The rows that are read were written to their buffers.
    type Output = ();
    type Error = CudaError;

    fn embed(&mut self) -> Result<Stream, CudaError> {
        let Resident { device, kernels, buffers, upload, embedding, .. } = self.resident;
        let arguments = Embed {
            stream: buffers.stream.at(0),
            table: embedding.at(0),
            tokens: upload.at(upload.tokens),
            width: self.resident.width(),
        };
        // SAFETY: the engine admits only tokens of the vocabulary.
        unsafe { device.launch(&kernels.embed, [upload.rows, 1, 1], ROW_THREADS, &arguments)? };
        Ok(Stream(()))
    }

    fn norm(&mut self, _: &Stream, norm: NormId) -> Result<Normed, CudaError> {
        self.launch_add_norm(Product::default(), norm)
    }

    fn add_and_norm(
        &mut self,
        stream: Stream,
        Delta(product): Delta,
        norm: NormId,
    ) -> Result<(Stream, Normed), CudaError> {
        let normed = self.launch_add_norm(product, norm)?;
        Ok((stream, normed))
    }

    fn add_and_norm_last(
        &mut self,
        Stream(()): Stream,
        Delta(delta): Delta,
        norm: NormId,
    ) -> Result<(), CudaError> {
        let Resident { config, device, kernels, buffers, upload, .. } = self.resident;
        let arguments = AddNormPicked {
            normed: buffers.picked.at(0),
            hidden: buffers.hidden.at(0),
            stream: buffers.stream.at(0),
            delta,
            picked: upload.at(upload.picked),
            norm_scale: self.resident.norm_scale(norm),
            epsilon: self.resident.epsilon(),
            width: self.resident.width(),
        };
        let (grid, threads) = ([upload.picked_count, 1, 1], norm_threads(config.width));
        // SAFETY: there is space for every row that is read.
        unsafe { device.launch(&kernels.add_norm_picked, grid, threads, &arguments) }
    }

    fn project_heads(
        &mut self,
        layer: usize,
        Normed(()): Normed,
    ) -> Result<ProjectedHeads, CudaError> {
        let Resident { layers, shapes, buffers, .. } = self.resident;
        let inputs = (buffers.normed.numbers(), buffers.normed.scales());
        let weights = &layers[layer].qkv;
        Ok(ProjectedHeads(self.multiply(buffers.qkv.at(0), inputs, weights, &shapes.qkv)?))
    }

    fn norm_and_rope(
        &mut self,
        layer: usize,
        ProjectedHeads(qkv): ProjectedHeads,
        head_norms: bool,
    ) -> Result<WrittenHeads, CudaError> {
        let Resident { config, device, kernels, layers, buffers, upload, rope, .. } = self.resident;
        let norms = head_norms.then(|| {
            layers[layer].head_norms.as_ref().expect("a model with head norms loads their scales")
        });
        let (keys, values) = self.resident.kv_of(layer);
        let arguments = NormRopeAndWrite {
            queries: buffers.queries.at(0),
            keys,
            values,
            qkv,
            query_scale: DeviceBuffer::or_null(norms.map(|norms| &norms.query)),
            key_scale: DeviceBuffer::or_null(norms.map(|norms| &norms.key)),
            rope: rope.at(0),
            epsilon: self.resident.epsilon(),
            positions: upload.at(upload.positions),
            slots: upload.at(upload.slots),
            heads: self.resident.heads(),
        };
        let heads = config.heads + 2 * config.kv_heads;
        let grid = [upload.rows, heads.div_ceil(HEADS_A_BLOCK as usize), 1];
        let threads = HEADS_A_BLOCK * WARP;
        // SAFETY: slots are in the model's KV pages, and positions are below those of the RoPE table.
        unsafe { device.launch(&kernels.norm_rope_and_write, grid, threads, &arguments)? };
        Ok(WrittenHeads(()))
    }

    fn attend(
        &mut self,
        layer: usize,
        WrittenHeads(()): WrittenHeads,
    ) -> Result<Attended, CudaError> {
        self.attend_singles(layer)?;
        self.attend_tiles(layer)?;
        Ok(Attended(()))
    }

    fn project_attended(
        &mut self,
        layer: usize,
        Attended(()): Attended,
    ) -> Result<Delta, CudaError> {
        let Resident { layers, shapes, buffers, .. } = self.resident;
        let inputs = self.pack_attended()?;
        let weights = &layers[layer].output;
        Ok(Delta(self.multiply(buffers.delta.at(0), inputs, weights, &shapes.output)?))
    }

    /// For a few rows, one kernel multiplies and gates.
    fn project_gated(&mut self, layer: usize, Normed(()): Normed) -> Result<Gated, CudaError> {
        let Resident { config, device, kernels, products, .. } = self.resident;
        let Resident { layers, shapes, buffers, upload, .. } = self.resident;
        let (weights, shape) = (&layers[layer].gates_ups, &shapes.gates_ups);
        let gated = buffers.gated.numbers();
        if shape.is_few(upload.rows) {
            let operands = [buffers.normed.numbers(), weights.numbers.at(0)];
            let bias = DeviceBuffer::or_null(weights.bias.as_ref());
            // SAFETY: every buffer has space for a pass's rows, and weights have this shape.
            unsafe { products.gate_few(device, shape, gated, operands, bias, upload.rows)? };
            return Ok(Gated(()));
        }
        let inputs = (buffers.normed.numbers(), buffers.normed.scales());
        let arguments = SiluMul {
            gated,
            row_scales: buffers.gated.scales(),
            dtype: buffers.dtype,
            gates_ups: self.multiply(buffers.gates_ups.at(0), inputs, weights, shape)?,
            width: Width::of(config.mlp_width),
        };
        let (grid, threads) = ([upload.rows, 1, 1], wide_threads(config.mlp_width));
        // SAFETY: both buffers have space for a pass's rows.
        unsafe { device.launch(&kernels.silu_mul, grid, threads, &arguments)? };
        Ok(Gated(()))
    }

    fn project_down(&mut self, layer: usize, Gated(()): Gated) -> Result<Delta, CudaError> {
        let Resident { layers, shapes, buffers, .. } = self.resident;
        let inputs = (buffers.gated.numbers(), buffers.gated.scales());
        let weights = &layers[layer].down;
        Ok(Delta(self.multiply(buffers.delta.at(0), inputs, weights, &shapes.down)?))
    }
}
