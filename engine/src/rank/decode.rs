//! Decoding on a GPU without the host: ids, positions and steps stay on the device, so that one step is like the next,
//! and can be captured once as a CUDA graph and launched again and again.

use std::time::{Duration, Instant};

use candle_core::Tensor;
use candle_core::cuda::WrapErr;
use candle_core::cuda::cudarc::driver::sys::{
    CUevent_flags::CU_EVENT_DEFAULT, CUgraphInstantiate_flags,
    CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED,
};
use candle_core::cuda::cudarc::driver::{CudaGraph, CudaStream};

use super::share::{Generated, Share};
use crate::config::ModelConfig;
use crate::error::EngineError;
use crate::format::Format;
use crate::gpu::Processor;
use crate::models::cache::KvCache;
use crate::models::parallel;
use crate::ops::Offset;
use crate::ops::cuda::{self, Greedy, source::Variant, step::Step};
use crate::size::kv_heads_per_rank;

/// Whether GPUs decode the model without the host: the engine's own models in one stage, with heads that its kernels are
/// made for; quantized ones on one GPU each, as candle looks up no share of a vocabulary. Else every step's ids pass the
/// host.
pub(crate) fn decodes_on_device(
    c: &ModelConfig,
    format: Format,
    parallel: crate::Parallel,
) -> bool {
    let world = parallel.tensor;
    let group = c.heads / world / kv_heads_per_rank(c, world);
    !c.family.is_reference()
        && parallel.pipeline == 1
        && (world == 1 || format.blocks().is_none())
        && Variant::attention(format.activations(Processor::Cuda), group, c.head_dim).is_some()
        && (!c.qk_norm || cuda::norms_heads_of(c.head_dim))
}

/// The state that decoding of one shape keeps between calls. It holds on to the cache that it was made for.
pub(super) struct Decode {
    n: usize,
    /// Gone before the buffers that it writes into.
    graph: Option<Graph>,
    greedy: Greedy,
    /// A step by few kernels, where there is one for the model.
    step: Option<Step>,
}

struct Graph(CudaGraph);

// SAFETY: a graph may be used by any thread, but by one at a time; its owner is behind a `&mut`.
unsafe impl Send for Graph {}

impl Share {
    /// Continues prompts by `n` ids each: the ids, and when each step's were there. The cache is this shape's, and
    /// `kept` what an earlier call with the same cache left.
    pub(super) fn generate_on_device(
        &mut self,
        prompts: &[Vec<u32>],
        n: usize,
        started: Instant,
        cache: &KvCache,
        kept: &mut Option<Decode>,
    ) -> Result<Generated, EngineError> {
        let (batch, input) = (prompts.len(), prompts[0].len());
        let stream = self.device.as_cuda_device()?.cuda_stream();
        let mut decode = match kept.take() {
            Some(decode) if decode.n == n => decode,
            _ => Decode {
                n,
                greedy: Greedy::new(batch, n, &self.device)?,
                step: match self.model.parts(&*self.comm) {
                    Some(parts) => Step::new(parts, batch, input + n)?,
                    None => None,
                },
                graph: None,
            },
        };
        // Of the prompts' last ids, until the next are taken.
        self.set(&decode.greedy.position, input - 1)?;
        self.set(&decode.greedy.step, 0)?;
        self.set(&decode.greedy.bad, 0)?;

        let logits = self.prefill(prompts, cache)?;
        decode.greedy.take(&self.best(&logits)?)?;
        drop(logits);
        // The first ids have to be on the host before the clock is read.
        let _first = decode.greedy.ids.to_vec1::<u32>()?;
        stream.synchronize().w()?;
        let first = started.elapsed();

        let event = || stream.record_event(Some(CU_EVENT_DEFAULT)).w();
        let begin = event()?;
        let mut ends = Vec::with_capacity(n - 1);
        for _ in 1..n {
            match &decode.graph {
                Some(Graph(graph)) if self.tuning.graphs => graph.launch().w()?,
                _ => {
                    // Numbers that a step copies from the host, as candle does with strides, have to be there whenever
                    // the graph is launched; a copy that the first step has not made the second may not make either.
                    let _kept = self.device.as_cuda_device()?.enable_cuda_graph_htod_cache();
                    self.step(&decode, cache)?;
                    // After one plain step every kernel is loaded.
                    if self.tuning.graphs {
                        decode.graph = Some(self.capture(&stream, &decode, cache)?);
                    }
                }
            }
            ends.push(event()?);
        }
        let ids = decode.greedy.history.to_vec2::<u32>()?;
        let bad = decode.greedy.bad.to_vec1::<u32>()?[0];
        stream.synchronize().w()?;
        let last = started.elapsed();
        if bad > 0 {
            return Err(parallel::not_a_number(bad as usize - 1).into());
        }
        let since = ends
            .iter()
            .map(|end| begin.elapsed_ms(end).w())
            .collect::<Result<Vec<f32>, _>>()?;
        *kept = Some(decode);
        Ok((ids, step_ends(first, &since, last)))
    }

    /// Enqueues one step: ids in, ids out.
    fn step(&mut self, decode: &Decode, cache: &KvCache) -> Result<(), EngineError> {
        if let Some(step) = &decode.step {
            return Ok(step.run(&decode.greedy, cache)?);
        }
        let Greedy { ids, position, .. } = &decode.greedy;
        let ids = ids.reshape((ids.dim(0)?, 1))?;
        let logits = self.forward(&ids, Offset::Device(position), cache, true)?;
        Ok(decode.greedy.take(&self.best(&logits)?)?)
    }

    /// A step as a graph.
    fn capture(
        &mut self,
        stream: &std::sync::Arc<CudaStream>,
        decode: &Decode,
        cache: &KvCache,
    ) -> Result<Graph, EngineError> {
        stream.begin_capture(CU_STREAM_CAPTURE_MODE_RELAXED).w()?;
        let step = self.step(decode, cache);
        // Also where the step failed: the stream has to leave its capture.
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).w();
        step?;
        let graph = graph?
            .ok_or_else(|| anyhow::anyhow!("the captured step is empty: nothing to launch"))?;
        graph.upload().w()?;
        Ok(Graph(graph))
    }

    fn set(&self, number: &Tensor, value: usize) -> Result<(), EngineError> {
        let value = u32::try_from(value)
            .map_err(|_| EngineError::Invalid(format!("position {value} is too large")))?;
        Ok(number.slice_set(&Tensor::new(&[value], &self.device)?, 0, 0)?)
    }
}

/// When each step's ids were there, counted from the start of the call: the first by the host's clock, as is the last,
/// when all of them had come; those between by the device's, in milliseconds since the first.
fn step_ends(first: Duration, since_ms: &[f32], last: Duration) -> Vec<Duration> {
    let mut ends = vec![first];
    let between = since_ms.len().saturating_sub(1);
    for ms in &since_ms[..between] {
        let end = first + Duration::from_secs_f64(f64::from(ms.max(0.0)) / 1e3);
        // The two clocks may differ by less than what lies between.
        ends.push(end.min(last));
    }
    if !since_ms.is_empty() {
        ends.push(last);
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_begin_and_end_on_the_host_and_stay_in_order() {
        let ms = Duration::from_millis;
        assert_eq!(step_ends(ms(10), &[], ms(11)), [ms(10)]);
        assert_eq!(step_ends(ms(10), &[2.0], ms(13)), [ms(10), ms(13)]);
        assert_eq!(
            step_ends(ms(10), &[2.0, 4.0, 6.0], ms(17)),
            [ms(10), ms(12), ms(14), ms(17)]
        );
        let odd = step_ends(ms(10), &[2.0, 9.0, 9.5], ms(18));
        assert!(odd.is_sorted(), "{odd:?}");
    }
}
