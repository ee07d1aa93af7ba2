//! One pass: the wiring of [`crate::nn::decoder`] as launches.
//!
//! Every kind of rows has one place, so what goes along the wiring is the name of a place. What can be done
//! together waits for the rest: sums for the norm that follows, and heads for the turn that they take.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use super::device::{Address, Argument, CudaError, Product, Table};
use super::load::Weights;
use super::model::{CudaDecoder, ROW_THREADS, WARP};
use super::products::{CudaWeightDtype, Operands, Shape};
use super::rows::{ACTIVATED, ATTENDED, NORMED, TILE_WARPS, norm_threads, wide_threads};
use crate::nn::decoder::{Kernels, LinearId, NormId};
use std::mem;

/// Threads of a block that attends for neighbouring rows.
const TILE_THREADS: u32 = TILE_WARPS as u32 * WARP;
/// Warps of a block that places heads, each of which has one.
const HEADS_A_BLOCK: usize = 8;

/// Where rows are while a pass goes on.
#[derive(Clone, Copy, Debug)]
pub(super) enum At {
    /// In the stream, to which the product before may still have to be added.
    Stream,
    Normed,
    Heads,
    Attended,
    GatesUps,
    Activated,
    Delta,
}

/// The pass at hand: the wiring says what comes next, and what can be done together waits for the rest.
pub(super) struct OnePass<'a> {
    pub of: &'a CudaDecoder,
    /// What has to be added to the stream, if anything has; and what heads, gates and what is gated are made of.
    pub pending: Product,
    pub heads: Product,
    pub gates_ups: Product,
}

/// What matrices of the same rows make of them.
#[derive(Clone, Copy)]
struct Multiplied<'a> {
    out: At,
    sums: Address,
    inputs: Address,
    /// What the inputs' rows are multiplied by; 0 where they have 16 bits.
    row_scales: Address,
    weights: &'a Weights,
    shape: &'a Shape,
}

// === impl OnePass ===

impl<'a> OnePass<'a> {
    pub fn of(model: &'a CudaDecoder) -> Self {
        let nothing = Product::default();
        Self { of: model, pending: nothing, heads: nothing, gates_ups: nothing }
    }

    /// Adds what is pending, and norms.
    fn add_norm(&mut self, scale: Address) -> Result<(), CudaError> {
        let CudaDecoder { config, device, launches, rows, plan, .. } = self.of;
        let arguments = [
            Argument::Table(rows.normed.at(0)),
            Argument::Table(rows.scales(NORMED)),
            Argument::Count(rows.format as u32),
            Argument::Table(rows.stream.at(0)),
            Argument::Product(mem::take(&mut self.pending)),
            Argument::Table(scale),
            Argument::Number(config.norm_epsilon as f32),
            Argument::Count(config.width as u32),
        ];
        let threads = norm_threads(config.width);
        // SAFETY: the arguments of `add_norm`; all tables have room for a pass's rows.
        unsafe { device.launch(&launches.add_norm, [plan.rows, 1, 1], threads, &arguments) }
    }

    fn place_heads(&mut self, layer: usize) -> Result<(), CudaError> {
        let model = self.of;
        let CudaDecoder { config, device, launches, rows, plan, .. } = model;
        let norms = model.layers[layer].head_norms.as_ref();
        let norm = |which: usize| Argument::Table(Table::address(norms.map(|norms| &norms[which])));
        let arguments = [
            Argument::Table(rows.queries.at(0)),
            Argument::Table(model.layer_of(0, layer)),
            Argument::Table(model.layer_of(1, layer)),
            Argument::Product(self.heads),
            norm(0),
            norm(1),
            Argument::Table(model.turns.at(0)),
            Argument::Number(config.norm_epsilon as f32),
            Argument::Table(plan.table.at(plan.positions)),
            Argument::Table(plan.table.at(plan.slots)),
            model.heads(),
        ];
        let heads = config.heads + 2 * config.kv_heads;
        let grid = [plan.rows, heads.div_ceil(HEADS_A_BLOCK), 1];
        let threads = HEADS_A_BLOCK as u32 * WARP;
        // SAFETY: the arguments of `place_heads`; slots lie within the pages that the model was loaded with, and
        // positions within the tokens of a text.
        unsafe { device.launch(&launches.place_heads, grid, threads, &arguments) }
    }

    /// Rows that are alone see part by part what they see, as many of them at a time as there is room for the parts of;
    /// others see it together with their neighbours.
    fn attend_pages(&mut self, layer: usize) -> Result<(), CudaError> {
        let model = self.of;
        let CudaDecoder { config, device, launches, rows, plan, room, .. } = model;
        let width = config.heads * config.head_dim;
        let scale = Argument::Number((config.head_dim as f32).sqrt().recip());
        let window = Argument::Count(config.windows[layer].unwrap_or(0) as u32);
        let at_once = (room.parts / plan.parts).max(1);
        for row in (0..plan.singles).step_by(at_once) {
            let count = at_once.min(plan.singles - row);
            let ranges = Argument::Table(plan.table.at(plan.ranges + 2 * row));
            let arguments = [
                Argument::Table(rows.parts.at(0)),
                Argument::Table(rows.sums.at(0)),
                Argument::Table(rows.queries.at(row * width)),
                Argument::Table(model.layer_of(0, layer)),
                Argument::Table(model.layer_of(1, layer)),
                Argument::Table(plan.table.at(plan.positions + row)),
                ranges,
                Argument::Table(plan.table.at(plan.seen)),
                scale,
                window,
                Argument::Count(plan.parts as u32),
                model.heads(),
            ];
            let grid = [count, config.kv_heads, plan.blocks];
            // SAFETY: the arguments of `attend_parts_*`; there is room for each part of each of these rows' heads.
            unsafe { device.launch(&launches.attend_parts, grid, WARP, &arguments)? };
            let arguments = [
                Argument::Table(rows.attended.at(row * width)),
                Argument::Table(rows.parts.at(0)),
                Argument::Table(rows.sums.at(0)),
                ranges,
                Argument::Count(plan.parts as u32),
                model.heads(),
            ];
            let (grid, threads) = ([count, config.heads, 1], (config.head_dim as u32).max(WARP));
            // SAFETY: the arguments of `attend_merge`, over what was just written.
            unsafe { device.launch(&launches.attend_merge, grid, threads, &arguments)? };
        }
        let arguments = [
            Argument::Table(rows.attended.at(0)),
            Argument::Table(rows.queries.at(0)),
            Argument::Table(model.layer_of(0, layer)),
            Argument::Table(model.layer_of(1, layer)),
            Argument::Table(plan.table.at(plan.positions)),
            Argument::Table(plan.table.at(plan.ranges)),
            Argument::Table(plan.table.at(plan.seen)),
            Argument::Table(plan.table.at(plan.tiles)),
            scale,
            window,
            model.heads(),
        ];
        let grid = [plan.tile_count, config.kv_heads, 1];
        // SAFETY: the arguments of `attend_rows_*`; tiles are of rows of the pass.
        unsafe { device.launch(&launches.attend_rows, grid, TILE_THREADS, &arguments) }
    }

    /// Brings what was attended to into 8 bits, where weights have those.
    fn shorten_attended(&self) -> Result<(), CudaError> {
        let CudaDecoder { config, device, launches, rows, plan, .. } = self.of;
        let Some(bytes) = &rows.attended_bytes else { return Ok(()) };
        let width = config.heads * config.head_dim;
        let arguments = [
            Argument::Table(bytes.at(0)),
            Argument::Table(rows.scales(ATTENDED)),
            Argument::Count(rows.format as u32),
            Argument::Table(rows.attended.at(0)),
            Argument::Count(width as u32),
        ];
        // SAFETY: the arguments of `quantize`; all tables have room for a pass's rows.
        unsafe {
            device.launch(&launches.quantize, [plan.rows, 1, 1], wide_threads(width), &arguments)
        }
    }

    /// Multiplies all rows, and leaves scales and bias to whoever reads what comes of it.
    fn multiply(&mut self, multiplied: Multiplied<'_>) -> Result<(), CudaError> {
        let Multiplied { out, sums, inputs, row_scales, weights, shape } = multiplied;
        let CudaDecoder { device, products, plan, .. } = self.of;
        let operands = Operands { sums, inputs, weights: weights.numbers.at(0) };
        // SAFETY: every table has room for a pass's rows, and weights are as the configuration says.
        unsafe { products.multiply(device, shape, operands, plan.rows)? };
        let product = Product {
            sums,
            bias: Table::address(weights.bias.as_ref()),
            row_scales,
            column_scales: Table::address(weights.scales.as_ref()),
            integers: shape.format == CudaWeightDtype::Int8,
        };
        match out {
            At::Delta => self.pending = product,
            At::GatesUps => self.gates_ups = product,
            _ => self.heads = product,
        }
        Ok(())
    }
}

impl Kernels for OnePass<'_> {
    type Rows = At;
    type Error = CudaError;

    fn embed(&mut self) -> Result<At, CudaError> {
        let CudaDecoder { config, device, launches, rows, plan, embedding, .. } = self.of;
        let arguments = [
            Argument::Table(rows.stream.at(0)),
            Argument::Table(embedding.at(0)),
            Argument::Table(plan.table.at(plan.tokens)),
            Argument::Count(config.width as u32),
        ];
        // SAFETY: the arguments of `embed`; the engine admits only tokens of the vocabulary.
        unsafe { device.launch(&launches.embed, [plan.rows, 1, 1], ROW_THREADS, &arguments)? };
        Ok(At::Stream)
    }

    fn norm(&mut self, _rows: &At, norm: NormId) -> Result<At, CudaError> {
        let scale = match norm {
            NormId::Attention(layer) => self.of.layers[layer].attention_norm.at(0),
            NormId::Mlp(layer) => self.of.layers[layer].mlp_norm.at(0),
            NormId::Query(_) | NormId::Key(_) | NormId::Last => {
                unreachable!("those are normed in place")
            }
        };
        self.add_norm(scale)?;
        Ok(At::Normed)
    }

    /// Heads are normed where they are turned, and the last norm is that of the rows that are wanted.
    fn norm_in_place(&mut self, rows: At, _norm: NormId) -> Result<At, CudaError> {
        Ok(rows)
    }

    fn linear<const N: usize>(
        &mut self,
        rows: At,
        layers: [LinearId; N],
    ) -> Result<[At; N], CudaError> {
        let CudaDecoder { rows: room, layers: weights, shapes, device, products, plan, .. } =
            self.of;
        let attended =
            room.attended_bytes.as_ref().map_or(room.attended.at(0), |bytes| bytes.at(0));
        let multiplied = match layers[0] {
            LinearId::Query(layer) => Multiplied {
                out: At::Heads,
                sums: room.qkv.at(0),
                inputs: room.normed.at(0),
                row_scales: room.scales(NORMED),
                weights: &weights[layer].qkv,
                shape: &shapes.qkv,
            },
            LinearId::Output(layer) => Multiplied {
                out: At::Delta,
                sums: room.delta.at(0),
                inputs: attended,
                row_scales: room.scales(ATTENDED),
                weights: &weights[layer].output,
                shape: &shapes.output,
            },
            // Of a few rows, gates are applied where they are multiplied.
            LinearId::Gate(layer) if shapes.gates_ups.is_few(plan.rows) => {
                let weights = &weights[layer].gates_ups;
                let operands = Operands {
                    sums: room.activated.at(0),
                    inputs: room.normed.at(0),
                    weights: weights.numbers.at(0),
                };
                let bias = Table::address(weights.bias.as_ref());
                // SAFETY: every table has room for a pass's rows, and weights are as the configuration says.
                unsafe {
                    products.gate_few(device, &shapes.gates_ups, operands, bias, plan.rows)?;
                }
                return Ok([At::Activated; N]);
            }
            LinearId::Gate(layer) => Multiplied {
                out: At::GatesUps,
                sums: room.gates_ups.at(0),
                inputs: room.normed.at(0),
                row_scales: room.scales(NORMED),
                weights: &weights[layer].gates_ups,
                shape: &shapes.gates_ups,
            },
            LinearId::Down(layer) => Multiplied {
                out: At::Delta,
                sums: room.delta.at(0),
                inputs: room.activated.at(0),
                row_scales: room.scales(ACTIVATED),
                weights: &weights[layer].down,
                shape: &shapes.down,
            },
            other => unreachable!("{other:?} of {rows:?} is no product of the wiring"),
        };
        let out = multiplied.out;
        self.multiply(multiplied)?;
        Ok([out; N])
    }

    /// They are turned where they are placed.
    fn rotate(&mut self, rows: At) -> Result<At, CudaError> {
        Ok(rows)
    }

    fn attend(&mut self, layer: usize, _queries_keys_values: [At; 3]) -> Result<At, CudaError> {
        self.place_heads(layer)?;
        self.attend_pages(layer)?;
        self.shorten_attended()?;
        Ok(At::Attended)
    }

    fn gate(&mut self, gate: At, _up: At) -> Result<At, CudaError> {
        if matches!(gate, At::Activated) {
            return Ok(gate);
        }
        let CudaDecoder { config, device, launches, rows, plan, .. } = self.of;
        let arguments = [
            Argument::Table(rows.activated.at(0)),
            Argument::Table(rows.scales(ACTIVATED)),
            Argument::Count(rows.format as u32),
            Argument::Product(self.gates_ups),
            Argument::Count(config.mlp_width as u32),
        ];
        let threads = wide_threads(config.mlp_width);
        // SAFETY: the arguments of `silu_mul`; both tables have room for a pass's rows.
        unsafe { device.launch(&launches.silu_mul, [plan.rows, 1, 1], threads, &arguments) }?;
        Ok(At::Activated)
    }

    /// What was added is pending until it is normed.
    fn add(&mut self, _rows: At, _more: At) -> Result<At, CudaError> {
        Ok(At::Stream)
    }
}
