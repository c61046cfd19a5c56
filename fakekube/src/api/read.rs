//! Lists, in pages that belong to one version.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{
    kinds::Kind,
    refusal::{Answered, Cause, Refusal},
    request::Query,
    selector::Selector,
    state::State,
    store::{Key, Stored},
};

/// A page of a list.
#[derive(Debug)]
pub(crate) struct Page {
    pub version: u64,
    pub items: Vec<Stored>,
    pub go_on: Option<String>,
    pub remaining: Option<usize>,
}

impl Page {
    /// `metadata` of the list.
    pub fn metadata(&self) -> Value {
        let mut metadata = json!({ "resourceVersion": self.version.to_string() });
        if let Some(token) = &self.go_on {
            metadata["continue"] = token.clone().into();
        }
        if let Some(count) = self.remaining {
            metadata["remainingItemCount"] = count.into();
        }
        metadata
    }
}

/// Where a list goes on: the version it belongs to (0 for whatever is there by then), and after which object.
fn token(version: u64, after: &Key) -> String {
    let text =
        json!({ "v": "meta.k8s.io/v1", "rv": version, "start": [after.namespace, after.name] });
    BASE64_URL_SAFE_NO_PAD.encode(text.to_string())
}

fn read_token(kind: &Kind, token: &str) -> Answered<(u64, Key)> {
    let refused = |why: &str| {
        let message = format!("invalid continue token: continue key is not valid: {why}");
        Refusal::bad_request(message)
    };
    let bytes = BASE64_URL_SAFE_NO_PAD
        .decode(token)
        .map_err(|error| refused(&error.to_string()))?;
    let value: Value =
        serde_json::from_slice(&bytes).map_err(|error| refused(&error.to_string()))?;
    let (Some(version), [namespace, name]) =
        (value["rv"].as_u64(), super::json::list(&value, "start"))
    else {
        return Err(refused("it lacks a version or a start"));
    };
    let [namespace, name] =
        [namespace, name].map(|part| part.as_str().unwrap_or_default().to_owned());
    let key = Key {
        kind: kind.stored_as(),
        namespace,
        name,
    };
    Ok((version, key))
}

/// A version in a query; none where none is given.
pub(crate) fn asked_version(query: &Query) -> Answered<Option<u64>> {
    match query.get("resourceVersion") {
        "" => Ok(None),
        given => given.parse().map(Some).map_err(|_| {
            let cause = Cause::invalid("resourceVersion", &given.into(), "must be a number");
            Refusal::invalid_as("meta.k8s.io", "ListOptions", "", &[cause])
        }),
    }
}

impl State {
    /// Lists objects; `behind` answers as that many writes ago, as far as is remembered.
    pub fn list(
        &self,
        kind: &Arc<Kind>,
        namespace: Option<&str>,
        selector: &Selector,
        query: &Query,
        behind: u64,
    ) -> Answered<Page> {
        let stored_as = kind.stored_as();
        let current = self.store.version();
        let asked = asked_version(query)?;
        let limit: usize = query.get("limit").parse().unwrap_or_default();
        let (version, after) = match query.get("continue") {
            "" => {
                if let Some(asked) = asked.filter(|&asked| asked > current) {
                    let message =
                        format!("Timeout: Too large resource version: {asked}, current: {current}");
                    let mut refusal = Refusal::new(504, "Timeout", message);
                    refusal.details = Some(json!({
                        "causes": [{ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" }],
                    }));
                    refusal.retry_after = Some(1);
                    return Err(refusal);
                }
                let exact = query.get("resourceVersionMatch") == "Exact";
                let version = match asked {
                    Some(asked) if exact => asked,
                    _ => current.saturating_sub(behind).max(self.store.oldest()),
                };
                (version, None)
            }
            token => {
                let (version, after) = read_token(kind, token)?;
                (if version == 0 { current } else { version }, Some(after))
            }
        };
        let named = selector.name().map(ToOwned::to_owned);
        let mut page = Page {
            version,
            items: Vec::new(),
            go_on: None,
            remaining: None,
        };
        if let (Some(name), Some(namespace), true) = (
            named,
            namespace.or((!kind.namespaced).then_some("")),
            version == current,
        ) {
            // One object at most, and its place is known.
            let key = Key {
                kind: stored_as,
                namespace: namespace.to_owned(),
                name,
            };
            let found = self
                .store
                .get(&key)
                .filter(|object| selector.matches(object));
            page.items.extend(found.cloned());
            return Ok(page);
        }
        let then;
        let all: Box<dyn Iterator<Item = (&Key, &Stored)>> = if version == current {
            Box::new(self.store.range(&stored_as, namespace, after.as_ref()))
        } else {
            then = self
                .store
                .range_at(version, &stored_as, namespace, after.as_ref())
                .ok_or_else(|| too_old(after.as_ref()))?;
            Box::new(then.iter().map(|(key, object)| (key, object)))
        };
        let mut last: Option<&Key> = None;
        let mut wanted = all.filter(|(_, object)| selector.matches(object));
        for (key, object) in wanted.by_ref() {
            if limit > 0 && page.items.len() == limit {
                page.go_on = last.map(|last| token(version, last));
                // What a selector leaves is not counted.
                page.remaining = selector.is_empty().then(|| wanted.count() + 1);
                break;
            }
            page.items.push(Arc::clone(object));
            last = Some(key);
        }
        Ok(page)
    }
}

fn too_old(after: Option<&Key>) -> Refusal {
    let Some(after) = after else {
        return Refusal::expired("The resourceVersion for the provided list is too old.");
    };
    let mut refusal = Refusal::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    refusal.go_on = Some(token(0, after));
    refusal
}
