//! From a server, a combination and a place to run in to the command line and the members of a request's body. Pure: a
//! plan can show what a trial will start, and a test can hold it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    Interface, Server, Variable,
    preset::{Argument, When},
};
use crate::{
    combination::{Combination, Load},
    level::Level,
    limits::OPEN_CONCURRENCY,
};

/// Names that `$(NAME)` may have beside parameters.
pub const NAMES: [&str; 12] = [
    "model",
    "gpus",
    "tensorParallel",
    "pipelineParallel",
    "dataParallel",
    "dtype",
    "port",
    "maxLength",
    "maxConcurrency",
    "totalLength",
    "cpus",
    "serverThreads",
];

/// Names that a text in a request's body may be, as `$(NAME)`, beside parameters.
pub const REQUEST_NAMES: [&str; 3] = ["inputLength", "outputLength", "prefixCache"];

/// The model, port and sizes that a server is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The model's folder or file.
    pub model: String,
    /// The port to listen on.
    pub port: u16,
    /// Tokens of a sequence, input and output, at most.
    pub max_length: u32,
    /// Requests at once, at most.
    pub max_concurrency: u32,
    /// CPUs that the server may use.
    pub cpus: u32,
}

/// How a server is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Environment variables, in the order in which they are set.
    pub env: Vec<(String, String)>,
}

/// The command line of a server for a combination.
///
/// # Errors
/// Where the server does not have the data type, or nobody says what its program is.
pub fn command_line(
    server: &Server,
    combination: &Combination,
    place: &Place,
) -> Result<CommandLine, String> {
    let row = server.preset.row();
    let dtype = row.dtype(combination.dtype)?;
    let values = values(combination, place, dtype);
    let own = own_arguments(server, combination, &values);
    let mut argv: Vec<String> = if server.command.is_empty() {
        if row.command.is_empty() {
            return Err(format!(
                "nobody says what program to start for {}: give server.command",
                row.title
            ));
        }
        substitute_all(row.command.iter().copied(), &values)
    } else {
        substitute_all(server.command.iter().map(String::as_str), &values)
    };
    // Users who name the program themselves give its first arguments with it; one they have given is not given again.
    let given: Vec<&str> = argv[1..]
        .iter()
        .chain(&own)
        .map(|arg| name_of(arg))
        .collect();
    let mut known = Vec::new();
    for argument in row.args {
        let is_given = argument.names.iter().any(|name| given.contains(name));
        if !is_given && applies(argument, combination) {
            known.push(argument.names[0].to_owned());
            known.extend(argument.value.and_then(|value| substitute(value, &values)));
        }
    }
    argv.extend(known);
    argv.extend(own);
    let preset = row.env.iter();
    let preset = preset.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let given = server
        .env
        .iter()
        .filter_map(|Variable { name, value }| Some((name.clone(), substitute(value, &values)?)));
    let parameters = combination.environment();
    let parameters = parameters.map(|(name, value)| (name.to_owned(), value));
    Ok(CommandLine {
        argv,
        env: preset.chain(given).chain(parameters).collect(),
    })
}

/// The members of a request's body beside `model`, `prompt`, `max_tokens`, `temperature` and `stream`.
#[must_use]
pub fn request_members(interface: &Interface, combination: &Combination) -> Map<String, Value> {
    let of_name = |name: &str| match name {
        "inputLength" => Some(combination.input_length.into()),
        "outputLength" => Some(combination.output_length.into()),
        "prefixCache" => Some(combination.prefix_share.is_some().into()),
        parameter => Some(json(&combination.parameters.get(parameter)?.level)),
    };
    let members = interface.request.iter().filter_map(|(name, value)| {
        let value = match value.as_str().and_then(reference) {
            Some(reference) => of_name(reference)?,
            None => value.clone(),
        };
        Some((name.clone(), value))
    });
    let fields = combination.parameters.values();
    let fields = fields
        .filter(|setting| !setting.field.is_empty())
        .map(|setting| (setting.field.clone(), json(&setting.level)));
    members.chain(fields).collect()
}

/// The requests that a server is to take at once for this load.
#[must_use]
pub fn concurrency(combination: &Combination) -> u32 {
    match combination.load() {
        Load::Batch(sequences) => sequences,
        Load::Concurrency(streams) => streams.max(combination.batch_size),
        Load::Rate(_) => OPEN_CONCURRENCY,
        Load::Search(search) => search.requests_at_once(),
    }
}

/// The names that stand as `$(NAME)` in a text, in its order; `$$(NAME)` is none.
pub fn references(text: &str) -> impl Iterator<Item = &str> {
    pieces(text).filter_map(|piece| match piece {
        Piece::Name(name) => Some(name),
        Piece::Text(_) => None,
    })
}

/// The name that a text is, where it is nothing but `$(NAME)`.
fn reference(text: &str) -> Option<&str> {
    text.strip_prefix("$(")?.strip_suffix(')')
}

/// A level as a member of a request's body.
fn json(level: &Level) -> Value {
    serde_json::to_value(level).unwrap_or_default()
}

fn values(combination: &Combination, place: &Place, dtype: &str) -> BTreeMap<String, String> {
    let own = [
        ("model", place.model.clone()),
        ("gpus", combination.gpus.to_string()),
        (
            "tensorParallel",
            combination.tensor_parallel().unwrap_or(1).to_string(),
        ),
        (
            "pipelineParallel",
            combination.pipeline_parallel.to_string(),
        ),
        ("dataParallel", combination.data_parallel.to_string()),
        ("dtype", dtype.to_owned()),
        ("port", place.port.to_string()),
        ("maxLength", place.max_length.to_string()),
        ("maxConcurrency", place.max_concurrency.to_string()),
        (
            "totalLength",
            place
                .max_length
                .saturating_mul(place.max_concurrency)
                .to_string(),
        ),
        ("cpus", place.cpus.to_string()),
        (
            "serverThreads",
            server_threads(place.cpus, combination.gpus).to_string(),
        ),
    ];
    let own = own.map(|(name, value)| (name.to_owned(), value));
    let parameters = combination.parameters.iter();
    let parameters = parameters.map(|(name, setting)| (name.clone(), setting.level.to_string()));
    parameters.chain(own).collect()
}

/// The threads that a server's arithmetic may have: as many as there are CPUs, but for one where they do the work. The
/// client reads on that one; where it has none it stamps late, and its trials are invalid.
fn server_threads(cpus: u32, gpus: u32) -> u32 {
    match gpus {
        0 => cpus.saturating_sub(1).max(1),
        _ => cpus,
    }
}

/// The spec's arguments and the parameters that are flags.
fn own_arguments(
    server: &Server,
    combination: &Combination,
    values: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut own = substitute_all(server.args.iter().map(String::as_str), values);
    for setting in combination.parameters.values() {
        if setting.flag.is_empty() {
            continue;
        }
        match &setting.level {
            Level::Boolean(true) => own.push(setting.flag.clone()),
            Level::Boolean(false) => {}
            level => own.extend([setting.flag.clone(), level.to_string()]),
        }
    }
    own
}

fn applies(argument: &Argument, combination: &Combination) -> bool {
    match argument.when {
        When::Always => true,
        When::Gpu => combination.gpus > 0,
        When::NoPrefixCache => combination.prefix_share.is_none(),
        When::Above1("tensorParallel") => combination.tensor_parallel() > Some(1),
        When::Above1("pipelineParallel") => combination.pipeline_parallel > 1,
        When::Above1(_) => combination.data_parallel > 1,
    }
}

/// The name of an argument: what stands before `=`.
fn name_of(argument: &str) -> &str {
    argument.split_once('=').map_or(argument, |(name, _)| name)
}

/// Arguments with the values that their names stand for. One that names a parameter without a level is left out, with
/// the name of the option before it whose value it is.
fn substitute_all<'a>(
    arguments: impl Iterator<Item = &'a str>,
    values: &BTreeMap<String, String>,
) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for argument in arguments {
        match substitute(argument, values) {
            Some(argument) => kept.push(argument),
            None if !argument.starts_with('-') => {
                kept.pop_if(|before| before.starts_with('-') && !before.contains('='));
            }
            None => {}
        }
    }
    kept
}

/// A text with the values that its names stand for; none where one has no value.
fn substitute(text: &str, values: &BTreeMap<String, String>) -> Option<String> {
    pieces(text)
        .map(|piece| match piece {
            Piece::Text(text) => Some(text),
            Piece::Name(name) => values.get(name).map(String::as_str),
        })
        .collect()
}

#[derive(Clone, Copy)]
enum Piece<'a> {
    Text(&'a str),
    Name(&'a str),
}

/// Splits a text where `$(NAME)` stands; `$$(` is the text `$(`, as Kubernetes has it.
fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if let Some(after) = rest.strip_prefix("$$(") {
            let escaped = &rest[1..3];
            rest = after;
            return Some(Piece::Text(escaped));
        }
        if let Some((name, after)) = rest
            .strip_prefix("$(")
            .and_then(|rest| rest.split_once(')'))
        {
            rest = after;
            return Some(Piece::Name(name));
        }
        let first = rest.chars().next().map_or(0, char::len_utf8);
        let end = rest[first..].find('$').map_or(rest.len(), |at| first + at);
        let (text, after) = rest.split_at(end);
        rest = after;
        Some(Piece::Text(text))
    })
}
