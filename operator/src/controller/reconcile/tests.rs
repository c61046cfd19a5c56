//! Passes against a scripted API server: what is asked, in which order, and what is made of each refusal.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{Request, Response};
use inferbench_crds::{InferenceBenchmarkStatus, Outcome, contract::TrialReport};
use k8s_openapi::DeepMerge;
use kube::{Client, client::Body};
use serde_json::{Value, json};

use super::*;
use crate::controller::{
    bounds::Limits,
    build,
    fixtures::{defaults, resource, sweep},
    names,
};

const SPEC: &str = "
design:
  factors:
    model: [{name: a, source: {random: {preset: gpt2}}}]
    batchSize: [1, 2, 4]
    gpus: [1]
  order: Sequential
results: {store: {url: 's3://bucket'}}
";

/// An API server with one resource, its Jobs and its pods.
#[derive(Default)]
struct Server {
    resource: Value,
    version: u64,
    jobs: Vec<Value>,
    pods: Vec<Value>,
    /// Those that were posted.
    events: Vec<Value>,
    /// Every request, as `METHOD kind/name`.
    asked: Vec<String>,
    /// Bodies of requests that write.
    bodies: Vec<Value>,
    /// Answers to give instead, for requests that begin so.
    refuse: VecDeque<(&'static str, u16)>,
    /// Requests that are never answered.
    hang: Option<&'static str>,
}

impl Server {
    fn answer(&mut self, method: &str, path: &str, body: Value) -> Option<(u16, Value)> {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let at = parts
            .iter()
            .position(|part| *part == "namespaces")
            .expect("a namespace");
        let rest = parts[at + 2..].join("/");
        let asked = format!("{method} {rest}");
        self.asked.push(asked.clone());
        if !body.is_null() && !rest.starts_with("events") {
            self.bodies.push(body.clone());
        }
        if self.hang.is_some_and(|hang| asked.starts_with(hang)) {
            return None;
        }
        if let Some(at) = self
            .refuse
            .iter()
            .position(|(start, _)| asked.starts_with(start))
        {
            let code = self.refuse.remove(at).map_or(500, |(_, code)| code);
            return Some((code, refusal(code)));
        }
        let name = |value: &Value| {
            value["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        let is_ours = parts[at + 1] == "bench";
        let list = |items: &[Value]| {
            let items = if is_ours { items } else { &[] };
            json!({ "kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items })
        };
        Some(
            match (method, rest.split('/').collect::<Vec<_>>().as_slice()) {
                ("GET", ["inferencebenchmarks", _]) => {
                    if self.resource.is_null() {
                        (404, refusal(404))
                    } else {
                        (200, self.resource.clone())
                    }
                }
                ("GET", ["inferencebenchmarks"]) => {
                    (200, list(std::slice::from_ref(&self.resource)))
                }
                ("GET", ["pods"]) => (200, list(&self.pods)),
                ("GET", ["jobs"]) => (200, list(&self.jobs)),
                ("GET", ["jobs", wanted]) => {
                    match self.jobs.iter().find(|job| name(job) == *wanted) {
                        Some(job) => (200, job.clone()),
                        None => (404, refusal(404)),
                    }
                }
                ("PATCH", ["inferencebenchmarks", _, "status"]) => {
                    if body["metadata"]["resourceVersion"]
                        != self.resource["metadata"]["resourceVersion"]
                    {
                        return Some((409, refusal(409)));
                    }
                    self.version += 1;
                    let status = json!({ "status": body["status"] });
                    self.resource.merge_from(status);
                    self.resource["metadata"]["resourceVersion"] = json!(self.version.to_string());
                    (200, self.resource.clone())
                }
                ("POST", ["events"]) => {
                    self.events.push(body.clone());
                    (201, body)
                }
                ("PATCH", ["events", _]) => (200, body),
                ("POST", ["jobs"]) => {
                    if self.jobs.iter().any(|job| name(job) == name(&body)) {
                        return Some((409, refusal(409)));
                    }
                    let mut job = body;
                    job["metadata"]["uid"] = json!(format!("uid-{}", name(&job)));
                    self.jobs.push(job.clone());
                    (201, job)
                }
                ("DELETE", ["jobs", wanted]) => {
                    self.jobs.retain(|job| name(job) != *wanted);
                    (
                        200,
                        json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" }),
                    )
                }
                other => panic!("{other:?}"),
            },
        )
    }
}

fn refusal(code: u16) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": if code == 404 { "NotFound" } else { "Scripted" }, "message": "no" })
}

#[derive(Clone)]
pub struct World(Arc<Mutex<Server>>);

impl World {
    fn new(status: Option<InferenceBenchmarkStatus>) -> Self {
        let mut resource = resource(SPEC);
        resource.status = status;
        resource.metadata.resource_version = Some("0".into());
        let server = Server {
            resource: serde_json::to_value(resource).expect("JSON"),
            ..Server::default()
        };
        Self(Arc::new(Mutex::new(server)))
    }

    /// One with a resource that nobody has looked at yet.
    pub fn fresh() -> Self {
        Self::new(None)
    }

    /// How many Jobs there are.
    pub fn jobs(&self) -> usize {
        self.with(|server| server.jobs.len())
    }

    /// One whose preflight is over.
    fn pinned() -> Self {
        Self::new(Some(InferenceBenchmarkStatus {
            plan: Some(sweep(SPEC).plan),
            ..InferenceBenchmarkStatus::default()
        }))
    }

    fn with<T>(&self, look: impl FnOnce(&mut Server) -> T) -> T {
        look(&mut self.0.lock().expect("not poisoned"))
    }

    /// A context that knows nothing yet and holds nothing up.
    fn context(&self) -> Context {
        self.bounded(Limits {
            status_interval: Duration::ZERO,
            ..Limits::default()
        })
    }

    fn bounded(&self, limits: Limits) -> Context {
        Context {
            cluster: Cluster::new(self.client(), Duration::from_secs(5)),
            defaults: defaults(),
            bounds: Arc::new(Bounds::new(limits)),
            metrics: Arc::default(),
        }
    }

    pub fn client(&self) -> Client {
        let server = Arc::clone(&self.0);
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = Arc::clone(&server);
            async move {
                let method = request.method().to_string();
                let path = request.uri().path().to_owned();
                if request
                    .uri()
                    .query()
                    .is_some_and(|query| query.contains("watch=true"))
                {
                    // Nothing ever happens.
                    return std::future::pending().await;
                }
                let bytes = request.into_body().collect_bytes().await.expect("a body");
                let body = serde_json::from_slice(&bytes).unwrap_or_default();
                let answer = server
                    .lock()
                    .expect("not poisoned")
                    .answer(&method, &path, body);
                let Some((code, body)) = answer else {
                    return std::future::pending().await;
                };
                let response = Response::builder()
                    .status(code)
                    .body(Body::from(serde_json::to_vec(&body).expect("JSON")))
                    .expect("a response");
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        Client::new(service, "bench")
    }

    async fn pass(&self) -> Result<Next, ApplyError> {
        self.pass_in(&self.context()).await
    }

    async fn pass_in(&self, context: &Context) -> Result<Next, ApplyError> {
        reconcile(context, &|| true, &key(), now()).await
    }

    /// What was asked, but for events, which nothing waits for.
    fn asked(&self) -> Vec<String> {
        let asked = self.with(|server| std::mem::take(&mut server.asked));
        let other = |asked: &String| !asked.contains(" events");
        asked.into_iter().filter(other).collect()
    }

    fn status(&self) -> InferenceBenchmarkStatus {
        let status = self.with(|server| server.resource["status"].clone());
        serde_json::from_value(status).expect("a status")
    }

    /// The first trial's Job, ended well, with its pod.
    fn first_ended(&self) {
        let sweep = sweep(SPEC);
        let trial = sweep.expansion.trial(0).expect("there");
        let mut job = serde_json::to_value(build::trials(&sweep, &[trial])).expect("JSON");
        job["metadata"]["uid"] = json!("job-uid");
        job["status"] = json!({"conditions": [
            {"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        ]});
        let report = TrialReport {
            outcomes: "1".into(),
            ..TrialReport::default()
        };
        let pod = json!({
            "metadata": {"name": "p", "ownerReferences": [
                {"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "job-uid", "controller": true},
            ]},
            "status": {"phase": "Succeeded", "containerStatuses": [
                {"name": "runner", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                 "state": {"terminated": {"exitCode": 0, "message": serde_json::to_string(&report).expect("JSON")}}},
            ]},
        });
        self.with(|server| {
            server.jobs.push(job);
            server.pods.push(pod);
        });
    }
}

fn key() -> Key {
    ("bench".into(), "thesis".into())
}

fn now() -> Timestamp {
    "2026-01-01T00:00:30Z".parse().expect("a time")
}

#[tokio::test]
async fn a_new_resource_is_accepted_and_its_preflight_created() {
    let world = World::new(None);
    assert_eq!(world.pass().await.expect("fine"), Next::After(LOOK));
    assert_eq!(
        world.asked(),
        [
            "GET inferencebenchmarks/thesis",
            "GET jobs",
            "GET pods",
            "PATCH inferencebenchmarks/thesis/status",
            "POST jobs",
        ]
    );
    let status = world.status();
    assert_eq!(status.plan.expect("pinned").image, Some(defaults().image));
    assert_eq!(status.conditions.len(), 5);
    world.with(|server| {
        assert_eq!(
            server.jobs[0]["metadata"]["name"],
            "thesis-0f1e2d3c-preflight-1"
        )
    });
    // P5: nothing has changed, nothing is written.
    world.pass().await.expect("fine");
    assert_eq!(
        world.asked(),
        ["GET inferencebenchmarks/thesis", "GET jobs", "GET pods"]
    );
}

#[tokio::test]
async fn what_ended_is_recorded_then_deleted_and_then_followed() {
    let world = World::pinned();
    world.first_ended();
    world.pass().await.expect("fine");
    assert_eq!(
        world.asked()[3..],
        [
            "PATCH inferencebenchmarks/thesis/status",
            "DELETE jobs/thesis-0f1e2d3c-0",
            "POST jobs",
        ]
    );
    let delete = world.with(|server| server.bodies[1].clone());
    assert_eq!(delete["preconditions"]["uid"], "job-uid");
    assert_eq!(delete["propagationPolicy"], "Background");
    let ledger = world.status().ledger.expect("there");
    let ledger = Outcomes::decode(&ledger.outcomes, 3).expect("a ledger");
    assert_eq!(ledger.get(0), Some(Outcome::Succeeded));
}

#[tokio::test]
async fn a_conflict_ends_the_pass_before_anything_is_deleted_or_created() {
    let world = World::pinned();
    world.first_ended();
    world.with(|server| server.refuse.push_back(("PATCH", 409)));
    assert!(matches!(world.pass().await, Err(ApplyError::Conflict)));
    assert_eq!(world.asked().len(), 4);
}

#[tokio::test]
async fn an_answer_that_was_lost_is_made_up_for() {
    // Between the list and the creation, the Job of an earlier try appears.
    let world = World::pinned();
    let writes = AtomicUsize::new(0);
    let sneak = || {
        if writes.fetch_add(1, Ordering::SeqCst) == 1 {
            let sweep = sweep(SPEC);
            let trial = sweep.expansion.trial(0).expect("there");
            let mut job = serde_json::to_value(build::trials(&sweep, &[trial])).expect("JSON");
            job["metadata"]["uid"] = json!("earlier");
            world.with(|server| server.jobs.push(job));
        }
        true
    };
    let result = reconcile(&world.context(), &sneak, &key(), now()).await;
    assert_eq!(result.expect("fine"), Next::After(LOOK));
    assert_eq!(
        world.asked()[4..],
        ["POST jobs", "GET jobs/thesis-0f1e2d3c-0"]
    );
    world.with(|server| assert_eq!(server.jobs.len(), 1));
}

#[tokio::test]
async fn a_foreign_job_of_the_same_name_is_left_alone() {
    let world = World::pinned();
    world.with(|server| {
        server.jobs.push(json!({"metadata": {"name": "thesis-0f1e2d3c-0", "uid": "foreign"}, "spec": {"template": {}}}));
    });
    let context = world.context();
    let error = world.pass_in(&context).await.expect_err("refused");
    assert!(matches!(error, ApplyError::Taken { .. }), "{error}");
    world.with(|server| assert_eq!(server.jobs.len(), 1));
    // The next pass tells of it, until the name is free.
    world.pass_in(&context).await.expect_err("refused");
    let progressing = || {
        world.with(|server| {
            let conditions = server.resource["status"]["conditions"].as_array().cloned();
            let mut conditions = conditions.unwrap_or_default().into_iter();
            conditions.find(|condition| condition["type"] == "Progressing")
        })
    };
    let told = progressing().expect("a condition");
    assert_eq!(told["reason"], "NameTaken");
    let message = told["message"].as_str().expect("text");
    assert!(
        message.starts_with("Job thesis-0f1e2d3c-0 is not"),
        "{message}"
    );
    world.with(|server| server.jobs.clear());
    world.pass_in(&context).await.expect("fine");
    world.pass_in(&context).await.expect("fine");
    assert_eq!(progressing().expect("a condition")["reason"], "Measuring");
    assert!(
        !world
            .asked()
            .iter()
            .any(|asked| asked.starts_with("DELETE"))
    );
}

#[tokio::test]
async fn a_quota_means_wait() {
    let world = World::pinned();
    world.with(|server| server.refuse.push_back(("POST jobs", 403)));
    assert_eq!(world.pass().await.expect("fine"), Next::After(NO_ROOM));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_given_up() {
    for call in ["GET inferencebenchmarks", "GET jobs", "PATCH", "POST jobs"] {
        let world = World::pinned();
        world.with(|server| server.hang = Some(call));
        let error = world.pass().await.expect_err("given up");
        assert_eq!(error.kind(), "timeout", "{call}");
    }
}

#[tokio::test]
async fn whoever_does_not_lead_writes_nothing() {
    let world = World::pinned();
    world.first_ended();
    let result = reconcile(&world.context(), &|| false, &key(), now()).await;
    assert!(matches!(result, Err(ApplyError::Deposed)));
    assert!(world.asked().iter().all(|asked| asked.starts_with("GET")));
    // The lead is lost in mid-pass: not one more write.
    let left = AtomicUsize::new(1);
    let may_write = || {
        left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
            left.checked_sub(1)
        })
        .is_ok()
    };
    let result = reconcile(&world.context(), &may_write, &key(), now()).await;
    assert!(matches!(result, Err(ApplyError::Deposed)));
    let writes = world
        .asked()
        .iter()
        .filter(|asked| !asked.starts_with("GET"))
        .count();
    assert_eq!(writes, 1);
}

#[tokio::test]
async fn a_resource_that_goes_is_left_to_go() {
    let world = World::pinned();
    world.with(|server| {
        server.resource["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")
    });
    assert_eq!(world.pass().await.expect("fine"), Next::Changed);
    assert_eq!(world.asked().len(), 1);
    world.with(|server| server.resource = Value::Null);
    assert_eq!(world.pass().await.expect("fine"), Next::Changed);
}

#[tokio::test]
async fn a_bad_resource_is_told_so_once_and_stops_nothing() {
    let world = World::new(None);
    world.with(|server| {
        server.resource["spec"]["runner"]["podOverrides"] = json!({"spec": {"hostNetwork": true}})
    });
    assert_eq!(world.pass().await.expect("fine"), Next::Changed);
    let accepted = world.status().conditions.remove(0);
    assert!(
        accepted
            .message
            .contains("spec.runner.podOverrides.spec.hostNetwork"),
        "{}",
        accepted.message
    );
    world.asked();
    world.pass().await.expect("fine");
    assert_eq!(world.asked().len(), 1, "it is looked at, and nothing more");
    // One that is no InferenceBenchmark at all.
    world.with(|server| server.resource["spec"] = json!({"design": 3}));
    assert_eq!(world.pass().await.expect("fine"), Next::Changed);
    // A ledger that cannot be read stops the sweep: to begin anew would measure everything again.
    let world = World::pinned();
    world.with(|server| server.resource["status"]["ledger"] = json!({"outcomes": "nonsense!"}));
    world.pass().await.expect("fine");
    assert!(!world.asked().iter().any(|asked| asked.starts_with("POST")));
    assert_eq!(world.status().conditions[0].status, "False");
}

#[tokio::test]
async fn events_regard_the_resource_and_are_posted_once() {
    let world = World::new(None);
    world.pass().await.expect("fine");
    world.pass().await.expect("fine");
    let events = world.with(|server| server.events.clone());
    assert_eq!(events.len(), 1, "{events:?}");
    let event = &events[0];
    assert_eq!(
        event["regarding"],
        json!({
            "apiVersion": "inferbench.dev/v1alpha1", "kind": "InferenceBenchmark",
            "namespace": "bench", "name": "thesis", "uid": crate::controller::fixtures::UID,
        }),
        "kubectl describe finds it by these"
    );
    let of = |field: &str| event[field].as_str().unwrap_or_default();
    assert_eq!(
        (of("type"), of("reason"), of("action")),
        ("Normal", "Accepted", "Validate")
    );
    assert_eq!(of("reportingController"), names::MANAGER);
    assert!(!of("reportingInstance").is_empty() && !of("eventTime").is_empty());
    assert_eq!(event["metadata"]["namespace"], "bench");
}

#[tokio::test(start_paused = true)]
async fn events_that_cannot_be_posted_hold_up_nothing() {
    let world = World::new(None);
    world.with(|server| server.hang = Some("POST events"));
    assert_eq!(world.pass().await.expect("fine"), Next::After(LOOK));
    assert_eq!(world.jobs(), 1);
    let world = World::pinned();
    world.with(|server| server.refuse.push_back(("POST events", 403)));
    world.pass().await.expect("fine");
    assert_eq!(world.jobs(), 1);
}

#[tokio::test]
async fn what_was_not_written_is_not_told() {
    let world = World::new(None);
    world.with(|server| server.refuse.push_back(("PATCH", 409)));
    assert!(matches!(world.pass().await, Err(ApplyError::Conflict)));
    world.with(|server| assert_eq!(server.events.len(), 0));
}

#[tokio::test]
async fn what_is_recorded_and_live_is_counted() {
    let world = World::pinned();
    world.first_ended();
    let context = world.context();
    world.pass_in(&context).await.expect("fine");
    let expect = |line: &str| {
        let text = context.metrics.text(true, &context.bounds.live());
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    };
    expect("inferbench_operator_trials_total{outcome=\"Succeeded\"} 1");
    // The Job that was created in this very pass counts.
    expect("inferbench_operator_jobs_live{component=\"trial\"} 1");
    world.pass_in(&context).await.expect("fine");
    expect("inferbench_operator_trials_total{outcome=\"Succeeded\"} 1");
    expect("inferbench_operator_jobs_live{component=\"trial\"} 1");
    // Another operator, later: what is there counts, whoever made it.
    let restarted = world.context();
    world.pass_in(&restarted).await.expect("fine");
    assert_eq!(restarted.bounds.live(), [(Role::Trial, 1)].into());
    world.with(|server| server.resource = Value::Null);
    world.pass_in(&context).await.expect("fine");
    expect("inferbench_operator_jobs_live{component=\"trial\"} 0");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_transition_waits_with_the_whole_pass() {
    let world = World::pinned();
    let context = world.bounded(Limits::default());
    world.pass_in(&context).await.expect("fine");
    assert_eq!(
        world.asked()[3..],
        ["PATCH inferencebenchmarks/thesis/status", "POST jobs"]
    );
    // That it is active is no transition, and neither is what it ends as.
    world.with(|server| server.jobs.clear());
    world.first_ended();
    let wait = Duration::from_secs(2);
    assert_eq!(
        world.pass_in(&context).await.expect("fine"),
        Next::After(wait)
    );
    assert_eq!(
        world.asked().len(),
        3,
        "nothing is written, deleted or created"
    );
    tokio::time::advance(wait).await;
    world.pass_in(&context).await.expect("fine");
    assert_eq!(
        world.asked()[3..],
        [
            "PATCH inferencebenchmarks/thesis/status",
            "DELETE jobs/thesis-0f1e2d3c-0",
            "POST jobs"
        ]
    );
    // Suspending is one.
    world.with(|server| server.resource["spec"]["suspend"] = json!(true));
    world.pass_in(&context).await.expect("fine");
    assert_eq!(
        world.asked()[3..],
        ["PATCH inferencebenchmarks/thesis/status"]
    );
}

#[tokio::test]
async fn a_job_that_must_not_be_created_yet_is_waited_for() {
    let world = World::pinned();
    let context = world.bounded(Limits {
        create_rate: 1,
        create_burst: 1,
        status_interval: Duration::ZERO,
        ..Limits::default()
    });
    let other = ("bench".to_owned(), "other".to_owned());
    context
        .bounds
        .create(&other, Role::Trial, Instant::now())
        .expect("the burst");
    let next = world.pass_in(&context).await.expect("fine");
    let Next::After(wait) = next else {
        panic!("{next:?}");
    };
    assert!(wait <= Duration::from_secs(1), "{wait:?}");
    assert_eq!(world.jobs(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_large_window_is_filled_by_several_passes_that_follow_at_once() {
    let world = World::pinned();
    world.with(|server| {
        let spec = &mut server.resource["spec"];
        spec["design"]["factors"]["batchSize"] = (1..=40).collect::<Vec<i32>>().into();
        spec["execution"] = json!({"parallelism": 32});
    });
    // One of its shape has run: there is room.
    world.first_ended();
    let context = world.bounded(Limits {
        create_rate: 0,
        ..Limits::default()
    });
    let mut passes = Vec::new();
    while passes.last() != Some(&Next::After(LOOK)) && passes.len() < 9 {
        let before = world.jobs();
        passes.push(world.pass_in(&context).await.expect("fine"));
        assert!(world.jobs() <= before + CREATIONS);
        // One of them runs: there is more room.
        world.with(|server| {
            let uid = server.jobs[0]["metadata"]["uid"].clone();
            server.pods = vec![json!({
                "metadata": {"name": "q", "ownerReferences": [
                    {"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": uid, "controller": true},
                ]},
                "status": {"phase": "Running"},
            })];
        });
    }
    let at_once = Next::After(Duration::ZERO);
    assert_eq!(passes, [at_once, at_once, Next::After(LOOK)]);
    assert_eq!(world.jobs(), 32);
}
