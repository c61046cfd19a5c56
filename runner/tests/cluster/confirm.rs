//! Designs with `confirm` in a cluster: after all replicates pods say what is measured again, and nothing else is, whether
//! or not the operator lives; of batches, and of loads that trials search.

use std::time::Duration;

use inferbench_crds::{InferenceBenchmark, status::Confirmed};
use inferbench_results::{
    confirm::Confirming, record::TrialRecord, row::Row, sample::latest_of_all,
};

use crate::{
    gateway::Gateway,
    place::{documents, records, rows},
    world::{World, on_a_claim},
};

/// Every trial of all replicates was measured, and of the others those of what is best; each once.
fn check(world: &World, resource: &InferenceBenchmark) -> Vec<Row> {
    let folder = world.results(resource);
    let design = &resource.spec.design;
    let combinations = design.combinations_before_exclusion();
    let rows = rows(&folder);
    let latest = latest_of_all(&rows);
    assert_eq!(latest.len() as u32, combinations * design.blocks());
    let confirming = Confirming::of(design).unwrap();
    let chosen = confirming.chosen(latest.iter().copied(), &resource.spec.objectives);
    let not_needed = world.check_not_needed(&latest, |row| {
        row.confirming.is_none() || chosen.contains(&(row.trial_index % combinations))
    });
    let status = resource.status.clone().unwrap();
    let counts = status.counts.unwrap();
    let trials = latest.len() as i32;
    assert_eq!((counts.done, counts.not_needed), (trials, not_needed));
    assert_eq!(documents(&folder).len() as i32, trials - not_needed);
    assert_eq!(status.ledger.unwrap().decided, design.replicates);
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_best_is_measured_again_and_nothing_else() {
    let world = World::new().await;
    let spec = on_a_claim(
        "{claimName: results}",
        "retries: 1, trialsPerJob: 2, parallelism: 2",
    )
    .replace(
        "replicates: 2",
        "replicates: 2\n    confirm: {replicates: 2, rivals: 0}",
    );
    let resource = world.run_killed("tiny", &spec, 6).await;
    let rows = check(&world, &resource);
    if rows.iter().all(|row| row.valid != Some(false)) {
        let summary = resource.status.unwrap().summary.unwrap();
        assert!(!summary.best.is_empty());
        let confirmed = summary
            .best
            .iter()
            .filter(|best| best.goal == "highest output throughput");
        for best in confirmed {
            assert!(
                best.confirmation.is_some_and(|of| of != Confirmed::NotYet),
                "{best:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_is_searched_and_the_highest_searched_again() {
    let gateway = Gateway {
        slots: 2,
        first: Duration::from_millis(5),
        work: Duration::from_millis(400),
        ..Gateway::default()
    };
    let address = gateway.serve();
    let world = World::new().await;
    let spec = format!(
        "
apiVersion: inferbench.dev/v1alpha1
kind: InferenceBenchmark
metadata: {{name: capacity}}
spec:
  design:
    factors:
      engine:
        - name: there
          endpoint: {{url: \"http://{address}\", model: tiny, interface: {{prompt: ids, counting: tokenIds}}}}
      parameters: [{{name: topK, levels: [1, 2], field: top_k}}]
      model: [{{name: tiny, source: {{random: {{preset: tiny-gpt2}}}}}}]
      inputLength: [4]
      outputLength: [3]
      gpus: [0]
    search: {{factor: concurrency, from: 1, to: 4, share: 80%}}
    replicates: 1
    confirm: {{replicates: 2, rivals: 0}}
  measurement: {{warmupIterations: 1, warmupDuration: 0ms, iterations: 3, minDuration: 5ms, remeasureInvalid: 0}}
  objectives: {{maxTtft: 150ms}}
  results: {{store: {{persistentVolumeClaim: {{claimName: results}}}}}}
  execution: {{retries: 0}}
"
    );
    let resource = world.run_killed("capacity", &spec, 1).await;
    let rows = check(&world, &resource);
    let records: Vec<TrialRecord> = records(&world.results(&resource));
    for record in &records {
        let found = record.capacity.as_ref().expect("a bracket");
        assert!(found.steps.len() >= 4, "{found:?}");
    }
    let again = rows.iter().filter(|row| row.confirming.is_some());
    assert!(
        again
            .clone()
            .all(|row| row.capacity_load.as_deref() == Some("concurrency"))
    );
    // Where other work kept tests from their time, trials are invalid, and nothing is the best.
    let valid = |row: &Row| {
        row.valid != Some(false)
            && (row.capacity_tests.is_none() || row.capacity_concurrency.is_some())
    };
    if rows.iter().all(valid) {
        let summary = resource.status.unwrap().summary.unwrap();
        let [best] = summary.best.as_slice() else {
            panic!("one workload, one goal: {:?}", summary.best)
        };
        assert_eq!(best.goal, "highest load within the objectives");
        assert!(
            best.confirmation.is_some_and(|of| of != Confirmed::NotYet),
            "{best:?}"
        );
        let capacity = best.configuration.capacity.expect("a load");
        assert!((1.0..=4.0).contains(&capacity), "{capacity}");
    }
}
