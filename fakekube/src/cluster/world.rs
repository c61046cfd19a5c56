//! The state of a cluster: what it has seen of Jobs, pods and nodes, and what has to be looked at next.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{Node, Pod},
    },
    jiff::Timestamp,
};
use kube::{Client, Resource, ResourceExt as _, runtime::watcher};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tracing::{debug, warn};

use super::{
    cache::{Cache, Change, Key},
    containers::{Containers, Exit},
    pod::{controlling_job, has_ended, node_of},
    run::Run,
    settings::Settings,
};

/// The longest that a call may take.
pub const LIMIT: Duration = Duration::from_secs(30);
/// How long to wait after a call that failed: whatever made it fail will have changed by then.
pub const HICCUP: Duration = Duration::from_millis(200);

/// An object to look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    Job(Key),
    Pod(Key),
    /// All pods that have no node yet.
    Unplaced,
}

/// A cluster.
pub struct World {
    pub client: Client,
    pub settings: Settings,
    pub containers: Arc<dyn Containers>,
    pub jobs: Cache<Job>,
    pub pods: Cache<Pod>,
    pub nodes: Cache<Node>,
    /// The pods of each Job, by its uid.
    pub of_job: BTreeMap<String, BTreeSet<Key>>,
    /// The pods of each node.
    pub on_node: BTreeMap<String, BTreeSet<Key>>,
    due: BTreeSet<Due>,
    timers: BTreeSet<(Instant, Due)>,
    pub unplaced: BTreeSet<Key>,
    /// Containers that run, or have ended and are not in their pods' status yet.
    pub runs: BTreeMap<Key, Run>,
    pub tasks: JoinSet<(Key, String, Exit)>,
    pub refused_images: BTreeSet<String>,
    /// When to try again to start a pod that could not be started.
    pub retries: BTreeMap<Key, Instant>,
    /// Nodes whose kubelet does nothing until then, or never again.
    pub silent: BTreeMap<String, Option<Instant>>,
    /// Nodes that are gone, and since when.
    pub gone: BTreeMap<String, Instant>,
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

    pub fn now(&self) -> Timestamp {
        (self.settings.now)()
    }

    /// The API server's answer; none, with a line in the log, where it refuses.
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

    pub fn look(&mut self, due: Due) {
        self.due.insert(due);
    }

    pub fn look_after(&mut self, wait: Duration, due: Due) {
        self.look_at(Instant::now() + wait, due);
    }

    pub fn look_at(&mut self, at: Instant, due: Due) {
        self.timers.insert((at, due));
    }

    /// When the next timer is due.
    pub fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Queues all that is due by the timers.
    pub fn wake(&mut self) {
        let now = Instant::now();
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            self.due.extend(self.timers.pop_first().map(|(_, due)| due));
        }
    }

    /// The next object to look at.
    pub fn next_due(&mut self) -> Option<Due> {
        self.due.pop_first()
    }

    /// Takes in an event of a watch; returns whether it completes a list. So do the two after it.
    pub fn see_job(&mut self, event: watcher::Result<watcher::Event<Job>>) -> bool {
        let (changes, listed) = see(&mut self.jobs, event);
        for change in changes {
            self.job_changed(&change);
        }
        listed
    }

    pub fn see_pod(&mut self, event: watcher::Result<watcher::Event<Pod>>) -> bool {
        let (changes, listed) = see(&mut self.pods, event);
        for change in changes {
            self.pod_changed(&change);
        }
        listed
    }

    pub fn see_node(&mut self, event: watcher::Result<watcher::Event<Node>>) -> bool {
        let (changes, listed) = see(&mut self.nodes, event);
        for change in changes {
            self.node_changed(&change);
        }
        listed
    }

    pub fn job_changed(&mut self, change: &Change<Job>) {
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

    pub fn pod_changed(&mut self, change: &Change<Pod>) {
        self.index(change);
        self.look(Due::Pod(change.key.clone()));
        let pod = change.after.as_ref().or(change.before.as_ref());
        let job = pod.and_then(|pod| controlling_job(pod));
        if let (Some(pod), Some((name, _))) = (pod, job) {
            let namespace = pod.namespace().unwrap_or_default();
            self.look(Due::Job(Key::new(&namespace, &name)));
        }
        let holds = |pod: &Option<Arc<Pod>>| pod.as_ref().is_some_and(|pod| !has_ended(pod));
        if holds(&change.before) && !holds(&change.after) && !self.unplaced.is_empty() {
            // There is room again.
            self.look(Due::Unplaced);
        }
    }

    fn node_changed(&mut self, change: &Change<Node>) {
        let name = &change.key.name;
        if change.before.is_none() {
            self.gone.remove(name);
            // A new node of that name; a stopped kubelet resumes when its time has come.
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

    /// Keeps the pods of Jobs and nodes up to date.
    pub fn index(&mut self, change: &Change<Pod>) {
        let key = &change.key;
        if let Some(pod) = &change.before {
            let uid = controlling_job(pod).map(|(_, uid)| uid);
            forget(&mut self.of_job, uid.as_deref(), key);
            forget(&mut self.on_node, node_of(pod), key);
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
}

fn see<K: Resource>(
    cache: &mut Cache<K>,
    event: watcher::Result<watcher::Event<K>>,
) -> (Vec<Change<K>>, bool) {
    match event {
        Ok(event) => {
            let listed = matches!(event, watcher::Event::InitDone);
            (cache.observe(event), listed)
        }
        Err(error) => {
            debug!(%error, "a watch was interrupted");
            (Vec::new(), false)
        }
    }
}

fn forget(index: &mut BTreeMap<String, BTreeSet<Key>>, of: Option<&str>, key: &Key) {
    let Some(of) = of else {
        return;
    };
    if let Some(keys) = index.get_mut(of) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(of);
        }
    }
}
