//! Reading f32 tensors in CPU memory in place, and making new ones.

use std::ops::{Deref, DerefMut};

use candle_core::{CpuStorage, Device, Layout, Result, Shape, Storage, StorageRef, Tensor};

/// A read lock on the memory of an f32 CPU tensor, with its layout.
pub(super) struct View<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
}

impl<'a> View<'a> {
    /// `None` for any other device or dtype.
    pub(super) fn of(tensor: &'a Tensor) -> Option<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        matches!(*storage, Storage::Cpu(CpuStorage::F32(_))).then_some(Self { storage, layout })
    }

    pub(super) fn dims(&self) -> &[usize] {
        self.layout.dims()
    }

    /// All elements in order, where they lie so.
    pub(super) fn contiguous(&self) -> Option<&[f32]> {
        let (start, end) = self.layout.contiguous_offsets()?;
        Some(&self.memory()[start..end])
    }

    /// The rows of a rank-4 tensor whose last dimension is dense.
    pub(super) fn rows4(&self) -> Option<Rows4<'_>> {
        Rows4::of(self.memory(), self.layout)
    }

    fn memory(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(memory)) => memory,
            _ => unreachable!("View::of lets only f32 in CPU memory pass"),
        }
    }
}

/// A rank-4 tensor as rows `[i, j, k, ..]` of `dims[3]` dense elements each.
#[derive(Clone, Copy)]
pub(super) struct Rows4<'a> {
    /// From the first element on.
    pub data: &'a [f32],
    pub dims: [usize; 4],
    /// Elements between neighbours in the first three dimensions.
    pub strides: [usize; 3],
}

impl<'a> Rows4<'a> {
    /// `None` unless `layout` is of rank 4 with a dense last dimension.
    pub(super) fn of(memory: &'a [f32], layout: &Layout) -> Option<Self> {
        let (&[d0, d1, d2, d3], &[s0, s1, s2, s3]) = (layout.dims(), layout.stride()) else {
            return None;
        };
        (d3 <= 1 || s3 == 1).then(|| Self {
            data: &memory[layout.start_offset()..],
            dims: [d0, d1, d2, d3],
            strides: [s0, s1, s2],
        })
    }

    /// Where row `[i, j, k]` starts in `data`.
    #[inline(always)]
    pub(super) fn start(&self, i: usize, j: usize, k: usize) -> usize {
        i * self.strides[0] + j * self.strides[1] + k * self.strides[2]
    }

    #[inline(always)]
    pub(super) fn row(&self, i: usize, j: usize, k: usize) -> &'a [f32] {
        let start = self.start(i, j, k);
        &self.data[start..start + self.dims[3]]
    }
}

/// A new f32 tensor of `shape` whose elements `fill` writes.
///
/// `fill` receives memory with undefined contents and must write all of it: zeroing it first would
/// cost a pass over memory that a large activation cannot afford.
pub(super) fn build(shape: impl Into<Shape>, fill: impl FnOnce(&mut [f32])) -> Result<Tensor> {
    let shape = shape.into();
    let len = shape.elem_count();
    let mut data = uninitialised(len);
    fill(&mut data);
    Tensor::from_vec(data, shape, &Device::Cpu)
}

/// `len` elements with undefined contents: for memory that is written before it is read.
pub(super) fn uninitialised(len: usize) -> Vec<f32> {
    let mut data = Vec::with_capacity(len);
    // SAFETY: the capacity is `len`, every bit pattern is an f32, and each caller writes every
    // element before it reads any.
    #[allow(clippy::uninit_vec)]
    unsafe {
        data.set_len(len);
    }
    data
}

/// A cache line.
#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line(#[expect(dead_code, reason = "read as part of a slice")] [f32; 16]);

/// Zeros to write to, from the beginning of a cache line on: of vectors that are read one after the other none crosses one
/// then, for which a processor would read twice.
pub(super) struct Lines {
    lines: Vec<Line>,
    len: usize,
}

impl Lines {
    pub(super) fn zeros(len: usize) -> Self {
        let lines = vec![Line([0.0; 16]); len.div_ceil(16)];
        Self { lines, len }
    }
}

impl Deref for Lines {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: lines are of nothing but floats, and as many as hold all of these.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}
