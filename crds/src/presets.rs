//! The names of the known models whose shape `source.random` can take. The shapes themselves are
//! the engine's, in the same order: a test of the runner, which sees both, holds one to the other.

/// Every preset: the study's models, small ones for a laptop, and a tiny one of each family for tests.
pub const PRESETS: [&str; 14] = [
    "gpt2",
    "gpt2-medium",
    "gpt2-large",
    "gpt2-xl",
    "llama3-8b",
    "llama3-70b",
    "smollm2-135m",
    "tinyllama-1.1b",
    "qwen2.5-0.5b",
    "tiny-gpt2",
    "tiny-llama",
    "tiny-qwen2",
    "tiny-qwen3",
    "tiny-mistral",
];
