//! The scheduler's hands: gives pods the nodes that [`scheduler`](super::scheduler) finds for them.

use std::sync::Arc;

use k8s_openapi::{
    api::core::v1::{Node, Pod},
    jiff::Timestamp,
};
use kube::{Api, ResourceExt as _, api::PostParams};
use serde_json::json;

use super::{
    cache::Key,
    pod::{has_ended, node_of},
    pod_status,
    scheduler::{Place, place},
    world::{Due, World},
};

impl World {
    /// Lets the scheduler act.
    pub async fn place(&mut self) {
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
}
