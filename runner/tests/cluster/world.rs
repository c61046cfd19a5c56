//! A cluster with an operator in it, for one test.

use std::{
    fs,
    future::Future,
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use inferbench_crds::{
    InferenceBenchmark, InferenceBenchmarkStatus,
    contract::{PROGRAM, PodRequest},
    crd::crd,
    outcome::Outcome,
};
use inferbench_fakekube::{
    FakeKube,
    cluster::{
        Backoff, Cluster, Processes, Settings,
        environment::{Environment, Source},
        node,
    },
};
use inferbench_operator::{
    controller::{
        bounds::{Bounds, Limits},
        run::{Clock, Settings as OperatorSettings, run},
        sweep::{Defaults, light},
    },
    lease::{Holder, Settings as LeaseSettings},
    metrics::Metrics,
};
use inferbench_results::row::Row;
use inferbench_runner::{
    pod::{REPORT_VARIABLE, trials::CEILINGS_VARIABLE},
    process::fault,
};
use k8s_openapi::{
    api::{batch::v1::Job, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle};

use crate::place::{Place, SPEC};

/// Long enough for a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(120);
/// The namespace of the sweeps.
pub const NAMESPACE: &str = "bench";
/// The runner's image, by a digest that a local run can go by, too.
pub const IMAGE: &str = "registry.example/inferbench@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Four trials, one Job each, one after the other, whose results go to a claim.
pub fn tiny() -> String {
    on_a_claim("{claimName: results}", "retries: 1")
        .replace("replicates: 2", "replicates: 1\n    order: Sequential")
}

/// The tests' sweep, with its results on a claim.
pub fn on_a_claim(claim: &str, execution: &str) -> String {
    SPEC.replace(
        "execution: {retries: 0,",
        &format!(
            "results: {{store: {{persistentVolumeClaim: {claim}}}}}\n  execution: {{{execution},"
        ),
    )
}

/// A cluster.
pub struct World {
    pub kube: FakeKube,
    pub client: Client,
    pub cluster: Cluster,
    pub processes: Processes,
    /// The pods that were started, in this order.
    pub started: Started,
    faults: Arc<Mutex<Vec<String>>>,
    _folder: TempDir,
}

/// The pods that were started.
#[derive(Clone, Default)]
pub struct Started(Arc<Mutex<Vec<Begun>>>);

/// The command of a pod, and its trials.
type Begun = (String, Vec<u64>);

impl Started {
    /// How often a pod was started that was to measure this trial.
    pub fn times(&self, trial: u64) -> usize {
        let pods = self.0.lock().unwrap();
        pods.iter()
            .filter(|(_, trials)| trials.contains(&trial))
            .count()
    }

    /// How often a pod of a kind was started.
    pub fn of(&self, command: &str) -> usize {
        let pods = self.0.lock().unwrap();
        pods.iter().filter(|(name, _)| name == command).count()
    }
}

/// The ceilings of this machine: measured once, as it takes seconds, and handed to every trial.
fn ceilings() -> &'static str {
    static CEILINGS: OnceLock<String> = OnceLock::new();
    CEILINGS.get_or_init(|| {
        let place = Place::new(SPEC);
        let file = fs::read(place.out().join("sweep.json")).unwrap();
        let file: Value = serde_json::from_slice(&file).unwrap();
        let measured = &file["ceilings"][0];
        let dtype = measured["dtype"].as_str().unwrap();
        json!({ dtype: measured["ceilings"] }).to_string()
    })
}

impl World {
    /// Three nodes without GPUs, one namespace, a claim `results`, and the resource's definition.
    pub async fn new() -> Self {
        tokio::task::spawn_blocking(ceilings).await.unwrap();
        let kube = FakeKube::new();
        kube.spawn_garbage_collector(Duration::from_millis(20));
        let client = kube.client("test");
        let folder = tempfile::tempdir().unwrap();
        kube.install_crd(&crd()).unwrap();
        for object in [
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "inferbench"}}),
            json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {"name": "results", "namespace": NAMESPACE},
                "spec": {
                    "accessModes": ["ReadWriteMany"],
                    "resources": {"requests": {"storage": "1Gi"}},
                },
            }),
        ] {
            kube.create(&object).unwrap();
        }
        let (started, faults) = (Started::default(), Arc::new(Mutex::new(Vec::new())));
        let (begun, strikes) = (started.clone(), Arc::clone(&faults));
        let processes = Processes::new(folder.path(), REPORT_VARIABLE, 4)
            .program("inferbench", env!("CARGO_BIN_EXE_inferbench"))
            .program(PROGRAM, env!("CARGO_BIN_EXE_inferbench"))
            .adjust(move |_, environment| {
                prepare(environment, &begun, &strikes);
            });
        let mut settings = Settings::new(
            ["a", "b", "c"]
                .map(|name| node(name, &[("cpu", "16"), ("memory", "64Gi"), ("pods", "110")]))
                .to_vec(),
        );
        // Events that take minutes in a cluster take less than a second here.
        settings.backoff = Backoff {
            first: Duration::from_millis(200),
            longest: Duration::from_secs(1),
        };
        settings.retry = Duration::from_millis(500);
        let cluster = Cluster::start(kube.client("cluster"), settings, processes.clone());
        Self {
            kube,
            client,
            cluster,
            processes,
            started,
            faults,
            _folder: folder,
        }
    }

    /// Lets the next pod that measures go with a fault, such as `hang@trial:3`.
    pub fn fault(&self, fault: &str) {
        self.faults.lock().unwrap().push(fault.into());
    }

    /// The folder of the claim `results`.
    pub fn claim(&self) -> PathBuf {
        self.processes.claim(NAMESPACE, "results")
    }

    /// Where a resource's results lie on the claim.
    pub fn results(&self, resource: &InferenceBenchmark) -> PathBuf {
        let uid = resource.uid().unwrap();
        let name = format!("{}-{}", resource.name_any(), &uid[..8]);
        self.claim().join(NAMESPACE).join(name)
    }

    pub fn resources(&self) -> Api<InferenceBenchmark> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    pub fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// Creates a resource from a spec.
    pub async fn apply(&self, yaml: &str) -> InferenceBenchmark {
        let mut object: Value = serde_saphyr::from_str(yaml).unwrap();
        object["metadata"]["namespace"] = NAMESPACE.into();
        let resource: InferenceBenchmark = serde_json::from_value(object).unwrap();
        let params = PostParams::default();
        let created = self.resources().create(&params, &resource).await;
        created.unwrap_or_else(|error| panic!("{error}"))
    }

    pub async fn patch(&self, name: &str, patch: &Value) {
        let patch = Patch::Merge(patch);
        let params = PatchParams::default();
        self.resources()
            .patch(name, &params, &patch)
            .await
            .unwrap_or_else(|error| panic!("{error}"));
    }

    pub async fn delete(&self, name: &str) {
        self.resources()
            .delete(name, &DeleteParams::background())
            .await
            .unwrap_or_else(|error| panic!("{error}"));
    }

    pub async fn get(&self, name: &str) -> InferenceBenchmark {
        self.resources().get(name).await.unwrap()
    }

    /// Waits until a resource is so, and returns it.
    pub async fn wait(
        &self,
        name: &str,
        what: &str,
        is_so: impl Fn(&InferenceBenchmarkStatus) -> bool,
    ) -> InferenceBenchmark {
        let begun = Instant::now();
        loop {
            let resource = self.get(name).await;
            let status = resource.status.clone().unwrap_or_default();
            if is_so(&status) {
                return resource;
            }
            if begun.elapsed() > PATIENCE {
                let jobs = self.jobs().list(&ListParams::default()).await.unwrap();
                let pods = self.pods().list(&ListParams::default()).await.unwrap();
                panic!(
                    "waited in vain for {what}:\n{status:#?}\n{:#?}\n{:#?}\n{}",
                    jobs.items
                        .iter()
                        .map(|job| (job.name_any(), &job.status))
                        .collect::<Vec<_>>(),
                    pods.items
                        .iter()
                        .map(|pod| (pod.name_any(), &pod.status))
                        .collect::<Vec<_>>(),
                    self.processes.logs()
                );
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The resource that `kubectl wait --for=condition=Succeeded` waits for; or one that would have succeeded on a
    /// machine that is not as busy as this one with other tests.
    pub async fn wait_for_success(&self, name: &str) -> InferenceBenchmark {
        self.wait(name, "Succeeded", |status| {
            let (value, reason) = condition(status, "Succeeded");
            value == "True" || reason == "NoValidResults"
        })
        .await
    }

    /// Runs a sweep to its end, whose operator is killed once this number of trials is done and begun anew.
    pub async fn run_killed(&self, name: &str, spec: &str, done: i32) -> InferenceBenchmark {
        let operator = self.operator();
        self.apply(spec).await;
        self.wait(name, &format!("{done} trials"), |status| {
            status.counts.is_some_and(|counts| counts.done >= done)
        })
        .await;
        operator.kill().await;
        let operator = self.operator();
        let resource = self.wait_for_success(name).await;
        self.wait_for_quiet().await;
        operator.stop().await;
        resource
    }

    /// Trials that are needed were measured by one pod each, and no pod was started for the others, of which there is a
    /// number.
    pub fn check_not_needed(&self, latest: &[&Row], needed: impl Fn(&Row) -> bool) -> i32 {
        let mut not_needed = 0;
        for row in latest {
            let (outcome, started) = if needed(row) {
                (Outcome::Succeeded, 1)
            } else {
                not_needed += 1;
                (Outcome::NotNeeded, 0)
            };
            assert_eq!(row.outcome, Some(outcome), "trial {}", row.trial_index);
            let times = self.started.times(row.trial_index.into());
            assert_eq!(times, started, "trial {}", row.trial_index);
        }
        not_needed
    }

    /// Waits until no pod is left, and no process.
    pub async fn wait_for_quiet(&self) {
        until("the last pod to go", async || {
            let pods = self.pods().list(&ListParams::default()).await.unwrap();
            pods.items.is_empty() && self.processes.running().is_empty()
        })
        .await;
    }

    /// The names of the Jobs that are there.
    pub async fn job_names(&self) -> Vec<String> {
        let jobs = self.jobs().list(&ListParams::default()).await.unwrap();
        jobs.items.iter().map(ResourceExt::name_any).collect()
    }

    /// Starts an operator.
    pub fn operator(&self) -> Operator {
        Operator::start(&self.kube)
    }
}

/// Notes what a pod is for, hands it this machine's ceilings, and a fault where one is due.
fn prepare(environment: &mut Environment, started: &Started, faults: &Mutex<Vec<String>>) {
    let command = environment.command.get(1).cloned().unwrap_or_default();
    let mut trials = Vec::new();
    for mount in &environment.mounts {
        let Source::Files(files) = &mount.source else {
            continue;
        };
        let Some(requests) = files.get("requests").filter(|_| command == "trial") else {
            continue;
        };
        for line in requests.lines() {
            let PodRequest::Trial(trial) = serde_json::from_str(line).unwrap();
            trials.push(u64::from(trial.trial_index));
        }
        let variables = &mut environment.variables;
        variables.insert(CEILINGS_VARIABLE.into(), ceilings().into());
    }
    let mut faults = faults.lock().unwrap();
    let due = faults.iter().position(|fault| {
        let trial = fault
            .rsplit(':')
            .next()
            .and_then(|trial| trial.parse().ok());
        trial.is_some_and(|trial: u64| trials.contains(&trial))
    });
    if let Some(due) = due {
        let fault = faults.remove(due);
        environment.variables.insert(fault::VARIABLE.into(), fault);
    }
    started.0.lock().unwrap().push((command, trials));
}

fn find<'a>(status: &'a InferenceBenchmarkStatus, kind: &str) -> Option<&'a Condition> {
    let mut conditions = status.conditions.iter();
    conditions.find(|condition| condition.type_ == kind)
}

/// The status and reason of a condition; empty where there is none.
pub fn condition(status: &InferenceBenchmarkStatus, kind: &str) -> (String, String) {
    find(status, kind)
        .map(|found| (found.status.clone(), found.reason.clone()))
        .unwrap_or_default()
}

/// The message of a condition; empty where there is none.
pub fn message(status: &InferenceBenchmarkStatus, kind: &str) -> String {
    find(status, kind)
        .map(|found| found.message.clone())
        .unwrap_or_default()
}

/// Waits for something.
pub async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// An operator: the real one, with its Lease.
pub struct Operator {
    task: JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

static OPERATORS: AtomicU32 = AtomicU32::new(0);

impl Operator {
    fn start(kube: &FakeKube) -> Self {
        let number = OPERATORS.fetch_add(1, Ordering::Relaxed);
        let identity = format!("operator-{number}");
        let client = kube.client("operator");
        let lease = LeaseSettings {
            name: "inferbench-operator".into(),
            namespace: "inferbench".into(),
            identity: identity.clone(),
            duration: Duration::from_secs(2),
            every: Duration::from_millis(500),
        };
        let settings = OperatorSettings {
            namespaces: Vec::new(),
            defaults: Defaults {
                image: IMAGE.into(),
                user: None,
                light: light(),
            },
            identity,
            limit: Duration::from_secs(10),
            bounds: Arc::new(Bounds::new(Limits {
                status_interval: Duration::from_millis(200),
                ..Limits::default()
            })),
            clock: Clock::default(),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let mut holder = Holder::new(client.clone(), lease);
            holder.acquire().await;
            let metrics = Arc::new(Metrics::default());
            let told = async {
                let _ = stopped.await;
            };
            tokio::select! {
                () = run(client, settings, holder.lead(), metrics, told) => {}
                () = holder.renew() => {}
            }
            holder.release().await;
        });
        Self { task, stop }
    }

    /// Tells it to stop, and waits until it has.
    pub async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
    }

    /// Ends it in the middle of whatever it does; its Lease stands.
    pub async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}
