//! cuBLAS on a device's stream, and its descriptions of products.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use super::device::{CudaError, Device, DeviceBuffer};
use super::interface::{DevicePtr, Packed, Role};
use cudarc::cublaslt::{result as lt, sys as blas};
use cudarc::driver::CudaStream;
use half::bf16;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Arc;

/// Bytes of cuBLAS's workspace, as recommended for Hopper.
pub(super) const WORKSPACE: usize = 32 << 20;

/// A kernel of cuBLAS.
pub(super) type Algorithm = blas::cublasLtMatmulAlgo_t;

/// cuBLAS on a device's stream.
#[derive(Debug)]
pub(super) struct Blas {
    pub handle: blas::cublasLtHandle_t,
    /// The stream that its products run on, which must outlive it.
    stream: Arc<CudaStream>,
    workspace: DeviceBuffer<Packed>,
}

/// The dtype of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MatrixDtype {
    F32,
    /// Sums of products of [`MatrixDtype::Int8`].
    I32,
    Bf16,
    /// E4M3.
    Float8,
    Int8,
}

/// A matrix on a device, stored row by row.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeviceMatrix {
    pub address: u64,
    pub dtype: MatrixDtype,
    /// MatrixDtype from one row to the next.
    pub pitch: usize,
    /// Whether it is used transposed.
    pub transposed: bool,
    /// MatrixDtype from one matrix of a batched product to the next.
    pub stride: usize,
}

/// Rows and columns of a product, the length of its sums, and the number of products of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct ProductSize {
    pub rows: usize,
    pub columns: usize,
    pub inner: usize,
    pub count: usize,
}

/// cuBLAS's description of a product.
#[derive(Debug)]
pub(super) struct ProductDescription {
    /// The dtype of its sums, and of their factors.
    sum_dtype: MatrixDtype,
    pub operation: blas::cublasLtMatmulDesc_t,
    /// cuBLAS stores matrices by columns, so it gets the right side of a product of rows as its left one.
    pub left: blas::cublasLtMatrixLayout_t,
    pub right: blas::cublasLtMatrixLayout_t,
    pub sums: blas::cublasLtMatrixLayout_t,
}

/// The addresses of a product's operands and of its sums. `addend` is added to the product, if its factor is not zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlasOperands {
    pub sums: u64,
    pub left: u64,
    pub right: u64,
    pub addend: u64,
}

// === impl MatrixDtype ===

impl MatrixDtype {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::Bf16 => 2,
            Self::Float8 | Self::Int8 => 1,
        }
    }

    fn cuda(self) -> blas::cudaDataType {
        match self {
            Self::F32 => blas::cudaDataType::CUDA_R_32F,
            Self::I32 => blas::cudaDataType::CUDA_R_32I,
            Self::Bf16 => blas::cudaDataType::CUDA_R_16BF,
            Self::Float8 => blas::cudaDataType::CUDA_R_8F_E4M3,
            Self::Int8 => blas::cudaDataType::CUDA_R_8I,
        }
    }

    /// The compute type and the dtype of sums of products of this dtype.
    fn sums(self) -> (blas::cublasComputeType_t, Self) {
        match self {
            Self::Int8 => (blas::cublasComputeType_t::CUBLAS_COMPUTE_32I, Self::I32),
            _ => (blas::cublasComputeType_t::CUBLAS_COMPUTE_32F, Self::F32),
        }
    }

    /// The bits of a factor of sums of this dtype.
    fn factor(self, factor: f32) -> u32 {
        match self {
            Self::I32 => factor as i32 as u32,
            _ => factor.to_bits(),
        }
    }
}

// === impl DeviceMatrix ===

impl DeviceMatrix {
    /// A matrix with `pitch` numbers from one row to the next.
    pub fn of(dtype: MatrixDtype, address: u64, pitch: usize) -> Self {
        Self { address, dtype, pitch, transposed: false, stride: 0 }
    }

    /// A matrix of f32.
    pub fn f32<R: Role<Number = f32>>(at: DevicePtr<R>, pitch: usize) -> Self {
        Self::of(MatrixDtype::F32, at.address(), pitch)
    }

    /// A matrix of bf16.
    pub fn bf16<R: Role<Number = bf16>>(at: DevicePtr<R>, pitch: usize) -> Self {
        Self::of(MatrixDtype::Bf16, at.address(), pitch)
    }

    pub fn transposed(self) -> Self {
        Self { transposed: !self.transposed, ..self }
    }

    pub fn with_stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// From this number of it on.
    pub fn from(self, number: usize) -> Self {
        Self { address: self.address + (number * self.dtype.bytes()) as u64, ..self }
    }
}

// === impl Blas ===

impl Blas {
    pub fn open(device: &Device) -> Result<Self, CudaError> {
        // SAFETY: the library is NVIDIA's, and is looked for by its name.
        if unsafe { !blas::is_culib_present() } {
            return Err(CudaError::Library("libcublasLt"));
        }
        let (stream, workspace) = (device.stream.clone(), device.zeroed(WORKSPACE)?);
        let handle = lt::create_handle().map_err(CudaError::blas("start"))?;
        Ok(Self { handle, stream, workspace })
    }

    /// `out = alpha · left right (+ addend)`, where `addend` has the layout of `out`. Sums are in f32, and those of
    /// integers are integers.
    ///
    /// # Safety
    ///
    /// The addresses must lead to as many numbers as the size says.
    pub unsafe fn multiply(
        &self,
        out: DeviceMatrix,
        [left, right]: [DeviceMatrix; 2],
        size: ProductSize,
        alpha: f32,
        addend: Option<u64>,
    ) -> Result<(), CudaError> {
        let description = ProductDescription::of(out, [left, right], size)?;
        let operands = BlasOperands {
            sums: out.address,
            left: left.address,
            right: right.address,
            addend: addend.unwrap_or(out.address),
        };
        let beta = f32::from(u8::from(addend.is_some()));
        // SAFETY: the caller vouches for the addresses.
        unsafe { self.launch(&description, operands, [alpha, beta], ptr::null()) }
    }

    /// Launches a product by this algorithm, or, if that is null, by one that cuBLAS chooses.
    ///
    /// # Safety
    ///
    /// As of [`Blas::multiply`].
    pub unsafe fn launch(
        &self,
        description: &ProductDescription,
        operands: BlasOperands,
        [alpha, beta]: [f32; 2],
        algorithm: *const Algorithm,
    ) -> Result<(), CudaError> {
        let BlasOperands { sums, left, right, addend } = operands;
        let [alpha, beta] = [alpha, beta].map(|factor| description.sum_dtype.factor(factor));
        // SAFETY: the caller vouches for the addresses. Factors are in host memory, and are read before the call returns.
        let done = unsafe {
            lt::matmul(
                self.handle,
                description.operation,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                right as *const c_void,
                description.right,
                left as *const c_void,
                description.left,
                addend as *const c_void,
                description.sums,
                sums as *mut c_void,
                description.sums,
                algorithm,
                self.workspace.at(0).address() as *mut c_void,
                WORKSPACE,
                self.stream.cu_stream().cast(),
            )
        };
        done.map_err(CudaError::blas("multiply"))
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: no product uses the handle any more. On a lost device the call may fail, and nothing is left to free.
        let _ = unsafe { lt::destroy_handle(self.handle) };
    }
}

// === impl ProductDescription ===

impl ProductDescription {
    pub fn of(
        out: DeviceMatrix,
        [left, right]: [DeviceMatrix; 2],
        size: ProductSize,
    ) -> Result<Self, CudaError> {
        use blas::cublasLtMatmulDescAttributes_t as Attribute;
        let ProductSize { rows, columns, inner, count } = size;
        let describe = || -> Result<Self, lt::CublasError> {
            let (compute, sum_dtype) = left.dtype.sums();
            let mut described = Self {
                sum_dtype,
                operation: lt::create_matmul_desc(compute, sum_dtype.cuda())?,
                left: ptr::null_mut(),
                right: ptr::null_mut(),
                sums: ptr::null_mut(),
            };
            for (attribute, matrix) in [
                (Attribute::CUBLASLT_MATMUL_DESC_TRANSA, right),
                (Attribute::CUBLASLT_MATMUL_DESC_TRANSB, left),
            ] {
                // `CUBLAS_OP_N` and `CUBLAS_OP_T`, which these bindings have no names for.
                let transposed = c_int::from(matrix.transposed);
                let (value, bytes) = ((&raw const transposed).cast(), size_of_val(&transposed));
                // SAFETY: the attribute is as wide as the value.
                unsafe {
                    lt::set_matmul_desc_attribute(described.operation, attribute, value, bytes)?;
                };
            }
            let layout = |matrix: DeviceMatrix, [rows, columns]: [usize; 2]| {
                let [rows, columns] =
                    if matrix.transposed { [columns, rows] } else { [rows, columns] };
                layout(matrix, [rows, columns], count)
            };
            described.left = layout(left, [rows, inner])?;
            described.right = layout(right, [inner, columns])?;
            described.sums = layout(out, [rows, columns])?;
            Ok(described)
        };
        describe().map_err(CudaError::blas("describe a product"))
    }
}

/// cuBLAS's description of a matrix, whose columns are rows here.
fn layout(
    matrix: DeviceMatrix,
    [rows, columns]: [usize; 2],
    count: usize,
) -> Result<blas::cublasLtMatrixLayout_t, lt::CublasError> {
    use blas::cublasLtMatrixLayoutAttribute_t as Attribute;
    let dtype = matrix.dtype.cuda();
    let pitch = matrix.pitch as i64;
    let layout = lt::create_matrix_layout(dtype, columns as u64, rows as u64, pitch)?;
    if count > 1 {
        let (count, stride) = (count as i32, matrix.stride as i64);
        // SAFETY: the attributes are as wide as the values.
        let set = unsafe {
            let (value, bytes) = ((&raw const count).cast(), size_of_val(&count));
            let attribute = Attribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT;
            let set = lt::set_matrix_layout_attribute(layout, attribute, value, bytes);
            let (value, bytes) = ((&raw const stride).cast(), size_of_val(&stride));
            let attribute = Attribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET;
            set.and_then(|()| lt::set_matrix_layout_attribute(layout, attribute, value, bytes))
        };
        if let Err(error) = set {
            // SAFETY: it was created above, and nothing else uses it.
            let _ = unsafe { lt::destroy_matrix_layout(layout) };
            return Err(error);
        }
    }
    Ok(layout)
}

impl Drop for ProductDescription {
    fn drop(&mut self) {
        // SAFETY: each description is destroyed once, and a null one was never created.
        unsafe {
            let _ = lt::destroy_matmul_desc(self.operation);
            for layout in [self.left, self.right, self.sums] {
                if !layout.is_null() {
                    let _ = lt::destroy_matrix_layout(layout);
                }
            }
        }
    }
}
