//! The account that a server gives of itself: its version and the configuration that took effect.

use std::time::Duration;

use inferbench_crds::engine::preset::PresetRow;
use serde_json::Value;

use super::{Configuration, http::Http};

/// The longest that one question may take.
const QUESTION: Duration = Duration::from_secs(10);
/// Members that a record keeps, and characters of each.
const MOST: usize = 96;
const LONGEST: usize = 200;
/// Names that may hold what is nobody's business.
const SECRET: [&str; 4] = ["key", "token_secret", "password", "credential"];

/// Version and configuration, as far as the server tells.
pub fn ask(http: &Http, row: &PresetRow) -> (Option<String>, Configuration) {
    let json = |path: &str| -> Option<Value> {
        let (status, body) = http.get(path, QUESTION).ok()?;
        (status == 200).then(|| serde_json::from_str(&body).ok())?
    };
    let given = |path: &'static str| (!path.is_empty()).then_some(path);
    let told = given(row.version).and_then(json);
    let properties = given(row.configuration).and_then(json);
    let models = json("/v1/models");
    let version = told.iter().chain(&properties).find_map(version);
    let mut configuration = Configuration::new();
    if let Some(properties) = &properties {
        flatten("", properties, &mut configuration);
    }
    if let Some(length) = models
        .as_ref()
        .and_then(|models| models["data"][0]["max_model_len"].as_u64())
    {
        configuration.insert("max_model_len".into(), length.to_string());
    }
    (version, configuration)
}

fn version(told: &Value) -> Option<String> {
    ["version", "build_info", "sglang_version"]
        .iter()
        .find_map(|member| told[*member].as_str())
        .map(str::to_owned)
}

/// Numbers, truths and short texts by their paths; what is long is no setting.
fn flatten(path: &str, value: &Value, into: &mut Configuration) {
    let text = match value {
        Value::Object(members) => {
            for (name, value) in members {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                flatten(&path, value, into);
            }
            return;
        }
        Value::Bool(truth) => truth.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        Value::Null | Value::Array(_) => return,
    };
    let lower = path.to_ascii_lowercase();
    let secret = SECRET.iter().any(|word| lower.contains(word));
    if into.len() < MOST && text.len() <= LONGEST && !text.is_empty() && !secret {
        into.insert(path.to_owned(), text);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_are_kept_by_their_paths_and_secrets_are_not() {
        let mut found = Configuration::new();
        let told = json!({
            "total_slots": 4, "default_generation_settings": { "n_ctx": 640, "params": { "seed": 1 } },
            "chat_template": "x".repeat(5_000), "api_key": "hidden", "flag": true, "list": [1], "none": null,
        });
        flatten("", &told, &mut found);
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        assert_eq!(
            found,
            [
                ("default_generation_settings.n_ctx", "640"),
                ("default_generation_settings.params.seed", "1"),
                ("flag", "true"),
                ("total_slots", "4"),
            ]
        );
    }
}
