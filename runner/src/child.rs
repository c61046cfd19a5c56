//! The parent's side of a measuring process: starts it, talks to it, and makes out what became of it when it dies.

use std::{
    collections::VecDeque,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child as Process, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use inferbench_crds::{contract::REQUESTS_VARIABLE, exit_code};

use crate::{
    cgroup::Cgroup,
    gpu,
    machine::{Machine, kib_line},
    protocol::{Answer, Ask},
    signals,
};

/// Lines of a child's standard error that are kept, and those of them that a message quotes.
const KEPT_LINES: usize = 200;
const QUOTED_LINES: usize = 8;
/// How long a child that was told to end has until it is killed.
const GRACE: Duration = Duration::from_secs(2);
/// How often a waiting parent looks up.
const LOOK_UP: Duration = Duration::from_millis(100);

/// A measuring process.
#[derive(Debug)]
pub struct Child {
    process: Process,
    requests: Option<ChildStdin>,
    answers: Receiver<String>,
    complaints: Arc<Mutex<VecDeque<String>>>,
    readers: Vec<JoinHandle<()>>,
    kills_before: Kills,
    peak_rss: Option<u64>,
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// The child answered.
    Answer(Answer),
    /// The child died without an answer.
    Died(Death),
    /// The child did not end in time, and was ended.
    Overdue,
    /// Ctrl-C or SIGTERM arrived; the child was ended.
    Interrupted,
}

/// How a child died, and what speaks for a lack of memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Death {
    /// Its exit code, if it exited.
    pub code: Option<i32>,
    /// The signal, if one killed it.
    pub signal: Option<i32>,
    /// The end of its standard error.
    pub complaints: String,
    /// Whether the kernel has killed for memory meanwhile, in this control group or, where that cannot be seen,
    /// anywhere on the machine.
    pub oom_kill_seen: bool,
    /// Its last known peak of resident memory, in bytes.
    pub peak_rss: Option<u64>,
    /// The memory there is, in bytes.
    pub memory: Option<u64>,
}

/// What a death means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Memory did not suffice: a measurement.
    OutOfMemory(String),
    /// It broke.
    Failed {
        /// How, with the end of its standard error.
        message: String,
        /// Whether trying again cannot help.
        permanent: bool,
    },
}

impl Death {
    /// What the death means. A kill (signal 9, or exit code 137 through a shell) is for memory when the kernel says
    /// so, or when the process filled nine tenths of what there is; an abort is, when the allocator said so last.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let killed = self.signal == Some(libc::SIGKILL) || self.code == Some(exit_code::KILLED);
        let filled = self
            .peak_rss
            .zip(self.memory)
            .is_some_and(|(rss, all)| rss / 9 >= all / 10);
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        if killed && (self.oom_kill_seen || filled) {
            let used = self.peak_rss.map_or(String::new(), |rss| {
                format!(" when it used {:.2} GiB", gib(rss))
            });
            let all = self
                .memory
                .map_or(String::new(), |all| format!(" of {:.2} GiB", gib(all)));
            return Verdict::OutOfMemory(format!("killed for want of memory{used}{all}"));
        }
        if let Some(line) =
            self.complaints.lines().rev().find(|line| {
                line.starts_with("memory allocation of") && line.ends_with("bytes failed")
            })
            && self.signal == Some(libc::SIGABRT)
        {
            return Verdict::OutOfMemory(line.to_owned());
        }
        let how = match (self.code, self.signal) {
            (_, Some(signal)) => format!("the measuring process was ended by signal {signal}"),
            (Some(code), _) => format!("the measuring process exited with {code}"),
            (None, None) => "the measuring process ended".into(),
        };
        let why = if self.complaints.is_empty() {
            String::new()
        } else {
            format!("; it said: {}", self.complaints)
        };
        let permanent = self.code.is_some_and(exit_code::is_permanent);
        Verdict::Failed {
            message: format!("{how}{why}"),
            permanent,
        }
    }
}

impl Child {
    /// Starts this program again as `inferbench trial`, or the one that measures on so many GPUs. It ends with its
    /// parent, whatever ends that, and the kernel takes it first when memory runs out.
    ///
    /// # Errors
    /// Where no process can be started.
    pub fn start(gpus: u32) -> io::Result<Self> {
        let program = match gpu::program(gpus).map_err(io::Error::other)? {
            Some(program) => program,
            // The file itself: its name may meanwhile belong to a newer build.
            None if cfg!(target_os = "linux") => "/proc/self/exe".into(),
            None => std::env::current_exe()?,
        };
        let mut command = Command::new(program);
        command.arg0("inferbench").arg("trial");
        // The same GPUs for the same number of them, whatever their speeds.
        command.env("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // The requests of a pod are its parent's.
        command.env_remove(REQUESTS_VARIABLE);
        // A group of its own: Ctrl-C is the parent's to handle.
        command.process_group(0);
        let parent = std::process::id();
        // SAFETY: prctl and getppid are async-signal-safe and touch no memory.
        unsafe {
            command.pre_exec(move || {
                #[cfg(target_os = "linux")]
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                // The parent may have died before that took effect.
                if libc::getppid().cast_unsigned() != parent {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                Ok(())
            });
        }
        let kills_before = Kills::count();
        let mut process = command.spawn()?;
        let _ = fs::write(format!("/proc/{}/oom_score_adj", process.id()), "1000");

        let (said, answers) = mpsc::channel();
        let complaints = Arc::new(Mutex::new(VecDeque::new()));
        let mut readers = Vec::new();
        if let Some(out) = process.stdout.take() {
            readers.push(std::thread::spawn(move || {
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    if said.send(line).is_err() {
                        break;
                    }
                }
            }));
        }
        if let Some(err) = process.stderr.take() {
            let kept = Arc::clone(&complaints);
            readers.push(std::thread::spawn(move || keep_last_lines(err, &kept)));
        }
        let requests = process.stdin.take();
        Ok(Self {
            process,
            requests,
            answers,
            complaints,
            readers,
            kills_before,
            peak_rss: None,
        })
    }

    /// Makes a request and waits for the answer, at most so long. After anything but an answer the child is gone.
    pub fn ask(&mut self, ask: &Ask, patience: Duration, machine: &Machine) -> Reply {
        let deadline = Instant::now() + patience;
        let sent = serde_json::to_string(ask)
            .map_err(io::Error::from)
            .and_then(|line| {
                let pipe = self.requests.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
                writeln!(pipe, "{line}")?;
                pipe.flush()
            });
        if sent.is_err() {
            return Reply::Died(self.bury(machine));
        }
        loop {
            match self.answers.recv_timeout(LOOK_UP) {
                // Only answers count, should a library ever print.
                Ok(line) => {
                    if let Ok(answer) = serde_json::from_str(&line) {
                        return Reply::Answer(answer);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Reply::Died(self.bury(machine)),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if signals::interrupted() {
                self.end();
                return Reply::Interrupted;
            }
            if Instant::now() >= deadline {
                self.end();
                return Reply::Overdue;
            }
            self.peak_rss = peak_rss(self.process.id()).or(self.peak_rss);
        }
    }

    /// Lets the child end by itself: it has no more requests to wait for.
    pub fn close(mut self) {
        drop(self.requests.take());
        let patience = Instant::now() + GRACE;
        while Instant::now() < patience {
            if matches!(self.process.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.end();
    }

    /// Ends the child: politely first.
    fn end(&mut self) {
        drop(self.requests.take());
        if let Ok(pid) = i32::try_from(self.process.id())
            && matches!(self.process.try_wait(), Ok(None))
        {
            // SAFETY: sends a signal to our own child, which has not been waited for, so the number is still its.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
        let patience = Instant::now() + GRACE;
        while Instant::now() < patience {
            if matches!(self.process.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// How the child, whose output has ended, died.
    fn bury(&mut self, machine: &Machine) -> Death {
        drop(self.requests.take());
        let patience = Instant::now() + GRACE;
        let status: Option<ExitStatus> = loop {
            match self.process.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if Instant::now() < patience => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                // It closed its output and lives on.
                Ok(None) => {
                    let _ = self.process.kill();
                    break self.process.wait().ok();
                }
                Err(_) => break None,
            }
        };
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        let mut complaints = self
            .complaints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Death {
            code: status.and_then(|status| status.code()),
            signal: status.and_then(|status| status.signal()),
            complaints: quote(complaints.make_contiguous()),
            oom_kill_seen: Kills::count().more_than(&self.kills_before),
            peak_rss: self.peak_rss,
            memory: machine.memory,
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}

/// What is worth quoting of a dead process' standard error: the panic, if it was one, else the end.
fn quote(lines: &[String]) -> String {
    let panic = lines
        .iter()
        .rposition(|line| line.contains(" panicked at "));
    match panic {
        Some(at) => lines[at..]
            .iter()
            .take(2)
            .cloned()
            .collect::<Vec<_>>()
            .join(" "),
        None => lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n"),
    }
}

/// How often the kernel has killed for memory.
#[derive(Clone, Copy, Debug)]
struct Kills {
    group: Option<u64>,
    machine: Option<u64>,
}

impl Kills {
    fn count() -> Self {
        let vmstat = fs::read_to_string("/proc/vmstat").unwrap_or_default();
        let line = vmstat
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill "));
        Self {
            group: Cgroup::of_this_process().oom_kills(),
            machine: line.and_then(|count| count.trim().parse().ok()),
        }
    }

    /// The group's count speaks of this child for certain, the machine's of some process; a group without a limit
    /// is not where the kernel counts a kill by the machine's own shortage, so either will do.
    fn more_than(&self, before: &Self) -> bool {
        let more = |now: Option<u64>, then: Option<u64>| now.zip(then).is_some_and(|(a, b)| a > b);
        more(self.group, before.group) || more(self.machine, before.machine)
    }
}

fn keep_last_lines(from: impl Read, kept: &Mutex<VecDeque<String>>) {
    for line in BufReader::new(from).lines().map_while(Result::ok) {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT_LINES {
            kept.pop_front();
        }
        kept.push_back(line.chars().take(500).collect());
    }
}

/// The peak of another process' resident memory, in bytes.
fn peak_rss(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    kib_line(&status, "VmHWM:")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn killed() -> Death {
        Death {
            signal: Some(9),
            memory: Some(16 * GIB),
            ..Death::default()
        }
    }

    #[test]
    fn a_kill_with_evidence_is_for_want_of_memory() {
        let seen = Death {
            oom_kill_seen: true,
            peak_rss: Some(3 * GIB),
            ..killed()
        };
        assert_eq!(
            seen.verdict(),
            Verdict::OutOfMemory(
                "killed for want of memory when it used 3.00 GiB of 16.00 GiB".into()
            )
        );
        let full = Death {
            peak_rss: Some(15 * GIB),
            ..killed()
        };
        assert!(matches!(full.verdict(), Verdict::OutOfMemory(_)));
        let shell = Death {
            code: Some(137),
            signal: None,
            oom_kill_seen: true,
            ..killed()
        };
        assert!(matches!(shell.verdict(), Verdict::OutOfMemory(_)));
    }

    #[test]
    fn a_kill_without_is_a_failure() {
        let small = Death {
            peak_rss: Some(GIB),
            ..killed()
        };
        let message = "the measuring process was ended by signal 9".into();
        assert_eq!(
            small.verdict(),
            Verdict::Failed {
                message,
                permanent: false
            }
        );
    }

    #[test]
    fn the_allocators_last_words_count_with_an_abort_only() {
        let words = "memory allocation of 8589934592 bytes failed";
        let abort = Death {
            signal: Some(6),
            complaints: format!("hello\n{words}"),
            ..Death::default()
        };
        assert_eq!(abort.verdict(), Verdict::OutOfMemory(words.into()));
        let exit = Death {
            code: Some(1),
            signal: None,
            ..abort
        };
        assert!(matches!(exit.verdict(), Verdict::Failed { .. }));
    }

    #[test]
    fn the_panic_is_quoted_or_else_the_end() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let panic = "one\nthread 'main' (7) panicked at src/a.rs:1:2:\nno such thing\nstack backtrace:\n 0: f";
        assert_eq!(
            quote(&lines(panic)),
            "thread 'main' (7) panicked at src/a.rs:1:2: no such thing"
        );
        let long: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        assert_eq!(quote(&long), "12\n13\n14\n15\n16\n17\n18\n19");
    }

    #[test]
    fn failures_quote_the_child_and_know_what_is_permanent() {
        let exit = |code| Death {
            code: Some(code),
            complaints: "no".into(),
            ..Death::default()
        };
        let message = "the measuring process exited with 65; it said: no".into();
        assert_eq!(
            exit(65).verdict(),
            Verdict::Failed {
                message,
                permanent: true
            }
        );
        assert!(matches!(
            exit(1).verdict(),
            Verdict::Failed {
                permanent: false,
                ..
            }
        ));
    }
}
