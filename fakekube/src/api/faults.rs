//! Faults that tests may inject, and requests that they may count: per client, call by call.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;

use super::request::Verb;

/// A request, before it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The action that it asks for.
    pub verb: Verb,
    /// Its resource, with the subresource: `jobs`, `inferencebenchmarks/status`. Empty for paths of no resource.
    pub resource: String,
    /// Its namespace; empty for all of them, and for kinds without.
    pub namespace: String,
    /// The object's name; empty for lists, watches and creations.
    pub name: String,
    /// The number of requests that the client has made, this one included.
    pub nth: u64,
    /// The `resourceVersion` of the query: `0` asks for any version at hand.
    pub version: String,
    /// The body as it was sent: JSON, or nothing.
    pub body: Bytes,
}

/// A fault of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// None.
    #[default]
    None,
    /// It is refused with this code and reason, and nothing is done.
    Refuse {
        /// Such as 429.
        code: u16,
        /// Such as `TooManyRequests`.
        reason: &'static str,
        /// Seconds, for the `Retry-After` header.
        retry_after: Option<u32>,
    },
    /// It is done, and then refused with this code: 504 for a proxy that lost patience.
    RefuseAfterCommit {
        /// Such as 504.
        code: u16,
    },
    /// It is never answered, and nothing is done.
    Hang,
    /// It is done, and never answered.
    HangAfterCommit,
    /// The connection breaks, and nothing is done.
    Drop,
    /// It is done, and the connection breaks.
    DropAfterCommit,
    /// It waits before anything is done.
    Delay(Duration),
    /// A list is answered from the state this number of writes ago, as far as that is remembered.
    Stale(u64),
    /// A watch misbehaves.
    Watch(WatchFault),
}

/// The faults of a watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchFault {
    /// After this number of events it ends with 410.
    pub cut_after: Option<usize>,
    /// Every event comes later by this.
    pub lag: Duration,
    /// Every event comes twice.
    pub duplicate: bool,
}

/// Decides on the fault of a request.
pub(crate) type Hook = Arc<dyn Fn(&Call) -> Fault + Send + Sync>;

/// The number of requests, by verb and resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<(Verb, String), u64>);

impl Counts {
    pub(crate) fn add(&mut self, call: &Call) {
        *self
            .0
            .entry((call.verb, call.resource.clone()))
            .or_default() += 1;
    }

    /// The number of requests of this verb and resource.
    #[must_use]
    pub fn of(&self, verb: Verb, resource: &str) -> u64 {
        self.0
            .get(&(verb, resource.to_owned()))
            .copied()
            .unwrap_or_default()
    }

    /// The number of all requests.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// The number of requests that might have changed something.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.iter()
            .filter(|(verb, _, _)| verb.writes())
            .map(|(_, _, count)| count)
            .sum()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Verb, &str, u64)> {
        self.0
            .iter()
            .map(|((verb, resource), count)| (*verb, resource.as_str(), *count))
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (verb, resource, count) in self.iter() {
            writeln!(f, "{verb:?} {resource}: {count}")?;
        }
        Ok(())
    }
}
