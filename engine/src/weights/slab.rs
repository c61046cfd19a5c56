//! Memory for matrices on the CPU, one after the other in large pages. A matrix with memory of its own would have its
//! ends in small pages, a few megabytes of it: a third and more of GPT-2's layers, which cost decode a tenth of its
//! speed.

use std::cell::RefCell;

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Result, Tensor, bail};

use super::element::{Element, LARGE_BYTES, in_parallel, zeroed};

/// Bytes of memory to take at a time; pages that are not written are never there. More than the allocator would take
/// from memory that it has used before.
const SLAB_BYTES: usize = 64 << 20;
/// Where a matrix may begin: a multiple of a cache line.
const LINE_BYTES: usize = 64;

/// The memory that the next matrix goes into.
#[derive(Default)]
pub(crate) struct Slab(RefCell<Option<Space>>);

struct Space {
    /// `[elements]`; the matrices are views of it, and keep it.
    all: Tensor,
    used: usize,
}

impl Slab {
    /// A matrix that `fill(first row, rows)` writes, in parallel; what it leaves is zero. On a GPU it has memory of its
    /// own, as it has where it is small.
    ///
    /// # Errors
    /// candle's, where a GPU has no room for it.
    pub fn matrix<T: Element>(
        &self,
        device: &Device,
        (rows, cols): (usize, usize),
        fill: impl Fn(usize, &mut [T]) + Sync,
    ) -> Result<Tensor> {
        let count = rows * cols;
        if !device.is_cpu() || count * size_of::<T>() < LARGE_BYTES {
            let mut data = zeroed::<T>(count);
            in_parallel(&mut data, cols, fill);
            return Tensor::from_vec(data, (rows, cols), device);
        }
        let mut space = self.0.borrow_mut();
        let fits = |space: &Space| {
            space.all.dtype() == T::DTYPE && space.used + count <= space.all.elem_count()
        };
        let space = match &mut *space {
            Some(space) if fits(space) => space,
            space => {
                let len = count.max(SLAB_BYTES / size_of::<T>());
                let all = Tensor::from_vec(zeroed::<T>(len), len, &Device::Cpu)?;
                space.insert(Space { all, used: 0 })
            }
        };
        let matrix = space.all.narrow(0, space.used, count)?;
        space.used = (space.used + count).next_multiple_of(LINE_BYTES / size_of::<T>());
        matrix.inplace_op1(&Fill {
            cols,
            fill,
            element: std::marker::PhantomData::<T>,
        })?;
        matrix.reshape((rows, cols))
    }
}

/// Writes a part of a slab, as candle lets one change a tensor.
struct Fill<T, F> {
    cols: usize,
    fill: F,
    element: std::marker::PhantomData<T>,
}

impl<T: Element, F: Fn(usize, &mut [T]) + Sync> InplaceOp1 for Fill<T, F> {
    fn name(&self) -> &'static str {
        "fill"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (Some(all), Some((start, end))) = (T::of(storage), layout.contiguous_offsets()) else {
            bail!("fill: a slab of another type, or a part of one that is not dense");
        };
        in_parallel(&mut all[start..end], self.cols, &self.fill);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, IndexOp};
    use half::bf16;

    use super::*;

    #[test]
    fn matrices_lie_side_by_side_and_keep_to_their_own() {
        let slab = Slab::default();
        let shapes = [(1025, 512), (3, 5), (700, 1111), (9000, 2000), (1024, 513)];
        let made: Vec<Tensor> = shapes
            .iter()
            .enumerate()
            .map(|(nth, &(rows, cols))| {
                let fill = |first: usize, out: &mut [f32]| {
                    for (i, out) in out.chunks_mut(cols).enumerate() {
                        // The last column is left.
                        out[..cols - 1].fill((1000 * nth + first + i) as f32);
                    }
                };
                slab.matrix(&Device::Cpu, (rows, cols), fill).unwrap()
            })
            .collect();
        for (nth, (matrix, &(rows, cols))) in made.iter().zip(&shapes).enumerate() {
            assert_eq!(matrix.dims(), [rows, cols]);
            assert!(matrix.is_contiguous());
            for row in [0, 1, rows / 2, rows - 1] {
                let values = matrix.i(row).unwrap().to_vec1::<f32>().unwrap();
                let expected = (1000 * nth + row) as f32;
                assert!(values[..cols - 1].iter().all(|&value| value == expected));
                assert_eq!(values[cols - 1], 0.0);
            }
        }
        let offset = |matrix: &Tensor| matrix.layout().start_offset();
        assert_eq!([0, 2, 4].map(|nth| offset(&made[nth]) % 16), [0; 3]);
        assert_eq!(offset(&made[2]), 1025 * 512);
        // A matrix that does not fit begins the next slab, here one of its own.
        assert_eq!(offset(&made[3]), 0);

        let fill = |_: usize, out: &mut [bf16]| out.fill(bf16::ONE);
        let other = slab
            .matrix::<bf16>(&Device::Cpu, (1024, 1024), fill)
            .unwrap();
        assert_eq!((other.dtype(), offset(&other)), (DType::BF16, 0));
    }
}
