//! The runner: measures trials, alone or as a whole sweep on one machine, and collects what they leave.
//!
//! The `inferbench` binary is a thin shell around this library, so that tests reach its parts.

pub mod ceilings;
pub mod cgroup;
pub mod child;
pub mod cli;
pub mod collect;
pub mod commands;
pub mod estimate;
pub mod executor;
pub mod exit;
pub mod fault;
pub mod gpu;
pub mod hygiene;
pub mod lock;
pub mod machine;
pub mod measure;
pub mod models;
pub mod pod;
pub mod prepared;
pub mod progress;
pub mod protocol;
pub mod recording;
pub mod shape;
pub mod signals;
pub mod store;
pub mod stored;
pub mod sweep;
pub mod table;
pub mod telemetry;
pub mod trial;
