//! P7, P8 and P11: what is not the resource's own is left alone, and nothing is left of a resource that is gone.

use std::time::Duration;

use inferbench_crds::splitmix::SplitMix64;
use inferbench_fakekube::Verb;
use k8s_openapi::{
    api::{batch::v1::Job, core::v1::Namespace},
    jiff::SignedDuration,
};
use kube::{Api, api::DeleteParams};
use serde_json::{Value, json};

use crate::{
    GROUPED, SMALL,
    faults::Kind,
    lab::{Build, Lab, each_seed, in_paused_time},
};

/// A Job that never runs, so that it stays as it is, with these owners and labels.
fn foreign(name: &str, owners: &Value, labels: &Value) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {
            "name": name, "namespace": "bench", "ownerReferences": owners, "labels": labels,
            "annotations": {"inferbench.dev/trials": "0,1,2"},
        },
        "spec": {
            "suspend": true,
            "template": {"metadata": {"labels": labels}, "spec": {
                "restartPolicy": "Never",
                "containers": [{"name": "runner", "image": "other:1"}],
            }},
        },
    })
}

/// All that nobody but its owner may touch.
fn bystanders(lab: &Lab) -> Vec<String> {
    ["jobs.batch", "pods", "configmaps"]
        .iter()
        .flat_map(|kind| lab.kube.objects(kind))
        .filter(|object| {
            object["metadata"]["name"]
                .as_str()
                .is_some_and(|name| name.starts_with("foreign"))
        })
        .map(|object| object.to_string())
        .collect()
}

#[test]
fn p7_objects_of_others_are_untouched() {
    each_seed(2, async |seed| {
        let mut lab = Build::default().lab();
        lab.apply("bench", "thesis", &format!("{GROUPED}suspend: true\n"));
        let uid = lab.resource("bench", "thesis").metadata.uid.expect("a uid");
        let labels = |role: &str| {
            json!({
                "app.kubernetes.io/managed-by": "inferbench-operator", "app.kubernetes.io/component": role,
                "inferbench.dev/benchmark": "thesis", "inferbench.dev/uid": uid,
            })
        };
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "foreign-owner", "namespace": "bench", "labels": labels("trial")},
        });
        let map = lab.kube.create(&map).expect("created");
        let other = json!([{
            "apiVersion": "v1", "kind": "ConfigMap", "name": "foreign-owner",
            "uid": map["metadata"]["uid"], "controller": true,
        }]);
        // The resource owns it, but does not control it.
        let shared = json!([{
            "apiVersion": "inferbench.dev/v1alpha1", "kind": "InferenceBenchmark", "name": "thesis", "uid": uid,
        }]);
        for (number, role) in ["preflight", "trial", "collector"].into_iter().enumerate() {
            for (owner, owners) in [("none", &json!([])), ("other", &other), ("shared", &shared)] {
                let job = foreign(&format!("foreign-{number}-{owner}"), owners, &labels(role));
                lab.kube.create(&job).expect("created");
            }
        }
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "foreign-pod", "namespace": "bench", "labels": labels("trial")},
            "spec": {
                "nodeSelector": {"kubernetes.io/hostname": "nowhere"},
                "containers": [{"name": "runner", "image": "other:1"}],
            },
        });
        lab.kube.create(&pod).expect("created");
        tokio::time::sleep(Duration::from_secs(120)).await;
        let before = bystanders(&lab);
        assert_eq!(before.len(), 11);
        lab.disturb("operator-a", &Kind::ALL, 10, seed);
        lab.start("operator-a", SignedDuration::ZERO);
        lab.edit("bench", "thesis", json!({"suspend": false})).await;
        tokio::time::sleep(Duration::from_secs(1_200)).await;
        lab.watch("operator-a");
        lab.restart("operator-a");
        lab.finish("bench", "thesis").await;
        assert!(lab.wrong().is_empty(), "{:?}", lab.wrong());
        let after = bystanders(&lab);
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(before, after, "P7");
        }
        assert_eq!(after.len(), before.len(), "P7");
        let counts = lab.status("bench", "thesis").counts.expect("counts");
        assert_eq!(counts.succeeded, 36);
    });
}

#[test]
fn p7_a_job_of_another_with_the_name_of_ours_is_left_alone() {
    in_paused_time(async {
        let lab = Lab::new();
        lab.apply("bench", "thesis", &format!("{SMALL}suspend: true\n"));
        let uid = lab.resource("bench", "thesis").metadata.uid.expect("a uid");
        let name = format!("thesis-{}-3", &uid[..8]);
        lab.kube
            .create(&foreign(&name, &json!([]), &json!({})))
            .expect("created");
        tokio::time::sleep(Duration::from_secs(60)).await;
        let find = || {
            let jobs = lab.jobs("bench");
            jobs.into_iter().find(|job| job["metadata"]["name"] == name)
        };
        let before = find().expect("it is there");
        lab.edit("bench", "thesis", json!({"suspend": false})).await;
        tokio::time::sleep(Duration::from_secs(4 * 3_600)).await;
        assert_eq!(find(), Some(before), "P7");
        let ended = lab.ledger("bench", "thesis").iter().count();
        assert_eq!(ended, 11, "the others are not held up by it");
        // Whoever owns it takes it away, and the last trial is measured.
        let api: Api<Job> = Api::namespaced(lab.kube.client("user"), "bench");
        let deleted = api.delete(&name, &DeleteParams::background()).await;
        deleted.expect("it is deleted");
        lab.finish("bench", "thesis").await;
        lab.check("bench", "thesis");
    });
}

/// Nothing of a resource is left, and nothing is done any more.
async fn is_gone(lab: &Lab, what: &str) {
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(lab.find("bench", "thesis").is_none(), "P8: {what}: blocked");
    assert!(
        lab.jobs("bench").is_empty(),
        "P8: {what}: {:?}",
        lab.jobs("bench")
    );
    assert!(
        lab.pods("bench").is_empty(),
        "P8: {what}: {:?}",
        lab.pods("bench")
    );
    assert_eq!(lab.cluster.running().await, 0, "P8: {what}");
    lab.kube.reset_counts("operator-a");
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    let counts = lab.kube.counts("operator-a");
    let asked = counts.of(Verb::Get, "inferencebenchmarks") + lab.writes("operator-a");
    assert_eq!(asked, 0, "P8: {what}: it still goes on: {counts}");
}

#[test]
fn p8_deletion_at_any_moment_leaves_nothing_behind() {
    // Before the preflight, in its middle, between it and the trials, and so on to the end.
    for moment in [0, 3, 15, 24, 27, 60, 120, 200, 300, 450, 700] {
        in_paused_time(async {
            let lab = Lab::new();
            // The lead is taken before, so that moments are those of the sweep.
            tokio::time::sleep(Duration::from_secs(10)).await;
            lab.apply("bench", "thesis", SMALL);
            tokio::time::sleep(Duration::from_secs(moment)).await;
            lab.delete("bench", "thesis").await;
            is_gone(&lab, &format!("after {moment} s")).await;
        });
    }
}

#[test]
fn p8_deletion_in_the_middle_of_faults_leaves_nothing_behind() {
    each_seed(3, async |seed| {
        let mut random = SplitMix64::new(seed);
        let mut lab = Build::default().lab();
        lab.disturb("operator-a", &Kind::ALL, 15, seed);
        lab.start("operator-a", SignedDuration::ZERO);
        lab.apply("bench", "thesis", GROUPED);
        tokio::time::sleep(Duration::from_secs(u64::from(random.below(900)))).await;
        lab.delete("bench", "thesis").await;
        tokio::time::sleep(Duration::from_secs(300)).await;
        lab.watch("operator-a");
        // An event that a fault has cut off comes with the next list.
        lab.restart("operator-a");
        is_gone(&lab, "under faults").await;
    });
}

#[test]
fn p8_without_an_operator_nothing_is_blocked() {
    in_paused_time(async {
        let mut lab = Lab::new();
        lab.begin("bench", "thesis", SMALL).await;
        lab.kill("operator-a");
        lab.delete("bench", "thesis").await;
        is_gone(&lab, "uninstalled").await;
    });
}

#[test]
fn p8_a_namespace_that_goes_is_not_held_up() {
    in_paused_time(async {
        let lab = Lab::new();
        lab.begin("bench", "thesis", SMALL).await;
        let user = lab.kube.client("user");
        let namespaces: Api<Namespace> = Api::all(user);
        let deleted = namespaces.delete("bench", &DeleteParams::default()).await;
        deleted.expect("it is going");
        lab.kube.reset_counts("operator-a");
        tokio::time::sleep(Duration::from_secs(600)).await;
        let counts = lab.kube.counts("operator-a");
        assert!(counts.of(Verb::Create, "jobs") <= 1, "P8: {counts}");
        assert!(
            lab.find("bench", "thesis").is_none(),
            "P8: it is still there"
        );
        is_gone(&lab, "with its namespace").await;
    });
}

#[test]
fn p8_one_that_is_created_anew_begins_anew() {
    in_paused_time(async {
        let lab = Lab::new();
        lab.begin("bench", "thesis", SMALL).await;
        let first = lab.folder("bench", "thesis");
        lab.delete("bench", "thesis").await;
        lab.apply("bench", "thesis", SMALL);
        lab.finish("bench", "thesis").await;
        lab.check("bench", "thesis");
        let second = lab.folder("bench", "thesis");
        assert_ne!(first, second);
        let counts = lab.status("bench", "thesis").counts.expect("counts");
        assert_eq!((counts.succeeded, counts.reused), (12, 0));
        assert_eq!(lab.store.records(&second).len(), 12);
    });
}

/// Lets the API server take any spec, so that one can be stored that this version cannot read.
fn loose(definition: &mut Value) {
    let schema = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    *schema = json!({
        "type": "object",
        "properties": {
            "spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        },
    });
}

#[test]
fn p11_a_bad_resource_affects_only_itself() {
    in_paused_time(async {
        let loose = Build {
            definition: loose,
            ..Build::default()
        };
        let mut lab = loose.lab();
        lab.watch("operator-a");
        lab.start("operator-a", SignedDuration::ZERO);
        lab.apply("other", "unreadable", "design: 7\n");
        lab.apply(
            "other",
            "unsafe",
            &format!("{SMALL}runner: {{podOverrides: {{spec: {{hostNetwork: true}}}}}}\n"),
        );
        lab.apply(
            "other",
            "absurd",
            &SMALL.replace("parallelism: 3", "parallelism: -3"),
        );
        lab.apply(
            "lab",
            "stuck",
            &format!("{SMALL}runner: {{image: 'nowhere:1'}}\n"),
        );
        lab.cluster.serve_image("nowhere:1", false).await;
        lab.until("stuck", Duration::from_secs(300), |lab| {
            lab.condition("lab", "stuck", "Progressing").1 == "ImagePullFailed"
        })
        .await;
        lab.apply("bench", "thesis", GROUPED);
        lab.finish("bench", "thesis").await;
        lab.check("bench", "thesis");
        let counts = lab.status("bench", "thesis").counts.expect("counts");
        assert_eq!(counts.succeeded, 36);
        for bad in ["unsafe", "absurd"] {
            let (status, reason) = lab.condition("other", bad, "Accepted");
            assert_eq!(
                (status.as_str(), reason.as_str()),
                ("False", "Invalid"),
                "{bad}"
            );
        }
        lab.delete("lab", "stuck").await;
        // They cost nothing.
        lab.is_quiet("operator-a").await;
        // Nor does one that was begun and has become unreadable; the others go on.
        let patch =
            json!({"metadata": {"name": "thesis"}, "status": {"ledger": {"outcomes": "!"}}});
        let api: Api<inferbench_crds::InferenceBenchmark> =
            Api::namespaced(lab.kube.client("user"), "bench");
        let patched = api
            .patch_status(
                "thesis",
                &Default::default(),
                &kube::api::Patch::Merge(&patch),
            )
            .await;
        patched.expect("it is written");
        lab.apply("bench", "second", SMALL);
        lab.finish("bench", "second").await;
        let (_, reason) = lab.condition("bench", "thesis", "Accepted");
        assert_eq!(reason, "Invalid");
        assert_eq!(
            lab.status("bench", "second")
                .counts
                .expect("counts")
                .succeeded,
            12
        );
    });
}
