//! What kubectl makes of the double: get, watch, describe, wait, apply, delete. Skips where there is no kubectl.

mod common;

use std::{path::PathBuf, process::Stdio, time::Duration};

use common::{benchmark, definition};
use inferbench_fakekube::{FakeKube, Listening};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

/// kubectl on the path, or where `scripts/install-test-tools` puts it.
fn program() -> Option<PathBuf> {
    let installed = concat!(env!("CARGO_MANIFEST_DIR"), "/../.venv/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from(installed)])
        .map(|folder| folder.join("kubectl"))
        .find(|program| program.is_file())
}

struct Kubectl {
    fake: FakeKube,
    program: PathBuf,
    home: tempfile::TempDir,
    _listening: Listening,
}

impl Kubectl {
    async fn new() -> Option<Self> {
        let Some(program) = program() else {
            println!("skipped: no kubectl; scripts/install-test-tools installs one");
            return None;
        };
        let fake = FakeKube::new();
        fake.install_crd(&definition()).expect("a definition");
        fake.spawn_garbage_collector(Duration::from_millis(1));
        let listening = fake.listen().await.expect("a port");
        let home = tempfile::tempdir().expect("a folder");
        std::fs::write(home.path().join("config"), listening.kubeconfig()).expect("written");
        Some(Self {
            fake,
            program,
            home,
            _listening: listening,
        })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(args)
            .env_clear()
            .env("HOME", self.home.path())
            .env("KUBECONFIG", self.home.path().join("config"))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// What it prints; it has to succeed.
    async fn run(&self, args: &[&str]) -> String {
        let output = self.command(args).output().await.expect("kubectl runs");
        let shown = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "{args:?}: {shown}");
        shown
    }

    fn file(&self, object: &Value) -> String {
        let path = self.home.path().join("object.json");
        std::fs::write(&path, object.to_string()).expect("written");
        path.display().to_string()
    }

    fn status(&self, done: u32, outcome: &str) -> Value {
        json!({ "status": {
            "observedGeneration": 2,
            "counts": { "done": done },
            "conditions": [{
                "type": "Succeeded", "status": outcome, "reason": "Measured", "message": "m",
                "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 2,
            }],
        } })
    }

    async fn patch_status(&self, status: &Value) {
        let api: kube::Api<kube::api::DynamicObject> = kube::Api::namespaced_with(
            self.fake.client("operator"),
            "default",
            &kube::api::ApiResource::from_gvk_with_plural(
                &kube::api::GroupVersionKind::gvk(
                    "inferbench.dev",
                    "v1alpha1",
                    "InferenceBenchmark",
                ),
                "inferencebenchmarks",
            ),
        );
        let params = kube::api::PatchParams::default();
        let patch = kube::api::Patch::Merge(status);
        api.patch_status("a", &params, &patch)
            .await
            .expect("patched");
    }
}

#[tokio::test]
async fn a_resource_is_applied_read_awaited_and_deleted() {
    let Some(kubectl) = Kubectl::new().await else {
        return;
    };
    let file = kubectl.file(&benchmark("a"));
    assert!(
        kubectl
            .run(&["apply", "-f", &file])
            .await
            .contains("created")
    );
    assert!(
        kubectl
            .run(&["apply", "-f", &file])
            .await
            .contains("unchanged")
    );
    let mut changed = benchmark("a");
    changed["spec"]["suspend"] = json!(true);
    let file = kubectl.file(&changed);
    assert!(
        kubectl
            .run(&["apply", "-f", &file])
            .await
            .contains("configured")
    );
    assert!(
        kubectl
            .run(&["apply", "--server-side", "--force-conflicts", "-f", &file])
            .await
            .contains("serverside-applied")
    );

    let table = kubectl.run(&["get", "ib"]).await;
    let heading: Vec<&str> = table
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    assert_eq!(
        heading,
        [
            "NAME", "STATE", "DONE", "TOTAL", "FAILED", "ACTIVE", "BEST", "AGE"
        ]
    );

    let mut watching = kubectl
        .command(&["get", "ib", "-w"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl runs");
    let mut lines = BufReader::new(watching.stdout.take().expect("its output")).lines();
    for _ in 0..2 {
        lines.next_line().await.expect("read").expect("a line");
    }
    kubectl.patch_status(&kubectl.status(3, "Unknown")).await;
    let line = lines.next_line().await.expect("read").expect("a line");
    assert_eq!(
        line.split_whitespace().collect::<Vec<_>>()[..3],
        ["a", "Measured", "3"]
    );
    watching.kill().await.expect("killed");

    let mut waiting = kubectl
        .command(&["wait", "--for=condition=Succeeded", "ib/a", "--timeout=60s"])
        .spawn()
        .expect("kubectl runs");
    kubectl.patch_status(&kubectl.status(4, "True")).await;
    assert!(waiting.wait().await.expect("it ends").success());

    let uid =
        kubectl.fake.objects("inferencebenchmarks.inferbench.dev")[0]["metadata"]["uid"].clone();
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": { "name": "e", "namespace": "default" },
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "c", "reportingInstance": "i",
        "action": "Measure", "reason": "Measured", "type": "Normal", "note": "all is measured",
        "regarding": { "apiVersion": "inferbench.dev/v1alpha1", "kind": "InferenceBenchmark", "name": "a", "namespace": "default", "uid": uid },
    });
    kubectl.fake.create(&event).expect("created");
    let described = kubectl.run(&["describe", "ib", "a"]).await;
    assert!(
        described.contains("all is measured") && described.contains("Succeeded"),
        "{described}"
    );

    assert!(
        kubectl
            .run(&["delete", "ib", "a"])
            .await
            .contains("deleted")
    );
    assert!(
        kubectl
            .run(&["get", "ib"])
            .await
            .contains("No resources found")
    );
}

#[tokio::test]
async fn jobs_are_applied_and_deleted_with_what_they_own() {
    let Some(kubectl) = Kubectl::new().await else {
        return;
    };
    let mut job = common::job("a");
    job["apiVersion"] = json!("batch/v1");
    job["kind"] = json!("Job");
    let file = kubectl.file(&job);
    assert!(
        kubectl
            .run(&["apply", "-f", &file])
            .await
            .contains("created")
    );
    assert!(
        kubectl
            .run(&["apply", "-f", &file])
            .await
            .contains("unchanged")
    );
    job["metadata"]["labels"] = json!({ "x": "y" });
    let file = kubectl.file(&job);
    assert!(
        kubectl
            .run(&["apply", "-f", &file])
            .await
            .contains("configured")
    );
    job["spec"]["backofLimit"] = json!(1);
    let file = kubectl.file(&job);
    let refused = kubectl
        .command(&["apply", "-f", &file])
        .output()
        .await
        .expect("kubectl runs");
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("unknown field"),
        "{refused:?}"
    );

    let owner = kubectl.fake.objects("jobs.batch")[0]["metadata"].clone();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "p", "namespace": "default", "ownerReferences": [{
            "apiVersion": "batch/v1", "kind": "Job", "name": "a", "uid": owner["uid"], "controller": true, "blockOwnerDeletion": true,
        }] },
        "spec": { "containers": [{ "name": "c", "image": "i" }] },
    });
    kubectl.fake.create(&pod).expect("created");
    assert!(kubectl.run(&["get", "pods"]).await.contains("Pending"));
    assert!(
        kubectl
            .run(&["describe", "job", "a"])
            .await
            .contains("Parallelism")
    );
    kubectl
        .run(&["delete", "job", "a", "--cascade=foreground"])
        .await;
    assert_eq!(
        (kubectl.fake.count("jobs.batch"), kubectl.fake.count("pods")),
        (0, 0)
    );
}

#[tokio::test]
async fn the_definition_goes_with_all_that_it_defines() {
    let Some(kubectl) = Kubectl::new().await else {
        return;
    };
    let mut resource = benchmark("a");
    resource["metadata"]["namespace"] = json!("default");
    kubectl.fake.create(&resource).expect("created");
    assert!(
        kubectl
            .run(&["get", "crd"])
            .await
            .contains("inferencebenchmarks.inferbench.dev")
    );
    kubectl
        .run(&["delete", "crd", "inferencebenchmarks.inferbench.dev"])
        .await;
    assert_eq!(kubectl.fake.count("inferencebenchmarks.inferbench.dev"), 0);
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "x" } });
    kubectl
        .run(&["apply", "-f", &kubectl.file(&namespace)])
        .await;
    let mut map = common::config_map("c");
    map["apiVersion"] = json!("v1");
    map["kind"] = json!("ConfigMap");
    kubectl
        .run(&["apply", "-n", "x", "-f", &kubectl.file(&map)])
        .await;
    kubectl.run(&["delete", "namespace", "x"]).await;
    assert_eq!(kubectl.fake.count("configmaps"), 0);
}
