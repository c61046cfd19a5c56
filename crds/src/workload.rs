//! The two halves of a combination: the workload that comes and the choice of whoever configures. And the mix of
//! workloads that objectives may weight.

use std::{borrow::Cow, collections::BTreeMap};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::{
    factor::{
        Builtin, Factor, Level, Levels, Number, PARAMETERS, Role, any_level, deserialize_by_factor,
        properties_by_factor, serialize_by_factor,
    },
    limits,
};

/// The levels of the factors that a person chooses, parameters among them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Choice(Levels);

impl Choice {
    /// That of a combination. Where requests come one by one, nobody chooses a batch size.
    #[must_use]
    pub fn of(levels: &Levels) -> Self {
        let chosen = levels.clone().of_role(Role::Choice);
        Self(if levels.of_requests() {
            chosen.without(&Factor::BATCH_SIZE)
        } else {
            chosen
        })
    }

    /// Its levels: of no other factors.
    #[must_use]
    pub const fn levels(&self) -> &Levels {
        &self.0
    }
}

impl Serialize for Choice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Levels::deserialize(deserializer).map(|levels| Self::of(&levels))
    }
}

impl JsonSchema for Choice {
    fn schema_name() -> Cow<'static, str> {
        "Choice".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut properties = members(|builtin| builtin.role == Role::Choice);
        properties.insert(
            PARAMETERS.into(),
            json!({
                "description": "Of parameters, by their names.",
                "type": "object",
                "maxProperties": limits::PARAMETERS,
                "additionalProperties": any_level(),
            }),
        );
        json_schema!({
            "description": "One level of each factor that a person chooses; one at its implied level is left out.",
            "type": "object",
            "properties": properties,
        })
    }
}

/// A workload of a mix, and how often its requests come.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq)]
pub struct Weighted {
    /// Its levels: of workload factors other than the model. One that is absent has one level in the whole design.
    #[serde(flatten)]
    pub workload: Workload,
    /// Its requests, in relation to those of the others.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: Number,
}

fn one() -> Number {
    Number::ONE
}

fn is_one(weight: &Number) -> bool {
    *weight == Number::ONE
}

/// Levels of workload factors.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Workload(BTreeMap<Factor, Level>);

impl Workload {
    /// That of a combination, without the model.
    #[must_use]
    pub fn of(levels: &Levels) -> Self {
        let stated = levels.stated().filter(|(factor, _)| Self::takes(factor));
        Self(
            stated
                .map(|(factor, level)| (factor.clone(), level.clone()))
                .collect(),
        )
    }

    /// Whether a mix may name this factor: one of the workload, and not the model, as the best is sought for each.
    #[must_use]
    pub fn takes(factor: &Factor) -> bool {
        factor.role() == Role::Workload && *factor != Factor::MODEL
    }

    /// The factors that a mix may name.
    pub fn factors() -> impl Iterator<Item = Factor> {
        Factor::builtins().filter(Self::takes)
    }

    /// Every factor that is named, with its level.
    pub fn iter(&self) -> impl Iterator<Item = (&Factor, &Level)> {
        self.0.iter()
    }

    /// The level of a factor; none where it is not named.
    #[must_use]
    pub fn get(&self, factor: &Factor) -> Option<&Level> {
        self.0.get(factor)
    }

    /// Whether a combination is one of this workload.
    #[must_use]
    pub fn matches(&self, levels: &Levels) -> bool {
        self.iter()
            .all(|(factor, level)| levels.get(factor) == Some(level))
    }
}

impl Serialize for Workload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_by_factor(self.iter(), serializer)
    }
}

impl<'de> Deserialize<'de> for Workload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_by_factor(deserializer).map(Self)
    }
}

impl JsonSchema for Weighted {
    fn schema_name() -> Cow<'static, str> {
        "WeightedWorkload".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut properties = members(|builtin| Workload::takes(&Factor::named(builtin.name)));
        properties.insert(
            "weight".into(),
            json!({
                "description": "How often its requests come, in relation to those of the others.",
                "type": "number",
                "minimum": limits::LEAST_WEIGHT,
                "maximum": limits::MOST_WEIGHT,
                "default": 1,
            }),
        );
        json_schema!({
            "description": "A workload of the mix: a level of each workload factor that has several, but for the model.",
            "type": "object",
            "properties": properties,
        })
    }
}

/// The members of a schema for factors of the table.
fn members(is_one: impl Fn(&Builtin) -> bool) -> Map<String, Value> {
    let mut properties = properties_by_factor(|builtin| {
        let mut schema = builtin.schema();
        schema["description"] = builtin.doc.into();
        schema
    });
    properties.retain(|name, _| Factor::named(name).row().is_some_and(&is_one));
    properties
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels() -> Levels {
        Levels::new([
            (Factor::MODEL, Level::from("m")),
            (Factor::BATCH_SIZE, Level::from(8)),
            (Factor::INPUT_LENGTH, Level::from(64)),
            (Factor::OUTPUT_LENGTH, Level::from(32)),
            (Factor::GPUS, Level::from(2)),
            (Factor::DTYPE, Level::from("bf16")),
            (Factor::named("slots"), Level::from(4)),
        ])
    }

    #[test]
    fn choice_and_workload_part_the_factors() {
        let (choice, workload) = (Choice::of(&levels()), Workload::of(&levels()));
        for factor in Factor::builtins() {
            let chosen = choice.levels().get(&factor).is_some();
            assert_eq!(
                chosen,
                factor.role() == Role::Choice && levels().get(&factor).is_some()
            );
        }
        assert_eq!(choice.levels().number(&Factor::named("slots")), Some(4.0));
        let named: Vec<&str> = workload.iter().map(|(factor, _)| factor.name()).collect();
        assert_eq!(named, ["inputLength", "outputLength"]);
        assert!(workload.matches(&levels()));
    }

    #[test]
    fn documents_keep_them() {
        let requests = |factor| {
            let mut levels = levels();
            levels.set(factor, Level::from(3));
            levels.set(Factor::BATCH_SIZE, Level::from(1));
            levels
        };
        for levels in [
            levels(),
            requests(Factor::CONCURRENCY),
            requests(Factor::REQUEST_RATE),
            requests(Factor::PREFIX_SHARE),
        ] {
            let choice = Choice::of(&levels);
            let text = serde_json::to_string(&choice).expect("JSON");
            assert_eq!(
                serde_json::from_str::<Choice>(&text).expect("a choice"),
                choice
            );
            assert!(!text.contains("Length"), "{text}");
            let weighted = Weighted {
                workload: Workload::of(&levels),
                weight: Number::new(2.5).expect("finite"),
            };
            let text = serde_json::to_string(&weighted).expect("JSON");
            let back: Weighted = serde_json::from_str(&text).expect("a workload");
            assert_eq!(back, weighted);
            assert!(
                back.workload.matches(&levels) && !text.contains("batch"),
                "{text}"
            );
        }
        let plain: Weighted = serde_json::from_value(json!({ "inputLength": 8 })).expect("one");
        assert_eq!(plain.weight, Number::ONE);
    }
}
