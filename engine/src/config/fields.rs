//! Typed access to the fields of a JSON object, as transformers reads them: a field that is left out has its default,
//! and `null` is a value, allowed only where transformers allows it.

use serde_json::{Map, Value};

use crate::error::EngineError;

/// An object, and what stands before its fields' names in messages: nothing, or `rope_scaling.`.
pub(super) struct Fields<'a> {
    pub map: &'a Map<String, Value>,
    pub within: &'static str,
}

impl Fields<'_> {
    /// The fields of `config.json` itself.
    pub fn top(map: &Map<String, Value>) -> Fields<'_> {
        Fields { map, within: "" }
    }

    fn read<T>(
        &self,
        key: &str,
        what: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, EngineError> {
        let value = self.map.get(key);
        let read = |v: &Value| {
            let name = format!("{}{key}", self.within);
            read(v).ok_or_else(|| EngineError::Invalid(format!("{name}: {v} is not {what}")))
        };
        value.map(read).transpose()
    }

    /// None where the field is left out.
    pub fn optional_size(&self, key: &str) -> Result<Option<usize>, EngineError> {
        self.read(key, "a whole number", |v| {
            v.as_u64().and_then(|n| usize::try_from(n).ok())
        })
    }

    pub fn size(&self, key: &str, default: usize) -> Result<usize, EngineError> {
        Ok(self.optional_size(key)?.unwrap_or(default))
    }

    /// None where the field is `null`.
    pub fn size_or_null(
        &self,
        key: &str,
        default: Option<usize>,
    ) -> Result<Option<usize>, EngineError> {
        match self.map.get(key) {
            Some(Value::Null) => Ok(None),
            _ => Ok(self.optional_size(key)?.or(default)),
        }
    }

    /// None where the field is left out; never infinite, and greater than zero.
    pub fn optional_positive(&self, key: &str) -> Result<Option<f64>, EngineError> {
        self.read(key, "a number greater than 0", |v| {
            v.as_f64().filter(|n| n.is_finite() && *n > 0.0)
        })
    }

    pub fn positive(&self, key: &str, default: f64) -> Result<f64, EngineError> {
        Ok(self.optional_positive(key)?.unwrap_or(default))
    }

    /// A field without a default.
    pub fn needed(&self, key: &str) -> Result<f64, EngineError> {
        let missing = || EngineError::Invalid(format!("{}{key}: missing", self.within));
        self.optional_positive(key)?.ok_or_else(missing)
    }

    pub fn flag(&self, key: &str, default: bool) -> Result<bool, EngineError> {
        let flag = self.read(key, "one of true, false", Value::as_bool)?;
        Ok(flag.unwrap_or(default))
    }

    /// The object of that name; none where it is left out, `null` or empty, which is the same to transformers.
    pub fn object(&self, key: &'static str) -> Result<Option<&Map<String, Value>>, EngineError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) => Ok((!map.is_empty()).then_some(map)),
            Some(v) => Err(EngineError::Invalid(format!(
                "{}{key}: {v} is not an object",
                self.within
            ))),
        }
    }

    /// Begin, end and padding ids; an end id may be a list.
    pub fn special_ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = ["bos_token_id", "eos_token_id", "pad_token_id"]
            .iter()
            .filter_map(|key| self.map.get(*key))
            .flat_map(|v| match v {
                Value::Array(list) => list.clone(),
                one => vec![one.clone()],
            })
            .filter_map(|v| v.as_u64().and_then(|id| u32::try_from(id).ok()))
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// That a value cannot be run, and what could.
pub(super) fn unsupported<T>(
    key: &str,
    value: impl std::fmt::Display,
    allowed: &str,
) -> Result<T, EngineError> {
    Err(EngineError::Unsupported(format!(
        "{key}: {value} is not supported, only {allowed}"
    )))
}
