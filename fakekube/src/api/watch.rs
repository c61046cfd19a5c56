//! Watches: the changes since a version, and those from now on.

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
    json::to_text,
    kinds::Kind,
    list::asked_version,
    refusal::{Answered, Refusal},
    request::Query,
    selector::Selector,
    shared::Shared,
    show::Shown,
    store::{Change, Key, Stored},
};

/// The time between the bookmarks of an idle watch.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// The length of a watch that asks for none.
const LONGEST: Duration = Duration::from_secs(1_800);

/// A watch under way.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    changed: Receiver<u64>,
    kind: Arc<Kind>,
    namespace: Option<String>,
    selector: Selector,
    shown: Shown,
    fault: WatchFault,
    /// The version up to which all has been seen.
    seen: u64,
    /// Events to send, and not before when.
    queue: VecDeque<(Instant, Bytes)>,
    sent: usize,
    over: bool,
    next_bookmark: Option<Instant>,
    until: Instant,
}

impl Watch {
    /// Begins a watch; the version that it starts at is fixed here.
    pub fn new(
        shared: &Arc<Shared>,
        kind: &Arc<Kind>,
        namespace: Option<&str>,
        selector: Selector,
        query: &Query,
        shown: Shown,
        fault: WatchFault,
    ) -> Answered<Self> {
        let asked = asked_version(query)?;
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
            namespace: namespace.map(ToOwned::to_owned),
            selector,
            shown,
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
            Some(version) => watch.seen = version,
            // From any version: all objects come as if they were new.
            None => {
                watch.seen = state.store.version();
                let all: Vec<Stored> = state
                    .store
                    .range(&kind.resource, namespace, None)
                    .filter(|(_, object)| watch.selector.matches(object))
                    .map(|(_, object)| Arc::clone(object))
                    .collect();
                for object in all {
                    watch.push(now, "ADDED", &object);
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
                    self.bookmark();
                }
            }
        }
    }

    /// Queues the changes since the last look.
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
                (true, true, _, Some(object)) => self.push(due, "MODIFIED", object),
                (false, true, _, Some(object)) => self.push(due, "ADDED", object),
                (true, false, Some(object), _) => {
                    // It shows the version at which it went.
                    let mut gone = (**object).clone();
                    let version = change.version.to_string();
                    gone["metadata"]["resourceVersion"] = version.into();
                    self.push(due, "DELETED", &gone);
                }
                _ => {}
            }
        }
    }

    fn is_about(&self, key: &Key) -> bool {
        key.resource == self.kind.resource
            && self
                .namespace
                .as_ref()
                .is_none_or(|namespace| *namespace == key.namespace)
    }

    fn push(&mut self, due: Instant, what: &str, object: &Value) {
        let event = line(what, &self.shown.object(object));
        self.queue.push_back((due, event.clone()));
        if self.fault.duplicate {
            self.queue.push_back((due, event));
        }
    }

    fn bookmark(&mut self) {
        let [kind, api_version] = self.shown.kind(&self.kind);
        let object = json!({
            "kind": kind,
            "apiVersion": api_version,
            "metadata": { "resourceVersion": self.seen.to_string() },
        });
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
    text.push_str(&to_text(object));
    text.push_str("}\n");
    Bytes::from(text)
}
