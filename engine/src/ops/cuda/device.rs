//! A GPU as the kernels see it: their compiled code, launches, tensors' addresses, and new tensors.

use std::cell::RefCell;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString, c_void};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda::cudarc::driver::sys::CUdevice_attribute::{
    CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
};
use candle_core::cuda::cudarc::driver::{
    CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, sys,
};
use candle_core::cuda::cudarc::nvrtc::result::{self, NvrtcError};
use candle_core::cuda::cudarc::nvrtc::{Ptx, sys as nvrtc};
use candle_core::cuda::{CudaStorageSlice, DeviceId, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Result, Shape, Storage, Tensor, bail};
use half::{bf16, f16};

use super::source::Variant;

/// A device, with the attributes and compiled kernels that launches need again and again.
pub(super) struct Kit {
    pub device: CudaDevice,
    /// Multiprocessors.
    pub processors: usize,
    /// The most bytes of shared memory that a block may have.
    pub shared: usize,
    capability: Capability,
    functions: RefCell<HashMap<(Variant, &'static str), Function>>,
}

struct Function {
    function: CudaFunction,
    /// The bytes of dynamic shared memory that it may be launched with.
    allowed: usize,
}

/// Blocks in three directions, and the threads of each.
pub(super) type Grid = ([usize; 3], usize);

/// How a kernel is launched beside its grid and its arguments.
#[derive(Clone, Copy, Default)]
pub(super) struct How {
    /// Bytes of dynamic shared memory.
    pub shared: usize,
    /// Whether it may start before the kernel before it has ended: programmatic dependent launch, from generation 9 on.
    pub overlaps: bool,
}

/// The bytes of dynamic shared memory that every kernel may be launched with.
const WITHOUT_ASKING: usize = 48 << 10;

thread_local! {
    /// Of the device that this thread computes on: every rank has a thread.
    static KIT: RefCell<Option<(DeviceId, Rc<Kit>)>> = const { RefCell::new(None) };
}

/// The kernels compiled in this process, for all threads: by generation and variant.
static COMPILED: Mutex<BTreeMap<(Capability, Variant), Vec<u8>>> = Mutex::new(BTreeMap::new());

/// The kernels on each GPU, by ordinal and variant, for as long as the process lives: a graph may launch them after the
/// tensors that they were loaded for are gone.
static LOADED: Mutex<BTreeMap<(usize, Variant), Arc<CudaModule>>> = Mutex::new(BTreeMap::new());

/// A generation of GPUs, major and minor.
type Capability = (i32, i32);

impl Kit {
    /// The kit of the device that a tensor is on; none where that is no GPU.
    pub fn of(tensor: &Tensor) -> Result<Option<Rc<Self>>> {
        let candle_core::Device::Cuda(device) = tensor.device() else {
            return Ok(None);
        };
        KIT.with_borrow_mut(|kept| {
            if let Some((id, kit)) = kept
                && *id == device.id()
            {
                return Ok(Some(Rc::clone(kit)));
            }
            let stream = device.cuda_stream();
            let context = stream.context();
            let attribute = |attribute| {
                let value = context.attribute(attribute).w()?;
                Ok::<_, candle_core::Error>(usize::try_from(value).unwrap_or_default())
            };
            let kit = Rc::new(Self {
                device: device.clone(),
                processors: attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?.max(1),
                shared: attribute(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
                capability: context.compute_capability().w()?,
                functions: RefCell::default(),
            });
            *kept = Some((device.id(), Rc::clone(&kit)));
            Ok(Some(kit))
        })
    }

    /// Launches a kernel on the device's stream.
    ///
    /// # Safety
    /// The arguments have to be those of the kernel, and what they point to as large as it takes them to be.
    pub unsafe fn launch(
        &self,
        variant: Variant,
        kernel: &'static str,
        grid: Grid,
        args: &[Arg],
    ) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.launch_as(variant, kernel, grid, args, How::default()) }
    }

    /// As [`Kit::launch`], with `shared` bytes of dynamic shared memory.
    ///
    /// # Safety
    /// As [`Kit::launch`].
    pub unsafe fn launch_shared(
        &self,
        variant: Variant,
        kernel: &'static str,
        grid: Grid,
        shared: usize,
        args: &[Arg],
    ) -> Result<()> {
        let how = How {
            shared,
            ..How::default()
        };
        // SAFETY: the caller's.
        unsafe { self.launch_as(variant, kernel, grid, args, how) }
    }

    /// As [`Kit::launch`], in any way.
    ///
    /// # Safety
    /// As [`Kit::launch`]; a kernel that overlaps has to wait by itself for the one before (`WAIT` in `kernels.cu`).
    pub unsafe fn launch_as(
        &self,
        variant: Variant,
        kernel: &'static str,
        (grid, block): Grid,
        args: &[Arg],
        how: How,
    ) -> Result<()> {
        let function = self.function(variant, kernel, how.shared)?;
        let [x, y, z] = grid.map(u32::try_from);
        let (Ok(x), Ok(y), Ok(z), Ok(block)) = (x, y, z, u32::try_from(block)) else {
            bail!("{kernel}: a grid of {grid:?} blocks of {block} threads is too large");
        };
        let mut overlaps = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue {
                programmaticStreamSerializationAllowed: 1,
            },
        };
        let stream = self.device.cuda_stream();
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: block,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: u32::try_from(how.shared).unwrap_or(u32::MAX),
            hStream: stream.cu_stream(),
            attrs: &raw mut overlaps,
            numAttrs: u32::from(how.overlaps && self.capability.0 >= 9),
        };
        let mut places: Vec<*mut c_void> = args.iter().map(Arg::place).collect();
        stream.context().bind_to_thread().w()?;
        // SAFETY: the caller's; configuration and arguments are there until the call returns.
        unsafe {
            sys::cuLaunchKernelEx(
                &raw const config,
                function,
                places.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        }
        .result()
        .w()?;
        Ok(())
    }

    /// The kernel, allowed `shared` bytes of dynamic shared memory.
    fn function(
        &self,
        variant: Variant,
        kernel: &'static str,
        shared: usize,
    ) -> Result<sys::CUfunction> {
        let mut functions = self.functions.borrow_mut();
        let Function { function, allowed } = match functions.entry((variant, kernel)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let module = module(&self.device, self.capability, variant)?;
                entry.insert(Function {
                    function: module.load_function(kernel).w()?,
                    allowed: WITHOUT_ASKING,
                })
            }
        };
        if shared > *allowed {
            let bytes = i32::try_from(shared).unwrap_or(i32::MAX);
            function
                .set_attribute(
                    sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    bytes,
                )
                .w()?;
            *allowed = shared;
        }
        Ok(function.cu_function())
    }

    /// A tensor whose elements are not set.
    pub fn empty(&self, shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
        let shape = shape.into();
        let count = shape.elem_count();
        // SAFETY: every caller has a kernel write all of it before anything reads it.
        let slice = unsafe {
            match dtype {
                DType::F32 => CudaStorageSlice::F32(self.device.alloc::<f32>(count)?),
                DType::BF16 => CudaStorageSlice::BF16(self.device.alloc::<bf16>(count)?),
                DType::F16 => CudaStorageSlice::F16(self.device.alloc::<f16>(count)?),
                DType::U32 => CudaStorageSlice::U32(self.device.alloc::<u32>(count)?),
                other => bail!("no kernel makes a tensor of {other:?}"),
            }
        };
        let storage = Storage::Cuda(CudaStorage {
            slice,
            device: self.device.clone(),
        });
        Ok(Tensor::from_storage(
            storage,
            shape,
            BackpropOp::none(),
            false,
        ))
    }
}

fn module(
    device: &CudaDevice,
    capability: Capability,
    variant: Variant,
) -> Result<Arc<CudaModule>> {
    let stream = device.cuda_stream();
    let context = stream.context();
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let key = (context.ordinal(), variant);
    if let Some(module) = loaded.get(&key) {
        return Ok(Arc::clone(module));
    }
    let code = Ptx::from_binary(compiled(capability, variant)?);
    let module = context.load_module(code).w()?;
    loaded.insert(key, Arc::clone(&module));
    Ok(module)
}

fn compiled(capability: Capability, variant: Variant) -> Result<Vec<u8>> {
    // Nothing panics while it holds the lock, so that a poisoned one is as good as any.
    let mut all = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(code) = all.get(&(capability, variant)) {
        return Ok(code.clone());
    }
    let (major, minor) = capability;
    let mut options = variant.definitions();
    options.push(format!("--gpu-architecture=sm_{major}{minor}"));
    let code = machine_code(variant.source(), &options)?;
    all.insert((capability, variant), code.clone());
    Ok(code)
}

/// The kernels as code of one generation of GPUs: PTX would ask for a driver that is as new as the compiler.
fn machine_code(source: &str, options: &[String]) -> Result<Vec<u8>> {
    let failed = |error: NvrtcError, log: &str| {
        candle_core::Error::msg(format!(
            "NVRTC cannot compile the kernels with {options:?}: {error:?} {log}"
        ))
    };
    let source = CString::new(source).map_err(candle_core::Error::wrap)?;
    let program =
        result::create_program(&source, Some(c"kernels.cu")).map_err(|error| failed(error, ""))?;
    // SAFETY: the program is there until it is destroyed, source and name with it; the code is as large as is said
    // before, and the log ends in a zero byte.
    unsafe {
        let code = result::compile_program(program, options).and_then(|()| {
            let mut size = 0;
            nvrtc::nvrtcGetCUBINSize(program, &raw mut size).result()?;
            let mut code = vec![0u8; size];
            nvrtc::nvrtcGetCUBIN(program, code.as_mut_ptr().cast()).result()?;
            Ok(code)
        });
        let code = code.map_err(|error| {
            let log = result::get_program_log(program).unwrap_or_default();
            let text = log.first().map(|first| CStr::from_ptr(first));
            failed(error, &text.unwrap_or_default().to_string_lossy())
        });
        let _ = result::destroy_program(program);
        code
    }
}

/// An argument of a kernel.
pub(super) enum Arg {
    /// Where a tensor begins; 0 for none.
    At(u64),
    Int(i32),
    Long(i64),
    Float(f32),
}

impl Arg {
    /// Where it lies, as a launch wants to know.
    fn place(&self) -> *mut c_void {
        match self {
            Self::At(pointer) => std::ptr::from_ref(pointer).cast_mut().cast(),
            Self::Int(value) => std::ptr::from_ref(value).cast_mut().cast(),
            Self::Long(value) => std::ptr::from_ref(value).cast_mut().cast(),
            Self::Float(value) => std::ptr::from_ref(value).cast_mut().cast(),
        }
    }

    /// A size or a count.
    pub fn int(value: usize) -> Result<Self> {
        match i32::try_from(value) {
            Ok(value) => Ok(Self::Int(value)),
            Err(_) => bail!("{value} is too large for a kernel"),
        }
    }

    /// A tensor that may be missing.
    pub fn maybe(tensor: Option<&Tensor>) -> Result<Self> {
        tensor.map_or(Ok(Self::At(0)), Self::of)
    }

    /// Where the first element of a tensor lies.
    pub fn of(tensor: &Tensor) -> Result<Self> {
        Ok(Self::At(address(tensor)?))
    }
}

/// Where the first element of a tensor lies.
pub(super) fn address(tensor: &Tensor) -> Result<u64> {
    fn first<T>(slice: &CudaSlice<T>, stream: &CudaStream, offset: usize) -> u64 {
        // Events are off: there is nothing to record when the guard goes.
        let (start, _guard) = slice.device_ptr(stream);
        start + (offset * size_of::<T>()) as u64
    }
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        bail!("a kernel for the GPU was given a tensor elsewhere");
    };
    let (stream, offset) = (storage.device.cuda_stream(), layout.start_offset());
    Ok(match &storage.slice {
        CudaStorageSlice::F32(slice) => first(slice, &stream, offset),
        CudaStorageSlice::BF16(slice) => first(slice, &stream, offset),
        CudaStorageSlice::F16(slice) => first(slice, &stream, offset),
        CudaStorageSlice::U32(slice) => first(slice, &stream, offset),
        _ => bail!("no kernel takes a tensor of {:?}", tensor.dtype()),
    })
}

/// Whether all are dense and of this type, as kernels read them.
pub(super) fn dense(tensors: &[&Tensor], dtype: DType) -> bool {
    tensors
        .iter()
        .all(|t| t.dtype() == dtype && t.is_contiguous() && t.elem_count() > 0)
}
