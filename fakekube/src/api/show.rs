//! How objects are shown to who reads them: whole, or their metadata alone.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::{
    kinds::Kind,
    refusal::{Answered, Refusal},
};

/// The part of objects that a reader asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// All of them.
    Whole,
    /// Their metadata, as `PartialObjectMetadata`.
    Metadata,
}

const METADATA: [&str; 2] = ["PartialObjectMetadata", "meta.k8s.io/v1"];

impl Shown {
    /// The part that a header `Accept` asks for.
    ///
    /// # Errors
    /// Where it asks for another form, such as a table.
    pub fn of(accept: &str) -> Answered<Self> {
        if accept.contains("as=PartialObjectMetadata") {
            Ok(Self::Metadata)
        } else if accept.contains("as=") {
            let message = format!(
                "Accept: {accept}: fakekube answers with whole objects or their metadata only"
            );
            Err(Refusal::new(406, "NotAcceptable", message))
        } else {
            Ok(Self::Whole)
        }
    }

    /// An object as it is shown.
    pub fn object(self, object: &Value) -> Cow<'_, Value> {
        match self {
            Self::Whole => Cow::Borrowed(object),
            Self::Metadata => {
                let [kind, version] = METADATA;
                Cow::Owned(
                    json!({ "kind": kind, "apiVersion": version, "metadata": object["metadata"] }),
                )
            }
        }
    }

    /// The kind and version of single objects of a kind, as they are shown.
    pub fn kind(self, kind: &Kind) -> [Cow<'_, str>; 2] {
        match self {
            Self::Whole => [Cow::Borrowed(kind.kind.as_str()), kind.api_version().into()],
            Self::Metadata => METADATA.map(Cow::Borrowed),
        }
    }

    /// The kind and version of their list.
    pub fn list_kind(self, kind: &Kind) -> [Cow<'_, str>; 2] {
        match self {
            Self::Whole => [
                Cow::Borrowed(kind.list_kind.as_str()),
                kind.api_version().into(),
            ],
            Self::Metadata => {
                let [kind, version] = METADATA;
                [format!("{kind}List").into(), version.into()]
            }
        }
    }
}
