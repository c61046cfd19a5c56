//! A server that is asked over HTTP: one that the trial starts, waits for, drives, watches and ends, or an endpoint that
//! is there already. What is particular to a program is data ([`inferbench_crds::engine::preset`]).

mod configuration;
mod http;
mod model;
mod watch;

use std::{
    collections::BTreeMap,
    net::TcpListener,
    sync::mpsc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use inferbench_crds::{
    contract::API_KEY_VARIABLE,
    design::Combination,
    engine::{
        Counting, Endpoint, Interface, Prompt, Server as Asked,
        command::{self, Place},
        preset::Row,
    },
};
use inferbench_engine::{Weights, tokenizer::Tokenizer};
use inferbench_results::record::ServerMetrics;
use serde_json::{Value, json};

use self::{http::Http, watch::Watch};
use super::{
    Backend, BackendError, Description, Drive, Load, Room, SequenceTimes, Served, Setup, Stage,
};
use crate::{
    load::{self, Client, RequestError, Rule, Target},
    machine::processes::Processes,
    process::{child::ExitStatus, server::ServerProcess, signals},
};

/// How often a server that is starting is asked whether it is ready.
const ASKING: Duration = Duration::from_millis(100);
/// The longest that one question about its state may take.
const QUESTION: Duration = Duration::from_secs(10);
/// The longest that an endpoint may take to answer at first.
const ENDPOINT_PATIENCE: Duration = Duration::from_secs(60);
/// Bodies that are made ahead of their time.
const AHEAD: usize = 64;
/// The name that the model is given where the server lets it be named.
const MODEL: &str = "model";

/// Words of servers that ran out of memory.
const OUT_OF_MEMORY: [&str; 9] = [
    "CUDA out of memory",
    "OutOfMemoryError",
    "out of memory",
    "No available memory for the cache blocks",
    "Not enough memory",
    "std::bad_alloc",
    "Cannot allocate memory",
    "failed to allocate",
    "larger than the available KV cache memory",
];
/// Words of servers that can never run what they were asked to.
const UNSUPPORTED: [&str; 6] = [
    "are not supported for now",
    "must be divisible by tensor parallel size",
    "unknown model architecture",
    "unsupported model architecture",
    "is not divisible by the number of",
    "is greater than the derived max_model_len",
];

/// A server with a model.
pub struct Server {
    name: String,
    process: Option<ServerProcess>,
    client: Client,
    http: Http,
    interface: Interface,
    row: &'static Row,
    model: String,
    tokenizer: Option<Tokenizer>,
    description: Description,
    processes: Processes,
    room: Room,
    /// That of the trial which goes on, and when its time is over.
    combination: Combination,
    deadline: Instant,
    metrics: Option<ServerMetrics>,
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
            http,
            interface,
            row,
            model: served,
            tokenizer,
            processes,
            room: setup.room,
            combination: combination.clone(),
            deadline: Instant::now(),
            metrics: None,
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
        let key = std::env::var(API_KEY_VARIABLE)
            .ok()
            .filter(|key| !key.is_empty());
        let base = endpoint.url.trim_end_matches('/');
        let http = Http::new(base, key.as_deref())?;
        let interface = endpoint.interface.over(row);
        let name = combination.engine.name.clone();
        let model = match &endpoint.model {
            Some(model) => model.clone(),
            None => served_model(&http, Instant::now() + ENDPOINT_PATIENCE)
                .map_err(|why| failed(format!("{name}: {base}/v1/models: {why}")))?
                .ok_or_else(|| {
                    BackendError::invalid(format!(
                        "{name}: {base}/v1/models lists no model: say which one by endpoint.model"
                    ))
                })?,
        };
        let files = model::place(row, setup)?;
        let mut server = Self {
            client: client(base, &interface, key.as_deref(), setup.room.sequences)?,
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
            http,
            interface,
            row,
            model,
            processes: Processes::below([]),
            room: setup.room,
            combination: combination.clone(),
            deadline: Instant::now(),
            metrics: None,
        };
        server.probe(setup.vocab)?;
        server.describe();
        // Where requests went, without what may be secret in a URL.
        let url = url::Url::parse(base)
            .ok()
            .and_then(|url| Some(format!("{}://{}", url.scheme(), url.host_str()?)));
        server
            .description
            .configuration
            .extend(url.map(|url| ("url".to_owned(), url)));
        Ok(server)
    }

    /// One request of the trial's kind, so that a server that cannot answer it says so before anything is timed.
    fn probe(&mut self, vocab: usize) -> Result<(), BackendError> {
        // Ids from the middle of the vocabulary: no special ones there.
        let id = |at: u32| (u32::try_from(vocab).unwrap_or(u32::MAX) / 2).saturating_add(at % 7);
        let prompt: Vec<u32> = (0..self.combination.input_length).map(id).collect();
        let body = self.body(&prompt)?;
        let batch = self
            .client
            .batch(
                vec![body],
                Duration::from_secs(600),
                &mut signals::interrupted,
            )
            .map_err(|error| self.broken(&error.to_string()))?;
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

    /// What the server says of itself.
    fn describe(&mut self) {
        let (version, configuration) = configuration::ask(&self.http, self.row);
        self.description.version = version.unwrap_or_else(|| "unknown".into());
        self.description.configuration.extend(configuration);
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
        let message = error.to_string();
        if let Some(dead) = self.dead() {
            return dead;
        }
        match of_words(&message) {
            Some(known) => known,
            None => self.broken(&message),
        }
    }

    /// A failure that names the server and quotes what it wrote last.
    fn broken(&mut self, message: &str) -> BackendError {
        if let Some(dead) = self.dead() {
            return dead;
        }
        let said = self.process.as_ref().map(ServerProcess::last_lines);
        let said = said.filter(|said| !said.is_empty());
        let said = said.map_or(String::new(), |said| {
            format!("; the server said last: {said}")
        });
        failed(format!("{}: {message}{said}", self.name))
    }

    /// How the server ended; none while it lives.
    fn dead(&mut self) -> Option<BackendError> {
        let name = self.name.clone();
        let process = self.process.as_mut()?;
        // A connection may be reset a little before its process has ended.
        let patience = Instant::now() + Duration::from_millis(500);
        loop {
            if let Some(status) = process.exited() {
                return Some(ended(&name, process, &status));
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

    fn serve(&mut self, load: &Load<'_>) -> Result<Served, BackendError> {
        let Load::Batch { prompts, .. } = *load;
        let bodies = prompts.iter().map(|prompt| self.body(prompt));
        let bodies = bodies.collect::<Result<Vec<_>, _>>()?;
        let limit = self.deadline.saturating_duration_since(Instant::now());
        let batch = self
            .client
            .batch(bodies, limit, &mut signals::interrupted)
            .map_err(|error| self.broken(&error.to_string()))?;
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
        let mut watch = Watch::new(&self.http, &self.interface, self.row);
        let mut death: Option<ExitStatus> = None;
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
                watch.enter(now);
                if let Some(process) = process.as_mut() {
                    death = process.exited();
                }
                death.is_some() || stage(now)
            });
            drop(bodies);
            match wrong {
                Some(error) => Err(error),
                None => run.map_err(|error| failed(error.to_string())),
            }
        });
        self.metrics = watch.finish();
        if let (Some(status), Some(process)) = (death, self.process.as_ref()) {
            return Err(ended(&self.name, process, &status));
        }
        let run = run.map_err(|error| match error {
            BackendError::Failed { message, .. } => self.broken(&message),
            other => other,
        })?;
        if run.ending == load::Ending::Failures {
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
        self.metrics.take()
    }

    fn counting(&self) -> Option<Counting> {
        Some(self.interface.counting)
    }
}

/// A server that is starting.
struct Starting<'a> {
    name: &'a str,
    process: ServerProcess,
    http: Http,
    deadline: Instant,
    patience: Duration,
}

impl Starting<'_> {
    /// Waits until it answers 200 at this path.
    fn wait(&mut self, ready: &str) -> Result<(), BackendError> {
        let mut last = String::from("it did not listen");
        loop {
            if let Some(status) = self.process.exited() {
                return Err(ended(self.name, &self.process, &status));
            }
            match self.http.get(ready, QUESTION.min(self.left())) {
                Ok((200, _)) => return Ok(()),
                Ok((status, _)) => last = format!("{ready} answered {status}"),
                Err(error) if error.connected => last = format!("{ready}: {}", error.message),
                Err(_) => {}
            }
            if signals::interrupted() {
                return Err(failed("interrupted".into()));
            }
            if self.left().is_zero() {
                let said = self.process.last_lines();
                return Err(failed(format!(
                    "{}: not ready within startupTimeout {:.0} s: {last}; it said last: {said}",
                    self.name,
                    self.patience.as_secs_f64()
                )));
            }
            std::thread::sleep(ASKING);
        }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// The name that the model has: the one that it was given, or the first that is listed.
    fn served_model(&self, given: &str) -> String {
        let listed = self.http.get("/v1/models", QUESTION);
        let names = listed
            .map(|(_, body)| model_names(&body))
            .unwrap_or_default();
        if names.iter().any(|name| name == given) {
            return given.to_owned();
        }
        names.into_iter().next().unwrap_or_else(|| given.to_owned())
    }
}

/// The first model that a server lists; asked again while it cannot be reached.
fn served_model(http: &Http, deadline: Instant) -> Result<Option<String>, String> {
    loop {
        let why = match http.get("/v1/models", QUESTION) {
            Ok((200, body)) => return Ok(model_names(&body).into_iter().next()),
            Ok((status @ (401 | 403), _)) => {
                return Err(format!(
                    "it answered {status}: is {API_KEY_VARIABLE} right?"
                ));
            }
            Ok((404, _)) => return Err("it answered 404: say the model by endpoint.model".into()),
            Ok((status, _)) => format!("it answered {status}"),
            Err(error) => error.message,
        };
        if Instant::now() >= deadline || signals::interrupted() {
            return Err(why);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn model_names(body: &str) -> Vec<String> {
    let listed: Value = serde_json::from_str(body).unwrap_or_default();
    let models = listed["data"].as_array().cloned().unwrap_or_default();
    let names = models.iter().filter_map(|model| model["id"].as_str());
    names.map(str::to_owned).collect()
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
    Client::connect(&target, streams.max(1)).map_err(|error| failed(error.to_string()))
}

/// A port that nothing listens on.
fn free_port() -> Result<u16, BackendError> {
    let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    let port = port.map_err(|error| failed(format!("no port is free: {error}")))?;
    Ok(port.port())
}

/// What a server's end means.
fn ended(name: &str, process: &ServerProcess, status: &ExitStatus) -> BackendError {
    let line = |words: &[&str]| process.line(|line| words.iter().any(|word| line.contains(word)));
    match BackendError::exited(name, status) {
        BackendError::Failed { message, permanent } => {
            if let Some(line) = line(&OUT_OF_MEMORY) {
                BackendError::OutOfMemory(format!("{name}: {line}"))
            } else if let Some(line) = line(&UNSUPPORTED) {
                BackendError::Unsupported(format!("{name}: {line}"))
            } else {
                BackendError::Failed { message, permanent }
            }
        }
        known => known,
    }
}

/// What the words of an answer mean, where they are known.
fn of_words(message: &str) -> Option<BackendError> {
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if has(&OUT_OF_MEMORY) {
        Some(BackendError::OutOfMemory(message.to_owned()))
    } else if has(&UNSUPPORTED) {
        Some(BackendError::Unsupported(message.to_owned()))
    } else {
        None
    }
}

fn failed(message: String) -> BackendError {
    BackendError::Failed {
        message,
        permanent: false,
    }
}

/// Why a combination can never run on a server with files like these; none where that is not known beforehand.
#[must_use]
pub fn unsupported(weights: &Weights, combination: &Combination) -> Option<String> {
    let asked = combination.engine.server.as_ref()?;
    let row = asked.preset.row();
    let dtype = row
        .dtypes
        .iter()
        .any(|(dtype, _)| *dtype == combination.dtype);
    if !dtype {
        let place = Place {
            model: String::new(),
            port: 0,
            max_length: 0,
            max_concurrency: 0,
            cpus: 0,
        };
        return command::command_line(asked, combination, &place).err();
    }
    model::unreadable(row, weights, combination.dtype)
}

/// Members of a map that are worth a record.
type Configuration = BTreeMap<String, String>;

#[cfg(test)]
mod tests;
