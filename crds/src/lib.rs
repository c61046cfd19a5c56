//! The `InferenceBenchmark` resource, with what a user asks for (`spec`) and gets back (`status`), the rules a
//! spec obeys (`validate`), and the expansion of its design into trials (`design`).
//!
//! Plain data and pure functions: no Kubernetes client, no model, no store.

pub mod budget;
pub mod combination;
pub mod confirm;
pub mod contract;
pub mod crd;
pub mod design;
pub mod dtype;
pub mod duration;
pub mod engine;
mod exclude;
pub mod exit_code;
pub mod expectation;
pub mod factor;
pub mod factors;
pub mod file;
mod grid;
pub mod handover;
pub mod layout;
pub mod ledger;
pub mod level;
pub mod limits;
pub mod model;
mod node;
pub mod outcome;
pub mod patterns;
pub mod presets;
mod schema;
pub mod search;
pub mod secret;
pub mod select;
pub mod selection;
mod sha256;
pub mod spec;
pub mod splitmix;
pub mod status;
pub mod suggest;
pub mod until;
pub mod validate;
pub mod violation;
pub mod workload;

pub use duration::Duration;
pub use node::Position;
pub use outcome::Outcome;
pub use sha256::sha256_hex;
pub use spec::{InferenceBenchmark, InferenceBenchmarkSpec};
pub use status::InferenceBenchmarkStatus;
pub use validate::{Scope, validate};
pub use violation::Violation;
