//! A design with `until` in a cluster: pods look between blocks, and nothing is measured that they decide against, whether
//! or not the operator lives.

use inferbench_results::{looks::Looks, row::Row, sample::latest_attempts};

use crate::{
    place::{documents, rows},
    world::{World, on_a_claim},
};

/// Two combinations, three to six times each. A half width as wide as may be: trials of milliseconds vary.
fn spec() -> String {
    on_a_claim(
        "{claimName: results}",
        "retries: 1, trialsPerJob: 2, parallelism: 2",
    )
    .replace("inputLength: [4, 8]", "inputLength: [4]")
    .replace(
        "replicates: 2",
        "replicates: 6\n    until: {metric: ttltMs, halfWidth: 100%, confidence: 80, min: 3}",
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_look_between_blocks_and_nothing_is_measured_that_they_decide_against() {
    let world = World::new().await;
    // In the second block.
    let resource = world.run_killed("tiny", &spec(), 4).await;

    let folder = world.results(&resource);
    let rows = rows(&folder);
    let latest: Vec<&Row> = latest_attempts(&rows);
    let enough = Looks::of(&resource.spec.design)
        .unwrap()
        .enough(latest.iter().copied(), 2);
    let not_needed = world.check_not_needed(&latest, |row| {
        let (block, combination) = (row.trial_index / 2, row.trial_index % 2);
        enough.get(&combination).is_none_or(|last| block <= *last)
    });
    assert_eq!(latest.len(), 12);
    let status = resource.status.unwrap();
    let counts = status.counts.unwrap();
    assert_eq!((counts.done, counts.not_needed), (12, not_needed));
    assert_eq!(documents(&folder).len(), 12 - not_needed as usize);
    assert!(status.ledger.unwrap().decided >= 3);
}
