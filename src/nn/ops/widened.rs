//! Operations on bf16 tensors, computed in f32.
//!
//! Explicit conversions would store both dtypes of every row for the backward pass. Here an operation's inputs and outputs
//! are stored in bf16, and the f32 numbers in between are dropped at once.

use super::TASK_NUMBERS;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Error, Layout, Result, Shape, Tensor,
};
use half::bf16;
use half::slice::HalfFloatSliceExt as _;
use rayon::prelude::*;

/// An f32 operation applied to bf16 tensors. Inputs in f32 stay in f32; the output has the first input's dtype.
struct WidenedOp<O>(O);

/// An operation on one tensor, in f32 or in bf16.
pub fn apply1<O: CustomOp1 + Send + Sync + 'static>(a: &Tensor, op: O) -> Result<Tensor> {
    if a.dtype() == DType::F32 { a.apply_op1(op) } else { a.apply_op1(WidenedOp(op)) }
}

/// An operation on two tensors, the first in f32 or in bf16.
pub fn apply2<O: CustomOp2 + Send + Sync + 'static>(
    a: &Tensor,
    b: &Tensor,
    op: O,
) -> Result<Tensor> {
    if a.dtype() == DType::F32 { a.apply_op2(b, op) } else { a.apply_op2(b, WidenedOp(op)) }
}

/// An operation on three tensors, the first in f32 or in bf16.
pub fn apply3<O: CustomOp3 + Send + Sync + 'static>(
    a: &Tensor,
    b: &Tensor,
    c: &Tensor,
    op: O,
) -> Result<Tensor> {
    if a.dtype() == DType::F32 { a.apply_op3(b, c, op) } else { a.apply_op3(b, c, WidenedOp(op)) }
}

/// A contiguous range of a storage in f32, as a storage.
fn widen(storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Layout)> {
    let Some((from, to)) = layout.contiguous_offsets() else {
        return Err(Error::RequiresContiguous { op: "widen" }.bt());
    };
    let wide = match storage {
        CpuStorage::F32(numbers) => numbers[from..to].to_vec(),
        CpuStorage::BF16(numbers) => {
            let mut wide = vec![0.0; to - from];
            let tasks = wide.par_chunks_mut(TASK_NUMBERS);
            tasks
                .zip(numbers[from..to].par_chunks(TASK_NUMBERS))
                .for_each(|(wide, numbers)| numbers.convert_to_f32_slice(wide));
            wide
        }
        _ => return Err(Error::Msg("only numbers in bf16 are widened".into())),
    };
    Ok((CpuStorage::F32(wide), Layout::contiguous(layout.shape())))
}

/// Rounds to bf16.
fn narrow((storage, shape): (CpuStorage, Shape)) -> Result<(CpuStorage, Shape)> {
    let CpuStorage::F32(numbers) = storage else {
        return Err(Error::Msg("an operation of f32 has an output in f32".into()));
    };
    let mut narrow = vec![bf16::ZERO; numbers.len()];
    let tasks = narrow.par_chunks_mut(TASK_NUMBERS).zip(numbers.par_chunks(TASK_NUMBERS));
    tasks.for_each(|(narrow, numbers)| narrow.convert_from_f32_slice(numbers));
    Ok((CpuStorage::BF16(narrow), shape))
}

/// A tensor in f32, detached from the graph.
fn wide(tensor: &Tensor) -> Result<Tensor> {
    tensor.detach().to_dtype(DType::F32)
}

/// Converts a gradient to the dtype of its tensor.
fn of(gradient: Option<Tensor>, tensor: &Tensor) -> Result<Option<Tensor>> {
    gradient.map(|gradient| gradient.to_dtype(tensor.dtype())).transpose()
}

impl<O: CustomOp1> CustomOp1 for WidenedOp<O> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(&self, a: &CpuStorage, a_layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (a, a_layout) = widen(a, a_layout)?;
        narrow(self.0.cpu_fwd(&a, &a_layout)?)
    }

    fn bwd(&self, a: &Tensor, out: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        of(self.0.bwd(&wide(a)?, out, &wide(upstream)?)?, a)
    }
}

impl<O: CustomOp2> CustomOp2 for WidenedOp<O> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((a, a_layout), (b, b_layout)) = (widen(a, a_layout)?, widen(b, b_layout)?);
        narrow(self.0.cpu_fwd(&a, &a_layout, &b, &b_layout)?)
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        out: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (to_a, to_b) = self.0.bwd(&wide(a)?, &wide(b)?, out, &wide(upstream)?)?;
        Ok((of(to_a, a)?, of(to_b, b)?))
    }
}

impl<O: CustomOp3> CustomOp3 for WidenedOp<O> {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
        c: &CpuStorage,
        c_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((a, a_layout), (b, b_layout)) = (widen(a, a_layout)?, widen(b, b_layout)?);
        let (c, c_layout) = widen(c, c_layout)?;
        narrow(self.0.cpu_fwd(&a, &a_layout, &b, &b_layout, &c, &c_layout)?)
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        out: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (wide_a, wide_b, wide_c) = (wide(a)?, wide(b)?, wide(c)?);
        let (to_a, to_b, to_c) = self.0.bwd(&wide_a, &wide_b, &wide_c, out, &wide(upstream)?)?;
        Ok((of(to_a, a)?, of(to_b, b)?, of(to_c, c)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::tensor;
    use super::super::{AttentionSpec, attend, gate, rms_norm, rope};
    use super::*;
    use candle_core::{Device, Var};

    fn bits(tensor: &Tensor) -> Vec<bf16> {
        assert_eq!(tensor.dtype(), DType::BF16);
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// The output and the gradients in bf16 are those of f32, rounded.
    #[track_caller]
    fn assert_rounded<const N: usize>(
        inputs: &[Tensor; N],
        work: impl Fn(&[Tensor; N]) -> Result<Tensor>,
    ) {
        let run = |dtype: DType| {
            let variables = inputs.each_ref().map(|input| {
                let rounded = input.to_dtype(DType::BF16).unwrap().to_dtype(dtype).unwrap();
                Var::from_tensor(&rounded).unwrap()
            });
            let inputs = variables.each_ref().map(|variable| variable.as_tensor().clone());
            let out = work(&inputs).unwrap();
            let upstream = tensor(out.dims(), 7).to_dtype(DType::BF16).unwrap();
            let upstream = upstream.to_dtype(dtype).unwrap();
            let gradients = (&out * upstream).unwrap().sum_all().unwrap().backward().unwrap();
            let gradients = variables.each_ref().map(|of| gradients.get(of).unwrap().clone());
            (out, gradients)
        };
        let ((out, gradients), (narrow, narrow_gradients)) = (run(DType::F32), run(DType::BF16));
        assert_eq!(bits(&narrow), bits(&out.to_dtype(DType::BF16).unwrap()));
        for (narrow, wide) in narrow_gradients.iter().zip(&gradients) {
            assert_eq!(bits(narrow), bits(&wide.to_dtype(DType::BF16).unwrap()));
        }
    }

    #[test]
    fn operations_on_bf16_are_those_of_f32_rounded() {
        let rows = || tensor(&[2, 9, 3 * 8], 1);
        let scale = tensor(&[8], 2);
        assert_rounded(&[rows()], |[rows]| rms_norm(rows, &scale, 1e-6));
        assert_rounded(&[rows(), tensor(&[2, 9, 3 * 8], 3)], |[g, u]| gate(g, u));
        let turns = [tensor(&[2, 9, 1, 4], 4), tensor(&[2, 9, 1, 4], 5)];
        assert_rounded(&[rows()], |[rows]| rope(rows, &turns));
        let mask = Tensor::zeros((2, 1, 1, 9, 9), DType::F32, &Device::Cpu).unwrap();
        let sight = AttentionSpec { kv_heads: 3, head_dim: 8, mask };
        let inputs = [rows(), tensor(&[2, 9, 3 * 8], 6), tensor(&[2, 9, 3 * 8], 8)];
        assert_rounded(&inputs, |rows| attend(rows, sight.clone()));
    }
}
