//! What goes wrong in and around pods, and what a sweep makes of it.

use kube::{ResourceExt as _, api::ListParams};

use crate::{
    place::{children_of, signal},
    world::{World, records, until},
};

/// Two trials in one Job.
const SPEC: &str = "
apiVersion: inferbench.dev/v1alpha1
kind: InferenceBenchmark
metadata: {name: tiny}
spec:
  design:
    factors:
      model: [{name: tiny, source: {random: {preset: tiny-gpt2}}}]
      batchSize: [1, 2]
      inputLength: [4]
      outputLength: [3]
      gpus: [0]
    replicates: 1
    order: Sequential
  measurement:
    {warmupIterations: 1, warmupDuration: 1ms, iterations: 2, minDuration: 5ms, remeasureInvalid: 0}
  results: {store: {persistentVolumeClaim: {claimName: results}}}
  execution: {retries: 2, trialsPerJob: 2}
";

/// Waits until the second trial hangs; returns the pod's name and its process.
async fn hanging(world: &World) -> (String, u32) {
    until("the trial that hangs", async || {
        let running = world.processes.running();
        let stored = stored(world);
        running
            .values()
            .any(|process| !children_of(*process).is_empty())
            && stored == 1
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

/// How many records there are on the claim.
fn stored(world: &World) -> usize {
    let sweeps = std::fs::read_dir(world.claim().join("bench"));
    let sweeps = sweeps.into_iter().flatten().flatten();
    sweeps.map(|sweep| records(&sweep.path()).len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_breaks_is_replaced_and_goes_on_where_it_was() {
    let world = World::new().await;
    // The first pod hangs at the second trial, the second as well, the third does not.
    for _ in 0..2 {
        world.fault("hang@trial:1");
    }
    let operator = world.operator();
    world.apply(SPEC).await;
    // The process that measures is killed; its parent, the pod, says that it failed.
    let (_, process) = hanging(&world).await;
    let before = records(&world.results(&world.get("tiny").await));
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
    let after = records(&world.results(&resource));
    assert_eq!(after.len(), 2);
    assert!(before.iter().all(|(key, record)| after[key] == *record));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_killed_for_memory_or_loses_its_word_is_still_told_right() {
    let world = World::new().await;
    world.fault("hang@trial:1");
    let operator = world.operator();
    // Its Job has failed, and would be kept to be looked at.
    let spec = SPEC.replace("  execution:", "  retention: {failedJobs: 0}\n  execution:");
    world.apply(&spec).await;
    let (pod, _) = hanging(&world).await;
    assert!(world.cluster.kill_for_memory("bench", &pod).await);
    let resource = world.wait_for_success("tiny").await;
    world.wait_for_quiet().await;
    operator.stop().await;
    let counts = resource.status.clone().unwrap().counts.unwrap();
    // What was stored before the kill is what it is; the trial that it struck is out of memory.
    assert_eq!(
        (counts.done, counts.succeeded, counts.out_of_memory),
        (2, 1, 1)
    );
    assert_eq!(world.started.times(1), 1, "it would only happen again");
}
