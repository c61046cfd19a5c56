//! One level of each factor: of a combination, as documents state them and as people are told them.

use std::{borrow::Cow, collections::BTreeMap};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::json;

use super::{
    Allowed, Factor, Role, Scope, TABLE,
    by_factor::{
        PARAMETERS, any_level, deserialize_by_factor, properties_by_factor, serialize_by_factor,
    },
};
use crate::{combination::Combination, level::Level, limits};

/// One level of each factor; a parameter that the engine at hand does not take has none. Two trials belong to the same
/// combination where these are equal.
///
/// In documents a factor at its implied level is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Levels(BTreeMap<Factor, Level>);

impl Levels {
    /// The levels of a combination.
    #[must_use]
    pub fn of(combination: &Combination) -> Self {
        let builtins = TABLE.iter().enumerate();
        let builtins =
            builtins.map(|(at, builtin)| (Factor::Builtin(at), (builtin.level)(combination)));
        let parameters = combination.parameters.iter();
        let parameters = parameters.map(|(name, setting)| {
            (
                Factor::Parameter(name.as_str().into()),
                setting.level.clone(),
            )
        });
        let mut levels: BTreeMap<_, _> = builtins.chain(parameters).collect();
        if combination.search.is_some() {
            // Its load is searched, and has no level.
            levels.remove(&Factor::BATCH_SIZE);
        }
        Self(levels)
    }

    /// These levels, and the implied one of each factor that is not among them; where requests come one by one, that is
    /// a batch size of 1.
    pub fn new(levels: impl IntoIterator<Item = (Factor, Level)>) -> Self {
        let mut levels: BTreeMap<_, _> = levels.into_iter().collect();
        for factor in Factor::builtins() {
            if let Some(implied) = factor.implied() {
                levels.entry(factor).or_insert(implied);
            }
        }
        let mut levels = Self(levels);
        if levels.has_level_of_requests() {
            let batch_size = levels.0.entry(Factor::BATCH_SIZE);
            batch_size.or_insert(Level::from(1));
        }
        levels
    }

    /// Whether the load is one of requests that come one by one, and not of batches: of levels that are complete. One that
    /// is searched has no level.
    #[must_use]
    pub fn of_requests(&self) -> bool {
        self.has_level_of_requests() || self.get(&Factor::BATCH_SIZE).is_none()
    }

    fn has_level_of_requests(&self) -> bool {
        let load = [Factor::CONCURRENCY, Factor::REQUEST_RATE];
        load.iter()
            .any(|factor| self.number(factor).is_some_and(|number| number > 0.0))
    }

    /// The level of a factor; none of a parameter that the engine does not take.
    #[must_use]
    pub fn get(&self, factor: &Factor) -> Option<&Level> {
        self.0.get(factor)
    }

    /// The level of a factor as people are told it: none where that is no level at all, nor of the batch size where
    /// requests come one by one.
    #[must_use]
    pub fn shown(&self, factor: &Factor) -> Option<&Level> {
        let level = self.get(factor)?;
        let absent = factor.may_be_absent() && factor.implied().as_ref() == Some(level);
        let single = *factor == Factor::BATCH_SIZE && self.of_requests();
        (!absent && !single).then_some(level)
    }

    /// The number that a factor's level is.
    #[must_use]
    pub fn number(&self, factor: &Factor) -> Option<f64> {
        self.get(factor)?.number()
    }

    /// Sets the level of a factor.
    pub fn set(&mut self, factor: Factor, level: Level) {
        self.0.insert(factor, level);
    }

    /// All but the level of one factor: what the combinations have in common that differ in it alone.
    #[must_use]
    pub fn without(mut self, factor: &Factor) -> Self {
        self.0.remove(factor);
        self
    }

    /// The levels of the factors of one role alone.
    #[must_use]
    pub fn of_role(mut self, role: Role) -> Self {
        self.0.retain(|factor, _| factor.role() == role);
        self
    }

    /// Every factor and its level, in the order of the factors.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&Factor, &Level)> {
        self.0.iter()
    }

    /// The factors that documents name: all but those at their implied level, and the batch size where requests come
    /// one by one.
    pub fn stated(&self) -> impl Iterator<Item = (&Factor, &Level)> {
        let single = self.of_requests();
        self.iter().filter(move |(factor, level)| {
            factor.implied().as_ref() != Some(level) && !(single && **factor == Factor::BATCH_SIZE)
        })
    }

    /// Those of a combination whose change forces a fresh start of the engine: trials that agree in them may share one.
    #[must_use]
    pub fn of_start(combination: &Combination) -> Self {
        let mut levels = Self::of(combination);
        levels.0.retain(|factor, _| match factor {
            Factor::Parameter(name) => {
                let setting = combination.parameters.get(&**name);
                setting.is_none_or(|setting| setting.field.is_empty())
            }
            builtin => builtin.scope() == Scope::Start,
        });
        levels
    }
}

impl Serialize for Levels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_by_factor(self.stated(), serializer)
    }
}

impl<'de> Deserialize<'de> for Levels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::new(deserialize_by_factor(deserializer)?))
    }
}

impl JsonSchema for Levels {
    fn schema_name() -> Cow<'static, str> {
        "Levels".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // Where requests come one by one, no batch size is named.
        let required = TABLE.iter().filter(|builtin| {
            builtin.implied.is_none() && builtin.name != Factor::BATCH_SIZE.name()
        });
        let required: Vec<_> = required.map(|builtin| builtin.name).collect();
        let mut properties = properties_by_factor(|builtin| {
            // Results from elsewhere have data types and names that no spec may have.
            let mut schema = match builtin.allowed {
                Allowed::Range(..) | Allowed::Above0(_) => builtin.schema(),
                Allowed::Names(_) | Allowed::OneOf(_) => {
                    json!({ "type": "string", "maxLength": limits::LEVEL_TEXT })
                }
            };
            schema["description"] = builtin.doc.into();
            schema
        });
        properties[PARAMETERS]["additionalProperties"] = any_level();
        json_schema!({
            "description": "One level of each factor; one at its implied level is left out.",
            "type": "object",
            "properties": properties,
            "required": required,
        })
    }
}
