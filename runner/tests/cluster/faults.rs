//! Faults in and around pods, and what a sweep makes of them.

use inferbench_crds::contract::TrialReport;
use kube::{ResourceExt, api::ListParams};

use crate::{
    place::{children_of, documents, signal},
    world::{World, tiny, until},
};

/// Two trials in one Job.
fn spec() -> String {
    tiny()
        .replace("inputLength: [4, 8]", "inputLength: [4]")
        .replace("retries: 1", "retries: 2, trialsPerJob: 2")
}

/// Waits until the second trial hangs, and the first one's end is reported; returns the pod's name and its process.
async fn hanging(world: &World) -> (String, u32) {
    until("the trial that hangs", async || {
        let running = world.processes.running();
        running.iter().any(|(uid, process)| {
            let told = serde_json::from_str(&world.processes.message(uid));
            let told: TrialReport = told.unwrap_or_default();
            told.outcomes.len() == 1 && !children_of(*process).is_empty()
        })
    })
    .await;
    let (uid, process) = world.processes.running().pop_first().unwrap();
    let pods = world.pods().list(&ListParams::default()).await.unwrap();
    let pod = pods
        .items
        .iter()
        .find(|pod| pod.uid().as_deref() == Some(&uid));
    (pod.unwrap().name_any(), process)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_breaks_is_replaced_and_goes_on_where_it_was() {
    let world = World::new().await;
    // The first pod hangs at the second trial, the second as well, the third does not.
    for _ in 0..2 {
        world.fault("hang@trial:1");
    }
    let operator = world.operator();
    world.apply(&spec()).await;
    // The process that measures is killed; its parent, the pod, says that it failed.
    let (_, process) = hanging(&world).await;
    let before = documents(&world.results(&world.get("tiny").await));
    for child in children_of(process) {
        signal(child, libc::SIGKILL);
    }
    until("the next pod", async || world.started.times(1) == 2).await;
    // That one is evicted, which is no fault of its own and does not count.
    let (pod, _) = hanging(&world).await;
    assert!(world.cluster.evict("bench", &pod).await);
    let resource = world.wait_for_success("tiny").await;
    world.wait_for_quiet().await;
    operator.stop().await;
    let counts = resource.status.clone().unwrap().counts.unwrap();
    assert_eq!((counts.done, counts.succeeded, counts.failed), (2, 2, 0));
    assert_eq!(world.started.times(1), 3);
    // The first trial's record is the first pod's.
    let after = documents(&world.results(&resource));
    assert_eq!(after.len(), 2);
    assert!(before.iter().all(|(key, record)| after[key] == *record));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_killed_for_memory_is_a_measurement_of_the_trial_that_it_was_at() {
    let world = World::new().await;
    world.fault("hang@trial:1");
    let operator = world.operator();
    world.apply(&spec()).await;
    let (pod, _) = hanging(&world).await;
    assert!(world.cluster.kill_for_memory("bench", &pod).await);
    let resource = world.wait_for_success("tiny").await;
    let counts = resource.status.clone().unwrap().counts.unwrap();
    // Records that were stored before the kill are what they are.
    assert_eq!(
        (counts.done, counts.succeeded, counts.out_of_memory),
        (2, 1, 1)
    );
    assert_eq!(world.started.times(1), 1, "it would only happen again");
    // A Job that has failed is kept to be looked at; nothing of it runs.
    until("the collection's pods to go", async || {
        let pods = world.pods().list(&ListParams::default()).await.unwrap();
        let names: Vec<String> = pods.items.iter().map(ResourceExt::name_any).collect();
        names == [pod.clone()]
    })
    .await;
    assert_eq!(world.job_names().await.len(), 1);
    assert!(world.processes.running().is_empty());
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_a_pod_whose_last_word_was_lost_are_found_all_the_same() {
    // Long enough to be met while it runs.
    let spec = spec().replace("minDuration: 5ms", "minDuration: 1s");
    let world = World::new().await;
    let operator = world.operator();
    world.apply(&spec).await;
    until("the pod that measures", async || {
        let pods = ListParams::default().labels("app.kubernetes.io/component=trial");
        for pod in world.pods().list(&pods).await.unwrap() {
            if world.cluster.lose_message("bench", &pod.name_any()).await {
                return true;
            }
        }
        false
    })
    .await;
    // The operator took its trials for failed, until the collection saw their records.
    let resource = world.wait_for_success("tiny").await;
    world.wait_for_quiet().await;
    operator.stop().await;
    let status = resource.status.clone().unwrap();
    let counts = status.counts.unwrap();
    assert_eq!((counts.done, counts.succeeded, counts.failed), (2, 2, 0));
    assert_eq!(status.results.unwrap().rows, 2);
    assert_eq!(world.started.times(1), 1);
    assert_eq!(documents(&world.results(&resource)).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_outranks_how_the_pod_that_stored_it_was_killed() {
    let world = World::new().await;
    world.fault("hang@trial:1");
    let operator = world.operator();
    world.apply(&spec()).await;
    // The first trial is stored, and nobody says so.
    let (pod, _) = hanging(&world).await;
    assert!(world.cluster.lose_message("bench", &pod).await);
    assert!(world.cluster.kill_for_memory("bench", &pod).await);
    let resource = world.wait_for_success("tiny").await;
    operator.stop().await;
    let counts = resource.status.clone().unwrap().counts.unwrap();
    assert_eq!(
        (counts.done, counts.succeeded, counts.out_of_memory),
        (2, 2, 0)
    );
    assert_eq!(world.started.times(0), 1, "it was not measured again");
    assert_eq!(documents(&world.results(&resource)).len(), 2);
}
