//! A child process that is spoken to by lines: requests on its standard input, answers on its standard output. It is
//! watched while it works; when it ends, its exit status, its standard error and what the kernel says of memory tell
//! why.

use std::{
    collections::VecDeque,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child as Process, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use inferbench_crds::exit_code;
use inferbench_engine::host::Cgroup;

use super::{orphans, signals};
use crate::machine::{kib_line, size};

/// Lines of a child's standard error that are kept, and those of them that a message quotes.
const KEPT_LINES: usize = 200;
const QUOTED_LINES: usize = 8;
/// How long a child that was told to end has until it is killed.
pub const GRACE: Duration = Duration::from_secs(2);
/// How often a waiting parent looks up.
const LOOK_UP: Duration = Duration::from_millis(100);
/// How often it looks which processes descend from the child.
const LOOK_BELOW: Duration = Duration::from_secs(2);

/// A child process.
#[derive(Debug)]
pub struct Child {
    process: Process,
    requests: Option<ChildStdin>,
    answers: Receiver<String>,
    stderr: Arc<Mutex<VecDeque<String>>>,
    readers: Vec<JoinHandle<()>>,
    kills_before: Kills,
    peak_rss: Option<u64>,
    memory: Option<u64>,
    /// The processes that descended from it when that was looked at last: those that outlive it are its parent's to end,
    /// and some have written over all that would tell whose they are.
    below: Vec<u32>,
}

/// The reply to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply<T> {
    /// The child answered.
    Answer(T),
    /// The child ended without an answer.
    Exited(ExitStatus),
    /// The child did not answer in time, and was ended.
    Overdue,
    /// Ctrl-C or SIGTERM arrived; the child was ended.
    Interrupted,
}

/// How a child ended, and what speaks for a lack of memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExitStatus {
    /// Its exit code, if it exited.
    pub code: Option<i32>,
    /// The signal, if one killed it.
    pub signal: Option<i32>,
    /// The end of its standard error.
    pub stderr: String,
    /// Whether the kernel has killed for memory meanwhile, in this control group or, where that cannot be seen,
    /// anywhere on the machine.
    pub oom_kill_seen: bool,
    /// Its last known peak of resident memory, in bytes.
    pub peak_rss: Option<u64>,
    /// The memory there is, in bytes.
    pub memory: Option<u64>,
}

/// Why a child ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Memory did not suffice: a measurement.
    OutOfMemory(String),
    /// It broke.
    Failed {
        /// How, with the end of its standard error.
        message: String,
        /// Whether trying again cannot help, by this program's own exit codes.
        permanent: bool,
    },
}

impl ExitStatus {
    /// That of a process that has ended, without what it said.
    pub(super) fn of(
        status: Option<std::process::ExitStatus>,
        kills_before: &Kills,
        peak_rss: Option<u64>,
        memory: Option<u64>,
    ) -> Self {
        Self {
            code: status.and_then(|status| status.code()),
            signal: status.and_then(|status| status.signal()),
            stderr: String::new(),
            oom_kill_seen: Kills::count().more_than(kills_before),
            peak_rss,
            memory,
        }
    }

    /// Why the child ended, which messages call `name`. A kill (signal 9, or exit code 137 through a shell) is for
    /// memory when the kernel says so, or when the process filled nine tenths of what there is; an abort is, when the
    /// allocator said so last.
    #[must_use]
    pub fn cause(&self, name: &str) -> Cause {
        let killed = self.signal == Some(libc::SIGKILL) || self.code == Some(exit_code::KILLED);
        if killed && (self.oom_kill_seen || self.has_filled_memory()) {
            let known = self.known_of_memory();
            return Cause::OutOfMemory(format!("killed for want of memory{known}"));
        }
        if let Some(line) =
            self.stderr.lines().rev().find(|line| {
                line.starts_with("memory allocation of") && line.ends_with("bytes failed")
            })
            && self.signal == Some(libc::SIGABRT)
        {
            return Cause::OutOfMemory(line.to_owned());
        }
        let how = match (self.code, self.signal) {
            (_, Some(signal)) => format!("{name} was ended by signal {signal}"),
            (Some(code), _) => format!("{name} exited with {code}"),
            (None, None) => format!("{name} ended"),
        };
        let why = if self.stderr.is_empty() {
            String::new()
        } else {
            format!("; it said: {}", self.stderr)
        };
        let permanent = self.code.is_some_and(exit_code::is_permanent);
        Cause::Failed {
            message: format!("{how}{why}"),
            permanent,
        }
    }

    /// Whether it was seen to use nine tenths of the memory there is.
    fn has_filled_memory(&self) -> bool {
        let both = self.peak_rss.zip(self.memory);
        both.is_some_and(|(rss, all)| rss / 9 >= all / 10)
    }

    /// What is known of its memory, for the end of a sentence. It is looked at now and then only: a process that grows fast
    /// is killed long after it was seen with little.
    fn known_of_memory(&self) -> String {
        match (self.peak_rss, self.memory) {
            (Some(rss), Some(all)) if self.has_filled_memory() => {
                format!(" when it used {} of {}", size(rss), size(all))
            }
            (Some(rss), Some(all)) => {
                let (rss, all) = (size(rss), size(all));
                format!(": there is {all}, and the most that it was seen to use before is {rss}")
            }
            (Some(rss), None) => format!(": the most that it was seen to use is {}", size(rss)),
            (None, Some(all)) => format!(": there is {}", size(all)),
            (None, None) => String::new(),
        }
    }
}

impl Child {
    /// Starts a command. It ends with its parent, whatever ends that, and the kernel takes it first when `memory`, what
    /// there is in bytes, runs out.
    ///
    /// # Errors
    /// Where no process can be started.
    pub fn spawn(mut command: Command, memory: Option<u64>) -> io::Result<Self> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // A group of its own: Ctrl-C is the parent's to handle.
        command.process_group(0);
        die_with_parent(&mut command);
        let kills_before = Kills::count();
        let mut process = command.spawn()?;
        let _ = fs::write(format!("/proc/{}/oom_score_adj", process.id()), "1000");

        let (said, answers) = mpsc::channel();
        let stderr = Arc::new(Mutex::new(VecDeque::new()));
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
            let kept = Arc::clone(&stderr);
            readers.push(std::thread::spawn(move || keep_last_lines(err, &kept)));
        }
        let requests = process.stdin.take();
        Ok(Self {
            process,
            requests,
            answers,
            stderr,
            readers,
            kills_before,
            peak_rss: None,
            memory,
            below: Vec::new(),
        })
    }

    /// Its process number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Makes a request of one line and waits for the answer, at most so long: the first line that `accept` takes for
    /// one, should a library ever print. After anything but an answer the child is gone.
    pub fn ask<T>(
        &mut self,
        line: &str,
        patience: Duration,
        mut accept: impl FnMut(&str) -> Option<T>,
    ) -> Reply<T> {
        let deadline = Instant::now() + patience;
        let mut looked = Instant::now();
        if self.send(line).is_err() {
            return Reply::Exited(self.wait());
        }
        loop {
            match self.answers.recv_timeout(LOOK_UP) {
                Ok(line) => {
                    if let Some(answer) = accept(&line) {
                        return Reply::Answer(answer);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Reply::Exited(self.wait()),
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
            if looked.elapsed() >= LOOK_BELOW {
                self.below = orphans::descendants(self.process.id());
                looked = Instant::now();
            }
        }
    }

    fn send(&mut self, line: &str) -> io::Result<()> {
        let pipe = self.requests.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        writeln!(pipe, "{line}")?;
        pipe.flush()
    }

    /// Lets the child end by itself, in this time: it has no more requests to wait for.
    pub fn close(mut self, patience: Duration) {
        drop(self.requests.take());
        let patience = Instant::now() + patience;
        while Instant::now() < patience {
            if matches!(self.process.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.end();
    }

    /// Ends the child, politely first, and what it leaves behind.
    fn end(&mut self) {
        let lives = matches!(self.process.try_wait(), Ok(None));
        if lives {
            // Before its input ends, with which it may end at once.
            self.below = orphans::descendants(self.process.id());
        }
        drop(self.requests.take());
        if let Ok(pid) = i32::try_from(self.process.id())
            && lives
        {
            // SAFETY: sends a signal to our own child, which has not been waited for, so the number is still its.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
        self.await_end();
        orphans::end_among(&std::mem::take(&mut self.below));
    }

    fn await_end(&mut self) {
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

    /// Waits for the end of the child, whose output has ended.
    fn wait(&mut self) -> ExitStatus {
        drop(self.requests.take());
        let patience = Instant::now() + GRACE;
        let status: Option<std::process::ExitStatus> = loop {
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
        orphans::end_among(&std::mem::take(&mut self.below));
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        let mut stderr = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        ExitStatus {
            stderr: quote(stderr.make_contiguous()),
            ..ExitStatus::of(status, &self.kills_before, self.peak_rss, self.memory)
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
    }
}

/// Lets the process of a command be killed when this one, its parent, ends.
pub(super) fn die_with_parent(command: &mut Command) {
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
}

/// The part of an ended process' standard error that is worth quoting: the panic, if it was one, else the end.
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
pub(super) struct Kills {
    group: Option<u64>,
    machine: Option<u64>,
}

impl Kills {
    pub(super) fn count() -> Self {
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
pub(super) fn peak_rss(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    kib_line(&status, "VmHWM:")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const MEASURER: &str = "the measuring process";

    fn killed() -> ExitStatus {
        ExitStatus {
            signal: Some(9),
            memory: Some(16 * GIB),
            ..ExitStatus::default()
        }
    }

    #[test]
    fn a_kill_with_evidence_is_for_want_of_memory() {
        let seen = ExitStatus {
            oom_kill_seen: true,
            peak_rss: Some(3 * GIB),
            ..killed()
        };
        assert_eq!(
            seen.cause(MEASURER),
            Cause::OutOfMemory(
                "killed for want of memory: there is 16.00 GiB, and the most that it was seen to use before is 3.00 GiB"
                    .into()
            )
        );
        let full = ExitStatus {
            peak_rss: Some(15 * GIB),
            ..killed()
        };
        assert_eq!(
            full.cause(MEASURER),
            Cause::OutOfMemory(
                "killed for want of memory when it used 15.00 GiB of 16.00 GiB".into()
            )
        );
        let shell = ExitStatus {
            code: Some(137),
            signal: None,
            oom_kill_seen: true,
            ..killed()
        };
        assert!(matches!(shell.cause(MEASURER), Cause::OutOfMemory(_)));
    }

    #[test]
    fn what_is_known_of_memory_is_said_and_no_more() {
        let said = |peak_rss, memory| {
            let status = ExitStatus {
                oom_kill_seen: true,
                peak_rss,
                memory,
                ..killed()
            };
            match status.cause(MEASURER) {
                Cause::OutOfMemory(said) => said.replacen("killed for want of memory", "", 1),
                other => panic!("{other:?}"),
            }
        };
        let mib = |count: u64| Some(count << 20);
        assert_eq!(
            said(mib(31), mib(64)),
            ": there is 64 MiB, and the most that it was seen to use before is 31 MiB"
        );
        assert_eq!(said(mib(60), mib(64)), " when it used 60 MiB of 64 MiB");
        assert_eq!(
            said(mib(1_000), mib(1_024)),
            " when it used 1000 MiB of 1.00 GiB"
        );
        assert_eq!(
            said(mib(31), None),
            ": the most that it was seen to use is 31 MiB"
        );
        assert_eq!(said(None, mib(64)), ": there is 64 MiB");
        assert_eq!(said(None, None), "");
    }

    /// As vLLM's workers do: nothing that a process can be known by is left of its environment.
    #[test]
    fn what_a_child_has_started_ends_with_it_whatever_it_has_made_of_itself() {
        orphans::adopt();
        let mut command = Command::new("sh");
        command.args(["-c", "read x; env -i sleep 1000 & echo $!; read x; read x"]);
        let mut child = Child::spawn(command, None).unwrap();
        let patience = Duration::from_secs(30);
        let Reply::Answer(worker) = child.ask("begin", patience, |line| line.parse::<u32>().ok())
        else {
            panic!("no worker")
        };
        let lives = || std::path::Path::new(&format!("/proc/{worker}")).exists();
        assert!(lives());
        let overdue = child.ask("hang", Duration::ZERO, |_| None::<()>);
        assert!(matches!(overdue, Reply::Overdue), "{overdue:?}");
        assert!(!lives());
    }

    #[test]
    fn a_kill_without_is_a_failure() {
        let small = ExitStatus {
            peak_rss: Some(GIB),
            ..killed()
        };
        let message = "the measuring process was ended by signal 9".into();
        assert_eq!(
            small.cause(MEASURER),
            Cause::Failed {
                message,
                permanent: false
            }
        );
    }

    #[test]
    fn the_allocators_last_words_count_with_an_abort_only() {
        let words = "memory allocation of 8589934592 bytes failed";
        let abort = ExitStatus {
            signal: Some(6),
            stderr: format!("hello\n{words}"),
            ..ExitStatus::default()
        };
        assert_eq!(abort.cause(MEASURER), Cause::OutOfMemory(words.into()));
        let exit = ExitStatus {
            code: Some(1),
            signal: None,
            ..abort
        };
        assert!(matches!(exit.cause(MEASURER), Cause::Failed { .. }));
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
        let exit = |code| ExitStatus {
            code: Some(code),
            stderr: "no".into(),
            ..ExitStatus::default()
        };
        let message = "the measuring process exited with 65; it said: no".into();
        assert_eq!(
            exit(65).cause(MEASURER),
            Cause::Failed {
                message,
                permanent: true
            }
        );
        assert!(matches!(
            exit(1).cause(MEASURER),
            Cause::Failed {
                permanent: false,
                ..
            }
        ));
    }
}
