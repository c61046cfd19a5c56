//! The rules of what is measured: engines, their servers and endpoints, the names that their texts refer to, and where
//! models come from.

use super::Scope;
use crate::{
    engine::{Preset, command},
    spec::{Factors, ModelSource, Server},
    suggest::did_you_mean,
    violation::Found,
};

impl Found {
    pub(super) fn engines(&mut self, factors: &Factors, scope: Scope) {
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

    pub(super) fn source(&mut self, source: &ModelSource, scope: Scope, path: &str) {
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
}
