//! The preallocated key and value cache: written in place, read without a copy.

use candle_core::{DType, Device, Result, Tensor};

use crate::weights::element;

/// Keys and values of every layer, each `[B, KVH, Smax, D]`.
pub(crate) struct KvCache {
    pub layers: Vec<(Tensor, Tensor)>,
}

impl KvCache {
    /// A cache of zeros. Its values are only read where they have been written.
    pub fn new(
        layers: usize,
        shape: (usize, usize, usize, usize),
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let (b, heads, len, dim) = shape;
        // In one piece, which large pages can hold but for its ends.
        let all = element::zeros(&[2 * layers, b, heads, len, dim], dtype, device)?;
        let layers = (0..layers)
            .map(|i| Ok((all.get(2 * i)?, all.get(2 * i + 1)?)))
            .collect::<Result<_>>()?;
        Ok(Self { layers })
    }

    /// The same memory, seen for `count` sequences from `first` on.
    pub fn rows(&self, first: usize, count: usize) -> Result<Self> {
        let layers = self
            .layers
            .iter()
            .map(|(k, v)| Ok((k.narrow(0, first, count)?, v.narrow(0, first, count)?)))
            .collect::<Result<_>>()?;
        Ok(Self { layers })
    }
}
