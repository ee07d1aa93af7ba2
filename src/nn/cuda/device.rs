//! The device: its libraries, its kernels, and memory on it.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use cudarc::cublaslt::{result::CublasError, sys as blas};
use cudarc::driver::{
    self, CudaContext, CudaFunction, CudaGraph, CudaModule, CudaSlice, CudaStream, DeviceRepr,
    DriverError, sys,
};
use cudarc::nvrtc::Ptx;
use std::ffi::c_void;
use std::fmt;
use std::ptr;
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

/// Launches that were captured, to be done again all at once: with the same arguments, over whatever then lies at
/// the addresses among them.
pub(super) struct Graph {
    graph: CudaGraph,
}

/// Why a device can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
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
    /// More is wanted of a pass than there is room for.
    #[error("a pass has room for {room} {what}, and {wanted} are wanted")]
    Room {
        /// Of what.
        what: &'static str,
        /// How many are wanted.
        wanted: usize,
        /// How many there is room for.
        room: usize,
    },
}

// === impl CudaError ===

impl CudaError {
    /// Whether there was too little memory, so that less of the same may go well.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Driver { source, .. } => source.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY,
            Self::Blas { source, .. } => {
                source.0 == blas::cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED
            }
            Self::Room { .. } => true,
            Self::Library(_) => false,
        }
    }

    /// Whether the device is lost to this process: whatever is asked of it from now on fails.
    pub fn is_lost(&self) -> bool {
        use sys::CUresult as Said;
        let Self::Driver { source, .. } = self else { return false };
        matches!(
            source.0,
            Said::CUDA_ERROR_DEINITIALIZED
                | Said::CUDA_ERROR_DEVICE_UNAVAILABLE
                | Said::CUDA_ERROR_NO_DEVICE
                | Said::CUDA_ERROR_ECC_UNCORRECTABLE
                | Said::CUDA_ERROR_NVLINK_UNCORRECTABLE
                | Said::CUDA_ERROR_ILLEGAL_ADDRESS
                | Said::CUDA_ERROR_LAUNCH_TIMEOUT
                | Said::CUDA_ERROR_CONTEXT_IS_DESTROYED
                | Said::CUDA_ERROR_ASSERT
                | Said::CUDA_ERROR_HARDWARE_STACK_ERROR
                | Said::CUDA_ERROR_ILLEGAL_INSTRUCTION
                | Said::CUDA_ERROR_MISALIGNED_ADDRESS
                | Said::CUDA_ERROR_INVALID_ADDRESS_SPACE
                | Said::CUDA_ERROR_INVALID_PC
                | Said::CUDA_ERROR_LAUNCH_FAILED
                | Said::CUDA_ERROR_CONTAINED
                | Said::CUDA_ERROR_EXTERNAL_DEVICE
                | Said::CUDA_ERROR_UNKNOWN
        )
    }

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
    pub(super) fn open(ordinal: usize, kernels: &[u8]) -> Result<Self, CudaError> {
        // SAFETY: the library is NVIDIA's, and is looked for by its name.
        if unsafe { !driver::sys::is_culib_present() } {
            return Err(CudaError::Library("libcuda"));
        }
        let context = CudaContext::new(ordinal).map_err(CudaError::driver("open the device"))?;
        // SAFETY: everything is done on one stream, in order, so nothing needs events to wait for.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(CudaError::driver("start a stream"))?;
        let module = context.load_module(Ptx::from_binary(kernels.to_vec()));
        let module = module.map_err(CudaError::driver("load the kernels"))?;
        Ok(Self { stream, module })
    }

    /// A kernel by its name.
    pub(super) fn kernel(&self, name: &str) -> Result<Kernel, CudaError> {
        let function = self.module.load_function(name);
        let function = function.map_err(CudaError::driver("find a kernel"))?;
        Ok(Kernel { function, shared: 0 })
    }

    /// A kernel whose blocks share as many numbers as this.
    pub(super) fn kernel_that_shares(
        &self,
        name: &str,
        numbers: usize,
    ) -> Result<Kernel, CudaError> {
        use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let shared = (numbers * size_of::<f32>()) as u32;
        let kernel = Kernel { shared, ..self.kernel(name)? };
        // More than 48 KiB have to be asked for.
        let asked = kernel
            .function
            .set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared as i32);
        asked.map_err(CudaError::driver("let a block share as much memory"))?;
        Ok(kernel)
    }

    /// Room for numbers, all zero.
    pub(super) fn zeroed<T: DeviceRepr + driver::ValidAsZeroBits>(
        &self,
        count: usize,
    ) -> Result<Table<T>, CudaError> {
        Table::zeroed(&self.stream, count)
    }

    /// Writes numbers into a table, from a place on.
    pub(super) fn write<T: DeviceRepr>(
        &self,
        table: &mut Table<T>,
        from: usize,
        values: &[T],
    ) -> Result<(), CudaError> {
        let mut place = table.memory.slice_mut(from..from + values.len());
        let written = self.stream.memcpy_htod(values, &mut place);
        written.map_err(CudaError::driver("copy to the device"))
    }

    /// Writes numbers of a file, as they lie there, into a table from a place on. They are read where they are, and
    /// none is kept on the way.
    pub(super) fn write_bytes<T: DeviceRepr>(
        &self,
        table: &mut Table<T>,
        from: usize,
        bytes: &[u8],
    ) -> Result<(), CudaError> {
        let count = bytes.len() / size_of::<T>();
        let mut place = table.memory.slice_mut(from..from + count);
        // SAFETY: the place holds as many bytes as are written, and any bits are numbers to a device.
        let place = unsafe { place.transmute_mut::<u8>(count * size_of::<T>()) };
        let mut place = place.expect("a place holds its own bytes");
        let written = self.stream.memcpy_htod(bytes, &mut place);
        written.map_err(CudaError::driver("copy to the device"))
    }

    /// Makes all numbers of a table zero.
    pub(super) fn clear<T: DeviceRepr + driver::ValidAsZeroBits>(
        &self,
        table: &mut Table<T>,
    ) -> Result<(), CudaError> {
        let cleared = self.stream.memset_zeros(&mut table.memory);
        cleared.map_err(CudaError::driver("clear memory"))
    }

    /// Bytes of memory that nobody has taken.
    pub(super) fn free(&self) -> Result<usize, CudaError> {
        let info = self.stream.context().mem_get_info();
        Ok(info.map_err(CudaError::driver("count its memory"))?.0)
    }

    /// Captures what is launched, in place of doing it. Nothing else may be asked of the device meanwhile.
    pub(super) fn capture(
        &self,
        launches: impl FnOnce() -> Result<(), CudaError>,
    ) -> Result<Graph, CudaError> {
        // Other threads may serve another model on this device while this one is captured.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(CudaError::driver("begin to capture"))?;
        let launched = launches();
        // What was begun is ended, whatever came of it.
        let ended = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        launched?;
        let graph = ended.map_err(CudaError::driver("instantiate a graph"))?;
        let nothing = DriverError(sys::CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        let graph = graph.ok_or(nothing).map_err(CudaError::driver("capture launches"))?;
        graph.upload().map_err(CudaError::driver("upload a graph"))?;
        Ok(Graph { graph })
    }

    /// Reads the first numbers of a table, once [`Device::wait`] is over.
    pub(super) fn read<T: DeviceRepr>(
        &self,
        table: &Table<T>,
        values: &mut [T],
    ) -> Result<(), CudaError> {
        let place = table.memory.slice(..values.len());
        let read = self.stream.memcpy_dtoh(&place, values);
        read.map_err(CudaError::driver("copy from the device"))
    }

    /// Waits until all that was launched is done.
    pub(super) fn wait(&self) -> Result<(), CudaError> {
        self.stream.synchronize().map_err(CudaError::driver("come to an end"))
    }

    /// Launches a kernel with these arguments. It may be brought onto the device while the one before is still at
    /// work: every kernel waits for that by itself, before it reads or writes anything that a kernel writes.
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
    ) -> Result<(), CudaError> {
        let [x, y, z] = grid.map(|blocks| blocks as u32);
        if x * y * z == 0 {
            return Ok(());
        }
        let mut places = [ptr::null_mut(); ARGUMENTS_MAX];
        for (place, argument) in places[..arguments.len()].iter_mut().zip(arguments) {
            *place = argument.place();
        }
        let mut early = sys::CUlaunchAttribute_st {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig_st {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: kernel.shared,
            hStream: self.stream.cu_stream(),
            attrs: &raw mut early,
            numAttrs: 1,
        };
        let function = kernel.function.cu_function();
        // SAFETY: the caller vouches for the arguments, which are read before the call is over.
        let launched = unsafe {
            sys::cuLaunchKernelEx(&raw const config, function, places.as_mut_ptr(), ptr::null_mut())
        };
        launched.result().map_err(CudaError::driver("launch a kernel"))
    }
}

// === impl Graph ===

impl Graph {
    /// Launches again what was captured, on the stream of its device.
    pub fn replay(&self) -> Result<(), CudaError> {
        self.graph.launch().map_err(CudaError::driver("launch a graph"))
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Graph").finish_non_exhaustive()
    }
}

/// Arguments of a kernel, at most.
const ARGUMENTS_MAX: usize = 20;

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Argument {
    Table(Address),
    Count(u32),
    Number(f32),
    Product(Product),
    Heads(Heads),
    Sizes(Sizes),
    Sequences(Sequences),
}

// === impl Argument ===

impl Argument {
    /// Where the argument itself lies.
    fn place(&self) -> *mut c_void {
        let place: *const c_void = match self {
            Self::Table(address) => ptr::from_ref(address).cast(),
            Self::Count(count) => ptr::from_ref(count).cast(),
            Self::Number(number) => ptr::from_ref(number).cast(),
            Self::Product(product) => ptr::from_ref(product).cast(),
            Self::Heads(heads) => ptr::from_ref(heads).cast(),
            Self::Sizes(sizes) => ptr::from_ref(sizes).cast(),
            Self::Sequences(sequences) => ptr::from_ref(sequences).cast(),
        };
        place.cast_mut()
    }
}

/// What a product came to: `Product` of the kernels. What there is none of is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Product {
    pub sums: Address,
    pub bias: Address,
    pub row_scales: Address,
    pub column_scales: Address,
    /// Whether sums are integers.
    pub integers: bool,
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

/// How the heads of a batch lie that is trained on: `Sequences` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Sequences {
    pub heads: u32,
    pub kv_heads: u32,
    pub dim: u32,
    pub length: u32,
}

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

// === impl Table ===

impl<T: DeviceRepr> Table<T> {
    fn zeroed(stream: &Arc<CudaStream>, count: usize) -> Result<Self, CudaError>
    where
        T: driver::ValidAsZeroBits,
    {
        // The driver gives no memory of no bytes.
        let memory = stream.alloc_zeros(count.max(1));
        Ok(Self { memory: memory.map_err(CudaError::driver("take memory"))? })
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

    /// The same memory, byte by byte.
    pub fn into_bytes(self) -> Table<u8>
    where
        T: DeviceRepr,
    {
        let bytes = self.len() * size_of::<T>();
        let stream = self.memory.stream().clone();
        // SAFETY: all of a table's memory goes to the new one, and any bits are bytes.
        let memory = unsafe { stream.upgrade_device_ptr(self.memory.leak(), bytes) };
        Table { memory }
    }

    /// The address of a number.
    pub fn at(&self, place: usize) -> Address {
        use cudarc::driver::DevicePtr as _;
        let (address, _) = self.memory.device_ptr(self.memory.stream());
        address + (place * size_of::<T>()) as Address
    }
}
