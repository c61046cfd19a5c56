//! References to Secrets. The doc comments are the CRD's descriptions.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::patterns;

/// A Secret by name.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// The name of the Secret.
    #[schemars(length(max = 253), regex(pattern = patterns::DNS_SUBDOMAIN))]
    pub name: String,
}

/// A key of a Secret.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// The name of the Secret.
    #[schemars(length(max = 253), regex(pattern = patterns::DNS_SUBDOMAIN))]
    pub name: String,
    /// The key.
    #[schemars(length(max = 253), regex(pattern = patterns::SECRET_KEY))]
    pub key: String,
}
