//! Matrix products of a decoder that serves: cuBLAS's, and kernels of our own for a few rows.
//!
//! cuBLAS's kernels that don't split a sum all have the same bits: they add sixteen products at a time (of bf16; more of
//! 8 bits), whatever the other rows and the kernel's tile. Kernels that split sums are not used, so a row's result does
//! not depend on the batch. That is measured when a model is loaded: of the algorithms that cuBLAS offers for a number
//! of rows, the fastest serves whose sums have the same bits as the kernel for a few rows. Sums of integers are exact, and
//! the same in any order.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use super::blas::{
    Algorithm, Blas, BlasOperands, DeviceMatrix, MatrixDtype, ProductDescription, ProductSize,
    WORKSPACE,
};
use super::device::{CudaError, Device, DeviceBuffer, Kernel};
use super::interface::{
    Bias, CudaWeightDtype, DevicePtr, FEW_AHEAD, FEW_OUTPUTS, FEW_ROWS, FEW_STEP, GATE_FEW_AHEAD,
    GateFew, MultiplyFew, Outputs, Packed, ProductSum, RowCount, WARP, Width,
};
use cudarc::cublaslt::{result as lt, sys};
use half::bf16;
use std::ffi::c_int;
use std::ptr;
use std::time::{Duration, Instant};

/// Algorithms that cuBLAS is asked for, for each number of rows of one shape.
const OFFERS_MAX: usize = 16;
/// Timed runs of each.
const TIMES: usize = 5;
/// The kernels for a few rows take inputs whose width is a multiple of this.
const FEW_WIDTH: usize = 8;

/// cuBLAS on a device's stream, and the kernels for a few rows.
#[derive(Debug)]
pub(super) struct Products {
    blas: Blas,
    few: Kernel<MultiplyFew>,
    gate_few: Kernel<GateFew>,
}

/// Products with weights of one shape.
#[derive(Debug)]
pub(super) struct WeightShape {
    pub outputs: usize,
    pub width: usize,
    pub dtype: CudaWeightDtype,
    /// The algorithm for up to so many rows, in ascending order.
    algorithms: Vec<(usize, Algorithm)>,
}

/// The operands of a product, and its sums.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProductOperands {
    pub sums: DevicePtr<ProductSum>,
    pub inputs: DevicePtr<Packed>,
    pub weights: DevicePtr<Packed>,
}

// === impl CudaWeightDtype ===

impl CudaWeightDtype {
    /// Bytes of a number.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Bf16 => size_of::<bf16>(),
            Self::Float8 | Self::Int8 => 1,
        }
    }

    fn of_matrix(self) -> MatrixDtype {
        match self {
            Self::Bf16 => MatrixDtype::Bf16,
            Self::Float8 => MatrixDtype::Float8,
            Self::Int8 => MatrixDtype::Int8,
        }
    }

    /// The dtype of sums.
    fn of_sums(self) -> MatrixDtype {
        if self == Self::Int8 { MatrixDtype::I32 } else { MatrixDtype::F32 }
    }

    /// Pseudo-random numbers like those of a model, as bytes.
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
            // The mask excludes not-a-number, with the largest exponents.
            Self::Float8 => (0..count).map(|_| next() as u8 & 0xb7).collect(),
            Self::Int8 => (0..count).map(|_| next() as u8).collect(),
        }
    }
}

// === impl WeightShape ===

impl WeightShape {
    pub fn new([outputs, width]: [usize; 2], dtype: CudaWeightDtype) -> Self {
        Self { outputs, width, dtype, algorithms: Vec::new() }
    }

    /// cuBLAS's description of the product with so many rows.
    fn describe(&self, rows: usize) -> Result<ProductDescription, CudaError> {
        let Self { outputs: columns, width: inner, dtype, .. } = *self;
        let operand = DeviceMatrix::of(dtype.of_matrix(), 0, inner);
        let sums = DeviceMatrix::of(dtype.of_sums(), 0, columns);
        let size = ProductSize { rows, columns, inner, count: 1 };
        ProductDescription::of(sums, [operand, operand.transposed()], size)
    }

    /// Whether the kernels for a few rows compute products with so many.
    pub fn is_few(&self, rows: usize) -> bool {
        self.dtype == CudaWeightDtype::Bf16
            && rows <= FEW_ROWS as usize
            && self.outputs.is_multiple_of(FEW_OUTPUTS as usize)
            && self.width.is_multiple_of(FEW_WIDTH)
    }
}

// === impl Products ===

impl Products {
    pub fn open(device: &Device) -> Result<Self, CudaError> {
        // Shared memory of a block: `few_shared` of the kernels.
        let bytes =
            |ahead: u32| (ahead * (FEW_OUTPUTS + FEW_ROWS) * FEW_STEP) as usize * size_of::<bf16>();
        let few = device.kernel()?.with_shared(bytes(FEW_AHEAD))?;
        let gate_few = device.kernel()?.with_shared(bytes(GATE_FEW_AHEAD))?;
        Ok(Self { blas: Blas::open(device)?, few, gate_few })
    }

    /// `sums (rows, outputs) = inputs (rows, width) weights (outputs, width)^T`, in f32, or of integers in i32.
    ///
    /// # Safety
    ///
    /// The pointers must lead to as many numbers.
    pub unsafe fn multiply(
        &self,
        device: &Device,
        shape: &WeightShape,
        operands: ProductOperands,
        rows: usize,
    ) -> Result<(), CudaError> {
        if shape.is_few(rows) {
            // SAFETY: the caller vouches for the pointers.
            return unsafe { self.multiply_few(device, shape, operands, rows) };
        }
        let at = shape.algorithms.partition_point(|(most, _)| *most < rows);
        let algorithm =
            shape.algorithms.get(at).map_or(ptr::null(), |(_, algorithm)| ptr::from_ref(algorithm));
        let description = shape.describe(rows)?;
        // SAFETY: the caller vouches for the pointers.
        unsafe { self.launch(&description, operands, algorithm) }
    }

    /// The product of a few rows by our own kernel.
    ///
    /// # Safety
    ///
    /// As of [`Products::multiply`].
    unsafe fn multiply_few(
        &self,
        device: &Device,
        shape: &WeightShape,
        ProductOperands { sums, inputs, weights }: ProductOperands,
        rows: usize,
    ) -> Result<(), CudaError> {
        let arguments = MultiplyFew {
            sums,
            inputs: inputs.as_bf16(),
            weights: weights.as_bf16(),
            rows: RowCount::of(rows),
            outputs: Outputs::of(shape.outputs),
            width: Width::of(shape.width),
        };
        let blocks = shape.outputs / FEW_OUTPUTS as usize;
        // SAFETY: the caller vouches for the pointers.
        unsafe { device.launch(&self.few, [blocks, 1, 1], WARP, &arguments) }
    }

    /// `silu(gates) * ups` of a few rows, in bf16, if [`WeightShape::is_few`]. The weights are those of the gates, with
    /// those of the ups below them. `bias` may be null.
    ///
    /// # Safety
    ///
    /// As of [`Products::multiply`], and the bias must have as many numbers as weights have rows.
    pub unsafe fn gate_few(
        &self,
        device: &Device,
        shape: &WeightShape,
        gated: DevicePtr<Packed>,
        [inputs, weights]: [DevicePtr<Packed>; 2],
        bias: DevicePtr<Bias>,
        rows: usize,
    ) -> Result<(), CudaError> {
        let arguments = GateFew {
            gated: gated.as_bf16(),
            inputs: inputs.as_bf16(),
            weights: weights.as_bf16(),
            rows: RowCount::of(rows),
            outputs: Outputs::of(shape.outputs),
            width: Width::of(shape.width),
            bias,
        };
        let blocks = shape.outputs / FEW_OUTPUTS as usize;
        // SAFETY: the caller vouches for the pointers.
        unsafe { device.launch(&self.gate_few, [blocks, 1, 1], WARP, &arguments) }
    }

    /// # Safety
    ///
    /// As of [`Products::multiply`].
    unsafe fn launch(
        &self,
        description: &ProductDescription,
        operands: ProductOperands,
        algorithm: *const Algorithm,
    ) -> Result<(), CudaError> {
        let sums = operands.sums.address();
        let (left, right) = (operands.inputs.address(), operands.weights.address());
        let operands = BlasOperands { sums, left, right, addend: sums };
        // SAFETY: the caller vouches for the pointers.
        unsafe { self.blas.launch(description, operands, [1.0, 0.0], algorithm) }
    }

    /// Finds the algorithms for weights of a shape and up to so many rows. They are timed with the weights of several
    /// layers, so that those are not in a cache.
    pub fn tune(
        &self,
        device: &Device,
        shape: &mut WeightShape,
        weights: &[DevicePtr<Packed>],
        rows_max: usize,
    ) -> Result<(), CudaError> {
        let sample = shape.dtype.sample(rows_max * shape.width);
        let inputs = device.upload::<Packed>(&sample)?;
        let sums: DeviceBuffer<ProductSum> = device.zeroed(rows_max * shape.outputs)?;
        let operands = |layer: usize| ProductOperands {
            sums: sums.at(0),
            inputs: inputs.at(0),
            weights: weights[layer % weights.len()],
        };
        // Sums are compared bit by bit, because they may be integers.
        let first_row = || {
            let mut found = vec![0.0; shape.outputs];
            device.read(&sums, &mut found)?;
            device.wait()?;
            Ok::<_, CudaError>(found.into_iter().map(f32::to_bits).collect::<Vec<_>>())
        };
        let mut reference = None;
        if shape.is_few(1) {
            // SAFETY: there is an input row, and space for its sums. The caller's weights have this shape.
            unsafe { self.multiply_few(device, shape, operands(0), 1)? };
            reference = Some(first_row()?);
        }
        let mut buckets: Vec<usize> = buckets(rows_max).collect();
        buckets.reverse();
        for rows in buckets {
            let description = shape.describe(rows)?;
            let mut best: Option<(Duration, bool, Algorithm)> = None;
            for algorithm in self.offers(&description)? {
                // SAFETY: there are as many inputs, and space for their sums. The caller's weights have this shape.
                let run = |layer: usize| unsafe {
                    self.launch(&description, operands(layer), &raw const algorithm)
                };
                run(0)?;
                let found = first_row()?;
                let same = found == *reference.get_or_insert_with(|| found.clone());
                let begun = Instant::now();
                (0..TIMES).try_for_each(run)?;
                device.wait()?;
                let took = begun.elapsed();
                let better = best.as_ref().is_none_or(|&(time, agrees, _)| {
                    (same, std::cmp::Reverse(took)) > (agrees, std::cmp::Reverse(time))
                });
                if better {
                    best = Some((took, same, algorithm));
                }
            }
            // Without an offer, cuBLAS chooses an algorithm for each product.
            let Some((took, same, algorithm)) = best else { continue };
            let WeightShape { outputs, width, dtype, .. } = *shape;
            let each = took / TIMES as u32;
            tracing::debug!(outputs, width, ?dtype, rows, ?each, "cuBLAS multiplies");
            if !same {
                let rows = format!("{rows} rows");
                tracing::warn!(outputs, width, rows, "a row's result will depend on the batch");
            }
            shape.algorithms.insert(0, (rows, algorithm));
        }
        Ok(())
    }

    /// The algorithms that cuBLAS offers, configured not to split sums.
    fn offers(&self, description: &ProductDescription) -> Result<Vec<Algorithm>, CudaError> {
        use sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        let preference = lt::create_matmul_pref().map_err(CudaError::blas("take a preference"))?;
        // SAFETY: an attribute is as wide as the value that is read, and there is space for as many offers as requested.
        let (offered, offers) = unsafe {
            let most = ptr::from_ref(&WORKSPACE).cast();
            let set = lt::set_matmul_pref_attribute(
                preference,
                CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                most,
                size_of::<usize>(),
            );
            let mut offers =
                [const { std::mem::MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::zeroed() };
                    OFFERS_MAX];
            let mut count: c_int = 0;
            let requested = set.and_then(|()| {
                sys::cublasLtMatmulAlgoGetHeuristic(
                    self.blas.handle,
                    description.operation,
                    description.right,
                    description.left,
                    description.sums,
                    description.sums,
                    preference,
                    OFFERS_MAX as c_int,
                    offers.as_mut_ptr().cast(),
                    &raw mut count,
                )
                .result()
            });
            let _ = lt::destroy_matmul_pref(preference);
            (requested.map(|()| count as usize), offers)
        };
        // No offer is no failure.
        let offered = offered.unwrap_or(0).min(OFFERS_MAX);
        let mut algorithms: Vec<Algorithm> = Vec::new();
        for offer in &offers[..offered] {
            // SAFETY: cuBLAS has written it.
            let offer = unsafe { offer.assume_init_ref() };
            let Some(algorithm) = without_split(offer.algo) else { continue };
            let sound = offer.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS;
            let fits = sound && self.supports(description, &algorithm);
            if fits && !algorithms.contains(&algorithm) {
                algorithms.push(algorithm);
            }
        }
        Ok(algorithms)
    }

    /// Whether cuBLAS supports the product by this algorithm.
    fn supports(&self, description: &ProductDescription, algorithm: &Algorithm) -> bool {
        let mut checked_result =
            std::mem::MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::zeroed();
        // SAFETY: the description lives as long as this call.
        let checked = unsafe {
            sys::cublasLtMatmulAlgoCheck(
                self.blas.handle,
                description.operation,
                description.right,
                description.left,
                description.sums,
                description.sums,
                ptr::from_ref(algorithm),
                checked_result.as_mut_ptr(),
            )
        };
        // SAFETY: cuBLAS has written it, or it is all zero.
        checked.result().is_ok()
            && unsafe { checked_result.assume_init_ref() }.workspaceSize <= WORKSPACE
    }
}

/// The same algorithm configured not to split sums, if it can.
fn without_split(mut algorithm: Algorithm) -> Option<Algorithm> {
    use sys::cublasLtMatmulAlgoConfigAttributes_t as Config;
    let (splits, no_reduction) = (1_u32, 0_u32);
    for (attribute, value) in [
        (Config::CUBLASLT_ALGO_CONFIG_SPLITK_NUM, splits),
        (Config::CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, no_reduction),
    ] {
        // SAFETY: the attribute is as wide as the value, and the algorithm is cuBLAS's own.
        let set = unsafe {
            let (value, bytes) = (ptr::from_ref(&value).cast(), size_of_val(&value));
            sys::cublasLtMatmulAlgoConfigSetAttribute(&raw mut algorithm, attribute, value, bytes)
        };
        set.result().ok()?;
    }
    Some(algorithm)
}

/// The numbers of rows that algorithms are tuned for.
fn buckets(rows_max: usize) -> impl Iterator<Item = usize> {
    let first = (2 * FEW_ROWS as usize).min(rows_max);
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
