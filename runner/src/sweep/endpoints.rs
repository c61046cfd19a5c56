//! Before the first trial: every endpoint that is to be measured answers one request of the smallest trial it is in, or
//! the sweep says what is wrong with it before it has begun.

use std::{collections::BTreeMap, time::Duration};

use inferbench_crds::{design::Combination, engine::Engine};
use inferbench_engine::{Parallel, threads::Threads};

use crate::{
    backend::{self, Access, BackendError, Room, Setup},
    models::Resolved,
};

/// The fault of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("spec.design.factors.engine[{engine}]: {message}")]
pub struct Unusable {
    /// Its position among the design's engines.
    pub engine: usize,
    /// The engine's name, the member of its spec that is to blame, and the fault.
    pub message: String,
    /// Whether trying again cannot help.
    pub permanent: bool,
}

/// Asks the endpoints among these engines that are in one of `combinations`, each with the API key that `key` has of it.
/// The first that cannot be measured is the end.
///
/// # Errors
/// Where one cannot be reached, refuses the key, does not have the model or does not answer a request as it has to.
pub fn ask<'a>(
    engines: &[Engine],
    combinations: impl Iterator<Item = Combination>,
    model: &dyn Fn(&Combination) -> Option<&'a Resolved>,
    key: &dyn Fn(usize) -> Option<String>,
) -> Result<(), Unusable> {
    // Trials that are still to be measured are not gone through for nothing.
    if engines.iter().all(|engine| engine.endpoint.is_none()) {
        return Ok(());
    }
    for (at, least) in smallest(engines, combinations) {
        let Some(model) = model(&least) else { continue };
        let access = Access {
            key: key(at),
            patience: Duration::ZERO,
        };
        match connect(&least, model, &access) {
            // A load that an endpoint can never take is a measurement, and no mistake.
            Ok(()) | Err(BackendError::Unsupported(_) | BackendError::OutOfMemory(_)) => {}
            Err(BackendError::Failed { message, permanent }) => {
                return Err(Unusable {
                    engine: at,
                    message,
                    permanent,
                });
            }
        }
    }
    Ok(())
}

/// The smallest combination of each endpoint, by the endpoint's position.
fn smallest(
    engines: &[Engine],
    combinations: impl Iterator<Item = Combination>,
) -> BTreeMap<usize, Combination> {
    let mut smallest: BTreeMap<usize, Combination> = BTreeMap::new();
    for combination in combinations.filter(|one| one.engine.endpoint.is_some()) {
        let name = &combination.engine.name;
        let Some(at) = engines.iter().position(|engine| engine.name == *name) else {
            continue;
        };
        let known = smallest.get(&at).map(tokens);
        if known.is_none_or(|known| tokens(&combination) < known) {
            smallest.insert(at, combination);
        }
    }
    smallest
}

/// The tokens of a request.
fn tokens(combination: &Combination) -> u32 {
    combination
        .input_length
        .saturating_add(combination.output_length)
}

/// Connects to an endpoint, which has to answer one request.
fn connect(
    combination: &Combination,
    model: &Resolved,
    access: &Access,
) -> Result<(), BackendError> {
    let vocab = model.config.as_ref().map_or(0, |config| config.vocab_size);
    let setup = Setup {
        weights: &model.weights,
        dtype: combination.dtype,
        gpus: 0,
        parallel: Parallel::ONE,
        room: Room {
            sequences: 1,
            ..Room::of(combination)
        },
        combination,
        vocab,
        gpu_uuids: &[],
        memory: None,
        log: None,
        // Nothing computes here.
        threads: &Threads {
            count: 1,
            available: 1,
            denormals_flushed: false,
        },
        access,
    };
    backend::start(&setup).map(drop)
}
