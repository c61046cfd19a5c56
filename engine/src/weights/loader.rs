//! A rank's share of the weights, assembled from parts of tensors into the matrices that the models multiply by.

use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};

use super::blocks;
use super::element::Element;
use super::finite::FirstBad;
use super::part::Part;
use super::slab::Slab;
use super::source::{Source, fill_rows};
use crate::error::EngineError;
use crate::format::Format;
use crate::gpu::Processor;
use crate::ops::Weight;
use crate::parallel::Stage;

/// Loads a rank's share, in one format, onto one device.
pub(crate) struct Loader<'a> {
    source: &'a Source,
    format: Format,
    pub device: &'a Device,
    /// Where matrices on the CPU go.
    slab: Slab,
    pub stage: Stage,
    pub rank: usize,
    pub world: usize,
    /// Bytes that have been loaded.
    #[cfg(test)]
    pub bytes: std::cell::Cell<usize>,
}

impl<'a> Loader<'a> {
    /// For one of `world` ranks of a stage.
    pub fn new(
        source: &'a Source,
        format: Format,
        device: &'a Device,
        stage: Stage,
        (rank, world): (usize, usize),
    ) -> Self {
        Self {
            source,
            format,
            device,
            slab: Slab::default(),
            stage,
            rank,
            world,
            #[cfg(test)]
            bytes: std::cell::Cell::default(),
        }
    }

    /// The rank's part of `n` equal things (the last ranks get less, or nothing, where the degree
    /// does not divide `n`).
    pub fn share(&self, n: usize) -> Range<usize> {
        let each = n.div_ceil(self.world);
        (self.rank * each).min(n)..((self.rank + 1) * each).min(n)
    }

    /// The rank's part of an inner width `n`, and what it is padded to: equal on all ranks, and whole
    /// blocks where weights are quantized along it, so that the degree changes no block.
    pub fn inner(&self, n: usize) -> (Range<usize>, usize) {
        let slot = n
            .div_ceil(self.world)
            .next_multiple_of(self.format.block_len());
        (
            (self.rank * slot).min(n)..((self.rank + 1) * slot).min(n),
            slot,
        )
    }

    /// The type of activations, and of whatever is no matrix of weights.
    pub fn dtype(&self) -> DType {
        self.format.activations(Processor::of(self.device))
    }

    /// The parts one below the other, as a matrix `[sum of slots, columns]` to multiply by.
    pub fn weight(&self, parts: &[Part]) -> Result<Weight, EngineError> {
        self.weight_padded(parts, parts[0].cols.len())
    }

    /// As [`Loader::weight`], with zero columns on the right up to `cols` of them in all.
    pub fn weight_padded(&self, parts: &[Part], cols: usize) -> Result<Weight, EngineError> {
        Ok(match self.format.blocks() {
            None => Weight::Dense(self.build(parts, cols)?),
            Some(blocks) => {
                let matrix = blocks::build(self.source, parts, cols, blocks, self.device)?;
                #[cfg(test)]
                self.count(matrix.storage_size_in_bytes());
                Weight::Quantized(matrix.into())
            }
        })
    }

    /// The parts one below the other, as plain numbers `[sum of slots, columns]` to compute with.
    pub fn matrix(&self, parts: &[Part]) -> Result<Tensor, EngineError> {
        let matrix = self.build(parts, parts[0].cols.len())?;
        Ok(matrix.to_dtype(self.dtype())?)
    }

    /// The parts one after the other, as a vector.
    pub fn vector(&self, parts: &[Part]) -> Result<Tensor, EngineError> {
        let vector = self.build(parts, 1)?.flatten_all()?;
        Ok(vector.to_dtype(self.dtype())?)
    }

    #[cfg(test)]
    fn count(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes);
    }

    fn build(&self, parts: &[Part], cols: usize) -> Result<Tensor, EngineError> {
        match self.format.stored() {
            DType::F32 => self.build_as::<f32>(parts, cols),
            DType::BF16 => self.build_as::<bf16>(parts, cols),
            DType::F16 => self.build_as::<f16>(parts, cols),
            other => Err(EngineError::Unsupported(format!(
                "dtype: {other:?} is not one of F32, BF16, F16"
            ))),
        }
    }

    fn build_as<T: Element>(&self, parts: &[Part], cols: usize) -> Result<Tensor, EngineError> {
        for part in parts {
            self.source.check(part)?;
            debug_assert!(part.cols.len() <= cols && part.rows.len() <= part.slot);
        }
        let rows: usize = parts.iter().map(|p| p.slot).sum();
        #[cfg(test)]
        self.count(rows * cols * size_of::<T>());
        let bad = FirstBad::default();
        let fill = |first, out: &mut [T]| {
            fill_rows(self.source, parts, cols, first, out);
            bad.look(first, cols, out);
        };
        let matrix = self.slab.matrix(self.device, (rows, cols), fill)?;
        bad.told(parts, self.format.stored().as_str())?;
        Ok(matrix)
    }
}
