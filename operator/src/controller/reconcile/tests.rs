//! Reconciles against an API server in memory: the requests, their order, and the answer to each refusal.

use std::{
    collections::VecDeque,
    fmt::Debug,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use inferbench_crds::{
    InferenceBenchmarkStatus, Outcome, contract::TrialReport, crd::crd, status::CONDITIONS,
};
use inferbench_fakekube::{Call, Clock, FakeKube, Fault, Verb};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{Namespace, Pod},
    jiff::SignedDuration,
};
use kube::{Api, Client, Resource, api::DeleteParams};
use serde::de::DeserializeOwned;
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

/// An API server with one resource.
#[derive(Clone)]
pub struct World {
    kube: FakeKube,
    script: Arc<Mutex<Script>>,
}

/// The operator's requests, and the faults that they meet.
#[derive(Default)]
struct Script {
    /// Every request but watches, as `METHOD kind/name`.
    asked: Vec<String>,
    /// Bodies of requests that write, but for events.
    bodies: Vec<Value>,
    /// Refusals, each of one request that begins so.
    refuse: VecDeque<(&'static str, u16)>,
    /// Requests that begin so are never answered.
    hang: Option<&'static str>,
}

impl Script {
    fn fault(&mut self, call: &Call) -> Fault {
        if call.verb == Verb::Watch {
            return Fault::None;
        }
        let asked = line(call);
        if call.verb.writes() && call.resource != "events" {
            self.bodies
                .push(serde_json::from_slice(&call.body).expect("JSON"));
        }
        self.asked.push(asked.clone());
        if self.hang.is_some_and(|hang| asked.starts_with(hang)) {
            return Fault::Hang;
        }
        let mut refusals = self.refuse.iter();
        match refusals.position(|(start, _)| asked.starts_with(start)) {
            Some(at) => Fault::Refuse {
                code: self.refuse.remove(at).map_or(500, |(_, code)| code),
                reason: "Scripted",
                retry_after: None,
            },
            None => Fault::None,
        }
    }
}

/// A request in a line, such as `PATCH inferencebenchmarks/thesis/status`.
fn line(call: &Call) -> String {
    let method = match call.verb {
        Verb::Get | Verb::List | Verb::Watch => "GET",
        Verb::Create => "POST",
        Verb::Update => "PUT",
        Verb::Patch => "PATCH",
        Verb::Delete => "DELETE",
    };
    let (kind, subresource) = call
        .resource
        .split_once('/')
        .unwrap_or((&call.resource, ""));
    let mut path = kind.to_owned();
    for part in [&call.name, subresource] {
        if !part.is_empty() {
            path = format!("{path}/{part}");
        }
    }
    format!("{method} {path}")
}

impl World {
    fn new(status: Option<InferenceBenchmarkStatus>) -> Self {
        let kube = FakeKube::with_clock(Clock::simulated(now()));
        kube.install_crd(&crd()).expect("a definition");
        let namespace =
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "bench" } });
        kube.create(&namespace).expect("a namespace");
        let script = Arc::new(Mutex::new(Script::default()));
        let hook = Arc::clone(&script);
        kube.set_faults("operator", move |call| {
            hook.lock().expect("not poisoned").fault(call)
        });
        let world = Self { kube, script };
        let mut resource = resource(SPEC);
        resource.status = status;
        world.put(&serde_json::to_value(resource).expect("JSON"));
        world
    }

    /// One with a resource that nobody has looked at yet.
    pub fn fresh() -> Self {
        Self::new(None)
    }

    /// One whose preflight is over.
    fn pinned() -> Self {
        Self::new(Some(InferenceBenchmarkStatus {
            plan: Some(sweep(SPEC).plan),
            ..InferenceBenchmarkStatus::default()
        }))
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("not poisoned")
    }

    fn put(&self, object: &Value) {
        self.kube.put(object).expect("a known kind");
    }

    /// The number of Jobs.
    pub fn jobs(&self) -> usize {
        self.kube.count("jobs.batch")
    }

    fn resource(&self) -> Value {
        let mut all = self.kube.objects("inferencebenchmarks.inferbench.dev");
        all.pop().expect("the resource")
    }

    /// Changes the resource, whether or not a user could.
    fn edit(&self, change: impl FnOnce(&mut Value)) {
        let mut resource = self.resource();
        change(&mut resource);
        self.put(&resource);
    }

    /// Deletes an object as a user does.
    async fn delete<K>(&self, name: &str)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.kube.client("user"), "bench");
        let deleted = api.delete(name, &DeleteParams::background()).await;
        deleted.expect("it is deleted");
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
        self.kube.client("operator")
    }

    async fn reconcile(&self) -> Result<Next, ApplyError> {
        self.reconcile_in(&self.context()).await
    }

    async fn reconcile_in(&self, context: &Context) -> Result<Next, ApplyError> {
        self.reconcile_at(context, 0).await
    }

    /// This number of seconds after the first time.
    async fn reconcile_at(&self, context: &Context, seconds: i64) -> Result<Next, ApplyError> {
        let now = now() + SignedDuration::from_secs(seconds);
        reconcile(context, &|| true, &key(), now).await
    }

    /// The requests so far, but for events, which nothing waits for.
    fn asked(&self) -> Vec<String> {
        let asked = std::mem::take(&mut self.script().asked);
        let other = |asked: &String| !asked.contains(" events");
        asked.into_iter().filter(other).collect()
    }

    fn status(&self) -> InferenceBenchmarkStatus {
        serde_json::from_value(self.resource()["status"].clone()).expect("a status")
    }

    /// The first trial's Job, as it was created by somebody with this uid.
    fn put_first(&self, uid: &str, status: Value) {
        let sweep = sweep(SPEC);
        let trial = sweep.expansion.trial(0).expect("there");
        let mut job = serde_json::to_value(build::trials(&sweep, &[trial])).expect("JSON");
        job["metadata"]["uid"] = json!(uid);
        job["status"] = status;
        self.put(&job);
    }

    /// The first trial's Job, ended well, with its pod.
    fn first_ended(&self) {
        self.put_first(
            "job-uid",
            json!({"conditions": [
                {"type": "Complete", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            ]}),
        );
        let report = TrialReport {
            outcomes: "1".into(),
            ..TrialReport::default()
        };
        let status = json!({"phase": "Succeeded", "containerStatuses": [
            {"name": "runner", "image": "", "imageID": "", "ready": false, "restartCount": 0,
             "state": {"terminated": {"exitCode": 0, "message": serde_json::to_string(&report).expect("JSON")}}},
        ]});
        self.put_pod("p", "job-uid", status);
    }

    /// A pod of the Job with this uid.
    fn put_pod(&self, name: &str, uid: &str, status: Value) {
        let jobs = self.kube.objects("jobs.batch");
        let job = jobs.iter().find(|job| job["metadata"]["uid"] == uid);
        let job = job.expect("the Job");
        self.put(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": name, "namespace": "bench",
                "labels": job["spec"]["template"]["metadata"]["labels"],
                "ownerReferences": [
                    {"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": uid, "controller": true},
                ],
            },
            "status": status,
        }));
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
    assert_eq!(world.reconcile().await.expect("fine"), Next::After(LOOK));
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
    assert_eq!(status.conditions.len(), CONDITIONS.len());
    assert_eq!(
        world.kube.objects("jobs.batch")[0]["metadata"]["name"],
        "thesis-0f1e2d3c-preflight-1"
    );
    // P5: nothing has changed, nothing is written.
    world.reconcile().await.expect("fine");
    assert_eq!(
        world.asked(),
        ["GET inferencebenchmarks/thesis", "GET jobs", "GET pods"]
    );
}

#[tokio::test]
async fn what_ended_is_recorded_then_deleted_and_then_followed() {
    let world = World::pinned();
    world.first_ended();
    world.reconcile().await.expect("fine");
    assert_eq!(
        world.asked()[3..],
        [
            "PATCH inferencebenchmarks/thesis/status",
            "DELETE jobs/thesis-0f1e2d3c-0",
            "POST jobs",
        ]
    );
    let delete = world.script().bodies[1].clone();
    assert_eq!(delete["preconditions"]["uid"], "job-uid");
    assert_eq!(delete["propagationPolicy"], "Background");
    let ledger = world.status().ledger.expect("there");
    let ledger = Outcomes::decode(&ledger.outcomes, 3).expect("a ledger");
    assert_eq!(ledger.get(0), Some(Outcome::Succeeded));
}

#[tokio::test]
async fn a_conflict_ends_the_reconcile_before_anything_is_deleted_or_created() {
    let world = World::pinned();
    world.first_ended();
    world.script().refuse.push_back(("PATCH", 409));
    assert!(matches!(world.reconcile().await, Err(ApplyError::Conflict)));
    assert_eq!(world.asked().len(), 4);
}

#[tokio::test]
async fn an_answer_that_was_lost_is_made_up_for() {
    // Between the list and the creation, the Job of an earlier try appears.
    let world = World::pinned();
    let writes = AtomicUsize::new(0);
    let sneak = || {
        if writes.fetch_add(1, Ordering::SeqCst) == 1 {
            world.put_first("earlier", json!({}));
        }
        true
    };
    let result = reconcile(&world.context(), &sneak, &key(), now()).await;
    assert_eq!(result.expect("fine"), Next::After(LOOK));
    assert_eq!(
        world.asked()[4..],
        ["POST jobs", "GET jobs/thesis-0f1e2d3c-0"]
    );
    assert_eq!(world.jobs(), 1);
}

#[tokio::test]
async fn a_foreign_job_of_the_same_name_is_left_alone() {
    let world = World::pinned();
    world.put(&json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "thesis-0f1e2d3c-0", "namespace": "bench", "uid": "foreign"},
        "spec": {"template": {}},
    }));
    let context = world.context();
    let error = world.reconcile_in(&context).await.expect_err("refused");
    assert!(matches!(error, ApplyError::Taken { .. }), "{error}");
    assert_eq!(world.jobs(), 1);
    // The next reconcile says so in the status, until the name is free.
    world.reconcile_in(&context).await.expect_err("refused");
    let progressing = || {
        let conditions = world.resource()["status"]["conditions"].as_array().cloned();
        let mut conditions = conditions.unwrap_or_default().into_iter();
        conditions.find(|condition| condition["type"] == "Progressing")
    };
    let condition = progressing().expect("a condition");
    assert_eq!(condition["reason"], "NameTaken");
    let message = condition["message"].as_str().expect("text");
    assert!(
        message.starts_with("Job thesis-0f1e2d3c-0 is not"),
        "{message}"
    );
    world.delete::<Job>("thesis-0f1e2d3c-0").await;
    world.reconcile_in(&context).await.expect("fine");
    world.reconcile_in(&context).await.expect("fine");
    assert_eq!(progressing().expect("a condition")["reason"], "Measuring");
    assert!(
        !world
            .asked()
            .iter()
            .any(|asked| asked.starts_with("DELETE"))
    );
}

#[tokio::test]
async fn a_job_that_is_refused_waits_and_the_status_says_why_and_how_long() {
    for code in [403, 422] {
        let world = World::pinned();
        for _ in 0..2 {
            world.script().refuse.push_back(("POST jobs", code));
        }
        let context = world.context();
        let tries = |asked: Vec<String>| asked.iter().filter(|it| *it == "POST jobs").count();
        let after = |seconds| Next::After(Duration::from_secs(seconds));
        let next = world.reconcile_at(&context, 0).await.expect("fine");
        assert_eq!(next, Next::After(AT_ONCE), "to tell it");
        assert_eq!(tries(world.asked()), 1);
        // Whatever it is looked at for meanwhile, the Job has to wait.
        let next = world.reconcile_at(&context, 1).await.expect("fine");
        assert_eq!(next, after(29));
        let condition = |kind: &str| {
            let conditions = world.status().conditions.into_iter();
            let mut conditions = conditions.filter(|condition| condition.type_ == kind);
            conditions.next().expect("a condition")
        };
        let progressing = condition("Progressing");
        assert_eq!(
            (progressing.status.as_str(), progressing.reason.as_str()),
            ("False", "JobRefused")
        );
        let message = progressing.message;
        let begins = "the API server refuses a Job: ";
        let ends = "; it is Job thesis-0f1e2d3c-0 (attempt 1, the next at 2026-01-01T00:01:00Z)";
        let why = message.strip_prefix(begins);
        let why = why.and_then(|why| why.strip_suffix(ends));
        assert!(why.is_some_and(|why| !why.is_empty()), "{message}");
        assert_eq!(condition("Succeeded").reason, "JobRefused", "the column");
        let next = world.reconcile_at(&context, 29).await.expect("fine");
        assert_eq!(next, after(1));
        assert_eq!(tries(world.asked()), 0);
        // The longer it lasts, the longer the wait.
        let next = world.reconcile_at(&context, 30).await.expect("fine");
        assert_eq!(next, Next::After(AT_ONCE));
        let next = world.reconcile_at(&context, 31).await.expect("fine");
        assert_eq!(next, after(59));
        assert_eq!(tries(world.asked()), 1);
        let message = condition("Progressing").message;
        let ends = " (attempt 2, the next at 2026-01-01T00:02:00Z)";
        assert!(message.ends_with(ends), "{message}");
        // Then there is room.
        world.reconcile_at(&context, 90).await.expect("fine");
        assert_eq!(world.jobs(), 1);
        world.reconcile_at(&context, 91).await.expect("fine");
        assert_eq!(condition("Progressing").reason, "Measuring");
    }
}

#[tokio::test]
async fn a_job_that_was_refused_need_not_wait_where_there_may_be_room() {
    let world = World::pinned();
    world.script().refuse.push_back(("POST jobs", 403));
    let context = world.context();
    world.reconcile_at(&context, 0).await.expect("fine");
    let next = world.reconcile_at(&context, 1).await.expect("fine");
    assert_eq!(next, Next::After(Duration::from_secs(29)));
    assert_eq!(world.jobs(), 0);
    // The spec may have been what was wrong.
    world.edit(|resource| resource["metadata"]["generation"] = json!(8));
    world.reconcile_at(&context, 2).await.expect("fine");
    assert_eq!(world.jobs(), 1);
}

#[tokio::test]
async fn a_job_that_is_refused_just_after_another_has_gone_is_told_of_only_where_it_lasts() {
    let reason = |world: &World| {
        let conditions = world.status().conditions.into_iter();
        let mut conditions = conditions.filter(|condition| condition.type_ == "Progressing");
        conditions.next().expect("a condition").reason
    };
    // A quota that counts the Job that was deleted for a second more.
    let world = World::pinned();
    world.first_ended();
    for _ in 0..2 {
        world.script().refuse.push_back(("POST jobs", 403));
    }
    let context = world.context();
    for seconds in [0, 1] {
        let next = world.reconcile_at(&context, seconds).await.expect("fine");
        assert_eq!(next, Next::After(AT_ONCE));
        assert_eq!((reason(&world).as_str(), world.jobs()), ("Measuring", 0));
    }
    world.reconcile_at(&context, 2).await.expect("fine");
    assert_eq!((reason(&world).as_str(), world.jobs()), ("Measuring", 1));
    // One that has no room.
    let world = World::pinned();
    world.first_ended();
    for _ in 0..10 {
        world.script().refuse.push_back(("POST jobs", 403));
    }
    let context = world.context();
    for seconds in 0..=5 {
        let next = world.reconcile_at(&context, seconds).await.expect("fine");
        assert_eq!(next, Next::After(AT_ONCE));
        assert_eq!(reason(&world), "Measuring");
    }
    let next = world.reconcile_at(&context, 6).await.expect("fine");
    assert_eq!(next, Next::After(Duration::from_secs(29)));
    assert_eq!(reason(&world), "JobRefused");
}

#[tokio::test]
async fn what_a_quota_says_stands_in_the_status_whatever_the_length_of_names() {
    let world = World::pinned();
    let quota = "q".repeat(63);
    world.put(&json!({
        "apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": {"name": quota, "namespace": "bench"},
        "spec": {"hard": {"count/jobs.batch": "0"}},
    }));
    let context = world.context();
    world.reconcile_at(&context, 0).await.expect("fine");
    world.reconcile_at(&context, 1).await.expect("fine");
    let progressing = &world.status().conditions[1];
    let wanted = format!(
        "the API server refuses a Job: exceeded quota: {quota}, requested: count/jobs.batch=1, used: count/jobs.batch=0, \
         limited: count/jobs.batch=0"
    );
    let message = &progressing.message;
    assert!(message.starts_with(&wanted), "{message}");
    assert!(message.ends_with("(attempt 1, the next at 2026-01-01T00:01:00Z)"));
}

#[tokio::test]
async fn nothing_more_is_created_in_a_namespace_that_goes() {
    let world = World::pinned();
    world.first_ended();
    let namespaces: Api<Namespace> = Api::all(world.kube.client("user"));
    let deleted = namespaces.delete("bench", &DeleteParams::default()).await;
    deleted.expect("it is going");
    let context = world.context();
    for asked in [
        &[
            "PATCH inferencebenchmarks/thesis/status",
            "DELETE jobs/thesis-0f1e2d3c-0",
            "POST jobs",
        ][..],
        // What is recorded and deleted is no creation, and goes on.
        &[],
        &[],
    ] {
        let next = world.reconcile_in(&context).await.expect("fine");
        assert_eq!(next, Next::After(LOOK));
        assert_eq!(world.asked()[3..], *asked);
    }
    let progressing = &world.status().conditions[1];
    assert_eq!(progressing.reason, "Measuring", "it is no problem");
    // One of the same name that comes after it is another one.
    world.edit(|resource| resource["metadata"]["uid"] = json!("another"));
    world.reconcile_in(&context).await.expect("fine");
    assert!(world.asked().contains(&"POST jobs".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_given_up() {
    for call in ["GET inferencebenchmarks", "GET jobs", "PATCH", "POST jobs"] {
        let world = World::pinned();
        world.script().hang = Some(call);
        let error = world.reconcile().await.expect_err("given up");
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
    // The lead is lost in the middle: not one more write.
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
    world
        .edit(|resource| resource["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    assert_eq!(world.reconcile().await.expect("fine"), Next::Changed);
    assert_eq!(world.asked().len(), 1);
    world.delete::<InferenceBenchmark>("thesis").await;
    assert_eq!(world.reconcile().await.expect("fine"), Next::Changed);
}

#[tokio::test]
async fn a_bad_resource_is_told_so_once_and_stops_nothing() {
    let world = World::new(None);
    world.edit(|resource| {
        resource["spec"]["runner"]["podOverrides"] = json!({"spec": {"hostNetwork": true}})
    });
    assert_eq!(world.reconcile().await.expect("fine"), Next::Changed);
    let accepted = world.status().conditions.remove(0);
    assert!(
        accepted
            .message
            .contains("spec.runner.podOverrides.spec.hostNetwork"),
        "{}",
        accepted.message
    );
    world.asked();
    world.reconcile().await.expect("fine");
    assert_eq!(world.asked().len(), 1, "it is looked at, and nothing more");
    // One that is no InferenceBenchmark at all.
    world.edit(|resource| resource["spec"] = json!({"design": 3}));
    assert_eq!(world.reconcile().await.expect("fine"), Next::Changed);
    // A ledger that cannot be read stops the sweep: to begin anew would measure everything again.
    let world = World::pinned();
    world.edit(|resource| resource["status"]["ledger"] = json!({"outcomes": "nonsense!"}));
    world.reconcile().await.expect("fine");
    assert!(!world.asked().iter().any(|asked| asked.starts_with("POST")));
    assert_eq!(world.status().conditions[0].status, "False");
}

#[tokio::test]
async fn events_regard_the_resource_and_are_posted_once() {
    let world = World::new(None);
    world.reconcile().await.expect("fine");
    world.reconcile().await.expect("fine");
    let events = world.kube.objects("events.events.k8s.io");
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
    world.script().hang = Some("POST events");
    assert_eq!(world.reconcile().await.expect("fine"), Next::After(LOOK));
    assert_eq!(world.jobs(), 1);
    let world = World::pinned();
    world.script().refuse.push_back(("POST events", 403));
    world.reconcile().await.expect("fine");
    assert_eq!(world.jobs(), 1);
}

#[tokio::test]
async fn no_event_tells_of_a_status_that_was_not_written() {
    let world = World::new(None);
    world.script().refuse.push_back(("PATCH", 409));
    assert!(matches!(world.reconcile().await, Err(ApplyError::Conflict)));
    assert_eq!(world.kube.count("events.events.k8s.io"), 0);
}

#[tokio::test]
async fn what_is_recorded_and_live_is_counted() {
    let world = World::pinned();
    world.first_ended();
    let context = world.context();
    world.reconcile_in(&context).await.expect("fine");
    let expect = |line: &str| {
        let text = context.metrics.text(true, &context.bounds.live());
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    };
    expect("inferbench_operator_trials_total{outcome=\"Succeeded\"} 1");
    // The Job that was created in this very reconcile counts.
    expect("inferbench_operator_jobs_live{component=\"trial\"} 1");
    world.reconcile_in(&context).await.expect("fine");
    expect("inferbench_operator_trials_total{outcome=\"Succeeded\"} 1");
    expect("inferbench_operator_jobs_live{component=\"trial\"} 1");
    // Another operator, later: what is there counts, whoever made it.
    let restarted = world.context();
    world.reconcile_in(&restarted).await.expect("fine");
    assert_eq!(restarted.bounds.live(), [(Role::Trial, 1)].into());
    world.delete::<InferenceBenchmark>("thesis").await;
    world.reconcile_in(&context).await.expect("fine");
    expect("inferbench_operator_jobs_live{component=\"trial\"} 0");
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_no_transition_waits_with_all_writes() {
    let world = World::pinned();
    let context = world.bounded(Limits::default());
    world.reconcile_in(&context).await.expect("fine");
    assert_eq!(
        world.asked()[3..],
        ["PATCH inferencebenchmarks/thesis/status", "POST jobs"]
    );
    // That it is active is no transition, and neither is its outcome.
    world.delete::<Job>("thesis-0f1e2d3c-0").await;
    world.first_ended();
    let wait = Duration::from_secs(2);
    assert_eq!(
        world.reconcile_in(&context).await.expect("fine"),
        Next::After(wait)
    );
    assert_eq!(
        world.asked().len(),
        3,
        "nothing is written, deleted or created"
    );
    tokio::time::advance(wait).await;
    world.reconcile_in(&context).await.expect("fine");
    assert_eq!(
        world.asked()[3..],
        [
            "PATCH inferencebenchmarks/thesis/status",
            "DELETE jobs/thesis-0f1e2d3c-0",
            "POST jobs"
        ]
    );
    // Suspending is one.
    world.edit(|resource| resource["spec"]["suspend"] = json!(true));
    world.reconcile_in(&context).await.expect("fine");
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
    let next = world.reconcile_in(&context).await.expect("fine");
    let Next::After(wait) = next else {
        panic!("{next:?}");
    };
    assert!(wait <= Duration::from_secs(1), "{wait:?}");
    assert_eq!(world.jobs(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_large_window_is_filled_by_several_reconciles_that_follow_at_once() {
    let world = World::pinned();
    world.edit(|resource| {
        let spec = &mut resource["spec"];
        spec["design"]["factors"]["batchSize"] = (1..=40).collect::<Vec<i32>>().into();
        spec["execution"] = json!({"parallelism": 32});
    });
    // One of its shape has run: there is room.
    world.first_ended();
    let context = world.bounded(Limits {
        create_rate: 0,
        ..Limits::default()
    });
    let mut results = Vec::new();
    while results.last() != Some(&Next::After(LOOK)) && results.len() < 9 {
        let before = world.jobs();
        results.push(world.reconcile_in(&context).await.expect("fine"));
        assert!(world.jobs() <= before + CREATIONS);
        // One of them runs: there is more room.
        let uid = world.kube.objects("jobs.batch")[0]["metadata"]["uid"].clone();
        if results.len() == 1 {
            world.delete::<Pod>("p").await;
        }
        world.put_pod(
            "q",
            uid.as_str().expect("a uid"),
            json!({"phase": "Running"}),
        );
    }
    let at_once = Next::After(Duration::ZERO);
    assert_eq!(results, [at_once, at_once, Next::After(LOOK)]);
    assert_eq!(world.jobs(), 32);
}
