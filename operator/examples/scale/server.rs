//! The API server in a process of its own: it ends every Job as soon as it is there, and answers questions on its
//! standard input.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use futures::StreamExt as _;
use inferbench_crds::{
    contract::{Collected, ModelReport, PreflightReport, TrialReport},
    handover::{self, CHUNK_BYTES},
};
use inferbench_fakekube::FakeKube;
use inferbench_operator::controller::names::{self, Role};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::json;

use crate::Failed;

/// Serves until nobody asks any more.
pub async fn serve() -> Result<(), Failed> {
    let kube = FakeKube::new();
    // Its history of late writes is for watches that begin anew, of which there are none; it only makes it slow.
    kube.set_history(1_024);
    kube.install_crd(&inferbench_crds::crd::crd())?;
    kube.spawn_garbage_collector(Duration::from_millis(200));
    let listening = kube.listen().await?;
    tokio::spawn(end_jobs(kube.client("cluster"), kube.clone()));
    println!("{}", listening.url);
    let (ask, mut asked) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if ask.send(line).is_err() {
                return;
            }
        }
    });
    while let Some(line) = asked.recv().await {
        match line.as_str() {
            "reset" => {
                kube.reset_counts("http");
                println!("done");
            }
            "counts" => {
                let counts = kube.counts("http");
                let all: Vec<String> = counts
                    .iter()
                    .map(|(verb, resource, count)| format!("{verb:?} {resource}:{count}"))
                    .collect();
                println!("{}", all.join(","));
            }
            _ => println!("?"),
        }
    }
    Ok(())
}

/// The Job controller and the kubelet in one, and in no time.
async fn end_jobs(client: Client, kube: FakeKube) {
    let jobs: Api<Job> = Api::all(client.clone());
    let stream = watcher(jobs, watcher::Config::default()).default_backoff();
    let mut stream = std::pin::pin!(stream.applied_objects());
    while let Some(job) = stream.next().await {
        let Ok(job) = job else { continue };
        if job
            .status
            .as_ref()
            .is_none_or(|status| status.conditions.is_none())
            && job.metadata.deletion_timestamp.is_none()
            && let Err(error) = end_job(&client, &kube, &job).await
        {
            eprintln!("{}: {error}", job.name_any());
        }
    }
}

async fn end_job(client: &Client, kube: &FakeKube, job: &Job) -> Result<(), Failed> {
    let namespace = job.namespace().unwrap_or_default();
    let role = job.labels().get(names::COMPONENT).map(String::as_str);
    let said = match role.and_then(Role::parse) {
        Some(Role::Preflight) => serde_json::to_string(&PreflightReport {
            models: vec![
                ModelReport {
                    revision: "r1".into(),
                    ..ModelReport::default()
                };
                2
            ],
            message: None,
        })?,
        Some(Role::Trial) => serde_json::to_string(&TrialReport {
            outcomes: "1".into(),
            best: Some(1.0),
            ..TrialReport::default()
        })?,
        Some(Role::Collector) => {
            let chunks = handover::cut(&Collected::default(), CHUNK_BYTES)?;
            serde_json::to_string(&chunks[0])?
        }
        // The sweeps here have as many replicates as they say.
        Some(Role::Look) | None => return Ok(()),
    };
    let now = kube.now().to_string();
    let name = format!("{}-pod", job.name_any());
    let template = job.spec.as_ref().map(|spec| &spec.template);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace,
            "labels": template.and_then(|template| template.metadata.as_ref()?.labels.clone()),
            "ownerReferences": [{
                "apiVersion": "batch/v1", "kind": "Job", "name": job.name_any(), "uid": job.uid(), "controller": true,
            }],
        },
        "spec": {"restartPolicy": "Never", "containers": [{"name": "runner", "image": "runner:1"}]},
    });
    kube.create(&pod)?;
    let status = json!({"status": {
        "phase": "Succeeded",
        "containerStatuses": [{
            "name": "runner", "image": "runner:1", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0, "reason": "Completed", "message": said}},
        }],
    }});
    let params = PatchParams::default();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    pods.patch_status(&name, &params, &Patch::Merge(&status))
        .await?;
    let condition = |kind: &str| {
        json!({
            "type": kind, "status": "True", "reason": "CompletionsReached", "message": "",
            "lastProbeTime": now, "lastTransitionTime": now,
        })
    };
    let status = json!({"status": {
        "startTime": now, "completionTime": now, "succeeded": 1,
        "conditions": [condition("SuccessCriteriaMet"), condition("Complete")],
    }});
    let jobs: Api<Job> = Api::namespaced(client.clone(), &namespace);
    let (name, patch) = (job.name_any(), Patch::Merge(&status));
    match jobs.patch_status(&name, &params, &patch).await {
        // Whoever made it may be faster.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => Ok(other.map(|_| ())?),
    }
}

/// The server's process.
pub struct Server {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    pub url: String,
}

impl Server {
    pub fn start() -> Result<Self, Failed> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--part", "server"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let ask = child.stdin.take().ok_or("no standard input")?;
        let answers = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        let mut server = Self {
            child,
            ask,
            answers,
            url: String::new(),
        };
        server.url = server.line()?;
        Ok(server)
    }

    fn line(&mut self) -> Result<String, Failed> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    pub fn ask(&mut self, what: &str) -> Result<String, Failed> {
        writeln!(self.ask, "{what}")?;
        self.line()
    }

    /// Requests since they were counted anew, but for leases: in all, those that may write, and what they were.
    pub fn counts(&mut self) -> Result<(u64, u64, String), Failed> {
        let counted = self.ask("counts")?;
        let (mut all, mut writes) = (0, 0);
        for part in counted.split(',').filter(|part| !part.contains(" leases")) {
            let Some((what, count)) = part.rsplit_once(':') else {
                continue;
            };
            let count: u64 = count.parse()?;
            all += count;
            if !["Get ", "List ", "Watch "]
                .iter()
                .any(|verb| what.starts_with(verb))
            {
                writes += count;
            }
        }
        Ok((all, writes, counted))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
