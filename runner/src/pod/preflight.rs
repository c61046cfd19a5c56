//! `inferbench preflight`: before any GPU is asked for. Whether the store takes records once and for all, which
//! revision each model has, what each can do and which servers can read it, and whether the endpoints answer; on the way
//! it fills the cache that the trials load from.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use inferbench_crds::{
    contract::{ModelReport, PreflightReport, SweepRequest, api_key_variable},
    design::{Combination, Expansion},
    spec::Dtype,
};

use super::{Broken, broken, leave, load, open, read_sweep, shortened, shortened_to};
use crate::{
    backend::{self, Access, server},
    models::Resolved,
    process::{exit::Exit, print_error, signals},
    sweep::endpoints,
};

/// Numbers of devices that there is room for in a report on 16 models.
const MOST_DEGREES: usize = 12;
/// Bytes that there are for what can never run, beside 16 models.
const NOTE_BYTES: usize = 320;

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
    let models = design.factors.model.iter();
    let models = models.map(|model| load(model, design.seed, None));
    let models: Vec<Resolved> = models.collect::<Result<_, _>>()?;
    ask_endpoints(request, &expansion, &models)?;
    let degrees: BTreeSet<u32> = expansion
        .combinations()
        // Servers divide their work as they do, and say themselves what they cannot.
        .filter(|(_, combination)| !combination.engine.takes_requests())
        .filter_map(|(_, combination)| combination.tensor_parallel())
        .collect();
    let unreadable = Unreadable::of(request, &expansion, &models);
    let reports = models.iter().enumerate();
    let reports = reports.map(|(at, model)| report(model, &degrees, unreadable.engines_of(at)));
    Ok(PreflightReport {
        models: reports.collect::<Result<_, _>>()?,
        message: unreadable.note().map(|note| shortened_to(note, NOTE_BYTES)),
    })
}

/// Every endpoint answers a request, with the API key that this pod has of it.
fn ask_endpoints(
    request: &SweepRequest,
    expansion: &Expansion,
    models: &[Resolved],
) -> Result<(), Broken> {
    let model = |combination: &Combination| {
        let mut models = models.iter();
        models.find(|model| model.name == combination.model.name)
    };
    let key = |at| Access::key_in(&api_key_variable(at));
    let engines = &request.spec.design.factors.engine;
    let combinations = expansion.combinations().map(|(_, combination)| combination);
    endpoints::ask(engines, combinations, &model, &key).map_err(|unusable| {
        let exit = match unusable.permanent {
            true => Exit::BadEndpoint,
            false => Exit::Failed,
        };
        broken(unusable, exit)
    })
}

/// Which servers cannot read which models, whatever the data type, and why: by the positions of model and engine.
struct Unreadable(BTreeMap<(usize, usize), String>);

impl Unreadable {
    fn of(request: &SweepRequest, expansion: &Expansion, models: &[Resolved]) -> Self {
        let engines = &request.spec.design.factors.engine;
        // The models that a server can read depend on nothing else of a combination.
        let mut one_of_each: BTreeMap<(usize, usize, Dtype), Combination> = BTreeMap::new();
        for (_, combination) in expansion.combinations() {
            let model = models
                .iter()
                .position(|model| model.name == combination.model.name);
            let engine = engines
                .iter()
                .position(|engine| engine.server.is_some() && *engine == combination.engine);
            if let Some((model, engine)) = model.zip(engine) {
                let key = (model, engine, combination.dtype);
                one_of_each.entry(key).or_insert(combination);
            }
        }
        let mut reasons: BTreeMap<(usize, usize), Option<String>> = BTreeMap::new();
        for ((model, engine, _), combination) in &one_of_each {
            let weights = models[*model].weights.weights().ok();
            let why = weights.and_then(|weights| server::unsupported(&weights, combination));
            reasons
                .entry((*model, *engine))
                .and_modify(|known| {
                    // One data type that it reads is enough.
                    if why.is_none() {
                        *known = None;
                    }
                })
                .or_insert(why);
        }
        let named = reasons.into_iter().filter_map(|((model, engine), why)| {
            let why = format!(
                "{} and {}: {}",
                engines[engine].name, models[model].name, why?
            );
            Some(((model, engine), why))
        });
        Self(named.collect())
    }

    /// The positions of the servers that cannot read a model.
    fn engines_of(&self, model: usize) -> Vec<u8> {
        let pairs = self.0.keys().filter(|(one, _)| *one == model);
        pairs
            .filter_map(|(_, engine)| u8::try_from(*engine).ok())
            .collect()
    }

    /// All of it, for people.
    fn note(&self) -> Option<String> {
        let all: Vec<&str> = self.0.values().map(String::as_str).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}

/// The report on a model, of which these numbers of devices are to share every layer.
fn report(
    model: &Resolved,
    degrees: &BTreeSet<u32>,
    unsupported_engines: Vec<u8>,
) -> Result<ModelReport, Broken> {
    let Some(config) = &model.config else {
        return Err(broken(
            format!("model {}: it has no configuration", model.name),
            Exit::BadModel,
        ));
    };
    Ok(ModelReport {
        revision: model.revision.clone(),
        max_tokens: u32::try_from(config.max_sequence()).ok(),
        unsupported_tensor_parallel: degrees
            .iter()
            .copied()
            .filter(|degree| !backend::splits_over(config, *degree))
            .take(MOST_DEGREES)
            .collect(),
        max_stages: u32::try_from(backend::max_stages(config)).ok(),
        unsupported_engines,
    })
}
