//! A whole installation in one process and in tokio's paused time: API server, cluster, store and operators.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use inferbench_crds::{
    InferenceBenchmark, InferenceBenchmarkStatus, Outcome, contract::ModelReport,
    design::Expansion, ledger::Outcomes, status::Summary,
};
use inferbench_fakekube::{
    Clock as ServerClock, FakeKube,
    cluster::{Cluster, Settings as ClusterSettings, node},
};
use inferbench_operator::{
    controller::{
        names,
        run::{Clock, Settings, run},
        sweep::{Defaults, light},
    },
    lease,
    metrics::Metrics,
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    monitor::Monitor,
    runner::{Nature, Runner, Store},
};

/// The operator's own namespace.
pub const HOME: &str = "inferbench";
/// The longest that a call of the operator may take.
pub const LIMIT: Duration = Duration::from_secs(5);

/// An installation.
pub struct Lab {
    pub kube: FakeKube,
    pub cluster: Cluster,
    pub store: Arc<Store>,
    pub monitor: Arc<Monitor>,
    replicas: BTreeMap<&'static str, (JoinHandle<()>, SignedDuration)>,
}

/// The behaviour of its runner.
pub struct Build {
    pub nature: fn(u32) -> Nature,
    pub takes: fn(u32) -> Duration,
    pub model: ModelReport,
    pub summary: Summary,
    /// Changes the definition of the resource before it is installed.
    pub definition: fn(&mut Value),
}

impl Default for Build {
    fn default() -> Self {
        Self {
            nature: Nature::fine,
            takes: |index| Duration::from_secs(20 + u64::from(index * 37 % 100)),
            model: ModelReport {
                revision: "607a30d783dfa663caf39e06633721c8d4cfcd7e".into(),
                ..ModelReport::default()
            },
            summary: Summary::default(),
            definition: |_| {},
        }
    }
}

impl Build {
    /// Starts everything but the operator.
    pub fn lab(self) -> Lab {
        let epoch: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let kube = FakeKube::with_clock(ServerClock::simulated(epoch));
        kube.spawn_garbage_collector(Duration::from_millis(500));
        let mut definition = inferbench_crds::crd::crd();
        (self.definition)(&mut definition);
        kube.install_crd(&definition).expect("a definition");
        for name in [HOME, "bench", "lab", "other"] {
            let namespace =
                json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            kube.create(&namespace).expect("a namespace");
        }
        let room = [("cpu", "64"), ("memory", "256Gi"), ("nvidia.com/gpu", "4")];
        let nodes = ["a", "b", "c"].map(|name| node(name, &room));
        let mut settings = ClusterSettings::new(nodes.to_vec());
        let clock = kube.clone();
        settings.now = Arc::new(move || clock.now());
        let store = Arc::new(Store::default());
        let runner = Runner {
            store: Arc::clone(&store),
            nature: self.nature,
            model: self.model,
            summary: self.summary,
            takes: self.takes,
        };
        let cluster = Cluster::start(kube.client("cluster"), settings, runner);
        let monitor = Arc::new(Monitor::new(kube.clone()));
        Lab {
            kube,
            cluster,
            store,
            monitor,
            replicas: BTreeMap::new(),
        }
    }
}

impl Lab {
    /// An installation where nothing is wrong, with its operator.
    pub fn new() -> Self {
        let mut lab = Build::default().lab();
        lab.start("operator-a", SignedDuration::ZERO);
        lab
    }

    /// Starts a replica of the operator, whose clock is off by `skew`.
    pub fn start(&mut self, name: &'static str, skew: SignedDuration) {
        self.kill(name);
        let work = replica(self.kube.clone(), name, skew);
        self.replicas.insert(name, (tokio::spawn(work), skew));
    }

    /// Ends a replica from one moment to the next. Says how far its clock was off, if it was there.
    pub fn kill(&mut self, name: &str) -> Option<SignedDuration> {
        let (task, skew) = self.replicas.remove(name)?;
        assert!(!task.is_finished(), "{name} has ended by itself");
        task.abort();
        Some(skew)
    }

    /// Ends a replica, and starts another with an empty memory.
    pub fn restart(&mut self, name: &'static str) {
        let skew = self.kill(name).unwrap_or_default();
        self.start(name, skew);
    }

    /// Has the promises looked at that hold at every moment, with every request of this replica.
    pub fn watch(&self, name: &str) {
        let monitor = Arc::clone(&self.monitor);
        self.kube.set_faults(name, move |call| {
            monitor.look(call);
            inferbench_fakekube::Fault::None
        });
    }

    /// Creates a resource from the YAML of its spec.
    pub fn apply(&self, namespace: &str, name: &str, spec: &str) {
        let spec: Value = serde_saphyr::from_str(spec).expect("YAML");
        self.kube
            .create(&json!({
                "apiVersion": "inferbench.dev/v1alpha1", "kind": "InferenceBenchmark",
                "metadata": {"name": name, "namespace": namespace}, "spec": spec,
            }))
            .expect("a resource");
    }

    fn api(&self, namespace: &str) -> Api<InferenceBenchmark> {
        Api::namespaced(self.kube.client("user"), namespace)
    }

    /// Changes a resource's spec as a user does.
    pub async fn edit(&self, namespace: &str, name: &str, spec: Value) {
        let patch = Patch::Merge(json!({ "spec": spec }));
        let params = PatchParams::default();
        let edited = self.api(namespace).patch(name, &params, &patch).await;
        edited.expect("it is changed");
    }

    /// Deletes a resource as kubectl does.
    pub async fn delete(&self, namespace: &str, name: &str) {
        let (api, params) = (self.api(namespace), DeleteParams::background());
        api.delete(name, &params).await.expect("it is deleted");
    }

    /// A resource as it stands, if it is there.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Value> {
        let all = self.kube.objects("inferencebenchmarks.inferbench.dev");
        all.into_iter().find(|object| {
            object["metadata"]["namespace"] == namespace && object["metadata"]["name"] == name
        })
    }

    /// A resource as it stands.
    pub fn resource(&self, namespace: &str, name: &str) -> InferenceBenchmark {
        let found = self.find(namespace, name).expect("it is there");
        serde_json::from_value(found).expect("a resource")
    }

    /// A resource's status.
    pub fn status(&self, namespace: &str, name: &str) -> InferenceBenchmarkStatus {
        let found = self.resource(namespace, name);
        found.status.unwrap_or_default()
    }

    /// A condition of a resource: its status and reason.
    pub fn condition(&self, namespace: &str, name: &str, kind: &str) -> (String, String) {
        let conditions = self.status(namespace, name).conditions;
        let found = conditions.into_iter().find(|it| it.type_ == kind);
        found.map_or_else(Default::default, |it| (it.status, it.reason))
    }

    /// Whether a resource has nothing left to do.
    pub fn has_finished(&self, namespace: &str, name: &str) -> bool {
        self.condition(namespace, name, "Progressing").1 == "Finished"
    }

    /// Waits, in simulated time, until something is so.
    pub async fn until(&self, what: &str, limit: Duration, is_so: impl Fn(&Self) -> bool) {
        let began = tokio::time::Instant::now();
        while !is_so(self) {
            if began.elapsed() > limit {
                let all = self.kube.objects("inferencebenchmarks.inferbench.dev");
                let statuses: Vec<&Value> = all.iter().map(|object| &object["status"]).collect();
                let jobs = self.kube.objects("jobs.batch");
                let jobs: Vec<(&Value, &Value)> = jobs
                    .iter()
                    .map(|job| (&job["metadata"]["name"], &job["status"]["conditions"]))
                    .collect();
                panic!("not {what}: {statuses:#?}\n{jobs:?}");
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    }

    /// Creates a resource from the YAML of its spec, and waits until it measures.
    pub async fn begin(&self, namespace: &str, name: &str, spec: &str) {
        self.apply(namespace, name, spec);
        self.measures(namespace).await;
    }

    /// Waits until a pod of the namespace measures.
    pub async fn measures(&self, namespace: &str) {
        let measures = |pod: &Value| {
            pod["metadata"]["labels"]["app.kubernetes.io/component"] == "trial"
                && pod["status"]["phase"] == "Running"
        };
        let limit = Duration::from_secs(3_600);
        self.until("measuring", limit, |lab| {
            lab.pods(namespace).iter().any(measures)
        })
        .await;
    }

    /// Waits until a resource has nothing left to do.
    pub async fn finish(&self, namespace: &str, name: &str) {
        let limit = Duration::from_secs(48 * 3_600);
        self.until("finished", limit, |lab| lab.has_finished(namespace, name))
            .await;
        // An operator that was killed after it wrote that still has to tidy up.
        tokio::time::sleep(Duration::from_secs(60)).await;
    }

    /// The folder of a sweep in the store.
    pub fn folder(&self, namespace: &str, name: &str) -> String {
        let uid = self.resource(namespace, name).metadata.uid;
        let uid = uid.expect("a uid");
        format!("s3://bucket/{namespace}/{name}-{}", names::short(&uid))
    }

    /// The ledger of a resource.
    pub fn ledger(&self, namespace: &str, name: &str) -> Outcomes {
        let resource = self.resource(namespace, name);
        let trials = Expansion::new(&resource.spec.design).len_before_exclusion();
        let ledger = resource.status.unwrap_or_default().ledger;
        let text = ledger.map(|ledger| ledger.outcomes).unwrap_or_default();
        Outcomes::decode(&text, trials).expect("a ledger")
    }

    /// P1 and P2 of a resource that has finished, and whatever must not have happened.
    pub fn check(&self, namespace: &str, name: &str) {
        let wrong = self.wrong();
        assert!(wrong.is_empty(), "{wrong:#?}");
        let resource = self.resource(namespace, name);
        let ledger = self.ledger(namespace, name);
        let folder = self.folder(namespace, name);
        let (records, begun) = (self.store.records(&folder), self.store.begun(&folder));
        for (index, _) in ledger
            .iter()
            .filter(|(_, outcome)| *outcome == Outcome::NotNeeded)
        {
            assert!(
                !begun.contains_key(&index),
                "trial {index} was begun, and decided against"
            );
        }
        for trial in Expansion::new(&resource.spec.design).trials() {
            let (index, stored) = (trial.index, records.get(&trial.index));
            match (stored.map(|record| record.outcome), ledger.get(index)) {
                (Some(stored), Some(recorded)) => {
                    assert_eq!(stored, recorded, "P1: trial {index}");
                }
                (None, Some(Outcome::Succeeded)) => panic!("P1: trial {index} has no record"),
                (None, Some(_)) => {}
                (_, None) => panic!("P1: trial {index} has no end"),
            }
        }
        let results = self.status(namespace, name).results.expect("results");
        assert_eq!(
            results.rows,
            resource.status.expect("one").plan.expect("one").trials
        );
        // Of the Jobs there are only failed ones, for people to look at.
        for job in self.jobs(namespace) {
            let conditions = job["status"]["conditions"].as_array();
            let failed = |it: &Value| it["type"] == "Failed" && it["status"] == "True";
            assert!(
                conditions.is_some_and(|all| all.iter().any(failed)),
                "{job:#}"
            );
        }
    }

    /// Violations of a promise, at any moment.
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = self.monitor.wrong();
        wrong.extend(self.store.wrong.lock().expect("no panic").clone());
        wrong
    }

    /// The Jobs in a namespace.
    pub fn jobs(&self, namespace: &str) -> Vec<Value> {
        let mut jobs = self.kube.objects("jobs.batch");
        jobs.retain(|job| job["metadata"]["namespace"] == namespace);
        jobs
    }

    /// The pods in a namespace.
    pub fn pods(&self, namespace: &str) -> Vec<Value> {
        let mut pods = self.kube.objects("pods");
        pods.retain(|pod| pod["metadata"]["namespace"] == namespace);
        pods
    }

    /// How often a replica has written, but for its lease, since its requests were counted anew.
    pub fn writes(&self, name: &str) -> u64 {
        let counts = self.kube.counts(name);
        let writes = counts
            .iter()
            .filter(|(verb, resource, _)| verb.writes() && *resource != "leases");
        writes.map(|(_, _, count)| count).sum()
    }

    /// P5: for an hour nothing is written.
    pub async fn is_quiet(&self, name: &str) {
        tokio::time::sleep(Duration::from_secs(120)).await;
        self.kube.reset_counts(name);
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        assert_eq!(self.writes(name), 0, "P5: {}", self.kube.counts(name));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for (task, _) in self.replicas.values() {
            task.abort();
        }
        for client in ["operator-a", "operator-b"] {
            // They hold the server, and it them.
            self.kube.clear_faults(client);
        }
    }
}

/// A replica as `main` runs it, again and again: one that has lost its lead ends, and Kubernetes starts another.
async fn replica(kube: FakeKube, name: &'static str, skew: SignedDuration) {
    loop {
        let client = kube.client(name);
        let lease = lease::Settings {
            name: "inferbench-operator".into(),
            namespace: HOME.into(),
            identity: name.into(),
            duration: Duration::from_secs(15),
            every: Duration::from_secs(5),
        };
        let mut holder = lease::Holder::new(client.clone(), lease);
        holder.acquire().await;
        let (stop, mut stopped) = watch::channel(false);
        let clock = kube.clone();
        let settings = Settings {
            namespaces: Vec::new(),
            defaults: Defaults {
                image: format!("ghcr.io/inferbench/runner@sha256:{}", "ab".repeat(32)),
                user: Some(65_532),
                light: light(),
            },
            identity: name.into(),
            limit: LIMIT,
            bounds: Arc::default(),
            clock: Clock::new(move || clock.now() + skew),
        };
        let shutdown = async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        let work = run(
            client,
            settings,
            holder.lead(),
            Arc::new(Metrics::default()),
            shutdown,
        );
        let mut work = Box::pin(work);
        tokio::select! {
            () = &mut work => {}
            () = holder.renew() => {
                stop.send_replace(true);
                work.await;
            }
        }
    }
}

/// Runs a test in a runtime of its own for each of some seeds. `INFERBENCH_SEED` runs only that one, and
/// `INFERBENCH_SEEDS` says how many there are.
pub fn each_seed(default: u64, test: impl AsyncFn(u64)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seeds = match number("INFERBENCH_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("INFERBENCH_SEEDS").unwrap_or(default),
    };
    for seed in seeds {
        let _named = NameSeed(seed);
        in_paused_time(test(seed));
    }
}

/// Lets a sweep run as often as its operator writes: each time it is killed at another write, before that is carried out
/// and after, and begins anew. `check` looks at the end, the first time undisturbed. `INFERBENCH_EVERY_WRITE` kills at
/// every write, which takes minutes; without it, at every seventh.
pub fn killed_at_every_write(spec: &str, least: u64, check: impl Fn(&Lab, &str)) {
    let writes = std::cell::Cell::new(0);
    in_paused_time(async {
        let lab = Lab::new();
        lab.apply("bench", "thesis", spec);
        lab.finish("bench", "thesis").await;
        check(&lab, "undisturbed");
        writes.set(lab.writes("operator-a"));
    });
    let writes = writes.get();
    assert!(writes > least, "{writes}");
    let every = std::env::var_os("INFERBENCH_EVERY_WRITE").is_some();
    for nth in (1..=writes).step_by(if every { 1 } else { 7 }) {
        for is_done in [false, true] {
            in_paused_time(async {
                let mut lab = Build::default().lab();
                let stopped = lab.stop_at_write("operator-a", nth, is_done);
                lab.start("operator-a", SignedDuration::ZERO);
                lab.apply("bench", "thesis", spec);
                tokio::select! {
                    () = stopped.wait() => {}
                    // Another order of things may need fewer writes.
                    () = lab.finish("bench", "thesis") => {}
                }
                assert!(stopped.has() || nth + 10 > writes, "write {nth}");
                lab.watch("operator-a");
                lab.restart("operator-a");
                lab.finish("bench", "thesis").await;
                check(&lab, &format!("write {nth}, done: {is_done}"));
            });
        }
    }
}

/// Runs a test in a runtime of its own.
pub fn in_paused_time(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(test);
}

/// Says which seed has failed.
struct NameSeed(u64);

impl Drop for NameSeed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!("seed {seed} has failed; INFERBENCH_SEED={seed} runs it alone");
        }
    }
}
