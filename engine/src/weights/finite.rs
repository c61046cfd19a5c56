//! Weights that are no numbers: an infinity, or a NaN, makes everything that it meets one, often without a trace in the
//! ids. They are found where weights are read, whichever device and format they go to.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::element::Element;
use super::part::Part;
use crate::error::EngineError;

/// The first row of a matrix that holds such a value.
pub(super) struct FirstBad(AtomicUsize);

impl Default for FirstBad {
    fn default() -> Self {
        Self(AtomicUsize::new(usize::MAX))
    }
}

impl FirstBad {
    /// Looks at rows from `first` on, from any thread.
    pub fn look<T: Element>(&self, first: usize, cols: usize, rows: &[T]) {
        // All of a row, without a branch in between, so that it is vectorised.
        let finite = |row: &[T]| row.iter().fold(true, |all, v| all & v.is_finite());
        let bad = rows.chunks(cols.max(1)).position(|row| !finite(row));
        if let Some(row) = bad {
            self.0.fetch_min(first + row, Ordering::Relaxed);
        }
    }

    /// The error that names the tensor of the first such row.
    pub fn told(&self, parts: &[Part], format: &str) -> Result<(), EngineError> {
        let bad = self.0.load(Ordering::Relaxed);
        if bad == usize::MAX {
            return Ok(());
        }
        let mut top = 0;
        for part in parts {
            if bad < top + part.slot {
                let row = part.rows.start + bad - top;
                let what = if part.transposed { "column" } else { "row" };
                return Err(EngineError::Invalid(format!(
                    "tensor {}: {what} {row} holds an infinity or a NaN in {format}",
                    part.name
                )));
            }
            top += part.slot;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    #[test]
    fn the_tensor_and_its_row_are_named() {
        let parts = [
            Part::new("a", &[2, 3]).padded_to(4),
            Part::new("b", &[3, 3]).rows(1..3),
            Part::new("c", &[3, 2]).transposed(),
        ];
        let told = |row: usize, value: f32| {
            let bad = FirstBad::default();
            let mut out = vec![1f32; 8 * 3];
            out[row * 3 + 1] = value;
            bad.look(0, 3, &out);
            bad.told(&parts, "f32").err().map(|error| error.to_string())
        };
        for value in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            let said =
                |text: &str| Some(format!("tensor {text} holds an infinity or a NaN in f32"));
            assert_eq!(told(1, value), said("a: row 1"));
            assert_eq!(told(5, value), said("b: row 2"));
            assert_eq!(told(7, value), said("c: column 1"));
        }
        assert_eq!(told(0, f32::MAX), None);
    }

    #[test]
    fn every_type_has_infinities() {
        fn first<T: Element>(value: f32) -> usize {
            let bad = FirstBad::default();
            bad.look(
                7,
                2,
                &[
                    T::from_f32(0.0),
                    T::from_f32(1.0),
                    T::from_f32(value),
                    T::from_f32(0.5),
                ],
            );
            bad.0.into_inner()
        }
        for value in [f32::INFINITY, f32::NAN] {
            assert_eq!(
                (
                    first::<f32>(value),
                    first::<bf16>(value),
                    first::<f16>(value)
                ),
                (8, 8, 8)
            );
        }
        // Too great for this type alone.
        assert_eq!((first::<f32>(1e6), first::<f16>(1e6)), (usize::MAX, 8));
    }
}
