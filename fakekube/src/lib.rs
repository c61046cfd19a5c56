//! A test double of Kubernetes, as far as an operator of Jobs can tell: an API server in memory, and a cluster (the Job
//! controller and nodes) that lives on it through its API, as the real ones do. Nothing that is shipped depends on it.

mod api;
pub mod cluster;

pub use api::{Call, Clock, Counts, FakeKube, Fault, Listening, Verb, WatchFault};
