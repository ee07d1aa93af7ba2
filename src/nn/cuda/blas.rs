//! cuBLAS on a device's stream, and what it is told of a product.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use super::device::{Address, CudaError, Device, Table};
use cudarc::cublaslt::{result as lt, sys as blas};
use cudarc::driver::CudaStream;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Arc;

/// Bytes that cuBLAS may work in: what it wants on Hopper.
pub(super) const WORKSPACE: usize = 32 << 20;

/// A kernel of cuBLAS.
pub(super) type Algorithm = blas::cublasLtMatmulAlgo_t;

/// cuBLAS on a device's stream.
#[derive(Debug)]
pub(super) struct Blas {
    pub handle: blas::cublasLtHandle_t,
    /// What it works on, which must not end before it.
    stream: Arc<CudaStream>,
    workspace: Table<u8>,
}

/// What the numbers of a matrix are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Numbers {
    F32,
    /// Sums of integers.
    I32,
    Bf16,
    /// E4M3.
    Float8,
    Int8,
}

/// A matrix on a device, of rows that lie one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix {
    pub at: Address,
    pub numbers: Numbers,
    /// Numbers from where a row begins to where the next one does.
    pub pitch: usize,
    /// Whether its columns are meant as rows.
    pub turned: bool,
    /// Numbers from where it begins to where the next of its shape does.
    pub apart: usize,
}

/// Rows and columns of what comes out, numbers that each of its sums is over, and how many there are of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub rows: usize,
    pub columns: usize,
    pub inner: usize,
    pub count: usize,
}

/// What cuBLAS is told of a product; gone when it was told.
#[derive(Debug)]
pub(super) struct Told {
    /// What its sums are, and so what their factors are.
    sums_are: Numbers,
    pub what: blas::cublasLtMatmulDesc_t,
    /// cuBLAS thinks in columns, so the right side of a product in rows is its left one.
    pub left: blas::cublasLtMatrixLayout_t,
    pub right: blas::cublasLtMatrixLayout_t,
    pub sums: blas::cublasLtMatrixLayout_t,
}

/// Where the two sides of a product lie, what is added to it, and where it goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Operands {
    pub sums: Address,
    pub left: Address,
    pub right: Address,
    pub old: Address,
}

// === impl Numbers ===

impl Numbers {
    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::Bf16 => 2,
            Self::Float8 | Self::Int8 => 1,
        }
    }

    fn name(self) -> blas::cudaDataType {
        match self {
            Self::F32 => blas::cudaDataType::CUDA_R_32F,
            Self::I32 => blas::cudaDataType::CUDA_R_32I,
            Self::Bf16 => blas::cudaDataType::CUDA_R_16BF,
            Self::Float8 => blas::cudaDataType::CUDA_R_8F_E4M3,
            Self::Int8 => blas::cudaDataType::CUDA_R_8I,
        }
    }

    /// What such numbers, multiplied, are added up in.
    fn sums(self) -> (blas::cublasComputeType_t, Self) {
        match self {
            Self::Int8 => (blas::cublasComputeType_t::CUBLAS_COMPUTE_32I, Self::I32),
            _ => (blas::cublasComputeType_t::CUBLAS_COMPUTE_32F, Self::F32),
        }
    }

    /// The bits of a factor of sums.
    fn factor(self, factor: f32) -> u32 {
        match self {
            Self::I32 => factor as i32 as u32,
            _ => factor.to_bits(),
        }
    }
}

// === impl Matrix ===

impl Matrix {
    /// Rows of so many numbers.
    pub fn of(numbers: Numbers, at: Address, pitch: usize) -> Self {
        Self { at, numbers, pitch, turned: false, apart: 0 }
    }

    /// The same of 32 bits.
    pub fn exact(at: Address, pitch: usize) -> Self {
        Self::of(Numbers::F32, at, pitch)
    }

    /// The same of 16 bits.
    pub fn short(at: Address, pitch: usize) -> Self {
        Self::of(Numbers::Bf16, at, pitch)
    }

    pub fn turned(self) -> Self {
        Self { turned: !self.turned, ..self }
    }

    pub fn apart(self, apart: usize) -> Self {
        Self { apart, ..self }
    }

    /// From this number of it on.
    pub fn from(self, number: usize) -> Self {
        Self { at: self.at + (number * self.numbers.bytes()) as Address, ..self }
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

    /// `out = times · left right (+ old)`, where `old` lies as `out` does. Sums are in f32, and those of integers are
    /// integers.
    ///
    /// # Safety
    ///
    /// The addresses must lead to as much as the sizes say.
    pub unsafe fn multiply(
        &self,
        out: Matrix,
        [left, right]: [Matrix; 2],
        sizes: Sizes,
        times: f32,
        old: Option<Address>,
    ) -> Result<(), CudaError> {
        let told = Told::of(out, [left, right], sizes)?;
        let operands =
            Operands { sums: out.at, left: left.at, right: right.at, old: old.unwrap_or(out.at) };
        let kept = f32::from(u8::from(old.is_some()));
        // SAFETY: the caller vouches for the addresses.
        unsafe { self.launch(&told, operands, [times, kept], ptr::null()) }
    }

    /// Asks for what was told, of this kernel or of one that cuBLAS chooses.
    ///
    /// # Safety
    ///
    /// As of [`Blas::multiply`].
    pub unsafe fn launch(
        &self,
        told: &Told,
        operands: Operands,
        [times, kept]: [f32; 2],
        kernel: *const Algorithm,
    ) -> Result<(), CudaError> {
        let Operands { sums, left, right, old } = operands;
        let [times, kept] = [times, kept].map(|factor| told.sums_are.factor(factor));
        // SAFETY: the caller vouches for the addresses; factors are read before the call is over, because they lie
        // with the host.
        let done = unsafe {
            lt::matmul(
                self.handle,
                told.what,
                (&raw const times).cast(),
                (&raw const kept).cast(),
                right as *const c_void,
                told.right,
                left as *const c_void,
                told.left,
                old as *const c_void,
                told.sums,
                sums as *mut c_void,
                told.sums,
                kernel,
                self.workspace.at(0) as *mut c_void,
                WORKSPACE,
                self.stream.cu_stream().cast(),
            )
        };
        done.map_err(CudaError::blas("multiply"))
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: nobody multiplies any more. On a device that is lost it may fail, and then there is nothing to end.
        let _ = unsafe { lt::destroy_handle(self.handle) };
    }
}

// === impl Told ===

impl Told {
    pub fn of(out: Matrix, [left, right]: [Matrix; 2], sizes: Sizes) -> Result<Self, CudaError> {
        use blas::cublasLtMatmulDescAttributes_t as Attribute;
        let Sizes { rows, columns, inner, count } = sizes;
        let told = || -> Result<Self, lt::CublasError> {
            let (adds, sums_are) = left.numbers.sums();
            let mut told = Self {
                sums_are,
                what: lt::create_matmul_desc(adds, sums_are.name())?,
                left: ptr::null_mut(),
                right: ptr::null_mut(),
                sums: ptr::null_mut(),
            };
            for (attribute, matrix) in [
                (Attribute::CUBLASLT_MATMUL_DESC_TRANSA, right),
                (Attribute::CUBLASLT_MATMUL_DESC_TRANSB, left),
            ] {
                // `CUBLAS_OP_N` and `CUBLAS_OP_T`, which these bindings have no names for.
                let turned = c_int::from(matrix.turned);
                let (value, bytes) = ((&raw const turned).cast(), size_of_val(&turned));
                // SAFETY: the attribute is as wide as the value.
                unsafe { lt::set_matmul_desc_attribute(told.what, attribute, value, bytes)? };
            }
            let layout = |matrix: Matrix, [rows, columns]: [usize; 2]| {
                let [rows, columns] = if matrix.turned { [columns, rows] } else { [rows, columns] };
                layout(matrix, [rows, columns], count)
            };
            told.left = layout(left, [rows, inner])?;
            told.right = layout(right, [inner, columns])?;
            told.sums = layout(out, [rows, columns])?;
            Ok(told)
        };
        told().map_err(CudaError::blas("hear of a product"))
    }
}

/// What cuBLAS is told of a matrix, which has columns where it has rows here.
fn layout(
    of: Matrix,
    [rows, columns]: [usize; 2],
    count: usize,
) -> Result<blas::cublasLtMatrixLayout_t, lt::CublasError> {
    use blas::cublasLtMatrixLayoutAttribute_t as Attribute;
    let name = of.numbers.name();
    let layout = lt::create_matrix_layout(name, columns as u64, rows as u64, of.pitch as i64)?;
    if count > 1 {
        let (count, apart) = (count as i32, of.apart as i64);
        // SAFETY: the attributes are as wide as the values.
        let set = unsafe {
            let (value, bytes) = ((&raw const count).cast(), size_of_val(&count));
            let attribute = Attribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT;
            let set = lt::set_matrix_layout_attribute(layout, attribute, value, bytes);
            let (value, bytes) = ((&raw const apart).cast(), size_of_val(&apart));
            let attribute = Attribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET;
            set.and_then(|()| lt::set_matrix_layout_attribute(layout, attribute, value, bytes))
        };
        if let Err(error) = set {
            // SAFETY: it was made, and nobody else has it.
            let _ = unsafe { lt::destroy_matrix_layout(layout) };
            return Err(error);
        }
    }
    Ok(layout)
}

impl Drop for Told {
    fn drop(&mut self) {
        // SAFETY: what was made is given back once, and nothing was made where there is no address.
        unsafe {
            let _ = lt::destroy_matmul_desc(self.what);
            for layout in [self.left, self.right, self.sums] {
                if !layout.is_null() {
                    let _ = lt::destroy_matrix_layout(layout);
                }
            }
        }
    }
}
