//! Endpoints, which are asked before the first trial.

use std::net::TcpListener;

use super::{
    gateway::Gateway,
    place::{Place, stderr},
};

/// Two loads of an endpoint with these members.
fn spec(endpoint: &str) -> String {
    format!(
        "
apiVersion: inferbench.dev/v1alpha1
kind: InferenceBenchmark
metadata: {{name: endpoint}}
spec:
  design:
    factors:
      engine:
        - {{name: candle, candle: {{}}}}
        - {{name: gateway, endpoint: {{{endpoint}, interface: {{prompt: ids, counting: tokenIds}}}}}}
      model: [{{name: tiny, source: {{random: {{preset: tiny-gpt2}}}}}}]
      batchSize: [1, 2]
      inputLength: [4]
      outputLength: [3]
      gpus: [0]
  measurement: {{warmupIterations: 1, warmupDuration: 1ms, iterations: 2, minDuration: 1ms, remeasureInvalid: 0}}
  execution: {{retries: 0}}
"
    )
}

#[test]
fn what_is_wrong_with_an_endpoint_is_told_before_the_first_trial() {
    let address = Gateway {
        key: Some("sk-right"),
        ..Gateway::default()
    }
    .serve();
    // A port that nobody listens on.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
    let free = free.unwrap();
    let place = Place::new(&spec(&format!("url: \"http://{address}\", model: tiny")));
    let run = |endpoint: &str, key: &str| {
        place.write(&spec(endpoint));
        let output = place
            .command(&["run", "spec.yaml", "--out", "out"])
            .env("INFERBENCH_API_KEY", key)
            .output()
            .unwrap();
        (output.status.code(), stderr(&output))
    };
    let there = format!("url: \"http://{address}\"");
    for (endpoint, key, wanted) in [
        (
            format!("url: \"http://{free}/secret/path\""),
            "sk-right",
            format!("endpoint.url http://{free}: it cannot be reached: "),
        ),
        (
            format!("{there}, model: other"),
            "sk-right",
            format!("endpoint.model \"other\": http://{address} does not have it; it has \"tiny\""),
        ),
        (
            there.clone(),
            "",
            format!(
                "endpoint.apiKeySecretRef: http://{address} wants an API key, and there is none"
            ),
        ),
        (
            format!("{there}, apiKeySecretRef: {{name: gate, key: key}}"),
            "sk-wrong",
            format!(
                "endpoint.apiKeySecretRef gate/key: http://{address} does not accept the API key (HTTP 401)"
            ),
        ),
    ] {
        let (code, said) = run(&endpoint, key);
        let wanted = format!("spec.design.factors.engine[1]: gateway: {wanted}");
        assert!(said.contains(&wanted), "{said}\nhas no\n{wanted}");
        assert!(said.contains("Nothing was measured"), "{said}");
        assert!(
            !said.contains("sk-") && !said.contains("secret/path"),
            "{said}"
        );
        assert_eq!(code, Some(1), "{said}");
        assert_eq!(place.documents().len(), 0);
    }
    let (code, said) = run(&there, "sk-right");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(place.documents().len(), 4);
    // A measured trial needs no endpoint any more, and so no key.
    let (code, said) = run(&there, "");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("4 reused"), "{said}");
}
