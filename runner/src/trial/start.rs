//! All that a start of an engine fixes. Trials whose starts are equal can be measured by one engine, and are those that
//! one process may serve: nobody else decides that.

use inferbench_crds::{
    factor::Levels,
    spec::{Engine, Model},
};
use inferbench_results::record::Request;

/// The levels that force a fresh start of the engine where they change, with all that stands behind them.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    levels: Levels,
    engine: Engine,
    model: Model,
    revision: String,
    seed: i64,
    environment: Vec<(String, String)>,
}

impl Start {
    /// That of a trial.
    #[must_use]
    pub fn of(request: &Request) -> Self {
        let combination = &request.combination;
        let environment = combination.environment();
        Self {
            levels: Levels::of_start(combination),
            engine: combination.engine.clone(),
            model: combination.model.clone(),
            revision: request.model_revision.clone(),
            seed: request.seed,
            environment: environment
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        }
    }

    /// Whether the engine is asked over HTTP rather than being part of the process that measures.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.engine.takes_requests()
    }

    /// The environment variables that the engine's process is to have.
    #[must_use]
    pub fn environment(&self) -> &[(String, String)] {
        &self.environment
    }
}
