//! The kinds of panel that figures are composed of: lines along a factor, rows with values, points of two metrics, and
//! a matrix. A panel is as wide as a phone, so that its words stay legible there.

mod frame;
mod lines;
mod matrix;
mod paths;
mod rows;
mod scatter;

pub(super) use self::{
    lines::Lines,
    matrix::{Heat, HeatCell, Matrix},
    paths::{Path, Paths, Spot},
    rows::{Rows, Style, Value},
    scatter::Scatter,
};
use super::scene::{Scene, fitted};

/// Width of a panel, pixels.
pub(super) const WIDTH: f64 = 340.0;
const TITLE: f64 = 12.5;
const SMALL: f64 = 11.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = 40.0;

/// How many panels stand in a row where there is one for each of `along` and each metric, metric by metric. Four in a row
/// would be too small to read, and three of four would break the rows.
pub(super) fn columns(along: usize, metrics: usize) -> usize {
    match (along, metrics) {
        (1, 4) | (4, _) => 2,
        (1, metrics) => metrics.min(3),
        (along, _) => along.min(3),
    }
}

/// One x and y, with the ends of an interval or a band.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Dot {
    pub x: f64,
    pub y: f64,
    pub ends: Option<(f64, f64)>,
}

/// Points of one series along x.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Trace {
    /// Which colour, shape and dash.
    pub series: usize,
    pub dots: Vec<Dot>,
    /// A curve that was fitted to them.
    pub curve: Vec<(f64, f64)>,
}

/// How the ends of dots are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spread {
    /// A shaded band.
    Band,
    /// Whiskers.
    Whiskers,
}

/// A title at the head of a panel. Bold letters are wider than others.
fn title(title: &str, scene: &mut Scene) {
    let title = fitted(title, TITLE, (scene.width - 4.0) / 1.12);
    scene.bold((2.0, 14.0), &title, TITLE);
}
