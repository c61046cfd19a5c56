//! Lists, in pages that belong to one version.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{
    cause::Cause,
    json::list,
    kinds::Kind,
    refusal::{Answered, Refusal},
    request::Query,
    selector::Selector,
    show::Shown,
    state::State,
    store::{Key, Stored},
};

/// A page of a list.
#[derive(Debug)]
pub(crate) struct Page {
    version: u64,
    items: Vec<Stored>,
    /// The token of the next page.
    next: Option<String>,
    /// The number of items after this page.
    remaining: Option<usize>,
}

impl Page {
    /// The list as it is answered. Built-in items do not repeat their kind.
    pub fn body(&self, kind: &Kind, shown: Shown) -> Value {
        let items = self.items.iter().map(|stored| {
            let mut item = shown.object(stored).into_owned();
            let bare = shown == Shown::Whole && !kind.is_custom();
            if let Some(map) = item.as_object_mut().filter(|_| bare) {
                map.remove("apiVersion");
                map.remove("kind");
            }
            item
        });
        let mut metadata = json!({ "resourceVersion": self.version.to_string() });
        if let Some(token) = &self.next {
            metadata["continue"] = token.clone().into();
        }
        if let Some(count) = self.remaining {
            metadata["remainingItemCount"] = count.into();
        }
        let [list_kind, api_version] = shown.list_kind(kind);
        let mut list = json!({
            "kind": list_kind,
            "apiVersion": api_version,
            "metadata": metadata,
        });
        // Moved into it: `json!` would copy them.
        list["items"] = items.collect();
        list
    }
}

/// The place where a list continues: its version (0 for the newest by then), and the object before.
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
    let (Some(version), [namespace, name]) = (value["rv"].as_u64(), list(&value, "start")) else {
        return Err(refused("it lacks a version or a start"));
    };
    let [namespace, name] = [namespace, name].map(|part| part.as_str().unwrap_or_default());
    Ok((version, Key::new(&kind.resource, namespace, name)))
}

/// The version in a query; none where none is given.
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
    /// Lists objects; `behind` answers from the state this number of writes ago, as far as that is remembered.
    pub fn list(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        selector: &Selector,
        query: &Query,
        behind: u64,
    ) -> Answered<Page> {
        let current = self.store.version();
        let asked = asked_version(query)?;
        let limit: usize = query.get("limit").parse().unwrap_or_default();
        let (version, after) = match query.get("continue") {
            "" => {
                if let Some(asked) = asked.filter(|&asked| asked > current) {
                    return Err(too_new(asked, current));
                }
                let version = current.saturating_sub(behind).max(self.store.oldest());
                (version, None)
            }
            token => {
                let (version, after) = read_token(kind, token)?;
                (if version == 0 { current } else { version }, Some(after))
            }
        };
        let mut page = Page {
            version,
            items: Vec::new(),
            next: None,
            remaining: None,
        };
        let then;
        let all: Box<dyn Iterator<Item = (&Key, &Stored)>> = if version == current {
            Box::new(self.store.range(&kind.resource, namespace, after.as_ref()))
        } else {
            then = self
                .store
                .range_at(version, &kind.resource, namespace, after.as_ref())
                .ok_or_else(|| too_old(after.as_ref()))?;
            Box::new(then.iter().map(|(key, object)| (key, object)))
        };
        let mut last: Option<&Key> = None;
        let mut wanted = all.filter(|(_, object)| selector.matches(object));
        for (key, object) in wanted.by_ref() {
            if limit > 0 && page.items.len() == limit {
                page.next = last.map(|last| token(version, last));
                // With a selector the rest is not counted.
                page.remaining = selector.is_empty().then(|| wanted.count() + 1);
                break;
            }
            page.items.push(Arc::clone(object));
            last = Some(key);
        }
        Ok(page)
    }
}

fn too_new(asked: u64, current: u64) -> Refusal {
    let message = format!("Timeout: Too large resource version: {asked}, current: {current}");
    let mut refusal = Refusal::new(504, "Timeout", message);
    refusal.details = Some(json!({
        "causes": [{ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" }],
    }));
    refusal.retry_after = Some(1);
    refusal
}

fn too_old(after: Option<&Key>) -> Refusal {
    let Some(after) = after else {
        return Refusal::expired("The resourceVersion for the provided list is too old.");
    };
    let mut refusal = Refusal::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    refusal.continue_token = Some(token(0, after));
    refusal
}
