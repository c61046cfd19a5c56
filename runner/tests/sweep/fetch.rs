//! Results out of a cluster, of which a script in the place of kubectl shows as much as it takes.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use inferbench_results::{
    key::sha256_hex,
    manifest::{FileEntry, Manifest},
    summary::summarize,
};
use serde_json::{Value, json};

use crate::place::{Place, SPEC, signal, stderr, stdout, wait_for};

/// Writes down how it is called, shows what lies beside it, and runs this program where a pod would.
const KUBECTL: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo "$*" >> "$here/calls"
case "$*" in
  *"get inferencebenchmarks.inferbench.dev tiny "*) cat "$here/resource.json" ;;
  *"get secret creds "*) cat "$here/secret.json" ;;
  *"get pod "*) cat "$here/status.json" ;;
  *"create -f -") cat > "$here/pod.json" ;;
  *"exec "*)
    [ -e "$here/hang" ] && exec sleep 600
    while [ "$1" != inferbench ]; do shift; done
    shift
    exec "$INFERBENCH" "$@" ;;
  *"delete pod "*) ;;
  *) echo "Error from server (NotFound): nothing of that name" >&2; exit 1 ;;
esac
"#;

/// A cluster that holds the results of one sweep.
struct Cluster {
    place: Place,
}

impl Cluster {
    fn new(store: Value) -> Self {
        let place = Place::untouched(SPEC);
        let cluster = Self { place };
        for folder in [cluster.bin(), cluster.results().join("figures")] {
            fs::create_dir_all(folder).unwrap();
        }
        let script = cluster.bin().join("script");
        fs::write(&script, KUBECTL).unwrap();
        cluster.place.program("bin/kubectl", &script);
        let files: [(&str, &[u8]); 3] = [
            ("report.html", b"<p>the report"),
            ("trials.csv", b"trial_index\n"),
            ("figures/ttft.svg", b"<svg/>\xff"),
        ];
        let entries = files.map(|(name, bytes)| {
            fs::write(cluster.results().join(name), bytes).unwrap();
            FileEntry::of(name, bytes)
        });
        let summary = summarize("tiny", &[], &Default::default());
        let manifest = Manifest::new(&summary, entries.to_vec(), Vec::new());
        let manifest = serde_json::to_vec(&manifest).unwrap();
        fs::write(cluster.results().join("manifest.json"), &manifest).unwrap();
        let uri = match store.get("url") {
            Some(_) => format!("file://{}", cluster.results().display()),
            None => cluster.results().display().to_string(),
        };
        cluster.write(
            "resource.json",
            &json!({
                "apiVersion": "inferbench.dev/v1alpha1",
                "kind": "InferenceBenchmark",
                "metadata": { "name": "tiny", "namespace": "lab", "uid": "u" },
                "spec": {
                    "design": { "factors": { "model": [{ "name": "m", "source": { "random": { "preset": "gpt2" } } }] } },
                    "results": { "store": store },
                },
                "status": {
                    "plan": { "image": "runner:1" },
                    "results": { "uri": uri, "sha256": sha256_hex(&manifest), "report": "report.html" },
                },
            }),
        );
        cluster.write(
            "status.json",
            &json!({ "status": { "phase": "Running", "containerStatuses": [{ "ready": true }] } }),
        );
        cluster.write(
            "secret.json",
            &json!({ "data": { "AWS_ACCESS_KEY_ID": "aWQ=" } }),
        );
        cluster
    }

    fn on_a_volume() -> Self {
        Self::new(json!({ "persistentVolumeClaim": { "claimName": "results" } }))
    }

    fn bin(&self) -> PathBuf {
        self.place.path().join("bin")
    }

    fn results(&self) -> PathBuf {
        self.place.path().join("results")
    }

    fn write(&self, name: &str, value: &Value) {
        fs::write(self.bin().join(name), value.to_string()).unwrap();
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = self.place.command(&[&["fetch", "ib/tiny"], more].concat());
        let path = std::env::var("PATH").unwrap();
        command
            .env("PATH", format!("{}:{path}", self.bin().display()))
            .env("INFERBENCH", env!("CARGO_BIN_EXE_inferbench"));
        command
    }

    fn fetch(&self, more: &[&str]) -> Output {
        self.command(more).output().unwrap()
    }

    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.bin().join("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    /// The files that have arrived are those that are there.
    fn arrived(&self, folder: &str) {
        for name in [
            "report.html",
            "trials.csv",
            "figures/ttft.svg",
            "manifest.json",
        ] {
            let there = fs::read(self.results().join(name)).unwrap();
            assert_eq!(
                fs::read(self.place.path().join(folder).join(name)).unwrap(),
                there,
                "{name}"
            );
        }
    }

    fn deleted(&self) -> bool {
        self.calls()
            .iter()
            .any(|call| call.contains("delete pod inferbench-fetch-"))
    }
}

#[test]
fn results_on_a_volume_come_by_a_pod_that_is_deleted() {
    let cluster = Cluster::on_a_volume();
    let output = cluster.fetch(&["--context", "far", "-n", "lab"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), "tiny: report.html and 3 more files\n");
    cluster.arrived("tiny");
    let calls = cluster.calls();
    assert!(
        calls
            .iter()
            .all(|call| call.starts_with("--context far --namespace lab ")),
        "{calls:?}"
    );
    assert!(
        calls
            .last()
            .unwrap()
            .contains("delete pod inferbench-fetch-"),
        "{calls:?}"
    );
    let pod: Value =
        serde_json::from_slice(&fs::read(cluster.bin().join("pod.json")).unwrap()).unwrap();
    assert_eq!(pod["spec"]["containers"][0]["image"], "runner:1");
    // The same again takes the place of what is there.
    assert_eq!(cluster.fetch(&[]).status.code(), Some(0));
}

#[test]
fn results_in_a_bucket_come_with_the_credentials_of_the_secret() {
    let store = json!({ "url": "s3://bucket", "credentialsSecretRef": { "name": "creds" } });
    let cluster = Cluster::new(store);
    let output = cluster.fetch(&["--out", "here"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    cluster.arrived("here");
    let calls = cluster.calls();
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert_eq!(calls[1], "--namespace lab get secret creds -o json");
    // Or, where asked for, by a pod, without a look at the Secret.
    assert_eq!(
        cluster
            .fetch(&["--by-pod", "--image", "other:2"])
            .status
            .code(),
        Some(0)
    );
    assert!(cluster.deleted());
    assert_eq!(
        cluster
            .calls()
            .iter()
            .filter(|call| call.contains("secret"))
            .count(),
        1
    );
    let pod = fs::read_to_string(cluster.bin().join("pod.json")).unwrap();
    assert!(pod.contains("other:2") && pod.contains("creds"), "{pod}");
}

#[test]
fn what_was_changed_on_the_way_is_refused() {
    let cluster = Cluster::on_a_volume();
    fs::write(cluster.results().join("trials.csv"), "other").unwrap();
    let output = cluster.fetch(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("trials.csv has 5 bytes"),
        "{}",
        stderr(&output)
    );
    assert!(!cluster.place.path().join("tiny/manifest.json").exists());
    assert!(cluster.deleted());
    // Files that have arrived so far are in nobody's way.
    fs::write(cluster.results().join("trials.csv"), "trial_index\n").unwrap();
    assert_eq!(cluster.fetch(&[]).status.code(), Some(0));
    cluster.arrived("tiny");
}

#[test]
fn a_pod_that_cannot_start_says_why_and_is_deleted() {
    let cluster = Cluster::on_a_volume();
    let waiting = json!({ "waiting": { "reason": "ErrImagePull", "message": "no such image" } });
    cluster.write(
        "status.json",
        &json!({ "status": { "containerStatuses": [{ "state": waiting }] } }),
    );
    let output = cluster.fetch(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("cannot start: ErrImagePull: no such image"),
        "{}",
        stderr(&output)
    );
    assert!(cluster.deleted());
    cluster.write("status.json", &json!({}));
    let output = cluster.fetch(&["--timeout", "1ms"]);
    assert!(
        stderr(&output).contains("was not ready within 0 s (--timeout)"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn an_interrupted_fetch_deletes_its_pod() {
    let cluster = Cluster::on_a_volume();
    fs::write(cluster.bin().join("hang"), "").unwrap();
    let mut command = cluster.command(&[]);
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the pod to be asked", || {
        cluster.calls().iter().any(|call| call.contains("exec "))
    });
    assert!(!cluster.deleted());
    signal(child.id(), libc::SIGINT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(cluster.deleted());
}

#[test]
fn what_is_missing_is_named() {
    let cluster = Cluster::on_a_volume();
    let output = cluster
        .command(&[])
        .env("PATH", "/nowhere")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("kubectl is not on the PATH"),
        "{}",
        stderr(&output)
    );
    let output = cluster.place.command(&["fetch", "pod/x"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    // A folder with something else in it stays as it is.
    let output = cluster.fetch(&["--out", "."]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("choose another with --out"),
        "{}",
        stderr(&output)
    );
    let other = Cluster::on_a_volume();
    fs::remove_file(other.bin().join("resource.json")).unwrap();
    let output = other.fetch(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("kubectl get inferencebenchmarks.inferbench.dev tiny failed"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn the_program_is_a_plugin_of_kubectl_under_that_name() {
    let place = Place::untouched(SPEC);
    let link = place.path().join("kubectl-inferbench");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_inferbench"), &link).unwrap();
    let output = place
        .command_of(&link, &["fetch", "--help"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(
        stdout(&output).contains("Usage: kubectl inferbench fetch"),
        "{}",
        stdout(&output)
    );
}
