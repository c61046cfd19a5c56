//! Containers that are processes of this machine: the program that a pod's command names, with the pod's arguments and
//! variables and nothing else of this process' own.
//!
//! A process has no file system of its own here. Volumes lie in a folder, and the paths of the mounts are rewritten to
//! it wherever the pod's variables, arguments and files name them: at the beginning of a value, or of a string in JSON.
//! It takes no privilege, and no namespaces that a CI machine may forbid.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{FutureExt as _, future::BoxFuture};
use kube::ResourceExt as _;
use tokio::{
    process::{Child, Command},
    sync::Semaphore,
};
use tracing::debug;

use super::{
    containers::{Containers, Exit, Signal, Start},
    environment::{Environment, Source},
};

/// Changes the environment that a container is started with, as a test asks for it.
type Adjust = dyn Fn(&Start, &mut Environment) + Send + Sync;

/// Runs containers as processes.
#[derive(Clone)]
pub struct Processes {
    programs: BTreeMap<String, PathBuf>,
    folder: PathBuf,
    termination_log: String,
    permits: Arc<Semaphore>,
    adjust: Arc<Adjust>,
    /// The process ids of those that run, by their pods' uids.
    running: Arc<Mutex<BTreeMap<String, u32>>>,
}

impl Processes {
    /// Keeps volumes and logs in this folder, and runs at most `at_most` at a time. `termination_log` is the variable
    /// by which a program learns where its termination message goes: /dev/termination-log is not ours.
    #[must_use]
    pub fn new(folder: &Path, termination_log: &str, at_most: usize) -> Self {
        Self {
            programs: BTreeMap::new(),
            folder: folder.into(),
            termination_log: termination_log.into(),
            permits: Arc::new(Semaphore::new(at_most)),
            adjust: Arc::new(|_, _| {}),
            running: Arc::default(),
        }
    }

    /// The program that a pod's command of this name runs.
    #[must_use]
    pub fn program(mut self, name: &str, path: impl Into<PathBuf>) -> Self {
        self.programs.insert(name.into(), path.into());
        self
    }

    /// Changes the environment that each container is started with.
    #[must_use]
    pub fn adjust(
        mut self,
        adjust: impl Fn(&Start, &mut Environment) + Send + Sync + 'static,
    ) -> Self {
        self.adjust = Arc::new(adjust);
        self
    }

    /// The folder that a claim stands for.
    #[must_use]
    pub fn claim(&self, namespace: &str, name: &str) -> PathBuf {
        self.folder.join("claims").join(namespace).join(name)
    }

    /// The output of the container of this pod.
    #[must_use]
    pub fn log(&self, uid: &str) -> String {
        fs::read_to_string(self.pod(uid).join("log")).unwrap_or_default()
    }

    /// The termination message that the container of this pod would leave, if it ended now.
    #[must_use]
    pub fn message(&self, uid: &str) -> String {
        fs::read_to_string(self.pod(uid).join("termination-log")).unwrap_or_default()
    }

    /// The output of the containers of all pods, for the message of a test that fails.
    #[must_use]
    pub fn logs(&self) -> String {
        let pods = fs::read_dir(self.folder.join("pods"));
        let uids = pods.into_iter().flatten().flatten();
        uids.map(|entry| {
            let uid = entry.file_name().to_string_lossy().into_owned();
            format!("-- {uid}\n{}", self.log(&uid))
        })
        .collect()
    }

    /// The ids of the processes that run now, by their pods' uids.
    #[must_use]
    pub fn running(&self) -> BTreeMap<String, u32> {
        self.ids().clone()
    }

    fn ids(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, u32>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pod(&self, uid: &str) -> PathBuf {
        self.folder.join("pods").join(uid)
    }

    async fn run_one(self, mut start: Start) -> Exit {
        // It is never closed.
        let _permit = self.permits.acquire().await;
        let uid = start.pod.uid().unwrap_or_default();
        let folder = self.pod(&uid);
        let log = folder.join("termination-log");
        let mut child = match self.spawn(&start, &folder, &log) {
            Ok(child) => child,
            Err(error) => {
                debug!(%error, "a container could not be started");
                return Exit {
                    reason: Some("StartError".into()),
                    ..Exit::new(128, error.to_string())
                };
            }
        };
        let id = child.id().unwrap_or_default();
        self.ids().insert(uid.clone(), id);
        let guard = Entry(self.clone(), uid);
        let mut sent = Signal::None;
        let status = loop {
            let next = if sent == Signal::None {
                Signal::Term
            } else {
                Signal::Kill
            };
            tokio::select! {
                biased;
                status = child.wait() => break status,
                signal = start.signals.received(next), if sent < Signal::Kill => {
                    sent = signal;
                    if signal == Signal::Kill {
                        let _ = child.start_kill();
                    } else {
                        terminate(&child);
                    }
                }
            }
        };
        drop(guard);
        let message = fs::read(&log).unwrap_or_default();
        Exit::new(status.map_or(137, code), String::from_utf8_lossy(&message))
    }

    fn spawn(&self, start: &Start, folder: &Path, log: &Path) -> io::Result<Child> {
        let mut environment = start.environment.clone();
        (self.adjust)(start, &mut environment);
        let namespace = start.pod.namespace().unwrap_or_default();
        let mut paths = Vec::new();
        for mount in &environment.mounts {
            let host = match &mount.source {
                Source::Claim(name) => self.claim(&namespace, name),
                Source::Empty | Source::Files(_) => folder.join("volumes").join(&mount.volume),
            };
            fs::create_dir_all(&host)?;
            paths.push((mount.path.clone(), host));
        }
        let paths = Paths::new(paths);
        for mount in &environment.mounts {
            if let Source::Files(files) = &mount.source {
                for (name, text) in files {
                    let file = folder.join("volumes").join(&mount.volume).join(name);
                    fs::write(file, paths.rewrite(text))?;
                }
            }
        }
        let (name, arguments) = environment
            .command
            .split_first()
            .ok_or_else(|| io::Error::other("no command"))?;
        let program = self.programs.get(name).ok_or_else(|| {
            io::Error::other(format!("exec: {name:?}: executable file not found"))
        })?;
        fs::create_dir_all(folder)?;
        fs::write(log, "")?;
        let out = File::create(folder.join("log"))?;
        let mut command = Command::new(program);
        command
            .args(arguments.iter().map(|argument| paths.rewrite(argument)))
            .current_dir(folder)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            // Its own, as in a container.
            .env("TMPDIR", paths.rewrite("/tmp"));
        for (name, value) in &environment.variables {
            command.env(name, paths.rewrite(value));
        }
        command
            .env(&self.termination_log, log)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .kill_on_drop(true);
        command.spawn()
    }
}

impl Containers for Processes {
    fn run(&self, start: Start) -> BoxFuture<'static, Exit> {
        self.clone().run_one(start).boxed()
    }

    fn forget(&self, uid: &str) {
        let _ = fs::remove_dir_all(self.pod(uid).join("volumes"));
    }
}

/// A process' entry among those that run, gone with it however it ends.
struct Entry(Processes, String);

impl Drop for Entry {
    fn drop(&mut self) {
        self.0.ids().remove(&self.1);
    }
}

fn terminate(child: &Child) {
    if let Some(id) = child.id().and_then(|id| i32::try_from(id).ok()) {
        // SAFETY: sends a signal to our own child, which has not been waited for, so the id is still its.
        unsafe { libc::kill(id, libc::SIGTERM) };
    }
}

/// The exit code, as a container runtime gives it.
fn code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status
        .code()
        .or_else(|| Some(128 + status.signal()?))
        .unwrap_or(255)
}

/// Where mounted paths lie on this machine.
struct Paths(Vec<(String, String)>);

impl Paths {
    fn new(paths: Vec<(String, PathBuf)>) -> Self {
        let mut paths: Vec<(String, String)> = paths
            .into_iter()
            .map(|(path, host)| {
                let path = path.trim_end_matches('/').to_owned();
                (path, host.display().to_string())
            })
            .collect();
        // The innermost first.
        paths.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        Self(paths)
    }

    /// A text with its mounted paths as they are on this machine. They begin it or a JSON string in it, and end with it
    /// or at a slash.
    fn rewrite(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while !rest.is_empty() {
            let found = self.0.iter().find_map(|(path, host)| {
                let after = rest.strip_prefix(path.as_str())?;
                (after.is_empty() || after.starts_with(['/', '"'])).then_some((host, after))
            });
            if let Some((host, after)) = found {
                out.push_str(host);
                rest = after;
            }
            // On to the next quotation mark.
            let end = rest.find('"').map_or(rest.len(), |at| at + 1);
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounted_paths_are_rewritten_and_no_others() {
        let host = |path: &str| PathBuf::from(format!("/tmp/host{path}"));
        let mounts = ["/tmp", "/var/lib/results", "/var/lib/results/deep/"];
        let paths = Paths::new(mounts.map(|path| (path.to_owned(), host(path))).to_vec());
        for (text, expected) in [
            ("/tmp", "/tmp/host/tmp"),
            ("/tmp/x", "/tmp/host/tmp/x"),
            ("/tmpfs", "/tmpfs"),
            ("--out=/tmp", "--out=/tmp"),
            (
                "/var/lib/results/deep/a",
                "/tmp/host/var/lib/results/deep//a",
            ),
            (
                "{\"target\":\"/var/lib/results/ns/a\",\"t\":\"s3://tmp/x\",\"why\":\"not /tmp\"}",
                "{\"target\":\"/tmp/host/var/lib/results/ns/a\",\"t\":\"s3://tmp/x\",\"why\":\"not /tmp\"}",
            ),
        ] {
            assert_eq!(paths.rewrite(text), expected, "{text}");
        }
    }
}
