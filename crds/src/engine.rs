//! The engine of a trial: inferbench's own, a server that the trial starts, or one that is there already. The doc
//! comments are the CRD's descriptions. The facts about each server's program lie in [`preset`]; [`command`] makes its
//! command line and its requests of them.

pub mod command;
pub mod preset;

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::preset::{Counting, Preset, Prompt};
use crate::{Duration, limits, patterns, secret::SecretKeyRef};

/// An engine: exactly one of the members beside its name.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Engine {
    /// The name of this level in tables and figures.
    #[schemars(length(min = 1, max = limits::ENGINE_NAME), regex(pattern = patterns::MODEL_NAME))]
    pub name: String,
    /// inferbench's own engine, in the trial's process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candle: Option<Candle>,
    /// A server that each trial starts, or those of a Job together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Server>,
    /// A server that is there already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
}

impl Engine {
    /// The name of the engine that is measured where none is named.
    pub const CANDLE: &'static str = "candle";

    /// Whether this is the engine that is measured where none is named.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it is asked over HTTP, so that requests can come at any time and not only in batches.
    #[must_use]
    pub const fn takes_requests(&self) -> bool {
        self.server.is_some() || self.endpoint.is_some()
    }

    /// How it is asked; none of candle.
    #[must_use]
    pub fn interface(&self) -> Option<Interface> {
        let (preset, given) = match (&self.server, &self.endpoint) {
            (Some(server), _) => (server.preset, &server.interface),
            (None, Some(endpoint)) => (endpoint.preset, &endpoint.interface),
            (None, None) => return None,
        };
        Some(given.over(preset.row()))
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            name: Self::CANDLE.into(),
            candle: Some(Candle {}),
            server: None,
            endpoint: None,
        }
    }
}

/// inferbench's own engine, on candle. It has no options.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[schemars(extend("maxProperties" = 0))]
pub struct Candle {}

/// A server that is started for trials, in their own pod. In `command`, `args` and the values of `env`, `$(NAME)` stands
/// for `model`, `gpus`, `tensorParallel`, `pipelineParallel`, `dataParallel`, `dtype`, `port`, `maxLength`,
/// `maxConcurrency`, `totalLength` (both of these multiplied), `cpus`, `serverThreads` (all but one of them where there is
/// no GPU) or a parameter; `$$(NAME)` is kept as `$(NAME)`.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    /// The program, as far as inferbench knows it: how it is started, asked and watched.
    pub preset: Preset,
    /// The image with the server's program; required in a cluster, of no meaning locally.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = limits::IMAGE), regex(pattern = patterns::IMAGE))]
    pub image: Option<String>,
    /// The program and its first arguments, in place of the preset's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::COMMAND), inner(length(min = 1, max = limits::ARGUMENT)))]
    pub command: Vec<String>,
    /// Further arguments. One that the preset gives, too, stands in place of the preset's; one that names a parameter
    /// without a level for this engine is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::ARGUMENTS), inner(length(min = 1, max = limits::ARGUMENT)))]
    pub args: Vec<String>,
    /// Environment variables of the server's process.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = limits::ARGUMENTS), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<Variable>,
    /// The longest that it may take from its start until it answers a request; by default 15m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_timeout: Option<Duration>,
    /// Whether all that it writes is kept beside the records, as `logs/<key>.log`; its last lines stand in messages in
    /// any case.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_log: bool,
    /// Differences from the preset in how it is asked.
    #[serde(default, skip_serializing_if = "InterfaceOverrides::is_empty")]
    pub interface: InterfaceOverrides,
}

impl Server {
    /// The longest that it may take to answer, where nothing else is said.
    pub const STARTUP_TIMEOUT: Duration = Duration::from_secs(900);

    /// The longest that it may take from its start until it answers a request.
    #[must_use]
    pub fn startup_timeout(&self) -> Duration {
        self.startup_timeout.unwrap_or(Self::STARTUP_TIMEOUT)
    }
}

/// An environment variable.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Variable {
    /// The name.
    #[schemars(length(min = 1, max = limits::ENV_NAME), regex(pattern = patterns::ENV_NAME))]
    pub name: String,
    /// The value.
    #[serde(default)]
    #[schemars(length(max = limits::ARGUMENT))]
    pub value: String,
}

/// A server that is there already. Only factors of the load can vary: inferbench neither starts nor watches it, and the
/// records say so.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// The server's URL, without the path of its API.
    #[schemars(length(max = limits::URL), regex(pattern = patterns::HTTP_URL))]
    pub url: String,
    /// The program behind it, as far as that is known.
    #[serde(default)]
    pub preset: Preset,
    /// The name that the model has there; by default the first that the server lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = limits::PATH))]
    pub model: Option<String>,
    /// A Secret key with the API key, in a cluster; on one machine the environment variable INFERBENCH_API_KEY has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_secret_ref: Option<SecretKeyRef>,
    /// Differences from the preset in how it is asked.
    #[serde(default, skip_serializing_if = "InterfaceOverrides::is_empty")]
    pub interface: InterfaceOverrides,
}

/// Differences from a preset in how a server is asked; an absent member is the preset's.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct InterfaceOverrides {
    /// The path of completions.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = limits::PATH), regex(pattern = patterns::HTTP_PATH))]
    pub completions: Option<String>,
    /// The path that answers 200 as soon as the server is ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = limits::PATH), regex(pattern = patterns::HTTP_PATH))]
    pub ready: Option<String>,
    /// The path of its metrics in Prometheus' text format; empty for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = limits::PATH))]
    pub metrics: Option<String>,
    /// How prompts are sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Prompt>,
    /// How tokens are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counting: Option<Counting>,
    /// Members of every request's body, beside those of the preset; null leaves one of these out. A text may be
    /// `$(outputLength)` or a parameter, and is then its value.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "any_members")]
    pub request: BTreeMap<String, Value>,
}

impl InterfaceOverrides {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The interface of a preset with these differences.
    #[must_use]
    pub fn over(&self, preset: &preset::PresetRow) -> Interface {
        let or = |given: &Option<String>, preset: &str| given.clone().unwrap_or(preset.to_owned());
        let mut request: BTreeMap<String, Value> = preset
            .request
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.json()))
            .collect();
        for (name, value) in &self.request {
            if value.is_null() {
                request.remove(name);
            } else {
                request.insert(name.clone(), value.clone());
            }
        }
        Interface {
            completions: or(&self.completions, preset.completions),
            ready: or(&self.ready, preset.ready),
            metrics: or(&self.metrics, preset.metrics),
            prompt: self.prompt.unwrap_or(preset.prompt),
            counting: self.counting.unwrap_or(preset.counting),
            request,
        }
    }
}

/// How a server is asked: a preset with a spec's differences.
#[derive(Clone, Debug, PartialEq)]
pub struct Interface {
    /// The path of completions.
    pub completions: String,
    /// The path that answers 200 as soon as the server is ready.
    pub ready: String,
    /// The path of its metrics; empty for none.
    pub metrics: String,
    /// How prompts are sent.
    pub prompt: Prompt,
    /// How tokens are counted.
    pub counting: Counting,
    /// Members of every request's body beside `model`, `prompt`, `max_tokens`, `temperature` and `stream`.
    pub request: BTreeMap<String, Value>,
}

/// The schema of members that a server gets as they are.
fn any_members(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
        "maxProperties": limits::ARGUMENTS,
    })
}

#[cfg(test)]
mod tests;
