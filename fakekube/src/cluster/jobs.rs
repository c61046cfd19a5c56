//! The Job controller's hands: does for a Job what [`job_controller`](super::job_controller) says.

use std::sync::Arc;

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, PostParams, Preconditions, PropagationPolicy},
};
use tokio::time::timeout;

use super::{
    cache::Key,
    job_controller::{Next, next},
    world::{Due, HICCUP, LIMIT, World},
};

impl World {
    /// Lets the Job controller act.
    pub async fn job(&mut self, key: Key) {
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

    async fn carry_out(&mut self, job: &Job, namespace: &str, next: Next) -> Option<()> {
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
}
