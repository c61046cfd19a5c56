//! Products of few rows with packed weights: these go from their bytes into the sums without a stop in memory, where there
//! are vector instructions for it; else they are unpacked into the cache, a few rows at a time.

#[cfg(target_arch = "x86_64")]
mod straight;

use super::packed::{Format, Matrix};
use super::product::Product;

impl Product<'_> {
    /// Streams packed weights past the rows of `x`, which stay in cache.
    pub(super) fn stream_packed<B: Format + Sync>(self, w: Matrix<'_, B>, out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        if self.stream_straight(w, out) {
            return;
        }
        self.stream(w, out);
    }
}
