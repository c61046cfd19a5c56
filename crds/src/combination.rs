//! A combination: one level of each factor, as one trial has them, with its parameters and its load.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    dtype::Dtype,
    engine::Engine,
    level::{Level, Number},
    model::{Model, ModelSource},
    search::Search,
};

/// One level of each factor. A factor that came after the first release is left out where it is at its implied level,
/// so that the keys of trials stay the same.
#[derive(Clone, Debug, Deserialize, Serialize, schemars::JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Combination {
    /// The engine.
    #[serde(default, skip_serializing_if = "Engine::is_default")]
    pub engine: Engine,
    /// The model.
    pub model: Model,
    /// Sequences in a batch.
    pub batch_size: u32,
    /// Input tokens of each sequence.
    pub input_length: u32,
    /// Output tokens of each sequence.
    pub output_length: u32,
    /// Devices of the engine; 0 means CPU.
    pub gpus: u32,
    /// Stages that the model's layers are divided into.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub pipeline_parallel: u32,
    /// Replicas of the model that divide the sequences among them.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub data_parallel: u32,
    /// Data type of weights and cache.
    pub dtype: Dtype,
    /// Requests in flight; 0 where the load is another one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub concurrency: u32,
    /// Requests a second; 0 where the load is another one.
    #[serde(default, skip_serializing_if = "Number::is_zero")]
    pub request_rate: Number,
    /// Percent of the input tokens that all requests have in common; none where the design does not vary it, so that
    /// servers keep no prefix cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_share: Option<u32>,
    /// The parameters that the engine takes, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, Setting>,
    /// The search that stands in place of a level of the load; none where the load has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<Search>,
}

/// A parameter's level and where it goes.
#[derive(Clone, Debug, Deserialize, Serialize, schemars::JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Setting {
    /// The level.
    pub level: Level,
    /// The environment variable of the engine's process that has it as its value; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub env: String,
    /// The option of the server's command line that has it as its value; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub flag: String,
    /// The member of every request's body that has it as its value; empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// The load of a trial: how its requests come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load<'a> {
    /// A batch: this number of requests leaves together, and the next ones when all are done.
    Batch(u32),
    /// This number of requests is in flight: one is sent when another is done.
    Concurrency(u32),
    /// This number of requests comes a second, at random.
    Rate(f64),
    /// As many as it finds.
    Search(&'a Search),
}

impl Default for Combination {
    /// One sequence of one token, of no model in particular, on the CPU: the levels are for the caller to set.
    fn default() -> Self {
        Self {
            engine: Engine::default(),
            model: Model {
                name: String::new(),
                source: ModelSource::default(),
            },
            batch_size: 1,
            input_length: 1,
            output_length: 1,
            gpus: 0,
            pipeline_parallel: 1,
            data_parallel: 1,
            dtype: Dtype::F32,
            concurrency: 0,
            request_rate: Number::default(),
            prefix_share: None,
            parameters: BTreeMap::new(),
            search: None,
        }
    }
}

fn one() -> u32 {
    1
}

// The signature is serde's.
#[expect(clippy::trivially_copy_pass_by_ref)]
fn is_one(number: &u32) -> bool {
    *number == 1
}

// The signature is serde's.
#[expect(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Combination {
    /// How its requests come.
    #[must_use]
    pub fn load(&self) -> Load<'_> {
        if let Some(search) = &self.search {
            return Load::Search(search);
        }
        match (self.concurrency, self.request_rate.get()) {
            (0, 0.0) => Load::Batch(self.batch_size),
            (0, rate) => Load::Rate(rate),
            (streams, _) => Load::Concurrency(streams),
        }
    }

    /// Devices that share every layer: `gpus / (pipelineParallel × dataParallel)`, and 1 on the CPU; none where that does
    /// not divide.
    #[must_use]
    pub fn tensor_parallel(&self) -> Option<u32> {
        let devices = self.gpus.max(1);
        let apart = self.pipeline_parallel.saturating_mul(self.data_parallel);
        devices.is_multiple_of(apart).then(|| devices / apart)
    }

    /// Why no model can run with these levels; none where that depends on the model.
    #[must_use]
    pub fn unsupported(&self) -> Option<String> {
        if !self.engine.takes_requests() {
            let load = match self.load() {
                Load::Batch(_) => None,
                Load::Concurrency(_) => Some("concurrency"),
                Load::Rate(_) => Some("requestRate"),
                Load::Search(search) => Some(search.factor.name()),
            };
            let factor = load.or(self.prefix_share.map(|_| "prefixShare"));
            if let Some(factor) = factor {
                return Some(format!(
                    "{factor} is a load of servers and endpoints: {} takes batches",
                    self.engine.name
                ));
            }
        }
        if let Some(server) = &self.engine.server
            && let Err(why) = server.preset.row().dtype(self.dtype)
        {
            return Some(why);
        }
        if self.tensor_parallel().is_some() {
            return None;
        }
        let devices = match self.gpus {
            0 => "the CPU, one device,".into(),
            gpus => format!("gpus {gpus}"),
        };
        Some(format!(
            "{devices} cannot be divided by pipelineParallel {} × dataParallel {}",
            self.pipeline_parallel, self.data_parallel
        ))
    }

    /// The environment variables that the parameters set in the engine's process, by their names.
    pub fn environment(&self) -> impl Iterator<Item = (&str, String)> {
        let settings = self.parameters.values();
        let settings = settings.filter(|setting| !setting.env.is_empty());
        settings.map(|setting| (setting.env.as_str(), setting.level.to_string()))
    }
}
