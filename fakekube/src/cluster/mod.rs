//! A cluster on an API server: the Job controller, the scheduler, the pods' garbage collector and the kubelets, each
//! deciding by a pure function and acting through `kube::Client`, so that they also work on a real API server that
//! lacks them. The containers of its pods are [`Containers`]: [`Scripted`] ones, by the thousand and in tokio's time,
//! or [`Processes`].
//!
//! `job_controller`, `scheduler`, `failure_policy` and `pod_status` decide; `jobs`, `placing`, `pods` and `kubelet`
//! act;
//! `world` is the state that they share, and `task` the loop.
//!
//! Not here: more than one container in a pod, restarts of containers, `backoffLimitPerIndex`, success policies,
//! volumes other than claims, `emptyDir` and the downward API; affinity to pods, and pre-emption by priority.

mod cache;
mod containers;
pub mod environment;
mod failure_policy;
mod job_controller;
mod jobs;
mod kubelet;
mod orders;
mod placing;
mod pod;
mod pod_status;
mod pod_writes;
mod pods;
mod processes;
mod run;
mod scheduler;
mod scripted;
mod selector;
mod settings;
mod task;
mod world;

use std::{sync::Arc, time::Duration};

use kube::Client;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use self::{cache::Key, orders::Order, world::World};
pub use self::{
    containers::{Containers, Exit, Signal, Signals, Start},
    processes::Processes,
    scripted::{Script, Scripted},
    settings::{Backoff, Settings, node},
};

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

    /// The kubelet evicts a pod: its node is low on something. Returns whether there was such a pod; so do the others.
    pub async fn evict(&self, namespace: &str, pod: &str) -> bool {
        self.order(Order::Evict(Key::new(namespace, pod))).await
    }

    /// The kernel kills a pod's container for memory.
    pub async fn kill_for_memory(&self, namespace: &str, pod: &str) -> bool {
        self.order(Order::OutOfMemory(Key::new(namespace, pod)))
            .await
    }

    /// The termination message of a running pod's container gets lost.
    pub async fn lose_message(&self, namespace: &str, pod: &str) -> bool {
        self.order(Order::LoseMessage(Key::new(namespace, pod)))
            .await
    }

    /// A node is gone for good, and all that ran on it.
    pub async fn remove_node(&self, node: &str) -> bool {
        self.order(Order::RemoveNode(node.into())).await
    }

    /// A node goes down and comes back; nothing that ran on it runs any more.
    pub async fn reboot(&self, node: &str) -> bool {
        self.order(Order::Reboot(node.into())).await
    }

    /// A node's kubelet does nothing for a while; containers go on.
    pub async fn stop_kubelet(&self, node: &str, time: Duration) -> bool {
        self.order(Order::StopKubelet(node.into(), time)).await
    }

    /// From now on an image can be pulled, or cannot; at first all can.
    pub async fn serve_image(&self, image: &str, serve: bool) {
        self.order(Order::ServeImage(image.into(), serve)).await;
    }

    /// The number of containers that run.
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
