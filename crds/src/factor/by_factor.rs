//! Documents and schemas that say something of each factor: the table's as members by their names, parameters below
//! those.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{IgnoredAny, MapAccess, Visitor},
    ser::SerializeMap as _,
};
use serde_json::{Map, Value, json};

use super::{Allowed, Builtin, Factor, TABLE};
use crate::limits;

/// The member of a document that has the parameters by their names, beside the members for the factors of the table.
pub(crate) const PARAMETERS: &str = "parameters";

/// Writes something of each factor: those of the table as members by their names, parameters as members of
/// [`PARAMETERS`], which is left out where there are none.
pub(crate) fn serialize_by_factor<'a, T: Serialize + 'a, S: Serializer>(
    members: impl Iterator<Item = (&'a Factor, &'a T)>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let (builtins, parameters): (Vec<_>, BTreeMap<_, _>) = {
        let (builtins, parameters): (Vec<_>, Vec<_>) =
            members.partition(|(factor, _)| factor.row().is_some());
        (builtins, parameters.into_iter().collect())
    };
    let mut map = serializer.serialize_map(None)?;
    for (factor, member) in builtins {
        map.serialize_entry(factor, member)?;
    }
    if !parameters.is_empty() {
        map.serialize_entry(PARAMETERS, &parameters)?;
    }
    map.end()
}

/// Reads what [`serialize_by_factor`] writes. As for every document, an unknown member is dropped.
pub(crate) fn deserialize_by_factor<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<Factor, T>, D::Error> {
    struct Members<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
        type Value = BTreeMap<Factor, T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map of factors")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
            let mut found = BTreeMap::new();
            while let Some(name) = members.next_key::<String>()? {
                let factor = Factor::named(&name);
                if name == PARAMETERS {
                    let parameters = members.next_value::<Option<BTreeMap<String, T>>>()?;
                    let parameters = parameters.into_iter().flatten();
                    found.extend(
                        parameters.map(|(name, member)| (Factor::Parameter(name.into()), member)),
                    );
                } else if factor.row().is_some() {
                    let member = members.next_value::<Option<T>>()?;
                    found.extend(member.map(|member| (factor, member)));
                } else {
                    members.next_value::<IgnoredAny>()?;
                }
            }
            Ok(found)
        }
    }

    deserializer.deserialize_map(Members(PhantomData))
}

/// The members of a schema for [`serialize_by_factor`]: `of` says what a factor of the table has; what a parameter has
/// is the caller's to add, as `additionalProperties`.
pub(crate) fn properties_by_factor(of: impl Fn(&Builtin) -> Value) -> Map<String, Value> {
    let builtins = TABLE.iter();
    let mut properties: Map<String, Value> = builtins
        .map(|builtin| (builtin.name.to_owned(), of(builtin)))
        .collect();
    properties.insert(
        PARAMETERS.into(),
        json!({
            "description": "Of parameters, by their names.",
            "type": "object",
            "maxProperties": limits::PARAMETERS,
        }),
    );
    properties
}

/// A level of a parameter in a schema that an API server takes, which knows no choice of types.
pub(crate) fn any_level() -> Value {
    json!({ "x-kubernetes-preserve-unknown-fields": true })
}

impl Builtin {
    /// The schema of one level, without a description.
    pub(crate) fn schema(&self) -> Value {
        match self.allowed {
            Allowed::Range(..) => json!({ "type": "integer", "format": "int32" }),
            Allowed::Above0(_) => json!({ "type": "number" }),
            Allowed::Names(longest) => json!({ "type": "string", "maxLength": longest }),
            Allowed::OneOf(names) => json!({ "type": "string", "enum": names }),
        }
    }
}
