//! The rules that a resource obeys, all checked at once: the schema's, and those that relate fields to each other.
//! A local file, the operator and (through the schema and its CEL rules) the API server agree on them.

mod engines;
mod notes;
mod parameters;
mod search;
mod workloads;

use std::fmt;

pub use self::notes::notes;
use crate::{
    Duration, InferenceBenchmark,
    contract::RESERVED_PREFIX,
    crd::schema,
    design::Expansion,
    expectation::Expectation,
    factor::{self, Allowed, Axis, Level},
    grid::size,
    limits,
    node::Node,
    schema::check,
    selection::{self, Unfit},
    spec::{Design, Engine, Exclude, Factors, InferenceBenchmarkSpec, Store},
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

/// The factor that is the load of a design whose requests do not come in batches.
fn requests_load(factors: &Factors) -> Option<&'static str> {
    let given = [
        ("concurrency", !factors.concurrency.is_empty()),
        ("requestRate", !factors.request_rate.is_empty()),
        ("prefixShare", !factors.prefix_share.is_empty()),
    ];
    given
        .into_iter()
        .find_map(|(name, given)| given.then_some(name))
}

/// Every rule that a resource breaks; empty where it may run.
#[must_use]
pub fn validate(resource: &InferenceBenchmark, scope: Scope) -> Vec<Violation> {
    let mut found = Found::default();
    let node = Node::from(serde_json::to_value(resource).unwrap_or_default());
    for finding in check(&node, schema(), "") {
        found.add(finding.path, finding.message);
    }
    found.extend(rules(resource, scope));
    found.all()
}

/// Every rule beside the schema's that a resource breaks: those that relate fields to each other, and to where it runs.
pub(crate) fn rules(resource: &InferenceBenchmark, scope: Scope) -> Vec<Violation> {
    let mut found = Found::default();
    if resource.metadata.name.is_none() && resource.metadata.generate_name.is_none() {
        found.add("metadata.name", "is required");
    }
    let spec = &resource.spec;
    found.design(&spec.design, scope);
    found.search(spec);
    for (index, model) in spec.design.factors.model.iter().enumerate() {
        found.source(
            &model.source,
            scope,
            &format!("spec.design.factors.model[{index}].source"),
        );
    }
    found.store(spec.results.store.as_ref(), scope);
    found.durations(spec);
    found.workloads(spec);
    for (index, env) in spec.runner.env.iter().enumerate() {
        found.variable(&env.name, &format!("spec.runner.env[{index}].name"));
    }
    let parameters = &spec.design.factors.parameters;
    let parameters = parameters.iter().map(|one| one.name.as_str());
    found.expectations(&spec.expectations, parameters, "spec.expectations");
    found.all()
}

impl Found {
    /// Expectations of a sweep with these parameters: each can be read.
    pub(crate) fn expectations<'a>(
        &mut self,
        expectations: &[Expectation],
        parameters: impl Iterator<Item = &'a str> + Clone,
        path: &str,
    ) {
        for (index, expectation) in expectations.iter().enumerate() {
            if let Err(wrong) = expectation.read(parameters.clone()) {
                self.add(format!("{path}[{index}].that"), wrong.to_string());
            }
        }
    }

    fn design(&mut self, design: &Design, scope: Scope) {
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
        let axes = factor::axes(&design.factors);
        let trials = size(&axes, design.blocks());
        if trials > limits::TRIALS {
            let stated = axes
                .iter()
                .filter(|axis| axis.factor.implied().is_none() || axis.levels.len() > 1);
            let counts: Vec<_> = stated.map(|axis| axis.levels.len()).collect();
            let counts = join_by(&counts, " × ");
            let replicates = match design.confirm {
                Some(confirm) => format!("({} + {})", design.replicates, confirm.replicates),
                None => design.replicates.to_string(),
            };
            self.add(
                "spec.design",
                format!(
                    "{counts} levels × {replicates} replicates are {trials} trials, and at most {} are allowed",
                    limits::TRIALS
                ),
            );
        }
        if let Some(until) = design
            .until
            .as_ref()
            .filter(|until| until.min > design.replicates)
        {
            self.add(
                "spec.design.until.min",
                format!(
                    "{} is more than spec.design.replicates, {}, which are the most",
                    until.min, design.replicates
                ),
            );
        }
        self.engines(&design.factors, scope);
        self.load(&design.factors);
        self.parameters(&design.factors);
        let before = self.len();
        for (index, entry) in design.exclude.iter().enumerate() {
            self.exclude(
                entry,
                &axes,
                design,
                &format!("spec.design.exclude[{index}]"),
            );
        }
        let small = trials <= limits::TRIALS && design.exclude.len() <= limits::EXCLUDES as usize;
        if small && trials > 0 && self.len() == before {
            match selection::of(design).and_then(Result::err) {
                None | Some(Unfit::TooMany { candidates: 0, .. }) => {
                    if Expansion::new(design).is_empty() {
                        self.add(
                            "spec.design.exclude",
                            format!("leaves out all {trials} trials, and at least one is needed"),
                        );
                    }
                }
                Some(unfit) => {
                    let member = match unfit {
                        Unfit::TooLarge { .. } => "model",
                        _ => "combinations",
                    };
                    self.add(format!("spec.design.select.{member}"), unfit.to_string());
                }
            }
        }
    }

    /// A design has one load.
    fn load(&mut self, factors: &Factors) {
        let (concurrency, rate) = (
            !factors.concurrency.is_empty(),
            !factors.request_rate.is_empty(),
        );
        if concurrency && rate {
            self.add(
                "spec.design.factors.requestRate",
                "a design has one load: give batchSize, concurrency or requestRate",
            );
        }
        if (concurrency || rate) && factors.batch_size != [1] {
            self.add(
                "spec.design.factors.batchSize",
                "a design has one load: leave batchSize out beside concurrency or requestRate",
            );
        }
        let engines = factors.engines();
        if let Some(load) = requests_load(factors)
            && !engines.iter().any(Engine::takes_requests)
        {
            self.add(
                format!("spec.design.factors.{load}"),
                "is a load of servers and endpoints, and this design has none: see spec.design.factors.engine",
            );
        }
    }

    fn exclude(&mut self, entry: &Exclude, axes: &[Axis], design: &Design, path: &str) {
        for (factor, listed) in entry.iter() {
            let path = format!("{path}.{}", Exclude::path(factor));
            let Some(axis) = axes.iter().find(|axis| axis.factor == *factor) else {
                let names: Vec<_> = design
                    .factors
                    .parameters
                    .iter()
                    .map(|one| one.name.as_str())
                    .collect();
                let meant = did_you_mean(factor.name(), names.iter().copied());
                self.add(path, format!("is not a parameter of this design{meant}"));
                continue;
            };
            let given = factor.row().and_then(|row| row.given);
            let absent = given.is_some_and(|given| !given(&design.factors));
            for (index, level) in listed.iter().enumerate() {
                let path = format!("{path}[{index}]");
                if absent {
                    self.add(
                        path,
                        format!(
                            "{level} cannot be left out, as spec.design.factors.{factor} is absent"
                        ),
                    );
                } else if !axis.levels.contains(level) {
                    self.add(path, not_a_level(level, axis));
                }
            }
        }
    }

    /// An environment variable that the user sets must not be one of inferbench's own.
    fn variable(&mut self, name: &str, path: &str) {
        if name.starts_with(RESERVED_PREFIX) {
            self.add(
                path,
                format!("{name:?} begins with {RESERVED_PREFIX}, which is reserved"),
            );
        }
    }

    /// One of the members has to be given, and only one.
    fn exactly_one(&mut self, path: &str, members: &[(&str, bool)]) {
        let given = members.iter().filter(|(_, given)| *given);
        let given: Vec<&str> = given.map(|(name, _)| *name).collect();
        if given.len() == 1 {
            return;
        }
        let found = if given.is_empty() {
            "has none".into()
        } else {
            format!("has {}", given.join(" and "))
        };
        let names: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
        let names = match names.split_last() {
            Some((last, [])) => (*last).to_owned(),
            Some((last, others)) => format!("exactly one of {} and {last}", others.join(", ")),
            None => String::new(),
        };
        self.add(path, format!("{found}, and needs {names}"));
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
            ("objectives.maxE2e", spec.objectives.max_e2e, TICK, HOUR),
        ];
        let ranges =
            ranges.map(|(field, value, least, most)| (field.to_owned(), value, least, most));
        let engines = spec.design.factors.engine.iter().enumerate();
        let starts = engines.filter_map(|(index, engine)| {
            let field = format!("design.factors.engine[{index}].server.startupTimeout");
            Some((field, engine.server.as_ref()?.startup_timeout, TICK, WEEK))
        });
        for (field, value, least, most) in ranges.into_iter().chain(starts) {
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

/// A level that a design does not have, for `exclude`: with a near one where it is a name, else with all.
fn not_a_level(level: &Level, axis: &Axis) -> String {
    let (factor, levels) = (&axis.factor, join_by(&axis.levels, ", "));
    match level {
        Level::Text(text)
            if factor
                .row()
                .is_none_or(|row| matches!(row.allowed, Allowed::Names(_))) =>
        {
            let names: Vec<String> = axis.levels.iter().map(ToString::to_string).collect();
            let meant = did_you_mean(text, names.iter().map(String::as_str));
            format!("{text:?} is not a level of {factor}: {levels}{meant}")
        }
        _ => format!("{level} is not a level of {factor}: {levels}"),
    }
}

fn join_by(items: &[impl fmt::Display], separator: &str) -> String {
    let texts = items.iter().map(ToString::to_string);
    texts.collect::<Vec<_>>().join(separator)
}

#[cfg(test)]
mod tests;
