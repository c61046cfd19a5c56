//! Records of version 1, converted as they are read. There an iteration has the times of its whole batch: so did every
//! sequence of it, for the engine that there was then decodes all of a batch in one step.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::record::{SCHEMA_VERSION, TrialRecord};

const VERSION: &str = "inferbench.dev/trial/v1";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Versioned {
    schema_version: String,
}

/// The record in a document of version 1; `None` where the document is of another one, or none at all.
pub(crate) fn upgraded(document: &[u8]) -> Option<serde_json::Result<TrialRecord>> {
    let versioned: Versioned = serde_json::from_slice(document).ok()?;
    (versioned.schema_version == VERSION).then(|| {
        let mut record: Value = serde_json::from_slice(document)?;
        upgrade(&mut record);
        serde_json::from_value(record)
    })
}

fn upgrade(record: &mut Value) {
    let batch_size = [&record["effective"], &record["request"]["combination"]]
        .into_iter()
        .find_map(|levels| levels["batchSize"].as_u64());
    let Some(record) = record.as_object_mut() else {
        return;
    };
    let iterations = record.get_mut("iterations").and_then(Value::as_array_mut);
    for iteration in iterations.into_iter().flatten() {
        let Some(iteration) = iteration.as_object_mut() else {
            continue;
        };
        if let Some(token_ms) = iteration.remove("tokenMs") {
            let sequences = json!([{ "count": batch_size, "tokenMs": token_ms }]);
            iteration.insert("sequences".into(), sequences);
        }
    }
    record.insert("schemaVersion".into(), SCHEMA_VERSION.into());
}
