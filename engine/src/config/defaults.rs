//! Members that a `config.json` may leave out, by architecture: the defaults of transformers 5's configuration classes.

use super::Family;

/// The defaults of one architecture.
pub(super) struct Defaults {
    pub vocab_size: usize,
    pub hidden: usize,
    /// GPT-2 has four times the hidden size.
    pub intermediate: usize,
    pub layers: usize,
    pub heads: usize,
    /// None: as many as there are query heads.
    pub kv_heads: Option<usize>,
    /// None: the hidden size over the number of heads.
    pub head_dim: Option<usize>,
    pub max_position: usize,
    pub sliding_window: Option<usize>,
    pub norm_eps: f64,
    pub tied: bool,
    pub rope_theta: f64,
}

const LLAMA: Defaults = Defaults {
    vocab_size: 32_000,
    hidden: 4096,
    intermediate: 11_008,
    layers: 32,
    heads: 32,
    kv_heads: None,
    head_dim: None,
    max_position: 2048,
    sliding_window: None,
    norm_eps: 1e-6,
    tied: false,
    rope_theta: 1e4,
};

const GPT2: Defaults = Defaults {
    vocab_size: 50_257,
    hidden: 768,
    intermediate: 4 * 768,
    layers: 12,
    heads: 12,
    max_position: 1024,
    norm_eps: 1e-5,
    tied: true,
    ..LLAMA
};

const MISTRAL: Defaults = Defaults {
    intermediate: 14_336,
    kv_heads: Some(8),
    max_position: 131_072,
    sliding_window: Some(4096),
    ..LLAMA
};

const QWEN2: Defaults = Defaults {
    vocab_size: 151_936,
    intermediate: 22_016,
    kv_heads: Some(32),
    max_position: 32_768,
    sliding_window: Some(4096),
    ..LLAMA
};

const QWEN3: Defaults = Defaults {
    head_dim: Some(128),
    ..QWEN2
};

const GEMMA3: Defaults = Defaults {
    vocab_size: 262_208,
    hidden: 2304,
    intermediate: 9216,
    layers: 26,
    heads: 8,
    kv_heads: Some(4),
    head_dim: Some(256),
    max_position: 131_072,
    sliding_window: Some(4096),
    tied: true,
    rope_theta: 1e6,
    ..LLAMA
};

const PHI3: Defaults = Defaults {
    vocab_size: 32_064,
    hidden: 3072,
    intermediate: 8192,
    max_position: 4096,
    norm_eps: 1e-5,
    ..LLAMA
};

impl Defaults {
    /// Those of a family.
    pub fn of(family: Family) -> &'static Self {
        match family {
            Family::Gpt2 => &GPT2,
            Family::Llama => &LLAMA,
            Family::Mistral => &MISTRAL,
            Family::Qwen2 => &QWEN2,
            Family::Qwen3 => &QWEN3,
            Family::Gemma3 => &GEMMA3,
            Family::Phi3 => &PHI3,
        }
    }
}
