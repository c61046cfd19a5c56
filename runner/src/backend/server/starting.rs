//! A server on its way: from its process to the first answer, and the name that it gives to its model.

use std::{
    net::TcpListener,
    time::{Duration, Instant},
};

use inferbench_crds::engine::preset::PresetRow;
use serde_json::Value;

use super::{http::Http, words::ended};
use crate::{
    backend::BackendError,
    process::{server::ServerProcess, signals},
};

/// How often a server that is starting is asked whether it is ready.
const ASKING: Duration = Duration::from_millis(100);
/// The longest that one question about its state may take.
const QUESTION: Duration = Duration::from_secs(10);

/// A server that is starting.
pub struct Starting<'a> {
    /// The engine's name.
    pub name: &'a str,
    /// Its kind.
    pub row: &'static PresetRow,
    /// Its process.
    pub process: ServerProcess,
    /// Where it is asked.
    pub http: Http,
    /// When it has to be ready.
    pub deadline: Instant,
    /// How long that is after its start.
    pub patience: Duration,
}

impl Starting<'_> {
    /// Waits until it answers 200 at this path.
    ///
    /// # Errors
    /// Where it ends before, or takes too long.
    pub fn wait(&mut self, ready: &str) -> Result<(), BackendError> {
        let mut last = String::from("it did not listen");
        loop {
            if let Some(status) = self.process.exited() {
                return Err(ended(self.name, self.row, &self.process, &status));
            }
            match self.http.get(ready, QUESTION.min(self.left())) {
                Ok((200, _)) => return Ok(()),
                Ok((status, _)) => last = format!("{ready} answered {status}"),
                Err(error) if error.connected => last = format!("{ready}: {}", error.message),
                Err(_) => {}
            }
            if signals::interrupted() {
                return Err(BackendError::failed("interrupted".into()));
            }
            if self.left().is_zero() {
                let said = self.process.last_words();
                return Err(BackendError::failed(format!(
                    "{}: not ready within startupTimeout {:.0} s: {last}; it said last: {said}",
                    self.name,
                    self.patience.as_secs_f64()
                )));
            }
            std::thread::sleep(ASKING);
        }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// The name that the model has: the one that it was given, or the first that is listed.
    pub fn served_model(&self, given: &str) -> String {
        let listed = self.http.get("/v1/models", QUESTION);
        let names = listed
            .map(|(_, body)| model_names(&body))
            .unwrap_or_default();
        if names.iter().any(|name| name == given) {
            return given.to_owned();
        }
        names.into_iter().next().unwrap_or_else(|| given.to_owned())
    }
}

/// The names of the models that are listed so.
pub fn model_names(body: &str) -> Vec<String> {
    let listed: Value = serde_json::from_str(body).unwrap_or_default();
    let models = listed["data"].as_array().cloned().unwrap_or_default();
    let names = models.iter().filter_map(|model| model["id"].as_str());
    names.map(str::to_owned).collect()
}

/// A port that nothing listens on.
pub fn free_port() -> Result<u16, BackendError> {
    let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    let port = port.map_err(|error| BackendError::failed(format!("no port is free: {error}")))?;
    Ok(port.port())
}
