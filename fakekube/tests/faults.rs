//! Faults, counts, forgotten versions and the clock: more than a real server can be asked for.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{JOBS, MAPS, World, config_map, job, text};
use futures::{StreamExt as _, TryStreamExt as _};
use inferbench_fakekube::{Clock, FakeKube, Fault, Verb, WatchFault};
use k8s_openapi::{api::core::v1::ConfigMap, jiff::Timestamp};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, ObjectMeta, PostParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

fn maps(client: Client) -> Api<ConfigMap> {
    Api::namespaced(client, "default")
}

fn map(name: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.into()),
            ..ObjectMeta::default()
        },
        ..ConfigMap::default()
    }
}

async fn create(client: Client, name: &str) -> kube::Result<ConfigMap> {
    maps(client)
        .create(&PostParams::default(), &map(name))
        .await
}

fn code(result: kube::Result<ConfigMap>) -> u16 {
    match result {
        Err(kube::Error::Api(status)) => status.code,
        other => panic!("{other:?}"),
    }
}

/// A server whose client `faulty` meets this fault whenever it creates something.
fn with(fault: Fault) -> FakeKube {
    let fake = FakeKube::new();
    fake.set_faults("faulty", move |call| {
        let creates = call.verb == Verb::Create && call.resource == "configmaps";
        if creates { fault.clone() } else { Fault::None }
    });
    fake
}

#[tokio::test(start_paused = true)]
async fn a_refusal_does_nothing() {
    let fake = with(Fault::Refuse {
        code: 429,
        reason: "TooManyRequests",
        retry_after: Some(7),
    });
    let Err(kube::Error::Api(status)) = create(fake.client("faulty"), "a").await else {
        panic!("it was not refused");
    };
    assert_eq!(
        (status.code, status.reason.as_str()),
        (429, "TooManyRequests")
    );
    assert_eq!(
        status.details.map(|details| details.retry_after_seconds),
        Some(7)
    );
    assert_eq!(fake.count("configmaps"), 0);
    create(fake.client("other"), "a")
        .await
        .expect("others are not met by it");
    fake.clear_faults("faulty");
    create(fake.client("faulty"), "b")
        .await
        .expect("it is over");
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_be_lost_after_the_fact() {
    for fault in [
        Fault::RefuseAfterCommit { code: 504 },
        Fault::DropAfterCommit,
        Fault::HangAfterCommit,
    ] {
        let fake = with(fault.clone());
        let answer = timeout(
            Duration::from_secs(3_600),
            create(fake.client("faulty"), "a"),
        )
        .await;
        match fault {
            Fault::RefuseAfterCommit { .. } => assert_eq!(code(answer.expect("an answer")), 504),
            Fault::DropAfterCommit => assert!(matches!(answer, Ok(Err(kube::Error::Service(_))))),
            _ => assert!(answer.is_err(), "it is never answered"),
        }
        assert_eq!(fake.count("configmaps"), 1, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_never_come() {
    for fault in [Fault::Drop, Fault::Hang] {
        let fake = with(fault.clone());
        let answer = timeout(
            Duration::from_secs(3_600),
            create(fake.client("faulty"), "a"),
        )
        .await;
        assert!(!matches!(answer, Ok(Ok(_))), "{fault:?}");
        assert_eq!(fake.count("configmaps"), 0, "{fault:?}");
    }
    let fake = with(Fault::Delay(Duration::from_secs(60)));
    let began = Instant::now();
    create(fake.client("faulty"), "a")
        .await
        .expect("late is not never");
    assert_eq!(began.elapsed().as_secs(), 60);
}

#[tokio::test]
async fn requests_are_counted_by_client() {
    let fake = FakeKube::new();
    let (one, two) = (fake.client("one"), fake.client("two"));
    for name in ["a", "b"] {
        create(one.clone(), name).await.expect("created");
    }
    assert_eq!(code(create(two.clone(), "a").await), 409);
    maps(two.clone())
        .list(&ListParams::default())
        .await
        .expect("a list");
    maps(two)
        .delete("a", &DeleteParams::default())
        .await
        .expect("deleted");
    assert_eq!(fake.counts("one").of(Verb::Create, "configmaps"), 2);
    let counts = fake.counts("two");
    assert_eq!((counts.total(), counts.writes()), (3, 2));
    assert_eq!(counts.of(Verb::List, "configmaps"), 1);
    fake.reset_counts("two");
    assert_eq!(fake.counts("two").total(), 0);
}

#[tokio::test]
async fn a_hook_sees_each_call() {
    let fake = FakeKube::new();
    let seen = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&seen);
    fake.set_faults("one", move |call| {
        if call.nth == 2 {
            assert_eq!(
                (call.verb, call.resource.as_str()),
                (Verb::Delete, "configmaps")
            );
            assert_eq!(
                (call.namespace.as_str(), call.name.as_str()),
                ("default", "a")
            );
            let body: Value = serde_json::from_slice(&call.body).expect("JSON");
            assert_eq!(body["propagationPolicy"], "Background");
            noted.store(true, Ordering::Relaxed);
        }
        Fault::None
    });
    create(fake.client("one"), "a").await.expect("created");
    maps(fake.client("one"))
        .delete("a", &DeleteParams::background())
        .await
        .expect("deleted");
    assert!(seen.load(Ordering::Relaxed));
}

/// A client that asks for more than the double knows must not be answered as if it had not.
#[tokio::test]
async fn what_is_not_known_is_refused() {
    let world = World::fake().await;
    world.post(MAPS, config_map("a")).await.ok();
    let path = format!("{MAPS}/a");
    for query in [
        "fieldSelector=metadata.name%3Da",
        "dryRun=All",
        "watch=true&sendInitialEvents=true",
        "resourceVersion=1&resourceVersionMatch=Exact",
    ] {
        let refused = world.get(&format!("{MAPS}?{query}")).await;
        refused.refused(400, "BadRequest");
    }
    let dry = json!({ "dryRun": ["All"] });
    world.delete(&path, dry).await.refused(400, "BadRequest");
    for content in [
        "application/apply-patch+yaml",
        "application/json-patch+json",
        "application/strategic-merge-patch+json",
    ] {
        let refused = world.patch_as(&path, content, json!({})).await;
        refused.refused(415, "UnsupportedMediaType");
    }
    for accept in ["application/json;as=Table;v=v1;g=meta.k8s.io"] {
        let refused = world.get_as(&path, accept).await;
        refused.refused(406, "NotAcceptable");
    }
    let all = world.delete(MAPS, Value::Null).await;
    all.refused(405, "MethodNotAllowed");
    for path in ["/version", "/apis", "/openapi/v3"] {
        assert_eq!(world.get(path).await.code, 404, "{path}");
    }
}

/// A test may put an object that no client could create.
#[tokio::test]
async fn an_object_is_put_as_it_is() {
    let fake = FakeKube::new();
    let client = fake.client("one");
    let put = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "a", "uid": "mine", "deletionTimestamp": "2026-01-01T00:00:00Z" },
    });
    fake.put(&put).expect("a known kind");
    let found = maps(client).get("a").await.expect("it is there");
    assert_eq!(found.metadata.uid.as_deref(), Some("mine"));
    assert!(found.metadata.deletion_timestamp.is_some());
    let unknown = json!({ "apiVersion": "v1", "kind": "Nothing", "metadata": { "name": "a" } });
    let refused = fake.put(&unknown).expect_err("an unknown kind");
    assert_eq!(refused, "there is no kind \"Nothing\" in apiVersion \"v1\"");
}

#[tokio::test]
async fn what_is_forgotten_is_gone() {
    let world = World::fake().await;
    let fake = world.fake.clone().expect("the double");
    for name in ["a", "b", "c"] {
        world.post(MAPS, config_map(name)).await.ok();
    }
    let first = world.get(&format!("{MAPS}?limit=1")).await.ok();
    world.post(MAPS, config_map("d")).await.ok();
    fake.compact();
    let next = format!(
        "{MAPS}?limit=1&continue={}",
        text(&first, "/metadata/continue")
    );
    let expired = world.get(&next).await;
    let message = expired.refused(410, "Expired");
    assert!(
        message.starts_with("The provided continue parameter is too old"),
        "{message}"
    );
    // It says how to go on all the same.
    let next = format!(
        "{MAPS}?continue={}",
        text(&expired.body, "/metadata/continue")
    );
    let rest = world.get(&next).await.ok();
    assert_eq!(rest["items"].as_array().expect("items").len(), 3);
    let version = text(&first, "/metadata/resourceVersion");
    let mut watch = world
        .watch(MAPS, &format!("resourceVersion={version}"))
        .await;
    let (what, status) = watch.next().await.expect("an event");
    assert_eq!(
        (
            what.as_str(),
            status["code"].as_u64(),
            text(&status, "/reason")
        ),
        ("ERROR", Some(410), "Expired")
    );
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn only_the_latest_writes_are_remembered() {
    let world = World::fake().await;
    let fake = world.fake.clone().expect("the double");
    fake.set_history(4);
    let start = fake.version();
    for count in 0..5 {
        world
            .post(MAPS, config_map(&format!("m{count}")))
            .await
            .ok();
    }
    let mut old = world.watch(MAPS, &format!("resourceVersion={start}")).await;
    assert_eq!(old.next().await.expect("an event").0, "ERROR");
    let mut new = world
        .watch(MAPS, &format!("resourceVersion={}", start + 1))
        .await;
    new.expect("ADDED", "m1").await;
}

#[tokio::test(start_paused = true)]
async fn lists_may_lag() {
    let fake = FakeKube::new();
    create(fake.client("one"), "a").await.expect("created");
    create(fake.client("one"), "b").await.expect("created");
    fake.set_faults("one", |call| {
        if call.verb == Verb::List {
            Fault::Stale(1)
        } else {
            Fault::None
        }
    });
    let list = maps(fake.client("one"))
        .list(&ListParams::default().match_any())
        .await
        .expect("a list");
    let names: Vec<String> = list.items.iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn watches_may_lag_repeat_and_end() {
    let world = World::fake().await;
    let fake = world.fake.clone().expect("the double");
    let begin = async |fault: WatchFault| {
        fake.set_faults("test", move |call| {
            if call.verb == Verb::Watch {
                Fault::Watch(fault.clone())
            } else {
                Fault::None
            }
        });
        let version = fake.version();
        world
            .watch(MAPS, &format!("resourceVersion={version}"))
            .await
    };
    let mut late = begin(WatchFault {
        lag: Duration::from_secs(20),
        ..WatchFault::default()
    })
    .await;
    let mut twice = begin(WatchFault {
        duplicate: true,
        ..WatchFault::default()
    })
    .await;
    let mut short = begin(WatchFault {
        cut_after: Some(1),
        ..WatchFault::default()
    })
    .await;
    let began = Instant::now();
    world.post(MAPS, config_map("a")).await.ok();
    world.post(MAPS, config_map("b")).await.ok();
    for name in ["a", "a", "b", "b"] {
        twice.expect("ADDED", name).await;
    }
    short.expect("ADDED", "a").await;
    let (what, status) = short.next().await.expect("an event");
    assert_eq!((what.as_str(), &status["code"]), ("ERROR", &json!(410)));
    assert_eq!(short.next().await, None);
    assert!(began.elapsed() < Duration::from_secs(20));
    late.expect("ADDED", "a").await;
    assert!(began.elapsed() >= Duration::from_secs(20));
}

#[tokio::test(start_paused = true)]
async fn an_idle_watch_is_told_how_far_it_is() {
    let world = World::fake().await;
    let fake = world.fake.clone().expect("the double");
    let start = fake.version();
    let mut watch = world
        .watch(
            MAPS,
            &format!("resourceVersion={start}&allowWatchBookmarks=true"),
        )
        .await;
    // Writes to other kinds move it on, too.
    world.post(JOBS, job("a")).await.ok();
    let (what, mark) = watch.next().await.expect("an event");
    assert_eq!(what, "BOOKMARK");
    let version: u64 = text(&mark, "/metadata/resourceVersion")
        .parse()
        .expect("a version");
    assert!(version > start);
}

#[tokio::test(start_paused = true)]
async fn kube_runtime_recovers_from_what_is_forgotten() {
    let fake = FakeKube::new();
    create(fake.client("other"), "a").await.expect("created");
    let seen = watcher(maps(fake.client("watcher")), watcher::Config::default());
    let mut seen = std::pin::pin!(seen.default_backoff().applied_objects());
    assert_eq!(
        seen.try_next()
            .await
            .expect("an event")
            .expect("one")
            .name_any(),
        "a"
    );
    fake.set_faults("watcher", |call| match call.verb {
        Verb::Watch if call.nth < 5 => Fault::Watch(WatchFault {
            cut_after: Some(0),
            ..WatchFault::default()
        }),
        _ => Fault::None,
    });
    create(fake.client("other"), "b").await.expect("created");
    let mut names = Vec::new();
    while !names.contains(&"b".to_owned()) {
        if let Some(Ok(map)) = seen.next().await {
            names.push(map.name_any());
        }
    }
    assert!(fake.counts("watcher").of(Verb::List, "configmaps") >= 1);
}

#[tokio::test(start_paused = true)]
async fn the_clock_goes_with_the_tests() {
    let epoch: Timestamp = "2030-01-01T00:00:00Z".parse().expect("a time");
    let fake = FakeKube::with_clock(Clock::simulated(epoch));
    tokio::time::advance(Duration::from_secs(7_200)).await;
    let created = create(fake.client("one"), "a").await.expect("created");
    assert_eq!(
        created.creation_timestamp().expect("a time").0.to_string(),
        "2030-01-01T02:00:00Z"
    );
}

/// Uids and generated names are the same in every run, so that a failure replays.
#[tokio::test]
async fn nothing_is_left_to_chance() {
    let uids = async || {
        let fake = FakeKube::new();
        let created = create(fake.client("one"), "a").await.expect("created");
        created.uid().expect("a uid")
    };
    assert_eq!(uids().await, uids().await);
}

/// The cost of a request does not grow with the number of objects.
#[tokio::test]
async fn many_objects_cost_no_more_than_few() {
    let fake = FakeKube::new();
    let client = fake.client("one");
    for count in 0..20_000 {
        let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("m{count:05}") } });
        fake.create(&map).expect("created");
    }
    let list = maps(client.clone())
        .list(&ListParams::default().limit(3))
        .await
        .expect("a list");
    assert_eq!(list.metadata.remaining_item_count, Some(19_997));
    for count in 0..2_000 {
        maps(client.clone())
            .get(&format!("m{count:05}"))
            .await
            .expect("it is there");
    }
    assert_eq!(fake.count("configmaps"), 20_000);
    let gone: Vec<Value> = fake.objects("secrets");
    assert!(gone.is_empty());
}
