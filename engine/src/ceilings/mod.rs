//! The best that this machine can do, measured: the ceilings that every result is held against.
//!
//! [`roofline`] is the arithmetic (pure), [`bandwidth`] and [`matrix`] the measurements.

pub mod bandwidth;
mod best;
pub mod cache;
#[cfg(feature = "cuda")]
mod gpu;
pub mod matrix;
pub mod roofline;

use std::time::Duration;

use candle_core::{Device, Result};
use serde::{Deserialize, Serialize};

use crate::error::EngineError;
use crate::format::Format;
use crate::gpu::Processor;
use crate::host;

/// Both ceilings of the CPU, or of a GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ceilings {
    /// How fast memory can be read.
    pub bandwidth: bandwidth::Bandwidth,
    /// How fast matrices can be multiplied.
    pub matrix: matrix::Matrix,
    /// The disturbances each time they were measured, so that they may be too low; empty where it was quiet. For who
    /// watches the machine to fill in, beside what memory had no room for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disturbed: Vec<String>,
}

/// Time given to each of the two measurements; preparing them comes on top.
const BUDGET: Duration = Duration::from_millis(1000);

impl Ceilings {
    /// Measures both, in 2 to 3 seconds on a small machine: products in what `format` computes in, square
    /// ones and those that a prefill of `shape` makes, as far as half of the memory that is left has room for them. A
    /// trial is not to fail for what it is only judged by.
    ///
    /// # Errors
    /// When memory for the measurement cannot be had or its products cannot be made on the CPU.
    pub fn measure(format: Format, shape: Option<&roofline::ModelShape>) -> Result<Self> {
        // A shared machine's memory is slower for seconds at a time: half before and half after.
        let before = bandwidth::measure(BUDGET / 2);
        let room = host::available_memory().map_or(usize::MAX, |free| free as usize / 2);
        let (products, beyond) = matrix::within(&matrix::products(shape), room);
        let matrix = matrix::measure(
            &Device::Cpu,
            format.activations(Processor::Cpu),
            &products,
            BUDGET,
        )?;
        let beyond = beyond.map(|of| format!("memory had no room for products of {of}"));
        let bandwidth = before.higher(bandwidth::measure(BUDGET / 2));
        let cached = bandwidth
            .may_be_cached()
            .then(|| "memory had no room to read four times the last cache".to_owned());
        Ok(Self {
            bandwidth,
            matrix,
            disturbed: beyond.into_iter().chain(cached).collect(),
        })
    }

    /// Measures both of the first GPU: see [`Ceilings::measure`].
    ///
    /// # Errors
    /// [`EngineError::Device`] where there is none, or this build cannot use it; else as [`Ceilings::measure`].
    pub fn measure_gpu(
        format: Format,
        shape: Option<&roofline::ModelShape>,
    ) -> std::result::Result<Self, EngineError> {
        #[cfg(feature = "cuda")]
        {
            let (bandwidth, matrix) = gpu::measure(format, shape, BUDGET)?;
            Ok(Self {
                bandwidth,
                matrix,
                disturbed: Vec::new(),
            })
        }
        #[cfg(not(feature = "cuda"))]
        {
            let _ = (format, shape);
            Err(crate::gpu::not_compiled())
        }
    }

    /// The higher of each ceiling: what disturbs a measurement only lowers it. Disturbed only where both were.
    #[must_use]
    pub fn higher(self, other: Self) -> Self {
        let (matrix, other_matrix) = (self.matrix, other.matrix);
        Self {
            bandwidth: self.bandwidth.higher(other.bandwidth),
            matrix: if other_matrix.flops_per_second > matrix.flops_per_second {
                other_matrix
            } else {
                matrix
            },
            disturbed: if self.disturbed.is_empty() {
                self.disturbed
            } else {
                other.disturbed
            },
        }
    }

    /// Raises ceilings of one device that were measured for several formats to what they say of each other: its memory is
    /// read as fast in any of them, and matrices are multiplied as fast where it is in the same type.
    pub fn level(all: &mut [&mut Self]) {
        let measured: Vec<Self> = all.iter().map(|one| (**one).clone()).collect();
        for one in all {
            for other in &measured {
                if one.matrix.dtype == other.matrix.dtype {
                    **one = one.clone().higher(other.clone());
                } else {
                    one.bandwidth = one.bandwidth.clone().higher(other.bandwidth.clone());
                }
            }
        }
    }

    /// How much of a working set of `working_set` bytes the last cache may hold, so that the bandwidth ceiling does not bind
    /// it: between 0, also where the system does not tell, and 1 for all of it.
    pub fn cache_share(&self, working_set: f64) -> f64 {
        self.bandwidth
            .cache_bytes
            .map_or(0.0, |cache| (cache as f64 / working_set).min(1.0))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;

    fn ceilings(bandwidth: f64, flops: f64, disturbed: &[&str]) -> Ceilings {
        Ceilings {
            bandwidth: bandwidth::Bandwidth {
                bytes_per_second: bandwidth,
                kernel: String::new(),
                repeats: 3,
                buffer_bytes: 1,
                cache_bytes: None,
            },
            matrix: matrix::Matrix {
                flops_per_second: flops,
                product: String::new(),
                repeats: 3,
                dtype: "f32".into(),
            },
            disturbed: disturbed.iter().map(|why| (*why).to_owned()).collect(),
        }
    }

    #[test]
    fn what_was_measured_for_one_format_counts_for_others() {
        let (mut first, mut second) = (ceilings(2.0, 5.0, &["busy"]), ceilings(3.0, 4.0, &[]));
        let mut half = ceilings(1.0, 9.0, &["busy"]);
        half.matrix.dtype = "f16".into();
        Ceilings::level(&mut [&mut first, &mut second, &mut half]);
        assert_eq!(first, ceilings(3.0, 5.0, &[]));
        assert_eq!(second, first);
        assert_eq!(half.bandwidth, first.bandwidth);
        // That its products were disturbed, others say nothing of.
        assert_eq!(half.matrix.flops_per_second, 9.0);
        assert_eq!(half.disturbed, ["busy"]);
    }

    #[test]
    fn the_higher_of_two_measurements_counts() {
        let (quiet, busy) = (ceilings(2.0, 5.0, &[]), ceilings(3.0, 4.0, &["busy"]));
        let both = ceilings(3.0, 5.0, &[]);
        assert_eq!(quiet.clone().higher(busy.clone()), both);
        assert_eq!(busy.clone().higher(quiet), both);
        assert_eq!(busy.clone().higher(busy.clone()), busy);
    }

    #[test]
    fn both_ceilings_are_measured_and_named() {
        let ceilings = Ceilings {
            bandwidth: bandwidth::measure(Duration::from_millis(20)),
            matrix: matrix::measure(
                &Device::Cpu,
                DType::F32,
                &[matrix::Product {
                    rows: 64,
                    columns: 96,
                    depth: 128,
                }],
                Duration::from_millis(20),
            )
            .unwrap(),
            disturbed: Vec::new(),
        };
        assert!(ceilings.bandwidth.bytes_per_second > 0.0, "{ceilings:?}");
        assert!(ceilings.matrix.flops_per_second > 0.0, "{ceilings:?}");
        assert!(ceilings.bandwidth.repeats >= 3 && ceilings.matrix.repeats >= 3);
        assert!(ceilings.bandwidth.kernel.contains("thread"));
        assert!(
            ceilings.matrix.product.contains("64x96x128"),
            "{}",
            ceilings.matrix.product
        );
        if let Some(cache) = ceilings.bandwidth.cache_bytes {
            let of = |times| bandwidth::Bandwidth {
                buffer_bytes: times * cache,
                ..ceilings.bandwidth.clone()
            };
            assert!(of(3).may_be_cached() && !of(4).may_be_cached());
            let cache = cache as f64;
            assert_eq!(
                [1.0, 2.0, 0.5].map(|sets| ceilings.cache_share(sets * cache)),
                [1.0, 0.5, 1.0]
            );
        }
    }
}
