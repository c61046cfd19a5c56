//! A test double of Kubernetes, as far as an operator of Jobs can tell: an API server in memory, and a cluster (the Job
//! controller and nodes) that lives on it through its API, as the real ones do. Nothing that is shipped depends on it.
//!
//! What the API server leaves out: authentication and authorization, protobuf (so `kubectl create` of some built-in kinds;
//! `kubectl apply` is fine), more than the storage version of a definition, admission plugins but for what a namespace
//! and a quota on counts say, and most checks of pods. [`FakeKube::objects`] and the like are for tests alone.
//! `tests/differential.rs` holds the rest against a real server.

mod api;
pub mod cluster;

pub use api::{Call, Clock, Counts, FakeKube, Fault, Listening, Verb, WatchFault};
