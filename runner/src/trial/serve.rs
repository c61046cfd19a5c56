//! `inferbench trial`: the process that measures. Reads requests from standard input until it is closed, stores each
//! record itself, and answers on standard output; a sweep starts it.

use std::{
    fs,
    io::{self, BufRead, Write},
    path::Path,
    sync::{Arc, mpsc},
    time::Duration,
};

use inferbench_crds::{exit_code::is_permanent, layout::log_path};
use inferbench_engine::{ceilings::Ceilings, threads};
use inferbench_results::{
    key::trial_key,
    record::{Outcome, TrialRecord},
};

use super::{
    clock::Clock,
    protocol::{Answer, Ask, Measure, TrialRequest},
    recording,
    session::{Finder, NoRecord, Session},
};
use crate::{
    process::{
        exit::Exit,
        fault::{self, Work},
        signals,
    },
    store::{Store, records::store_record},
};

/// Serves requests. The exit code is that of the last trial: of interest where there is one only, as in a Job.
pub fn run() -> Exit {
    signals::exit_on_signal();
    let threads = threads::init(None);
    let mut session = Session::new(threads);
    let mut exit = Exit::Ok;
    for line in io::stdin().lock().lines() {
        let ask = line
            .map_err(|error| error.to_string())
            .and_then(|line| serde_json::from_str::<Ask>(&line).map_err(|error| error.to_string()));
        let answer = match ask {
            Err(error) => {
                eprintln!("inferbench trial: the request on standard input: {error}");
                return Exit::BadRequest;
            }
            Ok(Ask::Ceilings { dtype, shape, gpus }) => {
                fault::strike(Work::Ceilings);
                match session.ceilings(dtype, &shape, gpus) {
                    Ok(ceilings) => Answer::Ceilings(ceilings),
                    Err(error) => Answer::Failed {
                        message: format!("ceilings: {error}"),
                        permanent: false,
                    },
                }
            }
            Ok(Ask::Trial(ask)) => {
                let (answer, code) = serve(&mut session, &ask);
                exit = code;
                answer
            }
        };
        say(&answer);
    }
    exit
}

/// Measures a trial under the eyes of a watchdog, which stores a time-out and ends the process when time is over.
fn serve(session: &mut Session, ask: &Measure) -> (Answer, Exit) {
    let store = match Store::at(&ask.trial.store) {
        Ok(store) => Arc::new(store),
        Err(error) => return failed(format!("{error:#}"), Exit::BadStore),
    };
    // The record names them, whatever it will be; where there are too few, the trial itself says so.
    let combination = &ask.trial.request.combination;
    let _ = session.find_gpus(combination.gpus, Finder::of(combination));
    let clock = Arc::new(Clock::start(Duration::from_millis(ask.trial.timeout_ms)));
    let (done, watched) = mpsc::channel::<()>();
    let watchdog = {
        let (clock, store, ask) = (Arc::clone(&clock), Arc::clone(&store), ask.trial.clone());
        let (machine, process) = (session.machine().clone(), session.process_id().to_owned());
        std::thread::spawn(move || {
            let waited = watched.recv_timeout(clock.left());
            if waited != Err(mpsc::RecvTimeoutError::Timeout) || !clock.settle() {
                return;
            }
            let record = recording::unmeasured(
                &ask,
                &machine,
                &process,
                &clock.started_at,
                Outcome::TimedOut,
                clock.message(),
            );
            let (answer, exit) = put(&store, &record, None);
            say(&answer);
            // The trial's thread cannot be stopped but with the process.
            std::process::exit(i32::from(exit.code()));
        })
    };
    fault::strike(Work::Trial(ask.trial.trial_index));
    let result = session.run(ask, &clock, &|| false);
    if !clock.settle() {
        // The watchdog was faster; it ends the process.
        let _ = watchdog.join();
    }
    drop(done);
    if let Some(log) = session.server_log() {
        keep_log(&store, log, &ask.trial);
    }
    match result {
        Ok(record) => put(&store, &record, session.take_renewed_ceilings()),
        Err(NoRecord::Failed {
            message,
            permanent: true,
        }) => failed(message, Exit::BadModel),
        Err(NoRecord::Failed {
            message,
            permanent: false,
        }) => failed(message, Exit::Failed),
        Err(NoRecord::Interrupted) => failed("interrupted".into(), Exit::Failed),
    }
}

/// Keeps beside the records all that a server has written so far.
fn keep_log(store: &Store, log: &Path, trial: &TrialRequest) {
    let key = trial_key(&trial.request, trial.attempt);
    let kept = fs::read(log)
        .map_err(|error| error.to_string())
        .and_then(|text| {
            store
                .put(&log_path(&key), &text)
                .map_err(|error| error.to_string())
        });
    if let Err(error) = kept {
        eprintln!("inferbench trial: the server's log is not kept: {error}");
    }
}

/// Stores a record. One that is there already wins.
fn put(store: &Store, record: &TrialRecord, ceilings: Option<Ceilings>) -> (Answer, Exit) {
    let key = record.trial_key.clone();
    match store_record(store, record) {
        Ok(()) => (Answer::Stored { key, ceilings }, Exit::Ok),
        Err(message) => failed(message, Exit::Failed),
    }
}

fn failed(message: String, exit: Exit) -> (Answer, Exit) {
    let permanent = is_permanent(i32::from(exit.code()));
    eprintln!("inferbench trial: {message}");
    (Answer::Failed { message, permanent }, exit)
}

fn say(answer: &Answer) {
    let Ok(line) = serde_json::to_string(answer) else {
        return;
    };
    let mut out = io::stdout().lock();
    // Whoever does not listen any more has gone, and this process goes with it.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
