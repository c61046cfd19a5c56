//! How fast memory can be read, by the best of several kernels.

use std::fmt;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use candle_core::utils::barrier_pool;
use pulp::{Simd, WithSimd};
use serde::{Deserialize, Serialize};

use super::best::best_of;
use super::cache;
use crate::host;
use crate::ops::Arch;
use crate::weights::element;

/// The read bandwidth of this machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bandwidth {
    /// Bytes read per second: the median over the repeats of the best kernel.
    pub bytes_per_second: f64,
    /// The kernel that won.
    pub kernel: String,
    /// Passes of that kernel over the buffer.
    pub repeats: usize,
    /// Size of the buffer: 16 times the last cache where memory allows.
    pub buffer_bytes: usize,
    /// Size of the last cache, all instances together, if the system tells.
    pub cache_bytes: Option<usize>,
}

impl Bandwidth {
    /// Whether so little was read that much of it may have come out of the last cache: the ceiling may be too high then.
    #[must_use]
    pub fn may_be_cached(&self) -> bool {
        self.cache_bytes
            .is_some_and(|cache| self.buffer_bytes < 4 * cache)
    }

    /// The one of two measurements that is.
    #[must_use]
    pub fn higher(self, other: Self) -> Self {
        if other.bytes_per_second > self.bytes_per_second {
            other
        } else {
            self
        }
    }
}

/// Buffers are as many times as large as the last cache. What a cache still holds from the pass before is read faster than
/// memory: on a machine with 32 MiB, four times as much was read 14 % faster than 16 times, and 8 times as much 3 % faster.
pub(super) const CACHES: usize = 16;
/// Bytes of the smallest buffer: without a known cache, a common one is still left behind.
const MIN_BUFFER: usize = 128 << 20;
/// Bytes of the largest: enough for any cache, and touching it takes time.
const MAX_BUFFER: usize = 8 << 30;
/// Bytes that a thread takes at a time.
const PIECE: usize = 1 << 20;

/// Reads for about `budget`.
pub fn measure(budget: Duration) -> Bandwidth {
    let cache_bytes = cache::last_level_bytes();
    let most =
        host::available_memory().map_or(MAX_BUFFER, |free| (free as usize / 4).min(MAX_BUFFER));
    let bytes = (CACHES * cache_bytes.unwrap_or(0))
        .max(MIN_BUFFER)
        .min(most)
        .max(PIECE);
    let buffer = first_touched(bytes / size_of::<f32>());
    let (kernel, rate, repeats) = best_of(&kernels(), budget, |kernel| {
        let start = Instant::now();
        kernel.read(&buffer);
        size_of_val(&buffer[..]) as f64 / start.elapsed().as_secs_f64()
    });
    Bandwidth {
        bytes_per_second: rate,
        kernel: kernel.to_string(),
        repeats,
        buffer_bytes: size_of_val(&buffer[..]),
        cache_bytes,
    }
}

/// `len` ones in large pages, as weights are, written by the threads that will read them.
fn first_touched(len: usize) -> Vec<f32> {
    let mut buffer = element::zeroed::<f32>(len);
    element::in_parallel(&mut buffer, 1, |_, part| part.fill(1.0));
    buffer
}

/// A way to read memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kernel {
    threads: usize,
    /// Places read in turn by one thread.
    streams: usize,
    /// Bytes ahead of the read that are asked for; none if 0.
    prefetch: usize,
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            threads,
            streams,
            prefetch,
        } = self;
        write!(f, "{threads} threads, {streams} streams each, ")?;
        match prefetch {
            0 => write!(f, "no prefetch"),
            bytes => write!(f, "prefetch {bytes} bytes ahead"),
        }
    }
}

fn kernels() -> Vec<Kernel> {
    let all = barrier_pool().n_workers() + 1;
    let mut counts = vec![all];
    if all > 2 {
        // Memory may be saturated, and contended, before every core reads.
        counts.push(all / 2);
    }
    let mut kernels = Vec::new();
    for threads in counts {
        for streams in [1, 2, 4, 8] {
            for prefetch in [0, 1024, 4096] {
                kernels.push(Kernel {
                    threads,
                    streams,
                    prefetch,
                });
            }
        }
    }
    kernels
}

impl Kernel {
    fn read(self, buffer: &[f32]) {
        let next = AtomicUsize::new(0);
        let arch = Arch::new();
        let piece = PIECE / size_of::<f32>();
        let pieces = buffer.len().div_ceil(piece);
        barrier_pool().execute(|thread| {
            if thread >= self.threads {
                return;
            }
            loop {
                let nth = next.fetch_add(1, Ordering::Relaxed);
                if nth >= pieces {
                    break;
                }
                let data = &buffer[nth * piece..((nth + 1) * piece).min(buffer.len())];
                black_box(arch.dispatch(Read { kernel: self, data }));
            }
        });
    }
}

struct Read<'a> {
    kernel: Kernel,
    data: &'a [f32],
}

impl WithSimd for Read<'_> {
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f32 {
        let Self { kernel, data } = self;
        match kernel.streams {
            1 => sum::<S, 1>(simd, data, kernel.prefetch),
            2 => sum::<S, 2>(simd, data, kernel.prefetch),
            4 => sum::<S, 4>(simd, data, kernel.prefetch),
            _ => sum::<S, 8>(simd, data, kernel.prefetch),
        }
    }
}

/// Sum of `data`, read at `N` places in turn.
#[inline(always)]
fn sum<S: Simd, const N: usize>(simd: S, data: &[f32], prefetch: usize) -> f32 {
    /// Vectors taken from one place at a time, and sums kept side by side.
    const UNROLL: usize = 4;
    let (body, _) = S::as_simd_f32s(data);
    let steps = body.len() / (N * UNROLL);
    let mut streams = [&body[..0]; N];
    for (i, stream) in streams.iter_mut().enumerate() {
        *stream = &body[i * steps * UNROLL..(i + 1) * steps * UNROLL];
    }
    let line = (64 / size_of::<S::f32s>()).max(1);
    let mut acc = [simd.splat_f32s(0.0); UNROLL];
    for step in 0..steps {
        for stream in streams {
            let vectors = &stream[step * UNROLL..(step + 1) * UNROLL];
            for j in 0..UNROLL {
                if prefetch > 0 && j % line == 0 {
                    crate::ops::prefetch(vectors[j..].as_ptr().cast::<f32>(), prefetch);
                }
                acc[j] = simd.add_f32s(acc[j], vectors[j]);
            }
        }
    }
    simd.reduce_sum_f32s(
        simd.add_f32s(simd.add_f32s(acc[0], acc[1]), simd.add_f32s(acc[2], acc[3])),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_reads_everything() {
        // A whole number of steps for any of them, so that none leaves a rest unread.
        let data = vec![1.0f32; 8 * 4 * 16 * 10];
        for kernel in kernels() {
            let sum = Arch::new().dispatch(Read {
                kernel,
                data: &data,
            });
            assert_eq!(sum, data.len() as f32, "{kernel}");
        }
    }

    #[test]
    fn the_buffer_is_initialised_throughout() {
        let buffer = first_touched(1_000_003);
        assert!(buffer.iter().all(|x| *x == 1.0));
    }
}
