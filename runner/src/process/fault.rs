//! Faults on demand, for tests of what a sweep makes of them: `INFERBENCH_FAULT=abort@trial:3` lets trial 3 end so.
//!
//! The kinds are `abort`, `kill` (as the kernel does for want of memory), `oom` (as the allocator does), `panic`,
//! `hang`, and `exit:CODE`. Not for anything but tests.

use std::{io::Write, time::Duration};

/// The variable.
pub const VARIABLE: &str = "INFERBENCH_FAULT";

/// A fault in one trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fault {
    kind: Kind,
    trial: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Abort,
    Kill,
    Oom,
    Panic,
    Hang,
    Exit(i32),
}

/// Does to this process what the variable says of the trial; nothing where it is not set.
pub fn strike(trial: u32) {
    let fault = std::env::var(VARIABLE).ok().and_then(|text| parse(&text));
    let Some(fault) = fault.filter(|fault| fault.trial == trial) else {
        return;
    };
    match fault.kind {
        Kind::Abort => std::process::abort(),
        Kind::Kill => loop {
            // SAFETY: sends a signal to this process, nothing more.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        },
        Kind::Oom => {
            // The words of the standard library's handler.
            let _ = writeln!(
                std::io::stderr(),
                "memory allocation of 8796093022208 bytes failed"
            );
            std::process::abort()
        }
        Kind::Panic => panic!("a fault was asked for"),
        Kind::Hang => std::thread::sleep(Duration::from_secs(86_400)),
        Kind::Exit(code) => std::process::exit(code),
    }
}

fn parse(text: &str) -> Option<Fault> {
    let (kind, trial) = text.split_once("@trial:")?;
    let kind = match kind {
        "abort" => Kind::Abort,
        "kill" => Kind::Kill,
        "oom" => Kind::Oom,
        "panic" => Kind::Panic,
        "hang" => Kind::Hang,
        other => Kind::Exit(other.strip_prefix("exit:")?.parse().ok()?),
    };
    Some(Fault {
        kind,
        trial: trial.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read() {
        assert_eq!(
            parse("abort@trial:3"),
            Some(Fault {
                kind: Kind::Abort,
                trial: 3
            })
        );
        assert_eq!(
            parse("exit:64@trial:0"),
            Some(Fault {
                kind: Kind::Exit(64),
                trial: 0
            })
        );
        assert_eq!(parse("abort"), None);
        assert_eq!(parse("burn@trial:3"), None);
    }
}
