//! Changes to a running sweep by a user, and by an operator's upgrade.

use kube::{ResourceExt as _, api::ListParams};
use serde_json::json;

use crate::{
    place::documents,
    world::{World, condition, tiny, until},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_is_created_anew_measures_anew() {
    let spec = tiny().replace("retries: 1", "retries: 1, trialsPerJob: 4");
    let world = World::new().await;
    let operator = world.operator();
    world.apply(&spec).await;
    let first = world.wait_for_success("tiny").await;
    let before = documents(&world.results(&first));
    assert_eq!(before.len(), 4);
    world.delete("tiny").await;
    let second = world.apply(&spec).await;
    assert_ne!(first.uid(), second.uid());
    assert!(second.status.is_none());
    let second = world.wait_for_success("tiny").await;
    operator.stop().await;
    // The same keys, as the request is the same, but records of its own.
    let after = documents(&world.results(&second));
    assert_eq!(
        before.keys().collect::<Vec<_>>(),
        after.keys().collect::<Vec<_>>()
    );
    assert!(before.iter().all(|(key, record)| after[key] != *record));
    assert_eq!(documents(&world.results(&first)), before, "they stay");
    let counts = second.status.unwrap().counts.unwrap();
    assert_eq!((counts.done, counts.reused), (4, 0));
    assert_eq!(world.started.of("trial"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_is_killed_has_a_successor_that_repeats_nothing() {
    let world = World::new().await;
    let operator = world.operator();
    world.apply(&tiny()).await;
    let midway = world
        .wait("tiny", "the first record", |status| {
            status.counts.is_some_and(|counts| counts.done > 0)
        })
        .await;
    operator.kill().await;
    // The Job under way continues without it.
    let folder = world.results(&midway);
    until("the Job under way", async || {
        let running = world.processes.running();
        running.is_empty() && !documents(&folder).is_empty()
    })
    .await;
    let stored = documents(&folder);
    let operator = world.operator();
    let resource = world.wait_for_success("tiny").await;
    operator.stop().await;
    let counts = resource.status.unwrap().counts.unwrap();
    assert_eq!((counts.done, counts.succeeded, counts.reused), (4, 4, 0));
    for trial in 0..4 {
        assert_eq!(world.started.times(trial), 1, "trial {trial}");
    }
    let after = documents(&folder);
    assert!(stored.iter().all(|(key, record)| after[key] == *record));
    assert_eq!(after.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn suspension_starts_nothing_more_and_resumption_goes_on() {
    let world = World::new().await;
    let operator = world.operator();
    world.apply(&tiny()).await;
    world
        .wait("tiny", "the first record", |status| {
            status.counts.is_some_and(|counts| counts.done > 0)
        })
        .await;
    world
        .patch("tiny", &json!({"spec": {"suspend": true}}))
        .await;
    let suspended = world
        .wait("tiny", "suspension", |status| {
            condition(status, "Suspended").0 == "True"
                && status.counts.is_some_and(|counts| counts.active == 0)
        })
        .await;
    world.wait_for_quiet().await;
    let status = suspended.status.clone().unwrap();
    assert_eq!(
        condition(&status, "Succeeded"),
        ("Unknown".into(), "Suspended".into())
    );
    let done = documents(&world.results(&suspended)).len();
    assert!((1..4).contains(&done), "{done}");
    let started = world.started.of("trial");
    assert_eq!(started, done);
    // Trials that have ended meanwhile are recorded, and none is begun.
    let resource = world
        .wait("tiny", "the last record", |status| {
            status
                .counts
                .is_some_and(|counts| counts.done == done as i32)
        })
        .await;
    assert_eq!(world.started.of("trial"), started);
    assert!(world.job_names().await.is_empty());
    assert_eq!(
        resource.status.unwrap().results,
        None,
        "nothing is collected"
    );

    world
        .patch("tiny", &json!({"spec": {"suspend": false}}))
        .await;
    let resource = world.wait_for_success("tiny").await;
    operator.stop().await;
    assert_eq!(documents(&world.results(&resource)).len(), 4);
    for trial in 0..4 {
        assert_eq!(world.started.times(trial), 1, "trial {trial}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_is_deleted_takes_its_pods_and_processes_along() {
    let world = World::new().await;
    world.fault("hang@trial:1");
    let operator = world.operator();
    world.apply(&tiny()).await;
    until("the trial that hangs", async || {
        world.started.times(1) > 0 && !world.processes.running().is_empty()
    })
    .await;
    let processes: Vec<u32> = world.processes.running().into_values().collect();
    assert!(processes.iter().all(|process| crate::place::runs(*process)));
    world.delete("tiny").await;
    world.wait_for_quiet().await;
    until("the Jobs to go", async || {
        world.job_names().await.is_empty()
    })
    .await;
    assert!(!processes.iter().any(|process| crate::place::runs(*process)));
    let left = world
        .resources()
        .list(&ListParams::default())
        .await
        .unwrap();
    assert!(left.items.is_empty());
    // The operator has nothing to say to that, and goes on.
    world
        .apply(&tiny().replace("name: tiny}\nspec", "name: next}\nspec"))
        .await;
    world.wait_for_success("next").await;
    operator.stop().await;
}
