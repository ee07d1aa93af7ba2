//! The device: its libraries, its kernels, and memory on it.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use cudarc::cublas::result::CublasError;
use cudarc::driver::{
    self, CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DeviceRepr, DriverError,
    LaunchConfig, PushKernelArg as _, sys,
};
use cudarc::nvrtc::Ptx;
use std::sync::Arc;

/// The kernels, for the architectures that `build.rs` compiles them for.
pub(super) const DECODER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/decoder.fatbin"));
pub(super) const SCORER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/scorer.fatbin"));
/// An address on the device; 0 stands for nothing there.
pub(super) type Address = sys::CUdeviceptr;

/// A GPU, and kernels that run there one after the other.
#[derive(Debug)]
pub struct Device {
    pub(super) stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
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
    /// Bytes that a block shares beside what the kernel names.
    shared: u32,
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
    pub(super) fn driver(what: &'static str) -> impl Fn(DriverError) -> Self {
        move |source| Self::Driver { what, source }
    }

    pub(super) fn blas(what: &'static str) -> impl Fn(CublasError) -> Self {
        move |source| Self::Blas { what, source }
    }
}

// === impl Device ===

impl Device {
    /// Opens a GPU by its number, for these kernels.
    pub(super) fn open(ordinal: usize, kernels: &[u8]) -> Result<Self, DeviceError> {
        // SAFETY: the library is NVIDIA's, and is looked for by its name.
        if unsafe { !driver::sys::is_culib_present() } {
            return Err(DeviceError::Library("libcuda"));
        }
        let context = CudaContext::new(ordinal).map_err(DeviceError::driver("open the device"))?;
        // SAFETY: everything is done on one stream, in order, so nothing needs events to wait for.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(DeviceError::driver("start a stream"))?;
        let module = context.load_module(Ptx::from_binary(kernels.to_vec()));
        let module = module.map_err(DeviceError::driver("load the kernels"))?;
        Ok(Self { stream, module })
    }

    /// A kernel by its name.
    pub(super) fn kernel(&self, name: &str) -> Result<Kernel, DeviceError> {
        let function = self.module.load_function(name);
        let function = function.map_err(DeviceError::driver("find a kernel"))?;
        Ok(Kernel { function, shared: 0 })
    }

    /// A kernel whose blocks share as many numbers as this.
    pub(super) fn kernel_that_shares(
        &self,
        name: &str,
        numbers: usize,
    ) -> Result<Kernel, DeviceError> {
        use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let shared = (numbers * size_of::<f32>()) as u32;
        let kernel = Kernel { shared, ..self.kernel(name)? };
        // More than 48 KiB have to be asked for.
        let asked = kernel
            .function
            .set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared as i32);
        asked.map_err(DeviceError::driver("let a block share as much memory"))?;
        Ok(kernel)
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
                Argument::Sizes(sizes) => launch.arg(sizes),
            };
        }
        let shared_mem_bytes = kernel.shared;
        let config =
            LaunchConfig { grid_dim: (x, y, z), block_dim: (threads, 1, 1), shared_mem_bytes };
        // SAFETY: the caller vouches for the arguments.
        let launched = unsafe { launch.launch(config) };
        launched.map(drop).map_err(DeviceError::driver("launch a kernel"))
    }
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Argument {
    Table(Address),
    Count(u32),
    Number(f32),
    Heads(Heads),
    Sizes(Sizes),
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

/// Sizes of the scorer's network: `Sizes` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub width: u32,
    pub text: u32,
    pub reasons: u32,
    pub features: u32,
    pub history: u32,
    pub ages: u32,
    pub kinds: u32,
    pub heads: u32,
    pub layers: u32,
    pub ffn: u32,
    pub columns: u32,
    pub head_first: u32,
    pub head_second: u32,
    pub meeting: u32,
}

// SAFETY: fourteen numbers that lie as the kernels have them.
unsafe impl DeviceRepr for Sizes {}

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
