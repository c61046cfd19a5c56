//! A server as a child process: started in a process group of its own, its output kept, watched while it is used, and
//! ended politely and then by force with all that it has started.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child as Process, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    child::{ExitStatus, Kills, die_with_parent, peak_rss},
    orphans::{self, TREE_VARIABLE},
};

/// How variables begin that hold this process' own requests and the credentials of its store and of the Hub.
const PRIVATE: [&str; 6] = [
    "INFERBENCH_",
    "AWS_",
    "GOOGLE_",
    "AZURE_",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
];
/// Lines of a server's output that are kept, and those of them that a message quotes.
const KEPT_LINES: usize = 400;
const QUOTED_LINES: usize = 12;
/// Characters of a line that are kept.
const LINE: usize = 500;
/// How long a server that was told to end has until it is killed.
const GRACE: Duration = Duration::from_secs(10);

/// A server that has been started.
#[derive(Debug)]
pub struct ServerProcess {
    process: Process,
    said: Arc<Mutex<VecDeque<String>>>,
    readers: Vec<JoinHandle<()>>,
    kills_before: Kills,
    peak_rss: Option<u64>,
    memory: Option<u64>,
    ended: bool,
}

impl ServerProcess {
    /// Starts a command line; all that it writes goes to `log`, too. It is killed with its parent, whatever ends that,
    /// and the kernel takes it first when `memory`, what there is in bytes, runs out.
    ///
    /// # Errors
    /// Where the program cannot be started, or the log not be written.
    pub fn spawn(
        argv: &[String],
        env: &[(String, String)],
        log: Option<&Path>,
        memory: Option<u64>,
    ) -> io::Result<Self> {
        let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        // Secrets that this process was trusted with are no server's business; its spec may name a variable all the
        // same.
        for (name, _) in std::env::vars_os() {
            let private = |name: &str| {
                PRIVATE.iter().any(|prefix| name.starts_with(prefix)) && name != TREE_VARIABLE
            };
            if name.to_str().is_some_and(private) {
                command.env_remove(name);
            }
        }
        command
            .args(arguments)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.process_group(0);
        die_with_parent(&mut command);
        let log = log.map(File::create).transpose()?;
        let log = log.map(|file| Arc::new(Mutex::new(file)));
        orphans::adopt();
        let kills_before = Kills::count();
        let mut process = command.spawn()?;
        let _ = fs::write(format!("/proc/{}/oom_score_adj", process.id()), "1000");
        let said = Arc::new(Mutex::new(VecDeque::new()));
        let out = process
            .stdout
            .take()
            .map(|out| Box::new(out) as Box<dyn Read + Send>);
        let err = process
            .stderr
            .take()
            .map(|err| Box::new(err) as Box<dyn Read + Send>);
        let readers = [out, err].into_iter().flatten().map(|from| {
            let (said, log) = (Arc::clone(&said), log.clone());
            std::thread::spawn(move || keep(from, &said, log.as_deref()))
        });
        Ok(Self {
            readers: readers.collect(),
            process,
            said,
            kills_before,
            peak_rss: None,
            memory,
            ended: false,
        })
    }

    /// Its process number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// How it ended; none while it lives.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.peak_rss = peak_rss(self.process.id()).or(self.peak_rss);
        match self.process.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(self.status(Some(status))),
            Err(_) => Some(self.status(None)),
        }
    }

    /// Its last words, as far as they tell a person something: its last lines, and before them the error that they are
    /// the consequences of.
    #[must_use]
    pub fn last_words(&self) -> String {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        telling(said.make_contiguous())
    }

    /// The last line for which this holds.
    #[must_use]
    pub fn line(&self, holds: impl Fn(&str) -> bool) -> Option<String> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.iter().rev().find(|line| holds(line)).cloned()
    }

    /// Ends it with all that it has started: politely first.
    pub fn end(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let id = self.process.id();
        // Processes that have made a group of their own are found by their parents, as long as these live.
        let mut all = orphans::descendants(id);
        signal_group(id, libc::SIGTERM);
        let patience = Instant::now() + GRACE;
        while Instant::now() < patience && matches!(self.process.try_wait(), Ok(None)) {
            for pid in orphans::descendants(id) {
                if !all.contains(&pid) {
                    all.push(pid);
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        signal_group(id, libc::SIGKILL);
        let _ = self.process.kill();
        let _ = self.process.wait();
        orphans::end_among(&all);
        self.join();
    }

    fn status(&mut self, status: Option<std::process::ExitStatus>) -> ExitStatus {
        let all = orphans::descendants(self.process.id());
        signal_group(self.process.id(), libc::SIGKILL);
        orphans::end_among(&all);
        self.ended = true;
        self.join();
        ExitStatus {
            stderr: self.last_words(),
            ..ExitStatus::of(status, &self.kills_before, self.peak_rss, self.memory)
        }
    }

    /// Waits until all that was written is read; a process that holds the pipe open is not waited for for ever.
    fn join(&mut self) {
        let patience = Instant::now() + Duration::from_secs(2);
        while Instant::now() < patience && !self.readers.iter().all(JoinHandle::is_finished) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.readers.clear();
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.end();
    }
}

/// The lines to quote. Programs in Python end with tracebacks, in several processes one after the other: the frames tell
/// nobody anything, and what went wrong is the first error, long before the last line.
fn telling(lines: &[String]) -> String {
    let mut told: Vec<&str> = Vec::new();
    let mut after_frame = false;
    for line in lines {
        let line = line.as_str();
        let frame = line.contains("File \"") && line.contains("\", line ");
        // The source of a frame, and the marks below it.
        let source = after_frame && line.contains("  ");
        let marks = line.contains('^') && line.trim_end().ends_with(['^', '~']);
        let head = line.contains("Traceback (most recent call last)");
        if !(frame || source || marks || head) {
            told.push(line);
        }
        after_frame = frame;
    }
    let last = told.len().saturating_sub(QUOTED_LINES);
    let cause = told[..last].iter().find(|line| is_error(line));
    let cause = cause.into_iter().flat_map(|cause| [*cause, "…"]);
    let words: Vec<&str> = cause.chain(told[last..].iter().copied()).collect();
    words.join("\n")
}

/// Whether a line tells of an error, and not of one that there might be.
fn is_error(line: &str) -> bool {
    let lower = line.to_lowercase();
    !line.contains("WARNING")
        && ["error:", "exception:"]
            .iter()
            .any(|word| lower.contains(word))
}

fn signal_group(leader: u32, signal: libc::c_int) {
    if let Ok(group) = i32::try_from(leader) {
        // SAFETY: kill takes two numbers; the group is that of our own child.
        unsafe { libc::kill(-group, signal) };
    }
}

/// Keeps the last lines of a stream, and all of it in the log.
fn keep(from: impl Read, said: &Mutex<VecDeque<String>>, log: Option<&Mutex<File>>) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while matches!(from.read_until(b'\n', &mut line), Ok(read) if read > 0) {
        if let Some(log) = log {
            let _ = log
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .write_all(&line);
        }
        let text = String::from_utf8_lossy(&line);
        // A progress bar writes over its line.
        let text = text.trim_end().rsplit('\r').next().unwrap_or_default();
        let text: String = text.chars().take(LINE).collect();
        if !text.is_empty() {
            let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
            if said.len() == KEPT_LINES {
                said.pop_front();
            }
            said.push_back(text);
        }
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> ServerProcess {
        let argv = ["sh", "-c", script].map(str::to_owned);
        ServerProcess::spawn(&argv, &[], None, None).unwrap()
    }

    fn wait(server: &mut ServerProcess) -> ExitStatus {
        let patience = Instant::now() + Duration::from_secs(30);
        while Instant::now() < patience {
            if let Some(status) = server.exited() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("it lives on")
    }

    fn lives(pid: u32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')')
            .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    }

    #[test]
    fn the_end_of_a_server_says_why() {
        let mut server = sh("echo starting; echo 'no such model' >&2; exit 3");
        let status = wait(&mut server);
        assert_eq!(status.code, Some(3));
        assert!(status.stderr.contains("no such model"), "{status:?}");
    }

    #[test]
    fn a_message_quotes_the_error_and_no_frames() {
        let text = "\
(API pid=7) WARNING 11-27 [system_utils.py:255] This can cause errors like `OSError: [Errno 24]`.
(Engine pid=9) ERROR 11-27 [core.py:12] Traceback (most recent call last):
(Engine pid=9) ERROR 11-27 [core.py:12]   File \"/x/omp.py\", line 217, in _bind
(Engine pid=9) ERROR 11-27 [core.py:12]     assert len(nodes) >= size
(Engine pid=9) ERROR 11-27 [core.py:12]            ^^^^^^^^^^^^^^^^^~~~~
(Engine pid=9) ERROR 11-27 [core.py:12] AssertionError: Not enough NUMA nodes: decrease TP/PP.
Traceback (most recent call last):
  File \"/x/vllm\", line 8, in <module>
    sys.exit(main())
             ^^^^^^
RuntimeError: Engine core initialization failed. See root cause above.";
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let said = telling(&lines);
        assert_eq!(said.lines().count(), 3, "{said}");
        assert!(said.ends_with("See root cause above."));
        // Where much is written in between, the error is still there.
        let mut many = lines.clone();
        many.extend((0..50).map(|at| format!("INFO shutting down {at}")));
        let said = telling(&many);
        let (first, rest) = said.split_once('\n').unwrap();
        assert!(
            first.ends_with("Not enough NUMA nodes: decrease TP/PP."),
            "{said}"
        );
        assert!(rest.starts_with("…\nINFO shutting down 38") && rest.ends_with("down 49"));
        assert_eq!(telling(&[]), "");
    }

    #[test]
    fn a_server_ends_with_all_that_it_has_started() {
        // A worker that hears no SIGTERM, in a session of its own.
        let mut server = sh(
            "setsid sh -c 'trap \"\" TERM; echo worker $$; while true; do sleep 0.05; done' & echo up; wait",
        );
        let patience = Instant::now() + Duration::from_secs(30);
        let worker: u32 = loop {
            if let Some(line) = server.line(|line| line.starts_with("worker ")) {
                break line["worker ".len()..].parse().unwrap();
            }
            assert!(Instant::now() < patience);
            std::thread::sleep(Duration::from_millis(5));
        };
        assert!(lives(worker));
        server.end();
        assert!(!lives(worker) && server.last_words().contains("up"));
    }

    #[test]
    fn all_that_it_writes_is_in_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let argv = ["sh", "-c", "seq 1 1000"].map(str::to_owned);
        let mut server = ServerProcess::spawn(&argv, &[], Some(&log), None).unwrap();
        wait(&mut server);
        assert_eq!(fs::read_to_string(&log).unwrap().lines().count(), 1_000);
        assert!(server.last_words().ends_with("999\n1000"));
    }
}
