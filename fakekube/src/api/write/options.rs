//! The options of a write, and its result.

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

/// Options that the client gives by query and headers, and the time.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub now: Timestamp,
    /// The writer's name in `managedFields`.
    pub manager: String,
    pub unknown_fields: UnknownFields,
}

/// The fate of fields that a kind does not have: `fieldValidation` of the query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnknownFields {
    /// The write is refused.
    Refused,
    /// They are dropped, with a warning.
    Warned,
    /// They are dropped.
    Dropped,
}

impl UnknownFields {
    /// From `fieldValidation`; warns where it is not given.
    pub fn of(given: &str) -> Self {
        match given {
            "Strict" => Self::Refused,
            "Ignore" => Self::Dropped,
            _ => Self::Warned,
        }
    }
}

/// The result of a write.
#[derive(Debug)]
pub(crate) struct Written {
    pub object: Value,
    /// 200 or 201.
    pub code: u16,
    pub warnings: Vec<String>,
}
