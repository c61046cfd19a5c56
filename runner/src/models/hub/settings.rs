//! The settings of the client, of the environment under the names that huggingface_hub gives them.

use std::{fs, path::PathBuf, time::Duration};

use reqwest::header::HeaderValue;
use url::Url;

use super::HubError;

pub(super) const ENDPOINT: &str = "https://huggingface.co";

/// The settings of the client.
#[derive(Clone)]
pub struct Settings {
    pub(super) endpoint: Url,
    /// The header's value: marked as sensitive, so that nothing prints it.
    pub(super) token: Option<HeaderValue>,
    pub(super) cache: PathBuf,
    pub(super) offline: bool,
    /// The pause after a first failed try; it doubles with every further one.
    pub(super) pause: Duration,
}

impl Settings {
    /// The settings of the environment, under huggingface_hub's names: `HF_ENDPOINT`, `HF_TOKEN`, `HF_TOKEN_PATH`,
    /// `HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE`, `HF_HUB_DISABLE_IMPLICIT_TOKEN`, and the older ones of the same.
    ///
    /// # Errors
    /// Where the endpoint is no URL, or the token none that a request could carry.
    pub fn from_env() -> Result<Self, HubError> {
        Self::read(&|name| std::env::var(name).ok())
    }

    pub(super) fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, HubError> {
        let set = |names: &[&str]| {
            let mut values = names.iter().filter_map(|name| variable(name));
            values.find(|value| !value.trim().is_empty())
        };
        let is_true = |names: &[&str]| {
            let value = set(names).unwrap_or_default().to_ascii_uppercase();
            matches!(value.as_str(), "1" | "ON" | "YES" | "TRUE")
        };
        let user = set(&["HOME"]).map_or_else(std::env::temp_dir, PathBuf::from);
        let folder = |names: &[&str]| {
            let value = set(names)?;
            Some(match value.strip_prefix("~/") {
                Some(below) => user.join(below),
                None => value.into(),
            })
        };
        let home = folder(&["HF_HOME"])
            .or_else(|| Some(folder(&["XDG_CACHE_HOME"])?.join("huggingface")))
            .unwrap_or_else(|| user.join(".cache/huggingface"));
        let token_path = folder(&["HF_TOKEN_PATH"]).unwrap_or_else(|| home.join("token"));
        let token = if is_true(&["HF_HUB_DISABLE_IMPLICIT_TOKEN"]) {
            None
        } else {
            set(&["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
                .or_else(|| fs::read_to_string(token_path).ok())
        };
        Ok(Self {
            endpoint: endpoint(set(&["HF_ENDPOINT"]).as_deref().unwrap_or(ENDPOINT))?,
            token: bearer(token.as_deref().unwrap_or_default().trim())?,
            cache: folder(&["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"])
                .unwrap_or_else(|| home.join("hub")),
            offline: is_true(&["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]),
            pause: Duration::from_millis(500),
        })
    }
}

pub(super) fn endpoint(value: &str) -> Result<Url, HubError> {
    match Url::parse(value) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(url),
        _ => Err(HubError::Setting(format!(
            "HF_ENDPOINT {value:?} is no URL; one that begins with http:// or https:// is allowed"
        ))),
    }
}

pub(super) fn bearer(token: &str) -> Result<Option<HeaderValue>, HubError> {
    if token.is_empty() {
        return Ok(None);
    }
    let value = HeaderValue::from_str(&format!("Bearer {token}"));
    let mut value = value.map_err(|_| {
        HubError::Setting("HF_TOKEN has control characters; a token is one line of text".into())
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}
