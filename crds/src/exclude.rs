//! Levels of a combination to leave out: as the factors are data, so is this.

use std::{borrow::Cow, collections::BTreeMap};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use crate::{
    factor::{
        Factor, Level, PARAMETERS, any_level, deserialize_by_factor, properties_by_factor,
        serialize_by_factor,
    },
    limits,
};

/// Levels of a combination to leave out; a factor that is absent matches every level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exclude(BTreeMap<Factor, Vec<Level>>);

impl Exclude {
    /// The listed levels of each factor that this entry names.
    pub fn new(levels: impl IntoIterator<Item = (Factor, Vec<Level>)>) -> Self {
        Self(levels.into_iter().collect())
    }

    /// The listed levels of a factor; none where this entry does not name it.
    #[must_use]
    pub fn get(&self, factor: &Factor) -> Option<&[Level]> {
        self.0.get(factor).map(Vec::as_slice)
    }

    /// Every factor that this entry names, with the listed levels.
    pub fn iter(&self) -> impl Iterator<Item = (&Factor, &[Level])> {
        self.0
            .iter()
            .map(|(factor, levels)| (factor, levels.as_slice()))
    }

    /// The path of a factor's levels below an entry.
    #[must_use]
    pub fn path(factor: &Factor) -> String {
        match factor {
            Factor::Builtin(_) => factor.name().to_owned(),
            Factor::Parameter(name) => format!("{PARAMETERS}.{name}"),
        }
    }
}

impl Serialize for Exclude {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize_by_factor(self.0.iter(), serializer)
    }
}

impl<'de> Deserialize<'de> for Exclude {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize_by_factor(deserializer).map(Self)
    }
}

impl JsonSchema for Exclude {
    fn schema_name() -> Cow<'static, str> {
        "Exclude".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let listed = |level: Value, most: u32| json!({ "type": "array", "items": level, "minItems": 1, "maxItems": most });
        let mut properties = properties_by_factor(|builtin| {
            let mut schema = listed(builtin.schema(), builtin.max_levels);
            schema["description"] = format!("Levels of {}.", builtin.name).into();
            schema["x-kubernetes-list-type"] = "set".into();
            schema
        });
        properties[PARAMETERS]["additionalProperties"] = listed(any_level(), limits::LEVELS);
        json_schema!({
            "description": "Levels of a combination to leave out; a factor that is absent matches every level.",
            "type": "object",
            "properties": properties,
            "minProperties": 1,
        })
    }
}
