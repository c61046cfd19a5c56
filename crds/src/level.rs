//! A level of a factor, and the numbers that levels may be: how they are read, written and compared.

use std::{borrow::Cow, fmt, sync::Arc};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};

use crate::limits;

/// A finite number; whole ones are written without a point.
#[derive(Clone, Copy, Debug, Default)]
pub struct Number(f64);

impl Number {
    /// Nothing.
    pub const ZERO: Self = Self(0.0);
    /// One.
    pub const ONE: Self = Self(1.0);

    /// Whether it is 0.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0 == 0.0
    }

    /// The number, if it is finite.
    #[must_use]
    pub fn new(number: f64) -> Option<Self> {
        // Adding zero makes the negative zero a positive one.
        number.is_finite().then_some(Self(number + 0.0))
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> f64 {
        self.0
    }

    /// The number, where it is a whole one that JSON readers keep exactly.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "it is whole and below 2^53"
    )]
    fn whole(self) -> Option<i64> {
        let exact = self.0.fract() == 0.0 && self.0.abs() <= limits::SEED as f64;
        exact.then_some(self.0 as i64)
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Number {}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl std::hash::Hash for Number {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = f64::deserialize(deserializer)?;
        Self::new(number).ok_or_else(|| serde::de::Error::custom("not a finite number"))
    }
}

impl JsonSchema for Number {
    fn schema_name() -> Cow<'static, str> {
        "Number".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number" })
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.whole() {
            Some(whole) => serializer.serialize_i64(whole),
            None => serializer.serialize_f64(self.0),
        }
    }
}

/// A level of a factor.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// A number.
    Number(Number),
    /// A name.
    Text(Arc<str>),
    /// Of a parameter: on or off.
    Boolean(bool),
}

impl Level {
    /// The number that it is.
    #[must_use]
    pub const fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(number.get()),
            Self::Text(_) | Self::Boolean(_) => None,
        }
    }

    /// The level that a table's cell holds: a number or `true` and `false` where it reads as such, else a name.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let number = text.parse().ok().and_then(Number::new);
        match (number, text) {
            (Some(number), _) => Self::Number(number),
            (None, "true") => Self::Boolean(true),
            (None, "false") => Self::Boolean(false),
            (None, name) => Self::from(name),
        }
    }
}

impl From<u32> for Level {
    fn from(number: u32) -> Self {
        Self::Number(Number(f64::from(number)))
    }
}

impl From<&str> for Level {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => f.pad(text),
            Self::Boolean(boolean) => boolean.fmt(f),
        }
    }
}

impl Serialize for Level {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => number.serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Boolean(boolean) => serializer.serialize_bool(*boolean),
        }
    }
}

impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl Visitor<'_> for Any {
            type Value = Level;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, a text, true or false")
            }

            fn visit_bool<E>(self, boolean: bool) -> Result<Level, E> {
                Ok(Level::Boolean(boolean))
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Level, E> {
                self.visit_f64(number as f64)
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Level, E> {
                self.visit_f64(number as f64)
            }

            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Level, E> {
                let number = Number::new(number).ok_or_else(|| E::custom("not a finite number"))?;
                Ok(Level::Number(number))
            }

            fn visit_str<E>(self, text: &str) -> Result<Level, E> {
                Ok(Level::from(text))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

impl JsonSchema for Level {
    fn schema_name() -> Cow<'static, str> {
        "Level".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // No type: an API server's schema knows no choice of types.
        json_schema!({
            "description": "A level of a factor: a number, a name or, of a parameter, true or false.",
            "x-kubernetes-preserve-unknown-fields": true,
        })
    }
}
