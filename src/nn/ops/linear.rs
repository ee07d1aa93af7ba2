//! A linear layer that computes only the gradients that are needed.
//!
//! candle's product always computes the gradients of both sides. For a frozen matrix that adds half the cost of a
//! backward pass; for a trained one the gradient comes out transposed, and accumulates with strided reads.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp2, Error, Layout, MetalStorage, Result, Shape, Tensor,
};

struct LinearOp;

/// `(…, inputs) W^T`, where `weight` is `(outputs, inputs)`.
pub fn linear(rows: &Tensor, weight: &Tensor) -> Result<Tensor> {
    rows.contiguous()?.apply_op2(weight, LinearOp)
}

// === impl LinearOp ===

impl LinearOp {
    fn run<S: BackendStorage>(
        rows: &S,
        rows_layout: &Layout,
        weight: &S,
        weight_layout: &Layout,
    ) -> Result<(S, Shape)> {
        let (outputs, expected) = weight_layout.shape().dims2()?;
        let mut dims = rows_layout.dims().to_vec();
        let Some(inputs) = dims.last_mut().filter(|inputs| **inputs == expected) else {
            return Err(Error::Msg(format!("rows of {dims:?} numbers for {expected} inputs")));
        };
        *inputs = outputs;
        let count = rows_layout.shape().elem_count() / expected;
        let flat = Layout::contiguous_with_offset((count, expected), rows_layout.start_offset());
        let weight_layout = weight_layout.transpose(0, 1)?;
        let sizes = (1, count, outputs, expected);
        Ok((rows.matmul(weight, sizes, &flat, &weight_layout)?, Shape::from(dims)))
    }
}

impl CustomOp2 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        rows: &CpuStorage,
        rows_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Self::run(rows, rows_layout, weight, weight_layout)
    }

    fn cuda_fwd(
        &self,
        rows: &CudaStorage,
        rows_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        Self::run(rows, rows_layout, weight, weight_layout)
    }

    fn metal_fwd(
        &self,
        rows: &MetalStorage,
        rows_layout: &Layout,
        weight: &MetalStorage,
        weight_layout: &Layout,
    ) -> Result<(MetalStorage, Shape)> {
        Self::run(rows, rows_layout, weight, weight_layout)
    }

    fn bwd(
        &self,
        rows: &Tensor,
        weight: &Tensor,
        _product: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (outputs, inputs) = weight.dims2()?;
        let upstream = upstream.reshape(((), outputs))?;
        let to_rows = || upstream.matmul(&weight.detach())?.reshape(rows.shape());
        let to_weight = || upstream.t()?.matmul(&rows.detach().reshape(((), inputs))?);
        let wanted = |tensor: &Tensor| tensor.track_op();
        Ok((wanted(rows).then(to_rows).transpose()?, wanted(weight).then(to_weight).transpose()?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_twins, tensor};
    use super::*;
    use candle_core::Var;

    #[test]
    fn the_product_and_the_gradients_are_candles() {
        let fast = |[rows, weight]: &[Tensor; 2]| linear(rows, weight);
        let slow = |[rows, weight]: &[Tensor; 2]| rows.broadcast_matmul(&weight.t()?);
        assert_twins([tensor(&[5, 10, 70], 1), tensor(&[30, 70], 2)], fast, slow, 1e-4);
        assert!(linear(&tensor(&[5, 6], 1), &tensor(&[3, 7], 2)).is_err());
    }

    #[test]
    fn a_frozen_weight_gets_no_gradient() {
        let rows = Var::from_tensor(&tensor(&[5, 7], 1)).unwrap();
        let weight = tensor(&[3, 7], 2);
        let loss = linear(&rows, &weight).unwrap().sum_all().unwrap();
        let gradients = loss.backward().unwrap();
        assert!(gradients.get(&rows).is_some() && gradients.get(&weight).is_none());
    }
}
