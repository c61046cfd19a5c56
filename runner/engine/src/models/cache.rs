//! The preallocated key and value cache: written in place, read without a copy.

use candle_core::{DType, Device, Result, Tensor};

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
        let layers = (0..layers)
            .map(|_| {
                let k = Tensor::zeros(shape, dtype, device)?;
                let v = Tensor::zeros(shape, dtype, device)?;
                Ok((k, v))
            })
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
