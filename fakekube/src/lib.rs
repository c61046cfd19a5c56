//! A test double of Kubernetes, as far as an operator of Jobs can tell: an API server in memory, and a cluster (the Job
//! controller and nodes) that lives on it through its API, as the real ones do. Nothing that is shipped depends on it.
//!
//! The API server has the verbs, merge patches, label selectors, paged lists and watches that this project's programs
//! use. It refuses what it does not know, rather than answer something else: field selectors, other patches, tables and
//! metadata alone, dry runs, discovery, protobuf. It leaves out authentication and authorization, all but the storage
//! version of a definition, admission plugins except for namespaces that are going and quotas on numbers of objects,
//! and most checks of pods. `tests/differential` holds the rest against a real server. [`FakeKube::objects`] and the
//! like are for tests alone.

mod api;
pub mod cluster;

pub use api::{Call, Clock, Counts, FakeKube, Fault, Listening, Verb, WatchFault};
