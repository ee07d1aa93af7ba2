//! Products of a decoder that serves, which are cuBLAS's, but for those of a few rows.
//!
//! A sum that cuBLAS's kernels add up in one piece has the same bits in each of them: sixteen numbers after the other
//! (of bf16; more of 8 bits), whatever the rows beside it and the kernel's tile. Kernels that cut sums in parts and add those
//! up are not used, so what a row comes to does not depend on its company. That is looked at when a model is loaded,
//! not believed: of the kernels that cuBLAS offers for so many rows, the fastest serves whose sums have the bits of
//! the others'. Sums of integers are exact, and the same however they are added up.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use super::blas::{self, Algorithm, Blas, Matrix, Numbers, Sizes, Told, WORKSPACE};
use super::device::{Address, Argument, CudaError, Device, Kernel};
use super::model::WARP;
use cudarc::cublaslt::{result as lt, sys};
use half::bf16;
use std::ffi::c_int;
use std::ptr;
use std::time::{Duration, Instant};

/// Kernels that cuBLAS is asked for, for so many rows of one kind of weights.
const OFFERS_MAX: usize = 16;
/// How often each is timed.
const TIMES: usize = 5;
/// Rows that the kernels for a few are for, the outputs of one of their blocks, and numbers of a row that are multiplied
/// at a time: `FEW_ROWS`, `FEW_OUTPUTS` and `FEW_STEP` of the kernels.
const FEW_ROWS: usize = 8;
const FEW_OUTPUTS: usize = 16;
const FEW_STEP: usize = 128;
/// Numbers of a row have to come in eights there.
const FEW_WIDTH: usize = 8;
/// Numbers that a block of them shares: `few_shared` of the kernels, in numbers of four bytes.
const FEW_SHARED: usize = 11 * (FEW_OUTPUTS + FEW_ROWS) * FEW_STEP * 2 / 4;
const GATE_FEW_SHARED: usize = 6 * (FEW_OUTPUTS + FEW_ROWS) * FEW_STEP * 2 / 4;

/// cuBLAS on a device's stream, and the kernels for a few rows.
#[derive(Debug)]
pub(super) struct Products {
    blas: Blas,
    few: Kernel,
    gate_few: Kernel,
}

/// How the layers' weights, and the rows that they are multiplied with, lie on a device: `Format` of the kernels. Those
/// of 8 bits have a scale for each row, so that its greatest number is the greatest that 8 bits hold.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CudaWeightDtype {
    /// 16 bits.
    Bf16,
    /// 8 bits of a floating-point number (E4M3).
    Float8,
    /// 8 bits of an integer. Sums are integers of 32 bits: those of the widest rows, 32,768 times 127 times 127, fit in.
    Int8,
}

/// Products with weights of one shape.
#[derive(Debug)]
pub(super) struct Shape {
    pub outputs: usize,
    pub width: usize,
    pub format: CudaWeightDtype,
    /// For up to so many rows, this kernel of cuBLAS; the fewest first.
    kernels: Vec<(usize, Algorithm)>,
}

/// Where a product's numbers lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operands {
    pub sums: Address,
    pub inputs: Address,
    pub weights: Address,
}

// === impl CudaWeightDtype ===

impl CudaWeightDtype {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::Bf16 => size_of::<bf16>(),
            Self::Float8 | Self::Int8 => 1,
        }
    }

    fn numbers(self) -> Numbers {
        match self {
            Self::Bf16 => Numbers::Bf16,
            Self::Float8 => Numbers::Float8,
            Self::Int8 => Numbers::Int8,
        }
    }

    /// What sums are.
    fn sums(self) -> Numbers {
        if self == Self::Int8 { Numbers::I32 } else { Numbers::F32 }
    }

    /// So many numbers that look like those of a model, as bytes.
    fn sample(self, count: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 8
        };
        match self {
            Self::Bf16 => {
                let number = |bits: u32| bits as f32 / (1_u32 << 23) as f32 - 1.0;
                let numbers = (0..count).map(|_| bf16::from_f32(number(next())));
                numbers.flat_map(bf16::to_le_bytes).collect()
            }
            // All but the largest, among which is not-a-number.
            Self::Float8 => (0..count).map(|_| next() as u8 & 0xb7).collect(),
            Self::Int8 => (0..count).map(|_| next() as u8).collect(),
        }
    }
}

// === impl Shape ===

impl Shape {
    pub fn new([outputs, width]: [usize; 2], format: CudaWeightDtype) -> Self {
        Self { outputs, width, format, kernels: Vec::new() }
    }

    /// What cuBLAS is told of it, for so many rows.
    fn told(&self, rows: usize) -> Result<Told, CudaError> {
        let Self { outputs: columns, width: inner, format, .. } = *self;
        let numbers = |pitch| Matrix::of(format.numbers(), 0, pitch);
        let sums = Matrix::of(format.sums(), 0, columns);
        let sizes = Sizes { rows, columns, inner, count: 1 };
        Told::of(sums, [numbers(inner), numbers(inner).turned()], sizes)
    }

    /// Whether so few rows have kernels of their own.
    pub fn is_few(&self, rows: usize) -> bool {
        self.format == CudaWeightDtype::Bf16
            && rows <= FEW_ROWS
            && self.outputs.is_multiple_of(FEW_OUTPUTS)
            && self.width.is_multiple_of(FEW_WIDTH)
    }
}

// === impl Products ===

impl Products {
    pub fn open(device: &Device) -> Result<Self, CudaError> {
        let few = device.kernel_that_shares("multiply_few", FEW_SHARED)?;
        let gate_few = device.kernel_that_shares("gate_few", GATE_FEW_SHARED)?;
        Ok(Self { blas: Blas::open(device)?, few, gate_few })
    }

    /// `sums (rows, outputs) = inputs (rows, width) weights (outputs, width)^T`, in f32, or of integers in i32.
    ///
    /// # Safety
    ///
    /// The addresses must lead to as much as that.
    pub unsafe fn multiply(
        &self,
        device: &Device,
        shape: &Shape,
        operands: Operands,
        rows: usize,
    ) -> Result<(), CudaError> {
        if shape.is_few(rows) {
            // SAFETY: the caller vouches for the addresses.
            return unsafe { self.launch_few(device, shape, operands, None, rows) };
        }
        let at = shape.kernels.partition_point(|(most, _)| *most < rows);
        let kernel = shape.kernels.get(at).map_or(ptr::null(), |(_, kernel)| ptr::from_ref(kernel));
        let told = shape.told(rows)?;
        // SAFETY: the caller vouches for the addresses.
        unsafe { self.launch(&told, operands, kernel) }
    }

    /// `silu(gates) * ups`, in bf16, of a few rows, where [`Shape::is_few`] says so: the weights are those of the gates,
    /// and below them those of what is gated. What there is no bias of is 0.
    ///
    /// # Safety
    ///
    /// As of [`Products::multiply`], and there must be as many numbers of the bias as weights have rows.
    pub unsafe fn gate_few(
        &self,
        device: &Device,
        shape: &Shape,
        operands: Operands,
        bias: Address,
        rows: usize,
    ) -> Result<(), CudaError> {
        // SAFETY: the caller vouches for the addresses.
        unsafe { self.launch_few(device, shape, operands, Some(bias), rows) }
    }

    /// Launches the kernel for a few rows, or, with a bias, the one that gates as well.
    ///
    /// # Safety
    ///
    /// As of [`Products::gate_few`].
    unsafe fn launch_few(
        &self,
        device: &Device,
        shape: &Shape,
        operands: Operands,
        bias: Option<Address>,
        rows: usize,
    ) -> Result<(), CudaError> {
        let Operands { sums, inputs, weights } = operands;
        let arguments = [
            Argument::Table(sums),
            Argument::Table(inputs),
            Argument::Table(weights),
            Argument::Count(rows as u32),
            Argument::Count(shape.outputs as u32),
            Argument::Count(shape.width as u32),
            Argument::Table(bias.unwrap_or(0)),
        ];
        let (kernel, arguments) = match bias {
            Some(_) => (&self.gate_few, &arguments[..]),
            None => (&self.few, &arguments[..arguments.len() - 1]),
        };
        let blocks = shape.outputs / FEW_OUTPUTS;
        // SAFETY: the arguments of `gate_few`, which has a bias, or `multiply_few`; the caller vouches for the addresses.
        unsafe { device.launch(kernel, [blocks, 1, 1], WARP, arguments) }
    }

    /// # Safety
    ///
    /// As of [`Products::multiply`].
    unsafe fn launch(
        &self,
        told: &Told,
        Operands { sums, inputs, weights }: Operands,
        kernel: *const Algorithm,
    ) -> Result<(), CudaError> {
        let operands = blas::Operands { sums, left: inputs, right: weights, old: sums };
        // SAFETY: the caller vouches for the addresses.
        unsafe { self.blas.launch(told, operands, [1.0, 0.0], kernel) }
    }

    /// Finds the kernels for weights of a shape and up to so many rows. It is tried with some of the weights, so that
    /// what is timed does not lie in a cache.
    pub fn tune(
        &self,
        device: &Device,
        shape: &mut Shape,
        weights: &[Address],
        rows_max: usize,
    ) -> Result<(), CudaError> {
        let sample = shape.format.sample(rows_max * shape.width);
        let mut inputs = device.zeroed::<u8>(sample.len())?;
        device.write(&mut inputs, 0, &sample)?;
        // Sums are compared bit by bit, whether they are floating-point numbers or integers.
        let sums = device.zeroed::<u32>(rows_max * shape.outputs)?;
        let mut right = None;
        if shape.is_few(1) {
            let at = Operands { sums: sums.at(0), inputs: inputs.at(0), weights: weights[0] };
            // SAFETY: there are an input and room for its sums; the caller's weights have this shape.
            unsafe { self.launch_few(device, shape, at, None, 1)? };
            let mut found = vec![0; shape.outputs];
            device.read(&sums, &mut found)?;
            device.wait()?;
            right = Some(found);
        }
        let mut buckets: Vec<usize> = buckets(rows_max).collect();
        buckets.reverse();
        for rows in buckets {
            let told = shape.told(rows)?;
            let mut best: Option<(Duration, bool, Algorithm)> = None;
            for kernel in self.offers(&told)? {
                let at = |index: usize| Operands {
                    sums: sums.at(0),
                    inputs: inputs.at(0),
                    weights: weights[index % weights.len()],
                };
                // SAFETY: there are as many inputs and as much room for sums; the caller's weights have this shape.
                let run =
                    |index: usize| unsafe { self.launch(&told, at(index), &raw const kernel) };
                run(0)?;
                let mut found = vec![0; shape.outputs];
                device.read(&sums, &mut found)?;
                device.wait()?;
                let same = found == *right.get_or_insert_with(|| found.clone());
                let begun = Instant::now();
                (0..TIMES).try_for_each(run)?;
                device.wait()?;
                let took = begun.elapsed();
                let better = best.as_ref().is_none_or(|&(time, agrees, _)| {
                    (same, std::cmp::Reverse(took)) > (agrees, std::cmp::Reverse(time))
                });
                if better {
                    best = Some((took, same, kernel));
                }
            }
            // Where nothing is offered, cuBLAS chooses when it is asked.
            let Some((took, same, kernel)) = best else { continue };
            let Shape { outputs, width, format, .. } = *shape;
            let each = took / TIMES as u32;
            tracing::debug!(outputs, width, ?format, rows, ?each, "cuBLAS multiplies");
            if !same {
                let rows = format!("{rows} rows");
                tracing::warn!(
                    outputs,
                    width,
                    rows,
                    "what a row comes to will depend on its company"
                );
            }
            shape.kernels.insert(0, (rows, kernel));
        }
        Ok(())
    }

    /// The kernels that cuBLAS has, told to leave sums in one piece.
    fn offers(&self, told: &Told) -> Result<Vec<Algorithm>, CudaError> {
        use sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        let wants = lt::create_matmul_pref().map_err(CudaError::blas("hear what is wanted"))?;
        // SAFETY: an attribute is as wide as the value that is read; there is room for as many offers as are asked for.
        let (offered, offers) = unsafe {
            let most = ptr::from_ref(&WORKSPACE).cast();
            let set = lt::set_matmul_pref_attribute(
                wants,
                CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                most,
                size_of::<usize>(),
            );
            let mut offers =
                [const { std::mem::MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::zeroed() };
                    OFFERS_MAX];
            let mut count: c_int = 0;
            let asked = set.and_then(|()| {
                sys::cublasLtMatmulAlgoGetHeuristic(
                    self.blas.handle,
                    told.what,
                    told.right,
                    told.left,
                    told.sums,
                    told.sums,
                    wants,
                    OFFERS_MAX as c_int,
                    offers.as_mut_ptr().cast(),
                    &raw mut count,
                )
                .result()
            });
            let _ = lt::destroy_matmul_pref(wants);
            (asked.map(|()| count as usize), offers)
        };
        // That it knows none is no failure.
        let offered = offered.unwrap_or(0).min(OFFERS_MAX);
        let mut kernels: Vec<Algorithm> = Vec::new();
        for offer in &offers[..offered] {
            // SAFETY: cuBLAS has written it.
            let offer = unsafe { offer.assume_init_ref() };
            let Some(kernel) = in_one_piece(offer.algo) else { continue };
            let sound = offer.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS;
            let fits = sound && self.takes(told, &kernel);
            if fits && !kernels.contains(&kernel) {
                kernels.push(kernel);
            }
        }
        Ok(kernels)
    }

    /// Whether cuBLAS can do it that way.
    fn takes(&self, told: &Told, kernel: &Algorithm) -> bool {
        let mut said = std::mem::MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::zeroed();
        // SAFETY: what was told lives as long as this call.
        let checked = unsafe {
            sys::cublasLtMatmulAlgoCheck(
                self.blas.handle,
                told.what,
                told.right,
                told.left,
                told.sums,
                told.sums,
                ptr::from_ref(kernel),
                said.as_mut_ptr(),
            )
        };
        // SAFETY: cuBLAS has written it, or it is all zero.
        checked.result().is_ok() && unsafe { said.assume_init_ref() }.workspaceSize <= WORKSPACE
    }
}

/// The same kernel, told to leave sums in one piece, if it can.
fn in_one_piece(mut kernel: Algorithm) -> Option<Algorithm> {
    use sys::cublasLtMatmulAlgoConfigAttributes_t as Config;
    let (pieces, nothing) = (1_u32, 0_u32);
    for (attribute, value) in [
        (Config::CUBLASLT_ALGO_CONFIG_SPLITK_NUM, pieces),
        (Config::CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, nothing),
    ] {
        // SAFETY: the attribute is as wide as the value, and the kernel is cuBLAS's own.
        let set = unsafe {
            let (value, bytes) = (ptr::from_ref(&value).cast(), size_of_val(&value));
            sys::cublasLtMatmulAlgoConfigSetAttribute(&raw mut kernel, attribute, value, bytes)
        };
        set.result().ok()?;
    }
    Some(kernel)
}

/// How many rows kernels are looked for.
fn buckets(rows_max: usize) -> impl Iterator<Item = usize> {
    let first = (2 * FEW_ROWS).min(rows_max);
    let powers = std::iter::successors(Some(first), |rows| Some(rows * 2));
    powers.take_while(move |&rows| rows < rows_max).chain([rows_max])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_double_up_to_all_rows() {
        assert_eq!(buckets(5).collect::<Vec<_>>(), [5]);
        assert_eq!(buckets(16).collect::<Vec<_>>(), [16]);
        assert_eq!(buckets(100).collect::<Vec<_>>(), [16, 32, 64, 100]);
    }

    #[test]
    fn samples_are_numbers() {
        let halves = CudaWeightDtype::Bf16.sample(1_000);
        let numbers = halves.chunks_exact(2).map(|two| bf16::from_le_bytes([two[0], two[1]]));
        assert!(numbers.clone().all(|number| number.to_f32().abs() <= 1.0));
        assert!(numbers.filter(|number| number.to_f32() < 0.0).count() > 400);
        // E4M3 has not-a-number where all bits but the sign are set.
        assert!(CudaWeightDtype::Float8.sample(1_000).iter().all(|byte| byte & 0x7f != 0x7f));
    }
}
