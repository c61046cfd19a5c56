//! Endpoints in a cluster: the preflight asks them with their keys, which only pods see.

use serde_json::json;

use crate::{
    gateway::Gateway,
    world::{NAMESPACE, World, condition, message},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_preflight_asks_endpoints_with_their_keys() {
    let address = Gateway {
        key: Some("sk-right"),
        ..Gateway::default()
    }
    .serve();
    let spec = |name: &str, endpoint: &str| {
        format!(
            "
apiVersion: inferbench.dev/v1alpha1
kind: InferenceBenchmark
metadata: {{name: {name}}}
spec:
  design:
    factors:
      engine:
        - name: gateway
          endpoint: {{url: \"http://{address}\", interface: {{prompt: ids, counting: tokenIds}}, {endpoint}}}
      model: [{{name: tiny, source: {{random: {{preset: tiny-gpt2}}}}}}]
      concurrency: [1, 2]
      inputLength: [4]
      outputLength: [3]
      gpus: [0]
  measurement: {{warmupIterations: 1, warmupDuration: 1ms, iterations: 3, minDuration: 5ms, remeasureInvalid: 0}}
  results: {{store: {{persistentVolumeClaim: {{claimName: results}}}}}}
  execution: {{retries: 0, trialsPerJob: 2}}
"
        )
    };
    let world = World::new().await;
    for (name, key) in [("right", "sk-right"), ("wrong", "sk-wrong")] {
        world
            .kube
            .create(&json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "stringData": {"key": key},
            }))
            .unwrap();
    }
    for (name, endpoint) in [
        ("let-in", "apiKeySecretRef: {name: right, key: key}"),
        ("refused", "apiKeySecretRef: {name: wrong, key: key}"),
        (
            "elsewhere",
            "model: llama, apiKeySecretRef: {name: right, key: key}",
        ),
    ] {
        world.apply(&spec(name, endpoint)).await;
    }
    let operator = world.operator();
    for (name, wanted) in [
        (
            "refused",
            format!(
                "spec.design.factors.engine[0]: gateway: endpoint.apiKeySecretRef wrong/key: http://{address} does not \
                 accept the API key (HTTP 401)"
            ),
        ),
        (
            "elsewhere",
            format!(
                "spec.design.factors.engine[0]: gateway: endpoint.model \"llama\": http://{address} does not have it; it \
                 has \"tiny\""
            ),
        ),
    ] {
        let told = world
            .wait(name, "what is wrong", |status| {
                condition(status, "Progressing") == ("False".into(), "PreflightFailed".into())
            })
            .await;
        let status = told.status.unwrap();
        let why = message(&status, "Progressing");
        assert!(why.contains(&wanted), "{why}\nhas no\n{wanted}");
        assert!(!serde_json::to_string(&status).unwrap().contains("sk-"));
    }
    let done = world.wait_for_success("let-in").await;
    assert_eq!(done.status.unwrap().counts.unwrap().done, 2);
    assert_eq!(world.started.of("trial"), 1, "the Job of one sweep");
    for name in ["refused", "elsewhere"] {
        world.delete(name).await;
    }
    world.wait_for_quiet().await;
    operator.stop().await;
}
