//! A model's parameters and memory, and whether a combination can run at all: arithmetic on its configuration alone.

use std::ops::Range;

use crate::config::{Family, ModelConfig};
use crate::format::Format;
use crate::gpu::Processor;
use crate::parallel::{Parallel, Stage};

/// Prompt positions (batch × length) computed at a time: enough rows to keep a matrix product busy,
/// few enough that activations stay small beside the weights.
pub const PREFILL_ROWS: usize = 2048;

/// The exact number of parameters, a tied head once.
pub fn params(config: &ModelConfig) -> u64 {
    config
        .tensors()
        .iter()
        .map(|(_, shape)| shape.iter().map(|&n| n as u64).product::<u64>())
        .sum()
}

/// The parameters that every decode step multiplies by: the layers' matrices and the head, tied or
/// not, once.
pub fn matmul_params(config: &ModelConfig) -> u64 {
    layer_params(config) + (config.vocab_size * config.hidden) as u64
}

/// The parameters of the layers' matrices.
pub fn layer_params(config: &ModelConfig) -> u64 {
    config
        .tensors()
        .iter()
        .filter(|(name, shape)| shape.len() == 2 && is_of_a_layer(name))
        .map(|(_, shape)| (shape[0] * shape[1]) as u64)
        .sum()
}

fn is_of_a_layer(tensor: &str) -> bool {
    tensor.contains(".layers.") || tensor.contains(".h.")
}

/// The most stages that the layers can be divided into: reference models come in one.
pub fn max_stages(config: &ModelConfig) -> usize {
    if config.family.is_reference() {
        1
    } else {
        config.layers.max(1)
    }
}

/// Why the combination cannot run, by design and whatever the memory; none where it can.
///
/// - `parallel.tensor` has to divide the query heads. Key and value heads are split where it divides them, and
///   replicated where they divide it.
/// - `parallel.pipeline` has to be within [`max_stages`].
/// - Reference models run on one rank each; there may be several replicas.
/// - `input` has to be within [`ModelConfig::max_prompt`], and `input + output` within
///   [`ModelConfig::max_sequence`].
/// - A quantized `format` needs rows of whole blocks on every rank, and no reference model.
pub fn unsupported(
    config: &ModelConfig,
    parallel: Parallel,
    input: usize,
    output: usize,
    format: Format,
) -> Option<String> {
    let impossible = unsupported_parts(config, parallel)
        .or_else(|| unsupported_format(config, parallel.tensor, format));
    if impossible.is_some() {
        return impossible;
    }
    let limit = config.max_sequence();
    if input + output > limit {
        let what = if limit < config.max_position {
            "attention window"
        } else {
            "context length"
        };
        // A caller may not know yet how many of them are the prompt's.
        let tokens = match input {
            0 => format!("{output} tokens"),
            _ => format!("{input} input and {output} output tokens"),
        };
        return Some(format!("{tokens} exceed the {what} of {limit}"));
    }
    if input > config.max_prompt() {
        return Some(format!(
            "{input} input tokens exceed the attention window of {}",
            config.max_prompt()
        ));
    }
    None
}

fn unsupported_parts(c: &ModelConfig, parallel: Parallel) -> Option<String> {
    let world = parallel.tensor;
    if parallel.world() == 0 {
        return Some("0 ranks: at least 1 is needed".into());
    }
    if parallel.replica() > 1 && c.family.is_reference() {
        let each = match parallel.data {
            1 => "",
            _ => " for each replica",
        };
        return Some(format!(
            "{} runs on one device only, not on {}{each}",
            c.architecture(),
            parallel.replica()
        ));
    }
    if parallel.pipeline > max_stages(c) {
        return Some(format!(
            "{} layers cannot be divided into {} stages",
            c.layers, parallel.pipeline
        ));
    }
    // A number that nobody has written needs an explanation.
    let which = if world == parallel.world() {
        String::new()
    } else {
        format!(
            ", which is gpus {} / (pipelineParallel {} × dataParallel {})",
            parallel.world(),
            parallel.pipeline,
            parallel.data
        )
    };
    if !c.heads.is_multiple_of(world) {
        return Some(format!(
            "{} heads are not divisible by {world}{which}",
            c.heads
        ));
    }
    if !c.kv_heads.is_multiple_of(world) && !world.is_multiple_of(c.kv_heads) {
        return Some(format!(
            "{} key and value heads can neither be split nor replicated over {world}{which}",
            c.kv_heads
        ));
    }
    None
}

fn unsupported_format(c: &ModelConfig, world: usize, format: Format) -> Option<String> {
    let block = format.block_len();
    if block > 1 && c.family.is_reference() {
        return Some(format!(
            "{} runs in f32, bf16 and f16 only, not in {format}",
            c.architecture()
        ));
    }
    // The feed-forward layer's width is padded instead.
    let rows = [
        ("hidden size", c.hidden),
        ("heads' width per rank", c.heads / world * c.head_dim),
    ];
    rows.iter()
        .find(|(_, len)| !len.is_multiple_of(block))
        .map(|(what, len)| {
            format!("the {what} of {len} is not divisible by {format}'s blocks of {block}")
        })
}

/// How many key and value heads each rank holds.
pub(crate) fn kv_heads_per_rank(c: &ModelConfig, world: usize) -> usize {
    (c.kv_heads / world).max(1)
}

/// Which key and value heads a rank holds: its own, or the one that its query heads share with other
/// ranks.
pub(crate) fn kv_share(c: &ModelConfig, rank: usize, world: usize) -> Range<usize> {
    let first = rank * c.kv_heads / world;
    first..first + kv_heads_per_rank(c, world)
}

/// Predicted memory of one rank, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Parameters of the whole model (not bytes).
    pub params: u64,
    /// The rank's weights, with their padding.
    pub weights: u64,
    /// The rank's keys and values for the whole batch and sequence.
    pub kv_cache: u64,
    /// An estimate of what lives at once beside them: activations of a chunk of the prompt, or of a
    /// decode step, with logits and attention scratch.
    pub activations: u64,
}

impl Memory {
    /// The rank's predicted peak.
    pub fn peak(&self) -> u64 {
        self.weights + self.kv_cache + self.activations
    }
}

/// Predicts the memory of one rank, with weights in a format on a kind of processor, for `batch` sequences of `input + output` tokens: of one that needs the most, as
/// stages hold more or less of the model, and replicas more or less of the batch.
pub fn memory(
    c: &ModelConfig,
    (format, processor): (Format, Processor),
    batch: usize,
    input: usize,
    output: usize,
    parallel: Parallel,
) -> Memory {
    let stages = memory_of_stages(c, (format, processor), batch, input, output, parallel);
    let most = stages.into_iter().max_by_key(Memory::peak);
    most.expect("there is a stage at least")
}

/// As [`memory`], of a rank of each stage.
pub(crate) fn memory_of_stages(
    c: &ModelConfig,
    (format, processor): (Format, Processor),
    batch: usize,
    input: usize,
    output: usize,
    parallel: Parallel,
) -> Vec<Memory> {
    let parallel = Parallel {
        tensor: parallel.tensor.max(1),
        pipeline: parallel.pipeline.max(1),
        data: parallel.data.max(1),
    };
    let load = [batch.div_ceil(parallel.data), input, output];
    let stages = parallel.stages();
    stages
        .map(|stage| memory_of(c, (format, processor), load, parallel.tensor, stage))
        .collect()
}

fn memory_of(
    c: &ModelConfig,
    (format, processor): (Format, Processor),
    [batch, input, output]: [usize; 3],
    world: usize,
    stage: Stage,
) -> Memory {
    let element = format.element_bytes(processor) as u64;
    let [b, s, n, w] = [batch, input, output, world].map(|v| v as u64);
    let [v, e, f, h, d, layers] = [
        c.vocab_size,
        c.hidden,
        c.intermediate,
        c.heads,
        c.head_dim,
        stage.layers(c.layers).len(),
    ]
    .map(|v| v as u64);
    let kvh = kv_heads_per_rank(c, world) as u64;
    let (first, last) = (stage.is_first(), stage.is_last());
    // Layers are alike.
    let of_layers = |all: u64| all * layers / c.layers.max(1) as u64;
    // A tied head is a matrix of its own where the embedding is on another stage.
    let vocab_matrices = match (first, last) {
        (true, true) if !c.tied => 2,
        (false, false) => 0,
        _ => 1,
    };
    // The share of the matrices; norms and learned positions, held by every rank, are small.
    let replicated = match c.family {
        Family::Gpt2 if first => c.max_position as u64 * e,
        _ => 0,
    };
    let replicated_kv = layers * e * d * 2 * (kvh * w - c.kv_heads as u64);
    let padding = vocab_matrices * e * (v.div_ceil(64 * w) * 64 * w - v);
    // Norms and biases, which are never quantized; counted as shared, though every rank holds the norms.
    let (mut vectors, mut last_norm) = (0, 0);
    for (name, shape) in c.tensors().iter().filter(|(_, shape)| shape.len() == 1) {
        let sum = if is_of_a_layer(name) {
            &mut vectors
        } else {
            &mut last_norm
        };
        *sum += shape[0] as u64;
    }
    let vectors = of_layers(vectors) + if last { last_norm } else { 0 };
    // The padding of the feed-forward layers' width to whole blocks; that of plain ones is less than a rank's share.
    let inner = f.div_ceil(w).next_multiple_of(format.block_len() as u64);
    let fill = match format.blocks() {
        None => 0,
        Some(_) => layers * (inner * w - f) * e * if c.rope.is_some() { 3 } else { 2 },
    };
    let matrices =
        of_layers(layer_params(c)) + vocab_matrices * v * e + replicated_kv + padding + fill;
    // The adapters compute in one type.
    let matrix_bytes = match c.family.is_reference() {
        true => matrices * element,
        false => format.matrix_bytes(matrices),
    };
    let weights = (matrix_bytes + vectors * element).div_ceil(w) + replicated * element;
    let rope = if c.rope.is_some() { (s + n) * d } else { 0 };

    let kv_cache = layers * 2 * b * kvh * (s + n) * d * element;
    let rows = if c.family.is_reference() {
        b * s
    } else {
        // At least one row of a sequence each; see the engine's chunking, which is finer in several stages.
        (b * s)
            .min(PREFILL_ROWS.div_ceil(stage.count) as u64)
            .max(1)
    };
    // Residual, its norm, q|k|v with the copies that attention takes, the feed-forward's two halves
    // and their product.
    let per_row = 3 * e + 3 * (h / w + 2 * kvh) * d + 3 * f.div_ceil(w);
    let scores = match c.family {
        _ if c.family.is_reference() => 3 * b * h * s * s,
        _ => (rows * h / w * s).min(1 << 28),
    };
    // The adapters grow their caches by copying them.
    let copies = if c.family.is_reference() { kv_cache } else { 0 };
    let logits = if last { b * v.div_ceil(w) * 2 } else { 0 };
    // A GPU unpacks quantized matrices for many rows, one at a time; the head's too, where a batch is of many.
    let unpacked = match (format.blocks(), processor) {
        (Some(_), Processor::Cuda) => {
            let head = if last && b > 1 { e * v } else { 0 };
            let layer = (e * 2 * f).max(e * (h + 2 * kvh * w) * d);
            layer.max(head).div_ceil(w)
        }
        _ => 0,
    };
    let activations = (rows * per_row + scores + logits + rope + unpacked) * element + copies;
    Memory {
        params: params(c),
        weights,
        kv_cache,
        activations,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::presets::{self, preset};

    #[test]
    fn gpt2_in_f32() {
        let gpt2 = preset("gpt2").unwrap();
        let m = memory(
            &gpt2,
            (Format::F32, Processor::Cpu),
            8,
            512,
            16,
            Parallel::ONE,
        );
        assert_eq!(m.params, 124_439_808);
        // 47 rows of padding: 50,304 is the next multiple of 64.
        assert_eq!(m.weights, (124_439_808 + 47 * 768) * 4);
        assert_eq!(m.kv_cache, 12 * 2 * 8 * 528 * 768 * 4);
        assert_eq!(layer_params(&gpt2), 12 * 12 * 768 * 768);
        assert_eq!(matmul_params(&gpt2), 12 * 12 * 768 * 768 + 50_257 * 768);
    }

    /// The published sizes of the models that the presets are named after.
    #[test]
    fn parameters_are_those_of_the_published_models() {
        for (name, params) in [
            ("gpt2", 124_439_808),
            ("gpt2-medium", 354_823_168),
            ("gpt2-large", 774_030_080),
            ("gpt2-xl", 1_557_611_200),
            ("llama3-8b", 8_030_261_248),
            ("llama3-70b", 70_553_706_496),
            ("smollm2-135m", 134_515_008),
            ("tinyllama-1.1b", 1_100_048_384),
            ("qwen2.5-0.5b", 494_032_768),
        ] {
            assert_eq!(super::params(&preset(name).unwrap()), params, "{name}");
        }
    }

    #[test]
    fn a_sequence_that_is_not_divided_yet_is_told_as_a_whole() {
        let gpt2 = preset("gpt2").unwrap();
        let of = |input, output| unsupported(&gpt2, Parallel::ONE, input, output, Format::F32);
        let whole = "1025 tokens exceed the context length of 1024";
        assert_eq!(of(0, 1025).as_deref(), Some(whole));
        let divided = "1024 input and 1 output tokens exceed the context length of 1024";
        assert_eq!(of(1024, 1).as_deref(), Some(divided));
    }

    #[test]
    fn a_head_apart_is_no_matmul_of_the_embedding() {
        let llama = preset("llama3-8b").unwrap();
        let embedding = 128_256 * 4096;
        assert!(params(&llama) - matmul_params(&llama) > embedding);
        assert!(params(&llama) - matmul_params(&llama) < embedding + 1_000_000);
    }

    /// 12 layers on five stages: three, three, and thrice two. The embedding is on the first, and tied to a copy on the
    /// last.
    #[test]
    fn stages_hold_their_layers_and_the_ends_what_is_theirs() {
        let gpt2 = preset("gpt2").unwrap();
        let parallel = Parallel {
            tensor: 1,
            pipeline: 5,
            data: 3,
        };
        let stages = memory_of_stages(&gpt2, (Format::F32, Processor::Cpu), 7, 512, 16, parallel);
        let layer = 12 * 768 * 768 + 13 * 768;
        let head = 50_304 * 768;
        let params = [
            3 * layer + head + 1024 * 768,
            3 * layer,
            2 * layer,
            2 * layer,
            2 * layer + head + 2 * 768,
        ];
        for ((memory, params), layers) in stages.iter().zip(params).zip([3, 3, 2, 2, 2]) {
            assert_eq!(memory.weights, params * 4);
            // The replica with most sequences has three of the seven.
            assert_eq!(memory.kv_cache, layers * 2 * 3 * 528 * 768 * 4);
        }
        assert_eq!(
            memory(&gpt2, (Format::F32, Processor::Cpu), 7, 512, 16, parallel),
            stages[0]
        );
    }

    /// Prompts go through five stages in chunks of a fifth, and only the last has logits and multiplies by the head.
    #[test]
    fn stages_compute_their_layers_and_the_last_the_logits() {
        let gpt2 = preset("gpt2").unwrap();
        let parallel = Parallel {
            tensor: 1,
            pipeline: 5,
            data: 3,
        };
        let rows = 410;
        let per_row = 3 * 768 + 3 * (12 + 2 * 12) * 64 + 3 * 3072;
        let (scores, logits) = (rows * 12 * 512, 3 * 50_257 * 2);
        for (format, processor, layer, head) in [
            (Format::F32, Processor::Cpu, 0, 0),
            (Format::Q8_0, Processor::Cpu, 0, 0),
            (Format::Q8_0, Processor::Cuda, 768 * 2 * 3072, 768 * 50_257),
        ] {
            let stages = memory_of_stages(&gpt2, (format, processor), 7, 512, 16, parallel);
            let bytes = format.element_bytes(processor) as u64;
            let elements: Vec<_> = stages.iter().map(|m| m.activations / bytes).collect();
            let of_layers = rows * per_row + scores;
            assert_eq!(
                elements[..4],
                [of_layers + layer; 4],
                "{format} {processor:?}"
            );
            assert_eq!(
                elements[4],
                of_layers + logits + head,
                "{format} {processor:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn more_never_needs_less_and_ranks_share(
            name in prop::sample::select(presets::names().collect::<Vec<_>>()),
            batch in 1usize..64, input in 1usize..512, output in 1usize..512,
        ) {
            let c = preset(name).unwrap();
            let at = |b, s, n, w| memory(&c, (Format::BF16, Processor::Cuda), b, s, n, Parallel::tensor(w));
            let m = at(batch, input, output, 1);
            prop_assert!(at(batch + 1, input, output, 1).peak() > m.peak());
            prop_assert!(at(batch, input + 1, output, 1).peak() > m.peak());
            prop_assert!(at(batch, input, output + 1, 1).peak() > m.peak());
            let splits = |w| unsupported(&c, Parallel::tensor(w), 1, 1, Format::BF16).is_none();
            for world in (2..=8).filter(|&w| splits(w)) {
                let part = at(batch, input, output, world);
                let w = world as u64;
                prop_assert!(part.peak() < m.peak());
                prop_assert!(part.weights * w >= m.weights);
                prop_assert!(part.kv_cache * w >= m.kv_cache);
            }
        }

        /// Ranks hold every key and value head, together as often as they have to.
        #[test]
        fn heads_are_shared_out(kv_heads in 1usize..20, world in 1usize..20) {
            let mut c = preset("tiny-llama").unwrap();
            c.kv_heads = kv_heads;
            c.heads = kv_heads * world;
            prop_assume!(unsupported(&c, Parallel::tensor(world), 1, 1, Format::F32).is_none());
            let held: Vec<_> = (0..world).flat_map(|r| kv_share(&c, r, world)).collect();
            for head in 0..kv_heads {
                let copies = (world / kv_heads).max(1);
                prop_assert_eq!(held.iter().filter(|&&h| h == head).count(), copies);
            }
        }
    }
}
