//! The weights of a model, opened: [`Source`] gives any rectangle of any of its tensors, in the type that is asked for.

use std::ops::Range;

use super::element::Element;
use super::files::Files;
use super::gguf::Gguf;
use super::part::Part;
use super::random::Random;
use crate::error::EngineError;

/// The weights of a model, opened.
pub(crate) enum Source {
    /// safetensors files.
    Files(Files),
    /// A GGUF file.
    Gguf(Gguf),
    /// Computed from a seed.
    Random(Random),
}

impl Source {
    /// Checks that the tensor exists with that shape.
    pub fn check(&self, part: &Part) -> Result<(), EngineError> {
        self.check_tensor(&part.name, &part.stored)
    }

    /// As [`Source::check`], of a tensor by name and shape.
    pub(super) fn check_tensor(&self, name: &str, shape: &[usize]) -> Result<(), EngineError> {
        match self {
            Source::Files(files) => files.check(name, shape),
            Source::Gguf(gguf) => gguf.check(name, shape),
            Source::Random(_) => Ok(()),
        }
    }

    /// Writes rows `rows` of the result, each `stride` elements from the last, `part.cols` wide.
    pub fn fill<T: Element>(&self, part: &Part, rows: Range<usize>, out: &mut [T], stride: usize) {
        match self {
            Source::Files(files) => files.fill(part, rows, out, stride),
            Source::Gguf(gguf) => gguf.fill(part, rows, out, stride),
            Source::Random(random) => random.fill(part, rows, out, stride),
        }
    }
}

/// Writes the rows of the assembled matrix from `first` on into `out`.
pub(super) fn fill_rows<T: Element>(
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
