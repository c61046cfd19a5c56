//! What lives on an API server: the Job controller, the scheduler, the pods' garbage collector and the kubelets, each
//! deciding by a pure function and acting through `kube::Client`, so that they also play against a real API server that
//! lacks them. What runs inside of the pods is for [`Containers`] to say: [`Scripted`] ones, by the thousand and in
//! tokio's time, or [`Processes`].
//!
//! Not here: more than one container in a pod, restarts of containers, `backoffLimitPerIndex`, success policies,
//! volumes other than claims, `emptyDir` and the downward API; affinity to pods, and pre-emption by priority.

mod cache;
pub mod containers;
pub mod environment;
pub mod failure_policy;
pub mod job_controller;
mod kubelet;
mod pod_status;
mod processes;
pub mod scheduler;
mod scripted;
pub mod selector;
mod world;

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Node, NodeStatus},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
    jiff::Timestamp,
};
use kube::Client;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use self::{
    cache::Key,
    world::{Order, World},
};
pub use self::{
    containers::{Containers, Exit, Signal, Signals, Start},
    job_controller::Backoff,
    processes::Processes,
    scripted::{Script, Scripted},
};

/// What a cluster is like.
#[derive(Clone)]
pub struct Settings {
    /// Its nodes; they are created.
    pub nodes: Vec<Node>,
    /// How long replacements of failed pods wait.
    pub backoff: Backoff,
    /// How long the kubelet and the scheduler wait before they try again what did not work.
    pub retry: Duration,
    /// How long a node is gone before its pods are given up.
    pub quarantine: Duration,
    /// What time it is; that of the API server.
    pub now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl Settings {
    /// These nodes, with the times that Kubernetes keeps.
    #[must_use]
    pub fn new(nodes: Vec<Node>) -> Self {
        Self {
            nodes,
            backoff: Backoff::default(),
            retry: Duration::from_secs(10),
            quarantine: Duration::from_secs(40),
            now: Arc::new(Timestamp::now),
        }
    }
}

/// A node with so much of each resource.
#[must_use]
pub fn node(name: &str, resources: &[(&str, &str)]) -> Node {
    let resources = resources
        .iter()
        .map(|(resource, amount)| ((*resource).to_owned(), Quantity((*amount).to_owned())));
    let labels = [("kubernetes.io/hostname".to_owned(), name.to_owned())];
    Node {
        metadata: ObjectMeta {
            name: Some(name.into()),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        },
        spec: None,
        status: Some(NodeStatus {
            allocatable: Some(resources.clone().collect()),
            capacity: Some(resources.collect()),
            ..NodeStatus::default()
        }),
    }
}

/// A cluster that runs until it is dropped; its containers end with it.
#[derive(Debug)]
pub struct Cluster {
    orders: mpsc::UnboundedSender<(Order, oneshot::Sender<bool>)>,
    task: JoinHandle<()>,
}

impl Cluster {
    /// Starts it on an API server.
    #[must_use]
    pub fn start(client: Client, settings: Settings, containers: impl Containers) -> Self {
        let (orders, received) = mpsc::unbounded_channel();
        let world = World::new(client, settings, Arc::new(containers));
        let task = tokio::spawn(world.run(received));
        Self { orders, task }
    }

    /// The kubelet evicts a pod: its node is low on something. Says whether there was such a pod, as all of these do.
    pub async fn evict(&self, namespace: &str, pod: &str) -> bool {
        self.order(Order::Evict(key(namespace, pod))).await
    }

    /// The kernel kills a pod's container for memory.
    pub async fn kill_for_memory(&self, namespace: &str, pod: &str) -> bool {
        self.order(Order::OutOfMemory(key(namespace, pod))).await
    }

    /// What a running pod's container will say in the end is lost.
    pub async fn lose_message(&self, namespace: &str, pod: &str) -> bool {
        self.order(Order::LoseMessage(key(namespace, pod))).await
    }

    /// A node is gone for good, and all that ran on it.
    pub async fn remove_node(&self, node: &str) -> bool {
        self.order(Order::RemoveNode(node.into())).await
    }

    /// A node goes down and comes back: what ran on it does not run any more.
    pub async fn reboot(&self, node: &str) -> bool {
        self.order(Order::Reboot(node.into())).await
    }

    /// A node's kubelet does nothing for a while; containers go on.
    pub async fn stop_kubelet(&self, node: &str, time: Duration) -> bool {
        self.order(Order::StopKubelet(node.into(), time)).await
    }

    /// From now on an image can be pulled, or cannot; all can in the beginning.
    pub async fn serve_image(&self, image: &str, serve: bool) {
        self.order(Order::ServeImage(image.into(), serve)).await;
    }

    /// How many containers run.
    pub async fn running(&self) -> usize {
        let (answer, count) = oneshot::channel();
        let order = Order::Count(answer);
        self.order(order).await;
        count.await.unwrap_or(0)
    }

    async fn order(&self, order: Order) -> bool {
        let (done, answer) = oneshot::channel();
        // A cluster that has ended does nothing more.
        self.orders.send((order, done)).is_ok() && answer.await.unwrap_or(false)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn key(namespace: &str, name: &str) -> Key {
    Key {
        namespace: namespace.into(),
        name: name.into(),
    }
}
