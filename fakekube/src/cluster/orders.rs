//! Things that happen to clusters, as tests order them: evictions, lost nodes, images that cannot be pulled.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::{Api, api::DeleteParams};
use tokio::{sync::oneshot, time::Instant};

use super::{
    cache::Key,
    containers::Exit,
    pod::{has_ended, node_of},
    pod_status::{self, Cause},
    world::World,
};

/// Something that a test wants to happen to the cluster.
#[derive(Debug)]
pub enum Order {
    Evict(Key),
    OutOfMemory(Key),
    LoseMessage(Key),
    RemoveNode(String),
    Reboot(String),
    StopKubelet(String, Duration),
    ServeImage(String, bool),
    /// Asks for the number of containers that run.
    Count(oneshot::Sender<usize>),
}

impl World {
    /// Carries out an order; returns whether there was anything to do it to.
    pub async fn obey(&mut self, order: Order) -> bool {
        match order {
            Order::Evict(key) => self.cut_off(key, Cause::Evicted).await,
            Order::OutOfMemory(key) => self.cut_off(key, Cause::OutOfMemory).await,
            Order::LoseMessage(key) => match self.runs.get_mut(&key) {
                Some(run) => {
                    run.loses_message = true;
                    true
                }
                None => false,
            },
            Order::RemoveNode(name) => {
                self.silent.insert(name.clone(), None);
                for key in self.runs_on(&name) {
                    if let Some(run) = self.runs.remove(&key) {
                        run.abort();
                    }
                }
                let nodes: Api<Node> = Api::all(self.client.clone());
                let params = DeleteParams::default();
                let deleted = nodes.delete(&name, &params);
                self.call("delete node", deleted).await.is_some()
            }
            Order::Reboot(name) => {
                let keys = self.runs_on(&name);
                for key in &keys {
                    self.cut_off(key.clone(), Cause::Rebooted).await;
                }
                !keys.is_empty()
            }
            Order::StopKubelet(name, time) => {
                self.silent
                    .insert(name.clone(), Some(Instant::now() + time));
                self.nodes.get(&Key::new("", &name)).is_some()
            }
            Order::ServeImage(image, serve) => {
                if serve {
                    self.refused_images.remove(&image)
                } else {
                    self.refused_images.insert(image)
                }
            }
            Order::Count(answer) => {
                let running = self.runs.values().filter(|run| run.exit.is_none());
                answer.send(running.count()).is_ok()
            }
        }
    }

    fn runs_on(&self, node: &str) -> Vec<Key> {
        let on = |key: &&Key| {
            let pod = self.pods.get(key);
            pod.and_then(|pod| node_of(pod)) == Some(node)
        };
        self.runs.keys().filter(on).cloned().collect()
    }

    /// Ends a pod's container, for a reason that is not its own.
    async fn cut_off(&mut self, key: Key, cause: Cause) -> bool {
        if let Some(run) = self.runs.get_mut(&key) {
            run.stop(cause, Duration::ZERO);
            return true;
        }
        let Some(pod) = self.pods.get(&key).cloned() else {
            return false;
        };
        if cause != Cause::Evicted || has_ended(&pod) || node_of(&pod).is_none() {
            return false;
        }
        let status = pod_status::ended(&pod, &Exit::new(137, ""), Some(&cause), self.now());
        self.write_status(&key, &pod, status).await
    }
}
