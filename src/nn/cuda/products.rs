//! Products on a device, which are cuBLAS's.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use super::device::{Address, Device, DeviceError, Table};
use cudarc::cublas::{self, CudaBlas, sys as blas};
use cudarc::driver::CudaStream;
use std::ffi::c_int;
use std::mem::ManuallyDrop;
use std::sync::Arc;

/// Bytes that cuBLAS may work in: what it wants on Hopper, so that it takes none of its own.
const WORKSPACE: usize = 32 << 20;

/// cuBLAS on a device's stream.
#[derive(Debug)]
pub(super) struct Products {
    handle: ManuallyDrop<CudaBlas>,
    stream: Arc<CudaStream>,
    _workspace: Table<u8>,
}

// === impl Products ===

impl Products {
    pub fn open(device: &Device) -> Result<Self, DeviceError> {
        // SAFETY: the library is NVIDIA's, and is looked for by its name.
        if unsafe { !cublas::sys::is_culib_present() } {
            return Err(DeviceError::Library("libcublas"));
        }
        let stream = device.stream.clone();
        let handle = CudaBlas::new(stream.clone()).map_err(DeviceError::blas("start"))?;
        let handle = ManuallyDrop::new(handle);
        let workspace: Table<u8> = device.zeroed(WORKSPACE)?;
        // SAFETY: the workspace lives as long as the handle, and is used by nobody else.
        let given = unsafe {
            let address = workspace.at(0) as *mut std::ffi::c_void;
            blas::cublasSetWorkspace_v2(*handle.handle(), address, WORKSPACE).result()
        };
        given.map_err(DeviceError::blas("take a workspace"))?;
        Ok(Self { handle, stream, _workspace: workspace })
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
                *self.handle.handle(),
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
        // A library that can't be ended, as on a device that is lost, would panic; and is lost as well.
        if self.stream.synchronize().is_ok() {
            // SAFETY: nobody multiplies any more.
            unsafe { ManuallyDrop::drop(&mut self.handle) };
        }
    }
}
