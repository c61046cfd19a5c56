//! The servers that people deploy: how each is started, asked and watched, in one table ([`TABLE`]). A spec may replace
//! any of it. Options change: look one up in its documentation before it is changed here.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::dtype::Dtype;

/// The program of a server, as far as inferbench knows it.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord,
)]
#[serde(rename_all = "camelCase")]
pub enum Preset {
    /// vLLM: `vllm serve`.
    Vllm,
    /// SGLang: `python3 -m sglang.launch_server`.
    Sglang,
    /// llama.cpp: `llama-server`. It reads GGUF files, whose data type is the file's own.
    LlamaCpp,
    /// TensorRT-LLM: `trtllm-serve` with its PyTorch backend.
    TensorrtLlm,
    /// Any other that speaks OpenAI's completions API. How it is started, the spec says.
    #[default]
    Openai,
}

/// The form in which prompts are sent.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Prompt {
    /// As token ids: their number is exact.
    Ids,
    /// As text, cut to the number of tokens by the model's own tokenizer. The server may count otherwise, and then says so.
    Text,
}

/// The way in which tokens of a stream are counted: an event need not be a token.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum Counting {
    /// Each choice brings the ids of its tokens in `token_ids`.
    TokenIds,
    /// Each event has `timings.predicted_n`, the tokens so far.
    Timings,
    /// Each event has `usage.completion_tokens`, the tokens so far.
    ContinuousUsage,
    /// Only the last event tells, in `usage.completion_tokens`: the gaps are those between events.
    FinalUsage,
}

impl Counting {
    /// Its name in specs and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TokenIds => "tokenIds",
            Self::Timings => "timings",
            Self::ContinuousUsage => "continuousUsage",
            Self::FinalUsage => "finalUsage",
        }
    }
}

/// An argument of a server's command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Its names; the first is used, and any of them in the spec's own arguments stands in place of this one.
    pub names: &'static [&'static str],
    /// Its value, which may hold `$(NAME)`; none for a switch.
    pub value: Option<&'static str>,
    /// When it is given.
    pub when: When,
}

/// When an argument is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Always.
    Always,
    /// Where this value is more than 1.
    Above1(&'static str),
    /// Where there is a GPU.
    Gpu,
    /// Unless the design has `prefixShare`: prompts that have nothing in common gain nothing by a prefix cache, and ones
    /// that repeat by accident too much.
    NoPrefixCache,
}

/// A member of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Member {
    /// True or false.
    Bool(bool),
    /// A text, which may be `$(outputLength)`.
    Text(&'static str),
    /// `{"include_usage": true}` and, where this is true, usage in every event.
    StreamOptions(bool),
}

impl Member {
    /// As JSON.
    #[must_use]
    pub fn json(self) -> Value {
        match self {
            Self::Bool(truth) => truth.into(),
            Self::Text(text) => text.into(),
            Self::StreamOptions(false) => json!({ "include_usage": true }),
            Self::StreamOptions(true) => {
                json!({ "include_usage": true, "continuous_usage_stats": true })
            }
        }
    }
}

/// The names that a server gives to what it tells of itself, in Prometheus' text format; empty where it does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauges {
    /// Requests that it works on.
    pub running: &'static str,
    /// Requests that wait.
    pub waiting: &'static str,
    /// The share of the cache in use, 0 to 1.
    pub kv_use: &'static str,
    /// Requests that lost their place in the cache and began again, so far.
    pub preemptions: &'static str,
    /// Tokens of prompts that it found in its prefix cache, so far.
    pub prefix_hits: &'static str,
    /// Tokens of prompts that it looked for there, so far: the sum of these.
    pub prefix_queries: &'static [&'static str],
}

/// All that is known of a server's program.
#[derive(Clone, Copy, Debug)]
pub struct PresetRow {
    /// The preset.
    pub preset: Preset,
    /// Its name in text.
    pub title: &'static str,
    /// The program and its first arguments; empty where the spec has to say.
    pub command: &'static [&'static str],
    /// The arguments.
    pub args: &'static [Argument],
    /// Environment variables.
    pub env: &'static [(&'static str, &'static str)],
    /// The name of each data type; those that are absent it does not have.
    pub dtypes: &'static [(Dtype, &'static str)],
    /// Whether it reads a GGUF file (its path is `$(model)`), and not a folder with safetensors.
    pub gguf: bool,
    /// Whether the model's folder must have a tokenizer.
    pub needs_tokenizer: bool,
    /// Words of the lines that it writes before it ends, and of its answers, where memory does not suffice.
    pub out_of_memory: &'static [&'static str],
    /// Words of the lines that it writes before it ends, where it cannot read a model: for what is in the file, and not for
    /// want of memory, of the file itself or of anything else on the machine.
    pub unreadable: &'static [&'static str],
    /// The path that answers 200 as soon as it is ready.
    pub ready: &'static str,
    /// The path of completions.
    pub completions: &'static str,
    /// The path of its version; empty for none.
    pub version: &'static str,
    /// The path of its effective configuration; empty for none.
    pub configuration: &'static str,
    /// The path of its metrics; empty for none.
    pub metrics: &'static str,
    /// The names of its metrics.
    pub gauges: Gauges,
    /// How prompts are sent.
    pub prompt: Prompt,
    /// How tokens are counted.
    pub counting: Counting,
    /// Members of every request's body.
    pub request: &'static [(&'static str, Member)],
}

impl PresetRow {
    /// Whether a text of it tells that memory did not suffice.
    #[must_use]
    pub fn tells_of_memory(&self, text: &str) -> bool {
        self.says(text, |row| row.out_of_memory)
    }

    /// Whether a text of it tells that it cannot read a model.
    #[must_use]
    pub fn tells_of_unreadable(&self, text: &str) -> bool {
        self.says(text, |row| row.unreadable)
    }

    /// Whether a text has such words of its own or, where it may be any of the others, of any.
    fn says(&self, text: &str, words: fn(&Self) -> &'static [&'static str]) -> bool {
        let is_any = self.preset == Preset::Openai;
        let rows = TABLE
            .iter()
            .filter(|row| is_any || row.preset == self.preset);
        rows.flat_map(words).any(|word| text.contains(word))
    }

    /// The name that it has for a data type.
    ///
    /// # Errors
    /// Says which data types it has, where this is none of them.
    pub fn dtype(&self, dtype: Dtype) -> Result<&'static str, String> {
        let known = self.dtypes.iter().find(|(known, _)| *known == dtype);
        known.map(|(_, name)| *name).ok_or_else(|| {
            let known: Vec<_> = self.dtypes.iter().map(|(known, _)| known.name()).collect();
            format!(
                "{} has no data type {dtype}: it has {}",
                self.title,
                known.join(", ")
            )
        })
    }
}

impl Preset {
    /// Its row of the table.
    ///
    /// # Panics
    /// Never: a test walks all presets.
    #[must_use]
    pub fn row(self) -> &'static PresetRow {
        let row = TABLE.iter().find(|row| row.preset == self);
        row.expect("every preset has a row")
    }
}

const fn option(names: &'static [&'static str], value: &'static str) -> Argument {
    Argument {
        names,
        value: Some(value),
        when: When::Always,
    }
}

const fn switch(names: &'static [&'static str], when: When) -> Argument {
    Argument {
        names,
        value: None,
        when,
    }
}

const fn ways(names: &'static [&'static str], value: &'static str, of: &'static str) -> Argument {
    Argument {
        names,
        value: Some(value),
        when: When::Above1(of),
    }
}

const PLAIN: &[(Dtype, &str)] = &[
    (Dtype::F32, "float32"),
    (Dtype::Bf16, "bfloat16"),
    (Dtype::F16, "float16"),
];

const NO_GAUGES: Gauges = Gauges {
    running: "",
    waiting: "",
    kv_use: "",
    preemptions: "",
    prefix_hits: "",
    prefix_queries: &[],
};

/// Every server that is known.
pub const TABLE: &[PresetRow] = &[
    PresetRow {
        preset: Preset::Vllm,
        title: "vLLM",
        command: &["vllm", "serve", "$(model)"],
        args: &[
            option(&["--host"], "127.0.0.1"),
            option(&["--port"], "$(port)"),
            option(&["--served-model-name"], "model"),
            option(&["--dtype"], "$(dtype)"),
            option(&["--max-model-len"], "$(maxLength)"),
            ways(
                &["--tensor-parallel-size", "-tp"],
                "$(tensorParallel)",
                "tensorParallel",
            ),
            ways(
                &["--pipeline-parallel-size", "-pp"],
                "$(pipelineParallel)",
                "pipelineParallel",
            ),
            ways(
                &["--data-parallel-size", "-dp"],
                "$(dataParallel)",
                "dataParallel",
            ),
            switch(
                &["--no-enable-prefix-caching", "--enable-prefix-caching"],
                When::NoPrefixCache,
            ),
        ],
        env: &[("HF_HUB_OFFLINE", "1"), ("VLLM_NO_USAGE_STATS", "1")],
        dtypes: PLAIN,
        gguf: false,
        needs_tokenizer: true,
        out_of_memory: &[
            "out of memory",
            "OutOfMemoryError",
            "std::bad_alloc",
            "Cannot allocate memory",
            "No available memory for the cache blocks",
            "larger than the available KV cache memory",
        ],
        unreadable: &["are not supported for now"],
        ready: "/health",
        completions: "/v1/completions",
        version: "/version",
        configuration: "",
        metrics: "/metrics",
        gauges: Gauges {
            running: "vllm:num_requests_running",
            waiting: "vllm:num_requests_waiting",
            kv_use: "vllm:kv_cache_usage_perc",
            preemptions: "vllm:num_preemptions_total",
            prefix_hits: "vllm:prefix_cache_hits_total",
            prefix_queries: &["vllm:prefix_cache_queries_total"],
        },
        prompt: Prompt::Ids,
        counting: Counting::TokenIds,
        request: &[
            ("ignore_eos", Member::Bool(true)),
            ("min_tokens", Member::Text("$(outputLength)")),
            ("return_token_ids", Member::Bool(true)),
            ("stream_options", Member::StreamOptions(true)),
        ],
    },
    PresetRow {
        preset: Preset::Sglang,
        title: "SGLang",
        command: &["python3", "-m", "sglang.launch_server"],
        args: &[
            option(&["--model-path", "--model"], "$(model)"),
            option(&["--host"], "127.0.0.1"),
            option(&["--port"], "$(port)"),
            option(&["--served-model-name"], "model"),
            option(&["--dtype"], "$(dtype)"),
            option(&["--context-length"], "$(maxLength)"),
            ways(
                &["--tp-size", "--tensor-parallel-size", "--tp"],
                "$(tensorParallel)",
                "tensorParallel",
            ),
            ways(
                &["--pp-size", "--pipeline-parallel-size"],
                "$(pipelineParallel)",
                "pipelineParallel",
            ),
            ways(
                &["--dp-size", "--data-parallel-size", "--dp"],
                "$(dataParallel)",
                "dataParallel",
            ),
            switch(&["--enable-metrics"], When::Always),
            switch(&["--disable-radix-cache"], When::NoPrefixCache),
        ],
        env: &[("HF_HUB_OFFLINE", "1")],
        dtypes: PLAIN,
        gguf: false,
        needs_tokenizer: true,
        out_of_memory: &[
            "out of memory",
            "OutOfMemoryError",
            "std::bad_alloc",
            "Cannot allocate memory",
            "Not enough memory",
        ],
        unreadable: &["are not supported for now"],
        ready: "/health_generate",
        completions: "/v1/completions",
        version: "",
        configuration: "/get_server_info",
        metrics: "/metrics",
        gauges: Gauges {
            running: "sglang:num_running_reqs",
            waiting: "sglang:num_queue_reqs",
            kv_use: "sglang:token_usage",
            preemptions: "sglang:num_retracted_reqs",
            prefix_hits: "sglang:cached_tokens_total",
            prefix_queries: &["sglang:prompt_tokens_total"],
        },
        prompt: Prompt::Ids,
        counting: Counting::ContinuousUsage,
        request: &[
            ("ignore_eos", Member::Bool(true)),
            ("min_tokens", Member::Text("$(outputLength)")),
            ("stream_options", Member::StreamOptions(true)),
        ],
    },
    PresetRow {
        preset: Preset::LlamaCpp,
        title: "llama.cpp",
        command: &["llama-server"],
        args: &[
            option(&["--model", "-m"], "$(model)"),
            option(&["--host"], "127.0.0.1"),
            option(&["--port"], "$(port)"),
            option(&["--parallel", "-np"], "$(maxConcurrency)"),
            option(&["--ctx-size", "-c"], "$(totalLength)"),
            option(&["--threads", "-t"], "$(serverThreads)"),
            Argument {
                names: &["--n-gpu-layers", "-ngl", "--gpu-layers"],
                value: Some("999"),
                when: When::Gpu,
            },
            switch(&["--metrics"], When::Always),
            switch(&["--no-webui"], When::Always),
            switch(
                &["--no-cache-prompt", "--cache-prompt"],
                When::NoPrefixCache,
            ),
            Argument {
                names: &["--cache-ram", "-cram"],
                value: Some("0"),
                when: When::NoPrefixCache,
            },
        ],
        env: &[],
        // The data type is the file's.
        dtypes: &[
            (Dtype::F32, "f32"),
            (Dtype::Bf16, "bf16"),
            (Dtype::F16, "f16"),
            (Dtype::Q4_0, "q4_0"),
            (Dtype::Q8_0, "q8_0"),
        ],
        gguf: true,
        needs_tokenizer: false,
        out_of_memory: &[
            "out of memory",
            "std::bad_alloc",
            "Cannot allocate memory",
            "failed to allocate",
        ],
        unreadable: &[
            "unknown model architecture",
            "unsupported model architecture",
            "error loading model hyperparameters: ",
            "error loading model vocabulary: ",
            "error loading model: check_tensor_dims: tensor ",
            "error loading model: require_tensor_meta: tensor ",
            "wrong number of tensors; expected ",
            " has invalid ggml type ",
            " but this software only supports up to version ",
        ],
        ready: "/health",
        completions: "/v1/completions",
        version: "",
        configuration: "/props",
        metrics: "/metrics",
        gauges: Gauges {
            running: "llamacpp:requests_processing",
            waiting: "llamacpp:requests_deferred",
            kv_use: "llamacpp:kv_cache_usage_ratio",
            prefix_hits: "llamacpp:prompt_tokens_cached_total",
            // The first has only those that were computed.
            prefix_queries: &[
                "llamacpp:prompt_tokens_total",
                "llamacpp:prompt_tokens_cached_total",
            ],
            ..NO_GAUGES
        },
        prompt: Prompt::Ids,
        counting: Counting::Timings,
        request: &[
            ("ignore_eos", Member::Bool(true)),
            ("timings_per_token", Member::Bool(true)),
            ("cache_prompt", Member::Text("$(prefixCache)")),
            ("stream_options", Member::StreamOptions(false)),
        ],
    },
    PresetRow {
        preset: Preset::TensorrtLlm,
        title: "TensorRT-LLM",
        command: &["trtllm-serve", "$(model)"],
        args: &[
            option(&["--backend"], "pytorch"),
            option(&["--host"], "127.0.0.1"),
            option(&["--port"], "$(port)"),
            option(&["--max_seq_len"], "$(maxLength)"),
            ways(&["--tp_size"], "$(tensorParallel)", "tensorParallel"),
            ways(&["--pp_size"], "$(pipelineParallel)", "pipelineParallel"),
        ],
        env: &[("HF_HUB_OFFLINE", "1")],
        // The data type is that of the files, unless a YAML file says otherwise.
        dtypes: PLAIN,
        gguf: false,
        needs_tokenizer: true,
        out_of_memory: &[
            "out of memory",
            "OutOfMemoryError",
            "std::bad_alloc",
            "Cannot allocate memory",
            "failed to allocate",
        ],
        unreadable: &["Unknown architecture for AutoModelForCausalLM"],
        ready: "/health",
        completions: "/v1/completions",
        version: "/version",
        configuration: "",
        metrics: "/prometheus/metrics",
        gauges: Gauges {
            running: "trtllm_num_requests_running",
            waiting: "trtllm_num_requests_waiting",
            kv_use: "trtllm_kv_cache_utilization",
            prefix_hits: "trtllm_kv_cache_reused_blocks_total",
            ..NO_GAUGES
        },
        prompt: Prompt::Ids,
        counting: Counting::ContinuousUsage,
        request: &[
            ("ignore_eos", Member::Bool(true)),
            ("min_tokens", Member::Text("$(outputLength)")),
            ("stream_options", Member::StreamOptions(true)),
        ],
    },
    PresetRow {
        preset: Preset::Openai,
        title: "OpenAI's API",
        command: &[],
        args: &[],
        env: &[],
        dtypes: &[
            (Dtype::F32, "float32"),
            (Dtype::Bf16, "bfloat16"),
            (Dtype::F16, "float16"),
            (Dtype::Q4_0, "q4_0"),
            (Dtype::Q8_0, "q8_0"),
        ],
        gguf: false,
        needs_tokenizer: false,
        // Those of whichever of the others it is: see `PresetRow::says`.
        out_of_memory: &[],
        unreadable: &[],
        ready: "/v1/models",
        completions: "/v1/completions",
        version: "",
        configuration: "",
        metrics: "",
        gauges: NO_GAUGES,
        prompt: Prompt::Text,
        counting: Counting::FinalUsage,
        request: &[("stream_options", Member::StreamOptions(false))],
    },
];
