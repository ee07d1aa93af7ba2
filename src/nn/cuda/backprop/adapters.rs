//! Adapters beside frozen matrices, forward and backward.
//!
//! With `a = A x` and `y += s B a`, the gradients are `B' += s y' a^T`, `A' += s (B^T y') x^T` and `x' += s A^T B^T y'`
//! (Hu et al. 2021, eq. 3). A frozen matrix passes `x' += W^T y'` on and learns nothing.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use super::super::blas::{DeviceMatrix, ProductSize};
use super::super::device::CudaError;
use super::super::interface::{
    ApplyDropout, ApplyDropoutBack, DevicePtr, Dropout, NumberCount, SeedHigh, SeedLow,
};
use super::load::DeviceAdapter;
use super::state::{THREADS, TrainState, grid_over};
use crate::nn::decoder::LinearId;

/// The dropout seeds of two adapters differ by a multiple of this, so that their dropouts are independent.
const SEED_STRIDE: u64 = 0xd134_2543_de82_ef95;

/// An adapter in one pass: its matrix, and the pass's dropout seed.
#[derive(Clone, Copy)]
pub(super) struct AdapterPass {
    pub layer: usize,
    pub matrix: LinearId,
    pub seed: u64,
}

impl TrainState {
    /// `out += s B A rows`, if there is an adapter.
    pub(super) fn adapt(
        &self,
        pass: AdapterPass,
        rows: DeviceMatrix,
        out: DeviceMatrix,
    ) -> Result<(), CudaError> {
        let Some(adapter) = self.layers[pass.layer].adapter(pass.matrix) else { return Ok(()) };
        let (_, low) = self.project_low(adapter, pass, rows)?;
        let up = DeviceMatrix::bf16(adapter.up.at(0), adapter.rank).transposed();
        let DeviceAdapter { outputs: columns, rank: inner, .. } = *adapter;
        let size = ProductSize { rows: self.rows(), columns, inner, count: 1 };
        // SAFETY: an adapter's matrices have its sizes, and buffers have space for a batch's rows.
        unsafe { self.blas.multiply(out, [low, up], size, self.scale, Some(out.address)) }
    }

    /// An adapter's inputs after its dropout, and `A` of them.
    fn project_low(
        &self,
        adapter: &DeviceAdapter,
        pass: AdapterPass,
        rows: DeviceMatrix,
    ) -> Result<(DeviceMatrix, DeviceMatrix), CudaError> {
        let DeviceAdapter { inputs: inner, rank: columns, .. } = *adapter;
        let rows = self.apply_dropout(adapter, pass, rows)?;
        let low = DeviceMatrix::bf16(self.scratch.low.at(0), columns);
        let down = DeviceMatrix::bf16(adapter.down.at(0), inner).transposed();
        let size = ProductSize { rows: self.rows(), columns, inner, count: 1 };
        // SAFETY: as of `adapt`.
        unsafe { self.blas.multiply(low, [rows, down], size, 1.0, None)? };
        Ok((rows, low))
    }

    /// Adds to the gradients of an adapter and of its inputs, if there is an adapter.
    pub(super) fn adapt_back(
        &self,
        pass: AdapterPass,
        rows: DeviceMatrix,
        gradient: DeviceMatrix,
        input_gradient: DeviceMatrix,
    ) -> Result<(), CudaError> {
        let Some(adapter) = self.layers[pass.layer].adapter(pass.matrix) else { return Ok(()) };
        let DeviceAdapter { inputs, outputs, rank, .. } = *adapter;
        // It is recomputed rather than kept for seven adapters, because it is small.
        let (rows, low) = self.project_low(adapter, pass, rows)?;
        let count = self.rows();
        let low_gradient = DeviceMatrix::bf16(self.scratch.low_gradient.at(0), rank);
        let down = DeviceMatrix::bf16(adapter.down.at(0), inputs);
        let up = DeviceMatrix::bf16(adapter.up.at(0), rank);
        let down_gradient = DeviceMatrix::f32(adapter.down_gradient.at(0), inputs);
        let up_gradient = DeviceMatrix::f32(adapter.up_gradient.at(0), rank);
        let size = |rows, columns, inner| ProductSize { rows, columns, inner, count: 1 };
        let of_low = size(count, rank, outputs);
        let of_up = size(outputs, rank, count);
        let of_down = size(rank, inputs, count);
        let of_inputs = size(count, inputs, rank);
        // SAFETY: as of `adapt`.
        unsafe {
            let multiply = |out: DeviceMatrix, sides, size, alpha, adds: bool| {
                self.blas.multiply(out, sides, size, alpha, adds.then_some(out.address))
            };
            multiply(low_gradient, [gradient, up], of_low, self.scale, false)?;
            multiply(up_gradient, [gradient.transposed(), low], of_up, self.scale, true)?;
            multiply(down_gradient, [low_gradient.transposed(), rows], of_down, 1.0, true)?;
            let Some((_, dropped)) = &self.scratch.dropped else {
                return multiply(input_gradient, [low_gradient, down], of_inputs, 1.0, true);
            };
            let dropped = DeviceMatrix::f32(dropped.at(0), inputs);
            multiply(dropped, [low_gradient, down], of_inputs, 1.0, false)?;
        }
        self.apply_dropout_back(pass, input_gradient, count * inputs)
    }

    /// An adapter's inputs after its dropout: the inputs themselves, if there is none.
    fn apply_dropout(
        &self,
        adapter: &DeviceAdapter,
        pass: AdapterPass,
        rows: DeviceMatrix,
    ) -> Result<DeviceMatrix, CudaError> {
        let Some((dropped, _)) = &self.scratch.dropped else { return Ok(rows) };
        let count = self.rows() * adapter.inputs;
        let (seed_low, seed_high) = dropout_seed(pass);
        let arguments = ApplyDropout {
            to: dropped.at(0),
            from: DevicePtr::new(rows.address),
            count: NumberCount::of(count),
            seed_low,
            seed_high,
            dropout: Dropout::of(self.dropout),
        };
        let (kernel, grid) = (&self.kernels.apply_dropout, grid_over(count));
        // SAFETY: there is space for the widest inputs, which are bf16.
        unsafe { self.device.launch(kernel, grid, THREADS, &arguments)? };
        Ok(DeviceMatrix::bf16(dropped.at(0), adapter.inputs))
    }

    /// Adds the gradient of inputs after a dropout to that of the inputs.
    fn apply_dropout_back(
        &self,
        pass: AdapterPass,
        input_gradient: DeviceMatrix,
        count: usize,
    ) -> Result<(), CudaError> {
        let Some((_, dropped)) = &self.scratch.dropped else { return Ok(()) };
        let (seed_low, seed_high) = dropout_seed(pass);
        let arguments = ApplyDropoutBack {
            to: DevicePtr::new(input_gradient.address),
            from: dropped.at(0),
            count: NumberCount::of(count),
            seed_low,
            seed_high,
            dropout: Dropout::of(self.dropout),
        };
        let (kernel, grid) = (&self.kernels.apply_dropout_back, grid_over(count));
        // SAFETY: both gradients are f32 and have as many numbers.
        unsafe { self.device.launch(kernel, grid, THREADS, &arguments) }
    }
}

/// The halves of an adapter's dropout seed.
fn dropout_seed(pass: AdapterPass) -> (SeedLow, SeedHigh) {
    let matrices = LinearId::of_layer(pass.layer);
    let index = matrices.iter().position(|matrix| *matrix == pass.matrix);
    let index = index.expect("adapters are on matrices of layers");
    let nth = (pass.layer * matrices.len() + index) as u64;
    let seed = pass.seed ^ nth.wrapping_mul(SEED_STRIDE);
    (SeedLow::of((seed & u64::from(u32::MAX)) as usize), SeedHigh::of((seed >> 32) as usize))
}
