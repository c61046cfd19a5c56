//! A request as the server reads it from method, path, query and body: which object, which verb, which options.

use http::{Method, Uri};
use serde_json::Value;
use url::form_urlencoded;

use super::refusal::{Answered, Refusal};

/// The action that a request asks for, as RBAC names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Read one object.
    Get,
    /// Read all objects of a kind.
    List,
    /// Follow the changes of a kind.
    Watch,
    /// Create an object.
    Create,
    /// Replace an object.
    Update,
    /// Change fields of an object.
    Patch,
    /// Delete an object.
    Delete,
}

impl Verb {
    /// Whether it may change anything.
    #[must_use]
    pub const fn writes(self) -> bool {
        !matches!(self, Self::Get | Self::List | Self::Watch)
    }
}

/// The parameters of a query that the server heeds.
const PARAMETERS: [&str; 10] = [
    "allowWatchBookmarks",
    "continue",
    "fieldManager",
    "fieldValidation",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "timeoutSeconds",
    "watch",
];

/// The query, in the order in which it was given.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub fn of(uri: &Uri) -> Self {
        let pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        Self(pairs.into_owned().collect())
    }

    pub fn get(&self, key: &str) -> &str {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map_or("", |(_, value)| value.as_str())
    }

    pub fn is_set(&self, key: &str) -> bool {
        matches!(self.get(key), "1" | "true" | "True")
    }

    /// A parameter that the server does not know, or not with this value. It refuses the request then, since a client
    /// that asks for more than it gets would be tested against the wrong answer.
    pub fn unknown(&self) -> Option<(&str, &str)> {
        let known = |name: &str, value: &str| {
            PARAMETERS.contains(&name) && (name != "resourceVersionMatch" || value != "Exact")
        };
        let unknown = self.0.iter().find(|(name, value)| !known(name, value));
        unknown.map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// The object or list that a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub group: String,
    pub version: String,
    pub namespace: Option<String>,
    pub plural: String,
    pub name: Option<String>,
    pub subresource: Option<String>,
}

impl Target {
    /// None where the path is not one of a resource: discovery, health and the like.
    pub fn of(path: &str) -> Option<Self> {
        let mut parts = path.split('/').filter(|part| !part.is_empty()).map(decoded);
        let (group, version) = match parts.next()?.as_str() {
            "api" => (String::new(), parts.next()?),
            "apis" => (parts.next()?, parts.next()?),
            _ => return None,
        };
        let rest: Vec<String> = parts.collect();
        let (namespace, rest) = match rest.as_slice() {
            [] => return None,
            // A namespace is an object, too.
            [word, _] if word == "namespaces" => (None, &rest[..]),
            [word, _, sub]
                if word == "namespaces" && matches!(sub.as_str(), "status" | "finalize") =>
            {
                (None, &rest[..])
            }
            [word, namespace, rest @ ..] if word == "namespaces" => (Some(namespace.clone()), rest),
            _ => (None, &rest[..]),
        };
        let [plural, rest @ ..] = rest else {
            return None;
        };
        Some(Self {
            group,
            version,
            namespace,
            plural: plural.clone(),
            name: rest.first().cloned(),
            subresource: (rest.len() > 1).then(|| rest[1..].join("/")),
        })
    }

    pub fn verb(&self, method: &Method, query: &Query) -> Option<Verb> {
        Some(match (method, &self.name) {
            (&Method::GET, None) if query.is_set("watch") => Verb::Watch,
            (&Method::GET, None) => Verb::List,
            (&Method::GET, Some(_)) if !query.is_set("watch") => Verb::Get,
            (&Method::POST, None) => Verb::Create,
            (&Method::POST, Some(_)) if self.subresource.as_deref() == Some("binding") => {
                Verb::Create
            }
            (&Method::PUT, Some(_)) => Verb::Update,
            (&Method::PATCH, Some(_)) => Verb::Patch,
            (&Method::DELETE, Some(_)) => Verb::Delete,
            _ => return None,
        })
    }
}

fn decoded(part: &str) -> String {
    if !part.contains('%') {
        return part.to_owned();
    }
    // The form's decoding, less its plus sign.
    form_urlencoded::parse(part.replace('+', "%2B").as_bytes())
        .map(|(key, _)| key.into_owned())
        .collect()
}

/// The options of a deletion, from its body.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub propagation: Option<String>,
    /// Seconds.
    pub grace: Option<i64>,
    /// The uid that the object has to have.
    pub uid: Option<String>,
    /// The version that the object has to have.
    pub version: Option<String>,
}

impl DeleteOptions {
    pub fn of(body: &Value) -> Answered<Self> {
        if body["dryRun"].as_array().is_some_and(|all| !all.is_empty()) {
            return Err(Refusal::bad_request("dryRun: fakekube does not know it"));
        }
        let string = |value: &Value| value.as_str().map(ToOwned::to_owned);
        let preconditions = &body["preconditions"];
        Ok(Self {
            propagation: string(&body["propagationPolicy"]),
            grace: body["gracePeriodSeconds"].as_i64(),
            uid: string(&preconditions["uid"]),
            version: string(&preconditions["resourceVersion"]),
        })
    }
}
