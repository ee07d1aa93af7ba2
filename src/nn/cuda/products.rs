//! Products on a device, which are cuBLAS's.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use super::device::{Address, Device, DeviceError, Table};
use cudarc::cublas::{self, sys as blas};
use cudarc::driver::CudaStream;
use std::ffi::c_int;
use std::sync::Arc;

/// Bytes that cuBLAS may work in: what it wants on Hopper, so that it takes none of its own.
const WORKSPACE: usize = 32 << 20;

/// cuBLAS on a device's stream.
#[derive(Debug)]
pub(super) struct Products {
    handle: blas::cublasHandle_t,
    /// What it works on, which must not end before it.
    stream: Arc<CudaStream>,
    workspace: Table<u8>,
}

// === impl Products ===

impl Products {
    pub fn open(device: &Device) -> Result<Self, DeviceError> {
        // SAFETY: the library is NVIDIA's, and is looked for by its name.
        if unsafe { !cublas::sys::is_culib_present() } {
            return Err(DeviceError::Library("libcublas"));
        }
        let (stream, workspace) = (device.stream.clone(), device.zeroed(WORKSPACE)?);
        let handle = cublas::result::create_handle().map_err(DeviceError::blas("start"))?;
        let products = Self { handle, stream, workspace };
        // SAFETY: the stream and the workspace live as long as the handle, and the latter is used by nobody else.
        let given = unsafe {
            let stream = products.stream.cu_stream().cast();
            let address = products.workspace.at(0) as *mut std::ffi::c_void;
            cublas::result::set_stream(handle, stream)
                .and_then(|()| blas::cublasSetWorkspace_v2(handle, address, WORKSPACE).result())
        };
        given.map_err(DeviceError::blas("take its stream and its workspace"))?;
        Ok(products)
    }

    /// `out (rows, outputs) = inputs (rows, width) weights (outputs, width)^T`, bf16 into f32.
    ///
    /// # Safety
    ///
    /// The addresses must lead to as much as that.
    pub unsafe fn multiply(
        &self,
        out: Address,
        inputs: Address,
        weights: Address,
        [rows, outputs, width]: [usize; 3],
    ) -> Result<(), DeviceError> {
        use blas::cublasOperation_t::{CUBLAS_OP_N, CUBLAS_OP_T};
        use blas::cudaDataType::{CUDA_R_16BF, CUDA_R_32F};
        let [rows, outputs, width] = [rows, outputs, width].map(|count| count as c_int);
        let (one, zero) = (1.0_f32, 0.0_f32);
        // SAFETY: the caller vouches for the addresses; factors are read before the call is over, because
        // they lie with the host.
        let done = unsafe {
            cublas::result::gemm_ex(
                self.handle,
                CUBLAS_OP_T,
                CUBLAS_OP_N,
                outputs,
                rows,
                width,
                (&raw const one).cast(),
                weights as *const _,
                CUDA_R_16BF,
                width,
                inputs as *const _,
                CUDA_R_16BF,
                width,
                (&raw const zero).cast(),
                out as *mut _,
                CUDA_R_32F,
                outputs,
                blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        done.map_err(DeviceError::blas("multiply"))
    }
}

impl Drop for Products {
    fn drop(&mut self) {
        // SAFETY: nobody multiplies any more. On a device that is lost it may fail, and then there is nothing to end.
        let _ = unsafe { cublas::result::destroy_handle(self.handle) };
    }
}
