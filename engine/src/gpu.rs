//! The GPUs of this machine: whether there is a driver, what they are, and how one is made ready to compute.

use std::ffi::CStr;

use candle_core::Device;

use crate::error::EngineError;

/// Whether this build can compute on GPUs.
pub const COMPILED: bool = cfg!(feature = "cuda");

/// The processor that computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processor {
    /// The CPU.
    Cpu,
    /// GPUs, one for every rank, from the first on.
    Cuda,
}

impl Processor {
    /// The kind of processor that a device is.
    pub(crate) fn of(device: &Device) -> Self {
        if device.is_cpu() {
            Processor::Cpu
        } else {
            Processor::Cuda
        }
    }

    /// The first device, ready to compute.
    ///
    /// # Errors
    /// [`EngineError::Device`] where there is none.
    pub(crate) fn open(self) -> Result<Device, EngineError> {
        match self {
            Processor::Cpu => Ok(Device::Cpu),
            #[cfg(feature = "cuda")]
            Processor::Cuda => open(0),
            #[cfg(not(feature = "cuda"))]
            Processor::Cuda => Err(not_compiled()),
        }
    }
}

/// The driver's library, as every program for NVIDIA GPUs asks for it.
const DRIVER: &CStr = c"libcuda.so.1";

/// Whether the driver's library can be loaded. Needs no build for GPUs: those do not even start without it.
///
/// # Errors
/// The loader's message where it cannot.
pub fn driver() -> Result<(), String> {
    // SAFETY: the name ends in a zero byte. Loading the driver's library runs no code but its own, which every program
    // on a GPU runs at its start; dlerror gives null or a string that lasts until the next call on this thread.
    unsafe {
        let library = libc::dlopen(DRIVER.as_ptr(), libc::RTLD_LAZY | libc::RTLD_LOCAL);
        if !library.is_null() {
            libc::dlclose(library);
            return Ok(());
        }
        let error = libc::dlerror();
        Err(if error.is_null() {
            "it cannot be loaded".into()
        } else {
            CStr::from_ptr(error).to_string_lossy().into_owned()
        })
    }
}

/// The predicted bytes of an open GPU's memory that the libraries take beside the tensors: code, graphs, and the
/// workspaces that grow with use. With them predictions were 3 to 4 % above what an H200 used (`docs/gpu.md`).
pub const LIBRARY_BYTES: u64 = 64 << 20;

/// A GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// `GPU-…`, as NVIDIA's tools write it.
    pub uuid: String,
    /// The generation of its code, major and minor.
    pub compute_capability: (i32, i32),
    /// Its memory, in bytes.
    pub memory: u64,
    /// Its last cache, in bytes.
    pub cache: u64,
}

#[cfg(feature = "cuda")]
mod cuda {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex, PoisonError};

    use candle_core::Device;
    use candle_core::cuda::WrapErr;
    use candle_core::cuda::cudarc::driver::sys::{
        CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE,
        CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
    };
    use candle_core::cuda::cudarc::driver::{CudaContext, DriverError, result, sys};

    use super::{EngineError, Gpu};

    pub(super) fn find(count: usize) -> Result<Vec<Gpu>, EngineError> {
        let seen = CudaContext::device_count().map_err(|error| no_device(&error))?;
        let seen = usize::try_from(seen).unwrap_or_default();
        if seen < count {
            return Err(EngineError::Device(format!(
                "{count} GPUs are asked for, {seen} can be seen (CUDA_VISIBLE_DEVICES and the pod's limits decide)"
            )));
        }
        (0..count).map(describe).collect()
    }

    /// A GPU's context, which lives as long as the process: with the last one the driver would tear down what it has
    /// set up, and threads would be left with one that is no more.
    fn context(ordinal: usize) -> Result<Arc<CudaContext>, DriverError> {
        static CONTEXTS: Mutex<BTreeMap<usize, Arc<CudaContext>>> = Mutex::new(BTreeMap::new());
        let mut contexts = CONTEXTS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(context) = contexts.get(&ordinal) {
            return Ok(Arc::clone(context));
        }
        let context = CudaContext::new(ordinal)?;
        contexts.insert(ordinal, Arc::clone(&context));
        Ok(context)
    }

    fn describe(ordinal: usize) -> Result<Gpu, EngineError> {
        let look = || -> Result<Gpu, DriverError> {
            let context = context(ordinal)?;
            let cache = context.attribute(CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?;
            Ok(Gpu {
                name: context.name()?,
                uuid: format_uuid(context.uuid()?.bytes.map(i8::cast_unsigned)),
                compute_capability: context.compute_capability()?,
                memory: context.total_mem()? as u64,
                cache: u64::try_from(cache).unwrap_or_default(),
            })
        };
        look().map_err(|error| EngineError::Device(format!("GPU {ordinal}: {error}")))
    }

    pub(super) fn format_uuid(bytes: [u8; 16]) -> String {
        let hex = |range: std::ops::Range<usize>| -> String {
            bytes[range]
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect()
        };
        let groups = [hex(0..4), hex(4..6), hex(6..8), hex(8..10), hex(10..16)];
        format!("GPU-{}", groups.join("-"))
    }

    /// A GPU ready to compute, with what candle leaves as it is:
    /// - a stream of its own, since candle's default is another one for every thread;
    /// - no events around every use of every buffer, which only several streams would need;
    /// - freed memory stays with the process, or every wait for the device would give it back to the driver.
    ///
    /// # Errors
    /// [`EngineError::Device`] where there is no such GPU.
    pub(crate) fn open(ordinal: usize) -> Result<Device, EngineError> {
        let (generation, _) = describe(ordinal)?.compute_capability;
        // candle's fast kernels for quantized weights are code of the generation that they were built for; elsewhere
        // they would not run, and not say so.
        candle_core::quantized::cuda::set_force_dmmv(generation != built_for());
        let device = Device::new_cuda_with_stream(ordinal)?;
        let cuda = device.as_cuda_device()?;
        // SAFETY: all work on this device's buffers goes through its one stream.
        unsafe { cuda.disable_event_tracking() };
        keep_freed_memory(cuda.cuda_stream().context()).w()?;
        Ok(device)
    }

    /// The generation that candle's kernels were built for: by the same variable, or else the same default, as in its
    /// build.
    fn built_for() -> i32 {
        let capability: Option<i32> =
            option_env!("CUDA_COMPUTE_CAP").and_then(|text| text.parse().ok());
        capability.unwrap_or(80) / 10
    }

    fn keep_freed_memory(context: &CudaContext) -> Result<(), DriverError> {
        if !context.has_async_alloc() {
            return Ok(());
        }
        give_back_graphs_memory(context)?;
        let mut threshold = u64::MAX;
        // SAFETY: the context is current while it is used; the attribute is 64 bits wide, and read before this returns.
        unsafe {
            let pool = result::device::get_mem_pool(context.cu_device())?;
            result::mem_pool::trim_to(pool, 0)?;
            result::mem_pool::set_attribute(
                pool,
                CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
                (&raw mut threshold).cast(),
            )
        }
    }

    /// Memory that graphs allocated stays with the device, for graphs alone, until it is asked back; and what was freed
    /// is only given back once the device is done with it.
    fn give_back_graphs_memory(context: &CudaContext) -> Result<(), DriverError> {
        context.synchronize()?;
        // SAFETY: the context is current while it is used, and nothing else is asked for.
        unsafe { sys::cuDeviceGraphMemTrim(context.cu_device()) }.result()
    }

    /// Lets other tensors have the memory of a graph that has been dropped.
    pub(crate) fn after_graph(device: &Device) -> Result<(), EngineError> {
        let stream = device.as_cuda_device()?.cuda_stream();
        Ok(give_back_graphs_memory(stream.context()).w()?)
    }

    /// Bytes of a GPU's memory that can still be had.
    pub(crate) fn available_memory(device: &Device) -> Result<u64, EngineError> {
        let stream = device.as_cuda_device()?.cuda_stream();
        let (free, _) = stream.context().mem_get_info().w()?;
        Ok(free as u64)
    }

    fn no_device(error: &DriverError) -> EngineError {
        EngineError::Device(format!("there is no GPU that can be used: {error}"))
    }
}

#[cfg(feature = "cuda")]
pub(crate) use cuda::{after_graph, available_memory, open};

/// The first `count` GPUs that this process sees.
///
/// # Errors
/// [`EngineError::Device`] where there are fewer, or this build cannot use them.
pub fn find(count: usize) -> Result<Vec<Gpu>, EngineError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    #[cfg(feature = "cuda")]
    return cuda::find(count);
    #[cfg(not(feature = "cuda"))]
    Err(not_compiled())
}

#[cfg(not(feature = "cuda"))]
pub(crate) fn not_compiled() -> EngineError {
    EngineError::Device("a GPU is asked for, but this build computes on the CPU only".into())
}

/// The first GPU for one test alone, as none may wait for a GPU while another captures a graph on it. Without a GPU it
/// prints that the test is skipped.
#[cfg(all(test, feature = "cuda"))]
pub(crate) fn for_test(test: &str) -> Option<(Device, std::sync::MutexGuard<'static, ()>)> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let alone = ALONE
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    match open(0) {
        Ok(device) => Some((device, alone)),
        Err(why) => {
            let required = std::env::var_os("INFERBENCH_REQUIRE_GPU").is_some();
            assert!(!required, "{test}: {why}");
            eprintln!("{test} skipped: {why}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "cuda")]
    #[test]
    fn uuids_are_written_as_nvidia_smi_writes_them() {
        let bytes = std::array::from_fn(|i| 16 * i as u8 + 15 - i as u8);
        assert_eq!(
            super::cuda::format_uuid(bytes),
            "GPU-0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
        );
    }

    #[test]
    fn without_a_driver_the_loader_says_so() {
        if let Err(why) = super::driver() {
            assert!(why.contains("libcuda.so.1"), "{why}");
        }
    }
}
