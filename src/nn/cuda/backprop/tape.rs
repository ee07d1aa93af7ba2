//! The operations of a layer, as its forward pass ran them.
//!
//! The backward pass of a layer is its tape in reverse, so nothing repeats the wiring. A value that the wiring passes on is
//! made by [`Tape::record`] alone: an operation that is not on the tape has no result, and the backward pass of each
//! [`LayerOp`] is an arm of one exhaustive match.

use crate::nn::decoder::NormId;

/// An operation of a layer with a backward pass of its own.
///
/// The addition of a projection to the stream has none: the stream's gradient is that of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LayerOp {
    /// The norm of a stream's rows.
    Norm(StreamBuffer, NormId),
    /// Queries, keys and values.
    ProjectHeads(usize),
    /// Norms and rotations of heads.
    NormAndRope {
        /// The layer.
        layer: usize,
        /// Whether heads are normed.
        head_norms: bool,
    },
    /// Attention.
    Attend(usize),
    /// Attention's projection, which is added to the stream.
    ProjectAttended(usize),
    /// The gated numbers of the MLP.
    ProjectGated(usize),
    /// The MLP's projection, which is added to the stream.
    ProjectDown(usize),
}

/// A buffer of the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamBuffer {
    /// The rows before a layer, or, for the number of layers, those after the last one.
    Before(usize),
    /// The rows between a layer's attention and its MLP.
    Middle,
}

/// A value whose operation is on the tape.
pub(super) struct Recorded<T>(T);

/// The operations of a pass, in order.
#[derive(Debug, Default)]
pub(super) struct Tape {
    ops: Vec<LayerOp>,
}

// === impl Tape ===

impl Tape {
    /// Records an operation, whose result this is.
    pub fn record<T>(&mut self, op: LayerOp, result: T) -> Recorded<T> {
        self.ops.push(op);
        Recorded(result)
    }

    /// The operations, last one first.
    pub fn into_reversed(self) -> impl Iterator<Item = LayerOp> {
        self.ops.into_iter().rev()
    }
}

// === impl Recorded ===

impl<T> Recorded<T> {
    /// The value.
    pub fn into_inner(self) -> T {
        self.0
    }
}
