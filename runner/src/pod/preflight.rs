//! `inferbench preflight`: before any GPU is asked for. Whether the store takes records once and for all, which
//! revision each model has, and what each can do; on the way it fills the cache that the trials load from.

use std::path::Path;

use inferbench_crds::{
    contract::{ModelReport, PreflightReport, SweepRequest},
    spec::Model,
};

use super::{Broken, broken, leave, load, open, read_sweep, shortened};
use crate::{
    backend,
    process::{exit::Exit, print_error, signals},
};

/// Checks a sweep.
pub fn run(requests: &Path) -> Exit {
    signals::exit_on_signal();
    match read_sweep(requests).and_then(|request| check(&request)) {
        Ok(report) => {
            leave(&report);
            Exit::Ok
        }
        Err(Broken { message, exit }) => {
            print_error(&message);
            leave(&PreflightReport {
                message: Some(shortened(message)),
                ..PreflightReport::default()
            });
            exit
        }
    }
}

fn check(request: &SweepRequest) -> Result<PreflightReport, Broken> {
    open(&request.store)?
        .probe()
        .map_err(|error| broken(format!("{error:#}"), Exit::BadStore))?;
    let factors = &request.spec.design.factors;
    let models = factors.model.iter().map(|model| look_at(model, request));
    Ok(PreflightReport {
        models: models.collect::<Result<_, _>>()?,
        message: None,
    })
}

fn look_at(model: &Model, request: &SweepRequest) -> Result<ModelReport, Broken> {
    let design = &request.spec.design;
    let resolved = load(model, design.seed, None)?;
    let Some(config) = &resolved.config else {
        return Err(broken(
            format!("model {}: it has no configuration", model.name),
            Exit::BadModel,
        ));
    };
    Ok(ModelReport {
        revision: resolved.revision,
        max_tokens: u32::try_from(config.max_sequence()).ok(),
        unsupported_gpus: design
            .factors
            .gpus
            .iter()
            .map(|gpus| gpus.unsigned_abs())
            .filter(|gpus| !backend::splits_over(config, *gpus))
            .collect(),
    })
}
