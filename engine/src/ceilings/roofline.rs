//! A model's work in bytes and operations, and how near a measurement came to what the machine's ceilings allow.
//!
//! Per device, and of the one that has the most to do. Tensor parallelism divides layers' weights, heads and the
//! vocabulary evenly; a stage of a pipeline has some of the layers, the last one the output matrix, too; a replica has some
//! of the sequences, and all of the weights. Nothing is over before that device has done its part; what it waits for, and
//! what it reads again for every part of a batch in a pipeline, is lost. So of a single sequence, which goes through
//! `k` stages one after the other, no more of the ceilings can be reached than the busiest stage's share of all, `1 / k`
//! where they are equal.

use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;
use crate::format::Format;
use crate::gpu::Processor;
use crate::parallel::Parallel;
use crate::size::{layer_params, matmul_params};

/// The sizes of a decoder-only model that the work depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelShape {
    /// Decoder layers.
    pub layers: usize,
    /// Width of the residual stream, `E`.
    pub hidden: usize,
    /// Query heads, `H`.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Elements per head, `D`.
    pub head_dim: usize,
    /// Rows of the output matrix, `V`.
    pub vocab: usize,
    /// Parameters of all layers' weight matrices together, `P_layers`: neither biases and norms nor
    /// embeddings and output matrix.
    pub layer_params: usize,
    /// Bytes of every matrix read to make one token: the layers' and the output matrix (once, tied
    /// to the embedding or not).
    pub matmul_weight_bytes: usize,
    /// Bytes of one element of the cache.
    pub dtype_bytes: usize,
}

impl ModelShape {
    /// The shape of a model with weights in `format`, on a kind of processor.
    pub fn of(config: &ModelConfig, format: Format, processor: Processor) -> Self {
        Self {
            layers: config.layers,
            hidden: config.hidden,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            vocab: config.vocab_size,
            layer_params: layer_params(config) as usize,
            matmul_weight_bytes: format.matrix_bytes(matmul_params(config)) as usize,
            dtype_bytes: format.element_bytes(processor),
        }
    }
}

/// A load on the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Sequences, `b`.
    pub batch: usize,
    /// Tokens of each prompt, `s`.
    pub input: usize,
    /// Tokens generated per sequence, `n`.
    pub output: usize,
    /// How the work is divided among devices.
    pub parallel: Parallel,
}

/// Bytes to move and operations to do, for one device.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Bytes read and written.
    pub bytes: f64,
    /// Floating-point operations, a multiply-add counting two.
    pub flops: f64,
}

/// The ceiling that a piece of work meets first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Bound {
    /// Memory bandwidth.
    Bandwidth,
    /// Matrix products.
    Matrix,
}

/// How near a measurement came to what the ceilings allow.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fraction {
    /// Least possible time over measured time.
    pub value: f64,
    /// The ceiling that sets the least possible time.
    pub bound: Bound,
}

/// The prefill of a whole batch, undivided: `2·P_layers·b·s + 2·b·V·E + 2·L·b·H·D·s²` operations (causal
/// attention; logits of the last position only); every weight read once and the cache written.
pub fn prefill(shape: &ModelShape, load: &Workload) -> Work {
    let (b, s) = (sequences(load), load.input as f64);
    let layers = Work {
        bytes: layer_bytes(shape) + b * s * kv_bytes(shape),
        flops: 2.0 * shape.layer_params as f64 * b * s
            + 2.0 * b * s * s * (shape.layers * shape.heads * shape.head_dim) as f64,
    };
    busiest(layers, head(shape, b), shape, load)
}

/// One decode step of the whole batch at the mean context `s + n/2`, undivided: the weights read once, the
/// cache read and one position of it written; `2·P_layers·b + 2·b·V·E + 4·L·b·H·D·(s + n/2)`
/// operations.
pub fn decode_step(shape: &ModelShape, load: &Workload) -> Work {
    let (b, context) = (sequences(load), mean_context(load));
    let layers = Work {
        bytes: layer_bytes(shape) + b * (context + 1.0) * kv_bytes(shape),
        flops: 2.0 * shape.layer_params as f64 * b
            + 4.0 * b * context * (shape.layers * shape.heads * shape.head_dim) as f64,
    };
    busiest(layers, head(shape, b), shape, load)
}

/// Bytes that every decode step touches, on one device: weights, and the cache at mean context. A
/// set that fits the last cache may beat the bandwidth ceiling.
pub fn decode_working_set(shape: &ModelShape, load: &Workload) -> f64 {
    let b = sequences(load);
    let layers = Work {
        bytes: layer_bytes(shape) + b * mean_context(load) * kv_bytes(shape),
        flops: 0.0,
    };
    busiest(layers, head(shape, b), shape, load).bytes
}

/// `max(bytes/bandwidth, flops/matrix) ÷ seconds`.
///
/// `bandwidth` in bytes per second, `matrix` in operations per second, `seconds` measured; all
/// positive.
pub fn fraction(work: &Work, bandwidth: f64, matrix: f64, seconds: f64) -> Fraction {
    let (moving, computing) = (work.bytes / bandwidth, work.flops / matrix);
    let bound = if moving >= computing {
        Bound::Bandwidth
    } else {
        Bound::Matrix
    };
    Fraction {
        value: moving.max(computing) / seconds,
        bound,
    }
}

fn mean_context(load: &Workload) -> f64 {
    load.input as f64 + load.output as f64 / 2.0
}

/// Bytes of one position of one sequence in the cache.
fn kv_bytes(shape: &ModelShape) -> f64 {
    (2 * shape.layers * shape.kv_heads * shape.head_dim * shape.dtype_bytes) as f64
}

/// Sequences of the replica that has the most.
fn sequences(load: &Workload) -> f64 {
    load.batch.div_ceil(load.parallel.data) as f64
}

/// The operations of the output matrix for `positions`.
fn head(shape: &ModelShape, positions: f64) -> Work {
    let params = (shape.vocab * shape.hidden) as f64;
    let share = params / (shape.layer_params as f64 + params);
    Work {
        bytes: (shape.matmul_weight_bytes as f64 * share).round(),
        flops: 2.0 * positions * params,
    }
}

fn layer_bytes(shape: &ModelShape) -> f64 {
    shape.matmul_weight_bytes as f64 - head(shape, 0.0).bytes
}

/// The most that a device has to do, of what all layers and the output matrix take.
fn busiest(layers: Work, head: Work, shape: &ModelShape, load: &Workload) -> Work {
    let ranks = load.parallel.tensor as f64;
    let mut most = Work {
        bytes: 0.0,
        flops: 0.0,
    };
    for stage in load.parallel.stages() {
        let share = stage.layers(shape.layers).len() as f64 / shape.layers.max(1) as f64;
        let heads = if stage.is_last() { 1.0 } else { 0.0 };
        let of = |layers: f64, head: f64| (layers * share + head * heads) / ranks;
        most.bytes = most.bytes.max(of(layers.bytes, head.bytes));
        most.flops = most.flops.max(of(layers.flops, head.flops));
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    /// GPT-2 124M in f32.
    const GPT2: ModelShape = ModelShape {
        layers: 12,
        hidden: 768,
        heads: 12,
        kv_heads: 12,
        head_dim: 64,
        vocab: 50257,
        layer_params: 12 * 12 * 768 * 768,
        matmul_weight_bytes: 4 * (12 * 12 * 768 * 768 + 50257 * 768),
        dtype_bytes: 4,
    };

    #[test]
    fn gpt2_by_hand() {
        let load = Workload {
            batch: 1,
            input: 512,
            output: 64,
            parallel: Parallel::ONE,
        };
        let work = prefill(&GPT2, &load);
        // 2·84,934,656·512 + 2·50,257·768 + 2·12·768·512²
        assert_eq!(
            work.flops,
            86_973_087_744.0 + 77_194_752.0 + 4_831_838_208.0
        );
        let step = decode_step(&GPT2, &load);
        // 494,128,128 weights' bytes; 73,728 bytes per position, 544 read and 1 written.
        assert_eq!(step.bytes, 494_128_128.0 + 545.0 * 73_728.0);
        assert_eq!(
            step.flops,
            169_869_312.0 + 77_194_752.0 + 4.0 * 544.0 * 9_216.0
        );
        assert_eq!(
            decode_working_set(&GPT2, &load),
            494_128_128.0 + 544.0 * 73_728.0
        );
    }

    #[test]
    fn devices_share_the_work_evenly() {
        let load = |devices| Workload {
            batch: 4,
            input: 128,
            output: 32,
            parallel: Parallel::tensor(devices),
        };
        for work in [prefill, decode_step] {
            let (one, four) = (work(&GPT2, &load(1)), work(&GPT2, &load(4)));
            assert_eq!((one.bytes, one.flops), (4.0 * four.bytes, 4.0 * four.flops));
        }
    }

    /// Of five stages the first two have three layers, the last one two and the output matrix, which is the most.
    #[test]
    fn the_busiest_device_counts() {
        let load = |pipeline, data| Workload {
            batch: 5,
            input: 128,
            output: 32,
            parallel: Parallel {
                tensor: 2,
                pipeline,
                data,
            },
        };
        let step = decode_step(&GPT2, &load(5, 2));
        let (layers, head) = (4.0 * 84_934_656.0, 4.0 * 38_597_376.0);
        // The larger replica has three of the sequences: 145 positions of the cache each.
        let cache = 3.0 * 145.0 * 73_728.0;
        assert!((step.bytes - ((layers + cache) / 6.0 + head) / 2.0).abs() < 1.0);
        // Replicas divide the sequences, and no weights.
        let (one, five) = (
            decode_step(&GPT2, &load(1, 1)),
            decode_step(&GPT2, &load(1, 5)),
        );
        assert_eq!(one.flops, 5.0 * five.flops);
        assert_eq!(one.bytes - five.bytes, 4.0 * 145.0 * 73_728.0 / 2.0);
    }

    #[test]
    fn the_slower_side_binds() {
        let work = Work {
            bytes: 10.0,
            flops: 100.0,
        };
        let moving = fraction(&work, 1.0, 1000.0, 20.0);
        assert_eq!(
            moving,
            Fraction {
                value: 0.5,
                bound: Bound::Bandwidth
            }
        );
        let computing = fraction(&work, 1000.0, 1.0, 200.0);
        assert_eq!(
            computing,
            Fraction {
                value: 0.5,
                bound: Bound::Matrix
            }
        );
    }
}
