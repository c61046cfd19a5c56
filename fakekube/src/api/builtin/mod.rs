//! The kinds that are built in, beyond their schemas: their defaults, and the checks of their objects.

mod checks;
mod defaults;

pub(crate) use checks::validate;
pub(crate) use defaults::{created, updated};
