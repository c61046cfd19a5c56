//! The one task of a cluster: sees what changes, and lets the Job controller, the scheduler and the kubelets act on it,
//! one after the other, so that a simulation in tokio's paused time always goes the same way.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{Node, PersistentVolumeClaim, Pod, PodStatus},
    },
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, watcher},
    },
};
use serde_json::json;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, warn};

use super::{
    Settings,
    cache::{Cache, Change, Key},
    containers::{Containers, Exit},
    environment::claims_of,
    job_controller::{FINALIZER, has_ended, is_tracked, next},
    kubelet::Run,
    pod_status,
    scheduler::{Place, place},
};

/// The longest that a call may take.
const LIMIT: Duration = Duration::from_secs(30);
/// How long to wait after a call that failed: what it met will have changed by then.
const HICCUP: Duration = Duration::from_millis(200);

/// What somebody wants to happen to the cluster.
#[derive(Debug)]
pub enum Order {
    Evict(Key),
    OutOfMemory(Key),
    LoseMessage(Key),
    RemoveNode(String),
    Reboot(String),
    StopKubelet(String, Duration),
    ServeImage(String, bool),
    Count(oneshot::Sender<usize>),
}

/// What is to be looked at when its time has come.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    Job(Key),
    Pod(Key),
    Unplaced,
}

/// A cluster.
pub struct World {
    pub client: Client,
    pub settings: Settings,
    pub containers: Arc<dyn Containers>,
    jobs: Cache<Job>,
    pub pods: Cache<Pod>,
    pub nodes: Cache<Node>,
    /// The pods of each Job, by its uid, and of each node.
    of_job: BTreeMap<String, BTreeSet<Key>>,
    on_node: BTreeMap<String, BTreeSet<Key>>,
    due: BTreeSet<Due>,
    timers: BTreeSet<(Instant, Due)>,
    unplaced: BTreeSet<Key>,
    /// Containers that run, or have ended and are not told of yet.
    pub runs: BTreeMap<Key, Run>,
    pub tasks: JoinSet<(Key, String, Exit)>,
    pub refused_images: BTreeSet<String>,
    /// When to try again to start a pod that could not be started.
    pub retries: BTreeMap<Key, Instant>,
    /// Nodes whose kubelet does nothing until then, or never again.
    pub silent: BTreeMap<String, Option<Instant>>,
    /// Since when there is no such node.
    gone: BTreeMap<String, Instant>,
}

impl World {
    pub fn new(client: Client, settings: Settings, containers: Arc<dyn Containers>) -> Self {
        Self {
            client,
            settings,
            containers,
            jobs: Cache::default(),
            pods: Cache::default(),
            nodes: Cache::default(),
            of_job: BTreeMap::new(),
            on_node: BTreeMap::new(),
            due: BTreeSet::new(),
            timers: BTreeSet::new(),
            unplaced: BTreeSet::new(),
            runs: BTreeMap::new(),
            tasks: JoinSet::new(),
            refused_images: BTreeSet::new(),
            retries: BTreeMap::new(),
            silent: BTreeMap::new(),
            gone: BTreeMap::new(),
        }
    }

    pub async fn run(
        mut self,
        mut orders: mpsc::UnboundedReceiver<(Order, oneshot::Sender<bool>)>,
    ) {
        self.create_nodes().await;
        let config = watcher::Config::default;
        let jobs: Api<Job> = Api::all(self.client.clone());
        let pods: Api<Pod> = Api::all(self.client.clone());
        let nodes: Api<Node> = Api::all(self.client.clone());
        let mut jobs = pin!(watcher(jobs, config()).default_backoff());
        let mut pods = pin!(watcher(pods, config()).default_backoff());
        let mut nodes = pin!(watcher(nodes, config()).default_backoff());
        // Nothing is decided before all is known.
        let mut lists = 0;
        loop {
            let timer = self.timers.first().map(|(at, _)| *at);
            let wake = async {
                match timer {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(event) = jobs.next() => lists += self.see_job(event),
                Some(event) = pods.next() => lists += self.see_pod(event),
                Some(event) = nodes.next() => lists += self.see_node(event),
                Some(ended) = self.tasks.join_next(), if !self.tasks.is_empty() => self.ended(ended),
                order = orders.recv() => match order {
                    Some((order, done)) => {
                        let found = self.obey(order).await;
                        let _ = done.send(found);
                    }
                    None => return,
                },
                () = wake => {}
            }
            // What has come meanwhile is looked at in one go.
            while let Some(Some(event)) = jobs.next().now_or_never() {
                lists += self.see_job(event);
            }
            while let Some(Some(event)) = pods.next().now_or_never() {
                lists += self.see_pod(event);
            }
            let now = Instant::now();
            while self.timers.first().is_some_and(|(at, _)| *at <= now) {
                self.due.extend(self.timers.pop_first().map(|(_, due)| due));
            }
            if lists >= 3 {
                while let Some(due) = self.due.pop_first() {
                    match due {
                        Due::Job(key) => self.job(key).await,
                        Due::Pod(key) => self.pod(key).await,
                        Due::Unplaced => self.place().await,
                    }
                }
            }
        }
    }

    async fn create_nodes(&self) {
        let api: Api<Node> = Api::all(self.client.clone());
        for node in &self.settings.nodes {
            let params = PostParams::default();
            let created = api.create(&params, node);
            if self.call("create node", created).await.is_some() {
                // A create may leave out the status.
                let patch = json!({ "status": node.status });
                let patch = Patch::Merge(&patch);
                let (name, params) = (node.name_any(), PatchParams::default());
                let patched = api.patch_status(&name, &params, &patch);
                self.call("set up node", patched).await;
            }
        }
    }

    /// What the API server answers; none, with a word in the log, where it refuses.
    pub async fn call<T>(
        &self,
        what: &str,
        answer: impl Future<Output = kube::Result<T>>,
    ) -> Option<T> {
        match timeout(LIMIT, answer).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) => {
                debug!(%error, what, "refused");
                None
            }
            Err(_) => {
                warn!(what, "no answer");
                None
            }
        }
    }

    pub fn now(&self) -> Timestamp {
        (self.settings.now)()
    }

    pub fn look(&mut self, due: Due) {
        self.due.insert(due);
    }

    pub fn look_after(&mut self, wait: Duration, due: Due) {
        self.timers.insert((Instant::now() + wait, due));
    }

    fn see_job(&mut self, event: watcher::Result<watcher::Event<Job>>) -> u32 {
        let (changes, listed) = see(&mut self.jobs, event);
        for change in changes {
            self.job_changed(&change);
        }
        listed
    }

    fn job_changed(&mut self, change: &Change<Job>) {
        self.look(Due::Job(change.key.clone()));
        if change.after.is_none()
            && let Some(job) = &change.before
        {
            // Its pods are orphans now.
            let pods = self.of_job.get(&job.uid().unwrap_or_default());
            let pods: Vec<Key> = pods.into_iter().flatten().cloned().collect();
            self.due.extend(pods.into_iter().map(Due::Pod));
        }
    }

    fn see_pod(&mut self, event: watcher::Result<watcher::Event<Pod>>) -> u32 {
        let (changes, listed) = see(&mut self.pods, event);
        for change in changes {
            self.pod_changed(&change);
        }
        listed
    }

    fn pod_changed(&mut self, change: &Change<Pod>) {
        self.index(change);
        self.look(Due::Pod(change.key.clone()));
        let pod = change.after.as_ref().or(change.before.as_ref());
        let job = pod.and_then(|pod| controlling_job(pod));
        if let (Some(pod), Some((name, _))) = (pod, job) {
            self.look(Due::Job(Key {
                namespace: pod.namespace().unwrap_or_default(),
                name,
            }));
        }
        let holds = |pod: &Option<Arc<Pod>>| pod.as_ref().is_some_and(|pod| !has_ended(pod));
        if holds(&change.before) && !holds(&change.after) && !self.unplaced.is_empty() {
            // There is room again.
            self.look(Due::Unplaced);
        }
    }

    fn index(&mut self, change: &Change<Pod>) {
        let key = &change.key;
        if let Some(pod) = &change.before {
            forget(
                &mut self.of_job,
                controlling_job(pod).map(|(_, uid)| uid),
                key,
            );
            forget(&mut self.on_node, node_of(pod).map(str::to_owned), key);
        }
        if let Some(pod) = &change.after {
            if let Some((_, uid)) = controlling_job(pod) {
                self.of_job.entry(uid).or_default().insert(key.clone());
            }
            if let Some(node) = node_of(pod) {
                let pods = self.on_node.entry(node.to_owned()).or_default();
                pods.insert(key.clone());
            }
        }
    }

    fn see_node(&mut self, event: watcher::Result<watcher::Event<Node>>) -> u32 {
        let (changes, listed) = see(&mut self.nodes, event);
        for change in changes {
            let name = &change.key.name;
            if change.before.is_none() {
                self.gone.remove(name);
                // One of that name again; a stopped kubelet goes on when its time has come.
                if self.silent.get(name) == Some(&None) {
                    self.silent.remove(name);
                }
            }
            if change.after.is_none() {
                self.gone.insert(name.clone(), Instant::now());
            }
            let pods = self.on_node.get(name).into_iter().flatten().cloned();
            self.due.extend(pods.map(Due::Pod));
            self.look(Due::Unplaced);
        }
        listed
    }

    /// Lets the Job controller act.
    async fn job(&mut self, key: Key) {
        let Some(job) = self.jobs.get(&key).cloned() else {
            return;
        };
        let uid = job.uid().unwrap_or_default();
        let pods = self.of_job.get(&uid).into_iter().flatten();
        let pods: Vec<Arc<Pod>> = pods.filter_map(|key| self.pods.get(key).cloned()).collect();
        let pods: Vec<&Pod> = pods.iter().map(AsRef::as_ref).collect();
        let next = next(&job, &pods, self.now(), &self.settings.backoff);
        if let Some(wait) = next.again {
            self.look_after(wait, Due::Job(key.clone()));
        }
        if self.carry_out(&job, &key.namespace, next).await.is_none() {
            self.look_after(HICCUP, Due::Job(key));
        }
    }

    async fn carry_out(
        &mut self,
        job: &Job,
        namespace: &str,
        next: super::job_controller::Next,
    ) -> Option<()> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), namespace);
        let (deletes, posts) = (DeleteParams::default(), PostParams::default());
        for name in &next.delete {
            let deleted = pods.delete(name, &deletes);
            match timeout(LIMIT, deleted).await {
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => {}
                Ok(Ok(_)) => {}
                _ => return None,
            }
        }
        for pod in &next.create {
            let created = pods.create(&posts, pod);
            let created = self.call("create pod", created).await?;
            if let Some(change) = self.pods.put(created) {
                self.pod_changed(&change);
            }
        }
        if let Some(status) = next.status {
            let mut job = job.clone();
            job.status = Some(status);
            let name = job.name_any();
            let written = jobs.replace_status(&name, &posts, &job);
            let written = self.call("write the Job's status", written).await?;
            if let Some(change) = self.jobs.put(written) {
                self.job_changed(&change);
            }
        }
        for name in &next.release {
            self.release(namespace, name).await?;
        }
        if next.expired {
            let params = DeleteParams {
                propagation_policy: Some(PropagationPolicy::Foreground),
                preconditions: Some(Preconditions {
                    uid: job.uid(),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            let name = job.name_any();
            self.call("delete an old Job", jobs.delete(&name, &params))
                .await?;
        }
        Some(())
    }

    /// Lets go of a pod.
    async fn release(&mut self, namespace: &str, name: &str) -> Option<()> {
        let key = super::key(namespace, name);
        let pod = Arc::clone(self.pods.get(&key)?);
        let kept = pod.finalizers().iter().filter(|known| *known != FINALIZER);
        let kept: Vec<&String> = kept.collect();
        let patch = json!({"metadata": {"uid": pod.uid(), "finalizers": kept}});
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let patch = Patch::Merge(&patch);
        let params = PatchParams::default();
        let released = pods.patch(name, &params, &patch);
        match timeout(LIMIT, released).await {
            Ok(Ok(pod)) => {
                // One that was deleted goes with its last finalizer: that comes by the watch.
                if pod.metadata.deletion_timestamp.is_none()
                    && let Some(change) = self.pods.put(pod)
                {
                    self.pod_changed(&change);
                }
                Some(())
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Some(()),
            _ => None,
        }
    }

    /// Lets whoever is responsible for a pod act.
    async fn pod(&mut self, key: Key) {
        let Some(pod) = self.pods.get(&key).cloned() else {
            self.unplaced.remove(&key);
            self.retries.remove(&key);
            if let Some(run) = self.runs.remove(&key) {
                run.abort();
                self.containers.forget(&run.uid);
            }
            return;
        };
        let uid = pod.uid().unwrap_or_default();
        if let Some(run) = self.runs.get(&key)
            && run.uid != uid
        {
            run.abort();
            let gone = run.uid.clone();
            self.runs.remove(&key);
            self.containers.forget(&gone);
        }
        if self.is_orphan(&pod).await && self.release(&key.namespace, &key.name).await.is_none() {
            self.look_after(HICCUP, Due::Pod(key.clone()));
        }
        let Some(node) = node_of(&pod) else {
            if pod.metadata.deletion_timestamp.is_some() {
                self.give_up(&key, &pod, false).await;
            } else if !has_ended(&pod) && self.unplaced.insert(key) {
                self.look(Due::Unplaced);
            }
            return;
        };
        self.unplaced.remove(&key);
        let named = super::key("", node);
        if self.nodes.get(&named).is_none() {
            let since = *self
                .gone
                .entry(node.to_owned())
                .or_insert_with(Instant::now);
            let end = since + self.settings.quarantine;
            if Instant::now() >= end {
                self.give_up(&key, &pod, true).await;
            } else {
                self.timers.insert((end, Due::Pod(key)));
            }
            return;
        }
        match self.silent.get(node) {
            Some(None) => return,
            Some(Some(until)) if Instant::now() < *until => {
                self.timers.insert((*until, Due::Pod(key)));
                return;
            }
            _ => {}
        }
        self.sync(key, pod).await;
    }

    /// Whether the Job that a pod is counted by is gone.
    async fn is_orphan(&self, pod: &Pod) -> bool {
        if !is_tracked(pod) {
            return false;
        }
        let Some((name, uid)) = controlling_job(pod) else {
            return true;
        };
        let namespace = pod.namespace().unwrap_or_default();
        let key = super::key(&namespace, &name);
        let is_it = |job: &Job| job.metadata.uid.as_deref() == Some(uid.as_str());
        if self.jobs.get(&key).is_some_and(|job| is_it(job)) {
            return false;
        }
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), &namespace);
        match self.call("get the Job of a pod", jobs.get_opt(&name)).await {
            Some(found) => !found.is_some_and(|job| is_it(&job)),
            None => false,
        }
    }

    /// Ends a pod that no kubelet will end.
    async fn give_up(&mut self, key: &Key, pod: &Pod, node_gone: bool) {
        if !has_ended(pod) {
            let status = pod_status::given_up(pod, node_gone, self.now());
            if !self.write_status(key, pod, status).await {
                return;
            }
        }
        self.remove(key, pod).await;
    }

    /// Writes a pod's status, if it is another one; says whether it stands.
    pub async fn write_status(&mut self, key: &Key, pod: &Pod, status: PodStatus) -> bool {
        if pod.status.as_ref() == Some(&status) {
            return true;
        }
        let mut pod = pod.clone();
        pod.status = Some(status);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = PostParams::default();
        let written = api.replace_status(&key.name, &params, &pod);
        let Some(written) = self.call("write the pod's status", written).await else {
            self.look_after(HICCUP, Due::Pod(key.clone()));
            return false;
        };
        if let Some(change) = self.pods.put(written) {
            self.pod_changed(&change);
        }
        true
    }

    /// Takes a pod's object away: nothing of it runs.
    pub async fn remove(&mut self, key: &Key, pod: &Pod) {
        if pod.metadata.deletion_grace_period_seconds == Some(0) {
            // It was taken away; whoever has a finalizer on it has to let go.
            return;
        }
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: pod.uid(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        self.call("take a pod away", api.delete(&key.name, &params))
            .await;
    }

    /// Lets the scheduler act.
    async fn place(&mut self) {
        let mut waiting: Vec<(Option<Timestamp>, Key)> = Vec::new();
        for key in std::mem::take(&mut self.unplaced) {
            if let Some(pod) = self.pods.get(&key)
                && node_of(pod).is_none()
                && !has_ended(pod)
                && pod.metadata.deletion_timestamp.is_none()
            {
                waiting.push((pod.creation_timestamp().map(|at| at.0), key));
            }
        }
        waiting.sort();
        for (_, key) in waiting {
            if !self.place_one(&key).await {
                self.unplaced.insert(key);
            }
        }
        if !self.unplaced.is_empty() {
            self.look_after(self.settings.retry, Due::Unplaced);
        }
    }

    async fn place_one(&mut self, key: &Key) -> bool {
        let Some(pod) = self.pods.get(key).cloned() else {
            return true;
        };
        let missing = self.missing_claims(&pod).await;
        let there: Vec<(Arc<Node>, Vec<Arc<Pod>>)> = self
            .nodes
            .iter()
            .filter(|(key, _)| self.silent.get(&key.name) != Some(&None))
            .map(|(key, node)| {
                let pods = self.on_node.get(&key.name).into_iter().flatten();
                let pods = pods.filter_map(|key| self.pods.get(key).cloned());
                (Arc::clone(node), pods.collect())
            })
            .collect();
        let places: Vec<Place<'_>> = there
            .iter()
            .map(|(node, pods)| Place {
                node,
                pods: pods.iter().map(AsRef::as_ref).collect(),
            })
            .collect();
        match place(&pod, &places, &missing) {
            Ok(node) => self.bind(key, &pod, &node).await,
            Err(message) => {
                let status = pod_status::unschedulable(&pod, &message, self.now());
                self.write_status(key, &pod, status).await;
                false
            }
        }
    }

    /// The claims that a pod names and that do not exist.
    pub async fn missing_claims(&self, pod: &Pod) -> Vec<String> {
        let namespace = pod.namespace().unwrap_or_default();
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &namespace);
        let mut missing = Vec::new();
        for claim in claims_of(pod) {
            if let Some(None) = self.call("get claim", api.get_opt(&claim)).await {
                missing.push(claim);
            }
        }
        missing
    }

    async fn bind(&mut self, key: &Key, pod: &Pod, node: &str) -> bool {
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": key.name, "namespace": key.namespace, "uid": pod.uid()},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let params = PostParams::default();
        let bound =
            api.create_subresource::<_, serde_json::Value>("binding", &key.name, &params, &binding);
        if self.call("bind a pod", bound).await.is_none() {
            return false;
        }
        let mut pod = pod.clone();
        pod.spec.get_or_insert_default().node_name = Some(node.to_owned());
        // Takes its room at once; its kubelet hears of it by the watch.
        let change = self.pods.assume(pod);
        self.index(&change);
        true
    }

    fn ended(&mut self, ended: Result<(Key, String, Exit), tokio::task::JoinError>) {
        // Aborted ones are not waited for.
        let Ok((key, uid, exit)) = ended else {
            return;
        };
        if let Some(run) = self.runs.get_mut(&key)
            && run.uid == uid
        {
            run.exit = Some(exit);
            self.look(Due::Pod(key));
        }
    }
}

fn see<K: Resource>(
    cache: &mut Cache<K>,
    event: watcher::Result<watcher::Event<K>>,
) -> (Vec<Change<K>>, u32) {
    match event {
        Ok(event) => {
            let listed = u32::from(matches!(event, watcher::Event::InitDone));
            (cache.observe(event), listed)
        }
        Err(error) => {
            debug!(%error, "a watch was interrupted");
            (Vec::new(), 0)
        }
    }
}

fn forget(index: &mut BTreeMap<String, BTreeSet<Key>>, of: Option<String>, key: &Key) {
    let Some(of) = of else {
        return;
    };
    if let Some(keys) = index.get_mut(&of) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(&of);
        }
    }
}

/// The node that a pod was given.
pub fn node_of(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    spec.node_name.as_deref().filter(|node| !node.is_empty())
}

/// Name and uid of the Job that controls a pod.
fn controlling_job(pod: &Pod) -> Option<(String, String)> {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    let job = owners.find(|owner| owner.controller == Some(true) && owner.kind == "Job")?;
    Some((job.name.clone(), job.uid.clone()))
}
