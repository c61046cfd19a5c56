//! The cluster on the API server in memory, with containers that only pretend, in tokio's paused time.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use inferbench_fakekube::{
    Clock, FakeKube,
    cluster::{Cluster, Exit, Script, Scripted, Settings, Start, node},
};
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobStatus},
        core::v1::Pod,
    },
    jiff::Timestamp,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, PropagationPolicy},
};
use serde_json::{Value, json};

const NAMESPACE: &str = "bench";

struct Lab {
    kube: FakeKube,
    client: Client,
    cluster: Cluster,
}

impl Lab {
    /// Two nodes with four GPUs each, and one of the runner's pods at a time on each.
    async fn new(script: impl Fn(&Start) -> Script + Send + Sync + 'static) -> Self {
        let epoch: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let kube = FakeKube::with_clock(Clock::simulated(epoch));
        kube.spawn_garbage_collector(Duration::from_millis(10));
        let client = kube.client("test");
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        kube.create(&namespace).expect("a namespace");
        let nodes = ["a", "b"].map(|name| node(name, &[("cpu", "8"), ("nvidia.com/gpu", "4")]));
        let mut settings = Settings::new(nodes.to_vec());
        let clock = kube.clone();
        settings.now = Arc::new(move || clock.now());
        let cluster = Cluster::start(kube.client("cluster"), settings, Scripted::new(script));
        Self {
            kube,
            client,
            cluster,
        }
    }

    fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    async fn create(&self, name: &str, spec: &Value) -> Job {
        let mut job = json!({
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name},
            "spec": {
                "backoffLimit": 2,
                "podReplacementPolicy": "Failed",
                "podFailurePolicy": {"rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {"action": "FailJob", "onExitCodes": {"containerName": "runner", "operator": "In", "values": [65, 137]}},
                ]},
                "template": {"spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": "runner", "image": "runner:1", "command": ["inferbench"]}],
                }},
            },
        });
        merge(&mut job["spec"], spec);
        let job: Job = serde_json::from_value(job).expect("a Job");
        let created = self.jobs().create(&PostParams::default(), &job).await;
        created.expect("it is created")
    }

    async fn status(&self, name: &str) -> JobStatus {
        self.jobs()
            .get(name)
            .await
            .expect("it is there")
            .status
            .unwrap_or_default()
    }

    async fn pod_list(&self) -> Vec<Pod> {
        let pods = self.pods().list(&ListParams::default()).await;
        pods.expect("a list").items
    }

    /// The reason of the condition by which a Job ended; waits until it has.
    async fn end(&self, name: &str) -> String {
        for _ in 0..20_000 {
            let status = self.status(name).await;
            let conditions = status.conditions.unwrap_or_default();
            let end = conditions
                .iter()
                .find(|condition| matches!(condition.type_.as_str(), "Complete" | "Failed"));
            if let Some(end) = end {
                return format!("{} {}", end.type_, end.reason.clone().unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        panic!(
            "it never ends: {:?}\n{:#?}",
            self.status(name).await,
            self.pod_list().await
        );
    }

    /// Waits until a pod is so.
    async fn pod(&self, what: &str, is_so: impl Fn(&Pod) -> bool) -> Pod {
        for _ in 0..20_000 {
            if let Some(pod) = self.pod_list().await.into_iter().find(|pod| is_so(pod)) {
                return pod;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("no pod is {what}: {:#?}", self.pod_list().await);
    }
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

fn ends(seconds: u64, code: i32) -> impl Fn(&Start) -> Script {
    move |_: &Start| {
        Script::new(Duration::from_secs(seconds), move || {
            Exit::new(code, "said")
        })
    }
}

fn is(phase: &'static str) -> impl Fn(&Pod) -> bool {
    move |pod| {
        let status = pod.status.as_ref();
        status.and_then(|status| status.phase.as_deref()) == Some(phase)
    }
}

fn waits(pod: &Pod) -> (String, String) {
    let reason = || -> Option<(String, String)> {
        let container = pod
            .status
            .as_ref()?
            .container_statuses
            .as_ref()?
            .first()?
            .clone();
        let waiting = container.state?.waiting?;
        Some((waiting.reason?, waiting.message.unwrap_or_default()))
    };
    reason().unwrap_or_default()
}

fn condition(pod: &Pod, kind: &str) -> Option<(String, String)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions
        .iter()
        .find(|condition| condition.type_ == kind)?;
    Some((
        found.reason.clone().unwrap_or_default(),
        found.message.clone().unwrap_or_default(),
    ))
}

fn terminated(pod: &Pod) -> (i32, String, String) {
    let ended = || {
        let container = pod
            .status
            .as_ref()?
            .container_statuses
            .as_ref()?
            .first()?
            .clone();
        container.state?.terminated
    };
    let ended = ended().expect("it has ended");
    (
        ended.exit_code,
        ended.reason.unwrap_or_default(),
        ended.message.unwrap_or_default(),
    )
}

#[tokio::test(start_paused = true)]
async fn a_job_runs_to_its_end() {
    let lab = Lab::new(ends(60, 0)).await;
    lab.create("j", &json!({})).await;
    let pod = lab.pod("running", is("Running")).await;
    assert!(pod.spec.as_ref().expect("a spec").node_name.is_some());
    assert_eq!(lab.end("j").await, "Complete CompletionsReached");
    let status = lab.status("j").await;
    assert_eq!(
        (status.succeeded, status.failed, status.active),
        (Some(1), None, None)
    );
    let took = status.completion_time.expect("an end").0 - status.start_time.expect("a start").0;
    assert!((60..70).contains(&took.get_seconds()), "{took:?}");
    let pods = lab.pod_list().await;
    assert_eq!(pods.len(), 1);
    assert_eq!(terminated(&pods[0]), (0, "Completed".into(), "said".into()));
    assert!(pods[0].finalizers().is_empty(), "it is counted");
    // Nothing is written any more.
    let version = lab.kube.version();
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert_eq!(lab.kube.version(), version);
}

#[tokio::test(start_paused = true)]
async fn failures_are_tried_again_and_permanent_ones_are_not() {
    let lab = Lab::new(|start| {
        let job = start
            .pod
            .labels()
            .get("job-name")
            .cloned()
            .unwrap_or_default();
        let code = if job == "breaks" { 1 } else { 65 };
        Script::new(Duration::from_secs(1), move || Exit::new(code, ""))
    })
    .await;
    lab.create("breaks", &json!({})).await;
    lab.create("permanent", &json!({})).await;
    assert_eq!(lab.end("breaks").await, "Failed BackoffLimitExceeded");
    assert_eq!(lab.end("permanent").await, "Failed PodFailurePolicy");
    assert_eq!(lab.status("breaks").await.failed, Some(3));
    assert_eq!(lab.status("permanent").await.failed, Some(1));
    assert_eq!(lab.pod_list().await.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn an_indexed_job_runs_one_index_after_the_other() {
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&order);
    let lab = Lab::new(move |start| {
        let index = start.environment.variables["JOB_COMPLETION_INDEX"].clone();
        seen.lock().expect("no panic").push(index.clone());
        Script::new(Duration::from_secs(1), move || Exit::new(0, index))
    })
    .await;
    lab.create("j", &json!({"completionMode": "Indexed", "completions": 3}))
        .await;
    assert_eq!(lab.end("j").await, "Complete CompletionsReached");
    assert_eq!(*order.lock().expect("no panic"), ["0", "1", "2"]);
    assert_eq!(
        lab.status("j").await.completed_indexes.as_deref(),
        Some("0-2")
    );
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_deleted_in_the_foreground_goes_after_its_pods() {
    let lab = Lab::new(|_| Script {
        takes: Duration::from_secs(3_600),
        end: Box::new(|| Exit::new(0, "")),
        // It heeds no SIGTERM.
        on_term: None,
    })
    .await;
    lab.create("j", &json!({})).await;
    lab.pod("running", is("Running")).await;
    let params = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Foreground),
        ..DeleteParams::default()
    };
    lab.jobs()
        .delete("j", &params)
        .await
        .expect("it is deleted");
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert!(
        lab.jobs().get_opt("j").await.expect("an answer").is_some(),
        "its pod has 30 s"
    );
    assert_eq!(lab.cluster.running().await, 1);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(lab.jobs().get_opt("j").await.expect("an answer").is_none());
    assert!(lab.pod_list().await.is_empty());
    assert_eq!(lab.cluster.running().await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_the_world_does_to_pods_is_told_apart() {
    let lab = Lab::new(ends(3_600, 0)).await;
    lab.create("j", &json!({})).await;
    // Evicted: ignored, and replaced.
    let pod = lab.pod("running", is("Running")).await;
    assert!(lab.cluster.evict(NAMESPACE, &pod.name_any()).await);
    let pod = lab.pod("evicted", is("Failed")).await;
    let status = pod.status.clone().expect("a status");
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    assert!(condition(&pod, "DisruptionTarget").is_some());
    let first = lab.pod("running", is("Running")).await;
    // Its node goes for good: another one on the other.
    let node = |pod: &Pod| pod.spec.clone().expect("a spec").node_name.expect("a node");
    assert!(lab.cluster.remove_node(&node(&first)).await);
    let name = first.name_any();
    let second = lab
        .pod("on the other node", |pod| {
            is("Running")(pod) && pod.name_any() != name
        })
        .await;
    assert_ne!(node(&first), node(&second));
    assert_eq!(lab.status("j").await.failed, None);
    // Nobody hears its last word, and that it was killed for memory is its own fault.
    assert!(
        lab.cluster
            .lose_message(NAMESPACE, &second.name_any())
            .await
    );
    assert!(
        lab.cluster
            .kill_for_memory(NAMESPACE, &second.name_any())
            .await
    );
    assert_eq!(lab.end("j").await, "Failed PodFailurePolicy");
    let pod = lab
        .pods()
        .get(&second.name_any())
        .await
        .expect("it is there");
    assert_eq!(terminated(&pod), (137, "OOMKilled".into(), String::new()));
    assert!(!lab.cluster.evict(NAMESPACE, "nobody").await);
}

#[tokio::test(start_paused = true)]
async fn nodes_come_back_and_kubelets_pause() {
    let lab = Lab::new(ends(600, 0)).await;
    lab.create("j", &json!({"backoffLimit": 1})).await;
    let pod = lab.pod("running", is("Running")).await;
    let node = pod.spec.clone().expect("a spec").node_name.expect("a node");
    assert!(lab.cluster.reboot(&node).await);
    let pod = lab.pod("failed", is("Failed")).await;
    assert_eq!(terminated(&pod), (255, "Unknown".into(), String::from("")));
    let pod = lab.pod("running", is("Running")).await;
    let node = pod.spec.clone().expect("a spec").node_name.expect("a node");
    // Its container ends while nobody looks.
    assert!(
        lab.cluster
            .stop_kubelet(&node, Duration::from_secs(3_000))
            .await
    );
    tokio::time::sleep(Duration::from_secs(2_000)).await;
    assert!(is("Running")(
        &lab.pods().get(&pod.name_any()).await.expect("it is there")
    ));
    assert_eq!(lab.end("j").await, "Complete CompletionsReached");
}

#[tokio::test(start_paused = true)]
async fn what_keeps_a_pod_from_starting_is_said_until_it_is_mended() {
    let lab = Lab::new(ends(1, 0)).await;
    let pod = json!({"template": {"spec": {
        "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}],
        "containers": [{
            "name": "runner", "image": "runner:1", "command": ["inferbench"],
            "envFrom": [{"secretRef": {"name": "bucket"}}],
            "resources": {"limits": {"nvidia.com/gpu": "4"}},
        }],
    }}});
    lab.cluster.serve_image("runner:1", false).await;
    lab.create("j", &pod).await;
    let stuck = |pod: &Pod| {
        condition(pod, "PodScheduled").map(|(reason, _)| reason) == Some("Unschedulable".into())
    };
    let found = lab.pod("unschedulable", stuck).await;
    let (_, message) = condition(&found, "PodScheduled").expect("it says why");
    assert_eq!(
        message,
        "0/2 nodes are available: persistentvolumeclaim \"models\" not found."
    );
    lab.kube
        .create(&json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": "models", "namespace": NAMESPACE},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }))
        .expect("a claim");
    lab.pod("without its image", |pod| waits(pod).0 == "ErrImagePull")
        .await;
    lab.pod("tried again", |pod| waits(pod).0 == "ImagePullBackOff")
        .await;
    lab.cluster.serve_image("runner:1", true).await;
    let found = lab
        .pod("without its Secret", |pod| {
            waits(pod).0 == "CreateContainerConfigError"
        })
        .await;
    assert_eq!(waits(&found).1, "secret \"bucket\" not found");
    lab.kube
        .create(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bucket", "namespace": NAMESPACE},
        }))
        .expect("a Secret");
    assert_eq!(lab.end("j").await, "Complete CompletionsReached");
    // More than any node has.
    let pod = json!({"template": {"spec": {"containers": [{
        "name": "runner", "image": "runner:1", "command": ["inferbench"],
        "resources": {"limits": {"nvidia.com/gpu": "8"}},
    }]}}});
    lab.create("large", &pod).await;
    let found = lab.pod("unschedulable", stuck).await;
    let (_, message) = condition(&found, "PodScheduled").expect("it says why");
    assert_eq!(
        message,
        "0/2 nodes are available: 2 Insufficient nvidia.com/gpu."
    );
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_takes_too_long_is_ended() {
    let lab = Lab::new(ends(3_600, 0)).await;
    lab.create(
        "j",
        &json!({"backoffLimit": 0, "template": {"spec": {"activeDeadlineSeconds": 100}}}),
    )
    .await;
    assert_eq!(lab.end("j").await, "Failed BackoffLimitExceeded");
    let pod = lab.pod_list().await.remove(0);
    let status = pod.status.clone().expect("a status");
    assert_eq!(status.reason.as_deref(), Some("DeadlineExceeded"));
    // It heeded SIGTERM.
    assert_eq!(terminated(&pod).0, 1);
    let ran = lab.kube.now() - status.start_time.expect("a start").0;
    assert!((100..110).contains(&ran.get_seconds()), "{ran:?}");
}

#[tokio::test(start_paused = true)]
async fn suspended_jobs_wait_and_finished_ones_go_in_time() {
    let lab = Lab::new(ends(10, 0)).await;
    lab.create(
        "j",
        &json!({"suspend": true, "ttlSecondsAfterFinished": 3_600}),
    )
    .await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(lab.pod_list().await.is_empty());
    let patch = json!({"spec": {"suspend": false}});
    let params = PatchParams::default();
    let patched = lab.jobs().patch("j", &params, &Patch::Merge(&patch)).await;
    patched.expect("it is resumed");
    assert_eq!(lab.end("j").await, "Complete CompletionsReached");
    tokio::time::sleep(Duration::from_secs(3_500)).await;
    assert!(lab.jobs().get_opt("j").await.expect("an answer").is_some());
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert!(lab.jobs().get_opt("j").await.expect("an answer").is_none());
    assert!(lab.pod_list().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn jobs_and_pods_that_are_deleted_by_hand_leave_nothing_behind() {
    let lab = Lab::new(ends(600, 0)).await;
    lab.create("kept", &json!({})).await;
    let pod = lab.pod("running", is("Running")).await;
    let params = DeleteParams::default();
    lab.pods()
        .delete(&pod.name_any(), &params)
        .await
        .expect("it is deleted");
    // The Job replaces it, when it has gone, and counts it.
    let name = pod.name_any();
    lab.pod("another one", |pod| {
        is("Running")(pod) && pod.name_any() != name
    })
    .await;
    assert_eq!(lab.status("kept").await.failed, Some(1));
    // Orphans are let go of, and stay.
    let orphan = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Orphan),
        ..DeleteParams::default()
    };
    lab.jobs()
        .delete("kept", &orphan)
        .await
        .expect("it is deleted");
    tokio::time::sleep(Duration::from_secs(60)).await;
    let pods = lab.pod_list().await;
    assert_eq!(pods.len(), 1);
    assert!(pods[0].finalizers().is_empty());
    assert_eq!(lab.cluster.running().await, 1);
    lab.pods()
        .delete(&pods[0].name_any(), &params)
        .await
        .expect("it is deleted");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(lab.pod_list().await.is_empty());
    assert_eq!(lab.cluster.running().await, 0);
}

#[tokio::test(start_paused = true)]
async fn many_jobs_go_through() {
    let lab = Lab::new(ends(5, 0)).await;
    for number in 0..500 {
        lab.create(&format!("j{number}"), &json!({})).await;
    }
    for number in 0..500 {
        assert_eq!(
            lab.end(&format!("j{number}")).await,
            "Complete CompletionsReached"
        );
    }
    let counts = lab.kube.counts("cluster");
    // As many as in Kubernetes itself: a pod, its binding, two of the kubelet, and its release; and the Job's status
    // when it begins, when its pod is ready, when that is noted as ended, and when it is finished.
    assert!(counts.writes() <= 500 * 9 + 10, "{}", counts.writes());
}
