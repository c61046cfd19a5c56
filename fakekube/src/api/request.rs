//! What a request asks for, read from its method, path, query and headers.

use http::{Method, Uri, header::ACCEPT, request::Parts};
use serde_json::Value;
use url::form_urlencoded;

/// What is to be done, as RBAC names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Read one object.
    Get,
    /// Read all objects of a kind.
    List,
    /// Follow the changes of a kind.
    Watch,
    /// Make an object.
    Create,
    /// Replace an object.
    Update,
    /// Change fields of an object, or apply one.
    Patch,
    /// Delete an object.
    Delete,
    /// Delete all objects that match.
    DeleteCollection,
}

impl Verb {
    /// Whether it may change anything.
    #[must_use]
    pub const fn writes(self) -> bool {
        !matches!(self, Self::Get | Self::List | Self::Watch)
    }
}

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
}

/// In what shape to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Whole,
    /// `metadata` alone.
    Metadata,
    /// As `kubectl get` prints it.
    Table,
}

/// The shape that the `Accept` header prefers.
pub(crate) fn shape(parts: &Parts) -> Shape {
    let accept = parts
        .headers
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok());
    for part in accept.unwrap_or_default().split(',') {
        if part.contains("as=Table") {
            return Shape::Table;
        }
        if part.contains("as=PartialObjectMetadata") {
            return Shape::Metadata;
        }
        if part.trim().starts_with("application/json") {
            return Shape::Whole;
        }
    }
    Shape::Whole
}

/// Where a path leads.
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
            (&Method::GET, _) if query.is_set("watch") => Verb::Watch,
            (&Method::GET, Some(_)) => Verb::Get,
            (&Method::GET, None) => Verb::List,
            (&Method::POST, None) => Verb::Create,
            (&Method::POST, Some(_)) if self.subresource.as_deref() == Some("binding") => {
                Verb::Create
            }
            (&Method::PUT, Some(_)) => Verb::Update,
            (&Method::PATCH, Some(_)) => Verb::Patch,
            (&Method::DELETE, Some(_)) => Verb::Delete,
            (&Method::DELETE, None) => Verb::DeleteCollection,
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

/// How a deletion is to be done, from the body and the query.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub propagation: Option<String>,
    pub grace: Option<i64>,
    pub uid: Option<String>,
    pub version: Option<String>,
    pub dry_run: bool,
}

impl DeleteOptions {
    pub fn of(query: &Query, body: &Value) -> Self {
        let given = |key: &str| {
            let from_query = Some(query.get(key)).filter(|value| !value.is_empty());
            from_query.map(ToOwned::to_owned)
        };
        let string = |value: &Value| value.as_str().map(ToOwned::to_owned);
        let orphan = body["orphanDependents"]
            .as_bool()
            .map(|orphan| if orphan { "Orphan" } else { "Background" }.to_owned());
        Self {
            propagation: string(&body["propagationPolicy"])
                .or_else(|| given("propagationPolicy"))
                .or(orphan),
            grace: body["gracePeriodSeconds"]
                .as_i64()
                .or_else(|| given("gracePeriodSeconds")?.parse().ok()),
            uid: string(&body["preconditions"]["uid"]),
            version: string(&body["preconditions"]["resourceVersion"]),
            dry_run: body["dryRun"].as_array().is_some_and(|all| !all.is_empty())
                || !query.get("dryRun").is_empty(),
        }
    }
}
