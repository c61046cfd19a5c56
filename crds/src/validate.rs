//! The rules that a resource obeys, all checked at once: the schema's, and those that relate fields to each other.
//! A local file, the operator and (through the schema and its CEL rules) the API server agree on them.

use std::fmt;

use crate::{
    Duration, InferenceBenchmark,
    contract::RESERVED_PREFIX,
    crd::schema,
    design::{Expansion, Levels, size},
    limits,
    node::Node,
    schema::check,
    spec::{Design, Exclude, InferenceBenchmarkSpec, ModelSource, Store},
    suggest::did_you_mean,
    violation::{Found, Violation},
};

/// Where a resource is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// On this machine: `results.store` is optional, and may be a folder.
    Local,
    /// In a cluster.
    Cluster,
}

/// What is allowed, but will not do what it looks like; empty where all is plain.
#[must_use]
pub fn notes(spec: &InferenceBenchmarkSpec) -> Vec<String> {
    let models = spec.design.factors.model.iter();
    models
        .filter(|model| spec.measurement.quality && model.source.random.is_some())
        .map(|model| {
            format!(
                "spec.measurement.quality: {} has random weights, and what it writes no meaning: its quality is left empty",
                model.name
            )
        })
        .collect()
}

/// Every rule that a resource breaks; empty where it may run.
#[must_use]
pub fn validate(resource: &InferenceBenchmark, scope: Scope) -> Vec<Violation> {
    let mut found = Found::default();
    let node = Node::from(serde_json::to_value(resource).unwrap_or_default());
    for finding in check(&node, schema(), "") {
        found.add(finding.path, finding.message);
    }
    if resource.metadata.name.is_none() && resource.metadata.generate_name.is_none() {
        found.add("metadata.name", "is required");
    }
    let spec = &resource.spec;
    found.design(&spec.design);
    for (index, model) in spec.design.factors.model.iter().enumerate() {
        found.source(
            &model.source,
            scope,
            &format!("spec.design.factors.model[{index}].source"),
        );
    }
    found.store(spec.results.store.as_ref(), scope);
    found.durations(spec);
    for (index, env) in spec
        .runner
        .env
        .iter()
        .enumerate()
        .filter(|(_, env)| env.name.starts_with(RESERVED_PREFIX))
    {
        let path = format!("spec.runner.env[{index}].name");
        found.add(
            path,
            format!(
                "{:?} begins with {RESERVED_PREFIX}, which is reserved",
                env.name
            ),
        );
    }
    found.all()
}

impl Found {
    fn design(&mut self, design: &Design) {
        let gpus = &design.factors.gpus;
        if let Some(index) = gpus
            .iter()
            .position(|&count| count == 0)
            .filter(|_| gpus.len() > 1)
        {
            self.add(
                format!("spec.design.factors.gpus[{index}]"),
                "0 means CPU and stands alone: write [0], or leave it out",
            );
        }
        let levels = Levels::of(design);
        let trials = size(levels.counts(), design.replicates.max(0).unsigned_abs());
        if trials > limits::TRIALS {
            let counts = levels.counts().map(|count| count.to_string()).join(" × ");
            self.add(
                "spec.design",
                format!(
                    "{counts} levels × {} replicates are {trials} trials, and at most {} are allowed",
                    design.replicates,
                    limits::TRIALS
                ),
            );
        }
        let before = self.len();
        for (index, entry) in design.exclude.iter().enumerate() {
            self.exclude(entry, design, &format!("spec.design.exclude[{index}]"));
        }
        let small = trials <= limits::TRIALS && design.exclude.len() <= limits::EXCLUDES as usize;
        if small && trials > 0 && self.len() == before && Expansion::new(design).is_empty() {
            self.add(
                "spec.design.exclude",
                format!("leaves out all {trials} trials, and at least one is needed"),
            );
        }
    }

    fn exclude(&mut self, entry: &Exclude, design: &Design, path: &str) {
        let factors = &design.factors;
        let names: Vec<&str> = factors
            .model
            .iter()
            .map(|model| model.name.as_str())
            .collect();
        for (index, name) in entry.model.iter().flatten().enumerate() {
            if !names.contains(&name.as_str()) {
                let meant = did_you_mean(name, names.iter().copied());
                let allowed = names.join(", ");
                self.add(
                    format!("{path}.model[{index}]"),
                    format!("{name:?} is not a level of model: {allowed}{meant}"),
                );
            }
        }
        self.levels(
            entry.batch_size.as_ref(),
            &factors.batch_size,
            path,
            "batchSize",
        );
        self.levels(
            entry.input_length.as_ref(),
            &factors.input_length,
            path,
            "inputLength",
        );
        self.levels(
            entry.output_length.as_ref(),
            &factors.output_length,
            path,
            "outputLength",
        );
        self.levels(entry.gpus.as_ref(), &factors.gpus, path, "gpus");
        for (index, dtype) in entry.dtype.iter().flatten().enumerate() {
            if !factors.dtype.contains(dtype) {
                let message = if factors.dtype.is_empty() {
                    format!("{dtype} cannot be left out, as spec.design.factors.dtype is absent")
                } else {
                    format!("{dtype} is not a level of dtype: {}", join(&factors.dtype))
                };
                self.add(format!("{path}.dtype[{index}]"), message);
            }
        }
    }

    fn levels(&mut self, listed: Option<&Vec<i32>>, levels: &[i32], path: &str, factor: &str) {
        for (index, level) in listed.into_iter().flatten().enumerate() {
            if !levels.contains(level) {
                let message = format!("{level} is not a level of {factor}: {}", join(levels));
                self.add(format!("{path}.{factor}[{index}]"), message);
            }
        }
    }

    fn source(&mut self, source: &ModelSource, scope: Scope, path: &str) {
        let given: Vec<&str> = [
            ("huggingFace", source.hugging_face.is_some()),
            ("random", source.random.is_some()),
            ("path", source.path.is_some()),
            ("objectStore", source.object_store.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
        .collect();
        if given.len() != 1 {
            let what = if given.is_empty() {
                "has none".into()
            } else {
                format!("has {}", given.join(" and "))
            };
            self.add(
                path,
                format!(
                    "{what}, and needs exactly one of huggingFace, random, path and objectStore"
                ),
            );
        }
        if let Some(store) = source
            .object_store
            .as_ref()
            .filter(|_| scope == Scope::Cluster)
        {
            self.cluster_url(&store.url, &format!("{path}.objectStore.url"));
        }
    }

    fn store(&mut self, store: Option<&Store>, scope: Scope) {
        const PATH: &str = "spec.results.store";
        let Some(store) = store else {
            if scope == Scope::Cluster {
                self.add(
                    PATH,
                    "is required in a cluster: give a url or a persistentVolumeClaim",
                );
            }
            return;
        };
        match (&store.url, &store.persistent_volume_claim) {
            (None, None) => self.add(
                PATH,
                "has none, and needs exactly one of url and persistentVolumeClaim",
            ),
            (Some(_), Some(_)) => {
                self.add(
                    PATH,
                    "has both, and needs exactly one of url and persistentVolumeClaim",
                );
            }
            (Some(url), None) if scope == Scope::Cluster => {
                self.cluster_url(url, &format!("{PATH}.url"))
            }
            _ => {}
        }
        if store.url.is_none() {
            let given = [
                ("endpoint", store.endpoint.is_some()),
                ("region", store.region.is_some()),
                (
                    "credentialsSecretRef",
                    store.credentials_secret_ref.is_some(),
                ),
            ];
            for (name, _) in given.into_iter().filter(|(_, given)| *given) {
                self.add(format!("{PATH}.{name}"), "belongs to url, which is absent");
            }
        }
    }

    fn cluster_url(&mut self, url: &str, path: &str) {
        if url.starts_with("file:") {
            self.add(
                path,
                format!("{url:?} names a folder of one machine: in a cluster use s3, gs or az"),
            );
        }
    }

    fn durations(&mut self, spec: &InferenceBenchmarkSpec) {
        const HOUR: Duration = Duration::from_secs(3_600);
        const WEEK: Duration = Duration::from_secs(7 * 24 * 3_600);
        const ZERO: Duration = Duration::from_millis(0);
        const TICK: Duration = Duration::from_millis(1);
        let measurement = &spec.measurement;
        let execution = &spec.execution;
        let ranges = [
            (
                "measurement.warmupDuration",
                Some(measurement.warmup_duration),
                ZERO,
                HOUR,
            ),
            (
                "measurement.minDuration",
                measurement.min_duration,
                ZERO,
                HOUR,
            ),
            (
                "execution.trialTimeout",
                Some(execution.trial_timeout),
                TICK,
                WEEK,
            ),
            (
                "execution.startupTimeout",
                Some(execution.startup_timeout),
                TICK,
                WEEK,
            ),
            (
                "execution.pendingTimeout",
                Some(execution.pending_timeout),
                TICK,
                WEEK,
            ),
            ("objectives.maxTtft", spec.objectives.max_ttft, TICK, HOUR),
            ("objectives.maxTpot", spec.objectives.max_tpot, TICK, HOUR),
        ];
        for (field, value, least, most) in ranges {
            let Some(value) = value else { continue };
            if value < least {
                self.add(
                    format!("spec.{field}"),
                    format!("{value} is not at least {least}"),
                );
            } else if value > most {
                self.add(
                    format!("spec.{field}"),
                    format!("{value} is not at most {most}"),
                );
            }
        }
        let gpus = spec.design.factors.gpus.iter().copied().max().unwrap_or(0);
        let needed = measurement.warmup_duration.std() + measurement.min_duration_for(gpus).std();
        if execution.trial_timeout.std() <= needed && execution.trial_timeout > ZERO {
            self.add(
                "spec.execution.trialTimeout",
                format!(
                    "{} is not longer than measurement.warmupDuration and minDuration together, {}: every trial would \
                     time out",
                    execution.trial_timeout,
                    Duration::from_millis(u64::try_from(needed.as_millis()).unwrap_or(u64::MAX)),
                ),
            );
        }
    }
}

/// `a, b, c`.
fn join(items: &[impl fmt::Display]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests;
