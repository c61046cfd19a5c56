//! Matrices in blocks of quantized weights: those of a file where it has them in that format, else quantized here, by
//! all threads at once and a few rows at a time, so that the plain matrix is never in memory.

use std::mem::MaybeUninit;

use candle_core::Device;
use candle_core::quantized::k_quants::{BlockQ4_0, BlockQ8_0};
use candle_core::quantized::{GgmlDType, GgmlType, QStorage, QTensor, QuantizedType};

use super::element::{advise_large_pages, in_parallel};
use super::finite::FirstBad;
use super::part::Part;
use super::source::{Source, fill_rows};
use crate::error::EngineError;

/// The parts one below the other, as a matrix of blocks; `cols` columns, of which zeros fill up what a part lacks.
pub(crate) fn build(
    source: &Source,
    parts: &[Part],
    cols: usize,
    kind: GgmlDType,
    device: &Device,
) -> Result<QTensor, EngineError> {
    for part in parts {
        source.check(part)?;
    }
    let rows: usize = parts.iter().map(|part| part.slot).sum();
    if !cols.is_multiple_of(kind.block_size()) {
        return Err(EngineError::Unsupported(format!(
            "{}: rows of {cols} are not whole blocks of {}",
            parts[0].name,
            kind.block_size()
        )));
    }
    let bad = &FirstBad::default();
    let blocks: Box<dyn QuantizedType> = match kind {
        GgmlDType::Q4_0 => Box::new(quantize::<BlockQ4_0>(source, parts, rows, cols, bad)),
        GgmlDType::Q8_0 => Box::new(quantize::<BlockQ8_0>(source, parts, rows, cols, bad)),
        other => {
            return Err(EngineError::Unsupported(format!(
                "dtype: {other:?} is not one of Q4_0, Q8_0"
            )));
        }
    };
    bad.told(parts, "f32")?;
    let storage = if device.is_cpu() {
        QStorage::Cpu(blocks)
    } else {
        let storage = QTensor::new(QStorage::Cpu(blocks), (rows, cols))?;
        QStorage::from_data(storage.data()?, device, kind)?
    };
    Ok(QTensor::new(storage, (rows, cols))?)
}

/// Rows that are made before they are quantized.
const ROWS: usize = 8;

fn quantize<B: GgmlType>(
    source: &Source,
    parts: &[Part],
    rows: usize,
    cols: usize,
    bad: &FirstBad,
) -> Vec<B> {
    let row_blocks = cols / B::BLCK_SIZE;
    let count = rows * row_blocks;
    let mut blocks = Vec::<B>::with_capacity(count);
    let space = &mut blocks.spare_capacity_mut()[..count];
    advise_large_pages(space);
    in_parallel(space, row_blocks, |first, out: &mut [MaybeUninit<B>]| {
        let mut plain = vec![0f32; ROWS * cols];
        for (i, out) in out.chunks_mut(ROWS * row_blocks).enumerate() {
            let plain = &mut plain[..out.len() / row_blocks * cols];
            plain.fill(0.0);
            fill_rows(source, parts, cols, first + i * ROWS, plain);
            bad.look(first + i * ROWS, cols, plain);
            for block in out.iter_mut() {
                block.write(B::zeros());
            }
            // SAFETY: every one of them has just been written.
            let out = unsafe { out.assume_init_mut() };
            B::from_float(plain, out);
            for row in 0..plain.len() / cols {
                let out = &mut out[row * row_blocks..(row + 1) * row_blocks];
                copy_stored(source, parts, first + i * ROWS + row, out);
            }
        }
    });
    // SAFETY: the loop above has written each of the `count` blocks, all of which the capacity holds.
    unsafe { blocks.set_len(count) };
    blocks
}

/// Puts a row's own blocks in the place of quantized ones, where the source has them in this format: whoever quantized
/// them may have done better than rounding.
fn copy_stored<B: GgmlType>(source: &Source, parts: &[Part], row: usize, out: &mut [B]) {
    let Source::Gguf(gguf) = source else { return };
    let mut top = 0;
    for part in parts {
        if (top..top + part.rows.len()).contains(&row) {
            if let Some(stored) = gguf.blocks(part, part.rows.start + row - top, B::DTYPE) {
                let bytes = stored.len().min(size_of_val(out));
                // SAFETY: blocks are plain bytes without padding, in a file as in memory; `bytes` of them are in both.
                unsafe {
                    std::ptr::copy_nonoverlapping(stored.as_ptr(), out.as_mut_ptr().cast(), bytes);
                }
            }
            return;
        }
        top += part.slot;
    }
}
