//! The rules of parameters: their names and levels, and the one place that each goes to.

use crate::{
    engine::command,
    factor::{Factor, Level},
    limits,
    spec::{Engine, Factors, Parameter},
    suggest::did_you_mean,
    violation::Found,
};

/// Where a parameter can go.
type Destination = (&'static str, fn(&Parameter) -> &str);

/// Where a parameter can go, unless it stands as `$(NAME)` in what an engine is given.
const DESTINATIONS: [Destination; 3] = [
    ("env", |parameter| &parameter.env),
    ("flag", |parameter| &parameter.flag),
    ("field", |parameter| &parameter.field),
];

impl Found {
    pub(super) fn parameters(&mut self, factors: &Factors) {
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
}

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
