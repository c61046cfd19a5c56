//! How much the operator takes, and how fast it is: 20,160 trials whose Jobs end at once, and 200 resources that have
//! nothing to do. Three processes, so that each has its own memory and time: the API server in memory, a bare client
//! that creates and deletes the same Jobs, and the operator.
//!
//! `cargo run --release -p inferbench-operator --example scale [-- --blocks 10 --idle 200 --idle-seconds 30]`

use std::{
    collections::HashMap,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use clap::Parser;
use futures::{StreamExt as _, TryStreamExt as _};
use inferbench_crds::{
    InferenceBenchmark,
    contract::{Collected, ModelReport, PreflightReport, TrialReport},
    handover::{self, CHUNK_BYTES},
};
use inferbench_fakekube::FakeKube;
use inferbench_operator::{
    client::client,
    controller::{
        bounds::{Bounds, Limits, Live},
        names::{self, Role},
        run::{Clock, Settings, run},
        sweep::Defaults,
    },
    lease,
    metrics::Metrics,
};
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::{Value, json};
use tokio::{sync::oneshot, time::Instant};
use tracing::span;
use tracing_subscriber::{layer::SubscriberExt as _, registry::LookupSpan};

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Jobs at a time.
const WINDOW: usize = 64;
const NAMESPACE: &str = "default";

/// Who waits for the end of which Job.
type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<()>>>>;

#[derive(Debug, Parser)]
#[command(about = "Measures what the operator takes")]
struct Cli {
    /// Which of the three processes this is.
    #[arg(long, default_value = "operator")]
    part: String,
    /// Where the API server listens.
    #[arg(long, default_value = "")]
    server: String,
    /// Blocks of 2,016 trials.
    #[arg(long, default_value_t = 10)]
    blocks: u32,
    /// Resources that have nothing to do.
    #[arg(long, default_value_t = 200)]
    idle: u32,
    /// For how long they are watched.
    #[arg(long, default_value_t = 30)]
    idle_seconds: u64,
}

fn main() -> Result<(), Failed> {
    let cli = Cli::parse();
    let one_thread = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
    };
    match cli.part.as_str() {
        "server" => tokio::runtime::Runtime::new()?.block_on(serve()),
        "bare" => one_thread()?.block_on(bare(&cli)),
        // As the operator runs.
        _ => one_thread()?.block_on(measure(&cli)),
    }
}

fn spec(blocks: u32, suspend: bool) -> Value {
    json!({
        "design": {
            "factors": {
                "model": [
                    {"name": "gpt2", "source": {"random": {"preset": "gpt2"}}},
                    {"name": "llama3-8b", "source": {"random": {"preset": "llama3-8b"}}},
                ],
                "batchSize": [1, 2, 4, 8, 16, 32, 64],
                "inputLength": [16, 32, 64, 128, 256, 512],
                "outputLength": [16, 32, 64, 128, 256, 512],
                "gpus": [1, 2, 4, 8],
            },
            "replicates": blocks,
        },
        "results": {"store": {"url": "s3://bucket"}},
        "execution": {"parallelism": WINDOW},
        "suspend": suspend,
    })
}

// The server: ends every Job as soon as it is there, and answers questions on its standard input.

async fn serve() -> Result<(), Failed> {
    let kube = FakeKube::new();
    // What it remembers of late writes is for watches that begin anew, of which there are none; it only makes it slow.
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
        None => return Ok(()),
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
struct Server {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    url: String,
}

impl Server {
    fn start() -> Result<Self, Failed> {
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

    fn ask(&mut self, what: &str) -> Result<String, Failed> {
        writeln!(self.ask, "{what}")?;
        self.line()
    }

    /// Requests since they were counted anew, but for leases: in all, those that may write, and what they were.
    fn counts(&mut self) -> Result<(u64, u64, String), Failed> {
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

// The bare client: a window of Jobs, each created, waited for and deleted.

async fn bare(cli: &Cli) -> Result<(), Failed> {
    let jobs: Api<Job> = Api::namespaced(user(&cli.server)?, NAMESPACE);
    let waiting: Waiting = Waiting::default();
    let (ends, watched) = (Arc::clone(&waiting), jobs.clone());
    tokio::spawn(async move {
        let config = watcher::Config::default().labels("bare=yes");
        let stream = watcher(watched, config).default_backoff().applied_objects();
        let mut stream = std::pin::pin!(stream);
        while let Some(job) = stream.next().await {
            let Ok(job) = job else { continue };
            let status = job.status.as_ref();
            if status.is_some_and(|status| status.conditions.is_some()) {
                let mut ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(ended) = ends.remove(&job.name_any()) {
                    // Whoever waited may have given up.
                    let _ = ended.send(());
                }
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let began = Instant::now();
    let count = cli.blocks * 2_016;
    futures::stream::iter(0..count)
        .map(|number| {
            let (jobs, waiting) = (jobs.clone(), Arc::clone(&waiting));
            async move {
                let name = format!("bare-{number}");
                let job = like_ours(&name)?;
                let (sender, ended) = oneshot::channel();
                waiting
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(name.clone(), sender);
                jobs.create(&PostParams::default(), &job).await?;
                ended.await?;
                jobs.delete(&name, &DeleteParams::background()).await?;
                Ok::<_, Failed>(())
            }
        })
        .buffer_unordered(WINDOW)
        .try_collect::<Vec<()>>()
        .await?;
    println!("{}", f64::from(count) / began.elapsed().as_secs_f64());
    Ok(())
}

/// A Job as the operator makes it, but for its name and its owner.
fn like_ours(name: &str) -> Result<Job, Failed> {
    let mut resource = InferenceBenchmark::new("bare", serde_json::from_value(spec(1, false))?);
    resource.metadata.namespace = Some(NAMESPACE.into());
    resource.metadata.uid = Some("00000000-0000-4000-8000-000000000000".into());
    let sweep = inferbench_operator::controller::validate::validate(&resource, &defaults());
    let sweep = sweep.map_err(|violations| format!("{violations:?}"))?;
    let trial = sweep.expansion.trial(0).ok_or("no trial")?;
    let mut job = inferbench_operator::controller::build::trials(&sweep, &[trial]);
    job.metadata.name = Some(name.into());
    job.metadata.owner_references = None;
    let labels = job.metadata.labels.get_or_insert_default();
    labels.remove(names::MANAGED_BY);
    labels.insert("bare".into(), "yes".into());
    Ok(job)
}

fn defaults() -> Defaults {
    Defaults {
        image: format!("ghcr.io/inferbench/runner@sha256:{}", "ab".repeat(32)),
        user: Some(65_532),
    }
}

// The operator, as `main` runs it, and what it is measured by.

/// Every reconcile: how long it took, and for how much of that it was at work.
#[derive(Clone, Default)]
struct Reconciles(Arc<Mutex<Vec<(Duration, Duration)>>>);

impl Reconciles {
    fn take(&self) -> Vec<(Duration, Duration)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Times of spans that are open.
struct Spans {
    reconciles: Reconciles,
    open: Mutex<HashMap<u64, Open>>,
}

struct Open {
    began: Instant,
    entered: Instant,
    busy: Duration,
}

impl Spans {
    fn with(&self, id: &span::Id, act: impl FnOnce(&mut Open)) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = open.get_mut(&id.into_u64()) {
            act(open);
        }
    }
}

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> tracing_subscriber::Layer<S> for Spans {
    fn on_new_span(
        &self,
        attributes: &span::Attributes<'_>,
        id: &span::Id,
        _: tracing_subscriber::layer::Context<'_, S>,
    ) {
        if attributes.metadata().name() == "reconcile" {
            let now = Instant::now();
            let open = Open {
                began: now,
                entered: now,
                busy: Duration::ZERO,
            };
            let mut all = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            all.insert(id.into_u64(), open);
        }
    }

    fn on_enter(&self, id: &span::Id, _: tracing_subscriber::layer::Context<'_, S>) {
        self.with(id, |open| open.entered = Instant::now());
    }

    fn on_exit(&self, id: &span::Id, _: tracing_subscriber::layer::Context<'_, S>) {
        self.with(id, |open| open.busy += open.entered.elapsed());
    }

    fn on_close(&self, id: span::Id, _: tracing_subscriber::layer::Context<'_, S>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = open.remove(&id.into_u64()) {
            let mut reconciles = self
                .reconciles
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            reconciles.push((open.began.elapsed(), open.busy));
        }
    }
}

/// The rate of a bare client on half as many Jobs, in Jobs a second.
async fn peer(server: &Server, cli: &Cli) -> Result<f64, Failed> {
    let blocks = cli.blocks.div_ceil(2).to_string();
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["--part", "bare", "--server", &server.url])
        .args(["--blocks", &blocks])
        .stderr(Stdio::inherit());
    // Meanwhile the lead has to be kept.
    let bare = tokio::task::spawn_blocking(move || command.output()).await??;
    Ok(String::from_utf8(bare.stdout)?.trim().parse()?)
}

async fn measure(cli: &Cli) -> Result<(), Failed> {
    let reconciles = Reconciles::default();
    let spans = Spans {
        reconciles: reconciles.clone(),
        open: Mutex::default(),
    };
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(spans))?;
    let mut server = Server::start()?;
    let before = peer(&server, cli).await?;

    let metrics = Arc::new(Metrics::default());
    let client = client(Config::new(server.url.parse()?), Arc::clone(&metrics))?;
    let settings = lease::Settings {
        name: "inferbench-operator".into(),
        namespace: NAMESPACE.into(),
        identity: "scale".into(),
        duration: Duration::from_secs(15),
        every: Duration::from_secs(5),
    };
    let mut holder = lease::Holder::new(client.clone(), settings);
    holder.acquire().await;
    let lead = holder.lead();
    tokio::spawn(async move { holder.renew().await });
    let settings = Settings {
        namespaces: Vec::new(),
        defaults: defaults(),
        identity: "scale".into(),
        limit: Duration::from_secs(30),
        bounds: Arc::new(Bounds::new(Limits {
            create_rate: 0,
            max_live_jobs: u32::MAX,
            status_interval: Duration::ZERO,
            ..Limits::default()
        })),
        clock: Clock::default(),
    };
    let operator = tokio::spawn(run(
        client.clone(),
        settings,
        lead,
        Arc::clone(&metrics),
        std::future::pending(),
    ));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let start = memory()?;

    server.ask("reset")?;
    let api: Api<InferenceBenchmark> = Api::namespaced(user(&server.url)?, NAMESPACE);
    let resource =
        InferenceBenchmark::new("scale", serde_json::from_value(spec(cli.blocks, false))?);
    api.create(&PostParams::default(), &resource).await?;
    let total = u64::from(cli.blocks * 2_016);
    let (began, worked) = (Instant::now(), cpu()?);
    let (mut asked, mut marks, mut largest) = (1, Vec::new(), 0);
    loop {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let status = api.get("scale").await?.status.unwrap_or_default();
        asked += 1;
        let counts = status.counts.unwrap_or_default();
        marks.push((u64::try_from(counts.done).unwrap_or(0), reconciles.take()));
        largest = largest.max(serde_json::to_vec(&status)?.len());
        let is = |kind: &str| {
            let mut conditions = status.conditions.iter();
            conditions.any(|it| it.type_ == kind && it.status == "True")
        };
        if is("Succeeded") {
            break;
        }
        if operator.is_finished() {
            return Err("the operator has ended".into());
        }
    }
    let (took, worked) = (began.elapsed().as_secs_f64(), cpu()? - worked);
    let (requests, _, counted) = server.counts()?;
    let requests = (requests - asked) as f64 / total as f64;
    let rate = total as f64 / took;
    // Before and after: a machine that others use as well changes its speed.
    let bare = f64::midpoint(before, peer(&server, cli).await?);
    let mut times: Vec<Duration> = marks
        .iter()
        .flat_map(|(_, all)| all)
        .map(|it| it.0)
        .collect();
    times.sort_unstable();
    let quantile = |q: f64| {
        times
            .get(((times.len() - 1) as f64 * q) as usize)
            .copied()
            .unwrap_or_default()
    };
    // What is done per trial grows with the window; what a reconcile costs is shown for equally many.
    let cost = |from: u64, to: u64| {
        let within = marks.iter().filter(|(done, _)| (from..to).contains(done));
        let all: Vec<Duration> = within.flat_map(|(_, all)| all).map(|it| it.1).collect();
        all.iter().sum::<Duration>().as_secs_f64() * 1e3 / all.len().max(1) as f64
    };
    let peak = memory()?;
    println!("{total} trials, {WINDOW} at a time\n{counted}");
    row("requests per trial (at most 3.2)", format!("{requests:.2}"));
    row("trials a second", format!("{rate:.0}"));
    row("... of a bare client", format!("{bare:.0}"));
    row("... ratio (at least 0.80)", format!("{:.2}", rate / bare));
    row("reconciles", times.len().to_string());
    row(
        "reconcile, median",
        format!("{:.1} ms", quantile(0.5).as_secs_f64() * 1e3),
    );
    row(
        "reconcile, p99 (below 50 ms)",
        format!("{:.1} ms", quantile(0.99).as_secs_f64() * 1e3),
    );
    // Not the first: the window is only being filled there.
    row(
        "at work per reconcile, third tenth",
        format!("{:.2} ms", cost(total * 2 / 10, total * 3 / 10)),
    );
    row(
        "at work per reconcile, last tenth",
        format!("{:.2} ms", cost(total * 9 / 10, total)),
    );
    row(
        "processor time per trial",
        format!("{:.2} ms", worked * 1e3 / total as f64),
    );
    for (verb, mean) in answers(&metrics) {
        row(&format!("{verb}, mean"), format!("{mean:.2} ms"));
    }
    row("status, at most", format!("{largest} bytes"));
    row("memory at the start", format!("{start:.1} MiB"));
    row("memory, peak (below 64 MiB)", format!("{peak:.1} MiB"));

    for number in 0..cli.idle {
        let name = format!("idle-{number}");
        let resource = InferenceBenchmark::new(&name, serde_json::from_value(spec(1, true))?);
        api.create(&PostParams::default(), &resource).await?;
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    server.ask("reset")?;
    let (began, worked) = (Instant::now(), cpu()?);
    tokio::time::sleep(Duration::from_secs(cli.idle_seconds)).await;
    let share = (cpu()? - worked) / began.elapsed().as_secs_f64();
    let (requests, writes, counted) = server.counts()?;
    println!(
        "{} resources that have nothing to do, for {} s\n{counted}",
        cli.idle, cli.idle_seconds
    );
    row("writes (none), leases apart", writes.to_string());
    row("requests, leases apart", requests.to_string());
    row("of a core (below 1 %)", format!("{:.2} %", share * 100.0));
    row("memory, peak", format!("{:.1} MiB", memory()?));
    Ok(())
}

/// How long the answers to each verb took in the mean, in ms.
fn answers(metrics: &Metrics) -> Vec<(String, f64)> {
    let text = metrics.text(true, &Live::new());
    let lines = text.lines().filter_map(|line| {
        let line = line.strip_prefix("inferbench_operator_api_request_duration_seconds_")?;
        let (name, value) = line.rsplit_once(' ')?;
        let (kind, labels) = name.split_once('{')?;
        Some((kind, labels.split('"').nth(1)?, value.parse::<f64>().ok()?))
    });
    let mut sums = HashMap::new();
    let mut means = Vec::new();
    for (kind, verb, value) in lines {
        match kind {
            "sum" => {
                sums.insert(verb, value);
            }
            "count" => {
                let sum = sums.get(verb).copied().unwrap_or_default();
                means.push((verb.to_owned(), sum * 1e3 / value));
            }
            _ => {}
        }
    }
    means
}

fn row(what: &str, value: String) {
    println!("  {what:<34} {value:>12}");
}

/// A client of the one who measures.
fn user(server: &str) -> Result<Client, Failed> {
    Ok(client(Config::new(server.parse()?), Arc::default())?)
}

/// The most memory that this process has had, in MiB.
fn memory() -> Result<f64, Failed> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: f64 = line
        .and_then(|line| line.split_whitespace().next())
        .ok_or("no VmHWM")?
        .parse()?;
    Ok(kib / 1_024.0)
}

/// The processor time of this process so far, in seconds.
fn cpu() -> Result<f64, Failed> {
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(") ").ok_or("no such line")?;
    let mut fields = fields.split(' ').skip(11);
    let mut next = || {
        fields
            .next()
            .and_then(|field| field.parse::<f64>().ok())
            .ok_or("no time")
    };
    Ok((next()? + next()?) / TICKS)
}
