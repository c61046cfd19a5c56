//! The controller: from a resource and its Jobs to what is to be done next.

pub mod apply;
pub mod bounds;
pub mod build;
pub mod events;
pub mod groups;
pub mod log;
pub mod names;
pub mod observe;
pub mod overrides;
pub mod patch;
pub mod plan;
pub mod reconcile;
pub mod request;
pub mod run;
pub mod status;
pub mod sweep;
pub mod validate;

#[cfg(test)]
mod fixtures;
