//! A sweep that is ready to run: its spec, its models and its design, and what they make of each combination.

use std::collections::{BTreeMap, BTreeSet};

use inferbench_crds::{
    InferenceBenchmark, InferenceBenchmarkSpec,
    design::{Combination, Expansion, Trial},
    engine::Preset,
    factor::{Factor, Level, Levels},
    spec::Isolation,
};
use inferbench_engine::{config::ModelConfig, size::Memory};
use inferbench_results::{
    key::trial_key,
    record::{EffectiveMeasurement, Outcome, Request},
    row::Planned,
};

use crate::{
    backend::{self, candle, server},
    machine::size,
    models::{ModelError, Need, Resolved, resolve},
    trial::{
        protocol::{Measure, StoreAt, TrialRequest},
        recording,
    },
};

/// A sweep that is ready to run.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// The resource's name.
    pub name: String,
    /// The spec, which `validate` has accepted.
    pub spec: InferenceBenchmarkSpec,
    /// The design.
    pub expansion: Expansion,
    models: Vec<Resolved>,
    /// The data types of models whose files decide them, where an engine of this kind takes them as they are stored.
    stored: BTreeMap<(Preset, String), Level>,
    runner: String,
}

/// The data types that are those of the models' files, for each server that takes them as they are stored.
fn stored(spec: &InferenceBenchmarkSpec, models: &[Resolved]) -> BTreeMap<(Preset, String), Level> {
    let engines = spec.design.factors.engines();
    let servers = engines.iter().filter_map(|engine| engine.server.as_ref());
    let presets: BTreeSet<Preset> = servers.map(|server| server.preset).collect();
    let pairs = presets
        .iter()
        .flat_map(|preset| models.iter().map(move |model| (*preset, model)));
    pairs
        .filter_map(|(preset, model)| {
            let weights = model.weights.weights().ok()?;
            let dtype = server::stored_dtype(preset, &weights)?;
            Some(((preset, model.name.clone()), Level::from(dtype.as_str())))
        })
        .collect()
}

/// The fate of a combination, as far as it is known before it is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is to be measured.
    Measure,
    /// It cannot run, and why.
    Unsupported(String),
    /// It cannot fit, and why.
    TooBig(String),
}

impl Prepared {
    /// Resolves the models of a resource that `validate` has accepted. `pinned` gives the revision that a model of
    /// this name and source began the sweep with.
    ///
    /// # Errors
    /// Where a model cannot be had.
    pub fn new(
        resource: &InferenceBenchmark,
        need: Need,
        pinned: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ModelError> {
        let spec = resource.spec.clone();
        let models = spec
            .design
            .factors
            .model
            .iter()
            .map(|model| {
                resolve(
                    model,
                    spec.design.seed,
                    need,
                    pinned(&model.name).as_deref(),
                )
            })
            .collect::<Result<Vec<Resolved>, _>>()?;
        let stored = stored(&spec, &models);
        let name = resource
            .metadata
            .name
            .clone()
            .or(resource.metadata.generate_name.clone());
        Ok(Self {
            name: name.unwrap_or_default(),
            expansion: Expansion::new(&spec.design),
            spec,
            models,
            stored,
            runner: recording::runner_identity(),
        })
    }

    /// The models, in the order of the levels.
    #[must_use]
    pub fn models(&self) -> &[Resolved] {
        &self.models
    }

    /// The model of a combination.
    ///
    /// # Panics
    /// Where the combination is not one of this design.
    #[must_use]
    pub fn model(&self, combination: &Combination) -> &Resolved {
        let found = self
            .models
            .iter()
            .find(|model| model.name == combination.model.name);
        found.expect("a combination's model is a level of its design")
    }

    /// The shape of a combination's model.
    ///
    /// # Panics
    /// Where the combination is not one of this design, or the models were resolved for their revisions only.
    #[must_use]
    pub fn config(&self, combination: &Combination) -> &ModelConfig {
        let config = self.model(combination).config.as_ref();
        config.expect("the sweep was prepared with its models' configurations")
    }

    /// The levels of a combination for people: with the data type that it runs in, where the model's file decides that.
    #[must_use]
    pub fn levels(&self, combination: &Combination) -> Levels {
        let mut levels = Levels::of(combination);
        let server = combination.engine.server.as_ref();
        let stored = server.and_then(|server| {
            let of = (server.preset, combination.model.name.clone());
            self.stored.get(&of)
        });
        if let Some(stored) = stored {
            levels.set(Factor::DTYPE, stored.clone());
        }
        levels
    }

    /// The measurement of a combination with its defaults filled in.
    #[must_use]
    pub fn measurement(&self, combination: &Combination) -> EffectiveMeasurement {
        EffectiveMeasurement::of(&self.spec.measurement, combination)
    }

    /// Measured by a runner of this identity rather than this one.
    #[must_use]
    pub fn on_runner(mut self, identity: String) -> Self {
        self.runner = identity;
        self
    }

    /// From now on the trials share this process, and the records say so.
    pub fn share_process(&mut self) {
        self.spec.measurement.isolation = Some(Isolation::Pod);
    }

    /// The indices of a block in the order in which they are measured: trials that can share a start of their engine
    /// stand together, as many as `trialsPerJob` says, where they are to share it.
    #[must_use]
    pub fn block(&self, replicate: u32) -> Vec<u32> {
        let shares = |engine| self.spec.measurement.isolation_for(engine) == Isolation::Pod;
        let together = self.spec.execution.trials_per_job.unsigned_abs().max(1);
        if self.spec.design.factors.engines().iter().any(shares) {
            let groups = self.expansion.groups(replicate, together as usize);
            groups.into_iter().flatten().collect()
        } else {
            self.expansion.block(replicate)
        }
    }

    /// All that fixes a trial.
    #[must_use]
    pub fn request(&self, trial: &Trial) -> Request {
        let revision = &self.model(&trial.combination).revision;
        Request::of(&self.spec, trial, revision, &self.runner)
    }

    /// The key of a trial's attempt.
    #[must_use]
    pub fn key(&self, trial: &Trial, attempt: u32) -> String {
        trial_key(&self.request(trial), attempt)
    }

    /// How often an invalid trial is measured again.
    #[must_use]
    pub fn remeasure_invalid(&self) -> u32 {
        self.spec.measurement.remeasure_invalid.unsigned_abs()
    }

    /// The trials as the tables need to know them; `outcomes` are those known beside the records, by number.
    pub fn planned(&self, outcomes: &BTreeMap<u32, Outcome>) -> impl Iterator<Item = Planned> {
        self.expansion.trials().map(|trial| Planned {
            trial_index: trial.index,
            run_order: trial.run_order,
            request: self.request(&trial),
            outcome: outcomes.get(&trial.index).copied(),
        })
    }

    /// The request that the measuring process is given of a trial; the ceilings are for the caller to add.
    #[must_use]
    pub fn ask(&self, trial: &Trial, attempt: u32, store: &StoreAt) -> Measure {
        let request = self.request(trial);
        Measure {
            trial: TrialRequest {
                attempt,
                ..TrialRequest::of(&self.name, &self.spec, trial, request, store)
            },
            weights: Some(self.model(&trial.combination).weights.clone()),
            ceilings: None,
        }
    }

    /// Why a combination can never run.
    fn unsupported(&self, combination: &Combination) -> Option<String> {
        let weights = &self.model(combination).weights;
        backend::unsupported(self.config(combination), weights, combination)
    }

    /// The memory that one rank of a combination is predicted to need; none where it can never run, and of engines that
    /// are asked over HTTP, which lay out their own.
    #[must_use]
    pub fn memory(&self, combination: &Combination) -> Option<Memory> {
        if combination.engine.takes_requests() || self.unsupported(combination).is_some() {
            return None;
        }
        candle::memory(self.config(combination), combination)
    }

    /// The fate of a combination on a CPU with this many bytes of memory. Only what cannot fit for
    /// certain, by its weights and cache alone, is given up beforehand: predictions of the rest can be far off.
    #[must_use]
    pub fn fate(&self, combination: &Combination, cpu_memory: Option<u64>) -> Fate {
        if let Some(reason) = self.unsupported(combination) {
            return Fate::Unsupported(reason);
        }
        let least = self
            .memory(combination)
            .map_or(0, |memory| memory.weights + memory.kv_cache);
        match cpu_memory {
            Some(all) if combination.gpus == 0 && least > all => Fate::TooBig(format!(
                "weights and cache alone need {}, this machine has {}",
                size(least),
                size(all)
            )),
            _ => Fate::Measure,
        }
    }
}
