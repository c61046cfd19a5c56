//! The factors of a design with the levels that a user lists, and the factors that a user names. The doc comments are
//! the CRD's descriptions. The table of `factor` has the properties of each factor.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    combination::Setting,
    dtype::Dtype,
    engine::Engine,
    level::{Level, Number},
    limits,
    model::Model,
    patterns,
};

/// The factors of the design; each is a list of distinct levels.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Factors {
    /// The engines that are measured; by default candle alone, inferbench's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::ENGINES), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub engine: Vec<Engine>,
    /// Factors that you name: each sets an environment variable or an option of the engine's process, or a member of
    /// every request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::PARAMETERS), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub parameters: Vec<Parameter>,
    /// The models.
    #[schemars(length(min = 1, max = limits::MODELS), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub model: Vec<Model>,
    /// Sequences in a batch: all leave together, and the next batch when all are done. It is the load unless there is
    /// `concurrency` or `requestRate`.
    #[serde(default = "default_batch_size")]
    #[schemars(length(min = 1, max = limits::LEVELS), inner(range(min = 1, max = limits::BATCH_SIZE)), extend("x-kubernetes-list-type" = "set"))]
    pub batch_size: Vec<i32>,
    /// Input tokens of each sequence.
    #[serde(default = "default_length")]
    #[schemars(length(min = 1, max = limits::LEVELS), inner(range(min = 1, max = limits::LENGTH)), extend("x-kubernetes-list-type" = "set"))]
    pub input_length: Vec<i32>,
    /// Output tokens of each sequence.
    #[serde(default = "default_length")]
    #[schemars(length(min = 1, max = limits::LEVELS), inner(range(min = 1, max = limits::LENGTH)), extend("x-kubernetes-list-type" = "set"))]
    pub output_length: Vec<i32>,
    /// Requests in flight: each stream sends its next request when its last one is done. Of servers and endpoints alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::LEVELS), inner(range(min = 1, max = limits::CONCURRENCY)), extend("x-kubernetes-list-type" = "set"))]
    pub concurrency: Vec<i32>,
    /// Requests a second, which come at random (Poisson) whether others are done or not. Of servers and endpoints alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::LEVELS), inner(range(min = 0.001, max = limits::REQUEST_RATE)), extend("x-kubernetes-list-type" = "set"))]
    pub request_rate: Vec<Number>,
    /// Percent of the input tokens that all requests of a trial have in common, as a system prompt is; with it servers keep
    /// their prefix caches, which are off otherwise. Of servers and endpoints alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::LEVELS), inner(range(min = 0, max = 100)), extend("x-kubernetes-list-type" = "set"))]
    pub prefix_share: Vec<i32>,
    /// GPUs of the engine, which divide the work among them; `[0]` means CPU and stands alone.
    #[serde(default = "default_gpus")]
    #[schemars(length(min = 1, max = limits::LEVELS), inner(range(min = 0, max = limits::GPUS)), extend("x-kubernetes-list-type" = "set"))]
    pub gpus: Vec<i32>,
    /// Stages that the model's layers are divided into, one after another; by default 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::PARALLEL), inner(range(min = 1, max = limits::GPUS)), extend("x-kubernetes-list-type" = "set"))]
    pub pipeline_parallel: Vec<i32>,
    /// Replicas of the model that divide the sequences among them; by default 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::PARALLEL), inner(range(min = 1, max = limits::GPUS)), extend("x-kubernetes-list-type" = "set"))]
    pub data_parallel: Vec<i32>,
    /// Data types of the weights; by default bf16 on GPU and f32 on CPU.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::DTYPES), extend("x-kubernetes-list-type" = "set"))]
    pub dtype: Vec<Dtype>,
}

impl Factors {
    /// The engines; candle where none is named.
    #[must_use]
    pub fn engines(&self) -> Cow<'_, [Engine]> {
        if self.engine.is_empty() {
            vec![Engine::default()].into()
        } else {
            self.engine.as_slice().into()
        }
    }

    /// The data types; where none is named, f32 on the CPU, else bf16.
    #[must_use]
    pub fn dtypes(&self) -> Cow<'_, [Dtype]> {
        match self.dtype.as_slice() {
            [] if self.gpus == [0] => Cow::Borrowed(&[Dtype::F32]),
            [] => Cow::Borrowed(&[Dtype::Bf16]),
            given => given.into(),
        }
    }
}

/// A factor that the user names.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Parameter {
    /// Its name in tables and figures; not that of another factor.
    #[schemars(length(min = 1, max = limits::PARAMETER_NAME), regex(pattern = patterns::PARAMETER_NAME))]
    pub name: String,
    /// Its distinct levels: numbers, texts, true and false.
    #[schemars(length(min = 1, max = limits::LEVELS))]
    pub levels: Vec<Level>,
    /// The engines that take it, by name; by default all. For the others it has no level, and combinations that would
    /// differ in it alone are one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::ENGINES), inner(length(max = limits::ENGINE_NAME)), extend("x-kubernetes-list-type" = "set"))]
    pub engines: Vec<String>,
    /// The environment variable of the engine's process that has the level as its value.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = limits::ENV_NAME), regex(pattern = patterns::ENV_NAME))]
    pub env: String,
    /// The option of the server's command line that has the level as its value; where it is true, the option stands
    /// alone, and where it is false, it is left out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = limits::PARAMETER_FLAG), regex(pattern = patterns::FLAG))]
    pub flag: String,
    /// The member of every request's body that has the level as its value. A parameter of requests forces no fresh start.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = limits::PARAMETER_FLAG), regex(pattern = patterns::FIELD))]
    pub field: String,
}

impl Parameter {
    /// Whether the engine of this name takes it.
    #[must_use]
    pub fn is_for(&self, engine: &str) -> bool {
        self.engines.is_empty() || self.engines.iter().any(|name| name == engine)
    }

    /// The level at a position, with where it goes.
    pub(crate) fn setting(&self, at: usize) -> Setting {
        Setting {
            level: self.levels[at].clone(),
            env: self.env.clone(),
            flag: self.flag.clone(),
            field: self.field.clone(),
        }
    }
}

fn default_batch_size() -> Vec<i32> {
    vec![1]
}

fn default_length() -> Vec<i32> {
    vec![128]
}

fn default_gpus() -> Vec<i32> {
    vec![1]
}
