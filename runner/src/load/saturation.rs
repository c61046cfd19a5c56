//! Whether the backlog of an open loop grows: whether it asks for more than the server can do.

use std::time::Instant;

use super::{Exchange, window::Borders};

/// The backlog of a load over its window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Saturation {
    /// A closed loop has no backlog.
    DoesNotApply,
    /// Too few requests to tell.
    Unknown,
    /// It does not grow.
    Steady,
    /// It grows.
    Growing,
}

/// The verdict on an open loop.
#[must_use]
pub fn of(exchanges: &[Exchange], borders: &Borders) -> Saturation {
    let _ = (exchanges, borders, Instant::now());
    Saturation::Unknown
}
