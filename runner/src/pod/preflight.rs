//! `inferbench preflight`: before any GPU is asked for. Whether the store takes records once and for all, which
//! revision each model has, and what each can do; on the way it fills the cache that the trials load from.

use std::{collections::BTreeSet, path::Path};

use inferbench_crds::{
    contract::{ModelReport, PreflightReport, SweepRequest},
    design::Expansion,
    spec::Model,
};

use super::{Broken, broken, leave, load, open, read_sweep, shortened};
use crate::{
    backend,
    process::{exit::Exit, print_error, signals},
};

/// Numbers of devices that there is room for in a report on 16 models.
const MOST_DEGREES: usize = 12;

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
    let design = &request.spec.design;
    let expansion = Expansion::new(design);
    let degrees: BTreeSet<u32> = expansion
        .combinations()
        // Servers divide their work as they do, and say themselves what they cannot.
        .filter(|(_, combination)| !combination.engine.takes_requests())
        .filter_map(|(_, combination)| combination.tensor_parallel())
        .collect();
    let models = design.factors.model.iter();
    let models = models.map(|model| look_at(model, request, &degrees));
    Ok(PreflightReport {
        models: models.collect::<Result<_, _>>()?,
        message: None,
    })
}

/// Looks at a model, of which these numbers of devices are to share every layer.
fn look_at(
    model: &Model,
    request: &SweepRequest,
    degrees: &BTreeSet<u32>,
) -> Result<ModelReport, Broken> {
    let resolved = load(model, request.spec.design.seed, None)?;
    let Some(config) = &resolved.config else {
        return Err(broken(
            format!("model {}: it has no configuration", model.name),
            Exit::BadModel,
        ));
    };
    Ok(ModelReport {
        revision: resolved.revision,
        max_tokens: u32::try_from(config.max_sequence()).ok(),
        unsupported_tensor_parallel: degrees
            .iter()
            .copied()
            .filter(|degree| !backend::splits_over(config, *degree))
            .take(MOST_DEGREES)
            .collect(),
        max_stages: u32::try_from(backend::max_stages(config)).ok(),
    })
}
