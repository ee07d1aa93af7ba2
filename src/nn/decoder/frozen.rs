//! A product with weights that are not trained.
//!
//! candle's product calculates the gradient of both its sides, whether or not anybody wants them.
//! Of a frozen matrix that costs half as much again as a whole pass back, and memory as large as
//! the matrix.

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, Error, Layout, MetalStorage, Result, Shape, Storage, Tensor,
};

/// `rows W^T`, whose gradient goes to `rows` alone.
struct FrozenLinear(Tensor);

/// `rows W^T`, rows by rows, where `weight` is a constant.
pub(super) fn frozen_linear(rows: &Tensor, weight: Tensor) -> Result<Tensor> {
    rows.contiguous()?.apply_op1(FrozenLinear(weight))
}

// === impl FrozenLinear ===

impl FrozenLinear {
    /// `read` gives the weights' storage if it is on the rows' device.
    fn product<S: BackendStorage>(
        &self,
        rows: &S,
        layout: &Layout,
        read: impl Fn(&Storage) -> Option<&S>,
    ) -> Result<(S, Shape)> {
        let (rows_n, inputs) = layout.shape().dims2()?;
        let (outputs, expected) = self.0.dims2()?;
        if inputs != expected {
            return Err(Error::Msg(format!("rows of {inputs} numbers for {expected} inputs")));
        }
        let (storage, weight) = self.0.storage_and_layout();
        let weights = read(&storage)
            .ok_or_else(|| Error::Msg("rows and weights are on different devices".to_owned()))?;
        let sizes = (1, rows_n, outputs, inputs);
        let product = rows.matmul(weights, sizes, layout, &weight.transpose(0, 1)?)?;
        Ok((product, Shape::from((rows_n, outputs))))
    }
}

impl CustomOp1 for FrozenLinear {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, rows: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.product(rows, layout, |storage| match storage {
            Storage::Cpu(storage) => Some(storage),
            _ => None,
        })
    }

    fn cuda_fwd(&self, rows: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        self.product(rows, layout, |storage| match storage {
            Storage::Cuda(storage) => Some(storage),
            _ => None,
        })
    }

    fn metal_fwd(&self, rows: &MetalStorage, layout: &Layout) -> Result<(MetalStorage, Shape)> {
        self.product(rows, layout, |storage| match storage {
            Storage::Metal(storage) => Some(storage),
            _ => None,
        })
    }

    fn bwd(&self, _rows: &Tensor, _product: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(gradient.contiguous()?.matmul(&self.0)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Var};

    #[test]
    fn the_product_and_the_gradient_are_candles() {
        let random = |dims: (usize, usize)| Tensor::randn(0_f32, 1.0, dims, &Device::Cpu).unwrap();
        let (rows, weight, upstream) = (random((5, 7)), random((3, 7)), random((5, 3)));
        let rows = Var::from_tensor(&rows).unwrap();
        let plain = rows.matmul(&weight.t().unwrap()).unwrap();
        let frozen = frozen_linear(&rows, weight).unwrap();
        let gradient = |product: &Tensor| {
            let loss = (product * &upstream).unwrap().sum_all().unwrap();
            loss.backward().unwrap().get(&rows).unwrap().clone()
        };
        for [got, expected] in [[&frozen, &plain], [&gradient(&frozen), &gradient(&plain)]] {
            let apart = (got - expected).unwrap().abs().unwrap().max_all().unwrap();
            assert!(apart.to_dtype(DType::F32).unwrap().to_scalar::<f32>().unwrap() < 1e-5);
        }
        let narrow = Tensor::zeros((5, 6), DType::F32, &Device::Cpu).unwrap();
        assert!(frozen_linear(&narrow, random((3, 7))).is_err());
    }
}
