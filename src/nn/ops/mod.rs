//! Fused operations on candle tensors, with gradients of their own.
//!
//! candle composes a norm or a softmax of half a dozen operations. Each reads memory once in the forward pass and several
//! times in the backward pass, on one thread. Here each is a single pass on all threads, computed in f32, also for
//! tensors in bf16. A slow twin composed of candle's operations runs on other devices, and tests compare the two.

mod attend;
mod cross_entropy;
mod gate;
mod linear;
mod norm;
mod rope;
mod widened;

pub(super) use attend::{AttentionSpec, attend};
pub use cross_entropy::{CrossEntropyTargets, RolloutToken, cross_entropy};
pub(super) use gate::gate;
pub(super) use linear::linear;
pub(super) use norm::rms_norm;
pub(super) use rope::rope;

use candle_core::{CpuStorage, DType, Error, Layout, Result, Storage, Tensor};

/// Numbers of a task. A constant, so that no sum depends on the number of threads.
pub(super) const TASK_NUMBERS: usize = 1 << 14;
/// Whether the fast operations support a tensor: f32 or bf16 on the CPU.
fn is_fast(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && matches!(tensor.dtype(), DType::F32 | DType::BF16)
}

/// Rows of `width` numbers per task.
fn task_rows(width: usize) -> usize {
    (TASK_NUMBERS / width.max(1)).max(1)
}

/// The numbers of a contiguous tensor.
pub(super) fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let Some((from, to)) = layout.contiguous_offsets() else {
        return Err(Error::RequiresContiguous { op: "numbers" }.bt());
    };
    Ok(&storage.as_slice()?[from..to])
}

/// The numbers of a contiguous tensor, to be written.
pub(super) fn numbers_mut<'a>(
    storage: &'a mut CpuStorage,
    layout: &Layout,
) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((from, to))) => Ok(&mut values[from..to]),
        _ => Err(Error::Msg("only contiguous f32 tensors are written in place".into())),
    }
}

/// Calls `work` with the numbers of tensors, made contiguous first.
pub(super) fn read<const N: usize, R>(
    tensors: [&Tensor; N],
    work: impl FnOnce([&[f32]; N]) -> R,
) -> Result<R> {
    let tensors = tensors.map(Tensor::contiguous).into_iter().collect::<Result<Vec<_>>>()?;
    let held: Vec<_> = tensors.iter().map(Tensor::storage_and_layout).collect();
    let each = held.iter().map(|(storage, layout)| match &**storage {
        Storage::Cpu(storage) => numbers(storage, layout),
        _ => Err(Error::Msg("this operation is for the processor's memory".into())),
    });
    let each = each.collect::<Result<Vec<_>>>()?;
    Ok(work(each.try_into().expect("there are as many slices as tensors")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    /// Reproducible numbers between -1 and 1.
    pub(super) fn tensor(dims: &[usize], salt: usize) -> Tensor {
        let count: usize = dims.iter().product();
        let value = |at: usize| ((at * 2_654_435_761 + salt * 40_503) % 2003) as f32 / 1001.5 - 1.0;
        Tensor::from_vec((0..count).map(value).collect(), dims, &Device::Cpu).unwrap()
    }

    /// The largest difference of two tensors.
    pub(super) fn apart(a: &Tensor, b: &Tensor) -> f32 {
        assert_eq!(a.dims(), b.dims());
        let all = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let apart = all(a).into_iter().zip(all(b)).map(|(a, b)| (a - b).abs());
        // A NaN is farther than anything.
        apart.fold(0.0, |worst, apart| if apart <= worst { worst } else { apart })
    }

    /// Compares an operation and its gradients with its twin's.
    #[track_caller]
    pub(super) fn assert_twins<const N: usize>(
        inputs: [Tensor; N],
        fast: impl Fn(&[Tensor; N]) -> Result<Tensor>,
        slow: impl Fn(&[Tensor; N]) -> Result<Tensor>,
        tolerance: f32,
    ) {
        let variables = inputs.map(|input| Var::from_tensor(&input).unwrap());
        let inputs = variables.each_ref().map(|variable| variable.as_tensor().clone());
        let [fast, slow] = [fast(&inputs).unwrap(), slow(&inputs).unwrap()];
        assert!(apart(&fast, &slow) < tolerance, "outputs are {} apart", apart(&fast, &slow));
        let gradients = [&fast, &slow].map(|out| {
            let upstream = tensor(out.dims(), 7);
            (out * upstream).unwrap().sum_all().unwrap().backward().unwrap()
        });
        for (at, variable) in variables.iter().enumerate() {
            let [fast, slow] = gradients.each_ref().map(|all| all.get(variable).unwrap());
            let worst = apart(fast, slow);
            assert!(worst < tolerance, "gradients of input {at} are {worst} apart");
        }
    }
}
