//! A design with `until` in a cluster: pods look between blocks, and nothing is measured that they decide against, whether
//! or not the operator lives.

use inferbench_crds::outcome::Outcome;
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
    let operator = world.operator();
    world.apply(&spec()).await;
    world
        .wait("tiny", "the second block", |status| {
            status.counts.is_some_and(|counts| counts.done >= 4)
        })
        .await;
    operator.kill().await;
    let operator = world.operator();
    let resource = world.wait_for_success("tiny").await;
    world.wait_for_quiet().await;
    operator.stop().await;

    let folder = world.results(&resource);
    let rows = rows(&folder);
    let latest: Vec<&Row> = latest_attempts(&rows);
    let enough = Looks::of(&resource.spec.design)
        .unwrap()
        .enough(latest.iter().copied(), 2);
    let mut not_needed = 0;
    for row in &latest {
        let (block, combination) = (row.trial_index / 2, row.trial_index % 2);
        let needed = enough.get(&combination).is_none_or(|last| block <= *last);
        let (outcome, started) = if needed {
            (Outcome::Succeeded, 1)
        } else {
            (Outcome::NotNeeded, 0)
        };
        not_needed += i32::from(!needed);
        assert_eq!(row.outcome, Some(outcome), "trial {}", row.trial_index);
        let times = world.started.times(row.trial_index.into());
        assert_eq!(times, started, "trial {}", row.trial_index);
    }
    assert_eq!(latest.len(), 12);
    let status = resource.status.unwrap();
    let counts = status.counts.unwrap();
    assert_eq!((counts.done, counts.not_needed), (12, not_needed));
    assert_eq!(documents(&folder).len(), 12 - not_needed as usize);
    assert!(status.ledger.unwrap().decided >= 3);
}
