//! A model and where its weights come from. The doc comments are the CRD's descriptions.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{limits, patterns, presets};

/// A model and where its weights come from.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// The name of this level in tables and figures.
    #[schemars(length(min = 1, max = limits::MODEL_NAME), regex(pattern = patterns::MODEL_NAME))]
    pub name: String,
    /// Where the weights come from.
    pub source: ModelSource,
}

/// Where a model's weights come from: exactly one of the members.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ModelSource {
    /// A repository of the Hugging Face Hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hugging_face: Option<HuggingFaceSource>,
    /// The right shape with seeded random weights: nothing is downloaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub random: Option<RandomSource>,
    /// A folder (in a cluster: on a mounted volume) with config.json, tokenizer.json and safetensors, or with one GGUF
    /// file; or such a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = limits::PATH))]
    pub path: Option<String>,
    /// A prefix of an object store with the same files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_store: Option<ObjectStoreSource>,
}

/// A repository of the Hugging Face Hub.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HuggingFaceSource {
    /// The repository, as `owner/name`.
    #[schemars(length(max = limits::REPOSITORY), regex(pattern = patterns::REPOSITORY))]
    pub repo: String,
    /// A branch, tag or commit; it is resolved to a commit once, before the first trial.
    #[serde(default = "default_revision")]
    #[schemars(length(max = limits::REVISION), regex(pattern = patterns::REVISION))]
    pub revision: String,
}

/// Seeded random weights in the shape of a known model.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RandomSource {
    /// The known model.
    #[schemars(extend("enum" = presets::PRESETS))]
    pub preset: String,
}

/// A prefix of an object store.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStoreSource {
    /// `s3://`, `gs://`, `az://` or `file://` URL of the folder.
    #[schemars(length(max = limits::URL), regex(pattern = patterns::STORE_URL))]
    pub url: String,
}

fn default_revision() -> String {
    "main".into()
}
