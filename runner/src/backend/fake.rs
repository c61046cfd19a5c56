//! For tests: an engine that is another program, a shell that works, holds memory, starts processes of its own and dies
//! as it is told to.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use super::{Backend, BackendError, Batch, Description, Room, SequenceTimes, Served, Setup};
use crate::{
    machine::processes::Processes,
    process::child::{Child, Reply},
};

/// The engine's name.
pub const ENGINE: &str = "fake";
/// MiB that it holds.
pub const HELD_MIB: f64 = 48.0;

const PATIENCE: Duration = Duration::from_secs(60);
/// Of every request, the numbers of sequences and of tokens, a line for every token of every sequence; each is worked
/// for by a process that has ended when the line is there.
const SCRIPT: &str = r#"
work() { i=0; while [ $i -lt 4000 ]; do i=$((i+1)); done; }
read start
held=$(head -c 50331648 /dev/zero | tr '\0' x)
echo ready
while read sequences tokens; do
    requests=$((requests+1))
    if [ "$requests" = "$DIES_AT" ]; then
        echo "the fake engine was told to die" >&2
        sleep 0.3
        eval "$DIES_SO"
    fi
    left=$((sequences*tokens))
    while [ $left -gt 0 ]; do
        left=$((left-1))
        (work)
        echo token
    done
done
"#;

/// The engine.
pub struct Fake {
    child: Child,
    description: Description,
    processes: Processes,
    room: Room,
}

/// One that works as long as it is asked to.
///
/// # Errors
/// Where there is no shell.
pub fn start(setup: &Setup<'_>) -> Result<Box<dyn Backend>, BackendError> {
    started(setup, None, "")
}

/// One that exits at its second request.
///
/// # Errors
/// Where there is no shell.
pub fn start_to_exit(setup: &Setup<'_>) -> Result<Box<dyn Backend>, BackendError> {
    started(setup, None, "exit 3")
}

/// One that is killed at its second request, when it holds all memory that there is.
///
/// # Errors
/// Where there is no shell.
pub fn start_to_be_killed(setup: &Setup<'_>) -> Result<Box<dyn Backend>, BackendError> {
    started(setup, Some(HELD_MIB as u64 * (1 << 20)), "kill -9 $$")
}

fn started(
    setup: &Setup<'_>,
    memory: Option<u64>,
    dies_so: &str,
) -> Result<Box<dyn Backend>, BackendError> {
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT]).env("DIES_SO", dies_so);
    command.env("DIES_AT", if dies_so.is_empty() { "never" } else { "2" });
    let began = Instant::now();
    let mut child = Child::spawn(command, memory)
        .map_err(|error| BackendError::invalid(format!("sh: {error}")))?;
    answer(child.ask("start", PATIENCE, |line| (line == "ready").then_some(())))?;
    Ok(Box::new(Fake {
        description: Description {
            engine: ENGINE.into(),
            version: "sh".into(),
            mode: "slow".into(),
            load: began.elapsed(),
            threads: 1,
            ..Description::default()
        },
        processes: Processes::below([child.id()]),
        room: setup.room,
        child,
    }))
}

fn answer<T>(reply: Reply<T>) -> Result<T, BackendError> {
    match reply {
        Reply::Answer(answer) => Ok(answer),
        Reply::Exited(status) => Err(BackendError::exited(ENGINE, &status)),
        Reply::Overdue => Err(BackendError::invalid("the fake engine hangs".into())),
        Reply::Interrupted => Err(BackendError::invalid("interrupted".into())),
    }
}

impl Backend for Fake {
    fn description(&self) -> &Description {
        &self.description
    }

    fn processes(&self) -> Processes {
        self.processes.clone()
    }

    fn room(&self) -> Room {
        self.room
    }

    fn serve(&mut self, batch: &Batch<'_>) -> Result<Served, BackendError> {
        let Batch { prompts, output } = *batch;
        let started = Instant::now();
        let mut ends = Vec::new();
        let request = format!("{} {output}", prompts.len());
        answer(self.child.ask(&request, PATIENCE, |line| {
            ends.extend((line == "token").then(|| started.elapsed()));
            (ends.len() == prompts.len() * output).then_some(())
        }))?;
        // Token after token, each of one sequence after the other.
        let of_sequence = |first: usize| SequenceTimes {
            count: 1,
            token_ends: ends
                .iter()
                .copied()
                .skip(first)
                .step_by(prompts.len())
                .collect(),
        };
        Ok(Served {
            started,
            sequences: (0..prompts.len()).map(of_sequence).collect(),
            ids: None,
            exchanges: Vec::new(),
            lag: None,
        })
    }
}
