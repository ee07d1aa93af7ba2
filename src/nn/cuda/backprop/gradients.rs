//! The backward pass of each operation of a layer. Its inputs are in the buffers of the layer's forward pass.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use super::super::blas::DeviceMatrix;
use super::super::device::{CudaError, DeviceBuffer};
use super::super::interface::{DevicePtr, NormAndRopeBack, SiluMulBack, Width};
use super::adapters::AdapterPass;
use super::state::{THREADS, TrainState};
use super::tape::LayerOp;
use crate::nn::decoder::LinearId;

impl TrainState {
    /// From the gradient of an operation's result to that of its inputs, and to those of its adapters.
    pub(super) fn back(&self, op: LayerOp, seed: u64) -> Result<(), CudaError> {
        match op {
            LayerOp::Norm(rows, norm) => {
                self.norm_back(self.stream(rows), DevicePtr::NULL, norm, self.rows())
            }
            LayerOp::ProjectHeads(layer) => self.project_heads_back(layer, seed),
            LayerOp::NormAndRope { layer, head_norms } => {
                self.norm_and_rope_back(layer, head_norms)
            }
            LayerOp::Attend(layer) => self.attend_back(layer),
            LayerOp::ProjectAttended(layer) => self.project_attended_back(layer, seed),
            LayerOp::ProjectGated(layer) => self.project_gated_back(layer, seed),
            LayerOp::ProjectDown(layer) => self.project_down_back(layer, seed),
        }
    }

    fn project_down_back(&self, layer: usize, seed: u64) -> Result<(), CudaError> {
        let (scratch, mlp_width) = (&self.scratch, self.config.mlp_width);
        let gradient = self.stream_gradient_bf16()?;
        let gated = DeviceMatrix::bf16(scratch.gated.at(0), mlp_width);
        let gated_gradient = DeviceMatrix::f32(scratch.gated_gradient.at(0), mlp_width);
        let weights = &self.layers[layer].down;
        self.multiply_back(gated_gradient, gradient, self.config.width, weights)?;
        let adapter = AdapterPass { layer, matrix: LinearId::Down(layer), seed };
        self.adapt_back(adapter, gated, gradient, gated_gradient)
    }

    fn project_gated_back(&self, layer: usize, seed: u64) -> Result<(), CudaError> {
        let (scratch, width, mlp_width) = (&self.scratch, self.config.width, self.config.mlp_width);
        let arguments = SiluMulBack {
            gradient: scratch.gates_ups_gradient.at(0),
            gates_ups: self.gates_ups(layer),
            gated: scratch.gated_gradient.at(0),
            width: Width::of(mlp_width),
        };
        let (kernel, grid) = (&self.kernels.silu_mul_back, [self.rows(), 1, 1]);
        // SAFETY: buffers have space for a batch's rows.
        unsafe { self.device.launch(kernel, grid, THREADS, &arguments)? };
        let gradient = DeviceMatrix::bf16(scratch.gates_ups_gradient.at(0), 2 * mlp_width);
        let normed_gradient = DeviceMatrix::f32(scratch.normed_gradient.at(0), width);
        let weights = &self.layers[layer].gates_ups;
        self.multiply_back(normed_gradient, gradient, 2 * mlp_width, weights)?;
        let normed = DeviceMatrix::bf16(scratch.normed[1].at(0), width);
        for (matrix, first) in LinearId::gate_up(layer).into_iter().zip([0, mlp_width]) {
            let adapter = AdapterPass { layer, matrix, seed };
            self.adapt_back(adapter, normed, gradient.from(first), normed_gradient)?;
        }
        Ok(())
    }

    fn project_attended_back(&self, layer: usize, seed: u64) -> Result<(), CudaError> {
        let (queries, _) = self.head_widths();
        let gradient = self.stream_gradient_bf16()?;
        let attended = DeviceMatrix::bf16(self.scratch.attended.at(0), queries);
        let attended_gradient = DeviceMatrix::f32(self.scratch.attended_gradient.at(0), queries);
        let weights = &self.layers[layer].output;
        self.multiply_back(attended_gradient, gradient, self.config.width, weights)?;
        let adapter = AdapterPass { layer, matrix: LinearId::Output(layer), seed };
        self.adapt_back(adapter, attended, gradient, attended_gradient)
    }

    fn norm_and_rope_back(&self, layer: usize, head_norms: bool) -> Result<(), CudaError> {
        let (scratch, norms) = (&self.scratch, self.head_norms(layer, head_norms));
        let arguments = NormAndRopeBack {
            gradient: scratch.qkv_gradient.at(0),
            queries: scratch.query_gradient.at(0),
            keys: scratch.key_gradient.at(0),
            values: scratch.value_gradient.at(0),
            qkv: self.qkv(layer),
            query_scale: DeviceBuffer::or_null(norms.map(|norms| &norms.query)),
            key_scale: DeviceBuffer::or_null(norms.map(|norms| &norms.key)),
            rope: self.rope.at(0),
            epsilon: self.epsilon(),
            positions: self.upload.at(self.upload.positions),
            sequences: self.sequences(),
        };
        let (kernel, grid) = (&self.kernels.norm_and_rope_back, self.grid_of_heads());
        // SAFETY: positions are below those of the RoPE table.
        unsafe { self.device.launch(kernel, grid, THREADS, &arguments) }
    }

    fn project_heads_back(&self, layer: usize, seed: u64) -> Result<(), CudaError> {
        let (scratch, width) = (&self.scratch, self.config.width);
        let (queries, keys) = self.head_widths();
        let all = queries + 2 * keys;
        let gradient = DeviceMatrix::bf16(scratch.qkv_gradient.at(0), all);
        let normed_gradient = DeviceMatrix::f32(scratch.normed_gradient.at(0), width);
        self.multiply_back(normed_gradient, gradient, all, &self.layers[layer].qkv)?;
        let normed = DeviceMatrix::bf16(scratch.normed[0].at(0), width);
        for (matrix, first) in LinearId::qkv(layer).into_iter().zip([0, queries, queries + keys]) {
            let adapter = AdapterPass { layer, matrix, seed };
            self.adapt_back(adapter, normed, gradient.from(first), normed_gradient)?;
        }
        Ok(())
    }
}
