//! The runner: measures trials, alone or as a whole sweep on one machine, and collects what they leave.
//!
//! The `inferbench` binary is a thin shell around this library, so that tests reach its parts.

pub mod collect;
pub mod exit;
pub mod store;
