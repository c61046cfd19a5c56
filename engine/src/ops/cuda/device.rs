//! A GPU as the kernels see it: their compiled code, launches, tensors' addresses, and new tensors.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::cuda::cudarc::driver::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
use candle_core::cuda::cudarc::driver::{
    CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda::cudarc::nvrtc::result::{self, NvrtcError};
use candle_core::cuda::cudarc::nvrtc::{Ptx, sys};
use candle_core::cuda::{CudaStorageSlice, DeviceId, WrapErr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Result, Shape, Storage, Tensor, bail};
use half::{bf16, f16};

use super::source::{SOURCE, Variant};

/// A device, with the attributes and compiled kernels that launches need again and again.
pub(super) struct Kit {
    pub device: CudaDevice,
    /// Multiprocessors.
    pub processors: usize,
    capability: Capability,
    modules: RefCell<HashMap<Variant, Arc<CudaModule>>>,
    functions: RefCell<HashMap<(Variant, &'static str), CudaFunction>>,
}

thread_local! {
    /// Of the device that this thread computes on: every rank has a thread.
    static KIT: RefCell<Option<(DeviceId, Rc<Kit>)>> = const { RefCell::new(None) };
}

/// The kernels compiled in this process, for all threads: by generation and variant.
static COMPILED: Mutex<BTreeMap<(Capability, Variant), Vec<u8>>> = Mutex::new(BTreeMap::new());

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
            let processors = context
                .attribute(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
                .w()?;
            let kit = Rc::new(Self {
                device: device.clone(),
                processors: usize::try_from(processors).unwrap_or(1),
                capability: context.compute_capability().w()?,
                modules: RefCell::default(),
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
        (grid, block): ([usize; 3], usize),
        args: &[Arg],
    ) -> Result<()> {
        let function = self.function(variant, kernel)?;
        let stream = self.device.cuda_stream();
        let mut builder = stream.launch_builder(&function);
        for arg in args {
            match arg {
                Arg::At(pointer) => builder.arg(pointer),
                Arg::Int(value) => builder.arg(value),
                Arg::Long(value) => builder.arg(value),
                Arg::Float(value) => builder.arg(value),
            };
        }
        let [x, y, z] = grid.map(u32::try_from);
        let (Ok(x), Ok(y), Ok(z), Ok(block)) = (x, y, z, u32::try_from(block)) else {
            bail!("{kernel}: a grid of {grid:?} blocks of {block} threads is too large");
        };
        let config = LaunchConfig {
            grid_dim: (x, y, z),
            block_dim: (block, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the caller's.
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }

    fn function(&self, variant: Variant, kernel: &'static str) -> Result<CudaFunction> {
        let mut functions = self.functions.borrow_mut();
        if let Some(function) = functions.get(&(variant, kernel)) {
            return Ok(function.clone());
        }
        let function = self.module(variant)?.load_function(kernel).w()?;
        functions.insert((variant, kernel), function.clone());
        Ok(function)
    }

    fn module(&self, variant: Variant) -> Result<Arc<CudaModule>> {
        let mut modules = self.modules.borrow_mut();
        if let Some(module) = modules.get(&variant) {
            return Ok(Arc::clone(module));
        }
        let code = Ptx::from_binary(compiled(self.capability, variant)?);
        let module = self.device.cuda_stream().context().load_module(code).w()?;
        modules.insert(variant, Arc::clone(&module));
        Ok(module)
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

fn compiled(capability: Capability, variant: Variant) -> Result<Vec<u8>> {
    // Nothing panics while it holds the lock, so that a poisoned one is as good as any.
    let mut all = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(code) = all.get(&(capability, variant)) {
        return Ok(code.clone());
    }
    let (major, minor) = capability;
    let mut options = variant.definitions();
    options.push(format!("--gpu-architecture=sm_{major}{minor}"));
    let code = machine_code(&options)?;
    all.insert((capability, variant), code.clone());
    Ok(code)
}

/// The kernels as code of one generation of GPUs: PTX would ask for a driver that is as new as the compiler.
fn machine_code(options: &[String]) -> Result<Vec<u8>> {
    let failed = |error: NvrtcError, log: &str| {
        candle_core::Error::msg(format!(
            "NVRTC cannot compile the kernels with {options:?}: {error:?} {log}"
        ))
    };
    let source = CString::new(SOURCE).map_err(candle_core::Error::wrap)?;
    let program =
        result::create_program(&source, Some(c"kernels.cu")).map_err(|error| failed(error, ""))?;
    // SAFETY: the program is there until it is destroyed, source and name with it; the code is as large as is said
    // before, and the log ends in a zero byte.
    unsafe {
        let code = result::compile_program(program, options).and_then(|()| {
            let mut size = 0;
            sys::nvrtcGetCUBINSize(program, &raw mut size).result()?;
            let mut code = vec![0u8; size];
            sys::nvrtcGetCUBIN(program, code.as_mut_ptr().cast()).result()?;
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
        Ok(Self::At(match &storage.slice {
            CudaStorageSlice::F32(slice) => first(slice, &stream, offset),
            CudaStorageSlice::BF16(slice) => first(slice, &stream, offset),
            CudaStorageSlice::F16(slice) => first(slice, &stream, offset),
            CudaStorageSlice::U32(slice) => first(slice, &stream, offset),
            _ => bail!("no kernel takes a tensor of {:?}", tensor.dtype()),
        }))
    }
}

/// Whether all are dense and of this type, as kernels read them.
pub(super) fn dense(tensors: &[&Tensor], dtype: DType) -> bool {
    tensors
        .iter()
        .all(|t| t.dtype() == dtype && t.is_contiguous() && t.elem_count() > 0)
}
