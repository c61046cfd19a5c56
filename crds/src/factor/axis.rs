//! The axes of a design: the levels of each factor, and the combination at a position on every axis.

use super::{Factor, Level, Scope, TABLE};
use crate::{
    combination::Combination,
    factors::{Factors, Parameter},
};

/// The levels of one factor in a design.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    /// The factor.
    pub factor: Factor,
    /// Its distinct levels, in the order of the spec.
    pub levels: Vec<Level>,
    /// The scope of a change of level.
    pub scope: Scope,
    /// Of a parameter: the engines that take it, where not all do. For the others it has no level.
    pub engines: Option<Vec<String>>,
}

impl Axis {
    /// Whether the engine of this name takes the factor.
    pub(crate) fn is_taken_by(&self, engine: Option<&str>) -> bool {
        self.engines.as_ref().is_none_or(|engines| {
            engine.is_some_and(|engine| engines.iter().any(|name| name == engine))
        })
    }
}

/// The levels of every factor of a design, in the order of a combination's mixed-radix index.
#[must_use]
pub fn axes(factors: &Factors) -> Vec<Axis> {
    let builtins = TABLE.iter().enumerate().map(|(at, builtin)| Axis {
        factor: Factor::Builtin(at),
        levels: (builtin.levels)(factors),
        scope: builtin.scope,
        engines: None,
    });
    let parameters = factors.parameters.iter().map(|parameter| Axis {
        factor: Factor::Parameter(parameter.name.as_str().into()),
        levels: parameter.levels.clone(),
        scope: parameter_scope(parameter),
        engines: (!parameter.engines.is_empty()).then(|| parameter.engines.clone()),
    });
    builtins.chain(parameters).collect()
}

/// A parameter that is a member of requests is another load on the same engine.
const fn parameter_scope(parameter: &Parameter) -> Scope {
    if parameter.field.is_empty() {
        Scope::Start
    } else {
        Scope::Load
    }
}

/// The combination whose levels stand at these positions of [`axes`]. A parameter that the engine does not take is left
/// out, whatever its position.
pub(crate) fn combination(factors: &Factors, positions: &[usize]) -> Combination {
    let mut combination = Combination::default();
    let mut positions = positions.iter().copied();
    for (builtin, at) in TABLE.iter().zip(&mut positions) {
        (builtin.set)(&mut combination, factors, at);
    }
    for (parameter, at) in factors.parameters.iter().zip(positions) {
        if parameter.is_for(&combination.engine.name) {
            combination
                .parameters
                .insert(parameter.name.clone(), parameter.setting(at));
        }
    }
    combination
}
