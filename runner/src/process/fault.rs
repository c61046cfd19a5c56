//! Faults on demand, for tests of what a sweep makes of them: `INFERBENCH_FAULT=abort@trial:3` lets trial 3 end so, and
//! `oom@ceilings` the measuring of the ceilings.
//!
//! The kinds are `abort`, `kill` (as the kernel does for want of memory), `oom` (as the allocator does), `panic`,
//! `hang`, and `exit:CODE`. Not for anything but tests.

use std::{io::Write, time::Duration};

/// The variable.
pub const VARIABLE: &str = "INFERBENCH_FAULT";

/// A piece of work that a fault may strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// The trial with this index.
    Trial(u32),
    /// The ceilings.
    Ceilings,
}

/// A fault in one piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fault {
    kind: Kind,
    at: Work,
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

/// Does to this process what the variable says of the work; nothing where it is not set.
pub fn strike(work: Work) {
    let fault = std::env::var(VARIABLE).ok().and_then(|text| parse(&text));
    let Some(fault) = fault.filter(|fault| fault.at == work) else {
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
    let (kind, at) = text.split_once('@')?;
    let at = match at.strip_prefix("trial:") {
        Some(trial) => Work::Trial(trial.parse().ok()?),
        None if at == "ceilings" => Work::Ceilings,
        None => return None,
    };
    let kind = match kind {
        "abort" => Kind::Abort,
        "kill" => Kind::Kill,
        "oom" => Kind::Oom,
        "panic" => Kind::Panic,
        "hang" => Kind::Hang,
        other => Kind::Exit(other.strip_prefix("exit:")?.parse().ok()?),
    };
    Some(Fault { kind, at })
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
                at: Work::Trial(3)
            })
        );
        assert_eq!(
            parse("exit:64@trial:0"),
            Some(Fault {
                kind: Kind::Exit(64),
                at: Work::Trial(0)
            })
        );
        assert_eq!(
            parse("oom@ceilings"),
            Some(Fault {
                kind: Kind::Oom,
                at: Work::Ceilings
            })
        );
        assert_eq!(parse("abort"), None);
        assert_eq!(parse("burn@trial:3"), None);
    }
}
