//! A GPU's ceilings: how fast its memory can be read, by the best of several kernels, and matrices be multiplied.

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};

use super::bandwidth::{Bandwidth, CACHES};
use super::best::best_of;
use super::matrix::{self, Matrix};
use super::roofline::ModelShape;
use crate::error::EngineError;
use crate::format::Format;
use crate::gpu::Processor;
use crate::ops::cuda::{READERS, read};

/// Large enough that beginning and end of a kernel do not count.
const BUFFER: usize = 2 << 30;
/// Kernels between two waits for the device: a wait costs microseconds.
const TURNS: usize = 4;

/// Both ceilings of the first GPU, for about `budget` each.
pub(super) fn measure(
    format: Format,
    shape: Option<&ModelShape>,
    budget: Duration,
) -> Result<(Bandwidth, Matrix), EngineError> {
    let found = crate::gpu::find(1)?;
    let device = Processor::Cuda.open()?;
    let products = matrix::gpu_products(shape);
    Ok((
        bandwidth(&device, found[0].cache as usize, budget)?,
        matrix::measure(
            &device,
            format.activations(Processor::Cuda),
            &products,
            budget,
        )?,
    ))
}

/// Reads for about `budget` on a GPU with a last cache of `cache` bytes.
fn bandwidth(device: &Device, cache: usize, budget: Duration) -> Result<Bandwidth, EngineError> {
    let free = crate::gpu::available_memory(device)? as usize;
    let bytes = BUFFER
        .max(CACHES * cache)
        .min(free / 4)
        .next_multiple_of(16);
    let buffer = Tensor::ones(bytes / size_of::<f32>(), DType::F32, device)?;
    let out = Tensor::zeros(1, DType::U32, device)?;
    // Compiled and loaded before anything is timed.
    for reader in READERS {
        read(reader, &buffer, &out)?;
    }
    device.synchronize()?;
    let mut failure = None;
    let (best, rate, repeats) = best_of(&READERS, budget, |reader| {
        let start = Instant::now();
        let done = (0..TURNS)
            .try_for_each(|_| read(reader, &buffer, &out))
            .and_then(|()| device.synchronize());
        if let Err(error) = done {
            failure = Some(error);
            return 0.0;
        }
        (TURNS * bytes) as f64 / start.elapsed().as_secs_f64()
    });
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(Bandwidth {
            bytes_per_second: rate,
            kernel: format!(
                "{} blocks of {} threads on each multiprocessor, {} words of 16 bytes ahead",
                best.blocks, best.threads, best.ahead
            ),
            repeats,
            buffer_bytes: bytes,
            cache_bytes: Some(cache),
        }),
    }
}
