//! The user's own `kubectl`, with their cluster, credentials and context: a client of Kubernetes that whoever has a
//! cluster has.

use std::{
    ffi::OsStr,
    io::{self, BufRead, BufReader, Read as _, Write as _},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use serde_json::Value;
use thiserror::Error;

use crate::process::signals;

/// The program, which is looked for on the PATH.
const PROGRAM: &str = "kubectl";
/// How often a waiting parent looks for Ctrl-C.
const LOOK_UP: Duration = Duration::from_millis(100);

/// Why kubectl did not do what it was asked for.
#[derive(Debug, Error)]
pub enum KubectlError {
    /// There is none.
    #[error(
        "{PROGRAM} is not on the PATH: install it (https://kubernetes.io/docs/tasks/tools/), or copy the results from \
         their store yourself; status.results.uri says where they are"
    )]
    Missing,
    /// It cannot be started or spoken to.
    #[error("{PROGRAM}: {0}")]
    Broken(#[from] io::Error),
    /// It failed.
    #[error("{PROGRAM} {action} failed: {said}")]
    Failed {
        /// The action that it was asked for.
        action: String,
        /// The end of its standard error.
        said: String,
    },
    /// Its answer cannot be used.
    #[error("{0}")]
    Refused(String),
    /// Ctrl-C or SIGTERM arrived.
    #[error("interrupted")]
    Interrupted,
}

/// kubectl, with what the command line says of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kubectl {
    /// The context of the kubeconfig; the current one where none is named.
    pub context: Option<String>,
    /// The namespace; the context's where none is named.
    pub namespace: Option<String>,
}

impl Kubectl {
    /// An object of the cluster.
    ///
    /// # Errors
    /// Where there is none, or it cannot be read.
    pub fn get(&self, kind: &str, name: &str) -> Result<Value, KubectlError> {
        let bytes = self.ask(&["get", kind, name, "-o", "json"], None)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| KubectlError::Refused(format!("{PROGRAM} get {kind} {name}: {error}")))
    }

    /// Creates an object.
    ///
    /// # Errors
    /// Where that is refused.
    pub fn create(&self, object: &Value) -> Result<(), KubectlError> {
        let text = object.to_string();
        self.ask(&["create", "-f", "-"], Some(text.as_bytes()))
            .map(drop)
    }

    /// Runs a command in a container of a pod; `read` gets its standard output while it comes.
    ///
    /// # Errors
    /// Where it fails; or whatever `read` returns.
    pub fn exec(
        &self,
        pod: &str,
        container: &str,
        command: &[&str],
        read: &mut dyn FnMut(&mut dyn BufRead) -> Result<(), String>,
    ) -> Result<(), KubectlError> {
        let mut args = vec!["exec", pod, "-c", container, "--"];
        args.extend(command);
        let mut taken = Ok(());
        self.run(&args, None, &mut |out| taken = read(out))?;
        taken.map_err(KubectlError::Refused)
    }

    /// Deletes a pod without waiting for its end, where there is one, and whatever signals arrive meanwhile.
    ///
    /// # Errors
    /// Where it cannot be deleted.
    pub fn delete_pod(&self, name: &str) -> Result<(), KubectlError> {
        let args = [
            "delete",
            "pod",
            name,
            "--ignore-not-found",
            "--wait=false",
            "--request-timeout=30s",
        ];
        let mut command = self.command(&args);
        // Ctrl-C on a terminal goes to a whole group.
        let output = command.process_group(0).stdin(Stdio::null()).output();
        let output = output.map_err(started)?;
        if output.status.success() {
            Ok(())
        } else {
            Err(failed(&args, &output.stderr))
        }
    }

    /// Runs it to its end.
    fn ask(&self, args: &[&str], stdin: Option<&[u8]>) -> Result<Vec<u8>, KubectlError> {
        let mut bytes = Vec::new();
        let mut read = Ok(0);
        self.run(args, stdin, &mut |out| read = out.read_to_end(&mut bytes))?;
        read?;
        Ok(bytes)
    }

    fn run(
        &self,
        args: &[&str],
        stdin: Option<&[u8]>,
        read: &mut dyn FnMut(&mut dyn BufRead),
    ) -> Result<(), KubectlError> {
        let mut command = self.command(args);
        command
            .stdin(if stdin.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(started)?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let input = child.stdin.take();
        let over = AtomicBool::new(false);
        let said = std::thread::scope(|scope| {
            let said = scope.spawn(move || {
                let mut said = Vec::new();
                let _ = err.map(|mut err| err.read_to_end(&mut said));
                said
            });
            scope.spawn(|| end_on_signal(&child, &over));
            if let (Some(mut input), Some(bytes)) = (input, stdin) {
                // One that does not read says why.
                let _ = input.write_all(bytes);
            }
            if let Some(out) = out {
                let mut out = BufReader::new(out);
                read(&mut out);
                // A reader that has seen enough must not keep the other side waiting.
                let _ = io::copy(&mut out, &mut io::sink());
            }
            let said = said.join().unwrap_or_default();
            over.store(true, Ordering::Relaxed);
            said
        });
        let status = child.wait()?;
        if signals::interrupted() {
            Err(KubectlError::Interrupted)
        } else if status.success() {
            Ok(())
        } else {
            Err(failed(args, &said))
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        if let Some(context) = &self.context {
            command.args(["--context", context]);
        }
        if let Some(namespace) = &self.namespace {
            command.args(["--namespace", namespace]);
        }
        command.args(args.iter().map(OsStr::new));
        command
    }
}

/// Ends a child, which has not been waited for, when Ctrl-C or SIGTERM arrives before it is over.
fn end_on_signal(child: &Child, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        if signals::interrupted()
            && let Ok(pid) = i32::try_from(child.id())
        {
            // SAFETY: sends a signal to our own child, which is waited for after this thread alone.
            unsafe { libc::kill(pid, libc::SIGTERM) };
            return;
        }
        std::thread::sleep(LOOK_UP);
    }
}

fn started(error: io::Error) -> KubectlError {
    match error.kind() {
        io::ErrorKind::NotFound => KubectlError::Missing,
        _ => KubectlError::Broken(error),
    }
}

fn failed(args: &[&str], stderr: &[u8]) -> KubectlError {
    let said = String::from_utf8_lossy(stderr).trim().to_owned();
    KubectlError::Failed {
        action: args.iter().take(3).copied().collect::<Vec<_>>().join(" "),
        said: if said.is_empty() {
            "it says nothing".into()
        } else {
            said
        },
    }
}
