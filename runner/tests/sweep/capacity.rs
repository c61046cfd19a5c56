//! A sweep that searches how much load a server bears, over a server that works on a fixed number of requests at once.

use std::{net::SocketAddr, time::Duration};

use inferbench_crds::search::Searched;
use inferbench_results::{
    capacity::Ended,
    record::{Outcome, TrialRecord},
};

use super::{
    gateway::Gateway,
    place::{Place, stderr},
};

fn spec(address: SocketAddr, max_ttft: &str) -> String {
    format!(
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
      model: [{{name: tiny, source: {{random: {{preset: tiny-gpt2}}}}}}]
      inputLength: [4]
      outputLength: [3]
      gpus: [0]
    search: {{factor: concurrency, from: 1, to: 4, share: 80%}}
  measurement: {{warmupIterations: 1, warmupDuration: 0ms, iterations: 3, minDuration: 5ms, remeasureInvalid: 0}}
  objectives: {{maxTtft: {max_ttft}}}
  execution: {{retries: 0}}
"
    )
}

#[test]
fn a_search_finds_how_many_requests_a_server_works_on() {
    let gateway = Gateway {
        slots: 2,
        first: Duration::from_millis(5),
        work: Duration::from_millis(400),
        ..Gateway::default()
    };
    let address = gateway.serve();
    // Of one more than it works on, all wait for half of the time of one, or half of them for all of it.
    let place = Place::new(&spec(address, "150ms"));
    let output = place.run(&[]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let records = place.records();
    assert_eq!(records.len(), 1, "{said}");
    let record = &records[0];
    assert_eq!(record.outcome, Outcome::Succeeded, "{:?}", record.message);
    let found = record.capacity.as_ref().expect("a bracket");
    assert_eq!(found.factor, Searched::Concurrency);
    // Where other work kept a test from its time, that is reported, and the end may be another.
    if found.contradictions.is_empty() {
        let loads: Vec<f64> = found.steps.iter().map(|step| step.load).collect();
        assert_eq!(loads, [1.0, 2.0, 4.0, 3.0, 3.0, 2.0], "{found:?}");
        let ends = [found.low, found.high].map(|end| end.map(|end| end.load));
        assert_eq!((ends, found.ended), ([Some(2.0), Some(3.0)], Ended::Within));
    }
    let step = &found.steps[0];
    assert!(
        step.requests >= 3 && step.kept == step.requests && step.held,
        "{step:?}"
    );
    // The figures are those of the lower end.
    let low = found.low.expect("a load that holds").load;
    let requests = record.requests.as_ref().expect("requests");
    assert!(f64::from(requests.max_in_flight) <= low, "{low}");
    let row = &place.rows()[0];
    assert_eq!(
        (row.capacity_low, row.capacity_load.as_deref()),
        (Some(low), Some("concurrency"))
    );
    assert_eq!(
        row.capacity_tests.map(|tests| tests as usize),
        Some(found.steps.len())
    );
    assert!(row.of_requests() && row.levels().of_requests());
    let report = std::fs::read_to_string(place.out().join("report.html")).unwrap();
    if record.valid {
        assert!(report.contains("How much load it bears"), "no section");
    }

    // A second run measures nothing again. Other objectives are another question: the answers lie side by side.
    let again = place.run(&[]);
    assert!(stderr(&again).contains("1 reused"), "{}", stderr(&again));
    place.write(&spec(address, "1ms"));
    let output = place.run(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let records = place.records();
    assert_eq!(records.len(), 2);
    let is_second = |record: &&TrialRecord| {
        let objectives = record.request.objectives.as_ref();
        objectives
            .and_then(|of| of.max_ttft)
            .is_some_and(|limit| limit.millis() == 1)
    };
    let second = records.iter().find(is_second).expect("by its objectives");
    let found = second.capacity.as_ref().expect("a bracket");
    let ends = [found.low, found.high].map(|end| end.map(|end| (end.load, end.failed)));
    assert_eq!((ends, found.ended), ([None, Some((1.0, 2))], Ended::Below));
    assert!(found.steps.iter().all(|step| step.why.is_some()));
}
