//! A model's work in bytes and operations, and how near a measurement came to what the machine's ceilings allow.
//!
//! Per device: tensor parallelism divides layers' weights, heads and the vocabulary evenly.

use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;
use crate::format::Format;
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
    /// The shape of a model with weights in `format`.
    pub fn of(config: &ModelConfig, format: Format) -> Self {
        Self {
            layers: config.layers,
            hidden: config.hidden,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            vocab: config.vocab_size,
            layer_params: layer_params(config) as usize,
            matmul_weight_bytes: format.matrix_bytes(matmul_params(config)) as usize,
            dtype_bytes: format.element_bytes(),
        }
    }
}

/// A load on the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Sequences, `b`.
    pub batch: usize,
    /// Tokens of each prompt, `s`.
    pub input: usize,
    /// Tokens generated per sequence, `n`.
    pub output: usize,
    /// Devices that share the model evenly.
    pub devices: usize,
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

/// The prefill of a whole batch: `2·P_layers·b·s + 2·b·V·E + 2·L·b·H·D·s²` operations (causal
/// attention; logits of the last position only); every weight read once and the cache written.
pub fn prefill(shape: &ModelShape, load: &Workload) -> Work {
    let (b, s) = (load.batch as f64, load.input as f64);
    let flops = 2.0 * shape.layer_params as f64 * b * s
        + head_flops(shape, b)
        + 2.0 * b * s * s * (shape.layers * shape.heads * shape.head_dim) as f64;
    let bytes = shape.matmul_weight_bytes as f64 + b * s * kv_bytes(shape);
    per_device(Work { bytes, flops }, load)
}

/// One decode step of the whole batch at the mean context `s + n/2`: the weights read once, the
/// cache read and one position of it written; `2·P_layers·b + 2·b·V·E + 4·L·b·H·D·(s + n/2)`
/// operations.
pub fn decode_step(shape: &ModelShape, load: &Workload) -> Work {
    let b = load.batch as f64;
    let context = mean_context(load);
    let flops = 2.0 * shape.layer_params as f64 * b
        + head_flops(shape, b)
        + 4.0 * b * context * (shape.layers * shape.heads * shape.head_dim) as f64;
    let bytes = shape.matmul_weight_bytes as f64 + b * (context + 1.0) * kv_bytes(shape);
    per_device(Work { bytes, flops }, load)
}

/// Bytes that every decode step touches, on one device: weights, and the cache at mean context. A
/// set that fits the last cache may beat the bandwidth ceiling.
pub fn decode_working_set(shape: &ModelShape, load: &Workload) -> f64 {
    let bytes =
        shape.matmul_weight_bytes as f64 + load.batch as f64 * mean_context(load) * kv_bytes(shape);
    bytes / load.devices as f64
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

fn head_flops(shape: &ModelShape, positions: f64) -> f64 {
    2.0 * positions * (shape.vocab * shape.hidden) as f64
}

fn per_device(work: Work, load: &Workload) -> Work {
    let devices = load.devices as f64;
    Work {
        bytes: work.bytes / devices,
        flops: work.flops / devices,
    }
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
            devices: 1,
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
            devices,
        };
        for work in [prefill, decode_step] {
            let (one, four) = (work(&GPT2, &load(1)), work(&GPT2, &load(4)));
            assert_eq!((one.bytes, one.flops), (4.0 * four.bytes, 4.0 * four.flops));
        }
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
