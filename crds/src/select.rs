//! `design.select`: what a user may ask for where some of a grid's combinations are to be measured in place of all. How
//! they are chosen is in `selection`.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits;

/// A choice among the combinations of the grid.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Select {
    /// How they are chosen.
    #[serde(default)]
    pub method: Method,
    /// How many are measured, of those that `exclude` leaves.
    #[schemars(range(min = 1, max = limits::TRIALS))]
    pub combinations: i32,
    /// The effects that are to be told from each other: they are estimated, and what was not measured is predicted from
    /// them.
    #[serde(default)]
    pub model: Model,
}

/// How combinations are chosen.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Method {
    /// The combinations that estimate the model's effects best: the largest determinant of the information matrix.
    #[default]
    DOptimal,
    /// Every level of a factor as often as any other, mixed at random.
    LatinHypercube,
    /// Evenly spread over the grid, by a Sobol sequence.
    Sobol,
    /// At random.
    Random,
}

/// The effects of a model; numbers enter by their logarithm.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum Model {
    /// Each factor's own effect.
    #[default]
    MainEffects,
    /// These, and those of each pair of factors.
    TwoFactor,
    /// These, and the curvature of each number with three levels or more.
    Quadratic,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
