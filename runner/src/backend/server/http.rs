//! Questions to a server beside its load: whether it is ready, what it is, its metrics.

use std::time::Duration;

use tokio::runtime::Runtime;

use crate::{backend::BackendError, causes::causes};

/// The longest answer that is read.
const LONGEST: usize = 8 << 20;

/// A client for questions. Clones ask the same server.
#[derive(Clone)]
pub struct Http {
    base: String,
    client: reqwest::Client,
}

/// Why there is no answer.
#[derive(Debug)]
pub struct NoAnswer {
    /// For people.
    pub message: String,
    /// Whether there was a connection at all.
    pub connected: bool,
}

impl Http {
    /// One that asks the server at this URL, with this API key.
    ///
    /// # Errors
    /// Where there can be no client, or the key is none.
    pub fn new(base: &str, key: Option<&str>) -> Result<Self, BackendError> {
        let mut headers = reqwest::header::HeaderMap::new();
        if let Some(key) = key {
            let value = reqwest::header::HeaderValue::from_str(&format!("Bearer {key}"));
            let mut value = value.map_err(|_| {
                BackendError::invalid("the API key has characters that no header may have".into())
            })?;
            value.set_sensitive(true);
            headers.insert(reqwest::header::AUTHORIZATION, value);
        }
        let client = crate::tls::client()
            .default_headers(headers)
            // A server on this machine is not behind a proxy.
            .no_proxy()
            .build()
            .map_err(|error| BackendError::failed(format!("no HTTP client: {error}")))?;
        Ok(Self {
            base: base.to_owned(),
            client,
        })
    }

    /// The status and the text that the server answers at a path.
    ///
    /// # Errors
    /// Where it does not answer in time.
    pub fn get(&self, path: &str, patience: Duration) -> Result<(u16, String), NoAnswer> {
        let no_answer = |error: &dyn std::error::Error, connected| NoAnswer {
            message: causes(error),
            connected,
        };
        let runtime = runtime().map_err(|error| no_answer(&error, false))?;
        runtime.block_on(async {
            let request = self.client.get(format!("{}{path}", self.base));
            let answer = request.timeout(patience).send().await;
            // Its URL may have what is nobody's business.
            let answer = answer.map_err(reqwest::Error::without_url);
            let mut answer = answer.map_err(|error| no_answer(&error, !error.is_connect()))?;
            let status = answer.status().as_u16();
            let mut text = Vec::new();
            while let Some(chunk) = answer
                .chunk()
                .await
                .map_err(|error| no_answer(&error.without_url(), true))?
            {
                text.extend_from_slice(&chunk);
                if text.len() > LONGEST {
                    break;
                }
            }
            Ok((status, String::from_utf8_lossy(&text).into_owned()))
        })
    }
}

fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}
