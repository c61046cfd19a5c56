//! Writes to pods that the Job controller, the kubelets and the pods' garbage collector share.

use std::sync::Arc;

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{PersistentVolumeClaim, Pod, PodStatus},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;
use tokio::time::timeout;

use super::{
    cache::Key,
    environment::claims_of,
    pod::{FINALIZER, controlling_job, has_ended, is_tracked},
    pod_status,
    world::{Due, HICCUP, LIMIT, World},
};

impl World {
    /// Takes the Job controller's finalizer off a pod.
    pub async fn release(&mut self, namespace: &str, name: &str) -> Option<()> {
        let key = Key::new(namespace, name);
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

    /// Whether the Job that a pod is counted by is gone.
    pub async fn is_orphan(&self, pod: &Pod) -> bool {
        if !is_tracked(pod) {
            return false;
        }
        let Some((name, uid)) = controlling_job(pod) else {
            return true;
        };
        let namespace = pod.namespace().unwrap_or_default();
        let key = Key::new(&namespace, &name);
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
    pub async fn give_up(&mut self, key: &Key, pod: &Pod, node_gone: bool) {
        if !has_ended(pod) {
            let status = pod_status::given_up(pod, node_gone, self.now());
            if !self.write_status(key, pod, status).await {
                return;
            }
        }
        self.remove(key, pod).await;
    }

    /// Writes a pod's status where it differs; returns whether it stands.
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

    /// Deletes a pod's object: nothing of it runs.
    pub async fn remove(&mut self, key: &Key, pod: &Pod) {
        if pod.metadata.deletion_grace_period_seconds == Some(0) {
            // It was deleted already; it goes with its last finalizer.
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
        self.call("delete a pod", api.delete(&key.name, &params))
            .await;
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
}
