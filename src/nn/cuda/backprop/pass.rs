//! A forward pass for training: the wiring of [`crate::nn::decoder`] as launches that go on a tape.
//!
//! A projection to the stream is launched when the wiring adds it, because cuBLAS adds the stream to its sums.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use super::super::blas::DeviceMatrix;
use super::super::buffers::{norm_threads, wide_threads};
use super::super::device::{CudaError, DeviceBuffer};
use super::super::interface::{
    AddBias, AddNorm, CudaWeightDtype, DevicePtr, Embed, InputRow, NormAndRope, Product, SiluMul,
    Width,
};
use super::adapters::AdapterPass;
use super::load::FrozenWeights;
use super::state::{THREADS, TrainState};
use super::tape::{LayerOp, Recorded, StreamBuffer, Tape};
use crate::nn::decoder::{Kernels, LinearId, NormId};

/// A forward pass over the batch that was uploaded.
pub(super) struct TrainPass<'a> {
    state: &'a TrainState,
    /// The seed of the adapters' dropout.
    seed: u64,
    tape: Tape,
}

/// The buffer of normed rows was written: that of attention's inputs, or that of the MLP's.
pub(super) struct Normed(DevicePtr<InputRow>);
/// The buffer of projected heads was written.
pub(super) struct ProjectedHeads(());
/// The buffers of queries, keys and values were written.
pub(super) struct RotatedHeads(());
/// The buffer of attention's output was written.
pub(super) struct Attended(());
/// The buffer of gated numbers was written.
pub(super) struct Gated(());
/// A projection that is still to be launched.
pub(super) struct Delta {
    layer: usize,
    matrix: LinearId,
}

/// The rows after the last layer, whose norm the losses read.
#[derive(Clone, Copy)]
pub(super) struct LastRows {
    pub stream: StreamBuffer,
    pub norm: NormId,
}

// === impl TrainPass ===

impl<'a> TrainPass<'a> {
    pub fn new(state: &'a TrainState, seed: u64) -> Self {
        Self { state, seed, tape: Tape::default() }
    }

    /// The operations of the pass.
    pub fn into_tape(self) -> Tape {
        self.tape
    }

    fn adapter(&self, layer: usize, matrix: LinearId) -> AdapterPass {
        AdapterPass { layer, matrix, seed: self.seed }
    }

    /// `to = rows + W inputs`, with adapter and bias. Returns the sum's buffer.
    fn launch_add(&self, rows: StreamBuffer, delta: &Delta) -> Result<StreamBuffer, CudaError> {
        let state = self.state;
        let (scratch, layer) = (&state.scratch, &state.layers[delta.layer]);
        let (queries, _) = state.head_widths();
        let (to, inputs, weights): (_, _, &FrozenWeights) = match delta.matrix {
            LinearId::Output(_) => {
                let inputs = DeviceMatrix::bf16(scratch.attended.at(0), queries);
                (StreamBuffer::Middle, inputs, &layer.output)
            }
            LinearId::Down(number) => {
                let inputs = DeviceMatrix::bf16(scratch.gated.at(0), state.config.mlp_width);
                (StreamBuffer::Before(number + 1), inputs, &layer.down)
            }
            other => unreachable!("{other:?} is no projection to the stream"),
        };
        let out = DeviceMatrix::f32(state.stream(to), state.config.width);
        state.multiply(out, inputs, weights, Some(state.stream(rows)))?;
        state.adapt(self.adapter(delta.layer, delta.matrix), inputs, out)?;
        if let Some(bias) = &weights.bias {
            let (rows, bias) = (state.stream(to), bias.at(0));
            let arguments = AddBias { rows, bias, width: state.width() };
            let (kernel, grid) = (&state.kernels.add_bias, [state.rows(), 1, 1]);
            // SAFETY: the bias is as wide as the stream.
            unsafe { state.device.launch(kernel, grid, THREADS, &arguments)? };
        }
        Ok(to)
    }

    fn launch_norm(
        &mut self,
        rows: StreamBuffer,
        norm: NormId,
    ) -> Result<Recorded<Normed>, CudaError> {
        let state = self.state;
        let normed = match norm {
            NormId::Attention(_) => state.scratch.normed[0].at(0),
            NormId::Mlp(_) => state.scratch.normed[1].at(0),
            NormId::Query(_) | NormId::Key(_) | NormId::Last => {
                unreachable!("{norm:?} is no norm before a sublayer")
            }
        };
        let arguments = AddNorm {
            normed: normed.packed(),
            row_scales: DevicePtr::NULL,
            dtype: CudaWeightDtype::Bf16,
            stream: state.stream(rows),
            delta: Product::default(),
            norm_scale: state.norm_scale(norm),
            epsilon: state.epsilon(),
            width: state.width(),
        };
        let (grid, threads) = ([state.rows(), 1, 1], norm_threads(state.config.width));
        // SAFETY: nothing is added, and buffers have space for a batch's rows.
        unsafe { state.device.launch(&state.kernels.add_norm, grid, threads, &arguments)? };
        Ok(self.tape.record(LayerOp::Norm(rows, norm), Normed(normed)))
    }
}

impl Kernels for TrainPass<'_> {
    type Stream = StreamBuffer;
    type Normed = Recorded<Normed>;
    type Heads = Recorded<ProjectedHeads>;
    type RotatedHeads = Recorded<RotatedHeads>;
    type Attended = Recorded<Attended>;
    type Gated = Recorded<Gated>;
    type Delta = Recorded<Delta>;
    type Output = LastRows;
    type Error = CudaError;

    fn embed(&mut self) -> Result<StreamBuffer, CudaError> {
        let state = self.state;
        let stream = StreamBuffer::Before(0);
        let arguments = Embed {
            stream: state.stream(stream),
            table: state.embedding.at(0),
            tokens: state.upload.at(state.upload.tokens),
            width: state.width(),
        };
        let (kernel, grid) = (&state.kernels.embed, [state.rows(), 1, 1]);
        // SAFETY: a batch's tokens are checked to be the vocabulary's.
        unsafe { state.device.launch(kernel, grid, THREADS, &arguments)? };
        Ok(stream)
    }

    fn norm(&mut self, stream: &StreamBuffer, norm: NormId) -> Result<Recorded<Normed>, CudaError> {
        self.launch_norm(*stream, norm)
    }

    fn add_and_norm(
        &mut self,
        stream: StreamBuffer,
        delta: Recorded<Delta>,
        norm: NormId,
    ) -> Result<(StreamBuffer, Recorded<Normed>), CudaError> {
        let stream = self.launch_add(stream, &delta.into_inner())?;
        Ok((stream, self.launch_norm(stream, norm)?))
    }

    /// The losses norm the rows that they read.
    fn add_and_norm_last(
        &mut self,
        stream: StreamBuffer,
        delta: Recorded<Delta>,
        norm: NormId,
    ) -> Result<LastRows, CudaError> {
        let stream = self.launch_add(stream, &delta.into_inner())?;
        Ok(LastRows { stream, norm })
    }

    fn project_heads(
        &mut self,
        layer: usize,
        normed: Recorded<Normed>,
    ) -> Result<Recorded<ProjectedHeads>, CudaError> {
        let state = self.state;
        let Normed(normed) = normed.into_inner();
        let (queries, keys) = state.head_widths();
        let rows = DeviceMatrix::bf16(normed, state.config.width);
        let qkv = DeviceMatrix::f32(state.scratch.qkv.at(0), queries + 2 * keys);
        state.multiply(qkv, rows, &state.layers[layer].qkv, None)?;
        for (matrix, first) in LinearId::qkv(layer).into_iter().zip([0, queries, queries + keys]) {
            state.adapt(self.adapter(layer, matrix), rows, qkv.from(first))?;
        }
        Ok(self.tape.record(LayerOp::ProjectHeads(layer), ProjectedHeads(())))
    }

    fn norm_and_rope(
        &mut self,
        layer: usize,
        heads: Recorded<ProjectedHeads>,
        head_norms: bool,
    ) -> Result<Recorded<RotatedHeads>, CudaError> {
        let state = self.state;
        let ProjectedHeads(()) = heads.into_inner();
        let norms = state.head_norms(layer, head_norms);
        let arguments = NormAndRope {
            queries: state.scratch.queries.at(0),
            keys: state.scratch.keys.at(0),
            values: state.scratch.values.at(0),
            qkv: state.qkv(layer),
            query_scale: DeviceBuffer::or_null(norms.map(|norms| &norms.query)),
            key_scale: DeviceBuffer::or_null(norms.map(|norms| &norms.key)),
            rope: state.rope.at(0),
            epsilon: state.epsilon(),
            positions: state.upload.at(state.upload.positions),
            sequences: state.sequences(),
        };
        let (kernel, grid) = (&state.kernels.norm_and_rope, state.grid_of_heads());
        // SAFETY: positions are below those of the RoPE table.
        unsafe { state.device.launch(kernel, grid, THREADS, &arguments)? };
        let op = LayerOp::NormAndRope { layer, head_norms };
        Ok(self.tape.record(op, RotatedHeads(())))
    }

    fn attend(
        &mut self,
        layer: usize,
        heads: Recorded<RotatedHeads>,
    ) -> Result<Recorded<Attended>, CudaError> {
        let RotatedHeads(()) = heads.into_inner();
        self.state.attend(layer)?;
        Ok(self.tape.record(LayerOp::Attend(layer), Attended(())))
    }

    fn project_attended(
        &mut self,
        layer: usize,
        attended: Recorded<Attended>,
    ) -> Result<Recorded<Delta>, CudaError> {
        let Attended(()) = attended.into_inner();
        let delta = Delta { layer, matrix: LinearId::Output(layer) };
        Ok(self.tape.record(LayerOp::ProjectAttended(layer), delta))
    }

    fn project_gated(
        &mut self,
        layer: usize,
        normed: Recorded<Normed>,
    ) -> Result<Recorded<Gated>, CudaError> {
        let state = self.state;
        let Normed(normed) = normed.into_inner();
        let mlp_width = state.config.mlp_width;
        let rows = DeviceMatrix::bf16(normed, state.config.width);
        let gates_ups = DeviceMatrix::f32(state.scratch.gates_ups.at(0), 2 * mlp_width);
        state.multiply(gates_ups, rows, &state.layers[layer].gates_ups, None)?;
        for (matrix, first) in LinearId::gate_up(layer).into_iter().zip([0, mlp_width]) {
            state.adapt(self.adapter(layer, matrix), rows, gates_ups.from(first))?;
        }
        let arguments = SiluMul {
            gated: state.scratch.gated.at(0).packed(),
            row_scales: DevicePtr::NULL,
            dtype: CudaWeightDtype::Bf16,
            gates_ups: state.gates_ups(layer),
            width: Width::of(mlp_width),
        };
        let (kernel, grid) = (&state.kernels.silu_mul, [state.rows(), 1, 1]);
        // SAFETY: buffers have space for a batch's rows.
        unsafe { state.device.launch(kernel, grid, wide_threads(mlp_width), &arguments)? };
        Ok(self.tape.record(LayerOp::ProjectGated(layer), Gated(())))
    }

    fn project_down(
        &mut self,
        layer: usize,
        gated: Recorded<Gated>,
    ) -> Result<Recorded<Delta>, CudaError> {
        let Gated(()) = gated.into_inner();
        let delta = Delta { layer, matrix: LinearId::Down(layer) };
        Ok(self.tape.record(LayerOp::ProjectDown(layer), delta))
    }
}
