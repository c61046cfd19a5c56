//! A part of a tensor, as the models ask for it: which of its rows and columns, turned or not, and padded to how many.

use std::ops::Range;

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

    /// Elements between two rows of what is stored.
    pub fn stored_width(&self) -> usize {
        self.stored.get(1).copied().unwrap_or(1)
    }
}
