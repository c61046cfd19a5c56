//! Where new positions stand in their sequences.

use candle_core::{Result, Tensor, bail};

/// The position of the first new token: how many came before it.
#[derive(Clone, Copy, Debug)]
pub enum Offset<'a> {
    /// Known here.
    Host(usize),
    /// Lies on the device as one `u32`, so that what is enqueued does not depend on it.
    Device(&'a Tensor),
}

impl<'a> Offset<'a> {
    /// The number.
    ///
    /// # Errors
    /// Where only the device knows it: an operation without a kernel for that has no other way.
    pub fn host(self) -> Result<usize> {
        match self {
            Offset::Host(offset) => Ok(offset),
            Offset::Device(_) => {
                bail!("no kernel takes the position from the device for these shapes")
            }
        }
    }

    /// The part that is known here, which a kernel adds to the one on the device.
    #[cfg(feature = "cuda")]
    pub(crate) fn on_host(self) -> usize {
        match self {
            Offset::Host(offset) => offset,
            Offset::Device(_) => 0,
        }
    }

    /// The part that lies on the device, if any.
    #[cfg(feature = "cuda")]
    pub(crate) fn on_device(self) -> Option<&'a Tensor> {
        match self {
            Offset::Host(_) => None,
            Offset::Device(position) => Some(position),
        }
    }
}
