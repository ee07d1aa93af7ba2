//! A layer, forwards and back.
//!
//! Of an adapter, with `a = A x` and `y += s B a`, the gradients are `B' += s y' a^T`, `A' += s (B^T y') x^T` and
//! `x' += s A^T B^T y'` (Hu et al. 2021, eq. 3); what is frozen passes `x' += W^T y'` on and learns nothing.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use super::super::blas::{Matrix, Sizes};
use super::super::device::{Address, Argument, CudaError, Product, Table};
use super::super::products::CudaWeightDtype;
use super::super::rows::{norm_threads, wide_threads};
use super::load::{Adapter, Frozen};
use super::{BLOCKS_MAX, Backprop, FOUR, ORIGINS_APART, THREADS};

/// The places of a layer's adapters: the order of `LinearId::of_layer`.
const QUERY: usize = 0;
const KEY: usize = 1;
const VALUE: usize = 2;
const OUTPUT: usize = 3;
const GATE: usize = 4;
const UP: usize = 5;
const DOWN: usize = 6;

/// An adapter at work: where it is, and where what is left out of its inputs comes from.
#[derive(Clone, Copy)]
struct At {
    layer: usize,
    place: usize,
    origin: u64,
}

impl Backprop {
    /// What a layer makes of its rows, up to what its last matrix is multiplied with.
    pub(super) fn forward(&self, layer: usize, origin: u64) -> Result<(), CudaError> {
        let of = &self.layers[layer];
        let (work, config) = (&self.work, &self.config);
        let at = |place| At { layer, place, origin };
        let (stream, middle) = (work.stream[layer].at(0), work.middle.at(0));
        self.norm(&work.normed[0], stream, &of.attention_norm)?;
        let normed = Matrix::short(work.normed[0].at(0), config.width);
        let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let qkv = Matrix::exact(work.qkv.at(0), queries + 2 * keys);
        self.frozen(qkv, normed, &of.qkv, None)?;
        self.adapt(at(QUERY), normed, qkv)?;
        self.adapt(at(KEY), normed, qkv.from(queries))?;
        self.adapt(at(VALUE), normed, qkv.from(queries + keys))?;
        self.attend(layer)?;
        let attended = Matrix::short(work.attended.at(0), queries);
        let out = Matrix::exact(middle, config.width);
        self.frozen(out, attended, &of.output, Some(stream))?;
        self.adapt(at(OUTPUT), attended, out)?;
        self.add_bias(&work.middle, &of.output)?;

        self.norm(&work.normed[1], middle, &of.mlp_norm)?;
        let normed = Matrix::short(work.normed[1].at(0), config.width);
        let gates_ups = Matrix::exact(work.gates_ups.at(0), 2 * config.mlp_width);
        self.frozen(gates_ups, normed, &of.gates_ups, None)?;
        self.adapt(at(GATE), normed, gates_ups)?;
        self.adapt(at(UP), normed, gates_ups.from(config.mlp_width))?;
        self.gate(layer)
    }

    /// What the last matrix of a layer makes of it: what comes into the next layer.
    pub(super) fn project_down(&self, layer: usize, origin: u64) -> Result<(), CudaError> {
        let (work, of) = (&self.work, &self.layers[layer]);
        let activated = Matrix::short(work.activated.at(0), self.config.mlp_width);
        let out = Matrix::exact(work.stream[layer + 1].at(0), self.config.width);
        self.frozen(out, activated, &of.down, Some(work.middle.at(0)))?;
        self.adapt(At { layer, place: DOWN, origin }, activated, out)?;
        self.add_bias(&work.stream[layer + 1], &of.down)
    }

    /// From the gradient of what came out of a layer to that of what came into it, once [`Backprop::forward`] has
    /// calculated the layer again.
    pub(super) fn back(&self, layer: usize, origin: u64) -> Result<(), CudaError> {
        let of = &self.layers[layer];
        let (work, config) = (&self.work, &self.config);
        let (width, mlp_width) = (config.width, config.mlp_width);
        let at = |place| At { layer, place, origin };
        let short = |table: &Table<_>, pitch| Matrix::short(table.at(0), pitch);
        let exact = |table: &Table<_>, pitch| Matrix::exact(table.at(0), pitch);

        self.shorten_back()?;
        let (back, to) = (short(&work.back_short, width), exact(&work.activated_back, mlp_width));
        self.frozen_back(to, back, width, &of.down)?;
        self.adapt_back(at(DOWN), short(&work.activated, mlp_width), back, to)?;
        self.gate_back(layer)?;
        let (gates, to) =
            (short(&work.gates_ups_back, 2 * mlp_width), exact(&work.normed_back, width));
        self.frozen_back(to, gates, 2 * mlp_width, &of.gates_ups)?;
        let normed = short(&work.normed[1], width);
        self.adapt_back(at(GATE), normed, gates, to)?;
        self.adapt_back(at(UP), normed, gates.from(mlp_width), to)?;
        self.norm_back(work.middle.at(0), None, of.mlp_norm.at(0), self.rows())?;

        self.shorten_back()?;
        let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let to = exact(&work.attended_back, queries);
        self.frozen_back(to, back, width, &of.output)?;
        self.adapt_back(at(OUTPUT), short(&work.attended, queries), back, to)?;
        self.attend_back(layer)?;
        let all = queries + 2 * keys;
        let (qkv, to) = (short(&work.qkv_back, all), exact(&work.normed_back, width));
        self.frozen_back(to, qkv, all, &of.qkv)?;
        let normed = short(&work.normed[0], width);
        self.adapt_back(at(QUERY), normed, qkv, to)?;
        self.adapt_back(at(KEY), normed, qkv.from(queries), to)?;
        self.adapt_back(at(VALUE), normed, qkv.from(queries + keys), to)?;
        let stream = work.stream[layer].at(0);
        self.norm_back(stream, None, of.attention_norm.at(0), self.rows())
    }

    fn norm(
        &self,
        to: &Table<half::bf16>,
        from: Address,
        scale: &Table<f32>,
    ) -> Result<(), CudaError> {
        let arguments = [
            Argument::Table(to.at(0)),
            Argument::Table(0),
            Argument::Count(CudaWeightDtype::Bf16 as u32),
            Argument::Table(from),
            Argument::Product(Product::default()),
            Argument::Table(scale.at(0)),
            Argument::Number(self.config.norm_epsilon as f32),
            Argument::Count(self.config.width as u32),
        ];
        let threads = norm_threads(self.config.width);
        // SAFETY: the arguments of `add_norm`, of which nothing is added; tables have room for a batch's rows.
        unsafe { self.device.launch(&self.launches.norm, [self.rows(), 1, 1], threads, &arguments) }
    }

    /// `out = rows W^T (+ old)`
    fn frozen(
        &self,
        out: Matrix,
        rows: Matrix,
        of: &Frozen,
        old: Option<Address>,
    ) -> Result<(), CudaError> {
        let inner = rows.pitch;
        let weights = Matrix::short(of.numbers.at(0), inner);
        let sizes = Sizes { rows: self.rows(), columns: of.numbers.len() / inner, inner, count: 1 };
        // SAFETY: tables have room for a batch's rows, and weights are as the configuration says.
        unsafe { self.blas.multiply(out, [rows, weights.turned()], sizes, 1.0, old) }
    }

    /// `to = back W`, where `back` has so many numbers in a row.
    fn frozen_back(
        &self,
        to: Matrix,
        back: Matrix,
        inner: usize,
        of: &Frozen,
    ) -> Result<(), CudaError> {
        let weights = Matrix::short(of.numbers.at(0), to.pitch);
        let sizes = Sizes { rows: self.rows(), columns: to.pitch, inner, count: 1 };
        // SAFETY: as of `frozen`.
        unsafe { self.blas.multiply(to, [back, weights], sizes, 1.0, None) }
    }

    /// `out += s B A rows`, if there is an adapter.
    fn adapt(&self, at: At, rows: Matrix, out: Matrix) -> Result<(), CudaError> {
        let Some(adapter) = &self.layers[at.layer].adapters[at.place] else { return Ok(()) };
        let (_, low) = self.lower(adapter, at, rows)?;
        let up = Matrix::short(adapter.up.at(0), adapter.rank).turned();
        let Adapter { outputs: columns, rank: inner, .. } = *adapter;
        let sizes = Sizes { rows: self.rows(), columns, inner, count: 1 };
        // SAFETY: an adapter's matrices are as long as it says, and tables have room for a batch's rows.
        unsafe { self.blas.multiply(out, [low, up], sizes, self.scale, Some(out.at)) }
    }

    /// An adapter's inputs that are not left out, and `A` of them.
    fn lower(
        &self,
        adapter: &Adapter,
        at: At,
        rows: Matrix,
    ) -> Result<(Matrix, Matrix), CudaError> {
        let Adapter { inputs: inner, rank: columns, .. } = *adapter;
        let rows = self.leave_out(at, adapter, rows)?;
        let low = Matrix::short(self.work.low.at(0), columns);
        let down = Matrix::short(adapter.down.at(0), inner).turned();
        let sizes = Sizes { rows: self.rows(), columns, inner, count: 1 };
        // SAFETY: as of `adapt`.
        unsafe { self.blas.multiply(low, [rows, down], sizes, 1.0, None)? };
        Ok((rows, low))
    }

    /// Adds to the gradients of an adapter, if there is one, and to that of its inputs.
    fn adapt_back(&self, at: At, rows: Matrix, back: Matrix, to: Matrix) -> Result<(), CudaError> {
        let Some(adapter) = &self.layers[at.layer].adapters[at.place] else { return Ok(()) };
        let Adapter { inputs, outputs, rank, .. } = *adapter;
        // It is calculated once more rather than kept for seven adapters: it is as cheap as it is small.
        let (rows, low) = self.lower(adapter, at, rows)?;
        let sizes = Sizes { rows: self.rows(), columns: 0, inner: 0, count: 1 };
        let low_back = Matrix::short(self.work.low_back.at(0), rank);
        let (down, up) =
            (Matrix::short(adapter.down.at(0), inputs), Matrix::short(adapter.up.at(0), rank));
        let down_gradient = Matrix::exact(adapter.down_gradient.at(0), inputs);
        let up_gradient = Matrix::exact(adapter.up_gradient.at(0), rank);
        let of_low = Sizes { columns: rank, inner: outputs, ..sizes };
        let of_up = Sizes { rows: outputs, columns: rank, inner: sizes.rows, ..sizes };
        let of_down = Sizes { rows: rank, columns: inputs, inner: sizes.rows, ..sizes };
        let of_rows = Sizes { columns: inputs, inner: rank, ..sizes };
        let left = self.work.left.as_ref().map(|(_, back)| Matrix::exact(back.at(0), inputs));
        // SAFETY: as of `adapt`.
        unsafe {
            let multiply = |out: Matrix, sides, sizes, times, adds: bool| {
                self.blas.multiply(out, sides, sizes, times, adds.then_some(out.at))
            };
            multiply(low_back, [back, up], of_low, self.scale, false)?;
            multiply(up_gradient, [back.turned(), low], of_up, self.scale, true)?;
            multiply(down_gradient, [low_back.turned(), rows], of_down, 1.0, true)?;
            match left {
                None => multiply(to, [low_back, down], of_rows, 1.0, true)?,
                Some(left) => {
                    multiply(left, [low_back, down], of_rows, 1.0, false)?;
                    self.left_out_back(at, to.at, left.at, sizes.rows * inputs)?;
                }
            }
        }
        Ok(())
    }

    /// An adapter's inputs in training, without those that are left out.
    fn leave_out(&self, at: At, adapter: &Adapter, rows: Matrix) -> Result<Matrix, CudaError> {
        let Some((left, _)) = &self.work.left else { return Ok(rows) };
        let count = self.rows() * adapter.inputs;
        // SAFETY: the arguments of `leave_out`; there is room for the widest inputs.
        unsafe { self.launch_left(&self.launches.leave_out, at, [left.at(0), rows.at], count)? };
        Ok(Matrix::short(left.at(0), adapter.inputs))
    }

    fn left_out_back(
        &self,
        at: At,
        to: Address,
        from: Address,
        count: usize,
    ) -> Result<(), CudaError> {
        // SAFETY: the arguments of `leave_out_back`; both have as many numbers.
        unsafe { self.launch_left(&self.launches.leave_out_back, at, [to, from], count) }
    }

    /// # Safety
    ///
    /// The kernel must be one that leaves out, and there must be so many numbers at both addresses.
    unsafe fn launch_left(
        &self,
        kernel: &super::Kernel,
        at: At,
        [to, from]: [Address; 2],
        count: usize,
    ) -> Result<(), CudaError> {
        let nth = (at.layer * self.layers[0].adapters.len() + at.place) as u64;
        let origin = at.origin ^ nth.wrapping_mul(ORIGINS_APART);
        let arguments = [
            Argument::Table(to),
            Argument::Table(from),
            Argument::Count(count as u32),
            Argument::Count(origin as u32),
            Argument::Count((origin >> 32) as u32),
            Argument::Number(self.dropout),
        ];
        let blocks = count.div_ceil(THREADS as usize).min(BLOCKS_MAX);
        // SAFETY: the caller vouches for it.
        unsafe { self.device.launch(kernel, [blocks, 1, 1], THREADS, &arguments) }
    }

    fn add_bias(&self, rows: &Table<f32>, of: &Frozen) -> Result<(), CudaError> {
        let Some(bias) = &of.bias else { return Ok(()) };
        let arguments = [
            Argument::Table(rows.at(0)),
            Argument::Table(bias.at(0)),
            Argument::Count(self.config.width as u32),
        ];
        // SAFETY: the arguments of `add_bias`; a bias is as wide as the stream.
        unsafe {
            self.device.launch(&self.launches.add_bias, [self.rows(), 1, 1], THREADS, &arguments)
        }
    }

    fn gates_ups(&self, layer: usize) -> Product {
        let bias = Table::address(self.layers[layer].gates_ups.bias.as_ref());
        Product { sums: self.work.gates_ups.at(0), bias, ..Product::default() }
    }

    fn gate(&self, layer: usize) -> Result<(), CudaError> {
        let width = self.config.mlp_width;
        let arguments = [
            Argument::Table(self.work.activated.at(0)),
            Argument::Table(0),
            Argument::Count(CudaWeightDtype::Bf16 as u32),
            Argument::Product(self.gates_ups(layer)),
            Argument::Count(width as u32),
        ];
        // SAFETY: the arguments of `silu_mul`; tables have room for a batch's rows.
        unsafe {
            self.device.launch(
                &self.launches.gate,
                [self.rows(), 1, 1],
                wide_threads(width),
                &arguments,
            )
        }
    }

    fn gate_back(&self, layer: usize) -> Result<(), CudaError> {
        let arguments = [
            Argument::Table(self.work.gates_ups_back.at(0)),
            Argument::Product(self.gates_ups(layer)),
            Argument::Table(self.work.activated_back.at(0)),
            Argument::Count(self.config.mlp_width as u32),
        ];
        // SAFETY: the arguments of `gate_back`; tables have room for a batch's rows.
        unsafe {
            self.device.launch(&self.launches.gate_back, [self.rows(), 1, 1], THREADS, &arguments)
        }
    }

    /// The gradient of the stream in 16 bits, for products.
    fn shorten_back(&self) -> Result<(), CudaError> {
        let fours = self.rows() * self.config.width / FOUR;
        let arguments = [
            Argument::Table(self.work.back_short.at(0)),
            Argument::Table(self.work.back.at(0)),
            Argument::Count(fours as u32),
        ];
        let blocks = fours.div_ceil(THREADS as usize).min(BLOCKS_MAX);
        // SAFETY: the arguments of `shorten`; a row of the stream is made of fours.
        unsafe { self.device.launch(&self.launches.shorten, [blocks, 1, 1], THREADS, &arguments) }
    }
}
