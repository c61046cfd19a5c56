//! The status of an `InferenceBenchmark`: what a user gets back.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What has become of the sweep.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct InferenceBenchmarkStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
