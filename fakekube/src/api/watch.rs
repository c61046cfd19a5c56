//! Watches: what has changed since a version, and what changes from now on.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, stream};
use serde_json::{Value, json};
use tokio::{
    sync::watch::Receiver,
    time::{Instant, sleep_until},
};

use super::{
    faults::WatchFault,
    kinds::Kind,
    refusal::{Answered, Cause, Refusal},
    request::{Query, Shape},
    selector::Selector,
    server::Shared,
    service::text_of,
    show,
    store::{Change, Key, Stored},
};

/// How often an idle watch is told how far it is.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// How long a watch goes on that does not say how long it wants to.
const LONGEST: Duration = Duration::from_secs(1_800);

/// A watch that goes on.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    changed: Receiver<u64>,
    kind: Arc<Kind>,
    stored_as: Arc<str>,
    namespace: Option<String>,
    selector: Selector,
    shape: Shape,
    fault: WatchFault,
    /// Up to which version all has been seen.
    seen: u64,
    /// What is to be sent, and not before when.
    queue: VecDeque<(Instant, Bytes)>,
    sent: usize,
    over: bool,
    next_bookmark: Option<Instant>,
    until: Instant,
}

impl Watch {
    /// Begins a watch: what it starts with is fixed here.
    pub fn new(
        shared: &Arc<Shared>,
        kind: &Arc<Kind>,
        namespace: Option<&str>,
        selector: Selector,
        query: &Query,
        shape: Shape,
        fault: WatchFault,
    ) -> Answered<Self> {
        let asked = super::read::asked_version(query)?;
        let initial = query.is_set("sendInitialEvents");
        if initial && query.get("resourceVersionMatch") != "NotOlderThan" {
            let cause = Cause::forbidden(
                "resourceVersionMatch",
                "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            );
            return Err(Refusal::invalid_as(
                "meta.k8s.io",
                "ListOptions",
                "",
                &[cause],
            ));
        }
        let now = Instant::now();
        let bookmarks = query.is_set("allowWatchBookmarks");
        let seconds = query
            .get("timeoutSeconds")
            .parse()
            .ok()
            .filter(|&seconds: &u64| seconds > 0);
        let mut watch = Self {
            shared: Arc::clone(shared),
            changed: shared.changed.subscribe(),
            kind: Arc::clone(kind),
            stored_as: kind.stored_as(),
            namespace: namespace.map(ToOwned::to_owned),
            selector,
            shape,
            fault,
            seen: 0,
            queue: VecDeque::new(),
            sent: 0,
            over: false,
            next_bookmark: bookmarks.then(|| now + BOOKMARK_EVERY),
            until: now + seconds.map_or(LONGEST, Duration::from_secs),
        };
        let state = shared.state();
        match asked.filter(|&version| version > 0) {
            Some(version) if !initial => watch.seen = version,
            _ => {
                watch.seen = state.store.version();
                let all: Vec<Stored> = state
                    .store
                    .range(&watch.stored_as, watch.namespace.as_deref(), None)
                    .filter(|(_, object)| watch.selector.matches(object))
                    .map(|(_, object)| Arc::clone(object))
                    .collect();
                for object in all {
                    watch.push(now, "ADDED", &object, None);
                }
                if initial && bookmarks {
                    watch.bookmark(true);
                }
            }
        }
        drop(state);
        Ok(watch)
    }

    /// The events, each a line.
    pub fn events(self) -> impl Stream<Item = Bytes> + Send {
        stream::unfold(self, |mut watch| async move {
            let event = watch.next().await?;
            Some((event, watch))
        })
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.over && self.fault.cut_after.is_some_and(|count| self.sent >= count) {
                self.over = true;
                self.queue.clear();
                self.refuse(&Refusal::expired(format!(
                    "too old resource version: {}",
                    self.seen
                )));
            }
            if let Some((due, event)) = self.queue.front() {
                if *due > Instant::now() {
                    sleep_until((*due).min(self.until)).await;
                    if Instant::now() >= self.until {
                        return None;
                    }
                }
                let event = event.clone();
                self.queue.pop_front();
                self.sent += 1;
                return Some(event);
            }
            if self.over {
                return None;
            }
            self.look();
            if !self.queue.is_empty() {
                continue;
            }
            let bookmark = self.next_bookmark.unwrap_or(self.until).min(self.until);
            tokio::select! {
                changed = self.changed.changed() => {
                    if changed.is_err() {
                        return None;
                    }
                }
                () = sleep_until(bookmark) => {
                    if Instant::now() >= self.until {
                        return None;
                    }
                    self.next_bookmark = Some(Instant::now() + BOOKMARK_EVERY);
                    self.bookmark(false);
                }
            }
        }
    }

    /// Takes in what has changed.
    fn look(&mut self) {
        let shared = Arc::clone(&self.shared);
        let state = shared.state();
        self.changed.mark_unchanged();
        let oldest = state.store.oldest();
        if self.seen < oldest {
            self.over = true;
            let message = format!("too old resource version: {} ({oldest})", self.seen);
            drop(state);
            self.refuse(&Refusal::expired(message));
            return;
        }
        let changes: Vec<Change> = state
            .store
            .since(self.seen)
            .filter(|change| self.is_about(&change.key))
            .cloned()
            .collect();
        self.seen = self.seen.max(state.store.version());
        drop(state);
        for change in changes {
            let due = change.at + self.fault.lag;
            let matches = |object: &Option<Stored>| {
                object
                    .as_ref()
                    .is_some_and(|object| self.selector.matches(object))
            };
            match (
                matches(&change.before),
                matches(&change.after),
                &change.before,
                &change.after,
            ) {
                (true, true, _, Some(object)) => self.push(due, "MODIFIED", object, None),
                (false, true, _, Some(object)) => self.push(due, "ADDED", object, None),
                (true, false, Some(object), _) => {
                    self.push(due, "DELETED", object, Some(change.version))
                }
                _ => {}
            }
        }
    }

    fn is_about(&self, key: &Key) -> bool {
        key.kind == self.stored_as
            && self
                .namespace
                .as_ref()
                .is_none_or(|namespace| *namespace == key.namespace)
    }

    /// An object that is gone shows the version at which it went.
    fn push(&mut self, due: Instant, what: &str, object: &Stored, version: Option<u64>) {
        let mut shown = show::object(
            &self.kind,
            object,
            self.shape,
            self.sent == 0 && self.queue.is_empty(),
            self.shared.now(),
        );
        if let Some(version) = version {
            let version = Value::from(version.to_string());
            match self.shape {
                Shape::Table => shown["rows"][0]["object"]["metadata"]["resourceVersion"] = version,
                _ => shown["metadata"]["resourceVersion"] = version,
            }
        }
        let event = line(what, &shown);
        self.queue.push_back((due, event.clone()));
        if self.fault.duplicate {
            self.queue.push_back((due, event));
        }
    }

    fn bookmark(&mut self, end_of_initial: bool) {
        let mut metadata = json!({ "resourceVersion": self.seen.to_string() });
        if end_of_initial {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let (kind, version) = match self.shape {
            Shape::Whole => (self.kind.kind.as_str(), self.kind.api_version()),
            Shape::Metadata | Shape::Table => {
                ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned())
            }
        };
        let mut object = json!({ "kind": kind, "apiVersion": version, "metadata": metadata });
        if self.shape == Shape::Table {
            object = show::table(
                &self.kind,
                &json!({ "resourceVersion": self.seen.to_string() }),
                &[],
                false,
                self.shared.now(),
            );
        }
        let due = Instant::now() + self.fault.lag;
        self.queue.push_back((due, line("BOOKMARK", &object)));
    }

    fn refuse(&mut self, refusal: &Refusal) {
        self.queue
            .push_back((Instant::now(), line("ERROR", &refusal.body())));
    }
}

fn line(what: &str, object: &Value) -> Bytes {
    let mut text = format!("{{\"type\":\"{what}\",\"object\":");
    text.push_str(&text_of(object));
    text.push_str("}\n");
    Bytes::from(text)
}
