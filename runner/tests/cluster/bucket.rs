//! Sweeps whose results go to a bucket, by credentials that only the pods see.

use inferbench_results::{manifest::Manifest, tables::read_trials_csv};
use serde_json::json;

use crate::{
    server::Server,
    world::{NAMESPACE, World, condition, message},
};

fn spec(server: &Server, name: &str, secret: &str) -> String {
    let (endpoint, region, bucket) = server.address();
    format!(
        "
apiVersion: inferbench.dev/v1alpha1
kind: InferenceBenchmark
metadata: {{name: {name}}}
spec:
  design:
    factors:
      model: [{{name: tiny, source: {{random: {{preset: tiny-gpt2}}}}}}]
      batchSize: [1, 2]
      inputLength: [4]
      outputLength: [3]
      gpus: [0]
    replicates: 2
  measurement:
    {{warmupIterations: 1, warmupDuration: 1ms, iterations: 2, minDuration: 5ms, remeasureInvalid: 0}}
  results:
    store:
      url: s3://{bucket}/sweeps
      endpoint: {endpoint}
      region: {region}
      credentialsSecretRef: {{name: {secret}}}
  execution: {{retries: 0, trialsPerJob: 2}}
"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_takes_the_results_of_those_who_may() {
    let Some(server) = Server::start() else {
        return;
    };
    let world = World::new().await;
    for (name, secret) in [("right", server.secret()), ("wrong", "not the secret")] {
        world
            .kube
            .create(&json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "stringData": {
                    "AWS_ACCESS_KEY_ID": server.access_key(),
                    "AWS_SECRET_ACCESS_KEY": secret,
                },
            }))
            .unwrap();
    }
    // Three neighbours, of which two cannot get anywhere.
    for (name, secret) in [
        ("let-in", "right"),
        ("refused", "wrong"),
        ("keyless", "none"),
    ] {
        world.apply(&spec(&server, name, secret)).await;
    }
    let operator = world.operator();

    let refused = world
        .wait("refused", "the refusal", |status| {
            message(status, "Progressing").contains("the credentials are wrong")
        })
        .await;
    let status = refused.status.unwrap();
    assert_eq!(
        condition(&status, "Progressing"),
        ("False".into(), "PreflightFailed".into())
    );
    let why = message(&status, "Progressing");
    assert!(!why.contains("not the secret"), "{why}");
    let keyless = world
        .wait("keyless", "the missing Secret", |status| {
            message(status, "Progressing").contains("secret \"none\" not found")
        })
        .await;
    let status = keyless.status.unwrap();
    assert_eq!(
        condition(&status, "Progressing"),
        ("False".into(), "PodCannotStart".into())
    );

    let done = world.wait_for_success("let-in").await;
    // Nothing was measured for the other two.
    for name in ["refused", "keyless"] {
        let status = world.get(name).await.status.unwrap();
        let counts = status.counts.unwrap();
        assert_eq!((counts.done, counts.active), (0, 0), "{name}");
    }
    assert_eq!(world.started.of("trial"), 2, "the Jobs of one sweep");

    // The keys are in no object but their Secret.
    for name in ["let-in", "refused"] {
        let text = serde_json::to_string(&world.get(name).await).unwrap();
        assert!(!text.contains(server.secret()) && !text.contains("not the secret"));
    }

    let (_, _, bucket) = server.address();
    let folder = format!(
        "sweeps/{NAMESPACE}/let-in-{}",
        &done.metadata.uid.as_deref().unwrap()[..8]
    );
    let results = done.status.unwrap().results.unwrap();
    assert_eq!(
        results.uri.trim_end_matches('/'),
        format!("s3://{bucket}/{folder}")
    );
    let checked = tokio::task::spawn_blocking(move || {
        let store = server.open(&folder);
        let manifest = store.get("manifest.json").unwrap().unwrap();
        let sha256 = inferbench_results::key::sha256_hex(&manifest);
        let manifest: Manifest = serde_json::from_slice(&manifest).unwrap();
        let rows = read_trials_csv(&store.get("trials.csv").unwrap().unwrap()).unwrap();
        (
            sha256,
            manifest.trials.len(),
            rows.len(),
            store.list("trials").unwrap().len(),
        )
    });
    assert_eq!(checked.await.unwrap(), (results.sha256, 4, 4, 4));

    for name in ["refused", "keyless"] {
        world.delete(name).await;
    }
    world.wait_for_quiet().await;
    operator.stop().await;
}
