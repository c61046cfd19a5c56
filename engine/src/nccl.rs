//! The ways between ranks on several GPUs, by NCCL: collective operations within a stage, sending and receiving between
//! stages. Collectives have run with one rank, with graphs and without; nothing with several GPUs, which have been out of
//! reach, and no sending.
//!
//! Unlike [`crate::comm::LocalComm`], a rank that fails leaves the others waiting: [`crate::group`] leaves them behind.

use candle_core::cuda::CudaStorageSlice;
use candle_core::cuda::cudarc::driver::{CudaSlice, DeviceRepr};
use candle_core::cuda::cudarc::nccl::{Comm, Id, NcclType, ReduceOp, result::NcclError};
use candle_core::op::BackpropOp;
use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, CustomOp1, DType, Layout, Result, Shape, Storage, Tensor,
    bail,
};
use half::{bf16, f16};

use crate::comm::{Communicator, Join, Seat, SingleComm};
use crate::error::EngineError;
use crate::gpu;
use crate::link::{Link, NoLink};
use crate::parallel::{Parallel, Stage};

/// One rank of a group in which each has a GPU. It sums in the tensors' own type and in NCCL's order, the same bits on
/// every rank.
struct NcclComm(Comm);

// SAFETY: NCCL lets a communicator be used by any thread, but by one at a time; this one has one owner.
unsafe impl Send for NcclComm {}

/// A GPU and the ways to the others for each rank, made on the rank's thread: NCCL waits there until all have come.
pub(crate) fn joins(parallel: Parallel) -> std::result::Result<Vec<Join>, EngineError> {
    gpu::find(parallel.world())?;
    let mut joins: Vec<Join> = Vec::with_capacity(parallel.world());
    for _ in 0..parallel.data {
        // Each rank of a stage has its own way through the stages.
        let lines = (0..parallel.tensor).map(|_| Id::new());
        let lines: Vec<Id> = lines
            .collect::<std::result::Result<_, _>>()
            .map_err(failed)?;
        for stage in parallel.stages() {
            let group = Id::new().map_err(failed)?;
            for (rank, &line) in lines.iter().enumerate() {
                let group = (parallel.tensor > 1).then_some((rank, parallel.tensor, group));
                let line = (parallel.pipeline > 1).then_some((stage, line));
                let ordinal = joins.len();
                joins.push(Box::new(move || seat(ordinal, group, line)));
            }
        }
    }
    Ok(joins)
}

/// The one rank of a group of its own: what a single GPU shows of NCCL.
#[cfg(test)]
pub(crate) fn alone() -> std::result::Result<Vec<Join>, EngineError> {
    let group = (0, 1, Id::new().map_err(failed)?);
    Ok(vec![Box::new(move || seat(0, Some(group), None))])
}

/// A rank on the GPU with this number: its place among those of its stage, and its stage, where there are others.
fn seat(
    ordinal: usize,
    group: Option<(usize, usize, Id)>,
    line: Option<(Stage, Id)>,
) -> std::result::Result<Seat, EngineError> {
    let device = gpu::open(ordinal)?;
    let cuda = device.as_cuda_device()?;
    let member = |rank: usize, world: usize, id: Id| {
        Comm::from_rank(cuda.cuda_stream(), rank, world, id).map_err(failed)
    };
    // In the same order on every rank, as each waits for the others.
    let comm: Box<dyn Communicator> = match group {
        Some((rank, world, id)) => Box::new(NcclComm(member(rank, world, id)?)),
        None => Box::new(SingleComm),
    };
    let link: Box<dyn Link> = match line {
        Some((stage, id)) => Box::new(NcclLink {
            stage,
            comm: member(stage.index, stage.count, id)?,
            device: cuda.clone(),
        }),
        None => Box::new(NoLink),
    };
    Ok(Seat { device, comm, link })
}

fn failed(error: NcclError) -> EngineError {
    EngineError::Device(format!("NCCL: {error:?}"))
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

/// A rank's way through the stages, in a communicator of its own with a rank for each stage. All goes on the stream that
/// computes, so that sending and receiving keep their order, and the host waits for neither.
struct NcclLink {
    stage: Stage,
    comm: Comm,
    device: CudaDevice,
}

// SAFETY: as of [`NcclComm`].
unsafe impl Send for NcclLink {}

impl NcclLink {
    /// The stage that is `distance` stages on.
    fn peer(&self, distance: usize) -> i32 {
        ((self.stage.index + distance) % self.stage.count) as i32
    }

    fn send_of<T: NcclType + DeviceRepr>(
        &self,
        slice: &CudaSlice<T>,
        layout: &Layout,
    ) -> Result<()> {
        let Some((first, last)) = layout.contiguous_offsets() else {
            bail!("NCCL: the tensor is not dense");
        };
        match self.comm.send(&slice.slice(first..last), self.peer(1)) {
            Ok(()) => Ok(()),
            Err(error) => bail!("NCCL: {error:?}"),
        }
    }

    fn receive_of<T: NcclType + DeviceRepr>(&self, count: usize) -> Result<CudaSlice<T>> {
        // SAFETY: NCCL writes all of it, on the stream that everything after it is on.
        let mut slice = unsafe { self.device.alloc::<T>(count)? };
        match self.comm.recv(&mut slice, self.peer(self.stage.count - 1)) {
            Ok(_) => Ok(slice),
            Err(error) => bail!("NCCL: {error:?}"),
        }
    }
}

impl Link for NcclLink {
    fn stage(&self) -> Stage {
        self.stage
    }

    fn send(&self, tensor: &Tensor) -> Result<()> {
        let tensor = tensor.contiguous()?;
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            bail!("NCCL: the tensor is not on a GPU");
        };
        match &storage.slice {
            CudaStorageSlice::F32(s) => self.send_of(s, layout),
            CudaStorageSlice::BF16(s) => self.send_of(s, layout),
            CudaStorageSlice::F16(s) => self.send_of(s, layout),
            CudaStorageSlice::U32(s) => self.send_of(s, layout),
            _ => bail!("NCCL: f32, bf16, f16 and u32 are exchanged, nothing else"),
        }
    }

    fn receive(&self, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let shape = Shape::from(shape);
        let count = shape.elem_count();
        let slice = match dtype {
            DType::F32 => CudaStorageSlice::F32(self.receive_of::<f32>(count)?),
            DType::BF16 => CudaStorageSlice::BF16(self.receive_of::<bf16>(count)?),
            DType::F16 => CudaStorageSlice::F16(self.receive_of::<f16>(count)?),
            DType::U32 => CudaStorageSlice::U32(self.receive_of::<u32>(count)?),
            other => bail!("NCCL: f32, bf16, f16 and u32 are exchanged, not {other:?}"),
        };
        let device = self.device.clone();
        let storage = Storage::Cuda(CudaStorage { slice, device });
        Ok(Tensor::from_storage(
            storage,
            shape,
            BackpropOp::none(),
            false,
        ))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::cuda::cudarc::nccl::{group_end, group_start};

    use super::*;

    /// A link as far as one GPU shows it: a stage that sends to itself, which NCCL allows within one group.
    #[test]
    fn a_stage_receives_what_it_sends_to_itself() {
        let Some((_, _alone)) = gpu::for_test("a_stage_receives_what_it_sends_to_itself") else {
            return;
        };
        let line = Some((Stage::WHOLE, Id::new().unwrap()));
        let Seat { device, link, .. } = seat(0, None, line).unwrap();
        for dtype in [DType::F32, DType::BF16, DType::F16, DType::U32] {
            let numbers = Tensor::arange(0u32, 24, &device).unwrap();
            let sent = numbers.reshape((2, 3, 4)).unwrap().to_dtype(dtype).unwrap();
            // A view that begins within its storage.
            let sent = sent.narrow(0, 1, 1).unwrap();
            group_start().unwrap();
            link.send(&sent).unwrap();
            let received = link.receive(sent.dims(), dtype).unwrap();
            group_end().unwrap();
            let values = |tensor: &Tensor| {
                let tensor = tensor.to_dtype(DType::F32).unwrap();
                tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            assert_eq!(values(&received), values(&sent), "{dtype:?}");
        }
    }
}
