//! The device: its libraries, its kernels, and memory on it.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use cudarc::cublas::{self, CudaBlas, result::CublasError, sys as blas};
use cudarc::driver::{
    self, CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DeviceRepr, DriverError,
    LaunchConfig, PushKernelArg as _, sys,
};
use cudarc::nvrtc::Ptx;
use std::ffi::c_int;
use std::sync::Arc;

/// The kernels, for the architectures that `build.rs` compiles them for.
const KERNELS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/decoder.fatbin"));
/// Bytes that cuBLAS may work in: what it wants on Hopper, so that it takes none of its own.
const WORKSPACE: usize = 32 << 20;
/// An address on the device; 0 stands for nothing there.
pub(super) type Address = sys::CUdeviceptr;

/// A GPU, with everything that a pass needs of it.
#[derive(Debug)]
pub struct Device {
    stream: Arc<CudaStream>,
    products: CudaBlas,
    module: Arc<CudaModule>,
    _workspace: Table<u8>,
}

/// Numbers on a device.
#[derive(Debug)]
pub(super) struct Table<T> {
    memory: CudaSlice<T>,
}

/// A kernel that can be launched.
#[derive(Debug)]
pub(super) struct Kernel {
    function: CudaFunction,
}

/// Why a device can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A library of CUDA is not on this machine.
    #[error("{0} is not on this machine: a GPU needs NVIDIA's driver and cuBLAS 13")]
    Library(&'static str),
    /// The driver refused.
    #[error("the CUDA driver refused to {what}")]
    Driver {
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        source: DriverError,
    },
    /// cuBLAS refused.
    #[error("cuBLAS refused to {what}")]
    Blas {
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        source: CublasError,
    },
}

// === impl DeviceError ===

impl DeviceError {
    fn driver(what: &'static str) -> impl Fn(DriverError) -> Self {
        move |source| Self::Driver { what, source }
    }

    fn blas(what: &'static str) -> impl Fn(CublasError) -> Self {
        move |source| Self::Blas { what, source }
    }
}

// === impl Device ===

impl Device {
    /// Opens a GPU by its number.
    pub fn open(ordinal: usize) -> Result<Self, DeviceError> {
        // SAFETY: the libraries are NVIDIA's, and are looked for by their names.
        if unsafe { !driver::sys::is_culib_present() } {
            return Err(DeviceError::Library("libcuda"));
        }
        // SAFETY: as above.
        if unsafe { !cublas::sys::is_culib_present() } {
            return Err(DeviceError::Library("libcublas"));
        }
        let context = CudaContext::new(ordinal).map_err(DeviceError::driver("open the device"))?;
        // SAFETY: everything is done on one stream, in order, so nothing needs events to wait for.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(DeviceError::driver("start a stream"))?;
        let module = context.load_module(Ptx::from_binary(KERNELS.to_vec()));
        let module = module.map_err(DeviceError::driver("load the kernels"))?;
        let products = CudaBlas::new(stream.clone()).map_err(DeviceError::blas("start"))?;
        let workspace = Table::zeroed(&stream, WORKSPACE)?;
        // SAFETY: the workspace lives as long as the handle, and is used by nobody else.
        let given = unsafe {
            let address = workspace.at(0) as *mut std::ffi::c_void;
            blas::cublasSetWorkspace_v2(*products.handle(), address, WORKSPACE).result()
        };
        given.map_err(DeviceError::blas("take a workspace"))?;
        Ok(Self { stream, products, module, _workspace: workspace })
    }

    /// A kernel by its name.
    pub(super) fn kernel(&self, name: &str) -> Result<Kernel, DeviceError> {
        let function = self.module.load_function(name);
        let function = function.map_err(DeviceError::driver("find a kernel"))?;
        Ok(Kernel { function })
    }

    /// Room for numbers, all zero.
    pub(super) fn zeroed<T: DeviceRepr + driver::ValidAsZeroBits>(
        &self,
        count: usize,
    ) -> Result<Table<T>, DeviceError> {
        Table::zeroed(&self.stream, count)
    }

    /// Writes numbers into a table, from a place on.
    pub(super) fn write<T: DeviceRepr>(
        &self,
        table: &mut Table<T>,
        from: usize,
        values: &[T],
    ) -> Result<(), DeviceError> {
        let mut place = table.memory.slice_mut(from..from + values.len());
        let written = self.stream.memcpy_htod(values, &mut place);
        written.map_err(DeviceError::driver("copy to the device"))
    }

    /// Reads the first numbers of a table, once [`Device::wait`] is over.
    pub(super) fn read<T: DeviceRepr>(
        &self,
        table: &Table<T>,
        values: &mut [T],
    ) -> Result<(), DeviceError> {
        let place = table.memory.slice(..values.len());
        let read = self.stream.memcpy_dtoh(&place, values);
        read.map_err(DeviceError::driver("copy from the device"))
    }

    /// Waits until all that was launched is done.
    pub(super) fn wait(&self) -> Result<(), DeviceError> {
        self.stream.synchronize().map_err(DeviceError::driver("come to an end"))
    }

    /// Launches a kernel with these arguments.
    ///
    /// # Safety
    ///
    /// The arguments must be those of the kernel, in its order, and addresses must lead to as much as it reads
    /// and writes.
    pub(super) unsafe fn launch(
        &self,
        kernel: &Kernel,
        grid: [usize; 3],
        threads: u32,
        arguments: &[Argument],
    ) -> Result<(), DeviceError> {
        let [x, y, z] = grid.map(|blocks| blocks as u32);
        if x * y * z == 0 {
            return Ok(());
        }
        let mut launch = self.stream.launch_builder(&kernel.function);
        for argument in arguments {
            match argument {
                Argument::Table(address) => launch.arg(address),
                Argument::Count(count) => launch.arg(count),
                Argument::Number(number) => launch.arg(number),
                Argument::Heads(heads) => launch.arg(heads),
            };
        }
        let config =
            LaunchConfig { grid_dim: (x, y, z), block_dim: (threads, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: the caller vouches for the arguments.
        let launched = unsafe { launch.launch(config) };
        launched.map(drop).map_err(DeviceError::driver("launch a kernel"))
    }

    /// `out (rows, outputs) = inputs (rows, width) weights (outputs, width)^T`, bf16 into f32.
    ///
    /// # Safety
    ///
    /// The addresses must lead to as much as that.
    pub(super) unsafe fn multiply(
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
                *self.products.handle(),
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

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Argument {
    Table(Address),
    Count(u32),
    Number(f32),
    Heads(Heads),
}

/// Where heads lie: `Heads` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Heads {
    pub of_queries: u32,
    pub of_keys: u32,
    pub dim: u32,
    pub page_tokens: u32,
}

// SAFETY: four numbers that lie as the kernels have them.
unsafe impl DeviceRepr for Heads {}

// === impl Table ===

impl<T: DeviceRepr> Table<T> {
    fn zeroed(stream: &Arc<CudaStream>, count: usize) -> Result<Self, DeviceError>
    where
        T: driver::ValidAsZeroBits,
    {
        // The driver gives no memory of no bytes.
        let memory = stream.alloc_zeros(count.max(1));
        Ok(Self { memory: memory.map_err(DeviceError::driver("take memory"))? })
    }
}

impl<T> Table<T> {
    /// How many numbers there is room for.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Where a table begins; 0 where there is none.
    pub fn address(table: Option<&Self>) -> Address {
        table.map_or(0, |table| table.at(0))
    }

    /// The address of a number.
    pub fn at(&self, place: usize) -> Address {
        use cudarc::driver::DevicePtr as _;
        let (address, _) = self.memory.device_ptr(self.memory.stream());
        address + (place * size_of::<T>()) as Address
    }
}
