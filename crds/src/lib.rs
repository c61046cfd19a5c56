//! The resource.
