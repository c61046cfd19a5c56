//! The factors: all that a design can vary, in one table ([`TABLE`]), and the types that go over them. Design, exclude,
//! validation, rules, expansion, tables, statistics and reports ask here instead of naming factors themselves.
//!
//! To add a factor: a row there, a field of `Factors`, a field of `Combination`; then the engines that understand it.

mod axis;
mod by_factor;
mod levels;
mod table;

use std::{borrow::Cow, fmt, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) use self::{
    axis::combination,
    by_factor::{
        PARAMETERS, any_level, deserialize_by_factor, properties_by_factor, serialize_by_factor,
    },
};
pub use self::{
    axis::{Axis, axes},
    levels::Levels,
    table::{Allowed, Builtin, Implied, Kind, Role, Scope, TABLE},
};
pub use crate::level::{Level, Number};

/// A factor of a sweep: one of the [`TABLE`], or a parameter, which the user names. In the order of the table,
/// parameters after it by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Factor {
    /// The factor at this position of the table.
    Builtin(usize),
    /// A parameter.
    Parameter(Arc<str>),
}

impl Factor {
    /// The engine.
    pub const ENGINE: Self = Self::builtin("engine");
    /// The model.
    pub const MODEL: Self = Self::builtin("model");
    /// Sequences in a batch.
    pub const BATCH_SIZE: Self = Self::builtin("batchSize");
    /// Requests in flight.
    pub const CONCURRENCY: Self = Self::builtin("concurrency");
    /// Requests a second.
    pub const REQUEST_RATE: Self = Self::builtin("requestRate");
    /// Percent of the input tokens that requests have in common.
    pub const PREFIX_SHARE: Self = Self::builtin("prefixShare");
    /// Input tokens of each sequence.
    pub const INPUT_LENGTH: Self = Self::builtin("inputLength");
    /// Output tokens of each sequence.
    pub const OUTPUT_LENGTH: Self = Self::builtin("outputLength");
    /// Devices of the engine.
    pub const GPUS: Self = Self::builtin("gpus");
    /// Data type of the weights.
    pub const DTYPE: Self = Self::builtin("dtype");

    /// The factor of the table with this name.
    ///
    /// # Panics
    /// Where there is none; in a constant, the build fails.
    #[must_use]
    pub const fn builtin(name: &str) -> Self {
        let mut at = 0;
        while at < TABLE.len() {
            if equal(TABLE[at].name.as_bytes(), name.as_bytes()) {
                return Self::Builtin(at);
            }
            at += 1;
        }
        panic!("no factor of the table has this name")
    }

    /// The factor of this name: of the table, else a parameter.
    #[must_use]
    pub fn named(name: &str) -> Self {
        match TABLE.iter().position(|builtin| builtin.name == name) {
            Some(at) => Self::Builtin(at),
            None => Self::Parameter(name.into()),
        }
    }

    /// Every factor of the table, in its order.
    pub fn builtins() -> impl DoubleEndedIterator<Item = Self> + ExactSizeIterator {
        (0..TABLE.len()).map(Self::Builtin)
    }

    /// Its row of the table; none of a parameter.
    #[must_use]
    pub fn row(&self) -> Option<&'static Builtin> {
        match self {
            Self::Builtin(at) => TABLE.get(*at),
            Self::Parameter(_) => None,
        }
    }

    /// The name in specs, documents and the status.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Builtin(at) => TABLE[*at].name,
            Self::Parameter(name) => name,
        }
    }

    /// The name in text; a parameter's own.
    #[must_use]
    pub fn title(&self) -> &str {
        self.row().map_or(self.name(), |builtin| builtin.title)
    }

    /// The head of its column in a terminal; a parameter's name.
    #[must_use]
    pub fn short(&self) -> &str {
        self.row().map_or(self.name(), |builtin| builtin.short)
    }

    /// The unit of the levels; empty where they have none, or nobody has said.
    #[must_use]
    pub fn unit(&self) -> &'static str {
        self.row().map_or("", |builtin| builtin.unit)
    }

    /// The column of the tables: a parameter's is [`PARAMETER_COLUMN`] and its name.
    #[must_use]
    pub fn column(&self) -> Cow<'static, str> {
        match self {
            Self::Builtin(at) => TABLE[*at].column.into(),
            Self::Parameter(name) => format!("{PARAMETER_COLUMN}{name}").into(),
        }
    }

    /// Whether the levels can be computed with: a parameter's where all of `levels` are numbers.
    #[must_use]
    pub fn kind<'a>(&self, levels: impl IntoIterator<Item = &'a Level>) -> Kind {
        match self.row() {
            Some(builtin) => builtin.kind,
            None if levels.into_iter().all(|level| level.number().is_some()) => Kind::Number,
            None => Kind::Category,
        }
    }

    /// The scope of a change of level. A parameter is taken to be set in the engine's process, and so to force a start:
    /// where it is a member of requests, [`Axis::scope`] says so.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.row().map_or(Scope::Start, |builtin| builtin.scope)
    }

    /// Who decides on the level.
    #[must_use]
    pub fn role(&self) -> Role {
        self.row().map_or(Role::Choice, |builtin| builtin.role)
    }

    /// The level where nothing is said; none for factors that every document names, and of a parameter.
    #[must_use]
    pub fn implied(&self) -> Option<Level> {
        match self.row()?.implied? {
            Implied::Number(number) => Some(number.into()),
            Implied::Text(text) => Some(text.into()),
            Implied::Nothing => Some(0.into()),
        }
    }

    /// Whether its implied level is none at all.
    #[must_use]
    pub fn may_be_absent(&self) -> bool {
        self.row()
            .is_some_and(|builtin| builtin.implied == Some(Implied::Nothing))
    }
}

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Factor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Factor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::named(&String::deserialize(deserializer)?))
    }
}

impl JsonSchema for Factor {
    fn schema_name() -> Cow<'static, str> {
        "Factor".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names = TABLE.iter().map(|builtin| builtin.name).collect::<Vec<_>>();
        json_schema!({
            "description": format!("A factor of the design: {}, or the name of a parameter.", names.join(", ")),
            "type": "string",
        })
    }
}

/// The names of parameters' columns begin so.
pub const PARAMETER_COLUMN: &str = "param_";

const fn equal(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod tests;
