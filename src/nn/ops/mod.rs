//! Operations on candle's tensors that bring their own gradients.
//!
//! candle composes a norm or a softmax of half a dozen operations, each of which goes over memory
//! once on the way there and several times on the way back, on one thread. Here each is a single
//! pass on all threads, in f32, also where numbers are kept in bf16. Beside each stands its
//! slow twin, composed of candle's operations: it is what other devices run, and what tests hold the
//! fast one against.

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
use pulp::Arch;

/// Numbers that a thread takes at a time. A constant, so that no sum depends on the threads.
pub(super) const TASK_NUMBERS: usize = 1 << 14;
/// Adding it to a number below 2^22 leaves the number's integer in the last bits.
const ROUND: f32 = 12_582_912.0;
/// The logarithm of 2 as a number of few bits and what is left of it.
const LN_2: [f32; 2] = [0.693_145_75, 1.428_606_8e-6];
/// What the exponent of an f32 is raised by.
const BIAS: u32 = 127;
/// Partial sums of a dot product, so that it runs in vectors.
const SUMS: usize = 32;

/// Runs plain loops as the widest vector instructions of this processor allow.
pub(super) fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(work)
}

/// Whether the fast operations can do it: f32 or bf16 on the processor.
fn is_fast(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && matches!(tensor.dtype(), DType::F32 | DType::BF16)
}

/// Rows of `width` numbers that make up a task.
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
        _ => Err(Error::Msg("only contiguous f32 numbers are written in place".into())),
    }
}

/// Shows `work` the numbers of tensors, which are made contiguous if they are not.
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

/// `Σ a·b`, always in the same order.
#[expect(clippy::inline_always, reason = "it has to be compiled inside of `vectorised`")]
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<SUMS>(), b.as_chunks::<SUMS>());
    let mut sums = [0.0; SUMS];
    for (a, b) in a.iter().zip(b) {
        for i in 0..SUMS {
            sums[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// The greatest of some numbers.
#[expect(clippy::inline_always, reason = "it has to be compiled inside of `vectorised`")]
#[inline(always)]
pub(super) fn greatest(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<SUMS>();
    let mut most = [f32::NEG_INFINITY; SUMS];
    for values in chunks {
        for i in 0..SUMS {
            most[i] = if values[i] > most[i] { values[i] } else { most[i] };
        }
    }
    most.iter().chain(rest).fold(f32::NEG_INFINITY, |most, &value| most.max(value))
}

/// The sum of some numbers, always in the same order.
#[expect(clippy::inline_always, reason = "it has to be compiled inside of `vectorised`")]
#[inline(always)]
pub(super) fn sum(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<SUMS>();
    let mut sums = [0.0; SUMS];
    for values in chunks {
        for i in 0..SUMS {
            sums[i] += values[i];
        }
    }
    sums.iter().chain(rest).sum()
}

/// `e^x` to about two units in the last place, and zero below `e^-87`.
///
/// Rounding to the power of two happens in the last bits of a large number, so that the whole is
/// arithmetic which runs in vectors.
#[expect(clippy::inline_always, reason = "it has to be compiled inside of `vectorised`")]
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let near = x.clamp(-87.0, 88.0);
    let rounded = near * std::f32::consts::LOG2_E + ROUND;
    let power = rounded - ROUND;
    let rest = near - power * LN_2[0] - power * LN_2[1];
    let series = 1.0 / 5040.0;
    let series = series * rest + 1.0 / 720.0;
    let series = series * rest + 1.0 / 120.0;
    let series = series * rest + 1.0 / 24.0;
    let series = series * rest + 1.0 / 6.0;
    let series = series * rest + 0.5;
    let series = series * rest * rest + rest + 1.0;
    let two = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(BIAS) << 23;
    if x < -87.0 { 0.0 } else { series * f32::from_bits(two) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    /// Numbers between -1 and 1 that are always the same.
    pub(super) fn tensor(dims: &[usize], salt: usize) -> Tensor {
        let count: usize = dims.iter().product();
        let value = |at: usize| ((at * 2_654_435_761 + salt * 40_503) % 2003) as f32 / 1001.5 - 1.0;
        Tensor::from_vec((0..count).map(value).collect(), dims, &Device::Cpu).unwrap()
    }

    /// The farthest that two tensors are apart.
    pub(super) fn apart(a: &Tensor, b: &Tensor) -> f32 {
        assert_eq!(a.dims(), b.dims());
        let all = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let apart = all(a).into_iter().zip(all(b)).map(|(a, b)| (a - b).abs());
        // A NaN is farther than anything.
        apart.fold(0.0, |worst, apart| if apart <= worst { worst } else { apart })
    }

    /// Holds an operation and its gradients against its twin's.
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

    #[test]
    fn exponentials_are_right_everywhere() {
        for step in 0..=20_000_i16 {
            let x = f32::from(step) * 0.01 - 110.0;
            let exact = f64::from(x).exp();
            let got = f64::from(vectorised(|| exp(x)));
            if x < -87.0 {
                assert!(got == 0.0, "exp({x}) is {got}");
            } else if x < 88.0 {
                assert!((got / exact - 1.0).abs() < 4e-7, "exp({x}) is {got}, not {exact}");
            }
        }
    }

    #[test]
    fn sums_and_the_greatest_are_of_all_numbers() {
        for count in [0, 1, 31, 32, 33, 100] {
            let values: Vec<f32> = (0..count).map(|at| f32::from(at as i16) - 50.0).collect();
            let expected: f32 = values.iter().sum();
            assert!((sum(&values) - expected).abs() < 1e-3);
            let squares: f32 = values.iter().map(|value| value * value).sum();
            assert!((dot(&values, &values) - squares).abs() < 1e-1);
            let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(greatest(&values).to_bits(), most.to_bits());
        }
    }
}
