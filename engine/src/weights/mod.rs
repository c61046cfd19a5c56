//! Where weights come from, and how a rank gets its share of them: [`Source`] gives any rectangle of
//! any tensor, [`Loader`] assembles rectangles into the matrices that the models multiply by.

pub(crate) mod blocks;
pub(crate) mod element;
pub(crate) mod files;
pub(crate) mod gguf;
pub(crate) mod layout;
pub(crate) mod random;
pub(crate) mod save;
pub(crate) mod slab;

use std::ops::Range;

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};

use crate::error::EngineError;
use crate::format::Format;
use crate::ops::Weight;
use element::Element;

/// Where the weights of a model are.
pub(crate) enum Source {
    /// safetensors files.
    Files(files::Files),
    /// A GGUF file.
    Gguf(gguf::Gguf),
    /// Computed from a seed.
    Random(random::Random),
}

/// A rectangle of a stored tensor `[d0, d1]` (a vector counts as `[n, 1]`), seen as rows and columns
/// of what it becomes: with `transposed`, rows of the result are columns of what is stored.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub name: String,
    pub stored: Vec<usize>,
    pub transposed: bool,
    pub rows: Range<usize>,
    pub cols: Range<usize>,
    /// Rows of the result that the part occupies; those past `rows` are zero.
    pub slot: usize,
}

impl Part {
    /// All of a tensor of the given stored shape (one or two dimensions).
    pub fn new(name: impl Into<String>, stored: &[usize]) -> Self {
        let (rows, cols) = (stored[0], stored.get(1).copied().unwrap_or(1));
        Self {
            name: name.into(),
            stored: stored.to_vec(),
            transposed: false,
            rows: 0..rows,
            cols: 0..cols,
            slot: rows,
        }
    }

    /// The transpose of what is stored. Comes before [`Part::rows`] and [`Part::cols`].
    pub fn transposed(mut self) -> Self {
        self.transposed = !self.transposed;
        std::mem::swap(&mut self.rows, &mut self.cols);
        self.slot = self.rows.len();
        self
    }

    /// Only these rows of the result.
    pub fn rows(mut self, rows: Range<usize>) -> Self {
        self.slot = rows.len();
        self.rows = rows;
        self
    }

    /// Only these columns of the result.
    pub fn cols(mut self, cols: Range<usize>) -> Self {
        self.cols = cols;
        self
    }

    /// Zero rows below, up to `rows` of them in all.
    pub fn padded_to(mut self, rows: usize) -> Self {
        self.slot = rows;
        self
    }

    fn stored_width(&self) -> usize {
        self.stored.get(1).copied().unwrap_or(1)
    }
}

impl Source {
    /// Checks that the tensor exists with that shape.
    fn check(&self, part: &Part) -> Result<(), EngineError> {
        match self {
            Source::Files(files) => files.check(&part.name, &part.stored),
            Source::Gguf(gguf) => gguf.check(&part.name, &part.stored),
            Source::Random(_) => Ok(()),
        }
    }

    /// Writes rows `rows` of the result, each `stride` elements from the last, `part.cols` wide.
    fn fill<T: Element>(&self, part: &Part, rows: Range<usize>, out: &mut [T], stride: usize) {
        match self {
            Source::Files(files) => files.fill(part, rows, out, stride),
            Source::Gguf(gguf) => gguf.fill(part, rows, out, stride),
            Source::Random(random) => random.fill(part, rows, out, stride),
        }
    }
}

/// Loads a rank's share, in one format, onto one device.
pub(crate) struct Loader<'a> {
    pub source: &'a Source,
    pub format: Format,
    pub device: &'a Device,
    /// Where matrices on the CPU go.
    pub slab: slab::Slab,
    pub rank: usize,
    pub world: usize,
}

impl Loader<'_> {
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

    /// The type of whatever is no matrix of weights.
    pub fn dtype(&self) -> DType {
        self.format.dtype()
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
                Weight::Quantized(matrix.into())
            }
        })
    }

    /// The parts one below the other, as plain numbers `[sum of slots, columns]` to look up.
    pub fn matrix(&self, parts: &[Part]) -> Result<Tensor, EngineError> {
        self.build(parts, parts[0].cols.len())
    }

    /// The parts one after the other, as a vector.
    pub fn vector(&self, parts: &[Part]) -> Result<Tensor, EngineError> {
        Ok(self.build(parts, 1)?.flatten_all()?)
    }

    fn build(&self, parts: &[Part], cols: usize) -> Result<Tensor, EngineError> {
        match self.dtype() {
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
        let fill = |first, out: &mut [T]| fill_rows(self.source, parts, cols, first, out);
        Ok(self.slab.matrix(self.device, (rows, cols), fill)?)
    }
}

/// Writes the rows of the assembled matrix from `first` on into `out`.
fn fill_rows<T: Element>(
    source: &Source,
    parts: &[Part],
    cols: usize,
    first: usize,
    out: &mut [T],
) {
    let last = first + out.len() / cols;
    let mut top = 0;
    for part in parts {
        let from = first.max(top);
        let to = last.min(top + part.rows.len());
        if from < to {
            let rows = part.rows.start + from - top..part.rows.start + to - top;
            let out = &mut out[(from - first) * cols..(to - first) * cols];
            source.fill(part, rows, out, cols);
        }
        top += part.slot;
    }
}
