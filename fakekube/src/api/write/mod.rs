//! Writes: creating, changing, binding and deleting objects, with the checks that come before.

mod bind;
mod change;
mod create;
mod decode;
mod delete;
mod fields;
mod options;
mod validate;

pub(crate) use change::Change;
pub(crate) use options::{Options, UnknownFields, Written};
