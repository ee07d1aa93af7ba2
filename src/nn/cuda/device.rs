//! The device: its libraries, its kernels, and memory on it.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use super::interface::{Arguments, DevicePtr, Packed, Role};
use cudarc::cublaslt::{result::CublasError, sys as blas};
use cudarc::driver::{
    self, CudaContext, CudaFunction, CudaGraph, CudaModule, CudaSlice, CudaStream, DevicePtr as _,
    DeviceRepr, DriverError, ValidAsZeroBits, sys,
};
use cudarc::nvrtc::Ptx;
use half::bf16;
use std::fmt;
use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;

/// The kernels, for the architectures that `build.rs` compiles them for.
pub(super) const DECODER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/decoder.fatbin"));
pub(super) const SCORER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/scorer.fatbin"));

/// A GPU, and a stream on which kernels run one after the other.
#[derive(Debug)]
pub struct Device {
    pub(super) stream: Arc<CudaStream>,
    module: Arc<CudaModule>,
}

/// Numbers of one role on a device.
pub(super) struct DeviceBuffer<R: Role> {
    memory: CudaSlice<R::Number>,
}

/// A kernel that is launched with the arguments `A`.
#[derive(Debug)]
pub(super) struct Kernel<A> {
    function: CudaFunction,
    /// Bytes of a block's dynamic shared memory.
    shared_bytes: u32,
    arguments: PhantomData<A>,
}

/// Captured launches that are replayed by one call, with the same arguments. They read what is then stored at the
/// addresses among these.
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
        /// The refused request.
        what: &'static str,
        /// The driver's error.
        source: DriverError,
    },
    /// cuBLAS refused.
    #[error("cuBLAS refused to {what}")]
    Blas {
        /// The refused request.
        what: &'static str,
        /// cuBLAS's error.
        source: CublasError,
    },
    /// A pass requests more outputs than its buffers hold.
    #[error("a pass has room for {capacity} {what}, and {requested} are requested")]
    Capacity {
        /// The kind of output.
        what: &'static str,
        /// Outputs requested.
        requested: usize,
        /// Outputs that the buffers hold.
        capacity: usize,
    },
}

// === impl CudaError ===

impl CudaError {
    /// Whether memory ran out, so that a smaller pass may succeed.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Driver { source, .. } => source.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY,
            Self::Blas { source, .. } => {
                source.0 == blas::cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED
            }
            Self::Capacity { .. } => true,
            Self::Library(_) => false,
        }
    }

    /// Whether the device is lost to this process: every later call fails.
    pub fn is_lost(&self) -> bool {
        use sys::CUresult as Code;
        let Self::Driver { source, .. } = self else { return false };
        matches!(
            source.0,
            Code::CUDA_ERROR_DEINITIALIZED
                | Code::CUDA_ERROR_DEVICE_UNAVAILABLE
                | Code::CUDA_ERROR_NO_DEVICE
                | Code::CUDA_ERROR_ECC_UNCORRECTABLE
                | Code::CUDA_ERROR_NVLINK_UNCORRECTABLE
                | Code::CUDA_ERROR_ILLEGAL_ADDRESS
                | Code::CUDA_ERROR_LAUNCH_TIMEOUT
                | Code::CUDA_ERROR_CONTEXT_IS_DESTROYED
                | Code::CUDA_ERROR_ASSERT
                | Code::CUDA_ERROR_HARDWARE_STACK_ERROR
                | Code::CUDA_ERROR_ILLEGAL_INSTRUCTION
                | Code::CUDA_ERROR_MISALIGNED_ADDRESS
                | Code::CUDA_ERROR_INVALID_ADDRESS_SPACE
                | Code::CUDA_ERROR_INVALID_PC
                | Code::CUDA_ERROR_LAUNCH_FAILED
                | Code::CUDA_ERROR_CONTAINED
                | Code::CUDA_ERROR_EXTERNAL_DEVICE
                | Code::CUDA_ERROR_UNKNOWN
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

    /// The kernel with these arguments.
    pub(super) fn kernel<A: Arguments>(&self) -> Result<Kernel<A>, CudaError> {
        self.variant(0, "")
    }

    /// A variant of the kernel by its number in [`Arguments::NAMES`]. `shape` replaces `DIM_GROUP` in its name.
    pub(super) fn variant<A: Arguments>(
        &self,
        variant: usize,
        shape: &str,
    ) -> Result<Kernel<A>, CudaError> {
        let function = self.module.load_function(&A::NAMES[variant].replace("DIM_GROUP", shape));
        let function = function.map_err(CudaError::driver("find a kernel"))?;
        Ok(Kernel { function, shared_bytes: 0, arguments: PhantomData })
    }

    /// A buffer of zeros.
    pub(super) fn zeroed<R>(&self, count: usize) -> Result<DeviceBuffer<R>, CudaError>
    where
        R: Role<Number: DeviceRepr + ValidAsZeroBits>,
    {
        // The driver refuses to allocate no bytes.
        let memory = self.stream.alloc_zeros(count.max(1));
        Ok(DeviceBuffer { memory: memory.map_err(CudaError::driver("allocate memory"))? })
    }

    /// A buffer with these numbers.
    pub(super) fn upload<R>(&self, values: &[R::Number]) -> Result<DeviceBuffer<R>, CudaError>
    where
        R: Role<Number: DeviceRepr + ValidAsZeroBits>,
    {
        let mut buffer = self.zeroed(values.len())?;
        self.write(&mut buffer, 0, values)?;
        // The host's numbers must stay until they are copied.
        self.wait()?;
        Ok(buffer)
    }

    /// Writes numbers into a buffer, from an index on.
    pub(super) fn write<R: Role<Number: DeviceRepr>>(
        &self,
        buffer: &mut DeviceBuffer<R>,
        from: usize,
        values: &[R::Number],
    ) -> Result<(), CudaError> {
        let mut to = buffer.memory.slice_mut(from..from + values.len());
        let written = self.stream.memcpy_htod(values, &mut to);
        written.map_err(CudaError::driver("copy to the device"))
    }

    /// Writes the bytes of a mapped file into a buffer, from an index on, without a copy on the host.
    pub(super) fn write_bytes<R: Role<Number: DeviceRepr>>(
        &self,
        buffer: &mut DeviceBuffer<R>,
        from: usize,
        bytes: &[u8],
    ) -> Result<(), CudaError> {
        let count = bytes.len() / size_of::<R::Number>();
        let mut to = buffer.memory.slice_mut(from..from + count);
        // SAFETY: the slice holds as many bytes as are written, and any bits are numbers to a device.
        let to = unsafe { to.transmute_mut::<u8>(count * size_of::<R::Number>()) };
        let mut to = to.expect("a slice holds its own bytes");
        let written = self.stream.memcpy_htod(bytes, &mut to);
        written.map_err(CudaError::driver("copy to the device"))
    }

    /// Sets all numbers of a buffer to zero.
    pub(super) fn clear<R: Role<Number: DeviceRepr + ValidAsZeroBits>>(
        &self,
        buffer: &mut DeviceBuffer<R>,
    ) -> Result<(), CudaError> {
        let cleared = self.stream.memset_zeros(&mut buffer.memory);
        cleared.map_err(CudaError::driver("clear memory"))
    }

    /// Bytes of free memory.
    pub(super) fn free(&self) -> Result<usize, CudaError> {
        let info = self.stream.context().mem_get_info();
        Ok(info.map_err(CudaError::driver("count its memory"))?.0)
    }

    /// Captures launches instead of running them. Nothing else may be requested of the device meanwhile.
    pub(super) fn capture(
        &self,
        launches: impl FnOnce() -> Result<(), CudaError>,
    ) -> Result<Graph, CudaError> {
        // Other threads may use this device for another model during the capture.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(CudaError::driver("begin to capture"))?;
        let launched = launches();
        // A capture has to end even if a launch failed.
        let ended = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        launched?;
        let graph = ended.map_err(CudaError::driver("instantiate a graph"))?;
        let nothing = DriverError(sys::CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        let graph = graph.ok_or(nothing).map_err(CudaError::driver("capture launches"))?;
        graph.upload().map_err(CudaError::driver("upload a graph"))?;
        Ok(Graph { graph })
    }

    /// Reads the first numbers of a buffer. They are there after [`Device::wait`].
    pub(super) fn read<R: Role<Number: DeviceRepr>>(
        &self,
        buffer: &DeviceBuffer<R>,
        values: &mut [R::Number],
    ) -> Result<(), CudaError> {
        let from = buffer.memory.slice(..values.len());
        let read = self.stream.memcpy_dtoh(&from, values);
        read.map_err(CudaError::driver("copy from the device"))
    }

    /// Waits until all launches have finished.
    pub(super) fn wait(&self) -> Result<(), CudaError> {
        self.stream.synchronize().map_err(CudaError::driver("synchronise"))
    }

    /// Launches a kernel. It may start while the previous kernel still runs (programmatic dependent launch): every kernel
    /// waits for that itself, before it reads or writes anything that another kernel writes.
    ///
    /// # Safety
    ///
    /// Every pointer must lead to as many numbers as the kernel reads or writes with these counts and this grid.
    pub(super) unsafe fn launch<A: Arguments>(
        &self,
        kernel: &Kernel<A>,
        grid: [usize; 3],
        threads: u32,
        arguments: &A,
    ) -> Result<(), CudaError> {
        let [x, y, z] = grid.map(|blocks| blocks as u32);
        if x * y * z == 0 {
            return Ok(());
        }
        let mut addresses = arguments.addresses();
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
            sharedMemBytes: kernel.shared_bytes,
            hStream: self.stream.cu_stream(),
            attrs: &raw mut early,
            numAttrs: 1,
        };
        let function = kernel.function.cu_function();
        // SAFETY: the kernel's type says that these are its arguments, which are copied before the call returns. The caller
        // vouches for the pointers.
        let launched = unsafe {
            sys::cuLaunchKernelEx(
                &raw const config,
                function,
                addresses.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        launched.result().map_err(CudaError::driver("launch a kernel"))
    }
}

// === impl Kernel ===

impl<A> Kernel<A> {
    /// The same kernel with so many bytes of dynamic shared memory for each block.
    pub fn with_shared(self, bytes: usize) -> Result<Self, CudaError> {
        use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let shared_bytes = bytes as u32;
        // More than 48 KiB have to be requested.
        let set = self
            .function
            .set_attribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes as i32);
        set.map_err(CudaError::driver("let a block share as much memory"))?;
        Ok(Self { shared_bytes, ..self })
    }
}

// === impl Graph ===

impl Graph {
    /// Launches the captured kernels again, on the stream of their device.
    pub fn replay(&self) -> Result<(), CudaError> {
        self.graph.launch().map_err(CudaError::driver("launch a graph"))
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Graph").finish_non_exhaustive()
    }
}

// === impl DeviceBuffer ===

impl<R: Role> DeviceBuffer<R> {
    /// How many numbers it holds.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// The address of a number.
    pub fn at(&self, number: usize) -> DevicePtr<R> {
        let (address, _) = self.memory.device_ptr(self.memory.stream());
        DevicePtr::new(address).from(number)
    }

    /// The address of the first number; null, if there is no buffer.
    pub fn or_null(buffer: Option<&Self>) -> DevicePtr<R> {
        buffer.map_or(DevicePtr::NULL, |buffer| buffer.at(0))
    }

    /// The same numbers in another role.
    pub fn into_role<S: Role<Number = R::Number>>(self) -> DeviceBuffer<S> {
        DeviceBuffer { memory: self.memory }
    }
}

impl<R: Role<Number = bf16>> DeviceBuffer<R> {
    /// The same memory as numbers of a dtype that is bf16.
    pub fn into_packed(self) -> DeviceBuffer<Packed> {
        let bytes = self.len() * size_of::<bf16>();
        let stream = self.memory.stream().clone();
        // SAFETY: all of the buffer's memory goes to the new one, and any bits are bytes.
        let memory = unsafe { stream.upgrade_device_ptr(self.memory.leak(), bytes) };
        DeviceBuffer { memory }
    }
}

impl<R: Role> fmt::Debug for DeviceBuffer<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceBuffer").field("len", &self.len()).finish_non_exhaustive()
    }
}
