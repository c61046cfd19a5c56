//! The rules that a resource obeys, all checked at once: the schema's, and those that relate fields to each other.
//! A local file, the operator and (through the schema and its CEL rules) the API server agree on them.

mod search;

use std::fmt;

use k8s_openapi::api::core::v1::ResourceRequirements;

use crate::{
    Duration, InferenceBenchmark,
    contract::RESERVED_PREFIX,
    crd::schema,
    design::Expansion,
    engine::{Preset, command},
    expectation::{Call, Expectation},
    factor::{self, Allowed, Axis, Factor, Level},
    grid::size,
    limits,
    node::Node,
    schema::check,
    selection::{self, Unfit},
    spec::{
        Design, Engine, Exclude, Factors, InferenceBenchmarkSpec, ModelSource, Parameter, Server,
        Store,
    },
    suggest::did_you_mean,
    violation::{Found, Violation},
    workload::Workload,
};

/// Where a resource is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// On this machine: `results.store` is optional, and may be a folder.
    Local,
    /// In a cluster.
    Cluster,
}

/// Notes on what is allowed, but will not do what it looks like; empty where all is plain.
#[must_use]
pub fn notes(spec: &InferenceBenchmarkSpec) -> Vec<String> {
    let factors = &spec.design.factors;
    let models = factors.model.iter();
    let random = models
        .filter(|model| spec.measurement.quality && model.source.random.is_some())
        .map(|model| {
            format!(
                "spec.measurement.quality: {} has random weights, and what it writes no meaning: its quality is left empty",
                model.name
            )
        });
    let engines = factors.engine.iter();
    let servers = engines
        .clone()
        .filter(|engine| spec.measurement.quality && engine.takes_requests())
        .map(|engine| {
            format!(
                "spec.measurement.quality: {} does not show how likely it finds what it writes: its quality is left empty",
                engine.name
            )
        });
    let load = requests_load(factors);
    let batches = engines
        .filter(|engine| load.is_some() && !engine.takes_requests())
        .map(|engine| {
            format!(
                "spec.design.factors.{}: {} takes batches alone: its combinations are recorded as Unsupported",
                load.unwrap_or_default(),
                engine.name
            )
        });
    let shared = cpus_of_a_cluster(spec);
    let expected = untestable(spec);
    random
        .chain(servers)
        .chain(batches)
        .chain(shared)
        .chain(search::notes(spec))
        .chain(expected)
        .collect()
}

/// Expectations that no sweep of this design can be judged by, one note for each reason: levels that it does not have, and
/// factors that do not vary.
fn untestable(spec: &InferenceBenchmarkSpec) -> Vec<String> {
    let axes = factor::axes(&spec.design.factors);
    let axis_of = |factor: &Factor| axes.iter().find(|axis| axis.factor == *factor);
    let lacks = |call: &Call| -> Option<String> {
        let absent = call.only.0.iter().find_map(|(factor, listed)| {
            let axis = axis_of(factor)?;
            let none = !listed.iter().any(|level| axis.levels.contains(level));
            let first = listed.first().filter(|_| none)?;
            Some(not_a_level(first, axis))
        });
        absent.or_else(|| {
            let factor = call.factor.as_ref()?;
            let mut listed = call.only.0.iter().filter(|(only, _)| only == factor);
            let single =
                axis_of(factor)?.levels.len() < 2 || listed.any(|(_, levels)| levels.len() < 2);
            single.then(|| format!("{factor} does not vary"))
        })
    };
    let parameters = &spec.design.factors.parameters;
    let mut reasons: Vec<(String, Vec<usize>)> = Vec::new();
    for (index, expectation) in spec.expectations.iter().enumerate() {
        let names = parameters.iter().map(|one| one.name.as_str());
        let Ok(statement) = expectation.read(names) else {
            continue;
        };
        for why in statement.calls().into_iter().filter_map(lacks) {
            match reasons.iter_mut().find(|(known, _)| *known == why) {
                Some((_, of)) if of.last() != Some(&index) => of.push(index),
                Some(_) => {}
                None => reasons.push((why, vec![index])),
            }
        }
    }
    reasons
        .into_iter()
        .map(|(why, of)| {
            let of: Vec<String> = of.iter().map(|index| format!("[{index}]")).collect();
            format!(
                "spec.expectations{}: cannot be judged in full, as {why}",
                of.join(", ")
            )
        })
        .collect()
}

/// Trials on the CPUs of a cluster's nodes, which others share unless a pod is given CPUs of its own.
fn cpus_of_a_cluster(spec: &InferenceBenchmarkSpec) -> Option<String> {
    const FIELD: &str = "spec.runner.resources";
    let factors = &spec.design.factors;
    let store = spec.results.store.as_ref()?;
    let local = store
        .url
        .as_deref()
        .is_none_or(|url| url.starts_with("file:"));
    let in_cluster = store.persistent_volume_claim.is_some() || !local;
    let engines = factors.engines();
    let computes = engines.iter().any(|engine| engine.endpoint.is_none());
    if factors.gpus != [0] || !computes || !in_cluster {
        return None;
    }
    Some(if has_whole_cpus(spec.runner.resources.as_ref()) {
        format!(
            "{FIELD}: in a cluster these CPUs are the trial's alone only on nodes whose kubelet has the CPU manager policy \
             static; on others, whatever shares the node makes trials invalid"
        )
    } else {
        format!(
            "{FIELD}: in a cluster, trials on the CPU are invalid where other pods take part of it: give the pod CPUs of \
             its own, by whole CPUs and memory as limits (and requests, if any, equal to them: class Guaranteed), on \
             nodes whose kubelet has the CPU manager policy static"
        )
    })
}

/// Whether a pod with these resources is of the class Guaranteed, with whole CPUs: what the CPU manager gives CPUs to.
fn has_whole_cpus(resources: Option<&ResourceRequirements>) -> bool {
    let Some(limits) = resources.and_then(|resources| resources.limits.as_ref()) else {
        return false;
    };
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let equal = |name: &str| {
        let request = requests.and_then(|requests| requests.get(name));
        limits
            .get(name)
            .is_some_and(|limit| request.is_none_or(|request| request == limit))
    };
    let whole = limits.get("cpu").is_some_and(|cpu| {
        let millis = cpu.0.strip_suffix('m').map(str::parse::<u64>);
        match millis {
            Some(millis) => millis.is_ok_and(|millis| millis > 0 && millis.is_multiple_of(1_000)),
            None => cpu
                .0
                .parse::<f64>()
                .is_ok_and(|cpus| cpus >= 1.0 && cpus.fract() == 0.0),
        }
    });
    whole && equal("cpu") && equal("memory")
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

    fn engines(&mut self, factors: &Factors, scope: Scope) {
        for (index, engine) in factors.engine.iter().enumerate() {
            let path = format!("spec.design.factors.engine[{index}]");
            let members = [
                ("candle", engine.candle.is_some()),
                ("server", engine.server.is_some()),
                ("endpoint", engine.endpoint.is_some()),
            ];
            self.exactly_one(&path, &members);
            if let Some(server) = &engine.server {
                self.server(
                    server,
                    &engine.name,
                    factors,
                    scope,
                    &format!("{path}.server"),
                );
            }
            if engine.endpoint.is_some() {
                self.endpoint(&engine.name, factors);
            }
            let (member, interface) = match (&engine.server, &engine.endpoint) {
                (Some(server), _) => ("server", &server.interface),
                (None, Some(endpoint)) => ("endpoint", &endpoint.interface),
                (None, None) => continue,
            };
            for (name, value) in &interface.request {
                let path = format!("{path}.{member}.interface.request.{name}");
                let known = &command::REQUEST_NAMES;
                self.references(
                    value.as_str().unwrap_or_default(),
                    known,
                    &engine.name,
                    factors,
                    &path,
                );
            }
        }
    }

    fn server(
        &mut self,
        server: &Server,
        engine: &str,
        factors: &Factors,
        scope: Scope,
        path: &str,
    ) {
        if scope == Scope::Cluster && server.image.is_none() {
            self.add(
                format!("{path}.image"),
                "is required in a cluster: the image that has the server's program",
            );
        }
        if server.preset == Preset::Openai && server.command.is_empty() {
            self.add(
                format!("{path}.command"),
                "is required for the preset openai: the program to start, and its first arguments",
            );
        }
        let lists = [("command", &server.command), ("args", &server.args)];
        for (list, texts) in lists {
            for (at, text) in texts.iter().enumerate() {
                let path = format!("{path}.{list}[{at}]");
                self.references(text, &command::NAMES, engine, factors, &path);
            }
        }
        for (at, variable) in server.env.iter().enumerate() {
            let path = format!("{path}.env[{at}]");
            self.variable(&variable.name, &format!("{path}.name"));
            let value = format!("{path}.value");
            self.references(&variable.value, &command::NAMES, engine, factors, &value);
        }
    }

    /// An endpoint is what it is: only the load on it can vary.
    fn endpoint(&mut self, engine: &str, factors: &Factors) {
        if factors.gpus != [0] {
            self.add(
                "spec.design.factors.gpus",
                format!(
                    "the GPUs of the endpoint {engine} are not this sweep's to give: write [0]"
                ),
            );
        }
        let counts = [
            ("pipelineParallel", factors.pipeline_parallel.as_slice()),
            ("dataParallel", &factors.data_parallel),
        ];
        for (factor, levels) in counts {
            if levels.iter().any(|&level| level != 1) {
                self.add(
                    format!("spec.design.factors.{factor}"),
                    format!("the endpoint {engine} divides its work as it does: leave it out"),
                );
            }
        }
        if factors.dtype.len() > 1 {
            self.add(
                "spec.design.factors.dtype",
                format!("the endpoint {engine} has one data type: name that one"),
            );
        }
    }

    /// Every `$(NAME)` of a text is one of these names, or a parameter that the engine takes.
    fn references(
        &mut self,
        text: &str,
        names: &[&str],
        engine: &str,
        factors: &Factors,
        path: &str,
    ) {
        let parameters = factors.parameters.iter();
        let parameters =
            parameters.map(|parameter| (parameter.name.as_str(), parameter.is_for(engine)));
        let parameters: Vec<(&str, bool)> = parameters.collect();
        for name in command::references(text) {
            if names.contains(&name) {
                continue;
            }
            match parameters.iter().find(|(parameter, _)| *parameter == name) {
                Some((_, true)) => {}
                Some((_, false)) => self.add(
                    path,
                    format!("$({name}) is a parameter that is not for the engine {engine}"),
                ),
                None => {
                    let known = names
                        .iter()
                        .copied()
                        .chain(parameters.iter().map(|(name, _)| *name));
                    let meant = did_you_mean(name, known.clone());
                    let known: Vec<&str> = known.collect();
                    self.add(
                        path,
                        format!("$({name}) is not one of {}{meant}", known.join(", ")),
                    );
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

    fn parameters(&mut self, factors: &Factors) {
        let engines = factors.engines();
        let engines: Vec<&str> = engines.iter().map(|engine| engine.name.as_str()).collect();
        for (index, parameter) in factors.parameters.iter().enumerate() {
            let path = format!("spec.design.factors.parameters[{index}]");
            let name = &parameter.name;
            if Factor::named(name).row().is_some() {
                self.add(
                    format!("{path}.name"),
                    format!("{name:?} is the name of another factor"),
                );
            }
            self.variable(&parameter.env, &format!("{path}.env"));
            self.destination(parameter, factors, &path);
            for (member, of) in DESTINATIONS {
                let earlier = factors.parameters[..index].iter().find(|other| {
                    let both = |engine: &&str| other.is_for(engine) && parameter.is_for(engine);
                    !of(parameter).is_empty()
                        && of(other) == of(parameter)
                        && engines.iter().any(both)
                });
                if let Some(other) = earlier {
                    self.add(
                        format!("{path}.{member}"),
                        format!(
                            "{:?} is set by the parameter {} already",
                            of(parameter),
                            other.name
                        ),
                    );
                }
            }
            for (at, level) in parameter.levels.iter().enumerate() {
                let path = format!("{path}.levels[{at}]");
                if let Some(first) = parameter.levels[..at]
                    .iter()
                    .position(|other| other == level)
                {
                    self.add(
                        path,
                        format!("{level} is listed already, as levels[{first}]"),
                    );
                } else if let Level::Text(text) = level {
                    let length = text.chars().count();
                    if !(1..=limits::PARAMETER_TEXT).contains(&length)
                        || text.contains(char::is_control)
                    {
                        self.add(
                            path,
                            format!(
                                "{text:?} is not a text of 1 to {} printable characters",
                                limits::PARAMETER_TEXT
                            ),
                        );
                    } else if Level::parse(text) != *level {
                        self.add(path, format!("{text:?} is a text that reads as a number, true or false: leave out the quotes"));
                    }
                }
            }
            for (at, engine) in parameter.engines.iter().enumerate() {
                if !engines.contains(&engine.as_str()) {
                    let meant = did_you_mean(engine, engines.iter().copied());
                    self.add(
                        format!("{path}.engines[{at}]"),
                        format!(
                            "{engine:?} is not a level of engine: {}{meant}",
                            engines.join(", ")
                        ),
                    );
                }
            }
        }
    }

    /// A parameter goes to one place, and every engine that takes it has that.
    fn destination(&mut self, parameter: &Parameter, factors: &Factors, path: &str) {
        let given = DESTINATIONS
            .iter()
            .filter(|(_, of)| !of(parameter).is_empty());
        let given: Vec<&str> = given.map(|(name, _)| *name).collect();
        if given.len() > 1 {
            self.add(
                path,
                format!(
                    "has {}, and at most one of env, flag and field is allowed",
                    given.join(" and ")
                ),
            );
            return;
        }
        let engines = factors.engines();
        for engine in engines
            .iter()
            .filter(|engine| parameter.is_for(&engine.name))
        {
            let Engine { name, server, .. } = engine;
            let wrong = match given.first() {
                Some(&"env") if engine.endpoint.is_some() => Some(format!(
                    "{name} is an endpoint, whose environment is not this sweep's to set"
                )),
                Some(&"env") => None,
                Some(&"flag") if server.is_none() => Some(format!(
                    "{name} is not started by a command line: name the engines that are"
                )),
                Some(&"field") if !engine.takes_requests() => Some(format!(
                    "{name} is not asked by requests: name the engines that are"
                )),
                Some(_) => None,
                None if names_it(engine, &parameter.name) => None,
                None => Some(format!(
                    "goes nowhere for {name}: give env, flag or field, or write $({}) where it belongs",
                    parameter.name
                )),
            };
            if let Some(wrong) = wrong {
                let path = given
                    .first()
                    .map_or(path.to_owned(), |member| format!("{path}.{member}"));
                self.add(path, wrong);
            }
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

    /// The mix that the best is sought for: workloads of the design, each of them once.
    fn workloads(&mut self, spec: &InferenceBenchmarkSpec) {
        let axes = factor::axes(&spec.design.factors);
        let workloads = &spec.objectives.workloads;
        for (index, weighted) in workloads.iter().enumerate() {
            let (path, before) = (format!("spec.objectives.workloads[{index}]"), self.len());
            for (factor, level) in weighted.workload.iter() {
                let Some(axis) = axes.iter().find(|axis| axis.factor == *factor) else {
                    continue;
                };
                let given = factor.row().and_then(|row| row.given);
                let absent = given.is_some_and(|given| !given(&spec.design.factors));
                if !Workload::takes(factor) {
                    let allowed: Vec<Factor> = Workload::factors().collect();
                    self.add(
                        format!("{path}.{factor}"),
                        format!(
                            "{factor} is no factor that a mix may name; allowed are {}",
                            join_by(&allowed, ", ")
                        ),
                    );
                } else if absent {
                    self.add(
                        format!("{path}.{factor}"),
                        format!(
                            "{level} cannot be named, as spec.design.factors.{factor} is absent"
                        ),
                    );
                } else if !axis.levels.contains(level) {
                    self.add(format!("{path}.{factor}"), not_a_level(level, axis));
                }
            }
            let several = axes
                .iter()
                .filter(|axis| Workload::takes(&axis.factor) && axis.levels.len() > 1);
            for axis in several {
                if weighted.workload.get(&axis.factor).is_none() {
                    self.add(
                        format!("{path}.{}", axis.factor),
                        format!(
                            "is required, as the design has several levels: {}",
                            join_by(&axis.levels, ", ")
                        ),
                    );
                }
            }
            // Entries that name all that varies are equal in it or two workloads.
            let same = |other: &usize| {
                axes.iter().all(|axis| {
                    axis.levels.len() < 2
                        || workloads[*other].workload.get(&axis.factor)
                            == weighted.workload.get(&axis.factor)
                })
            };
            if self.len() == before
                && let Some(first) = (0..index).find(same)
            {
                self.add(
                    path,
                    format!("is listed already, as spec.objectives.workloads[{first}]: give it one weight"),
                );
            }
        }
    }

    fn source(&mut self, source: &ModelSource, scope: Scope, path: &str) {
        let members = [
            ("huggingFace", source.hugging_face.is_some()),
            ("random", source.random.is_some()),
            ("path", source.path.is_some()),
            ("objectStore", source.object_store.is_some()),
        ];
        self.exactly_one(path, &members);
        if let Some(store) = source
            .object_store
            .as_ref()
            .filter(|_| scope == Scope::Cluster)
        {
            self.cluster_url(&store.url, &format!("{path}.objectStore.url"));
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

/// Where a parameter can go.
type Destination = (&'static str, fn(&Parameter) -> &str);

/// Where a parameter can go, unless it stands as `$(NAME)` in what an engine is given.
const DESTINATIONS: [Destination; 3] = [
    ("env", |parameter| &parameter.env),
    ("flag", |parameter| &parameter.flag),
    ("field", |parameter| &parameter.field),
];

/// Whether an engine is given `$(parameter)` anywhere.
fn names_it(engine: &Engine, parameter: &str) -> bool {
    let server = engine.server.iter();
    let texts = server.flat_map(|server| {
        let values = server.env.iter().map(|variable| &variable.value);
        server.command.iter().chain(&server.args).chain(values)
    });
    let server = engine.server.iter().map(|server| &server.interface);
    let endpoint = engine.endpoint.iter().map(|endpoint| &endpoint.interface);
    let members = server
        .chain(endpoint)
        .flat_map(|interface| interface.request.values());
    texts
        .map(String::as_str)
        .chain(members.filter_map(|member| member.as_str()))
        .flat_map(command::references)
        .any(|name| name == parameter)
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
