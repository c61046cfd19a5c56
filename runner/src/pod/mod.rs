//! The work of a cluster's pods: trials, the preflight before them, the looks between blocks where the design has `until`,
//! and the collection after them. Each reads what it is
//! asked for from a file (an annotation of its own pod) and leaves what it has to say in the termination message.

pub mod collection;
mod look;
pub mod preflight;
pub mod trials;

use std::{
    fs,
    path::{Path, PathBuf},
};

use inferbench_crds::{
    contract::{ERROR_BYTES, StoreAt, SweepRequest},
    spec::Model,
};
use serde::Serialize;

use crate::{
    models::{Need, Resolved, resolve},
    process::{exit::Exit, print_error},
    store::Store,
};

/// Names the file of the termination message, where it is another than Kubernetes' own.
pub const REPORT_VARIABLE: &str = "INFERBENCH_TERMINATION_LOG";
const REPORT_FILE: &str = "/dev/termination-log";

/// Why a pod ends before it has done what it was asked for.
#[derive(Debug)]
struct Broken {
    message: String,
    exit: Exit,
}

fn broken(message: impl ToString, exit: Exit) -> Broken {
    Broken {
        message: message.to_string(),
        exit,
    }
}

/// The request of a preflight or a collection.
fn read_sweep(requests: &Path) -> Result<SweepRequest, Broken> {
    let wrong = |what: &dyn std::fmt::Display| {
        broken(format!("{}: {what}", requests.display()), Exit::BadRequest)
    };
    let text = fs::read_to_string(requests).map_err(|error| wrong(&error))?;
    serde_json::from_str(&text).map_err(|error| wrong(&error))
}

fn open(at: &StoreAt) -> Result<Store, Broken> {
    Store::at(at).map_err(|error| broken(format!("{error:#}"), Exit::BadStore))
}

/// A model with all its files; what is wrong with it tells whether trying again can help.
fn load(model: &Model, seed: i64, pinned: Option<&str>) -> Result<Resolved, Broken> {
    resolve(model, seed, Need::Weights, pinned).map_err(|error| {
        let exit = if error.is_permanent() {
            Exit::BadModel
        } else {
            Exit::Failed
        };
        broken(error, exit)
    })
}

/// Leaves a termination message. It is for whoever looks: a pod that cannot has done its work all the same.
fn leave(report: &impl Serialize) {
    let file = std::env::var_os(REPORT_VARIABLE)
        .filter(|path| !path.is_empty())
        .map_or_else(|| PathBuf::from(REPORT_FILE), PathBuf::from);
    let written = serde_json::to_vec(report)
        .map_err(std::io::Error::from)
        .and_then(|bytes| fs::write(&file, bytes));
    if let Err(error) = written {
        print_error(&format!("{}: {error}", file.display()));
    }
}

/// As much of a message as there is room for, by its JSON form.
fn shortened(message: String) -> String {
    shortened_to(message, ERROR_BYTES)
}

/// As much of a message as takes no more than these bytes in JSON.
fn shortened_to(message: String, most: usize) -> String {
    let mut bytes = 0;
    let end = message.char_indices().find(|(_, c)| {
        bytes += match c {
            '"' | '\\' | '\n' | '\r' | '\t' => 2,
            c if c.is_control() => 6,
            c => c.len_utf8(),
        };
        bytes > most
    });
    match end {
        Some((end, _)) => message[..end].to_owned(),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use inferbench_crds::contract::{TERMINATION_MESSAGE_BYTES, TrialReport};

    use super::*;

    #[test]
    fn long_messages_are_cut_between_characters() {
        assert_eq!(shortened("short".into()), "short");
        for long in ["é".repeat(5000), "\n\"".repeat(5000), "\u{1}".repeat(5000)] {
            let report = TrialReport {
                outcomes: "1".repeat(1000),
                message: Some(shortened(long)),
                ..TrialReport::default()
            };
            let bytes = serde_json::to_vec(&report).unwrap().len();
            assert!(bytes <= TERMINATION_MESSAGE_BYTES, "{bytes}");
        }
    }
}
