//! A sweep over a real server in a cluster: its pods run the server's image, with the runner's program copied in.

use inferbench_results::record::{Outcome, TrialRecord};

use crate::{
    llama::{Llama, Sweep},
    place::records,
    world::{World, condition},
};

#[tokio::test(flavor = "multi_thread")]
async fn loads_of_a_server_are_measured_in_one_pod_of_its_image() {
    let Some(llama) = Llama::find() else { return };
    let world = World::new().await;
    let spec = llama.spec(&Sweep {
        server: "image: \"registry.example/llama.cpp:server\"",
        factors: "concurrency: [1, 2]",
        execution: "trialsPerJob: 2",
        more: "results: {store: {persistentVolumeClaim: {claimName: results}}}",
        ..Sweep::default()
    });
    let resource = world.apply(&spec).await;
    let operator = world.operator();
    let ended = world.wait_for_success("servers").await;
    let status = ended.status.as_ref().expect("a status");
    assert_eq!(condition(status, "ResultsAvailable").0, "True");
    let records: Vec<TrialRecord> = records(&world.results(&resource));
    assert_eq!(records.len(), 2);
    for record in &records {
        assert_eq!(record.outcome, Outcome::Succeeded, "{:?}", record.message);
        assert!(record.requests.is_some());
    }
    // Both loads in one pod, and so of one start.
    assert_eq!(world.started.of("trial"), 1);
    assert_eq!(records[0].process_id, records[1].process_id);
    operator.stop().await;
}
