//! The answer to a request that is refused: a `Status` of failure, in the words of the API server.

use serde_json::{Value, json};

use super::{cause::Cause, kinds::Kind};

/// A refusal.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub code: u16,
    pub reason: String,
    pub message: String,
    pub details: Option<Value>,
    /// Seconds, for the `Retry-After` header and the details.
    pub retry_after: Option<u32>,
    /// With an expired continue token: one that continues the list at the newest version instead.
    pub continue_token: Option<String>,
}

/// The answer to a request, or its refusal.
pub(crate) type Answered<T> = Result<T, Refusal>;

impl Refusal {
    pub fn new(code: u16, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.into(),
            message: message.into(),
            details: None,
            retry_after: None,
            continue_token: None,
        }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        let mut details = serde_json::Map::new();
        for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
            if !value.is_empty() {
                details.insert(key.into(), value.into());
            }
        }
        self.details = Some(details.into());
        self
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// There is no such path.
    pub fn no_such_resource() -> Self {
        let mut refusal = Self::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        );
        refusal.details = Some(json!({}));
        refusal
    }

    pub fn method_not_allowed() -> Self {
        let mut refusal = Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        );
        refusal.details = Some(json!({}));
        refusal
    }

    pub fn unsupported_media_type(got: &str, allowed: &str) -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {allowed} (not {got})"
            ),
        )
    }

    pub fn not_found(kind: &Kind, name: &str) -> Self {
        Self::new(
            404,
            "NotFound",
            format!("{} \"{name}\" not found", kind.resource),
        )
        .about(&kind.group, &kind.plural, name)
    }

    pub fn already_exists(kind: &Kind, name: &str) -> Self {
        Self::new(
            409,
            "AlreadyExists",
            format!("{} \"{name}\" already exists", kind.resource),
        )
        .about(&kind.group, &kind.plural, name)
    }

    /// The object has changed since it was read.
    pub fn modified(kind: &Kind, name: &str) -> Self {
        Self::new(
            409,
            "Conflict",
            format!(
                "Operation cannot be fulfilled on {} \"{name}\": the object has been modified; please apply your changes to the latest version and try again",
                kind.resource
            ),
        )
        .about(&kind.group, &kind.plural, name)
    }

    /// A precondition of a deletion does not hold.
    pub fn precondition(kind: &Kind, name: &str, detail: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {detail}",
            kind.qualified()
        );
        Self::new(409, "Conflict", message).about(&kind.group, &kind.kind, name)
    }

    pub fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        Self::new(
            403,
            "Forbidden",
            format!("{} \"{name}\" is forbidden: {why}", kind.resource),
        )
        .about(&kind.group, &kind.plural, name)
    }

    pub fn with_causes(mut self, causes: &[Cause]) -> Self {
        let list: Vec<Value> = causes
            .iter()
            .map(|cause| json!({ "reason": cause.reason, "message": cause.message, "field": cause.field }))
            .collect();
        let details = self.details.get_or_insert_with(|| json!({}));
        details["causes"] = list.into();
        self
    }

    pub fn invalid(kind: &Kind, name: &str, causes: &[Cause]) -> Self {
        Self::invalid_as(&kind.group, &kind.kind, name, causes)
    }

    pub fn invalid_as(group: &str, kind: &str, name: &str, causes: &[Cause]) -> Self {
        let mut texts: Vec<String> = Vec::new();
        for cause in causes {
            let text = format!("{}: {}", cause.field, cause.message);
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let text = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let qualified = if group.is_empty() {
            kind.to_owned()
        } else {
            format!("{kind}.{group}")
        };
        Self::new(
            422,
            "Invalid",
            format!("{qualified} \"{name}\" is invalid: {text}"),
        )
        .about(group, kind, name)
        .with_causes(causes)
    }

    /// The version that was asked for is no longer remembered.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub fn body(&self) -> Value {
        let mut metadata = json!({});
        if let Some(token) = &self.continue_token {
            metadata["continue"] = token.clone().into();
        }
        let mut body = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": metadata,
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if let Some(details) = &self.details {
            body["details"] = details.clone();
        }
        if let Some(seconds) = self.retry_after {
            body["details"]["retryAfterSeconds"] = seconds.into();
        }
        body
    }
}
