//! Whole sweeps in a cluster, through the real operator and the built program: spec → operator → a test double of
//! Kubernetes, whose pods are `inferbench` processes on models that take milliseconds → store → collection → status.

mod bucket;
mod confirm;
mod endpoints;
mod faults;
#[path = "../sweep/gateway.rs"]
mod gateway;
mod lifecycle;
#[path = "../sweep/llama.rs"]
mod llama;
#[expect(dead_code, reason = "the sweeps on this machine use more of it")]
#[path = "../sweep/place.rs"]
mod place;
#[path = "../store/server.rs"]
mod server;
mod servers;
mod until;
mod volume;
mod world;
