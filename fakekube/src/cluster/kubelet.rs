//! The kubelets: start and stop the containers of the pods on their nodes, and report how they are.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use k8s_openapi::{
    api::core::v1::{Pod, Secret},
    jiff::{SignedDuration, Timestamp},
};
use kube::{Api, ResourceExt as _};
use tokio::{sync::watch, time::Instant};

use super::{
    cache::Key,
    containers::{Exit, Signal, Signals, Start},
    environment::{Environment, Secrets, secrets_of},
    pod::{has_ended, phase},
    pod_status::{self, Cause},
    run::Run,
    world::{Due, World},
};

/// Seconds that a container has after SIGTERM, where its pod does not say.
const GRACE: u64 = 30;

impl World {
    /// Brings a pod's container and its status in line with its object.
    pub async fn sync(&mut self, key: Key, pod: Arc<Pod>) {
        let deleted = pod.metadata.deletion_timestamp.is_some();
        if has_ended(&pod) {
            if let Some(run) = self.runs.remove(&key) {
                run.abort();
            }
            if deleted {
                self.remove(&key, &pod).await;
            }
            return;
        }
        let left = deadline_left(&pod, self.now());
        let Some(run) = self.runs.get_mut(&key) else {
            if deleted {
                let status = pod_status::given_up(&pod, false, self.now());
                // It comes back here as one that has ended.
                self.write_status(&key, &pod, status).await;
            } else if left == Some(Duration::ZERO) {
                let exit = Exit::new(137, "");
                let status = pod_status::ended(&pod, &exit, Some(&Cause::Deadline), self.now());
                self.write_status(&key, &pod, status).await;
            } else if phase(&pod) == "Running" {
                // Started by a kubelet before this one, which took it along.
                let exit = Exit {
                    reason: Some("ContainerStatusUnknown".into()),
                    ..Exit::new(137, "")
                };
                let status = pod_status::ended(&pod, &exit, None, self.now());
                self.write_status(&key, &pod, status).await;
            } else if self
                .retries
                .get(&key)
                .is_none_or(|at| *at <= Instant::now())
            {
                self.retries.remove(&key);
                self.start(key, pod).await;
            }
            return;
        };
        if let Some(mut exit) = run.exit.clone() {
            if run.loses_message {
                exit.message.clear();
            }
            let status = pod_status::ended(&pod, &exit, run.cause.as_ref(), (self.settings.now)());
            if self.write_status(&key, &pod, status).await {
                self.runs.remove(&key);
            }
            return;
        }
        let mut waits = Vec::new();
        if deleted {
            waits.push(run.stop(Cause::Deleted, grace(&pod)));
        }
        match left {
            Some(Duration::ZERO) => waits.push(run.stop(Cause::Deadline, grace(&pod))),
            Some(left) => waits.push(Instant::now() + left),
            None => {}
        }
        let now = Instant::now();
        if run.kill_at.is_some_and(|at| at <= now) {
            run.kill();
        }
        for at in waits.into_iter().filter(|at| *at > now) {
            self.look_after(at - now, Due::Pod(key.clone()));
        }
        if phase(&pod) != "Running" {
            let status = pod_status::running(&pod, self.now());
            self.write_status(&key, &pod, status).await;
        }
    }

    async fn start(&mut self, key: Key, pod: Arc<Pod>) {
        let Some(container) = pod.spec.as_ref().and_then(|spec| spec.containers.first()) else {
            return;
        };
        let image = container.image.clone().unwrap_or_default();
        if self.refused_images.contains(&image) {
            let (reason, message) = if waits_for(&pod).is_some_and(|why| why.contains("Pull")) {
                (
                    "ImagePullBackOff",
                    format!("Back-off pulling image \"{image}\""),
                )
            } else {
                (
                    "ErrImagePull",
                    format!("failed to pull and unpack image \"{image}\": not found"),
                )
            };
            return self.wait(key, &pod, reason, &message).await;
        }
        if let Some(claim) = self.missing_claims(&pod).await.first() {
            let message = format!("persistentvolumeclaim \"{claim}\" not found");
            return self.wait(key, &pod, "ContainerCreating", &message).await;
        }
        let secrets = self.secrets(&pod).await;
        let environment = match Environment::of(&pod, container, &secrets) {
            Ok(environment) => environment,
            Err(message) => {
                let reason = "CreateContainerConfigError";
                return self.wait(key, &pod, reason, &message).await;
            }
        };
        let (signal, signals) = watch::channel(Signal::None);
        let running = self.containers.run(Start {
            pod: Arc::clone(&pod),
            environment,
            signals: Signals(signals),
        });
        let uid = pod.uid().unwrap_or_default();
        let (of, its) = (key.clone(), uid.clone());
        let task = self.tasks.spawn(async move {
            // The panic has been printed; a container that ends so has failed.
            let exit = AssertUnwindSafe(running).catch_unwind().await;
            let exit = exit.unwrap_or_else(|_| Exit::new(134, "panicked"));
            (of, its, exit)
        });
        self.runs.insert(key.clone(), Run::new(uid, signal, task));
        let status = pod_status::running(&pod, self.now());
        self.write_status(&key, &pod, status).await;
    }

    /// Says why a pod does not start, and tries again later.
    async fn wait(&mut self, key: Key, pod: &Pod, reason: &str, message: &str) {
        let status = pod_status::waiting(pod, reason, message, self.now());
        let retry = match deadline_left(pod, self.now()) {
            Some(left) => left.min(self.settings.retry),
            None => self.settings.retry,
        };
        self.retries.insert(key.clone(), Instant::now() + retry);
        self.look_after(retry, Due::Pod(key.clone()));
        self.write_status(&key, pod, status).await;
    }

    async fn secrets(&self, pod: &Pod) -> Secrets {
        let namespace = pod.namespace().unwrap_or_default();
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &namespace);
        let mut secrets = Secrets::new();
        for name in secrets_of(pod) {
            if let Some(Some(secret)) = self.call("get Secret", api.get_opt(&name)).await {
                secrets.insert(name, secret);
            }
        }
        secrets
    }
}

/// The reason why a pod's container waits.
fn waits_for(pod: &Pod) -> Option<&str> {
    let container = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    waiting.reason.as_deref()
}

/// How long a pod that is to be deleted, or is overdue, has to end.
fn grace(pod: &Pod) -> Duration {
    let spec = pod.spec.as_ref();
    let own = spec.and_then(|spec| spec.termination_grace_period_seconds);
    let asked = pod.metadata.deletion_grace_period_seconds.or(own);
    Duration::from_secs(
        asked
            .and_then(|asked| asked.try_into().ok())
            .unwrap_or(GRACE),
    )
}

/// The time left of a pod's `activeDeadlineSeconds`, which count from when its node has taken it.
fn deadline_left(pod: &Pod, now: Timestamp) -> Option<Duration> {
    let deadline = pod.spec.as_ref()?.active_deadline_seconds?;
    let deadline = Duration::from_secs(deadline.try_into().ok()?);
    let start = pod
        .status
        .as_ref()
        .and_then(|status| status.start_time.as_ref());
    let passed = start.map_or(SignedDuration::ZERO, |start| now.duration_since(start.0));
    let passed = Duration::try_from(passed).unwrap_or_default();
    Some(deadline.saturating_sub(passed))
}
