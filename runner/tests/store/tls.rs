//! A store by TLS from an image that trusts nobody: that of a server, into which the program is copied.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use super::server::Server;

const PROGRAM: &str = env!("CARGO_BIN_EXE_inferbench");

const SPEC: &str = "
apiVersion: inferbench.dev/v1alpha1
kind: InferenceBenchmark
metadata: {name: tls}
spec:
  design:
    factors:
      model: [{name: tiny, source: {random: {preset: tiny-gpt2}}}]
      batchSize: [1]
      inputLength: [4]
      outputLength: [3]
      gpus: [0]
  measurement: {warmupIterations: 1, warmupDuration: 1ms, iterations: 1, minDuration: 1ms, remeasureInvalid: 0}
  execution: {retries: 0}
";

/// Runs a sweep whose results go to the server, where the machine trusts nobody.
fn run(program: &Path, folder: &Path, server: &Server) -> Output {
    let (endpoint, region, bucket) = server.address();
    Command::new(program)
        .args(["run", "spec.yaml", "--out", &format!("s3://{bucket}/tls")])
        .current_dir(folder)
        .env("SSL_CERT_FILE", "/nonexistent")
        .env("AWS_ENDPOINT_URL", endpoint)
        .env("AWS_REGION", region)
        .env("AWS_ACCESS_KEY_ID", server.access_key())
        .env("AWS_SECRET_ACCESS_KEY", server.secret())
        .output()
        .unwrap()
}

#[test]
fn a_program_that_was_copied_trusts_what_the_image_trusts_that_it_came_from() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/load/fixtures");
    let certificate = fixtures.join("localhost.pem");
    let Some(server) = Server::encrypted(&certificate, &fixtures.join("localhost.key.pem")) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("spec.yaml"), SPEC).unwrap();

    let refused = run(Path::new(PROGRAM), folder.path(), &server);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("certificate"), "{said}");

    let copy: PathBuf = folder.path().join("inferbench");
    let installed = Command::new(PROGRAM)
        .arg("install")
        .arg(&copy)
        .env("SSL_CERT_FILE", &certificate)
        .status()
        .unwrap();
    assert!(installed.success());
    let stored = run(&copy, folder.path(), &server);
    let said = String::from_utf8_lossy(&stored.stderr).into_owned();
    assert_eq!(stored.status.code(), Some(0), "{said}");
    assert!(said.contains("1 trials, 1 measured now"), "{said}");
}
