//! The levels that a start of an engine fixes. Trials whose starts are equal can be measured by one engine, and
//! are those that one process may serve: nobody else decides that.

use inferbench_crds::spec::{Dtype, Model};
use inferbench_results::record::Request;

/// The levels that force a fresh start of the engine where they change.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    model: Model,
    revision: String,
    seed: i64,
    gpus: u32,
    dtype: Dtype,
}

impl Start {
    /// That of a trial.
    #[must_use]
    pub fn of(request: &Request) -> Self {
        let combination = &request.combination;
        Self {
            model: combination.model.clone(),
            revision: request.model_revision.clone(),
            seed: request.seed,
            gpus: combination.gpus,
            dtype: combination.dtype,
        }
    }
}
