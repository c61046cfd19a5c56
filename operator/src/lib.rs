//! The operator: turns an `InferenceBenchmark` into Jobs, and what becomes of them into its status.
//!
//! Observe, plan, act: `controller/` decides by pure functions over plain data, and its `apply` alone talks to the API
//! server.

pub mod client;
pub mod controller;
pub mod lease;
pub mod metrics;
pub mod server;
pub mod traces;
