//! A server that is asked over HTTP: one that the trial starts, waits for, drives, watches and ends, or an endpoint
//! that is there already. The particulars of each program are data ([`inferbench_crds::engine::preset`]).

mod configuration;
mod endpoint;
mod http;
mod model;
mod starting;
mod watch;
mod words;

use std::{
    collections::BTreeMap,
    sync::mpsc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use inferbench_crds::{
    design::Combination,
    engine::{
        Counting, Endpoint, Interface, Preset, Prompt, Server as Asked,
        command::{self, Place},
        preset::PresetRow,
    },
};
use inferbench_engine::{Weights, tokenizer::Tokenizer};
use inferbench_results::record::{Effective, ServerMetrics};
use serde_json::{Value, json};

pub use self::endpoint::Access;
use self::{
    http::Http,
    starting::{Starting, free_port},
    watch::Watcher,
    words::{ended, of_words},
};
use super::{
    Backend, BackendError, Batch, Description, Drive, Room, SequenceTimes, Served, Setup, Stage,
};
use crate::{
    load::{self, Client, RequestError, Rule, Target},
    machine::processes::Processes,
    process::{child::ExitStatus, server::ServerProcess, signals},
};

/// Bodies that are made ahead of their time.
const AHEAD: usize = 64;
/// The name that the model is given where the server lets it be named.
const MODEL: &str = "model";

/// A server with a model.
pub struct Server {
    name: String,
    process: Option<ServerProcess>,
    endpoint: Option<(Endpoint, Access)>,
    client: Client,
    http: Http,
    interface: Interface,
    row: &'static PresetRow,
    model: String,
    tokenizer: Option<Tokenizer>,
    description: Description,
    processes: Processes,
    room: Room,
    /// That of the trial which goes on, and when its time is over.
    combination: Combination,
    deadline: Instant,
    /// Its own metrics, watched while a load goes on.
    watcher: Watcher,
}

impl Server {
    /// Starts a server with a model, and waits until it has answered a request of the trial's kind.
    ///
    /// # Errors
    /// Where it cannot be started, does not become ready in time, or dies; `Unsupported` where it cannot read the model.
    pub fn start(asked: &Asked, setup: &Setup<'_>) -> Result<Self, BackendError> {
        let row = asked.preset.row();
        let combination = setup.combination;
        let name = combination.engine.name.clone();
        let model = model::place(row, setup)?;
        let port = free_port()?;
        let place = Place {
            model: model.path.display().to_string(),
            port,
            max_length: u32::try_from(setup.room.tokens).unwrap_or(u32::MAX),
            max_concurrency: u32::try_from(setup.room.sequences).unwrap_or(u32::MAX),
            cpus: u32::try_from(setup.threads.available)
                .unwrap_or(u32::MAX)
                .max(1),
        };
        let line =
            command::command_line(asked, combination, &place).map_err(BackendError::Unsupported)?;
        let began = Instant::now();
        let mut env = line.env;
        env.extend(setup.gpu_environment());
        let process = ServerProcess::spawn(&line.argv, &env, setup.log.as_deref(), setup.memory)
            .map_err(|error| {
                let program = line.argv.first().map_or("", String::as_str);
                BackendError::invalid(format!("{name}: {program} cannot be started: {error}"))
            })?;
        let processes = Processes::below([process.id()]);
        let base = format!("http://127.0.0.1:{port}");
        let mut starting = Starting {
            name: &name,
            row,
            process,
            http: Http::new(&base, None)?,
            deadline: began + asked.startup_timeout().std(),
            patience: asked.startup_timeout().std(),
        };
        let interface = asked.interface.over(row);
        starting.wait(&interface.ready)?;
        let served = starting.served_model(MODEL);
        let tokenizer = model.tokenizer(interface.prompt, &name)?;
        let Starting { process, http, .. } = starting;
        let mut server = Self {
            client: client(&base, &interface, None, setup.room.sequences)?,
            description: Description {
                engine: row.title.into(),
                mode: "server".into(),
                architecture: model.config.architecture().into(),
                model_params: model.params,
                dtype: model.dtype.clone(),
                threads: place.cpus,
                ..Description::default()
            },
            name,
            process: Some(process),
            endpoint: None,
            watcher: Watcher::new(&http, &interface, row),
            http,
            interface,
            row,
            model: served,
            tokenizer,
            processes,
            room: setup.room,
            combination: combination.clone(),
            deadline: Instant::now(),
        };
        server.probe(setup.vocab)?;
        server.description.load = began.elapsed();
        server.describe();
        server
            .description
            .configuration
            .insert("command".into(), line.argv.join(" "));
        server.hold_to_what_was_asked()?;
        Ok(server)
    }

    /// Connects to a server that is there already, and waits until it has answered a request of the trial's kind.
    ///
    /// # Errors
    /// Where it cannot be reached or does not answer.
    pub fn connect(endpoint: &Endpoint, setup: &Setup<'_>) -> Result<Self, BackendError> {
        let row = endpoint.preset.row();
        let combination = setup.combination;
        let interface = endpoint.interface.over(row);
        let name = combination.engine.name.clone();
        let reached =
            endpoint::reach(endpoint, setup.access).map_err(|error| named(&name, error))?;
        let base = endpoint::base(endpoint);
        let files = model::place(row, setup)?;
        let mut server = Self {
            client: client(
                base,
                &interface,
                setup.access.key.as_deref(),
                setup.room.sequences,
            )?,
            tokenizer: files.tokenizer(interface.prompt, &name)?,
            description: Description {
                engine: row.title.into(),
                mode: "endpoint".into(),
                architecture: files.config.architecture().into(),
                model_params: files.params,
                ..Description::default()
            },
            name,
            process: None,
            endpoint: Some((endpoint.clone(), setup.access.clone())),
            watcher: Watcher::new(&reached.http, &interface, row),
            http: reached.http,
            interface,
            row,
            model: reached.model,
            processes: Processes::below([]),
            room: setup.room,
            combination: combination.clone(),
            deadline: Instant::now(),
        };
        server.probe(setup.vocab)?;
        server.describe();
        server
            .description
            .configuration
            .insert("url".into(), endpoint::shown(endpoint));
        Ok(server)
    }

    /// One request of the trial's kind, so that a server that cannot answer it says so before anything is timed.
    fn probe(&mut self, vocab: usize) -> Result<(), BackendError> {
        // Ids from the middle of the vocabulary: no special ones there.
        let id = |at: u32| (u32::try_from(vocab).unwrap_or(u32::MAX) / 2).saturating_add(at % 7);
        let prompt: Vec<u32> = (0..self.combination.input_length).map(id).collect();
        let body = self.body(&prompt)?;
        let mut batch = self
            .client
            .batch(
                vec![body],
                Duration::from_secs(600),
                &mut signals::interrupted,
            )
            .map_err(|error| self.broken(&error.to_string()))?;
        self.hide_key(&mut batch.exchanges);
        let error = batch
            .exchanges
            .first()
            .and_then(|exchange| exchange.error.as_ref());
        match error {
            None => Ok(()),
            Some(error) => Err(self.refused(error)),
        }
    }

    /// The body of a request.
    fn body(&self, prompt: &[u32]) -> Result<Bytes, BackendError> {
        body(
            &self.model,
            &self.interface,
            self.tokenizer.as_ref(),
            &self.combination,
            prompt,
        )
    }

    /// Takes over the server's own words: its version and configuration.
    fn describe(&mut self) {
        let (version, configuration) = configuration::ask(&self.http, self.row);
        self.description.version = version.unwrap_or_else(|| "unknown".into());
        self.description.configuration.extend(configuration);
        self.description.configuration.insert(
            Effective::TOKEN_COUNTING.into(),
            self.interface.counting.name().into(),
        );
    }

    /// Whether its effective configuration is what it was asked for, as far as it tells.
    fn hold_to_what_was_asked(&self) -> Result<(), BackendError> {
        let slots = self.description.configuration.get("total_slots");
        let slots = slots.and_then(|slots| slots.parse::<usize>().ok());
        match slots {
            Some(slots) if slots < self.room.sequences => Err(BackendError::invalid(format!(
                "{}: it has {slots} slots for requests, and {} are to be in flight",
                self.name, self.room.sequences
            ))),
            _ => Ok(()),
        }
    }

    /// Why a request failed: the server's end, where it has ended.
    fn refused(&mut self, error: &RequestError) -> BackendError {
        if let Some((endpoint, access)) = &self.endpoint
            && let Some(known) = endpoint::blame(endpoint, access.key.is_some(), &self.model, error)
        {
            return named(&self.name, known);
        }
        let message = error.to_string();
        if let Some(dead) = self.dead() {
            return dead;
        }
        match of_words(self.row, &message) {
            Some(known) => known,
            None => self.broken(&message),
        }
    }

    /// A failure that names the server and quotes what it wrote last.
    fn broken(&mut self, message: &str) -> BackendError {
        if let Some(dead) = self.dead() {
            return dead;
        }
        let said = self.process.as_ref().map(ServerProcess::last_words);
        let said = said.filter(|said| !said.is_empty());
        let said = said.map_or(String::new(), |said| {
            format!("; the server said last: {said}")
        });
        let message = message.trim_end_matches('.');
        BackendError::failed(format!("{}: {message}{said}", self.name))
    }

    /// Takes the API key out of what the server said to requests: some repeat it to whoever sent it.
    fn hide_key(&self, exchanges: &mut [load::Exchange]) {
        let Some((_, access)) = &self.endpoint else {
            return;
        };
        for exchange in exchanges {
            let error = exchange.error.take();
            exchange.error = error.map(|error| error.map_said(|said| access.hide(said)));
        }
    }

    /// How the server ended; none while it lives.
    fn dead(&mut self) -> Option<BackendError> {
        let (name, row) = (self.name.clone(), self.row);
        let process = self.process.as_mut()?;
        // A connection may be reset a little before its process has ended.
        let patience = Instant::now() + Duration::from_millis(500);
        loop {
            if let Some(status) = process.exited() {
                return Some(ended(&name, row, process, &status));
            }
            if Instant::now() >= patience {
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Backend for Server {
    fn description(&self) -> &Description {
        &self.description
    }

    fn processes(&self) -> Processes {
        self.processes.clone()
    }

    fn room(&self) -> Room {
        self.room
    }

    fn begin(&mut self, combination: &Combination, deadline: Instant) {
        self.combination = combination.clone();
        self.deadline = deadline;
    }

    fn enter(&mut self, stage: Stage) {
        self.watcher.enter(stage);
    }

    fn serve(&mut self, batch: &Batch<'_>) -> Result<Served, BackendError> {
        let Batch { prompts, .. } = *batch;
        let bodies = prompts.iter().map(|prompt| self.body(prompt));
        let bodies = bodies.collect::<Result<Vec<_>, _>>()?;
        let limit = self.deadline.saturating_duration_since(Instant::now());
        let mut batch = self
            .client
            .batch(bodies, limit, &mut signals::interrupted)
            .map_err(|error| self.broken(&error.to_string()))?;
        self.hide_key(&mut batch.exchanges);
        let error = batch
            .exchanges
            .iter()
            .find_map(|exchange| exchange.error.as_ref());
        if let Some(error) = error {
            return Err(self.refused(error));
        }
        let of_exchange = |exchange: &load::Exchange| SequenceTimes {
            count: 1,
            token_ends: exchange
                .reply
                .token_ends()
                .map(|at| at.saturating_duration_since(batch.started))
                .collect(),
        };
        Ok(Served {
            started: batch.started,
            sequences: batch.exchanges.iter().map(of_exchange).collect(),
            ids: None,
            exchanges: batch.exchanges,
            lag: Some(batch.lag),
        })
    }

    fn drive(&mut self, drive: Drive<'_>) -> Result<load::Run, BackendError> {
        let Drive {
            load,
            prompts,
            stage,
        } = drive;
        let combination = &self.combination;
        let (model, interface, tokenizer) = (&self.model, &self.interface, self.tokenizer.as_ref());
        let client = &mut self.client;
        let process = &mut self.process;
        let watcher = &mut self.watcher;
        let mut exited: Option<ExitStatus> = None;
        let run = std::thread::scope(|scope| {
            let (made, bodies) = mpsc::sync_channel::<Result<Bytes, BackendError>>(AHEAD);
            // Prompts are made beside the client, whose thread has nothing else to do than its requests.
            scope.spawn(move || {
                for number in 0.. {
                    let body = prompts(number)
                        .and_then(|prompt| body(model, interface, tokenizer, combination, &prompt));
                    if made.send(body).is_err() {
                        return;
                    }
                }
            });
            let mut wrong = None;
            let mut next = |_| match bodies.recv() {
                Ok(Ok(body)) => body,
                Ok(Err(error)) => {
                    wrong.get_or_insert(error);
                    Bytes::new()
                }
                Err(_) => Bytes::new(),
            };
            let run = client.run(&load, &mut next, &mut |progress: load::Progress| {
                let now = match progress {
                    load::Progress::WarmingUp => Stage::WarmingUp,
                    load::Progress::InWindow => Stage::InWindow,
                    load::Progress::Closed => Stage::Closed,
                };
                watcher.enter(now);
                if let Some(process) = process.as_mut() {
                    exited = process.exited();
                }
                exited.is_some() || stage(now)
            });
            drop(bodies);
            match wrong {
                Some(error) => Err(error),
                None => run.map_err(|error| BackendError::failed(error.to_string())),
            }
        });
        if let (Some(status), Some(process)) = (exited, self.process.as_ref()) {
            return Err(ended(&self.name, self.row, process, &status));
        }
        let mut run = run.map_err(|error| match error {
            BackendError::Failed { message, .. } => self.broken(&message),
            other => other,
        })?;
        self.hide_key(&mut run.exchanges);
        if run.ending == load::LoadEnding::Failures {
            let errors = run
                .exchanges
                .iter()
                .filter_map(|exchange| exchange.error.as_ref());
            let first = errors.clone().next().cloned();
            let count = errors.count();
            let Some(first) = first else {
                return Err(self.broken("requests failed"));
            };
            return Err(match self.refused(&first) {
                BackendError::Failed { message, permanent } => BackendError::Failed {
                    message: format!("{message} ({count} requests failed)"),
                    permanent,
                },
                known => known,
            });
        }
        Ok(run)
    }

    fn take_metrics(&mut self) -> Option<ServerMetrics> {
        self.watcher.finish()
    }

    fn counting(&self) -> Option<Counting> {
        Some(self.interface.counting)
    }
}

/// A failure with the name of the engine before it.
fn named(name: &str, error: BackendError) -> BackendError {
    match error {
        BackendError::Failed { message, permanent } => BackendError::Failed {
            message: format!("{name}: {message}"),
            permanent,
        },
        known => known,
    }
}

/// The body of a request for the completion of a prompt.
fn body(
    model: &str,
    interface: &Interface,
    tokenizer: Option<&Tokenizer>,
    combination: &Combination,
    prompt: &[u32],
) -> Result<Bytes, BackendError> {
    let prompt: Value = match (interface.prompt, tokenizer) {
        (Prompt::Ids, _) => prompt.into(),
        (Prompt::Text, Some(tokenizer)) => tokenizer.decode(prompt)?.into(),
        (Prompt::Text, None) => {
            return Err(BackendError::Unsupported(
                "its prompts are texts, and the model has no tokenizer to make them with".into(),
            ));
        }
    };
    let mut members = command::request_members(interface, combination);
    let own = [
        ("model", model.into()),
        ("prompt", prompt),
        ("max_tokens", combination.output_length.into()),
        // A parameter may be about it.
        (
            "temperature",
            members.get("temperature").cloned().unwrap_or(json!(0)),
        ),
        ("stream", true.into()),
    ];
    members.extend(own.map(|(name, value)| (name.to_owned(), value)));
    let body = serde_json::to_vec(&members);
    body.map(Bytes::from)
        .map_err(|error| BackendError::invalid(error.to_string()))
}

fn client(
    base: &str,
    interface: &Interface,
    key: Option<&str>,
    streams: usize,
) -> Result<Client, BackendError> {
    let authorization = key.map(|key| ("authorization".to_owned(), format!("Bearer {key}")));
    let target = Target {
        url: format!("{base}{}", interface.completions),
        headers: authorization.into_iter().collect(),
        roots: None,
        rule: match interface.counting {
            Counting::TokenIds => Rule::Ids,
            Counting::Timings => Rule::Timings,
            Counting::ContinuousUsage => Rule::ContinuousUsage,
            Counting::FinalUsage => Rule::FinalUsage,
        },
    };
    Client::connect(&target, streams.max(1))
        .map_err(|error| BackendError::failed(error.to_string()))
}

/// Why a combination can never run on a server with files like these; none where that is not known beforehand, and of an
/// endpoint.
#[must_use]
pub fn unsupported(weights: &Weights, combination: &Combination) -> Option<String> {
    let server = combination.engine.server.as_ref()?;
    model::unreadable(server.preset.row(), weights, combination.dtype)
}

/// The data type in which a server computes with such a model, where the model's file decides that and not the level.
#[must_use]
pub fn stored_dtype(preset: Preset, weights: &Weights) -> Option<String> {
    model::stored_dtype(preset.row(), weights)
}

/// Members of a map that are worth a record.
type Configuration = BTreeMap<String, String>;

#[cfg(test)]
mod tests;
