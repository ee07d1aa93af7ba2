//! One pass: the wiring of [`crate::nn::decoder`] as launches.
//!
//! Every kind of rows has one place, so what goes along the wiring is the name of a place. What can be done
//! together waits for the rest: sums for the norm that follows, and heads for the turn that they take.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use super::device::{Address, Argument, DeviceError, Table};
use super::model::{Model, ROW_THREADS, WARP};
use crate::nn::decoder::{Kernels, Linear, Norm};

/// Threads of a block that attends: `BLOCK` of the kernels.
const ATTEND_THREADS: u32 = 128;

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
    pub of: &'a Model,
    /// The bias of the product that has to be added to the stream (0 where it has none), if there is one.
    pub pending: Option<Address>,
    /// The biases of the gates and of what is gated; 0 where there are none.
    pub gates_ups_bias: Address,
}

/// What matrices of the same rows make of them.
#[derive(Clone, Copy)]
struct Product {
    out: At,
    to: Address,
    inputs: Address,
    weights: Address,
    /// 0 where there is none.
    bias: Address,
    /// Numbers of a row that comes out, and of one that goes in.
    dims: [usize; 2],
}

// === impl OnePass ===

impl OnePass<'_> {
    /// Adds what is pending, and norms.
    fn add_norm(&mut self, scale: Address) -> Result<(), DeviceError> {
        let Model { config, device, launches, rows, plan, .. } = self.of;
        let [delta, bias] = rows.pending(self.pending.take());
        let arguments = [
            Argument::Table(rows.normed.at(0)),
            Argument::Table(rows.stream.at(0)),
            delta,
            bias,
            Argument::Table(scale),
            Argument::Number(config.norm_epsilon as f32),
            Argument::Count(config.width as u32),
        ];
        // SAFETY: the arguments of `add_norm`; all tables have room for a pass's rows.
        unsafe { device.launch(&launches.add_norm, [plan.rows, 1, 1], ROW_THREADS, &arguments) }
    }

    fn place_heads(&mut self, layer: usize) -> Result<(), DeviceError> {
        let model = self.of;
        let Model { config, device, launches, rows, plan, .. } = model;
        let weights = &model.layers[layer];
        let address = |table| Argument::Table(Table::address(table));
        let norm = |which: usize| address(weights.head_norms.as_ref().map(|norms| &norms[which]));
        let arguments = [
            Argument::Table(rows.queries.at(0)),
            Argument::Table(model.layer_of(0, layer)),
            Argument::Table(model.layer_of(1, layer)),
            Argument::Table(rows.qkv.at(0)),
            address(weights.qkv_bias.as_ref()),
            norm(0),
            norm(1),
            Argument::Table(model.frequencies.at(0)),
            Argument::Number(model.turn_scale),
            Argument::Number(config.norm_epsilon as f32),
            Argument::Table(plan.table.at(plan.positions)),
            Argument::Table(plan.table.at(plan.slots)),
            model.heads(),
        ];
        let heads = config.heads + 2 * config.kv_heads;
        // SAFETY: the arguments of `place_heads`; slots lie within the pages that the model was loaded with.
        unsafe { device.launch(&launches.place_heads, [plan.rows, heads, 1], WARP, &arguments) }
    }

    /// As many rows at a time as there is room for the parts of: in a bucket, all.
    fn attend_pages(&mut self, layer: usize) -> Result<(), DeviceError> {
        let model = self.of;
        let Model { config, device, launches, rows, plan, room, .. } = model;
        let width = config.heads * config.head_dim;
        let at_once = (room.parts / plan.parts).max(1);
        for row in (0..plan.rows).step_by(at_once) {
            let count = at_once.min(plan.rows - row);
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
                Argument::Number((config.head_dim as f32).sqrt().recip()),
                Argument::Count(config.windows[layer].unwrap_or(0) as u32),
                Argument::Count(plan.parts as u32),
                model.heads(),
            ];
            let grid = [count, config.kv_heads, plan.blocks];
            // SAFETY: the arguments of `attend_*`; there is room for each part of each of these rows' heads.
            unsafe { device.launch(&launches.attend, grid, ATTEND_THREADS, &arguments)? };
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
        Ok(())
    }

    /// Multiplies all rows, and leaves the bias to whoever reads what comes of it.
    fn multiply(&mut self, product: Product) -> Result<(), DeviceError> {
        let Product { out, to, inputs, weights, bias, dims: [outputs, width] } = product;
        let dims = [self.of.plan.rows, outputs, width];
        // SAFETY: every table has room for a pass's rows, and weights are as the configuration says.
        unsafe { self.of.products.multiply(to, inputs, weights, dims)? };
        match out {
            At::Delta => self.pending = Some(bias),
            At::GatesUps => self.gates_ups_bias = bias,
            _ => {}
        }
        Ok(())
    }
}

impl Kernels for OnePass<'_> {
    type Rows = At;
    type Error = DeviceError;

    fn embed(&mut self) -> Result<At, DeviceError> {
        let Model { config, device, launches, rows, plan, embedding, .. } = self.of;
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

    fn norm(&mut self, _rows: &At, norm: Norm) -> Result<At, DeviceError> {
        let scale = match norm {
            Norm::Attention(layer) => self.of.layers[layer].attention_norm.at(0),
            Norm::Mlp(layer) => self.of.layers[layer].mlp_norm.at(0),
            Norm::Query(_) | Norm::Key(_) | Norm::Last => unreachable!("those are normed in place"),
        };
        self.add_norm(scale)?;
        Ok(At::Normed)
    }

    /// Heads are normed where they are turned, and the last norm is that of the rows that are wanted.
    fn norm_in_place(&mut self, rows: At, _norm: Norm) -> Result<At, DeviceError> {
        Ok(rows)
    }

    fn linear<const N: usize>(
        &mut self,
        rows: At,
        layers: [Linear; N],
    ) -> Result<[At; N], DeviceError> {
        let Model { config, rows: room, layers: weights, .. } = self.of;
        let heads = config.heads * config.head_dim;
        let product = match layers[0] {
            Linear::Query(layer) => Product {
                out: At::Heads,
                to: room.qkv.at(0),
                inputs: room.normed.at(0),
                weights: weights[layer].qkv.at(0),
                // It is added where heads are placed.
                bias: 0,
                dims: [heads + 2 * config.kv_heads * config.head_dim, config.width],
            },
            Linear::Output(layer) => Product {
                out: At::Delta,
                to: room.delta.at(0),
                inputs: room.attended.at(0),
                weights: weights[layer].output.at(0),
                bias: Table::address(weights[layer].output_bias.as_ref()),
                dims: [config.width, heads],
            },
            Linear::Gate(layer) => Product {
                out: At::GatesUps,
                to: room.gates_ups.at(0),
                inputs: room.normed.at(0),
                weights: weights[layer].gates_ups.at(0),
                bias: Table::address(weights[layer].gates_ups_bias.as_ref()),
                dims: [2 * config.mlp_width, config.width],
            },
            Linear::Down(layer) => Product {
                out: At::Delta,
                to: room.delta.at(0),
                inputs: room.activated.at(0),
                weights: weights[layer].down.at(0),
                bias: Table::address(weights[layer].down_bias.as_ref()),
                dims: [config.width, config.mlp_width],
            },
            other => unreachable!("{other:?} of {rows:?} is no product of the wiring"),
        };
        let out = product.out;
        self.multiply(product)?;
        Ok([out; N])
    }

    /// They are turned where they are placed.
    fn rotate(&mut self, rows: At) -> Result<At, DeviceError> {
        Ok(rows)
    }

    fn attend(&mut self, layer: usize, _queries_keys_values: [At; 3]) -> Result<At, DeviceError> {
        self.place_heads(layer)?;
        self.attend_pages(layer)?;
        Ok(At::Attended)
    }

    fn gate(&mut self, _gate: At, _up: At) -> Result<At, DeviceError> {
        let Model { config, device, launches, rows, plan, .. } = self.of;
        let arguments = [
            Argument::Table(rows.activated.at(0)),
            Argument::Table(rows.gates_ups.at(0)),
            Argument::Table(self.gates_ups_bias),
            Argument::Count(config.mlp_width as u32),
        ];
        let blocks = config.mlp_width.div_ceil(ROW_THREADS as usize);
        // SAFETY: the arguments of `silu_mul`; both tables have room for a pass's rows.
        unsafe {
            device.launch(&launches.silu_mul, [blocks, plan.rows, 1], ROW_THREADS, &arguments)
        }?;
        Ok(At::Activated)
    }

    /// What was added is pending until it is normed.
    fn add(&mut self, _rows: At, _more: At) -> Result<At, DeviceError> {
        Ok(At::Stream)
    }
}
