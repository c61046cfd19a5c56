//! Collective operations among ranks on several GPUs, by NCCL. It has run with one rank, with graphs and without; never
//! with several, as machines with several GPUs have been out of reach.
//!
//! Unlike [`crate::comm::LocalComm`], a rank that fails leaves the others waiting: [`crate::group`] leaves them behind.

use candle_core::cuda::CudaStorageSlice;
use candle_core::cuda::cudarc::driver::{CudaSlice, DeviceRepr};
use candle_core::cuda::cudarc::nccl::{Comm, Id, NcclType, ReduceOp, result::NcclError};
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, CustomOp1, Layout, Result, Shape, Tensor, bail,
};

use crate::comm::{Communicator, Join};
use crate::error::EngineError;
use crate::gpu;

/// One rank of a group in which each has a GPU. It sums in the tensors' own type and in NCCL's order, the same bits on
/// every rank.
struct NcclComm(Comm);

// SAFETY: NCCL lets a communicator be used by any thread, but by one at a time; this one has one owner.
unsafe impl Send for NcclComm {}

/// A GPU and a communicator for each rank, made on the rank's thread: NCCL waits there until all have come.
pub(crate) fn joins(world: usize) -> std::result::Result<Vec<Join>, EngineError> {
    gpu::find(world)?;
    let failed = |error: NcclError| EngineError::Device(format!("NCCL: {error:?}"));
    let id = Id::new().map_err(failed)?;
    let join = |rank: usize| {
        Box::new(move || {
            let device = gpu::open(rank)?;
            let stream = device.as_cuda_device()?.cuda_stream();
            let comm = Comm::from_rank(stream, rank, world, id).map_err(failed)?;
            Ok((device, Box::new(NcclComm(comm)) as Box<dyn Communicator>))
        }) as Join
    };
    Ok((0..world).map(join).collect())
}

impl Communicator for NcclComm {
    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn world(&self) -> usize {
        self.0.world_size()
    }

    fn all_reduce_sum(&self, tensor: &Tensor) -> Result<Tensor> {
        tensor.contiguous()?.apply_op1_no_bwd(&Collective {
            comm: &self.0,
            gathers: false,
        })
    }

    fn all_gather(&self, tensor: &Tensor) -> Result<Tensor> {
        tensor.contiguous()?.apply_op1_no_bwd(&Collective {
            comm: &self.0,
            gathers: true,
        })
    }
}

/// A collective operation, as candle lets one make a new tensor.
struct Collective<'a> {
    comm: &'a Comm,
    /// Every rank's elements one after the other, rather than their sums.
    gathers: bool,
}

impl Collective<'_> {
    fn of<T: NcclType + DeviceRepr>(
        &self,
        slice: &CudaSlice<T>,
        layout: &Layout,
        device: &CudaDevice,
    ) -> Result<CudaSlice<T>> {
        let Some((first, last)) = layout.contiguous_offsets() else {
            bail!("NCCL: the tensor is not dense");
        };
        let mine = slice.slice(first..last);
        let copies = if self.gathers {
            self.comm.world_size()
        } else {
            1
        };
        // SAFETY: NCCL writes all of it, on the stream that everything after it is on.
        let mut all = unsafe { device.alloc::<T>((last - first) * copies)? };
        let done = if self.gathers {
            self.comm.all_gather(&mine, &mut all)
        } else {
            self.comm.all_reduce(&mine, &mut all, &ReduceOp::Sum)
        };
        match done {
            Ok(_) => Ok(all),
            Err(error) => bail!("NCCL: {error:?}"),
        }
    }
}

impl CustomOp1 for Collective<'_> {
    fn name(&self) -> &'static str {
        "nccl"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("NCCL: the tensor is not on a GPU")
    }

    fn cuda_fwd(&self, storage: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let device = &storage.device;
        let slice = match &storage.slice {
            CudaStorageSlice::F32(s) => CudaStorageSlice::F32(self.of(s, layout, device)?),
            CudaStorageSlice::BF16(s) => CudaStorageSlice::BF16(self.of(s, layout, device)?),
            CudaStorageSlice::F16(s) => CudaStorageSlice::F16(self.of(s, layout, device)?),
            CudaStorageSlice::U32(s) => CudaStorageSlice::U32(self.of(s, layout, device)?),
            _ => bail!("NCCL: f32, bf16, f16 and u32 are exchanged, nothing else"),
        };
        let shape = if self.gathers {
            let mut dims = vec![self.comm.world_size()];
            dims.extend(layout.dims());
            Shape::from(dims)
        } else {
            layout.shape().clone()
        };
        let device = device.clone();
        Ok((CudaStorage { slice, device }, shape))
    }
}
