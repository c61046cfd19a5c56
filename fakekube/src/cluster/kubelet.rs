//! What a kubelet does with the pods of its node.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use k8s_openapi::{
    api::core::v1::{Node, Pod, Secret},
    jiff::{SignedDuration, Timestamp},
};
use kube::{Api, ResourceExt as _, api::DeleteParams};
use tokio::{sync::watch, task::AbortHandle, time::Instant};

use super::{
    cache::Key,
    containers::{Exit, Signal, Signals, Start},
    environment::{Environment, Secrets, secrets_of},
    job_controller::{has_ended, phase},
    pod_status::{self, Cause},
    world::{Due, Order, World, node_of},
};

/// How long a container has after SIGTERM, where its pod does not say.
const GRACE: u64 = 30;

/// A container that was started.
#[derive(Debug)]
pub struct Run {
    /// Its pod's uid.
    pub uid: String,
    /// How it ended, once it has.
    pub exit: Option<Exit>,
    signal: watch::Sender<Signal>,
    task: AbortHandle,
    cause: Option<Cause>,
    kill_at: Option<Instant>,
    loses_message: bool,
}

impl Run {
    /// Ends it at once; nobody wants to know how.
    pub fn abort(&self) {
        self.task.abort();
    }

    /// Tells it to end, and to be ended after the grace period; what was the first cause stays.
    fn stop(&mut self, cause: Cause, grace: Duration) -> Instant {
        self.cause.get_or_insert(cause);
        let end = Instant::now() + grace;
        let end = self.kill_at.map_or(end, |earlier| earlier.min(end));
        self.kill_at = Some(end);
        let signal = if grace.is_zero() {
            Signal::Kill
        } else {
            Signal::Term
        };
        self.signal.send_if_modified(|known| {
            let stronger = *known < signal;
            *known = (*known).max(signal);
            stronger
        });
        end
    }
}

impl World {
    /// Brings a pod on, as its object asks and its container goes.
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
            run.signal.send_replace(Signal::Kill);
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
        let run = Run {
            uid,
            exit: None,
            signal,
            task,
            cause: None,
            kill_at: None,
            loses_message: false,
        };
        self.runs.insert(key.clone(), run);
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

    /// Does what somebody wants to happen; says whether there was anything to do it to.
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
                self.nodes.get(&super::key("", &name)).is_some()
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

/// What a pod's container waits for.
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

/// What is left of a pod's `activeDeadlineSeconds`, which count from when its node has taken it.
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
