//! Kernels that do nothing but read: the ceiling of memory.

use candle_core::{DType, Result, Tensor, bail};

use super::device::{Arg, Kit};
use super::source::Variant;

/// A way to read memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reader {
    kernel: &'static str,
    /// Words of 16 bytes that a thread asks for before it waits for one.
    pub ahead: usize,
    /// Blocks for every multiprocessor.
    pub blocks: usize,
    /// Threads of a block.
    pub threads: usize,
}

/// Ways worth trying.
pub(crate) const READERS: [Reader; 12] = {
    let mut all = [Reader {
        kernel: "read_1",
        ahead: 1,
        blocks: 2,
        threads: 1024,
    }; 12];
    let mut i = 0;
    while i < all.len() {
        (all[i].kernel, all[i].ahead) = match i % 3 {
            0 => ("read_1", 1),
            1 => ("read_4", 4),
            _ => ("read_8", 8),
        };
        (all[i].blocks, all[i].threads) = match i / 3 {
            0 => (2, 1024),
            1 => (4, 512),
            2 => (8, 256),
            _ => (32, 256),
        };
        i += 1;
    }
    all
};

/// Reads all of `buffer` (f32, dense, on a GPU); `out [1]` (u32) is all but never written.
///
/// # Errors
/// Where the kernel cannot be launched.
pub(crate) fn read(reader: Reader, buffer: &Tensor, out: &Tensor) -> Result<()> {
    let (Some(kit), Some(variant), true) = (
        Kit::of(buffer)?,
        Variant::base(DType::F32),
        super::device::dense(&[buffer], DType::F32),
    ) else {
        bail!(
            "read: the buffer has to be dense, in f32 and on a GPU, it is {:?} on {:?}",
            buffer.dtype(),
            buffer.device()
        );
    };
    let words = buffer.elem_count() / 4;
    // SAFETY: the buffer holds that many words, and its allocation begins on a multiple of 16 bytes.
    unsafe {
        kit.launch(
            variant,
            reader.kernel,
            ([kit.processors * reader.blocks, 1, 1], reader.threads),
            &[Arg::of(buffer)?, Arg::Long(words as i64), Arg::of(out)?],
        )
    }
}
